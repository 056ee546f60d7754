"""Arrays on a real two-node SLURM: a failing task, retry, requeue, cancel, a real run; skipped where there is none."""

import json
import os
import re
import subprocess
import sys

import local_cluster
import pytest
from local_cluster import ended, logs, run, wait_for
from small_runs import line
from tiny import CONF, ROOT

from slurm import commands
from slurm.status import progress, read_submissions, read_sweep
from unigen.evaluation.runs import find_runs

# Stands in for python: writes down its words, fails for seed 1, and for seed 2 waits until its folder holds `go`.
RUN = """#!/bin/bash
for last; do :; done
folder=$(sed "s/^run_dir='\\?//; s/'$//" <<<"$last")
mkdir -p "$folder"
(IFS=$'\\t'; echo "$SLURM_RESTART_COUNT ${*:2}" >> "$folder/words")
case $* in
    *seed=1*) exit 7 ;;
    *seed=2*) until [ -e "$folder/go" ]; do sleep 0.1; done ;;
esac
echo '{}' > "$folder/summary.json"
"""


@pytest.fixture
def submitted(slurm_cluster, tmp_path):
    """Submits a sweep of one experiment with these words below a folder with an awkward name; returns its folder."""
    python = tmp_path / "python"
    python.write_text(RUN)
    python.chmod(0o755)
    folder = tmp_path / "a sweep, 100%"

    def submit(*words: str):
        own = ["cluster=local", f"cluster.python={python}", f"hydra.sweep.dir='{folder}'", "hydra.sweep.subdir=${seed}"]
        said = commands.submit(CONF, ["+exp=fcd_mask_a", *own, *words])
        assert said[0].startswith("submitted task 0")
        return folder

    yield submit
    if (folder / commands.SCRIPT).exists():
        commands.cancel(folder)


@pytest.mark.slow
def test_a_failing_task_is_FAILED_and_the_others_go_on(submitted):
    folder = submitted("seed=0,1,3", "paper='it\\'s a, \"b\" $(touch x)'")
    tasks = wait_for(lambda: ended(folder), said=lambda: logs(folder))
    assert [(t.state.word, t.state.code) for t in tasks] == [("COMPLETED", 0), ("FAILED", 7), ("COMPLETED", 0)]
    assert [t.progress.finished for t in tasks] == [True, False, True]
    for path, manifest in zip((folder / s / "words" for s in "013"), (folder / "manifest.tsv").open(), strict=True):
        assert path.read_text().partition(" ")[2] == manifest

    before = {seed: (folder / seed / "words").read_text() for seed in "013"}
    assert commands.retry(folder)[0].startswith("submitted task 1%2 ")
    assert [sent.tasks for sent in read_submissions(folder)] == [[0, 1, 2], [1]]
    wait_for(lambda: ended(folder), said=lambda: logs(folder))
    after = {seed: (folder / seed / "words").read_text() for seed in "013"}
    assert after == before | {"1": before["1"] * 2}, "the failed line alone ran again"


@pytest.mark.slow
def test_a_requeued_task_runs_the_same_line_in_the_same_folder(submitted):
    folder = submitted("seed=2")
    words = folder / "2" / "words"
    wait_for(lambda: words.exists() and words.read_text(), said=lambda: logs(folder))  # it is made before it is written
    job = read_submissions(folder)[0].job
    run("scontrol", "requeue", f"{job}_0")
    assert commands.retry(folder)[0].startswith("nothing to retry: 1 ")
    wait_for(lambda: len(words.read_text().splitlines()) == 2, said=lambda: logs(folder))
    (folder / "2" / "go").touch()
    (task,) = wait_for(lambda: ended(folder), said=lambda: logs(folder))
    first, second = (said.partition(" ") for said in words.read_text().splitlines())
    assert (first[0], second[0]) == ("", "1") and first[2] == second[2]
    assert (task.state.word, task.state.restarts, task.progress.finished) == ("COMPLETED", 1, True)


