"""A finished run on a benchmark: the numbers of its own test, images that are kept, one sentence for bad input."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import command, kept_images, small, summary, train
from torch.nn.functional import normalize

from datamodules.emoji.names import base_of
from unigen.evaluation import benchmark
from unigen.evaluation.gallery import Gallery, ImageFiles
from unigen.metrics.clip import StyleImage
from unigen.pipeline.pipeline import Pipeline

PIXELS = "metric=[canny_f1,ssim,psnr,rmse]"
WORDS = ("bench=emoji_canny", "evaluation.items=4", "data.limit=200", "solver.steps=2")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train(small(folder, "+exp=fcd_mask_a", "trainer.max_steps=1"))
    return folder


def evaluate(run_dir, *words: str) -> int:
    return command("evaluate.py", f"run={run_dir}", *WORDS, kept_images(), *words)


def result(folder) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def once(run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "drawn"
    assert evaluate(run_dir, PIXELS, f"out={folder}") == 0
    return folder


@pytest.fixture
def drawn(once, tmp_path):
    """A folder with the images of the benchmark, to be changed."""
    return shutil.copytree(once, tmp_path / "drawn")


@pytest.fixture
def samples(monkeypatch) -> list[list[str]]:
    """The keys of every batch that is sampled from here on."""
    seen, sample = [], Pipeline.sample
    monkeypatch.setattr(
        Pipeline, "sample", lambda self, batch, seed: (seen.append(batch.keys), sample(self, batch, seed))[1]
    )
    return seen


def test_a_benchmark_of_the_runs_own_test_gives_its_numbers(run_dir, drawn, capsys):
    found, own = result(drawn), summary(run_dir)
    for name, score in own["metrics"].items():
        assert found["metrics"][name] == pytest.approx(score), name  # its protocol_hash too
    assert len({score["protocol_hash"] for score in own["metrics"].values()}) == 4
    assert found["protocol"] == own["protocol"]
    assert own["sampling"].keys() == found["sampling"].keys() and own["sampling"]["batch_size"] == 4
    assert own["sampling"]["seconds_per_image"] > 0
    assert evaluate(run_dir, PIXELS, f"out={drawn.parent / 'other'}", "evaluation.seed=1") == 0
    other = result(drawn.parent / "other")["metrics"]["rmse"]
    assert other["value"] != found["metrics"]["rmse"]["value"], "negative control"
    assert other["protocol_hash"] != found["metrics"]["rmse"]["protocol_hash"]
    assert "emoji_canny: 4 images of 4 held-out samples, 2 steps, guidance 2" in capsys.readouterr().out


def test_what_is_kept_says_what_it_is(drawn):
    records, scores, found = lines(drawn / "manifest.jsonl"), lines(drawn / "scores.jsonl"), result(drawn)
    assert [record["item"] for record in records] == [0, 1, 2, 3] and len({record["key"] for record in records}) == 4
    assert all(record["seed"] == 0 and record["prompt"] and record["task"] == "canny>target" for record in records)
    for name in ("output", "truth", "through_codec", "condition"):
        assert [Image.open(drawn / record["files"][name]).size for record in records] == [(32, 32)] * 4
    assert Image.open(drawn / "samples.png").size == (2 * (3 * (96 + 8) + 8), 20 + 2 * (96 + 8))
    took = [record["draw"]["seconds"] for record in records]
    assert found["sampling"] == {
        "seconds_per_image": pytest.approx(took[0], abs=1e-5),
        "batch_size": 4,
        "device": "CPU, 1 threads",
    }
    assert took[0] > 0 and len(set(took)) == 1, "one batch"
    assert sum(score["rmse"] for score in scores) / 4 == pytest.approx(found["metrics"]["rmse"]["value"])
    assert [score["key"] for score in scores] == [record["key"] for record in records]
    bases = [{"base glyph": base_of(record["key"].partition("/")[0])} for record in records]
    assert [score["clusters"] for score in scores] == [record["clusters"] for record in records] == bases
    assert len({record["protocol_hash"] for record in records}) == 1


def test_a_metric_may_ask_for_a_condition_of_the_gallery(run_dir, drawn, monkeypatch):
    """CLIP itself is not here: its vectors are the images' colours, so that a cosine of 1 is one colour."""
    monkeypatch.setattr(StyleImage, "embed_images", lambda self, x: normalize(x.float().mean((2, 3)) + 1, dim=-1))
    monkeypatch.setattr(StyleImage, "protocol", {"of": "colours"})
    words = ("metric=[style_image]", f"out={drawn}", "metrics_only=true")
    assert evaluate(run_dir, *words, "metric.style_image.image=condition") == 0
    records, [score] = lines(drawn / "manifest.jsonl"), result(drawn)["metrics"].values()
    seen = [[np.asarray(Image.open(drawn / r["files"][n])) for r in records] for n in ("output", "condition")]
    output, edges = (normalize(torch.tensor(np.array(x)).float().mean((1, 2)) + 1, dim=-1) for x in seen)
    assert score["value"] == pytest.approx((output * edges).sum(-1).mean().item(), abs=1e-5) and score["value"] < 1
    assert evaluate(run_dir, *words) == 0, "a task with one condition has no second one"
    assert result(drawn)["metrics"]["style_image"]["reason"] == (
        "not every sample has a condition in slot condition1; all samples have: slot condition"
    )


