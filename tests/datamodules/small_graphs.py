"""Graphs for tests: Graph200K, said once more without the grammar, and a small one of other images."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from datamodules.graph.graph import AnnotationGraph
from unigen.core.types import Batch
from unigen.pipeline.build import build

ROOT = Path(__file__).parents[2]

# VisualCloze, as released: what each group holds, said once more and without the grammar
DENSE = ["canny", "depth", "hed", "normal", "mlsd", "openpose", "sam2_mask", "uniformer"]
DEGRADATIONS = """
    blur compression pixelate oversharpen contrast_strengthen contrast_weaken quantization brighten darken
    saturate_strengthen saturate_weaken
    sr_x2 sr_x4 gaussian_noise gaussian_blur jpeg salt_pepper_noise poisson_noise low_light gray color_distortion
    inpainting mosaic rain defocus barrel pincushion elastic frost rotate_90 rotate_180 rotate_270
""".split()
MAPS = [*DENSE, "mask"]
RELEASED = {
    "conditional_generation": [f"{m}>target" for m in [*MAPS, "foreground", "background"]],
    "conditional_generation_with_reference": [f"reference+{m}>target" for m in [*MAPS, "background"]],
    "conditional_generation_with_style": [
        f"{m}+{style}_style_ref>{style}_style" for style in ("instant", "redux") for m in MAPS
    ],
    "dense_prediction": [f"target>{m}" for m in DENSE],
    "generation_with_reference": ["reference>target"],
    "subject_extraction": ["target>reference"],
    "style_transfer": [
        "target+instant_style_ref>instant_style",
        "reference+instant_style_ref>instant_style",
        "target+redux_style_ref>redux_style",
    ],
    "style_transfer_with_condition": [f"reference+{m}+instant_style_ref>instant_style" for m in MAPS],
    "editing": ["depth_edit>target", "fill_edit>target"],
    "editing_with_reference": ["reference+depth_edit>target", "reference+fill_edit>target"],
    "restoration": [f"{d}>target" for d in DEGRADATIONS],
    "restoration_with_reference": [f"reference+{d}>target" for d in DEGRADATIONS],
}
WITH_BBOX = {
    "bbox>target",
    "reference+bbox>target",
    "bbox+instant_style_ref>instant_style",
    "bbox+redux_style_ref>redux_style",
    "reference+bbox+instant_style_ref>instant_style",
}


def graph200k(name: str = "graph200k", **changes) -> AnnotationGraph:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
        node = compose(f"graph/{name}")["graph"]
    return build({**node, **changes})


@pytest.fixture(scope="module")
def released() -> AnnotationGraph:
    return graph200k()


def drawings(**changes) -> AnnotationGraph:
    """A small graph of other nodes: line art and colours of drawings in two styles."""
    parts = {
        "nodes": {
            "condition": ["line", "colours", "alpha", "grey"],
            "degradation": ["blur", "rain"],
            "style": ["flat", "round"],
            "edit": ["skin_tone"],
        },
        "sets": {"maps": ["line", "colours", "grey"], "shown": ["maps", "alpha"]},
        "groups": {
            "generation": {"one": ["shown > target"], "two": ["maps + maps > target"], "prediction": ["target > maps"]},
            "styles": {"style": ["target|line + flat_ref > flat", "target + round_ref > round", "flat|round > target"]},
            "repair": {"restoration": ["degradation > target"], "editing": ["edit > target"]},
        },
    }
    return AnnotationGraph(**{**parts, **changes})


def names(tasks) -> list[str]:
    return [task.name for task in tasks]


def by_task(batches: Iterable[Batch]) -> dict[str, list[Batch]]:
    """The batches by the task of their samples, which is one."""
    found: dict[str, list[Batch]] = {}
    for batch in batches:
        [task] = set(batch.tasks)
        found.setdefault(task, []).append(batch)
    return found
