"""sample.py on runs of other data than the bundled ones, in the formats of images, and the words that it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import command
from tiny import composed
from visual_prompts import FILL, exported, image_file

from datamodules.reading.drawing import canny
from unigen.config.files import CLIPS, IMAGES
from unigen.training import experiment as training

OWN = ("data=own_folder", "data.train.root=/nowhere", "data.rows=[0,0]")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """As of `run.py data=own_folder task=canny`, whose folder of images is gone by now."""
    return exported(tmp_path_factory.mktemp("own"), *OWN, tasks=("canny>target",))


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """As of `run.py data=own_folder task=graph` with tasks of several images."""
    folder = tmp_path_factory.mktemp("several")
    words = (
        *OWN,
        "task=graph",
        "data.rows=[0,0]",
        "conditioning/embedding=none",
        "data.train.annotations=[depth,normal]",
    )
    return exported(folder, *words, tasks=("target>depth", "depth>target", "canny>target"))


def draw(capfd, run: Path, *words: str) -> dict[str, Path]:
    """What sample.py says that it wrote."""
    code, said = command("sample.py", f"run={run}", *words), capfd.readouterr()
    assert code == 0, said.err
    return {what: Path(path) for what, path in (line.split(": ", 1) for line in said.out.strip().splitlines())}


def refused(capfd, run: Path, *words: str) -> str:
    """The one sentence that sample.py says."""
    capfd.readouterr()
    assert command("sample.py", f"run={run}", *words) == 1
    error = capfd.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    return error


def test_a_run_on_a_folder_of_ones_own_draws_an_image_of_ones_own(run, tmp_path, capfd):
    path = image_file(tmp_path / "mine.png")
    made = draw(capfd, run, f"condition={path}", f"out={tmp_path / 'out.png'}", "prompt=a cat")
    with Image.open(made["condition"]) as condition, Image.open(path) as mine:
        edges = canny(np.asarray(mine).transpose(2, 0, 1)).transpose(1, 2, 0)
        assert np.array_equal(np.asarray(condition), edges) and edges.any()
    assert Image.open(made["output"]).size == (32, 32)
    assert "task=depth>target needs a depth" in refused(capfd, run, f"condition={path}", "task=depth>target")


def test_the_shape_of_the_image_decides_among_the_ratios_of_the_run(tmp_path, capfd):
    run = exported(tmp_path, *OWN, "data.ratios=['1:1','3:2']", size=64, tasks=("canny>target",))
    for size, wanted in (((90, 60), (64, 48)), ((50, 50), (64, 64))):
        made = draw(capfd, run, f"condition={image_file(tmp_path / 'a.png', size)}", f"out={tmp_path / 'out.png'}")
        assert Image.open(made["output"]).size == wanted


@pytest.mark.parametrize("ending", [*IMAGES, ".JPG"])
def test_the_ending_decides_the_format(ending, run, tmp_path, capfd):
    path = image_file(tmp_path / "mine.png")
    made = draw(capfd, run, f"condition={path}", f"out={tmp_path / 'new' / f'out{ending}'}")
    assert {file.name for file in made.values()} == {f"out{ending}", f"out_condition{ending}"}
    with Image.open(made["output"]) as image:
        assert image.format == IMAGES[ending.lower()] and image.size == (32, 32)
    plain = draw(capfd, run, f"condition={path}", f"out={tmp_path / 'plain.png'}")["output"]
    with Image.open(plain) as one, Image.open(made["output"]) as other:
        difference = np.abs(np.asarray(one).astype(int) - np.asarray(other.convert("RGB"))).mean()
    assert difference < 8 if ending.lower() in (".jpg", ".jpeg", ".gif") else difference == 0


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("out.xyz", "out.xyz ends in '.xyz'; legal are .png, .jpg, .jpeg, .webp, .gif, .bmp, .tif, .tiff"),
        ("out", "out has no ending; legal are .png"),
        ("", " is a folder; name a file in it, such as "),
        ("mine.png/out.png", "mine.png is a file, not a folder"),
        ("/proc/x.png", "out=/proc/x.png cannot be written: no file can be made in the folder /proc"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_anything_is_drawn(
    out, said, run, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr("unigen.pipeline.export.load", lambda folder: pytest.fail("the weights were read"))
    path = image_file(tmp_path / "mine.png")
    assert said in refused(capfd, run, f"condition={path}", f"out={tmp_path / out}")
    assert said in refused(capfd, run, f"rows=[[{path},null]]", f"out={tmp_path / out}")


def test_without_out_nothing_is_written_over(run, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sample_2_condition.png").write_text("mine")
    path = image_file(tmp_path / "mine.png")
    for stem in ("sample", "sample_3", "sample_4"):
        made = draw(capfd, run, f"condition={path}", "steps=1")
        assert made == {"condition": Path(f"{stem}_condition.png"), "output": Path(f"{stem}.png")}
    assert Path("sample_2_condition.png").read_text() == "mine" and not Path("sample_2.png").exists()
    assert draw(capfd, run, f"condition={path}", "steps=1", "out=sample.png")["output"] == Path("sample.png")


def test_no_prompt_and_an_empty_one_are_the_same(run, tmp_path, capfd):
    path, made = image_file(tmp_path / "mine.png"), {}
    for name, words in {"none": [], "empty": ["prompt="], "some": ["prompt=a cat"]}.items():
        made[name] = draw(capfd, run, f"condition={path}", f"out={tmp_path / f'{name}.png'}", *words)["output"]
    assert made["none"].read_bytes() == made["empty"].read_bytes() != made["some"].read_bytes()
    assert "'seed=' is not key=value" in refused(capfd, run, f"condition={path}", "seed=")


def test_several_conditions_and_several_targets(several, tmp_path, capfd):
    one, other = (image_file(tmp_path / f"{name}.png", seed=seed) for seed, name in enumerate("ab"))
    out = f"out={tmp_path / 'out.png'}"
    made = draw(capfd, several, f"condition={one}", "task=target>depth+normal", out)
    assert {what: path.name for what, path in made.items()} == {
        "condition": "out_condition.png",
        "target0": "out_target0.png",
        "target1": "out_target1.png",
    }
    made = draw(capfd, several, f"condition=[{one},{other}]", "task=depth+normal>target", "prepared=true", out)
    assert made.keys() == {"condition0", "condition1", "output"}
    assert made["condition0"].read_bytes() != made["condition1"].read_bytes()
    task = ("task=depth+normal>target", out)
    assert "give an image for each of what it shows" in refused(capfd, several, f"condition={one}", *task)
    assert "is no list of file names" in refused(capfd, several, "condition=[[a],b]", *task)
    assert "cannot be read" in refused(capfd, several, "condition=[a,'b]", *task)


def test_a_clip_follows_an_image(tmp_path, capfd):
    """It goes whole into a format of clips; one of stills is refused before anything is drawn."""
    forms = "data.forms={next:{first:true,frames:2,share:1.0}}"
    run = exported(tmp_path, "task=clip", forms, "conditioning/embedding=none", tasks=("clip",))
    path = image_file(tmp_path / "mine.png")
    for ending in CLIPS:
        made = draw(capfd, run, f"condition={path}", f"out={tmp_path / f'out{ending}'}")
        with Image.open(made["output"]) as clip, Image.open(made["first"]) as first:
            assert (clip.n_frames, getattr(first, "n_frames", 1)) == (2, 1)
    said = refused(capfd, run, f"condition={path}", f"out={tmp_path / 'out.jpg'}")
    assert "out= ends in '.jpg', but 2 frames are drawn; legal are .png, .webp, .gif" in said


def test_a_column_that_the_graph_has_not_is_refused(tmp_path, capfd):
    """On any data with an annotation graph."""
    path = image_file(tmp_path / "mine.png")
    for data in ((), OWN):
        run = exported(tmp_path / f"run{len(data)}", *data, *FILL, "instruction@data.instruction=short")
        rows = f"rows=[[{path},null]]"
        said = refused(capfd, run, rows, "columns=[cany,target]")
        assert "columns: the run's graph has no image 'cany'; did you mean 'canny'?" in said
        assert "has no image 'zzz'; legal are " in refused(capfd, run, rows, "columns=[zzz,target]")
        draw(capfd, run, rows, "columns=[canny,target]", f"out={tmp_path / 'out.png'}")


def test_data_that_take_no_image_say_so(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("UNIGEN_PLUGINS", "torch")
    path = image_file(tmp_path / "mine.png")
    run = exported(tmp_path / "clips", "task=clip", "conditioning/embedding=none", tasks=("clip",))
    about = json.loads((run / "export" / "unigen.json").read_text())
    about["config"]["data"]["forms"] = {"still": {"first": False, "frames": 1, "share": 1.0}}
    (run / "export" / "unigen.json").write_text(json.dumps(about))
    assert "takes no image of your own as condition=: no form of data.forms shows one image" in refused(
        capfd, run, f"condition={path}"
    )
    about["config"]["data"] = {"_target_": "torch.nn.Identity"}
    (run / "export" / "unigen.json").write_text(json.dumps(about))
    assert "Identity has no method user_sample" in refused(capfd, run, f"condition={path}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=graph", "data.rows=[1,2]", *FILL], "rows=[1, 2]: in training every sample had example rows"),
        (["task=graph", "data.rows=[0,2]", *FILL], ""),
        (["task=graph", "data.rows=[1,2]", *FILL, "data=own_folder", "data.train.root=/nowhere"], "rows=[1, 2]: in"),
        (["task=clip", "conditioning/embedding=none"], ""),
        (["data=own_folder", "task=canny", "data.train.root=/nowhere"], ""),
    ],
)
def test_a_run_that_no_image_can_go_through_says_so_before_it_trains(words, said, tmp_path, capsys):
    training.dry_run(composed(*words, f"run_dir={tmp_path}"))
    shown = " ".join(capsys.readouterr().out.split())
    assert (f"sample.py condition= will not work: {said}" in shown) if said else "will not work" not in shown
