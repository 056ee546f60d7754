"""Scores and their bounds, by hand: what ignoring the condition gives, and what the codec allows."""

import json
import math

import pytest
import torch
from tiny import composed, tiny

from unigen.core.types import Batch, ImageSlot
from unigen.evaluation.scores import read_scores, split, write_scores
from unigen.evaluation.scoring import all_targets, evaluate, graph_facts, measured, metric_cards, protocol
from unigen.pipeline.build import build, build_pipeline
from unigen.protocols import NOTHING, WHOLE_SET
from unigen.weights.loading import Unavailable

TRUTHS, ERRORS = [0, 100, 40], [10, 20, 0]  # grey images; the fake pipeline is this much too bright


class Half:
    """A codec that keeps half of the brightness above black: pixels -1 are kept, 1 becomes 0."""

    def encode(self, pixels):
        return (pixels + 1) / 2

    def decode(self, latents):
        return latents - 1


class Fake:
    device, codec = torch.device("cpu"), Half()

    def sample(self, batch, seed):
        assert seed == 5
        error = torch.tensor([ERRORS[int(key)] for key in batch.keys], dtype=torch.uint8)
        return {"target": batch.images["target"] + error[:, None, None, None, None]}


class MeanError:
    name, against, better, protocol = "mean", "truth", "lower", {"of": "pixels"}

    def __call__(self, output, truth):
        return (output.double() - truth.double()).abs().mean((1, 2, 3))


def batches(values, sizes):
    names = iter(range(len(values)))
    slots = (ImageSlot("condition", "condition", 8, 8), ImageSlot("target", "target", 8, 8))
    for size in sizes:
        rows = [next(names) for _ in range(size)]
        target = torch.tensor([values[i] for i in rows], dtype=torch.uint8)[:, None, None, None, None]
        images = {"condition": torch.zeros(size, 1, 3, 8, 8).byte(), "target": target.expand(size, 1, 3, 8, 8)}
        yield Batch(slots, images, [""] * size, [()] * size, ["canny>target"] * size, [str(i) for i in rows])


@pytest.mark.parametrize("sizes", [[3], [2, 1]])
def test_value_and_bounds_by_hand(sizes):
    scores = evaluate(Fake(), batches(TRUTHS, sizes), {"mean": MeanError()}, seed=5).metrics["mean"]
    low = (abs(10 - 40) + abs(120 - 0) + abs(40 - 100)) / 3  # each output beside another item's truth
    high = (0 + 50 + 20) / 3  # the codec halves each truth
    assert (scores["value"], scores["low"], scores["high"]) == pytest.approx((10, low, high))
    assert (scores["better"], scores["items"]) == ("lower", 3)


def test_one_item_has_no_other_truth():
    scores = evaluate(Fake(), batches([10], [1]), {"mean": MeanError()}, seed=5).metrics["mean"]
    assert (scores["value"], scores["low"]) == (10, None)


def test_an_infinite_score_is_none():
    """PSNR of equal images: JSON has no infinity."""
    psnr = build(composed()["metric"]["psnr"])
    scores = evaluate(Fake(), batches([0, 0, 7], [3]), {"psnr": psnr}, seed=5).metrics["psnr"]
    assert scores["value"] is None and math.isfinite(scores["low"])


class Absent(MeanError):
    name = "absent"

    @property
    def protocol(self):
        raise Unavailable("its weights are not here")

    def __call__(self, output, truth):
        raise AssertionError("an absent metric looks at no image")


class Spread(MeanError):
    """A metric of whole sets: the difference of the brightest pixels."""

    name, against = "spread", WHOLE_SET

    def __call__(self, output, truth):
        assert len(output) == len(truth) == 20, "all of them at once"
        return (output.double().max() - truth.double().max()).abs()


class Brightness(MeanError):
    name, against = "brightness", NOTHING

    def __call__(self, output, _):
        return output.double().mean((1, 2, 3))


def grey(*values):
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(len(values), 3, 8, 8)


class ToCondition(MeanError):
    name, against = "to_condition", "slot first"


def test_a_metric_may_ask_for_a_condition_that_all_samples_show():
    def shown(number, name="first", size=8):
        slots = (ImageSlot(name, "condition", size, size), ImageSlot("target", "target", 8, 8))
        images = {name: grey(number)[None, ..., :size, :size], "target": grey(100)[None]}
        return Batch(slots, images, [""], [()], ["a>b"], ["2"])

    metrics = {"to_condition": ToCondition(), "mean": MeanError()}
    score = evaluate(Fake(), [shown(90), shown(70)], metrics, seed=5).metrics["to_condition"]
    assert (score["value"], score["each"], score["low"]) == (20, [10, 30], 20), "low: the other item's condition"
    assert score["high"] == 30, "the truth of 100 becomes 50 in the codec: 40 and 20 away"
    for odd in (shown(70, "other"), shown(70, size=4)):
        mixed = evaluate(Fake(), [shown(90), odd], metrics, seed=5).metrics
        assert mixed["to_condition"]["value"] is None and mixed["mean"]["value"] == 0
        assert (
            mixed["to_condition"]["reason"] == "not every sample has a condition in slot first; all samples have: none"
        )


