"""Several runs on several benchmarks: one command does them all, and one failure does not stop the others."""

import json
import shutil

import pytest
from made_runs import column, table
from small_runs import command, kept_images, small, train
from tiny import CONF

from unigen.config.values import ConfigError
from unigen.evaluation.jobs import jobs, own_words, run_folders
from unigen.evaluation.runs import read_table
from unigen.tools.report.report import build_report

FLUX = ("backbone.config.num_single_layers=1", "backbone.config.axes_dims_rope=[4,6,6]")
WORDS = ("evaluation.items=4", "data.limit=200", "solver.steps=1", "metric=[rmse,ssim]")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two runs of one experiment, of which the second one did not finish."""
    root = tmp_path_factory.mktemp("sweeps") / "sweep"
    train(small(root / "0", "+exp=visualcloze_fill", *FLUX, "trainer.max_steps=1"))
    shutil.copytree(root / "0", root / "1", ignore=shutil.ignore_patterns("summary.json"))
    return root


def evaluation(run, bench) -> dict:
    return json.loads((run / "evaluation" / bench / "evaluation.json").read_text())


@pytest.mark.slow
def test_one_run_tested_with_0_and_2_examples_is_two_rows_of_a_table(sweep, capfd):
    benches = "emoji_deblur,emoji_deblur_2"
    assert command("evaluate.py", f"run={sweep}", f"bench={benches}", *WORDS, kept_images()) == 1
    said = capfd.readouterr()
    assert f"4 of 4: {sweep / '1'} on emoji_deblur_2" in said.out
    assert said.err.count("is not finished: it has no summary.json") == 2, "and the other run's were taken"
    none, two = (evaluation(sweep / "0", bench) for bench in benches.split(","))
    hashes = [[metric["protocol_hash"] for metric in said["metrics"].values()] for said in (none, two)]
    assert hashes[0] == hashes[1] and none["metrics"] != two["metrics"]
    folders = [sweep / "0" / "evaluation" / bench / "images" for bench in benches.split(",")]
    for name in ("truth", "condition"):
        same = [(folder / f"000003_{name}.png").read_bytes() for folder in folders]
        assert same[0] == same[1], "the same query"
    assert len({(folder / "000003_0_output.png").read_bytes() for folder in folders}) == 2, "drawn otherwise"
    report = build_report(str(sweep), read_table(CONF / "table", "visualcloze_examples"))
    assert column(report, "arm") == ["0 examples", "2 examples"]
    whys = [row[1].text for row in table(report, "Not in the table").rows]
    assert any("not evaluated on emoji_deblur_1" in why for why in whys) and "no summary.json: the run" in whys[-1]
    means = [row for row in table(report, "Means").rows if row[0].text == "rmse (deblur) ↓"]
    assert [row[-1].text for row in means] == ["open", "reference"]


def test_what_a_table_asks_for(sweep, tmp_path, capsys):
    found = jobs({"run": str(sweep), "table": "visualcloze_examples"}, CONF)
    parts = ("emoji_graph_canny", "emoji_deblur", "emoji_graph_subject")
    assert found[:9] == [(sweep / "0", part + end) for end in ("", "_1", "_2") for part in parts]
    assert len(found) == 18 and found[9] == (sweep / "1", "emoji_graph_canny")
    (tmp_path / "stillborn" / ".hydra").mkdir(parents=True)
    assert jobs({"run": f"{sweep},{tmp_path}", "table": "visualcloze_examples"}, CONF) == found
    assert f"{tmp_path / 'stillborn'} is not a run folder" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="table=realgeneral_masks asks for no benchmark of any run in"):
        jobs({"run": str(sweep), "table": "realgeneral_masks"}, CONF)
    with pytest.raises(ValueError, match=r"give either bench=<...> or table=<...>"):
        jobs({"run": str(sweep)}, CONF)


def test_a_word_for_a_metric_is_for_the_benchmarks_that_take_it():
    """The weights of FID are named once for a table, and one of its benchmarks has no FID."""
    words, benches = ["metric.fid.extractor.weights=/w", "evaluation.items=4"], ["graph200k_canny", "graph200k_subject"]
    found = own_words(words, benches, CONF)
    assert found == {"graph200k_canny": words, "graph200k_subject": words[1:]}
    assert own_words(["metric.fad.x=1"], benches, CONF)["graph200k_subject"] == ["metric.fad.x=1"], "refused later"
    assert own_words([*words, "metric=[ssim]"], benches, CONF)["graph200k_canny"] == [*words, "metric=[ssim]"]


def test_runs_are_found_at_any_depth_and_a_run_is_itself(sweep):
    both = [sweep / "0", sweep / "1"]
    assert run_folders(str(sweep.parent)) == run_folders(str(sweep)) == run_folders(f"{both[0]},{both[1]}") == both
    assert run_folders(str(sweep / "0")) == both[:1]


def test_a_word_that_one_benchmark_does_not_know_stops_all_before_any(sweep, capfd):
    words = ("bench=emoji_deblur_1,coco_canny", *WORDS)
    assert command("evaluate.py", f"run={sweep}", *words, kept_images()) == 1
    assert "unknown key 'data.limit'" in capfd.readouterr().err
    assert not (sweep / "0" / "evaluation" / "emoji_deblur_1").exists()
