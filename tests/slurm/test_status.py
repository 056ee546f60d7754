"""What SLURM's programs print and what run folders hold, read without a SLURM."""

import fcntl
import json

import pytest
from rich.console import Console

from slurm import commands
from slurm.states import REST, State, Submission, latest, numbers, parse_sacct, parse_scontrol, spelt
from slurm.status import SUBMISSIONS, Progress, Task, add_submission, counts, progress, read_sweep, table, word
from unigen.config.manifest import MANIFEST, manifest_text
from unigen.config.values import ConfigError

SCONTROL = """\
JobId=7 ArrayJobId=5 ArrayTaskId=1 JobName=s UserId=me(1) JobState=FAILED Reason=NonZeroExitCode Restarts=2 \
ExitCode=7:0 RunTime=00:01:05 Command=/a JobState=x/array.sh ExitCode=9:9
JobId=6 ArrayJobId=5 ArrayTaskId=0 JobName=s JobState=RUNNING Reason=None Restarts=0 ExitCode=0:0 RunTime=1-00:00:01
JobId=5 ArrayJobId=5 ArrayTaskId=2,4-5%2 JobName=s JobState=PENDING Reason=JobArrayTaskLimit Restarts=0 RunTime=00:00:00
JobId=9 ArrayJobId=9 ArrayTaskId=3 JobName=other JobState=RUNNING Reason=None Restarts=0 ExitCode=0:0 RunTime=00:00:01
"""
SACCT = """\
5_0|s|COMPLETED|0:0|00:10:00
5_1|s|CANCELLED by 1000|0:15|00:00:10
5_[2-4%2]|s|PENDING|0:0|00:00:00
5_3|other|COMPLETED|0:0|00:10:00
"""


def test_scontrol_is_read():
    found = parse_scontrol(SCONTROL, "s")
    assert found[1] == State("FAILED", 7, 0, "00:01:05", "NonZeroExitCode", 2) and not found[1].live
    assert found[0] == State("RUNNING", 0, 0, "1-00:00:01", "None", 0) and found[0].live
    assert sorted(found) == [0, 1, 2, 4, 5] and found[4].word == found[2].word == "PENDING"


def test_sacct_is_read():
    found = parse_sacct(SACCT, "s")
    assert found == {0: State("COMPLETED", 0, 0, "00:10:00"), 1: State("CANCELLED", 0, 15, "00:00:10")}


@pytest.mark.parametrize(
    ("text", "tasks"), [("3", [3]), ("0-3", [0, 1, 2, 3]), ("1,4-6,9", [1, 4, 5, 6, 9]), ("0-1,3-4", [0, 1, 3, 4])]
)
def test_task_lists_read_and_spell(text, tasks):
    assert numbers(text) == numbers(f"{text}%2") == tasks and spelt(reversed(tasks)) == text


def test_steps_in_a_task_list_are_read():
    assert numbers("0-8:4,20") == [0, 4, 8, 20] != numbers("0-8,20")


def stand_in(folder, monkeypatch, **programs: str) -> None:
    """Shell scripts in place of SLURM's programs, and no others of them."""
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_last_submission_counts_and_a_live_one_first(tmp_path, monkeypatch):
    """Job 2 had all three tasks, job 3 the last two again; task 2 of the first was requeued by hand since."""
    shown = "JobId=1 ArrayJobId=$4 ArrayTaskId={} JobName=s JobState={} Reason=None ExitCode={}:0 RunTime=0"
    first = [shown.format(*task) for task in (("0-1", "FAILED", 1), (2, "RUNNING", 0))]
    second = [shown.format(REST, "CANCELLED", 0)]
    bodies = {job: "\n".join(f'echo "{line}"' for line in lines) for job, lines in ((2, first), (3, second))}
    stand_in(tmp_path, monkeypatch, scontrol=f"if [ $4 = 2 ]; then {bodies[2]}\nelse {bodies[3]}\nfi")
    found = latest([Submission("2", "s", [0, 1, 2]), Submission("3", "s", [1, 2])])
    assert {task: (job, state.word) for task, (job, state) in found.items()} == {
        0: ("2", "FAILED"),
        1: ("3", "CANCELLED"),
        2: ("2", "RUNNING"),
    }
    assert latest([Submission("2", "another sweep", [0, 1, 2])]) == {}