def test_an_absent_metric_is_null_with_its_reason_and_harms_no_other():
    scores = evaluate(Fake(), batches(TRUTHS, [3]), {"absent": Absent(), "mean": MeanError()}, seed=5).metrics
    absent = {"value": None, "low": None, "high": None, "better": "lower", "items": 0, "each": None}
    assert scores["absent"] == absent | {"reason": "its weights are not here"}
    assert scores["mean"]["value"] == pytest.approx(10) and "reason" not in scores["mean"]
    assert metric_cards({"absent": Absent(), "mean": MeanError()}) == {"metric.mean": {"of": "pixels"}}


def test_a_metric_of_whole_sets_scores_once_and_has_no_low():
    output, ceiling, truth = grey(*range(20)), grey(*range(5, 25)), grey(*range(2, 22))
    score = measured(Spread(), output, ceiling, {"truth": truth, "prompt": []})
    assert (score["value"], score["low"], score["high"], score["each"]) == (2, None, 3, None) and score["items"] == 20


def test_a_metric_of_the_image_alone_has_no_low():
    score = measured(Brightness(), grey(1, 2), grey(5, 6), {"truth": grey(0, 0), "prompt": []})
    assert (score["value"], score["low"], score["high"], score["each"]) == (1.5, None, 5.5, [1, 2])


def test_the_scores_of_single_images_are_kept_in_order():
    output, truth = grey(*range(40)), grey(*[0] * 40)
    assert measured(MeanError(), output, output, {"truth": truth})["each"] == list(range(40))
    assert len(evaluate(Fake(), batches([10, 20], [2]), {"mean": MeanError()}, seed=5).metrics["mean"]["each"]) == 2


def test_the_protocol_names_what_a_number_depends_on():
    config = tiny("+exp=fcd_mask_a", "evaluation.seed=9")
    said = protocol(build_pipeline(config), {"mean": MeanError()}, config)
    wanted = {"solver": "DDIM", "steps": 3, "guidance": 2.0, "drop": ["text"], "noise_seed": 9, "weights": "EMA"}
    assert wanted.items() <= said.items() and said["metric.mean"] == {"of": "pixels"}
    del config["callback"]["ema"]
    assert protocol(build_pipeline(config), {}, config)["weights"] == "last"


def test_the_protocol_says_what_the_data_were():
    def said(*words):
        return graph_facts(composed("conditioning/embedding=none", *words)["data"])

    assert said("task=clip") == {}, "clips are of no graph"
    assert said()["rows"] == [0, 0]
    emoji = said("task=graph")
    assert (
        emoji["rows"] == [0, 2]
        and emoji["test_tasks"] is None
        and "reference + frost > target" in emoji["held_out_tasks"]
    )
    assert said("task=graph", "data.rows=[1,1]")["rows"] == [1, 1] and "test_set" not in emoji
    fewer = said("task=graph", "data.graph.held_out=[]")
    assert fewer["held_out_tasks"] == [] and fewer["graph"] != emoji["graph"]
    assert said("task=graph", "data.seed=3", "data.batch_size=1") == emoji, "training alone does not change the test"
    folder = said("data=own_folder", "task=graph", "data.train.root=/a", "data.train.limit=30")
    assert folder["test_set"] == "OwnFolder(limit=30, annotations=[], computed={}, held_out=5)"
    assert folder == said("data=own_folder", "task=graph", "data.train.root=/b", "data.train.limit=30")
    coco = said("data=coco", "task=graph", "data.train.root=/a", "data.test.root=/b")
    assert coco["test_set"] == "Coco(limit=None, computed={})" and coco["graph"] == folder["graph"] != emoji["graph"]


# --- several targets -----------------------------------------------------------------------------------------------


class Two(Fake):
    """A pipeline whose first target is right and whose second is `error` too bright."""

    def __init__(self, error: int) -> None:
        self.error = error

    def sample(self, batch, seed):
        return {
            "a": batch.images["a"].clone(),
            **({"b": batch.images["b"] + self.error} if "b" in batch.images else {}),
        }


def pairs(values: list[tuple[int, ...]], first: int = 0) -> Batch:
    """Items with a target "a" and, where two values are given, a target "b" of these greys."""
    names = "ab"[: len(values[0])]
    slots = (ImageSlot("condition", "condition", 8, 8), *(ImageSlot(name, "target", 8, 8) for name in names))
    images = {name: grey(*(value[k] for value in values))[:, None] for k, name in enumerate(names)}
    images["condition"] = torch.zeros(len(values), 1, 3, 8, 8).byte()
    count, keys = len(values), [f"item{first + i}" for i in range(len(values))]
    return Batch(slots, images, [f"prompt of {k}" for k in keys], [()] * count, ["c>a+b"] * count, keys)