def test_a_killed_benchmark_draws_what_is_missing_alone(run_dir, drawn, samples):
    before = result(drawn)["metrics"]
    kept = (drawn / "manifest.jsonl").read_text().splitlines()
    lost = json.loads(kept[0])["files"]["output"]
    (drawn / lost).unlink()
    (drawn / "evaluation.json").unlink()
    (drawn / "manifest.jsonl").write_text("\n".join([*kept[:3], kept[3][:40]]))  # torn
    assert evaluate(run_dir, PIXELS, f"out={drawn}") == 0
    keys = [json.loads(line)["key"] for line in kept]
    assert samples == [[keys[0], keys[3]]]
    together = [record["draw"]["together"] for record in lines(drawn / "manifest.jsonl")]
    assert sorted(together) == [2, 2, 4, 4] and result(drawn)["sampling"]["batch_size"] in (2, 4)
    assert {json.loads(line)["key"] for line in kept} == {record["key"] for record in lines(drawn / "manifest.jsonl")}
    after = result(drawn)["metrics"]
    assert after["rmse"]["value"] == pytest.approx(before["rmse"]["value"], rel=1e-3) and after.keys() == before.keys()
    assert evaluate(run_dir, PIXELS, f"out={drawn}") == 0 and len(samples) == 1, "then there is nothing to draw"


def test_metrics_are_taken_anew_without_a_model(run_dir, drawn, monkeypatch):
    monkeypatch.setattr(benchmark.export, "load", lambda folder: pytest.fail("a model was built"))
    before = result(drawn)["metrics"]["rmse"]
    assert evaluate(run_dir, "metric=[rmse]", f"out={drawn}") == 0
    assert result(drawn)["metrics"] == {"rmse": before}
    some = (drawn / "manifest.jsonl").read_text().splitlines()[:2]
    (drawn / "manifest.jsonl").write_text("\n".join(some))
    assert evaluate(run_dir, "metric=[rmse]", f"out={drawn}", "metrics_only=true") == 0
    fewer = result(drawn)
    assert (fewer["images"], fewer["protocol"]["items"], fewer["metrics"]["rmse"]["items"]) == (2, 2, 2)
    assert fewer["metrics"]["rmse"]["protocol_hash"] != before["protocol_hash"], "fewer images do not compare"


def test_several_images_of_a_sample_have_seeds_of_their_own(run_dir, tmp_path):
    words = (f"out={tmp_path}", "evaluation.images=2", "evaluation.items=2", "metric=[rmse]")
    assert evaluate(run_dir, *words) == 0
    records = lines(tmp_path / "manifest.jsonl")
    assert sorted((r["item"], r["image"], r["seed"]) for r in records) == [(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1)]
    outputs = {r["image"]: (tmp_path / r["files"]["output"]).read_bytes() for r in records if r["item"] == 0}
    assert outputs[0] != outputs[1]
    found = result(tmp_path)
    assert (found["images"], found["protocol"]["items"], found["protocol"]["images"]) == (4, 2, 2)


