"""Sweeps in stages on made-up runs: when they go on and stop, what they choose, and that nothing runs twice."""

import json

import numpy as np
import pytest
from made_runs import make_run, notes

from unigen.config.manifest import read_manifest, run_folder
from unigen.config.stages import TUNE, read_plan
from unigen.config.values import ConfigError
from unigen.evaluation.looks import Looks
from unigen.launch.own_process import JobFailed
from unigen.tools.report.report import build_report
from unigen.tools.sweep import local
from unigen.tools.sweep.stages import advance, unfinished
from unigen.tools.sweep.tuning import last_loss

STAGED = ["+table=both", "until=resolved", "seeds=3..6"]


class Machine:
    """In the place of run.py's processes: it makes the run of a line, with `lead` for arm b, and counts the calls.

    Without `keeps` it keeps no scores of single items.
    """

    def __init__(self, lead: float = 0.0, fails: str = "", keeps: bool = True) -> None:
        self.lead, self.fails, self.keeps, self.ran = lead, fails, keeps, []

    def __call__(self, script, line) -> None:
        folder, name = run_folder(line), "b" if "+exp=b" in line else "a"
        if self.fails and self.fails in folder.name:
            raise JobFailed
        self.ran.append(folder.name)
        seed = int(folder.name.rpartition("seed")[2])
        f1 = 0.5 + 0.01 * np.random.default_rng([seed, name == "b"]).normal() + self.lead * (name == "b")
        steps = next((int(word.partition("=")[2]) for word in line if word.startswith("optimizer.warmup=")), 9)
        metrics = {"f1": {"value": f1, "better": "higher"}}
        make_run(folder, name, seed, metrics=metrics, config={"optimizer": {"lr": 1e-3}})
        loss = abs(steps - (3 if name == "a" else 5))
        if not self.keeps:
            (folder / "scores.jsonl").unlink()
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "val/loss": loss, "train/loss": 1.0}) + "\n")


@pytest.fixture
def machine(monkeypatch):
    def put(**given) -> Machine:
        made = Machine(**given)
        monkeypatch.setattr(local, "run_line", made)
        return made

    return put


def sweep(conf, tmp_path, *words: str) -> int:
    return local.run_stages(conf, [*words, f"hydra.sweep.dir={tmp_path}/s"])


def test_a_large_difference_stops_the_sweep_at_the_first_look_that_resolves_it(conf, tmp_path, machine, capsys):
    made = machine(lead=0.5)
    assert sweep(conf, tmp_path, *STAGED) == 0
    plan, folder = read_plan(tmp_path / "s"), tmp_path / "s"
    assert plan.stop == "answered" and [each["seeds"] for each in plan.seen] == [3] and len(made.ran) == 6
    said = capsys.readouterr().out
    assert "look 1 of 2, after 3 seeds, at level 0.013: of the differences 1 are resolved, 0 equal, 0 open; the" in said
    assert said.endswith(f"run folder: {folder}\n")
    report = build_report(str(folder))
    assert {verdict.alpha for verdict in report.family.verdicts.values()} == {Looks((3, 6)).level(3)}
    assert "The sweep stopped at look 1 of 2, after 3 seeds, because its question was answered." in notes(report)
    assert "verdicts at 3 seeds may spend 0.013 of it" in notes(report)


def test_without_a_difference_it_goes_on_to_the_limit_and_says_so(conf, tmp_path, machine):
    made = machine()
    assert sweep(conf, tmp_path, *STAGED) == 0
    plan = read_plan(tmp_path / "s")
    assert plan.stop == "limit" and [each["seeds"] for each in plan.seen] == [3, 6] and len(made.ran) == 12
    assert sum(each["level"] for each in plan.seen) == pytest.approx(0.05)
    assert "stopped at its last look (2 of 2), after 6 seeds, with differences open" in notes(
        build_report(str(tmp_path / "s"))
    )


def test_the_same_line_with_the_same_folder_goes_on_and_repeats_nothing(conf, tmp_path, machine, capsys):
    first = machine(fails="b_seed4")
    assert sweep(conf, tmp_path, *STAGED) == 1
    error = capsys.readouterr().err
    assert "error: 1 runs failed, so the sweep does not go on; the same line with hydra.sweep.dir=" in error
    assert [each["seeds"] for each in read_plan(tmp_path / "s").seen] == [3]
    second = machine()
    assert sweep(conf, tmp_path, *STAGED) == 0 and second.ran[0].endswith("b_seed4")
    assert len(first.ran) + len(second.ran) == 12 == len({*first.ran, *second.ran})
    third = machine()
    assert sweep(conf, tmp_path, *STAGED) == 0 and third.ran == []
    with pytest.raises(ConfigError, match=r"s holds the sweep of another line .* seeds=3..6\);"):
        sweep(conf, tmp_path, "+table=both", "until=resolved", "seeds=3..7")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x").touch()
    with pytest.raises(ConfigError, match=r"t is not empty and holds no sweep in stages; name another folder"):
        local.run_stages(conf, [*STAGED, f"hydra.sweep.dir={tmp_path}/t"])


def test_a_step_is_taken_once_and_one_that_was_cut_off_is_completed(conf, tmp_path, machine):
    made, folder = machine(fails="seed3"), tmp_path / "s"
    sweep(conf, tmp_path, *STAGED)
    before = (folder / "plan.json").read_text(), (folder / "manifest.tsv").read_text()
    with pytest.raises(ConfigError, match=r"2 runs of this stage are not finished: 0_a_seed3, 3_b_seed3"):
        advance(conf, folder)
    lines = before[1].splitlines(keepends=True)
    (folder / "manifest.tsv").write_text("".join(lines[:6]))  # as if it was killed between the two files
    assert advance(conf, folder) == ["6 runs are added"]
    assert ((folder / "plan.json").read_text(), (folder / "manifest.tsv").read_text()) == before
    assert len(made.ran) == 10 and len(unfinished(folder)) == 2