def test_a_wrong_second_target_lowers_the_score():
    right, wrong = (
        evaluate(Two(error), [pairs([(10, 50), (20, 70)])], {"mean": MeanError()}, seed=5) for error in (0, 40)
    )
    assert right.metrics["mean"]["value"] == 0, "negative control"
    score = wrong.metrics["mean"]
    assert (score["value"], score["each"], score["items"], score["images"]) == (20, [20, 20], 2, 4)
    assert score["targets"] == {"a": {"value": 0, "each": [0, 0]}, "b": {"value": 40, "each": [40, 40]}}
    assert wrong.targets == ("a", "b") and all_targets(wrong.targets) == {"targets": "all"}
    one = evaluate(Two(40), [pairs([(10,), (20,)])], {"mean": MeanError()}, seed=5)
    assert one.metrics["mean"]["value"] == 0 and not {"targets", "images"} & one.metrics["mean"].keys()
    assert all_targets(one.targets) == {}, "the card of a single target is what it was"


def test_an_item_counts_once_however_many_targets_it_has():
    batches = [pairs([(10, 50)]), pairs([(20,), (40,)], first=1)]
    score = evaluate(Two(60), batches, {"mean": MeanError()}, seed=5).metrics["mean"]
    assert (score["value"], score["each"], score["items"], score["images"]) == (10, [30, 0, 0], 3, 4)
    assert score["targets"]["b"] == {"value": 60, "each": [60, None, None]}


def test_the_bound_takes_the_same_target_of_another_item():
    score = evaluate(Two(0), [pairs([(10, 100), (20, 130)])], {"mean": MeanError()}, seed=5).metrics["mean"]
    assert score["low"] == (10 + 30 + 10 + 30) / 4, "and not 90, the other target of the same item"
    assert score["high"] == (5 + 50 + 10 + 65) / 4, "the codec halves every truth"
    alone = evaluate(Two(0), [pairs([(10, 100)])], {"mean": MeanError()}, seed=5).metrics["mean"]
    assert alone["low"] is None, "one item has no other, though it has two targets"


def test_a_set_metric_sees_every_target_and_texts_and_conditions_come_along():
    class Size(MeanError):
        against = WHOLE_SET

        def __call__(self, output, truth):
            return torch.tensor(float(len(output)))

    class Said(MeanError):
        against = "prompt"

        def __call__(self, output, prompts):
            return torch.tensor([float(prompt[-1]) for prompt in prompts])

    metrics = {"size": Size(), "said": Said(), "edges": type("Edges", (MeanError,), {"against": "slot condition"})()}
    found = evaluate(Two(0), [pairs([(10, 50), (20, 70)])], metrics, seed=5).metrics
    assert found["size"]["value"] == 4 and found["size"]["each"] is None
    assert (found["said"]["each"], found["said"]["low"]) == ([0, 1], 0.5)
    assert found["edges"]["each"] == [30, 45]


def test_scores_of_single_targets_are_kept_in_the_items_line(tmp_path):
    batches = [pairs([(10, 50)]), pairs([(20,), (40,)], first=1)]
    found = evaluate(Two(60), batches, {"mean": MeanError()}, seed=5)
    summary, each, of_items = split({"metrics": found.metrics, "of_items": found.of_items})
    assert summary["metrics"]["mean"]["targets"] == {"a": 0, "b": 60}
    write_scores(tmp_path, each, of_items)
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert lines[0] == {"item": 0, "mean": 30, "targets": {"a": {"mean": 0}, "b": {"mean": 60}}}
    assert lines[1] == {"item": 1, "mean": 0, "targets": {"a": {"mean": 0}}}
    assert read_scores(tmp_path).each == {"mean": [30, 0, 0]}


def test_frames_of_a_clip_are_one_item():
    """The bound is of another clip: the other frame of the same one is nearly the right answer."""
    slots = (ImageSlot("a", "target", 8, 8, frames=2),)
    images = {"a": torch.stack([grey(10, 12), grey(100, 104)])}
    clip = Batch(slots, images, [""] * 2, [()] * 2, [">a"] * 2, ["0", "1"])
    score = evaluate(Two(0), [clip], {"mean": MeanError()}, seed=5).metrics["mean"]
    assert (score["items"], score["images"], score["low"]) == (2, 4, 91) and "targets" not in score


def test_targets_of_two_sizes_are_refused_by_name():
    odd = pairs([(10, 50)])
    odd.images["b"] = odd.images["b"][..., :4]
    with pytest.raises(ValueError, match="cannot be measured together: a 8 x 8, b 8 x 4"):
        evaluate(Two(0), [odd], {"mean": MeanError()}, seed=5)


def test_metrics_are_given_by_task_as_well_as_over_all():
    """A universal run: the mean of each task's items, beside the mean of all."""
    several = list(batches(TRUTHS, [3]))
    several[0].tasks = ["canny>target", "grey>target", "canny>target"]
    score = evaluate(Fake(), several, {"mean": MeanError()}, seed=5).metrics["mean"]
    assert score["value"] == pytest.approx(sum(ERRORS) / 3)
    assert score["tasks"] == {"canny>target": {"value": 5.0, "items": 2}, "grey>target": {"value": 20.0, "items": 1}}
    assert "tasks" not in evaluate(Fake(), batches(TRUTHS, [3]), {"mean": MeanError()}, seed=5).metrics["mean"]
