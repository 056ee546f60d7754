"""What the runs of a page do not agree on is said once: copies, which values are better, what some have measured."""

import json
import shutil

import pytest
from made_runs import bold, column, make_run, notes, table, titles

from unigen.evaluation.agreement import few, listed, seeds_of
from unigen.tools.report.report import build_report


def change(run, **changes):
    """Replace keys of a run's summary.json."""
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | changes))


def without(run, *names):
    """Take metrics out of a run's summary, as if it had not measured them."""
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    change(run, metrics={name: metric for name, metric in metrics.items() if name not in names})


def four_seeds(root, *names):
    return {name: [make_run(root / f"{name}{i}", name, i, f1=0.3 + i / 100) for i in range(4)] for name in names}


# copies ---------------------------------------------------------------------------------------------------------------


def test_a_copy_of_a_run_is_left_out_and_its_arm_stays_whole(tmp_path):
    runs = four_seeds(tmp_path / "sweep", "b", "a")
    shutil.copytree(runs["a"][0], tmp_path / "kept" / "old")
    report = build_report(str(tmp_path))
    assert sorted(column(report, "arm")) == ["a", "b"] and column(report, "seeds") == ["4", "4"]
    root = tmp_path.name
    said = "Left out as copies, with the same summary and settings to the last digit"
    assert f"{said}: {root}/kept/old (of {root}/sweep/a0)." in notes(report), "what lies beside the others stays"
    shutil.rmtree(tmp_path / "kept")
    assert "copies" not in notes(build_report(str(tmp_path))), "negative control"


@pytest.mark.parametrize("change", [{"f1": 0.31}, {"seconds": 180.1}, {"config": {"lr": 0.2}}])
def test_the_same_training_run_again_is_no_copy(tmp_path, change):
    make_run(tmp_path / "a", seed=0, f1=0.3)
    make_run(tmp_path / "b", **{"seed": 0, "f1": 0.3} | change)
    report = build_report(str(tmp_path))
    assert len(report.arms) == 2 and "copies" not in notes(report)


# which values are better ----------------------------------------------------------------------------------------------


def test_most_runs_say_which_values_are_better_and_the_odd_one_is_named(tmp_path):
    runs = {
        name: [make_run(tmp_path / f"{name}{seed}", name, seed, f1=f1 + seed / 1000) for seed in (0, 1)]
        for name, f1 in {"a": 0.3, "b": 0.4}.items()
    }
    metrics = json.loads((runs["a"][0] / "summary.json").read_text())["metrics"]
    change(runs["a"][0], metrics=metrics | {"canny_f1": metrics["canny_f1"] | {"better": "lower"}})
    report = build_report(str(tmp_path))
    assert ("b", "canny_f1 ↑") in bold(report)
    said = f"which canny_f1 is better: lower in {tmp_path.name}/a0, higher in all others, which is taken."
    assert notes(report).count(said) == 1 and "which rmse is better" not in notes(report)


def test_where_as_many_runs_say_one_as_the_other_neither_is_taken(tmp_path):
    for seed, better in enumerate(("lower", "higher")):
        make_run(tmp_path / f"{seed}", seed=seed, metrics={"f1": {"value": 0.3, "better": better}})
    report, root = build_report(str(tmp_path)), tmp_path.name
    assert f"which f1 is better, so neither is taken: lower in {root}/0; higher in {root}/1." in notes(report)
    assert column(report, "f1") == ["0.300 ± 0.000"] and "not known which values are better" in report.answers[0].title


# what was measured ----------------------------------------------------------------------------------------------------


def test_which_seeds_have_not_measured_a_metric_is_said_in_one_note(tmp_path):
    runs = four_seeds(tmp_path, "a", "b", "c")
    for seed in (2, 3):
        without(runs["a"][seed], "canny_f1")
    without(runs["b"][1], "canny_f1", "rmse")
    report = build_report(str(tmp_path))
    assert column(report, "canny_f1 ↑")[0].endswith("(n=2)") and column(report, "rmse ↓")[0] == "0.200 ± 0.000"
    told = [note for note in table(report, "Results").notes if "not measured" in note]
    assert told == [
        "canny_f1 is of 2 of 4 seeds of a: seeds 2 and 3 have not measured it; "
        "canny_f1 and rmse are of 3 of 4 seeds of b: seed 1 has not measured them."
    ]


def test_arms_that_lack_the_same_are_named_together(tmp_path):
    runs = four_seeds(tmp_path, "a", "b")
    for name in "ab":
        without(runs[name][3], "rmse")
    assert "rmse is of 3 of 4 seeds of a, b: seed 3 has not measured it." in notes(build_report(str(tmp_path)))


def test_settings_of_what_is_measured_are_no_difference_of_arms(tmp_path):
    """The first run of an arm is not asked what all of its runs have measured."""
    measured = {"metric": {"psnr": {"_target_": "PSNR"}}}
    for name in "ab":
        for seed in (0, 1):
            own = (measured if (name, seed) == ("a", 0) else {}) | {"width": 8 if name == "a" else 16}
            make_run(tmp_path / f"{name}{seed}", name, seed, config=own)
    differences = table(build_report(str(tmp_path)), "Config differences")
    assert [[cell.text for cell in row] for row in differences.rows] == [["width", "8", "16"]]
    assert "what was measured (metric.*, which may differ within an arm)" in differences.notes[0]


