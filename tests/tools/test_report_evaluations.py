"""A report on benchmarks: whose numbers are shown, what is missing, and what may stand in one column."""

import json

import pytest
from made_runs import PNG, PROTOCOL, column, make_run, notes, table, titles
from small_runs import command

from unigen.evaluation.curves import read_curves
from unigen.evaluation.runs import PaperTable
from unigen.evaluation.scores import write_scores
from unigen.tools.report.report import build_report

TABLE = PaperTable(
    "t",
    "Paper, Table 9",
    ["0 examples", "1 example"],
    {"deblur_rmse": ("rmse (deblur)",), "deblur_fid": ()},
    "Someone",
    {"0 examples": {"deblur_rmse": 26.5, "deblur_fid": 40.6}, "1 example": {"deblur_rmse": 25.9}},
    {
        "0 examples": {"exp": "fill", "mini": {"deblur": "blur"}, "paper": {"deblur": "big"}},
        "1 example": {"exp": "fill", "mini": {"deblur": "blur_1"}, "paper": {"deblur": "big_1"}},
    },
)


def evaluate(run, bench, value, card="c" * 12, seconds=0.25, **changes):
    """What evaluate.py leaves of a benchmark with two images."""
    summary = json.loads((run / "summary.json").read_text())
    folder = run / "evaluation" / bench
    metric = {"value": value, "low": 90.0, "high": 1.0, "better": "lower", "items": 2, "protocol_hash": card}
    said = {"bench": {"name": bench}, "name": summary["name"], "seed": summary["seed"], "metrics": {"rmse": metric}}
    said |= {"protocol": PROTOCOL | {"bench data": "blur"}}
    said |= {"sampling": {"seconds_per_image": seconds, "batch_size": 16, "device": "CPU, 2 threads"}}
    write_scores(folder, {"rmse": [value - 1, value + 1]})
    (folder / "samples.png").write_bytes(PNG + f"{run.name}{bench}".encode())
    record = {"item": 0, "image": 0, "key": "cat", "task": "blur", "prompt": "a cat", "files": {}}
    for name in ("condition0", "truth", "output"):
        record["files"][name] = f"images/0_{name}.png"
    (folder / "manifest.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record | {"image": 1}) + "\n")
    (folder / "evaluation.json").write_text(json.dumps(said | changes))


def fill_runs(root, benches, count=2):
    runs = [make_run(root / f"{seed}", "fill", seed, scale="mini") for seed in range(count)]
    for seed, run in enumerate(runs):
        for i, bench in enumerate(benches):
            evaluate(run, bench, 30.0 + seed - 5 * i)
    return runs


def rows(found) -> list[list[str]]:
    return [[cell.text for cell in row] for row in found.rows]


def test_numbers_scores_images_and_latency_are_of_the_benchmark(tmp_path):
    runs = fill_runs(tmp_path, ["blur"])
    report, own = build_report(str(tmp_path), benches=["blur"]), build_report(str(tmp_path))
    assert column(report, "rmse ↓") == ["30.50 ± 0.71"] and "canny_f1 ↑" not in table(report, "Results").header
    assert column(own, "canny_f1 ↑") == ["0.300 ± 0.000"] and column(own, "rmse ↓") == ["0.200 ± 0.000"]
    assert column(report, "s an image (16 at once, CPU, 2 threads)") == ["0.25"]
    assert not any("s an image" in name for name in table(own, "Results").header)
    assert column(report, "minutes") == column(own, "minutes") == ["3.0"], "what training cost stays"
    [row] = rows(table(report, "Means"))
    assert (
        row[:2] == ["rmse ↓", "fill"] and table(report, "Means").rows[0][2].sort == 30.5 and row[4] == "seeds and items"
    )
    assert [shot.path for shot in report.items[0].shots] == [
        run / "evaluation" / "blur" / "images" / "0_output.png" for run in runs
    ]
    assert [path for _, path in report.grids[0].images] == [runs[0] / "evaluation" / "blur" / "samples.png"]
    assert report.grids[0].images[0][0] == "fill · seed 0 · blur" and "step 3,000" in own.grids[0].images[0][0]
    assert table(report, "Runs").rows[0][-1].text == f"{tmp_path.name}/0/evaluation/blur"
    assert "Metrics come from evaluations (blur), everything else from the runs themselves." in notes(report)
    assert "Metrics come from evaluations" not in notes(own) and read_curves(report.arms[0].runs[0])


def test_several_benchmarks_are_columns_of_an_arm(tmp_path):
    fill_runs(tmp_path, ["blur", "edges"])
    report = build_report(str(tmp_path), benches=["blur", "edges"])
    assert column(report, "rmse (blur) ↓") == ["30.50 ± 0.71"] and column(report, "rmse (edges) ↓") == ["25.50 ± 0.71"]
    assert "s an image of edges (16 at once, CPU, 2 threads)" in table(report, "Results").header
    assert [row[0] for row in rows(table(report, "Means"))] == ["rmse (blur) ↓", "rmse (edges) ↓"]
    assert len(report.grids[0].images) == 2


BROKEN = {
    "not evaluated on blur: python experiments/evaluate.py run=<run folder> bench=blur": lambda run: None,
    "evaluation.json cannot be read": lambda run: (run / "evaluation" / "blur" / "evaluation.json").write_text("{"),
    "evaluation/blur/evaluation.json is of another run: 'fill', seed 7": lambda run: evaluate(run, "blur", 1, seed=7),
    "evaluation/blur/evaluation.json has no usable 'metrics'": lambda run: evaluate(run, "blur", 1, metrics=[]),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_run_without_the_evaluation_is_named(tmp_path, reason):
    fill_runs(tmp_path, ["blur"])
    run = make_run(tmp_path / "2", "fill", 2)
    if "not evaluated" not in reason:
        evaluate(run, "blur", 1.0)
    BROKEN[reason](run)
    report = build_report(str(tmp_path), benches=["blur"])
    [[folder, why, step]] = rows(table(report, "Not in the table"))
    assert folder == f"{tmp_path.name}/2" and reason in why and step == "30" and column(report, "seeds") == ["2"]
    evaluate(run, "blur", 1.0)
    assert "Not in the table" not in titles(build_report(str(tmp_path), benches=["blur"])), "negative control"


def test_a_run_with_some_of_the_benchmarks_is_shown_and_named(tmp_path):
    runs = fill_runs(tmp_path, ["blur", "edges"])
    (runs[1] / "evaluation" / "edges" / "evaluation.json").unlink()
    report = build_report(str(tmp_path), benches=["blur", "edges"])
    assert column(report, "rmse (edges) ↓") == ["25.00 (n=1)"] and column(report, "seeds") == ["2"]
    assert "not evaluated on edges" in rows(table(report, "Not in the table"))[0][1]


def test_rows_of_a_table_are_one_run_on_several_benchmarks(tmp_path):
    fill_runs(tmp_path, ["blur", "blur_1"], count=3)
    make_run(tmp_path / "stranger", "other")
    report = build_report(str(tmp_path), TABLE)
    assert column(report, "arm") == ["0 examples", "1 example"] and column(report, "seeds") == ["3", "3"]
    assert column(report, "rmse (deblur) ↓") == ["31.00 ± 1.00", "26.00 ± 1.00"], "one column, for they have one card"
    assert "Runs here that are not arms of this table: other (1)." in notes(report)
    paper = table(report, "Paper, Table 9")
    assert [row[:3] for row in rows(paper)] == [["0 examples", "3", "26.5"], ["1 example", "3", "25.9"]]
    [answer] = report.answers
    assert [(line.arm, line.state) for line in answer.lines] == [("0 examples", "worse"), ("1 example", "reference")]
    evaluate(tmp_path / "0", "blur_1", 25.0, card="d" * 12)
    assert "rmse (deblur) was taken under 2 protocol cards" in notes(build_report(str(tmp_path), TABLE))


def test_a_scale_has_its_own_metrics_on_a_benchmark_and_a_column_may_have_two(tmp_path):
    """And the run's own test has those of the other scale, in a table of its own."""
    at = {"paper": {"dino": ("rmse (blur)", "ssim (blur)"), "fid": ()}}
    own = PaperTable(
        "t", "Paper", ["fill"], {"dino": ("rmse",), "fid": ()}, published={"fill": {"dino": 0.6}}, metrics_at=at
    )
    big, small = (make_run(tmp_path / scale, "fill", 0, scale=scale) for scale in ("paper", "mini"))
    assert own.parts("paper") == ["blur"] and own.parts("mini") == []
    report = build_report(str(tmp_path), own)
    assert "not evaluated on blur" in rows(table(report, "Not in the table"))[0][1] and column(report, "seeds") == ["1"]
    evaluate(big, "blur", 30.0)
    evaluate(small, "blur", 30.0)  # which nobody asks for
    report = build_report(str(tmp_path), own)
    [there] = [each for each in report.tables if each.title.startswith("Paper") and "scale paper" in each.title]
    assert there.header == [
        "arm",
        "seeds",
        "dino (published)",
        "rmse (blur) (ours) ↓",
        "ssim (blur) (ours)",
        "fid (published)",
    ]
    assert [row[2:4] for row in rows(there)] == [["0.6", "30 [17, 43] (n=1)"]]
    [here] = [each for each in report.tables if each.title.startswith("Paper") and "scale mini" in each.title]
    assert "rmse (blur) (ours) ↓" not in here.header


def test_a_rows_published_numbers_are_the_tables_and_not_its_experiments(tmp_path):
    runs = fill_runs(tmp_path, ["blur", "blur_1"])
    for run in runs:
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"published": {"source": "x", "deblur_fid": 40.6}}))
    report = build_report(str(tmp_path), TABLE)
    paper = table(report, "Paper, Table 9")
    assert [row[paper.header.index("deblur_fid (published)")] for row in rows(paper)] == ["40.6", "–"]
    assert not any(title.startswith("Published") for title in titles(report))
    assert "Published (x)" in titles(build_report(str(tmp_path))), "negative control"


