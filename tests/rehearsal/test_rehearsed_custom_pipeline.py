"""An export of RealGeneral in diffusers: the file that travels with it draws what unigen draws, on the same noise."""

import ast
import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from published import hub as published_hub
from published import publish
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_published import COGVIDEOX
from test_rehearsal import words
from tiny import composed, randomise

from unigen.core import canvas
from unigen.core.noise import generator
from unigen.core.types import Batch, ImageSlot, collate
from unigen.encoders import keywords
from unigen.pipeline import diffusers_cogvideox as carried
from unigen.pipeline import export
from unigen.pipeline.build import build, build_pipeline

SIDE, SEED, TASK, OTHER = 32, 5, "canny>target", "reference+canny>target"
PROMPTS = ["a red heart on a table", "two hearts"]
OWN_CLOCK = "conditioning.modulation.timing.condition=own"


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    """diffusers copies a custom pipeline's code to a cache of the user; here that is a folder of the test."""
    monkeypatch.setattr(diffusers.utils.dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


def exported(folder: Path, *more: str, tasks: Sequence[str] = (TASK,)):
    """A pipeline as the experiment has it, with no trained weight at its initial value, and its export."""
    config = composed(*words("fcd_mask_a", folder / "run", f"data.size={SIDE}", "solver.steps=3", *more))
    config["data"]["tasks"] = list(tasks)
    if "tasks" in config["conditioning"]["embedding"]:
        config["conditioning"]["embedding"]["tasks"] = list(tasks)
    pipeline = build_pipeline(config)
    trained = [p for module in pipeline.modules for p in module.parameters() if p.requires_grad]
    randomise(torch.nn.ParameterList(trained), 0.3)
    for module in pipeline.modules:
        module.eval()
    export.save(pipeline, folder / "export", config)
    return pipeline


def based(folder: Path, dtype: torch.dtype = torch.float32):
    """The stock base in diffusers, by the file in the export."""
    code = str(folder / "export" / export.PIPELINE_FILE)
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        COGVIDEOX, custom_pipeline=code, trust_remote_code=True, dtype=dtype
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def shown(count: int = 1) -> list[Image.Image]:
    g = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, SIDE, SIDE, 3), generator=g, dtype=torch.uint8)
    return [Image.fromarray(x.numpy()) for x in pixels]


@torch.no_grad()
def ours(pipeline, images: Sequence, task: str = TASK, subjects: tuple[str, ...] = ("heart",), frames: int = 1):
    """What unigen's sampling makes for these images, or lists of frames: latents (B, f, C, h, w) of the target, and its
    pixels (B, F, H, W, 3)."""
    size = len(PROMPTS)
    clips = [torch.stack([torch.tensor(np.array(frame)) for frame in each]) for each in map(frames_of, images)]
    pixels = [clip.permute(0, 3, 1, 2)[None].repeat(size, 1, 1, 1, 1) for clip in clips]
    pixels.append(torch.zeros(size, frames, 3, SIDE, SIDE, dtype=torch.uint8))
    names = [*(f"condition{i}" for i in range(len(images))), "target"]
    roles = [name.rstrip("0123456789") for name in names]
    slots = tuple(ImageSlot(n, r, SIDE, SIDE, x.shape[1], 0) for n, r, x in zip(names, roles, pixels, strict=True))
    named = dict(zip(names, pixels, strict=True))
    batch = Batch(slots, named, PROMPTS, [subjects] * size, [task] * size, ["user"] * size)
    kept, decode = [], pipeline.decode
    pipeline.decode = lambda state, plan: kept.append((state, plan)) or decode(state, plan)
    drawn = pipeline.sample(batch, SEED)["target"]
    pipeline.decode = decode
    state, plan = kept[0]
    box = canvas.from_tokens(state["target"], plan.layout["target"].grid, plan.geometry.patch)
    return canvas.unpad(box, plan.geometry.latent_frames(frames), "replicate"), drawn.permute(0, 1, 3, 4, 2)


def frames_of(image: Image.Image | list[Image.Image]) -> list[Image.Image]:
    return [image] if isinstance(image, Image.Image) else image


