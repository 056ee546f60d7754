"""The node "unigen sample", called as ComfyUI calls it: its images are those that sample.py writes."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import command
from tiny import ROOT
from visual_prompts import CLEAN, exported

from unigen import comfyui
from unigen.comfyui import node
from unigen.pipeline import export

IMAGES = ROOT / "docs" / "own_images"
RUN = "shipped:universal"
USUAL = {"run": RUN, "task": "canny>target", "prompt": "a boat", "seed": 3, "steps": 2}


def loaded(*names: str) -> torch.Tensor:
    """Images as ComfyUI's LoadImage gives them: float (B, H, W, 3) in 0..1."""
    images = [np.asarray(Image.open(IMAGES / f"{name}.png").convert("RGB")) for name in names]
    return torch.from_numpy(np.stack(images).astype(np.float32) / 255)


def called(mappings=comfyui.NODE_CLASS_MAPPINGS, **given) -> torch.Tensor:
    """What ComfyUI does with a node: an instance of the class, its FUNCTION with the inputs by name, a tuple."""
    cls = mappings["UnigenSample"]
    inputs = cls.INPUT_TYPES()
    assert set(given) <= set(inputs["required"]) | set(inputs["optional"])
    with torch.inference_mode():
        made = getattr(cls(), cls.FUNCTION)(**{**USUAL, **given})
    assert isinstance(made, tuple) and len(made) == len(cls.RETURN_TYPES)
    return made[0]


def bytes_of(images: torch.Tensor) -> np.ndarray:
    return (images * 255).round().byte().numpy()


def written(tmp_path: Path, *words: str, out: str = "out.png", what: str | None = None) -> np.ndarray:
    assert command("sample.py", f"run={RUN}", "prompt=a boat", "steps=2", *words, f"out={tmp_path / out}") == 0
    return np.asarray(Image.open(tmp_path / (what or out)))


def test_the_image_is_that_of_sample_py(tmp_path):
    made = called(condition=loaded("boat"))
    words = ("task=canny>target", f"condition={IMAGES / 'boat.png'}")
    assert made.dtype == torch.float32 and made.shape == (1, 64, 64, 3) and 0 <= made.min() <= made.max() <= 1
    assert np.array_equal(bytes_of(made)[0], written(tmp_path, *words, "seed=3"))
    assert not np.array_equal(bytes_of(made)[0], written(tmp_path, *words, "seed=4")), "negative control"
    assert np.array_equal(bytes_of(called(condition=loaded("boat"), seed=4))[0], written(tmp_path, *words, "seed=4"))


def test_each_image_of_a_batch_has_its_own_result(tmp_path):
    made = bytes_of(called(condition=loaded("boat", "house")))
    assert made.shape == (2, 64, 64, 3)
    for k, name in enumerate(("boat", "house")):
        words = ("task=canny>target", f"condition={IMAGES / name}.png", "seed=3")
        assert np.array_equal(made[k], written(tmp_path, *words, out=f"{name}.png"))
    assert not np.array_equal(made[0], made[1]), "negative control"


def test_examples_are_rows_and_settings_are_words(tmp_path):
    pairs = {"example_condition": ("house_blurred", "mushroom_blurred"), "example_target": ("house", "mushroom")}
    examples = {name: loaded(*files) for name, files in pairs.items()}
    made = bytes_of(called(condition=loaded("boat_blurred"), **examples, guidance=2.5, negative="grey"))
    rows = [[f"{IMAGES / name}_blurred.png", f"{IMAGES / name}.png"] for name in ("house", "mushroom")]
    rows = str([*rows, [f"{IMAGES / 'boat_blurred.png'}", None]]).replace("None", "null")
    words = ("task=canny>target", f"rows={rows}", "seed=3", "guidance=2.5", "negative=grey")
    assert np.array_equal(made[0], written(tmp_path, *words))
    other = {**examples, "example_target": loaded("mushroom", "house")}
    other = bytes_of(called(condition=loaded("boat_blurred"), **other, guidance=2.5, negative="grey"))
    assert not np.array_equal(made, other), "negative control"