def test_every_target_of_a_sample_is_drawn_kept_and_scored(tmp_path):
    """The run's own test and a benchmark; the second target alone made perfect is the control."""
    tasks = ('data.tasks=["canny>target"]', 'data.test_tasks=["canny>target+mask"]', "metric=[rmse]")
    words = ("task=graph", "data.rows=[0,0]", "conditioning/embedding=none", "trainer.max_steps=1", *tasks)
    train(small(tmp_path, *words, "evaluation.items=2"))
    own = summary(tmp_path)["metrics"]["rmse"]
    out = tmp_path / "evaluation" / "emoji_graph_canny"
    asked = ("bench=emoji_graph_canny", "evaluation.items=2", "data.limit=200", "solver.steps=2", *tasks[1:])
    assert command("evaluate.py", f"run={tmp_path}", *asked, kept_images()) == 0
    score, records, scores = result(out)["metrics"]["rmse"], lines(out / "manifest.jsonl"), lines(out / "scores.jsonl")
    assert score.pop("targets") == pytest.approx(targets := own["targets"])
    assert score["value"] == pytest.approx(own["value"]) and score["low"] == pytest.approx(own["low"])
    assert result(out)["protocol"]["targets"] == "all" and targets.keys() == {"target0", "target1"}
    assert (score["items"], score["images"], result(out)["images"]) == (2, 4, 4)
    assert score["value"] == pytest.approx(sum(targets.values()) / 2)
    assert (
        [line["targets"]["target1"]["rmse"] > 0 for line in scores]
        == [True, True]
        == [line["rmse"] == pytest.approx(sum(t["rmse"] for t in line["targets"].values()) / 2) for line in scores]
    )
    for record in records:
        assert record["targets"] == ["target0", "target1"]
        shutil.copy(out / record["files"]["truth.target1"], out / record["files"]["output.target1"])
    assert command("evaluate.py", f"run={tmp_path}", *asked, kept_images(), "metrics_only=true") == 0
    better = result(out)["metrics"]["rmse"]
    assert better["targets"] == pytest.approx({"target0": targets["target0"], "target1": 0})
    assert better["value"] == pytest.approx(targets["target0"] / 2)
    sheet = Image.open(out / "samples.png").size
    assert sheet[0] == 2 * (5 * (96 + 8) + 8), "the condition, and output and truth of both"


def test_an_absent_metric_is_said_and_the_others_are_there(run_dir, drawn, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(drawn))
    assert evaluate(run_dir, "metric=[dino,rmse,mini_kid]", f"out={drawn}") == 0
    found, said = result(drawn)["metrics"], capsys.readouterr().out
    assert found["dino"]["value"] is None and "protocol_hash" not in found["dino"] and found["rmse"]["value"] > 0
    assert found["dino"]["reason"].startswith("'facebook/dino-vits16' is no folder")
    assert f"dino is absent: {found['dino']['reason']}" in said and "mini_kid is absent: there are 4 images" in said
    assert "dino" not in lines(drawn / "scores.jsonl")[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["bench=emoji_cany"],
            "unknown choice 'emoji_cany' for group 'bench' on the command line; did you mean 'emoji_canny'",
        ),
        (["data.sise=3"], "unknown key 'data.sise' on the command line; did you mean 'data.size'"),
        (["backbone=flux_mini"], "backbone"),
        (["metric=[dinno]"], "did you mean 'dino'"),
        (["metrics_only=yes"], "metrics_only=yes is neither true nor false"),
        (["metrics_only=true"], "holds no images to measure"),
        (["run={tmp}/none"], "run={tmp}/none is no folder"),
        (["run={tmp}"], "run: no run in '{tmp}'"),
        (["run={tmp},{tmp}/none"], "run: there is no folder '{tmp}/none'"),
        (["bench=emoji_canny,emoji_style"], "is for one run and one benchmark, and 2 evaluations were requested"),
        (["table=realgeneral_masks"], "give only one of bench=<...> or table=<...>"),
        (["bench=coco_canny"], "'data.test.root' has no value; give it on the command line: data.test.root=<folder>"),
        (["bench=coco_canny", "data.test.root={tmp}/none"], "there is no file '{tmp}/none/annotations/"),
        (["bench=dreambench", "data.test.root={tmp}/none"], "there is no file '{tmp}/none/prompts_and_classes.txt'"),
        (["solver.steps=0"], "'solver.steps' is 0 on the command line; legal are whole numbers from 1"),
        (["evaluation.images=0"], "'evaluation.images' is 0 on the command line"),
        (
            ["bench=emoji_subject"],
            "'openmoji>target' has no bias in conditioning.embedding.tasks; it knows canny>target",
        ),
    ],
)
def test_bad_input_is_one_sentence(words, said, run_dir, tmp_path, capfd):
    words = [word.format(tmp=tmp_path) for word in words]
    keys = {word.partition("=")[0] for word in words}
    other = any("bench=" in word and "emoji" not in word for word in words)  # has no such keys
    usual = [f"run={run_dir}", *WORDS, kept_images(), f"out={tmp_path / 'out'}"]
    usual = [w for w in usual if w.partition("=")[0] not in keys and not (other and w.startswith(("data.l", "data.c")))]
    capfd.readouterr()
    assert command("evaluate.py", *usual, *words) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and said.format(tmp=tmp_path) in error


