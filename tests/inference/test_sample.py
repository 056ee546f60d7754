"""A user's own image through a trained run: what works, and one sentence for everything that cannot."""

import shutil

import pytest
import torch
from PIL import Image
from small_runs import command, small, train

from unigen.inference.sampling import task_of


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train(small(folder, "+exp=fcd_mask_a", "trainer.max_steps=1"))
    return folder


def image_file(path, mode="RGB", size=(50, 40), **options):
    """A gradient from dark to light, left to right."""
    ramp = Image.linear_gradient("L").rotate(90).resize(size).convert(mode)
    ramp.save(path, **options)
    return path


def draw(capfd, run_dir, path, out, *words: str) -> str:
    code = command("sample.py", f"run={run_dir}", f"condition={path}", f"out={out}", *words)
    said = capfd.readouterr()
    assert code == 0, said.err
    return said.out


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGBA"), ("a.png", "L"), ("a.jpg", "RGB"), ("a.webp", "RGB")])
def test_images_of_every_kind(name, mode, run_dir, tmp_path, capfd):
    out = tmp_path / "made" / "out.png"
    said = draw(capfd, run_dir, image_file(tmp_path / name, mode), out, "prompt=red apple")
    condition = out.with_name("out_condition.png")
    assert said.splitlines()[-2:] == [f"condition: {condition}", f"output: {out}"]
    for path in (out, condition):
        with Image.open(path) as made:
            assert (made.size, made.mode, made.format) == ((32, 32), "RGB", "PNG")


def test_a_photograph_is_turned_upright(run_dir, tmp_path, capfd):
    """Orientation 3 is upside down: then the condition is the same image turned by 180 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 3
    images = {}
    for name, options in {"plain": {}, "turned": {"exif": exif}}.items():
        path = image_file(tmp_path / f"{name}.png", size=(32, 32), **options)
        draw(capfd, run_dir, path, tmp_path / f"{name}_out.png", "prepared=true")
        with Image.open(tmp_path / f"{name}_out_condition.png") as condition:
            images[name] = condition.copy()
    assert images["turned"].tobytes() == images["plain"].rotate(180).tobytes()
    assert images["turned"].tobytes() != images["plain"].tobytes(), "negative control"


def test_the_seed_decides_and_the_condition_is_edges_unless_prepared(run_dir, tmp_path, capfd):
    path = image_file(tmp_path / "mine.png", size=(32, 32))
    made = {}
    for name, words in {"a": [], "b": ["seed=0"], "c": ["seed=1"], "d": ["prepared=true"], "e": ["steps=1"]}.items():
        draw(capfd, run_dir, path, tmp_path / f"{name}.png", *words)
        made[name] = (tmp_path / f"{name}.png").read_bytes()
    assert made["a"] == made["b"] and made["a"] not in (made["c"], made["e"])
    with Image.open(tmp_path / "a_condition.png") as edges, Image.open(tmp_path / "d_condition.png") as given:
        assert set(edges.tobytes()) <= {0, 255} and len(set(given.tobytes())) > 2


def test_a_task_may_be_named_by_its_condition(run_dir, tmp_path, capfd):
    path = image_file(tmp_path / "mine.png", size=(32, 32))
    for name, task in {"short": "canny", "whole": "canny>target"}.items():
        draw(capfd, run_dir, path, tmp_path / f"{name}.png", f"task={task}")
    assert (tmp_path / "short.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    tasks = ("canny>target", "reference>target")
    assert task_of({"task": "subject"}, tasks, {"subject": ["reference>target"]}) == "reference>target"
    assert task_of({"task": "subject"}, tasks, {"subject": ["a>target", "reference>target"]}) == "subject"
    assert task_of({"task": "target>canny"}, tasks) == "target>canny", "negative control: others stay as they are"


def test_a_moved_run_still_samples(run_dir, tmp_path, capfd):
    moved = shutil.copytree(run_dir, tmp_path / "moved")
    shutil.rmtree(moved / "checkpoints")
    path = image_file(tmp_path / "a.png")
    for folder in (run_dir, moved):
        draw(capfd, folder, path, tmp_path / f"{folder.name}.png")
    assert (tmp_path / "moved.png").read_bytes() == (tmp_path / "trained.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["condition={tmp}/none.png"], "cannot read image '{tmp}/none.png': there is no such file"),
        (["condition={tmp}/text.png"], "cannot read image '{tmp}/text.png': no known image format"),
        (["condition={tmp}"], "cannot read image '{tmp}': it is a folder"),
        (["run={tmp}"], "{tmp}/export holds no export (unigen.json is missing): a run writes it when it finishes"),
        (["run={tmp}/none"], "run={tmp}/none is no folder"),
        (["task=sketch"], "'sketch' is no task; write conditions>targets"),
        (["task=cany>target"], "unknown annotation 'cany' in 'cany>target'; did you mean 'canny'?"),
        (["task=blur>target"], "task 'blur>target' has no bias in conditioning.embedding.tasks; it knows canny>target"),
        (["promt=x"], "unknown key 'promt' (did you mean 'prompt'?)"),
        (["word"], "'word' is not key=value"),
        (["seed=-1"], "seed=-1 is not a whole number of at least 0"),
        (["steps=0"], "steps=0 is not a whole number of at least 1"),
        (["guidance=nan"], "guidance=nan is not a number of at least 0.0"),
        (["guidance=inf"], "guidance=inf is not a number of at least 0.0"),
        (["prepared=yes"], "prepared=yes is neither true nor false"),
        (["out={tmp}/text.png/out.png"], "{tmp}/text.png"),
        (["out={tmp}/a.png"], "out={tmp}/a.png would overwrite the image that was given"),
        (["condition={tmp}/out_condition.png"], "out={tmp}/out.png would overwrite the image that was given"),
    ],
)
def test_bad_input_is_one_sentence(words, said, run_dir, tmp_path, capfd):
    (tmp_path / "text.png").write_text("no picture")
    image_file(tmp_path / "out_condition.png")
    usual = [f"run={run_dir}", f"condition={image_file(tmp_path / 'a.png')}", f"out={tmp_path / 'out.png'}"]
    capfd.readouterr()
    assert command("sample.py", *usual, *(word.format(tmp=tmp_path) for word in words)) == 1
    error = capfd.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    assert said.format(tmp=tmp_path) in error
    assert not (tmp_path / "out.png").exists()


def test_an_image_and_a_run_are_asked_for(capfd):
    assert command("sample.py", "prompt=x") == 1
    assert capfd.readouterr().err == "error: give run=<...>; --help explains it\n"
    assert command("sample.py", "--help") == 0
    assert "condition=  an image" in capfd.readouterr().out


def test_an_unfinished_run_says_so(run_dir, tmp_path, capfd):
    unfinished = shutil.copytree(
        run_dir, tmp_path / "unfinished", ignore=shutil.ignore_patterns("export", "summary.json")
    )
    assert command("sample.py", f"run={unfinished}", f"condition={image_file(tmp_path / 'a.png')}") == 1
    assert f"{unfinished / 'export'} holds no export" in capfd.readouterr().err


def test_what_is_sampled_is_the_average(run_dir):
    """The export holds EMA's weights, as the metrics were taken with."""
    from safetensors.torch import load_file

    kept = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    name = "parts.backbone.model.proj_out.bias"
    stored = load_file(run_dir / "export" / "unigen_modules.safetensors")["backbone.proj_out.bias"]
    assert torch.equal(stored, kept["callbacks"]["EMA"]["average"][name])
    assert not torch.equal(stored, kept["state_dict"][name])
