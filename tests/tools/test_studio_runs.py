"""The studio's tab Runs without its page: state, curves, grids and logs of runs, and which starts are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_runs import EVIL, PNG, make_run

from unigen.launch.claims import claimed
from unigen.tools.studio import follow, processes
from unigen.tools.studio.places import Places, run_names
from unigen.tools.studio.plots import curve_svg
from unigen.tools.studio.shown import bar, facts, framed, message, preformatted, table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def places(tmp_path) -> Places:
    (tmp_path / "runs").mkdir()
    return Places(ROOT, tmp_path / "runs", tmp_path / "runs" / "studio")


def test_the_state_of_a_run(places):
    run = make_run(places.runs / "a", config={"trainer": {"max_steps": 3000}})
    assert follow.state_of(run)[:3] == ("finished", 30, 3000)
    (run / "summary.json").unlink()
    assert follow.state_of(run).words == "stopped, step 30 of 3,000"
    with claimed(run, ""):
        state = follow.state_of(run)
        assert state.word == "running" and state.holder["process"] == os.getpid()
    assert follow.state_of(run).word == "stopped", "negative control: the claim has ended"


def test_the_time_that_is_left(places):
    run = make_run(places.runs / "a", config={"trainer": {"max_steps": 100}})
    lines = [{"step": step, "time": 1000.0 + 6 * step, "train/loss": 1.0} for step in (10, 20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with claimed(run, ""):
        assert follow.state_of(run).words == "running, step 20 of 100, about 8 min to go"


@pytest.mark.parametrize("text", ["", "{", "\x00\xff", '{"step": NaN}\n', "[" * 100_000])
def test_damaged_files_are_no_error(text, places):
    run = places.runs / "bad"
    run.mkdir()
    for name in ("config.yaml", "metrics.jsonl", "summary.json"):
        (run / name).write_text(text)
    assert follow.state_of(run).step == 0 and follow.curves_of(run) == {}
    assert follow.table_rows({"bad": run})[0][2] == "–"


def test_a_run_that_has_only_claimed_its_folder_is_listed(places):
    assert run_names(places) == []
    with claimed(places.runs / "new", ""):
        assert run_names(places) == ["new"]


def test_curves_and_grids_of_several_runs(places):
    runs = {name: make_run(places.runs / name, name, grids=("step_000010", "step_000200")) for name in ("a", "b")}
    assert follow.curve_names(runs) == ["train/loss", "val/loss"]
    assert {name for _, _, name in follow.curve_rows(runs, "val/loss")} == {"a", "b"}
    assert follow.curve_rows(runs, "val/loss")[0] == (10, 0.2, "a")
    newest = follow.shown_grids(runs, None)
    assert [caption for _, caption in newest] == ["a · step_000200", "b · step_000200"]
    assert [Path(path).stem for path, _ in follow.shown_grids(runs, "step_000010")] == ["step_000010"] * 2


def test_a_plot_names_its_runs():
    svg = curve_svg(((1, 2.0, "first"), (2, 1.0, "first"), (1, 100.0, "second")), "val/loss")
    assert svg.count("<svg") == 1 and "first" in svg and "second" in svg and "val/loss (log)" in svg
    assert "second" not in curve_svg(((1, 2.0, "first"),), "val/loss"), "negative control"
    assert curve_svg((), "val/loss") == ""


def test_a_grid_that_is_a_link_out_of_the_run_is_not_shown(places, tmp_path):
    run = make_run(places.runs / "a", grids=("step_000010",))
    (tmp_path / "secret.png").write_bytes(PNG)
    (run / "samples" / "step_000020.png").symlink_to(tmp_path / "secret.png")
    assert list(follow.grids_of(run)) == ["step_000010"]


def test_the_log_beside_a_run(places, tmp_path):
    run = make_run(places.runs / "a")
    assert follow.log_of(run, places.runs) == ""
    (places.runs / "a.log").write_bytes(b"\n".join(b"line %d" % i for i in range(99_999)) + b"\n\x1b[31mred\xff")
    shown = follow.log_of(run, places.runs)
    assert shown.splitlines()[-2] == "line 99998" and "\x1b" not in shown and len(shown.splitlines()) == follow.LINES
    (places.runs / "a.log").unlink()
    (places.runs / "a.log").symlink_to("/etc/hostname")
    assert follow.log_of(run, places.runs) == "", "a link out of the folder"


def test_all_text_is_escaped():
    pieces = [message(EVIL), bar(1, 2, EVIL), preformatted(EVIL), table([EVIL], [[EVIL]]), framed(EVIL)]
    from unigen.tools.forms.tables import Cell, Table

    pieces.append(facts(Table(EVIL, [EVIL], [[Cell(EVIL)]], [[Cell(EVIL)]], [EVIL])))
    pieces.append(curve_svg(((1, 2.0, EVIL), (2, 1.0, "b")), EVIL))
    for piece in pieces:
        assert "<script" not in piece and "&lt;script" in piece
    assert "<script" in f"<p>{EVIL}</p>", "negative control"


# starting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--config-dir /tmp", "is a flag"),
        ("-m", "is a flag"),
        ("run_dir=/tmp/x", "decided by the studio"),
        ("++hydra.run.dir=/tmp/x", "decided by the studio"),
        ("+table=realgeneral_masks", "is of a sweep"),
        ("'open", "cannot be read"),
    ],
)
def test_words_that_the_studio_does_not_take(text, said):
    with pytest.raises(ValueError, match=said):
        processes.words_of("fcd_mask_a", text)


def test_words_of_a_start():
    assert processes.words_of("fcd_mask_a", "task=line  'x.y=[a, b]'") == ["+exp=fcd_mask_a", "task=line", "x.y=[a, b]"]


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a b", "x" * 200, "a\n", None])
def test_names_that_are_no_folder(name, places):
    with pytest.raises(ValueError, match="cannot be a run's folder"):
        processes.start(places, name, ["+exp=fcd_mask_a"])


def test_a_bad_override_is_refused_before_anything_starts(places):
    with pytest.raises(ValueError, match=r"did you mean 'trainer.max_steps'\?"):
        processes.start(places, "mine", ["+exp=fcd_mask_a", "trainer.max_step=3"])
    assert not list(places.runs.glob("mine*"))


def test_only_a_known_run_is_resumed_and_only_a_running_one_is_stopped(places):
    make_run(places.runs / "a")
    with pytest.raises(ValueError, match="there is no run"):
        processes.stop(places, "../a")
    with pytest.raises(ValueError, match="is not running on this machine"):
        processes.stop(places, "a")
    with pytest.raises(ValueError, match="was not started here"):
        processes.resume(places, "a", [])
    with claimed(places.runs / "a", ""), pytest.raises(ValueError, match="is running already"):
        processes.resume(places, "a", ["+exp=fcd_mask_a"])


def test_stop_sends_sigterm_to_the_process_that_holds_the_run(places):
    run = make_run(places.runs / "a")
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom unigen.launch.claims import claimed\n"
        "with claimed(Path(sys.argv[1]), ''):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    words = [sys.executable, "-c", script, str(run)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout.readline() == b"held\n"
        assert "was asked to stop" in processes.stop(places, "a")
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert follow.state_of(run).word == "finished"


@pytest.mark.slow
def test_a_run_is_started_stopped_and_resumed(places):
    from small_runs import kept_images, line

    words = ["+exp=fcd_mask_a", *line("logger=[jsonl]", "trainer.max_steps=40", "validation.every=1"), kept_images()]
    words = list(dict.fromkeys(words))
    assert "was started" in processes.start(places, "mine", words)

    def waited(word: str) -> None:
        end = time.monotonic() + 300
        while follow.state_of(places.runs / "mine").word != word and time.monotonic() < end:
            time.sleep(0.2)
        assert follow.state_of(places.runs / "mine").word == word, follow.log_of(places.runs / "mine", places.runs)

    waited("running")
    while not follow.curves_of(places.runs / "mine"):
        time.sleep(0.1)
    processes.stop(places, "mine")
    waited("stopped")
    assert 0 < follow.state_of(places.runs / "mine").step < 40
    assert "was started" in processes.resume(places, "mine", [])
    waited("running")
    waited("finished")
    assert follow.state_of(places.runs / "mine").step == 40
