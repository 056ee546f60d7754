"""A whole run on a folder of a user's own images: what is left out and refused is said, and a few images are enough."""

from pathlib import Path

import pytest
from PIL import Image
from small_runs import SMALL, command, small, summary, train
from tiny import composed

from unigen.evaluation.scoring import graph_facts
from unigen.pipeline.build import build

pytestmark = pytest.mark.usefixtures("without_heif")


def images(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.linear_gradient("L").rotate(12 * i).resize((40, 40)).convert("RGB").save(folder / f"{i}.png")
    return folder


def words(root: Path, *more: str) -> list[str]:
    """The command line of a small run on a folder."""
    given = ["data=own_folder", f"data.train.root={root}", "data.rows=[0,0]", "data.num_workers=0", "metric=[psnr]"]
    given += [word for word in SMALL if not word.startswith(("data.limit", "metric="))]
    return [*given, "conditioning/embedding=none", "logger=[jsonl]", *more]


def test_a_run_on_a_folder_reports_its_bad_records(tmp_path, capfd):
    """One of thirty images is cut short. The report stays in summary.json."""
    root = images(tmp_path / "data", 30)
    given = words(root, "task=graph", "data.tasks=['canny>target','jpeg>target']")
    train(composed(*given, f"run_dir={tmp_path / 'whole'}"))
    assert summary(tmp_path / "whole")["data_report"] == "no record was refused"
    assert "data: 30 images (18 train, 6 val, 6 test), 0 with captions\n" in capfd.readouterr().out
    (root / "12.png").write_bytes((root / "12.png").read_bytes()[:-40])
    train(composed(*given, "data.bad_share=0.5", "trainer.max_steps=6", f"run_dir={tmp_path / 'run'}"))
    found = summary(tmp_path / "run")
    assert found["data_report"].startswith("1 record was refused, 1 as '12.png': ")
    assert f"data: {found['data_report']}" in capfd.readouterr().out
    assert found["protocol"]["test_set"] == "OwnFolder(limit=None, annotations=[], computed={}, held_out=5)"
    assert found["protocol"]["split"] == "test"
    train(small(tmp_path / "emoji", "trainer.max_steps=1"))
    assert "data_report" not in summary(tmp_path / "emoji"), "negative control"


def test_a_run_on_five_images_trains_on_all_and_says_what_its_scores_are_of(tmp_path, capfd):
    root = images(tmp_path / "data", 5)
    (root / "0.caption").write_text("a ramp")
    (root / "1.heic").write_text("x")
    train(composed(*words(root, "task=canny"), f"run_dir={tmp_path / 'run'}"))
    out, found = capfd.readouterr().out, summary(tmp_path / "run")
    said = "val and test show training images, so their scores are not of held-out images: data.held_out=5 holds"
    left = "left out: 1.heic (no decoder: pip install pillow-heif)"
    assert f"data: 5 images (5 train, 5 val, 5 test), 1 with captions; {said}" in out and out.count(left) == 2
    assert "4 training samples, task canny" in out
    assert found["data_report"].startswith(f"no record was refused; {said}") and left in found["data_report"]
    assert found["protocol"]["split"] == "train, as nothing was held out"


@pytest.mark.slow
def test_a_dry_run_says_what_is_in_a_folder_that_is_there(tmp_path, capsys):
    root = images(tmp_path / "data", 2)
    for folder, said in ((root, "data: 2 images (2 train, 2 val, 2 test)"), (tmp_path / "nowhere", "")):
        assert command("run.py", *words(folder, "task=canny", "dry_run=true"), f"run_dir={tmp_path / 'run'}") == 0
        out = capsys.readouterr().out
        assert said in out and "batch of an update" in out and (said or "data:" not in out)


def test_val_and_test_are_folders_of_their_own(tmp_path):
    roots = {"train": 12, "val": 3, "test": 2}
    named = {f"data.{split}.root={images(tmp_path / split, n)}": split for split, n in roots.items()}
    for split in ("val", "test"):  # what is said of train holds for them too
        word = next(word for word, own in named.items() if own == split)
        config = composed(*words(tmp_path / "train", "task=canny", word, "data.train.annotations=[depth]"))
        made = build(config["data"])
        assert len(made.sources[split]) == roots[split] and made.sources[split].annotations == ("depth",)
        assert made.not_given == tuple({"val", "test"} - {split}) and len(made.sources["train"]) < 12
    config = composed(*words(tmp_path / "train", "task=canny", *named))
    said = build(config["data"]).said()
    assert said.startswith("images: 12 train, 3 val, 2 test") and "training images" not in said
    assert graph_facts(config["data"])["test_set"] == "other_images(limit=None, annotations=[], computed={})"
    config = composed(*words(tmp_path / "train", "task=canny"))
    assert build(config["data"]).said().startswith("12 images (6 train, 4 val, 2 test)"), "negative control"
    assert "held_out=5" in graph_facts(config["data"])["test_set"]


def test_a_value_that_is_no_folder_is_one_sentence(tmp_path, capsys):
    root = images(tmp_path / "data", 12)
    for word, said in (
        ("data.val=/x", "'data.val' is '/x' on the command line; expected a mapping of _target_, root, "),
        ("data.val.root=7", "there is no folder '7' with images"),
        (f"data.train.root={root / '3.png'}", f"'{root / '3.png'}' is a file, not a folder with images; name a folder"),
    ):
        assert command("run.py", *words(root, "task=canny", word), f"run_dir={tmp_path / 'run'}") == 1
        assert capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.parametrize("count", [1, 12])
def test_the_preview_says_what_the_data_are(tmp_path, capsys, count):
    root = images(tmp_path / "data", count)
    (root / "a.heic").write_text("x")
    code = command("preview.py", *words(root, "task=canny", "samples=1", f"out={tmp_path / 'page.html'}"))
    said = {1: "1 image (1 train, 1 val, 1 test), 0 with", 12: "12 images (6 train, 4 val, 2 test), 0 with"}[count]
    page = (tmp_path / "page.html").read_text()
    for text in (capsys.readouterr().out, page):
        assert said in text and "left out: a.heic (no decoder: pip install pillow-heif)" in text
    assert code == 0


def test_a_task_without_its_files_ends_before_training(tmp_path, capsys):
    root = images(tmp_path / "data", 8)
    given = words(root, "task=graph", "data.tasks=['depth>target']")
    assert command("run.py", *given, "data.train.annotations=[depth]", f"run_dir={tmp_path / 'named'}") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no depth file beside any of 8 images, which task depth>target needs: looked for ")
    assert command("run.py", *given, f"run_dir={tmp_path / 'run'}") == 1
    assert "with data.train.annotations=[depth], photo" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_exported_and_drawn_from_where_its_folder_is_gone(tmp_path, capfd):
    folder, run = tmp_path / "images", tmp_path / "run"
    folder.mkdir()
    for i in range(20):
        Image.linear_gradient("L").rotate(12 * i).resize((40, 40)).convert("RGB").save(folder / f"{i}.png")
    words = ["data=own_folder", "task=canny", f"data.train.root={folder}", "data.num_workers=0", "logger=[jsonl]"]
    words += [word for word in SMALL if not word.startswith(("data.limit", "metric=", "trainer.max"))]
    train(composed(*words, "metric=[psnr]", "trainer.max_steps=1", f"run_dir={run}"))
    image = (folder / "3.png").rename(tmp_path / "mine.png")
    folder.rename(tmp_path / "elsewhere")
    assert command("export.py", f"run={run}", f"out={tmp_path / 'made'}") == 0, capfd.readouterr().err
    for name in ("unigen.json", "unigen_modules.safetensors"):
        assert (tmp_path / "made" / name).read_bytes() == (run / "export" / name).read_bytes()
    words = [f"run={run}", f"condition={image}", f"out={tmp_path / 'out.jpg'}", "prompt="]
    assert command("sample.py", *words) == 0, capfd.readouterr().err
    assert Image.open(tmp_path / "out.jpg").format == "JPEG"