def test_several_conditions_a_text_alone_and_a_clip(tmp_path):
    assert node.image_words((), []) == {}, "a task from text alone"
    two = bytes_of(called(task="canny+reference>target", condition=loaded("boat"), condition_2=loaded("house")))
    words = ("task=canny+reference>target", f"condition=[{IMAGES / 'boat.png'},{IMAGES / 'house.png'}]", "seed=3")
    assert np.array_equal(two[0], written(tmp_path, *words))
    three = called(task="canny+reference>target", condition=loaded("boat", "boat", "boat"), condition_2=loaded("house"))
    assert np.array_equal(bytes_of(three)[2], two[0]), "one image stands for all"
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "clip.png", save_all=True, append_images=frames[1:])
    clip = node.read(tmp_path / "clip.png")
    assert clip.shape == (2, 6, 8, 3) and clip[1, 0, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"run": "shipped:nothing"}, "run=shipped:nothing is not shipped; legal are"),
        ({"run": "nowhere"}, "run=nowhere is no folder; give a finished run folder"),
        ({"task": "cany>target"}, "cany"),
        ({"task": ""}, "say which by task="),
        ({"condition": None}, "say either condition=<...> or rows=<...>; all tasks of this run show a condition"),
        ({"condition": loaded("boat")[0]}, r"condition is of shape \(.*\); an IMAGE is \(images, height, width, 3\)"),
        (
            {"condition": (loaded("boat") * 255).byte()},
            "condition holds torch.uint8; an IMAGE holds floating",
        ),
        ({"condition": loaded("boat") * torch.nan}, "condition holds numbers that are not finite; an IMAGE holds"),
        ({"condition": loaded("boat", "boat"), "condition_2": loaded("boat", "house", "boat")}, "2 images .* has 3"),
        ({"example_target": loaded("boat")}, "the query has 1 conditions and an example 1 images; connect"),
        ({"example_condition": loaded("boat"), "example_target": loaded("boat"), "prepared": True}, "prepared= goes"),
    ],
)
def test_what_is_wrong_is_one_sentence(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said) as caught:
        called(**{"condition": loaded("boat"), **given})
    assert "\n" not in str(caught.value) and not any(tmp_path.iterdir())


def test_the_run_is_read_once_and_again_when_it_was_written_anew(tmp_path, monkeypatch):
    run, other = (exported(tmp_path / name, *CLEAN) for name in ("run", "other"))
    reads, load = [], export.load
    monkeypatch.setattr(export, "load", lambda folder: reads.append(folder) or load(folder))
    given = {"task": "", "example_condition": loaded("boat"), "example_target": loaded("house"), "steps": 1}
    given |= {"condition": loaded("mushroom")}
    first = called(run=str(run), **given)
    assert torch.equal(called(run=str(run), **given), first) and len(reads) == 1
    cls = comfyui.NODE_CLASS_MAPPINGS["UnigenSample"]
    before = cls.IS_CHANGED(run=str(run), task="")
    (run / "export" / export.CONFIG_FILE).touch()
    assert cls.IS_CHANGED(run=str(run), task="") != before and cls.IS_CHANGED(run="nowhere") == 0
    called(run=str(run), **given)
    called(run=str(other), **given)
    assert len(reads) == 3 and len(node.models()._kept) == 1


def test_comfyui_sees_the_steps_and_can_interrupt(monkeypatch):
    told: list[tuple[int, int]] = []

    class Interrupted(Exception):
        pass

    def interrupt() -> None:
        if len(told) == 3:
            raise Interrupted

    bar = SimpleNamespace(update_absolute=lambda value, total: told.append((value, total)))
    monkeypatch.setitem(sys.modules, "comfy.utils", SimpleNamespace(ProgressBar=lambda total: bar))
    fake = SimpleNamespace(throw_exception_if_processing_interrupted=interrupt)
    monkeypatch.setitem(sys.modules, "comfy.model_management", fake)
    with pytest.raises(Interrupted):
        called(condition=loaded("boat", "house"))
    assert told == [(1, 4), (2, 4), (3, 4)]


def test_it_is_loaded_from_a_link_and_from_a_file_of_one_line(tmp_path):
    """As ComfyUI does it, by path; `from a link` also where this project is not installed."""
    (tmp_path / "unigen_nodes").symlink_to(Path(comfyui.__file__).parent)
    (tmp_path / "unigen_nodes.py").write_text("from unigen.comfyui import *\n")
    for path in (tmp_path / "unigen_nodes" / "__init__.py", tmp_path / "unigen_nodes.py"):
        spec = importlib.util.spec_from_file_location(str(path).replace(".", "_x_"), path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.NODE_CLASS_MAPPINGS == comfyui.NODE_CLASS_MAPPINGS
        assert module.NODE_DISPLAY_NAME_MAPPINGS == {"UnigenSample": "unigen sample"}
    assert np.isfinite(called(module.NODE_CLASS_MAPPINGS, condition=loaded("boat"))).all()
    script = f"""
import importlib.abc, importlib.util, sys
ours = lambda path: path.startswith({str(ROOT)!r}) and "site-packages" not in path  # not an environment within it
sys.path[:] = [path for path in sys.path if path and not ours(path)]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in f"{{f}}".lower()]
sys.path_importer_cache.clear()
assert importlib.util.find_spec("unigen") is None
spec = importlib.util.spec_from_file_location("linked", {str(tmp_path / "unigen_nodes" / "__init__.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import unigen
assert unigen.__file__.startswith({str(ROOT)!r}) and not {{"comfy", "gradio", "lightning"}} & set(sys.modules)
print(*module.NODE_CLASS_MAPPINGS)
"""
    done = subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, capture_output=True, text=True, env={})
    assert done.stdout == "UnigenSample\n", done.stderr