def test_the_runs_own_table_asks_for_rows_and_the_scale_picks_the_benchmarks(tmp_path):
    own = TABLE._asdict()
    run = make_run(tmp_path / "s" / "0", "fill", 0, scale="paper", config={"table": own})
    evaluate(run, "blur", 30.0)
    found = rows(table(build_report(str(tmp_path / "s")), "Not in the table"))
    assert [why.split(":")[0] for _, why, _ in found] == ["not evaluated on big", "not evaluated on big_1"]
    for bench in ("big", "big_1"):
        evaluate(run, bench, 20.0)
    assert column(build_report(str(tmp_path / "s")), "arm") == ["0 examples", "1 example"]
    make_run(tmp_path / "t" / "0", "fill", 0, scale="huge", config={"table": own})
    found = rows(table(build_report(str(tmp_path / "t")), "Not in the table"))
    assert [why for _, why, _ in found] == [
        f"row '{row}' of the table names no benchmark for the run's scale" for row in TABLE.order
    ]


def test_images_in_which_no_subject_was_found_are_told(tmp_path):
    [run] = fill_runs(tmp_path, ["blur"], count=1)
    metric = {"value": 0.5, "better": "higher", "items": 8, "undetected": 3}
    evaluate(run, "blur", 0.5, metrics={"dino_segmented": metric, "dinov2_segmented": metric | {"undetected": 0}})
    said = notes(build_report(str(tmp_path), benches=["blur"]))
    assert "dino_segmented: no subject found in 3 of 8 images, which count whole" in said
    assert "dinov2_segmented: no subject" not in said, "negative control"