def test_two_protocols_of_one_arm_are_two_columns(tmp_path):
    own = [{"split": "test", "seed": 0}, {"split": "test", "seed": 0, "metric.psnr": "x"}]
    for name in "ab":
        for seed in (0, 1):
            metrics = {"f1": {"value": 0.1, "protocol_hash": "c" * 12}}
            make_run(tmp_path / f"{name}{seed}", name, seed, protocol=own[seed], metrics=metrics)
    protocols = table(build_report(str(tmp_path)), "Protocols")
    assert protocols.header == ["what", "a (seed 0), b (seed 0)", "a (seed 1), b (seed 1)"]
    assert [[cell.text for cell in row] for row in protocols.rows][-1] == ["metric.psnr", "–", "x"]


def test_the_seed_of_sampling_that_follows_the_run_is_no_other_protocol(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"{seed}", seed=seed, protocol={"split": "test", "seed": seed})
    protocols = table(build_report(str(tmp_path)), "Protocols")
    assert protocols.header == ["what", "all arms"] and [row[0].text for row in protocols.rows] == ["split"]


# words ----------------------------------------------------------------------------------------------------------------


def test_lists_are_told_as_one_says_them():
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert seeds_of([1]) == "seed 1" and seeds_of([0, 2]) == "seeds 0 and 2"
    assert few(list("abc"), 2) == "a, b, c" and few(list("abcd"), 2) == "a, b and 2 others"
    assert few(["a, b", "c", " "]) == "'a, b', c, ' '"


def test_one_arm_is_compared_with_nothing_and_the_page_says_so(tmp_path):
    from unigen.evaluation.answers import sentences

    make_run(tmp_path / "0"), make_run(tmp_path / "1", seed=1)
    report = build_report(str(tmp_path))
    assert report.summary == "There is one arm; nothing is compared." == " ".join(sentences(report.answers[0]))
    assert "Config differences" not in titles(report)
    make_run(tmp_path / "b", "b")
    assert "one arm" not in build_report(str(tmp_path)).summary, "negative control"


def test_one_difference_is_told_in_the_singular_and_arms_without_any_say_so(tmp_path):
    from unigen.evaluation.answers import sentences

    for name in "ab":
        for seed in (0, 1):
            metrics = {"f1": {"value": 0.3 + seed / 10, "better": "higher"}}
            make_run(tmp_path / f"{name}{seed}", name, seed, metrics=metrics)
    report = build_report(str(tmp_path))
    assert "Holm's correction for the 1 difference to the reference" in notes(report)
    assert "Corrected for 1 difference," in table(report, "Differences").notes[1]
    said = "Cannot yet be told from a: b (+0.000 ± 0.000; the same scores under all seeds)."
    assert sentences(report.answers[0]) == [said]


def test_the_answer_says_why_nothing_can_be_tested(tmp_path):
    for runs in four_seeds(tmp_path, "a", "b").values():
        (runs[1] / "scores.jsonl").write_text('{"item": 0')
    report = build_report(str(tmp_path))
    assert report.summary.endswith("2 are open. What is open cannot be tested: no scores of single items.")
    why = "scores.jsonl, line 1, does not hold an item's scores (is the file damaged?)"
    assert notes(report).count(f"No scores of single items in {tmp_path.name}/a1, {tmp_path.name}/b1: {why}.") == 1


def test_a_metric_that_scores_jsonl_lacks_in_some_runs_is_named_and_one_of_whole_sets_is_not(tmp_path):
    for runs in four_seeds(tmp_path, "a", "b").values():
        for run in runs:
            metrics = json.loads((run / "summary.json").read_text())["metrics"]
            change(run, metrics=metrics | {"fid": {"value": 9.0 + len(run.name), "better": "lower"}})
    report, odd = build_report(str(tmp_path)), tmp_path / "b1" / "scores.jsonl"
    assert "No scores of single items" not in notes(report), "negative control"
    lines = [json.loads(line) for line in odd.read_text().splitlines()]
    odd.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "rmse"}) + "\n" for line in lines))
    said = notes(build_report(str(tmp_path)))
    assert said.count("No scores of single items in") == 1
    assert f"No scores of single items in {tmp_path.name}/b1: scores.jsonl has none of rmse." in said


def test_a_note_on_one_seed_stands_only_where_a_cell_has_one(tmp_path):
    """The other arm with one seed is of another task, and stands in another table."""
    published = {"name": "t", "title": "T", "order": ["a", "b"], "metrics": {"F1": "canny_f1"}}
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", "a", seed, config={"table": published})
    make_run(tmp_path / "other", "b", task="depth", config={"table": published})
    first, second = (each for each in build_report(str(tmp_path)).tables if each.title.startswith("T, task"))
    assert "canny" in first.title and not any(note.startswith("n=1: ") for note in first.notes)
    assert any(note.startswith("n=1: ") for note in second.notes)
    cells = [[cell.text for row in each.rows for cell in row if "(n=1)" in cell.text] for each in (first, second)]
    assert [len(each) for each in cells] == [0, 1]
