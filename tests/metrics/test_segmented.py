"""Likeness of a subject alone: what is blanked, what is counted, and tiny untrained models of the true classes."""

from pathlib import Path

import pytest
import torch
from tiny import composed
from torch import Tensor

from unigen.evaluation.scoring import measured, references_of
from unigen.metrics.dino import DinoV2
from unigen.metrics.images import Subjects
from unigen.metrics.pretrained import model_folder
from unigen.metrics.segmented import GroundedSam, Segmented
from unigen.pipeline.build import build

PUBLISHED = {
    "detector": "IDEA-Research/grounding-dino-base",
    "outliner": "facebook/sam2.1-hiera-large",
    "dinov2": "facebook/dinov2-base",
}


@pytest.fixture
def models(hub) -> dict[str, str]:
    """Folders of a detector, an outliner and a DINOv2."""
    return {name: str(model_folder(source, name, False)) for name, source in PUBLISHED.items()}


class Marked:
    """Finds a subject where an image is red beyond 200; of the word 'none' nothing. Keeps what it was asked."""

    protocol = {"detector": "colour"}

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, image_3HW: Tensor, words: tuple[str, ...]) -> Tensor | None:
        self.asked.append(tuple(words))
        return None if "none" in words else image_3HW[0] > 200


class Difference:
    """Mean absolute difference, in the place of a model."""

    name, better, protocol = "difference", "lower", {"parameters": "mean absolute difference"}

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        return (output.double() - truth.double()).abs().mean((1, 2, 3))


def image(red_rows: int, around: int) -> Tensor:
    """(3, 4, 4): the first rows (250, 10, 10), all else grey `around`."""
    made = torch.full((3, 4, 4), around, dtype=torch.uint8)
    made[:, :red_rows] = torch.tensor([250, 10, 10], dtype=torch.uint8)[:, None, None]
    return made


def stacked(*images: Tensor) -> Tensor:
    return torch.stack(images)


def test_what_is_around_the_subject_does_not_count():
    metric = Segmented("s", Difference(), Marked(), background=255)
    output, truth = stacked(image(2, 30)), stacked(image(2, 90))
    reference = Subjects(truth, [("cat",)])
    assert metric(output, reference[0:1]).tolist() == [0.0] and Difference()(output, truth).item() == 30.0
    alone = metric.alone(output, [("cat",)])[0]
    assert (alone[:, 2:] == 255).all() and torch.equal(alone[:, :2], output[0, :, :2])
    assert (Segmented("s", Difference(), Marked(), background=128).alone(output, [("cat",)])[0, :, 2:] == 128).all()


def test_without_a_detection_the_whole_image_counts_and_is_counted():
    metric = Segmented("s", Difference(), Marked(), background=255)
    output, truth = stacked(image(2, 30), image(2, 30)), stacked(image(2, 90), image(2, 90))
    found = measured(metric, output, truth, references_of(truth, [""] * 2, [("cat",), ("none",)], {}, [""] * 2))
    assert found["each"] == [0.0, 30.0] and found["value"] == 15.0 and found["undetected"] == 1
    found = measured(metric, output, truth, references_of(truth, [""] * 2, [("cat",)] * 2, {}, [""] * 2))
    assert found["value"] == 0.0 and found["undetected"] == 0, "negative control"
    assert "undetected" not in measured(PSNR, output, truth, references_of(truth, [""] * 2, [()] * 2, {}, [""] * 2))


PSNR = build(composed()["metric"]["psnr"])


def test_each_image_is_searched_for_its_own_word_once():
    """For the lower bound an output stands beside another item's truth, and both keep their words."""
    metric = Segmented("s", Difference(), cutout := Marked(), background=255)
    output, truth = stacked(image(1, 30), image(2, 40)), stacked(image(1, 90), image(2, 95))
    found = measured(metric, output, truth, references_of(truth, [""] * 2, [("cat",), ("dog",)], {}, [""] * 2))
    assert sorted(cutout.asked) == [("cat",)] * 2 + [("dog",)] * 2, "four images, though bounds look again"
    row = (5 + 245 + 245) / 3 / 4  # a red row beside a white one
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0.0, row, 0.0))


def test_true_classes_find_the_same_thing_twice_and_the_card_names_them(models):
    cutout = GroundedSam(models["detector"], models["outliner"], 0.0, False)
    metric = Segmented("dinov2_segmented", DinoV2(models["dinov2"], 28, 28, False), cutout, 255)
    torch.manual_seed(3)
    shown = torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8)
    box = cutout._box(shown[0], "cat .")
    assert len(box) == 4 and box[2] > box[0] and box[3] > box[1]
    mask = cutout._outline(shown[0], box)
    assert mask.shape == (40, 48) and mask.dtype == torch.bool
    words = [("Cat",), ("red dog",)]
    scores = metric(shown, Subjects(shown, words)[0:2])
    assert scores.tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert metric(shown, Subjects(shown.flip(0), words[::-1], words)[0:2]).max() < 0.9999, "negative control"
    said = metric.protocol
    assert said["detector"].startswith("GroundingDinoForObjectDetection, SHA-256 ") and "0.0" in said["detector"]
    assert said["model"].startswith("Dinov2Model, SHA-256 ") and "counts whole" in said["segmentation"]


def test_a_high_threshold_and_no_words_find_nothing(models):
    shown = torch.randint(0, 256, (3, 40, 48), dtype=torch.uint8)
    assert GroundedSam(models["detector"], models["outliner"], 1.0, False)(shown, ("cat",)) is None
    assert GroundedSam(models["detector"], models["outliner"], 0.0, False)(shown, ("", " ")) is None


@pytest.mark.parametrize("name", ["clip_i", "dino", "dinov2"])
def test_absent_weights_are_named_with_their_keys(name, models, tmp_path):
    key = f"metric.{name}_segmented"
    node = composed(f"metric=[{name}_segmented]", f"{key}.metric.model={tmp_path / 'none'}")["metric"]
    metric, black = build(node[f"{name}_segmented"]), torch.zeros(1, 3, 8, 8).byte()
    found = measured(metric, black, black, references_of(black, [""], [()], {}, [""]))
    assert found["value"] is None and f"{key}.metric.download=true" in found["reason"]
    metric.metric = Difference()
    metric.cutout.sources["detector"] = str(tmp_path / "none")
    found = measured(metric, black, black, references_of(black, [""], [()], {}, [""]))
    assert f"set {key}.cutout.detector=<folder>" in found["reason"]
    assert Path(models["detector"]).is_dir()


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"threshold=2 of a metric's cutout must be from 0 to 1"):
        GroundedSam("a", "b", 2, False)
    with pytest.raises(ValueError, match=r"metric\.s\.background=256 must be from 0 to 255"):
        Segmented("s", Difference(), Marked(), 256)