def theirs(pipe, images: Sequence[Image.Image], **more) -> torch.Tensor:
    """The latents of the custom pipeline on the same noise."""
    given = {"subject": "heart", "seed": SEED, **more}
    return pipe(list(images), PROMPTS, output_type="latent", **given).images


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


ARMS = [
    (),
    ("mask=fcd_d",),
    ("mask=fcd_b", OWN_CLOCK, "conditioning.modulation.timing.text=own"),  # unigen computes the condition once
    ("mask=fcd_c", "guidance.drop=[text,condition]", "solver.steps=7"),  # 7 steps do not divide 1000
    ("conditioning/modulation=shared", "+guidance.hide.text=blank"),
    ("formatter.caps.condition=0.3", OWN_CLOCK),
    (
        "conditioning/adapter=lora_visualcloze",
        "backbone.pretrained=null",
    ),  # every linear, with a bias; a base of its own
    ("encoder.text.trained=true", "mask=fcd_b"),
    ("conditioning/embedding=none", "+mask.bias.target={condition: 2.5}", "guidance.strength=1"),
]


@pytest.mark.parametrize("arm", [a if len(a) < 2 else pytest.param(a, marks=pytest.mark.slow) for a in ARMS], ids=str)
def test_the_carried_file_draws_what_unigen_draws(arm, hub, tmp_path):
    pipeline = exported(tmp_path, *arm)
    pipe = based(tmp_path).load_export(tmp_path / "export")
    latents, pixels = ours(pipeline, shown())
    assert_equal(latents, theirs(pipe, shown()))
    drawn = pipe(shown(), PROMPTS, subject="heart", seed=SEED).images
    assert (torch.tensor(np.stack(drawn)).int() - pixels[:, 0].int()).abs().max() <= 1, "rounding decides a value"
    assert pixels.float().std() > 1
    assert (theirs(pipe, shown(), seed=SEED + 1) - latents).abs().max() > 0.1, "negative control: other noise"