def test_a_folder_of_other_images_is_left_alone(run_dir, drawn, tmp_path, capfd):
    before = (drawn / "manifest.jsonl").read_text()
    for word, said in (
        ("solver.steps=1", "solver.steps was 2 and is 1"),
        ("evaluation.seed=7", "evaluation.seed was 0"),
    ):
        words = [w for w in WORDS if not w.startswith(word.partition("=")[0])]
        assert command("evaluate.py", f"run={run_dir}", *words, kept_images(), word, f"out={drawn}") == 1
        assert said in capfd.readouterr().err
    retrained = shutil.copytree(run_dir, tmp_path / "retrained")
    from safetensors.torch import load_file, save_file

    weights = load_file(retrained / "export" / "unigen_modules.safetensors")
    save_file(
        {k: x + 1 if x.is_floating_point() else x for k, x in weights.items()},
        retrained / "export" / "unigen_modules.safetensors",
    )
    assert evaluate(retrained, PIXELS, f"out={drawn}") == 1
    assert "holds images of other weights; use out=<a new folder>" in capfd.readouterr().err
    assert (drawn / "manifest.jsonl").read_text() == before


def test_an_unfinished_run_says_so(run_dir, tmp_path, capfd):
    unfinished = shutil.copytree(run_dir, tmp_path / "u", ignore=shutil.ignore_patterns("summary.json"))
    assert evaluate(unfinished) == 1
    assert f"{unfinished} is not finished: it has no summary.json" in capfd.readouterr().err


def test_help_lists_the_benchmarks(capfd):
    assert command("evaluate.py", "--help") == 0
    assert "bench: coco_canny, coco_depth, coco_text, dreambench, emoji_canny" in capfd.readouterr().out


def test_images_in_files_are_the_images(tmp_path):
    held = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    gallery = Gallery(tmp_path)
    gallery.begin({"asked": {}, "protocol": {}, "protocol_hash": "x", "weights": None, "images": 5})
    for i in (3, 1, 0, 4, 2):
        gallery.add({"item": i, "image": 0}, {"output": held[i]})
    files = Gallery(tmp_path).images("output")
    assert torch.equal(files[0:5], held) and torch.equal(files[2:4], held[2:4]) and len(files) == 5
    assert torch.equal(files.taken([4, 0, 1, 2, 3])[0:5], held.roll(1, 0)) and not torch.equal(
        files.taken([4, 0, 1, 2, 3])[0:5], held
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match=r"wide\.png is 8 x 8 and others are 6 x 4"):
        ImageFiles([*files.paths, tmp_path / "wide.png"])[0:6]
    (tmp_path / "wide.png").write_text("none")
    with pytest.raises(ValueError, match=r"wide\.png cannot be read"):
        ImageFiles([tmp_path / "wide.png"])[0:1]


def test_a_run_is_told_what_to_do_in_the_words_of_its_training(tmp_path):
    flux = ("backbone.config.num_single_layers=1", "backbone.config.axes_dims_rope=[4,6,6]")
    train(small(tmp_path / "run", "+exp=visualcloze_fill", *flux, "trainer.max_steps=1"))
    for words, told in (([], True), (["instruction@data.instruction=full"], False)):
        out = tmp_path / f"told{told}"
        more = ("bench=emoji_deblur", "evaluation.items=2", "data.limit=200", "solver.steps=1", kept_images(), *words)
        assert command("evaluate.py", f"run={tmp_path / 'run'}", PIXELS, f"out={out}", *more) == 0
        for record in lines(out / "manifest.jsonl"):
            assert record["prompt"].startswith("1x2: ") == told and record["prompt"].endswith(record["caption"])
            assert record["prompt"] != record["caption"] and not record["caption"].startswith("1x2: ")