@pytest.mark.slow
def test_cancel_ends_what_runs_and_what_waits(submitted):
    folder = submitted("seed=2", "trainer.max_steps=1,2,3", "hydra.sweep.subdir=${trainer.max_steps}")
    wait_for(lambda: (folder / "1" / "words").exists(), said=lambda: logs(folder))
    (folder / "1" / "go").touch()
    wait_for(lambda: read_sweep(folder)[0].progress.finished)
    assert re.fullmatch("cancelled: task (0,)?1-2|cancelled: task 0-2", commands.cancel(folder)[0])
    tasks = wait_for(lambda: ended(folder), said=lambda: logs(folder))
    assert [t.state.word for t in tasks][1:] == ["CANCELLED", "CANCELLED"] and tasks[0].progress.finished
    assert commands.cancel(folder) == ["nothing to cancel: no task waits or runs"]


@pytest.mark.slow
def test_a_task_has_a_process_for_each_device_of_each_node(submitted):
    folder = submitted("seed=0", "trainer.num_nodes=2", "trainer.devices=2", "trainer.accelerator=cpu")
    wait_for(lambda: ended(folder), said=lambda: logs(folder))
    said = (folder / "0" / "words").read_text().splitlines()
    assert len(said) == 4 and len(set(said)) == 1


@pytest.mark.slow
def test_a_real_run_in_an_array(slurm_cluster, tmp_path):
    """The command line as a user types it; a tiny run; the table shows its step and loss."""
    words = ["+table=realgeneral_masks", "+exp=fcd_mask_b", f"hydra.sweep.dir={tmp_path}/sweep", "cluster=local"]
    words += [*line("logger=[jsonl]", "evaluation.items=2"), "trainer.log_every_n_steps=1"]
    sweep = [sys.executable, str(ROOT / "slurm" / "sweep.py")]
    done = subprocess.run([*sweep, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (task,) = wait_for(lambda: ended(tmp_path / "sweep"), 600, said=lambda: logs(tmp_path / "sweep"))
    assert (task.state.word, task.state.code) == ("COMPLETED", 0), logs(tmp_path / "sweep")
    assert task.folder == tmp_path / "sweep" / "0_fcd_mask_b_subject_seed0"
    assert json.loads((task.folder / "summary.json").read_text())["name"] == "fcd_mask_b"
    assert find_runs(f"{tmp_path}/sweep") == [task.folder], "what report.py reads"
    said = progress(task.folder)
    assert (said.step, said.steps, said.finished) == (2, 2, True) and said.loss > 0
    shown = subprocess.run([*sweep, "status", f"{tmp_path}/sweep"], capture_output=True, text=True).stdout
    assert "COMPLETED" in shown and "2 / 2" in shown


# --- the cluster itself ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_clusters_stand_beside_each_other_and_down_ends_one_with_its_jobs(slurm_cluster, tmp_path):
    with local_cluster.cluster() as other:
        assert run("sinfo", "--noheader", "--format=%P %D").split() == ["debug*", "2", "urgent", "2"]
        mark = tmp_path / "mark"
        run("sbatch", "--output=/dev/null", "--wrap", f"setsid sleep 4321 & echo $! > {mark}; exec srun sleep 4322")
        wait_for(lambda: mark.exists() and mark.read_text().strip())
        assert local_cluster.script("up", str(other)).stdout == f"export SLURM_CONF={other}/slurm.conf\n"
        assert local_cluster.script("down", str(other)).returncode == 0
        state = f"/proc/{mark.read_text().strip()}/status"
        assert not os.path.exists(state) or "\nState:\tZ" in open(state).read()
        assert local_cluster.script("status", str(other)).returncode == 1
    assert os.environ["SLURM_CONF"] == f"{slurm_cluster}/slurm.conf"
    assert local_cluster.script("status", str(slurm_cluster)).returncode == 0


@pytest.mark.skipif(bool(local_cluster.missing()), reason=local_cluster.missing())
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "/tmp/a b"], "use letters"),
        (["up", "/usr"], "holds other files"),
        (["up", "/tmp/" + "a" * 70], "too long"),
        (["upp"], "say slurm/local_cluster.sh up, down or status"),
    ],
)
def test_the_script_refuses_bad_folders(words, said):
    done = local_cluster.script(*words)
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1