def test_each_part_of_an_export_counts(hub, tmp_path):
    """The negative control: without the mask, the branches, UCE or guidance the file draws something else."""
    latents, _ = ours(exported(tmp_path), shown())
    pipe = based(tmp_path).load_export(tmp_path / "export")
    assert torch.equal(theirs(pipe, shown()), latents), "to the bit: attention, norms and steps are the same calls"
    makers = [generator(SEED, "sample", "user") for _ in PROMPTS]
    assert torch.equal(theirs(pipe, shown(), seed=None, generator=makers), latents)
    noise = generator(SEED, "sample", "user")
    given = torch.randn(1, 1, 16, SIDE // 8, SIDE // 8, generator=noise).repeat(2, 1, 1, 1, 1)
    assert torch.equal(theirs(pipe, shown(), seed=None, latents=given), latents)

    def changed(**more) -> float:
        return (theirs(pipe, shown(), **more) - latents).abs().max().item()

    assert changed() == 0
    rows = pipe._layout.rows
    pipe._layout.rows = {query: dict.fromkeys(row, "all") for query, row in rows.items()}
    without = {"mask": changed()}
    pipe._layout.rows = rows
    norms = [m for m in pipe.transformer.modules() if type(m).__name__ == "BranchedNorm"]
    tables = [norm.table for norm in norms]
    for norm in norms:
        norm.table = {role: "text" if role == "text" else "target" for role in norm.table}
    without["branches"] = changed()
    for norm, table in zip(norms, tables, strict=True):
        norm.table = table
    uce, pipe._uce = pipe._uce, {}
    without["UCE"] = changed()
    pipe._uce = uce
    without["subject"] = changed(subject="table")
    without["guidance"] = changed(guidance_scale=1)
    without["negative"] = changed(negative_prompt="grey")
    pipe.disable_lora()
    without["LoRA"] = changed()
    pipe.enable_lora()
    assert changed() == 0 and min(without.values()) > 1e-3, without


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_several_conditions_and_branches_that_are_no_copies(adapter, hub, tmp_path):
    """Two images that see only themselves, each with its own subject; and a run that trained the whole backbone."""
    more = ["mask=fcd_a_apart", f"conditioning/adapter={adapter}"]
    config = [word for word in words("fcd_mask_a", tmp_path) if "adapter" not in word or adapter == "lora"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys.modules[__name__], "words", lambda experiment, run, *given: [*config, *given, f"run_dir={run}"]
        )
        pipeline = exported(tmp_path, *more, tasks=(TASK, OTHER))
    pipe = based(tmp_path).load_export(tmp_path)  # a run's folder is as good as its export
    latents, _ = ours(pipeline, shown(2), OTHER, ("heart", "table"))
    assert_equal(latents, theirs(pipe, shown(2), task=OTHER, subject=["heart", "table"]))
    swapped = theirs(pipe, shown(2), task=OTHER, subject=["table", "heart"])
    assert (swapped - latents).abs().max() > 1e-3, "negative control"
    with pytest.raises(ValueError, match="task is None; this export has 2 tasks: canny>target, reference"):
        theirs(pipe, shown())
    with pytest.raises(ValueError, match="task=canny>target shows canny; image= has 2 images"):
        theirs(pipe, shown(2), task=TASK)


@pytest.mark.slow
@pytest.mark.parametrize("conditions", [0, 1])
def test_clips_and_text_alone(conditions, hub, tmp_path):
    """Nine frames are three latent ones, of which a copy fills the second temporal patch."""
    task = ["", "grey"][conditions] + ">clip"
    pipeline = exported(tmp_path, tasks=(task,))
    pipe = based(tmp_path).load_export(tmp_path / "export")
    clips = [shown(9)][:conditions]
    latents, pixels = ours(pipeline, clips, task, frames=9)
    assert latents.shape == (2, 3, 16, SIDE // 8, SIDE // 8)
    assert_equal(latents, theirs(pipe, clips, num_frames=9))
    drawn = pipe(clips or None, PROMPTS, subject="heart", seed=SEED, num_frames=9).images
    assert (torch.tensor(np.stack([np.stack(clip) for clip in drawn])).int() - pixels.int()).abs().max() <= 1
    if conditions:
        other = theirs(pipe, [shown(9)[::-1]], num_frames=9)
        assert (other - latents).abs().max() > 1e-3, "negative control: the clip backwards"


@pytest.mark.slow
def test_in_bf16_it_draws_nearly_the_same(hub, tmp_path):
    exported(tmp_path)
    whole, half = (based(tmp_path, dtype).load_export(tmp_path / "export") for dtype in (torch.float32, torch.bfloat16))
    assert {p.dtype for p in half.transformer.parameters()} == {torch.bfloat16}
    exact, rounded = theirs(whole, shown()), theirs(half, shown())
    assert rounded.dtype == torch.float32 and 0 < (exact - rounded).abs().max() < 0.1 * exact.std()
    assert len(half(shown(), PROMPTS, subject="heart", seed=SEED).images) == 2


def test_it_draws_what_sample_py_draws_from_a_file(hub, tmp_path):
    """A photo-shaped image with transparency: both crop it, and the key of the noise is the same."""
    pipeline = exported(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    config = json.loads((tmp_path / "export" / export.CONFIG_FILE).read_text())["config"]
    data = build(config["data"])
    sample = data.user_sample(str(tmp_path / "in.png"), PROMPTS[0], ("heart",), TASK, prepared=True)
    expected = pipeline.sample(collate([sample]), seed=2)["target"][0, 0].permute(1, 2, 0)
    pipe = based(tmp_path).load_export(tmp_path / "export")
    drawn = pipe(Image.open(tmp_path / "in.png"), PROMPTS[0], subject="heart", seed=2).images[0]
    assert torch.equal(torch.tensor(np.array(drawn)), expected)
    assert drawn.size == (SIDE, SIDE) and expected.float().std() > 1


# --- without unigen ---------------------------------------------------------------------------------------------------

ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("unigen", "datamodules", "callbacks", "omegaconf", "hydra", "lightning"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
try:
    import unigen
except ImportError as error:
    print(error)
import torch
from diffusers import DiffusionPipeline
from PIL import Image
base, export, image, out = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(
    base, custom_pipeline=export + "/pipeline.py", trust_remote_code=True, dtype=torch.float32
)
pipe.load_export(export)
pipe(Image.open(image), "a red heart", subject="heart", seed=2).images[0].save(out)
"""


@pytest.mark.slow
def test_a_process_that_cannot_import_unigen_draws_the_same(hub, tmp_path):
    exported(tmp_path)
    shown()[0].save(tmp_path / "in.png")
    words = [COGVIDEOX, str(tmp_path / "export"), str(tmp_path / "in.png"), str(tmp_path / "out.png")]
    environment = published_hub.words(hub) | {"HF_MODULES_CACHE": str(tmp_path / "alone"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ALONE, *words], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("unigen is blocked")
    pipe = based(tmp_path).load_export(tmp_path / "export")
    expected = pipe(shown()[0], "a red heart", subject="heart", seed=2).images[0]
    assert np.array_equal(np.array(Image.open(tmp_path / "out.png")), np.array(expected))


def test_the_file_imports_only_what_a_user_of_diffusers_has():
    tree = ast.parse(Path(carried.__file__).read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import would need another file"
            found.add(node.module.partition(".")[0])
    others = found - set(sys.stdlib_module_names)
    assert others == {"torch", "diffusers", "huggingface_hub", "PIL", "safetensors"}


WORDS = ["pot", "Pots", "a box", "berry", "tomatoes", "red-hot pan", "Käse", "3 mice", "bus", "", "fox"]
TEXTS = [
    "A pot, two POTS and boxes.",
    "berries; a tomato",
    "red–hot  pans on Ka\u0308se",
    "3 mice in a bus",
    "a\u0301 fox's",
]


def test_it_finds_the_words_of_a_subject_as_unigen_does():
    found = [(text, word) for text in TEXTS for word in WORDS if keywords.spans(text, [word])]
    assert len(found) >= 8
    assert all(carried.spans(text, word) == keywords.spans(text, [word]) for text in TEXTS for word in WORDS)


# --- refusals -------------------------------------------------------------------------------------------------------


REFUSED = {
    "formatter=grid_clean": "formatter._target_ is ",
    "formatter=frames_buffered": "formatter.buffers is [0.25, 0.5, 0.75]",
    "formatter=diagonal": "formatter.places is ",
    "formatter.temporal_padding=zero": 'formatter.temporal_padding is "zero"',
    "conditioning/slots=roles": "conditioning.slots._target_ is ",
    "conditioning.adapter.adapters={text: null, condition: cond, target: null, example: cond}": (
        "conditioning.adapter.adapters is "
    ),
    "backbone.quantize=int8": 'backbone.quantize is "int8"',
    "encoder/text=byt5_mini": "encoder.text.pool is ",
    "encoder/codec=autoencoder_mini": "encoder.codec._target_ is ",
    "encoder.text.mask_padding=true": "encoder.text.mask_padding is true",
    "process=rectified_flow": "process._target_ is ",
    "process.zero_terminal_snr=false": "process.zero_terminal_snr is false",
    "solver=dpm": "solver._target_ is ",
    "guidance.passes=[{drop: [text], strength: 3}]": "guidance.passes is ",
    "guidance.rescale=true": "guidance.rescale is true",
    "guidance.interval=[0.2,0.9]": "guidance.interval is [0.2, 0.9]",
    "+guidance.hide.condition=black": 'guidance.hide.condition is "black"',
    "guidance.drop=[text,example]": "guidance.drop has example",
    "data.rows=[1,3]": "data.rows is [1, 3]",
    "family=flux/mini": "backbone._target_ is ",
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_the_file_cannot_compute_is_refused_by_its_key(word):
    config = composed("+exp=fcd_mask_a", *(() if word.startswith("family") else ("scale=paper",)), word)
    assert any(said.startswith(REFUSED[word]) for said in carried.refusals(config)), carried.refusals(config)


def test_realgenerals_own_experiments_are_all_computed():
    for name in ("fcd_mask_c", "wo_uce", "wo_sc_adaln", "universal_frames"):
        assert carried.refusals(composed(f"+exp={name}", "scale=paper")) == [], name
    assert carried.refusals(composed("+exp=fcd_mask_a")), "negative control: the mini family's codec is its own"


def test_an_export_says_whether_it_carries_the_file(hub, tmp_path):
    exported(tmp_path)
    file, said = tmp_path / "export" / export.PIPELINE_FILE, tmp_path / "export" / export.CONFIG_FILE
    assert file.read_text() == Path(carried.__file__).read_text()
    assert json.loads(said.read_text())["diffusers"].startswith("pipeline.py computes this export in diffusers")
    exported(tmp_path, "solver=dpm")
    assert not file.exists(), "an export that was written over the other"
    assert json.loads(said.read_text())["diffusers"].startswith(
        "sample.py computes this export; no pipeline.py for diffusers is here, since solver._target_"
    )
    with pytest.raises(ValueError, match=r"solver\._target_ is .*DPM"):
        exported(tmp_path / "other")
        based(tmp_path / "other").load_export(tmp_path / "export")


def test_loading_and_calling_refuse_in_one_sentence(hub, tmp_path):
    exported(tmp_path)
    pipe, folder = based(tmp_path), tmp_path / "export"
    with pytest.raises(ValueError, match="call load_export first"):
        theirs(pipe, shown())
    with pytest.raises(ValueError, match="holds no export"):
        pipe.load_export(tmp_path / "modules")
    kept = load_file(folder / export.MODULES_FILE), (folder / export.MODULES_FILE).read_bytes()
    with safe_open(folder / export.MODULES_FILE, "pt") as file:
        header = file.metadata()
    save_file(kept[0] | {"embedding.bias": kept[0]["embedding.bias"] + 1}, folder / export.MODULES_FILE, header)
    with pytest.raises(ValueError, match="its checksum differs"):
        pipe.load_export(folder)
    (folder / export.MODULES_FILE).write_bytes(kept[1])
    pipe.load_export(folder)
    with pytest.raises(ValueError, match="has an export already"):
        pipe.load_export(folder)
    for more, said in (
        ({"task": "grey>target"}, "task is 'grey>target'; this export has 1 tasks: canny>target"),
        ({"width": 40}, "height and width are 32 and 40; legal are multiples of 16"),
        ({"num_frames": 4}, r"a clip of 4 frames cannot be encoded; legal are 1 \+ 8 n"),
        ({"latents": torch.zeros(1, 1, 16, 4, 4)}, r"latents has the shape \(1, 1, 16, 4, 4\); it must be \(2, 1"),
        ({"seed": None, "generator": [torch.Generator()]}, "generator has 1 generators for 2 prompts"),
        ({"guidance_scale": 1, "negative_prompt": "grey"}, "negative_prompt would not be used"),
    ):
        with pytest.raises(ValueError, match=said):
            theirs(pipe, shown(), **more)
    with pytest.raises(ValueError, match="shows canny; image= has 0 images"):
        theirs(pipe, [])
    with pytest.warns(UserWarning, match="UCE does not find subject='cat' in 'a red heart on a table'"):
        theirs(pipe, shown(), subject="cat")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        theirs(pipe, shown())


@pytest.mark.slow
def test_an_export_is_loaded_from_a_repository(hub, tmp_path):
    """As push.py lays it out; diffusers itself takes the code of one only where the Hub answers."""
    latents, _ = ours(exported(tmp_path), shown())
    pipe = based(tmp_path)
    (tmp_path / "pushed").mkdir()
    (tmp_path / "export").rename(tmp_path / "pushed" / "export")
    publish(tmp_path / "pushed", tmp_path / "cache", "lab/mine")
    pipe.load_export("lab/mine", cache_dir=tmp_path / "cache")
    assert_equal(latents, theirs(pipe, shown()))


def test_a_base_of_another_size_is_refused(hub, tmp_path):
    exported(tmp_path)
    said = json.loads((tmp_path / "export" / export.CONFIG_FILE).read_text())
    said["config"]["backbone"]["config"]["num_layers"] = 42
    (tmp_path / "export" / export.CONFIG_FILE).write_text(json.dumps(said))
    with pytest.raises(
        ValueError, match="the base is another model: its num_layers is 2, and that of the export is 42"
    ):
        based(tmp_path).load_export(tmp_path / "export")