@pytest.fixture(scope="module")
def in_context(tmp_path_factory):
    """A run of one step with one or two example rows, as frames."""
    folder = tmp_path_factory.mktemp("runs") / "examples"
    train(small(folder, "+exp=cross_frames_examples", "data.tasks=['gaussian_blur>target']", "trainer.max_steps=1"))
    return folder


DRAWS = ("bench=emoji_deblur_examples", "evaluation.items=3", "evaluation.examples=3", "data.limit=200")
DRAWS += ("solver.steps=1", PIXELS)


def test_several_draws_of_the_examples_for_the_same_items_and_noise(in_context, tmp_path, capsys, samples):
    out = tmp_path / "draws"
    assert command("evaluate.py", f"run={in_context}", f"out={out}", *DRAWS, kept_images()) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the same items in 3 draws of the examples, all else equal" in said and "draws of the noise" not in said
    records, found = lines(out / "manifest.jsonl"), result(out)
    assert [(r["item"], r["image"], r["seed"], r["examples"]) for r in records] == [
        (item, draw, 0, draw) for draw in range(3) for item in range(3)
    ]
    assert samples[0] == samples[1] == samples[2] and len(samples) == 3, "keys decide the noise"
    outputs = [np.asarray(Image.open(out / r["files"]["output"])) for r in records if r["item"] == 0]
    assert not np.array_equal(outputs[0], outputs[1]) and not np.array_equal(outputs[1], outputs[2])
    scores = np.array([[s["rmse"] for s in lines(out / "scores.jsonl") if s["item"] == item] for item in range(3)])
    spread = found["metrics"]["rmse"]["over_examples"]
    assert spread["deviation"] == pytest.approx(scores.std(1, ddof=1).mean())
    assert spread["values"] == pytest.approx(scores.mean(0).tolist()) and spread["draws"] == 3
    assert (spread["best"], spread["worst"]) == (min(spread["values"]), max(spread["values"])), "lower is better"
    assert found["metrics"]["rmse"]["value"] == pytest.approx(scores.mean()) and found["protocol"]["examples"] == 3
    one = tmp_path / "one"
    words = [*DRAWS, "evaluation.examples=1", "data.test_example_seed=2"]
    assert command("evaluate.py", f"run={in_context}", f"out={one}", *words, kept_images()) == 0
    [value] = [s["rmse"] for s in lines(one / "scores.jsonl") if s["item"] == 0]
    assert value == pytest.approx(scores[0, 2]) and value != pytest.approx(scores[0, 0]), "the third draw, by its seed"
    assert "over_examples" not in result(one)["metrics"]["rmse"]
    assert result(one)["protocol"]["test_example_seed"] == 2


def test_the_spread_over_the_noise_for_comparison(in_context, tmp_path, capsys):
    out, words = tmp_path / "noise", [*DRAWS, "evaluation.examples=1", "evaluation.images=2"]
    assert command("evaluate.py", f"run={in_context}", f"out={out}", *words, kept_images()) == 0
    assert result(out)["metrics"]["ssim"].keys() >= {"over_noise"} and "over_examples" not in result(out)["metrics"]
    assert "the same items in 2 draws of the noise, all else equal" in " ".join(capsys.readouterr().out.split())


def test_examples_cannot_be_drawn_where_none_are_shown(run_dir, in_context, tmp_path, capfd):
    for words, said in (
        (["data.test_rows=[0,0]"], r"this benchmark shows none (data.test_rows=[0, 0])"),
        (["evaluation.examples=0"], "evaluation.examples"),
    ):
        assert command("evaluate.py", f"run={in_context}", f"out={tmp_path}", *DRAWS, *words, kept_images()) == 1
        assert said in capfd.readouterr().err


def test_images_drawn_before_examples_could_be_asked_for_are_of_the_same_request(drawn):
    """A gallery's request does not mention what is as it always was."""
    asked = json.loads((drawn / "protocol.json").read_text())["asked"]
    assert asked["evaluation"] == {"items": 4, "images": 1, "seed": 0} and "test_example_seed" not in asked["data"]