def test_what_scontrol_forgot_sacct_knows(tmp_path, monkeypatch):
    forgotten = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    stand_in(tmp_path, monkeypatch, scontrol=forgotten, sacct=f"cat <<'END'\n{SACCT}END")
    assert {task: state.word for task, (_, state) in latest([Submission("5", "s", [0, 1, 2])]).items()} == {
        0: "COMPLETED",
        1: "CANCELLED",
    }
    stand_in(tmp_path, monkeypatch, sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert latest([Submission("5", "s", [0, 1, 2])]) == {}


# --- run folders -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(tmp_path):
    """Three lines; the first is finished, the second was killed while it wrote a line, the third never ran."""
    folder = tmp_path / "sweep"
    lines = [["+exp=a", f"seed={i}", "hydra.mode=RUN", f"run_dir={folder}/{i}_a"] for i in range(3)]
    for i in range(2):
        (folder / f"{i}_a").mkdir(parents=True)
        (folder / f"{i}_a" / "config.yaml").write_text("trainer: {max_steps: 900}\n")
    (folder / "0_a" / "summary.json").write_text("{}")
    (folder / "0_a" / "metrics.jsonl").write_text(
        '{"step": 880, "train/loss": 0.5}\n{"step": 900, "train/loss": 0.25}\n{"step": 900, "val/loss": 3.0}\n'
    )
    (folder / "1_a" / "metrics.jsonl").write_text('{"step": 40, "train/loss": 0.75}\n{"step": 60, "trai')
    (folder / MANIFEST).write_text(manifest_text(lines))
    return folder


def test_progress_is_the_last_of_each(sweep):
    assert progress(sweep / "0_a") == Progress(900, 900, 0.25, True)
    assert progress(sweep / "1_a") == Progress(40, 900, 0.75, False)
    assert progress(sweep / "2_a") == Progress()


def test_a_sweep_that_was_never_submitted_shows_its_files(sweep):
    tasks = read_sweep(sweep)
    assert [task.words for task in tasks] == ["seed=0", "seed=1", "seed=2"]
    assert [word(task) for task in tasks] == ["finished", "not submitted", "not submitted"]
    assert [task.open for task in tasks] == [False, True, True]
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table(sweep, tasks))
    assert "40 / 900" in shown.get() and "0.25" in shown.get() and "1 finished, 2 to retry" in shown.get()


@pytest.mark.parametrize(
    ("state", "finished", "said", "is_open"),
    [
        (State("COMPLETED"), True, "COMPLETED", False),
        (State("COMPLETED"), False, "COMPLETED, no summary.json", True),
        (State("FAILED", 7), False, "FAILED (exit 7)", True),
        (State("OUT_OF_MEMORY", 0, 9), False, "OUT_OF_MEMORY (signal 9)", True),
        (State("CANCELLED"), False, "CANCELLED", True),
        (State("RUNNING", restarts=2), False, "RUNNING, requeued 2×", False),
        (State("PENDING", reason="Priority"), False, "PENDING (Priority)", False),
        (None, False, "stopped: logs/3.log", True),
        (None, True, "finished", False),
    ],
)
def test_a_state_in_words(tmp_path, state, finished, said, is_open):
    task = Task(3, "", tmp_path, True, "5", state, Progress(finished=finished))
    assert word(task) == said and task.open == is_open


def test_counts_add_up(tmp_path):
    states = [State("RUNNING"), State("PENDING"), State("FAILED"), None]
    tasks = [Task(i, "", tmp_path, True, "5", s, Progress(finished=s is None)) for i, s in enumerate(states)]
    assert counts(tasks) == "1 finished, 1 running, 1 waiting, 1 to retry"