def test_the_command_takes_benchmarks(tmp_path, capsys):
    fill_runs(tmp_path / "runs", ["blur", "edges"])
    assert command("report.py", f"runs={tmp_path / 'runs'}", "bench=blur, edges") == 0
    assert "rmse (edges)" in (tmp_path / "runs" / "report.md").read_text()
    assert command("report.py", f"runs={tmp_path / 'runs'}", "table=visualcloze_examples", "bench=blur") == 1
    assert "table=visualcloze_examples names the benchmarks of its rows itself" in capsys.readouterr().err


def test_a_benchmark_on_which_no_run_was_evaluated_is_refused_with_the_legal_names(tmp_path, capsys):
    fill_runs(tmp_path / "runs", ["blur", "edges"])
    assert command("report.py", f"runs={tmp_path / 'runs'}", "bench=blur,nope") == 1
    said = capsys.readouterr().err
    assert "error: bench=nope: none of these runs was evaluated on it, they were on blur, edges;" in said
    assert not (tmp_path / "runs" / "report.md").exists()
    make_run(tmp_path / "alone")
    assert command("report.py", f"runs={tmp_path / 'alone'}", "bench=blur") == 1
    assert "they were on none; python experiments/evaluate.py run=<run folder> bench=blur" in capsys.readouterr().err
