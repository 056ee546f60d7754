"""Metrics that read text hold an image against what it shows, not against the instruction that asked for it."""

from types import SimpleNamespace

import torch
from tiny import batch

from unigen.core.types import Sample, collate
from unigen.evaluation.scoring import evaluate


class Recorder:
    """A metric that notes the texts it is given."""

    name, against, better, protocol = "recorder", "prompt", "higher", {}

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, output, reference) -> torch.Tensor:
        self.seen += reference
        return torch.zeros(len(output))


def texts(captions: list[str]) -> set[str]:
    made, metric = batch(2), Recorder()
    made.captions = captions
    codec = SimpleNamespace(encode=lambda x: x, decode=lambda z: z)
    pipeline = SimpleNamespace(sample=lambda b, seed: b.images, codec=codec, device=torch.device("cpu"))
    evaluate(pipeline, [made], {"recorder": metric}, seed=0)
    return set(metric.seen)


def test_a_caption_takes_the_place_of_the_prompt():
    assert texts(["one", "two"]) == {"one", "two"}
    assert texts([]) == set(batch(2).prompts), "without captions the prompts"


def test_the_caption_of_a_sample_is_its_prompt_unless_it_says_otherwise():
    made = Sample((), {}, "2x2: edges > image. apple", (), "canny>target", "key")
    assert collate([made, made._replace(caption="apple")]).captions == [made.prompt, "apple"]