# --- commands without an answer --------------------------------------------------------------------------------------


def test_nothing_is_submitted_while_slurm_does_not_answer(sweep, tmp_path, monkeypatch):
    add_submission(sweep, Submission("5", "sweep", [0, 1, 2]))
    down = "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1"
    stand_in(tmp_path, monkeypatch, scontrol=down, sbatch=f"touch {tmp_path}/submitted")
    for command in (commands.retry, commands.cancel, commands.status):
        with pytest.raises(ConfigError, match="SLURM does not answer: Unable to contact"):
            command(sweep)
    assert not (tmp_path / "submitted").exists()


def test_retry_gives_sbatch_the_open_lines_and_the_limit(sweep, tmp_path, monkeypatch):
    (sweep / commands.SCRIPT).write_text("#!/bin/bash\n#SBATCH --array=0-2%2\n")
    monkeypatch.setenv("OUT", str(tmp_path / "said"))
    stand_in(tmp_path, monkeypatch, sbatch='echo "$@" > "$OUT"; echo "12;far"')
    assert commands.retry(sweep, ["--time=9"])[0] == "submitted task 1-2%2 as SLURM's job 12"
    assert (tmp_path / "said").read_text() == f"--parsable --time=9 --job-name=sweep --array=1-2%2 {sweep}/array.sh\n"
    said = json.loads((sweep / SUBMISSIONS).read_text())
    assert (said["job"], said["name"], said["tasks"]) == ("12", "sweep", [1, 2])
    (sweep / SUBMISSIONS).write_text('{"job": 1}\n')
    with pytest.raises(ConfigError, match=r"cannot read .*submissions\.jsonl"):
        read_sweep(sweep)


def test_one_retry_at_a_time_looks_and_submits(sweep, tmp_path, monkeypatch):
    """Two at once would submit the same lines."""
    (sweep / commands.SCRIPT).write_text("#!/bin/bash\n")
    stand_in(tmp_path, monkeypatch, sbatch="echo 12")
    held = []

    def free() -> bool:
        with open(sweep / commands.SCRIPT) as script:
            try:
                fcntl.flock(script, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    for name in ("read_sweep", "ask"):
        real = getattr(commands, name)
        monkeypatch.setattr(commands, name, lambda *a, real=real: (held.append(not free()), real(*a))[1])
    assert commands.retry(sweep)[0].startswith("submitted task") and held == [True, True]
    assert free(), "negative control: afterwards the next one may"


def test_what_sbatch_refuses_can_be_retried(sweep, tmp_path, monkeypatch):
    (sweep / commands.SCRIPT).write_text("#!/bin/bash\n")
    stand_in(tmp_path, monkeypatch, sbatch="echo 'sbatch: error: no such partition' >&2; exit 1")
    with pytest.raises(ConfigError, match=r"no such partition; the sweep is written: python slurm/sweep\.py retry "):
        commands.retry(sweep)
    assert not (sweep / SUBMISSIONS).exists()


def test_where_no_slurm_is_configured_one_sentence_says_so(sweep, tmp_path, monkeypatch):
    (sweep / commands.SCRIPT).write_text("#!/bin/bash\n")
    lines = "sbatch: error: Unknown host; sbatch: fatal: Could not establish a configuration source"
    stand_in(tmp_path, monkeypatch, sbatch=f"echo '{lines}' >&2; exit 1")
    with pytest.raises(
        ConfigError, match=r"^sbatch refuses: no SLURM is configured here; .*docs/cluster\.md shows; the"
    ):
        commands.retry(sweep)


def test_without_slurm_one_sentence_says_so(sweep, tmp_path, monkeypatch):
    (sweep / commands.SCRIPT).write_text("#!/bin/bash\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch is not found: run this where SLURM is"):
        commands.retry(sweep)