def test_a_question_that_seeds_cannot_answer_is_refused_at_the_first_look(conf, tmp_path, machine):
    machine(keeps=False)
    with pytest.raises(ConfigError, match=r"no number of seeds answers .*: no scores of single items"):
        sweep(conf, tmp_path, *STAGED)


def test_each_arm_is_tuned_on_the_validation_split_and_the_report_says_so(conf, tmp_path, machine, capsys):
    made, words = machine(), ["+table=both", "tune.optimizer.warmup=3,5", "seed=0,1"]
    assert sweep(conf, tmp_path, *words) == 0
    plan, lines = read_plan(tmp_path / "s"), read_manifest(tmp_path / "s")
    assert [arm["chosen"] for arm in plan.tuned.values()] == [{"optimizer.warmup": "3"}, {"optimizer.warmup": "5"}]
    assert [arm["losses"] for arm in plan.tuned.values()] == [
        {"optimizer.warmup=3": 0.0, "optimizer.warmup=5": 2.0},
        {"optimizer.warmup=3": 2.0, "optimizer.warmup=5": 0.0},
    ]
    tuning = [line for line in lines if run_folder(line).parent.name == TUNE]
    assert len(tuning) == 4 and len(made.ran) == 8 and all("metric=[]" in line for line in tuning)
    assert "tuned: +exp=a: optimizer.warmup=3\ntuned: +exp=b: optimizer.warmup=5\n" in capsys.readouterr().out
    report = build_report(str(tmp_path / "s"))
    assert [len(arm.runs) for arm in report.arms] == [2, 2], "the runs that tune are none of the report's"
    told = notes(report)
    assert "Tuned for each arm by the loss on the validation split, with a seed of its own: optimizer.warmup" in told
    assert "Chosen: +exp=a: optimizer.warmup 3; +exp=b: optimizer.warmup 5." in notes(report)


def test_a_report_says_what_was_not_tuned(tmp_path):
    for name, rate in (("a", 1e-3), ("b", 1e-3), ("c", 3e-3)):
        make_run(tmp_path / name, name, config={"optimizer": {"lr": rate}})
    told = notes(build_report(f"{tmp_path / 'a'},{tmp_path / 'b'}"))
    assert "Not tuned: all arms have optimizer.lr 0.001." in told
    said = "Not tuned: a, b have optimizer.lr 0.001; c has optimizer.lr 0.003."
    assert said in notes(build_report(str(tmp_path)))


def test_a_diverged_run_is_not_chosen_and_no_loss_is_said(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"val/loss": 1.0}\n{"val/loss": NaN}\n{"train/loss": 0.5}\n')
    assert last_loss(tmp_path) is None
    log.write_text('{"val/loss": 2.0}\n{"val/loss": 1.5}\n')
    assert last_loss(tmp_path) == 1.5
    log.write_text('{"train/loss": 1.0}\n')
    with pytest.raises(ConfigError, match=r"metrics.jsonl has no val/loss, by which arms are tuned"):
        last_loss(tmp_path)


def test_a_dry_run_says_what_the_plan_in_the_folder_would_run_next(conf, tmp_path, machine, capsys):
    machine(fails="b_seed4")
    sweep(conf, tmp_path, *STAGED)
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert sweep(conf, tmp_path, *STAGED, "dry_run=true") == 0
    said = capsys.readouterr().out
    assert "it has looked after 3 seeds; the next stage would run 1 of its 6 runs below" in said
    assert said.endswith("+exp=b seed=4\n") and "the first of its stages" not in said
    assert {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()} == before
    machine()
    sweep(conf, tmp_path, *STAGED), capsys.readouterr()
    assert sweep(conf, tmp_path, *STAGED, "dry_run=true") == 0
    assert "has ended (limit); nothing would be run" in capsys.readouterr().out


def test_a_dry_run_says_when_a_step_is_due(conf, tmp_path, machine, monkeypatch, capsys):
    """The sweep was killed between its last run and the look."""
    machine()
    monkeypatch.setattr(local, "advance", lambda conf, folder: advance(conf, folder) if not left.pop() else 1 / 0)
    for words, left, said in (
        (STAGED, [True, False], "; all 6 runs of the next stage are finished, so the sweep would look after 3 seeds"),
        ([*STAGED, "tune.optimizer.warmup=3,5"], [True, False], "so each arm's values would be chosen"),
    ):
        with pytest.raises(ZeroDivisionError):
            local.run_stages(conf, [*words, f"hydra.sweep.dir={tmp_path}/{len(words)}"])
        capsys.readouterr()
        assert local.run_stages(conf, [*words, "dry_run=true", f"hydra.sweep.dir={tmp_path}/{len(words)}"]) == 0
        assert said in capsys.readouterr().out


def test_a_dry_run_refuses_a_folder_that_the_run_would_refuse(conf, tmp_path, machine, capsys):
    machine(lead=0.5)
    sweep(conf, tmp_path, *STAGED)
    with pytest.raises(ConfigError, match=r"s holds the sweep of another line .* seeds=3..6\);"):
        sweep(conf, tmp_path, "+table=both", "until=resolved", "seeds=3..7", "dry_run=true")
    (tmp_path / "s" / "plan.json").unlink()
    with pytest.raises(ConfigError, match=r"s is not empty and holds no sweep in stages"):
        sweep(conf, tmp_path, *STAGED, "dry_run=true")
    capsys.readouterr()
    assert local.run_stages(conf, [*STAGED, "dry_run=true", f"hydra.sweep.dir={tmp_path}/new"]) == 0
    assert "the first of its stages would run 6 runs below" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()
