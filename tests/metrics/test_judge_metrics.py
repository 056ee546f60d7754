"""The mini metrics: what they compare, one loaded judge, protocols that name it. The judge is tiny and untrained."""

import re
from pathlib import Path

import pytest
import torch
from tiny_judge import CLIP, VISION

from unigen.metrics.judge import Judge, fingerprint, load_judge
from unigen.metrics.mini import MiniClipI, MiniClipT, MiniDino

ALL = (MiniClipI, MiniClipT, MiniDino)
PROMPTS = ["red heart", "cat, twemoji style", "flag DE"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("judge")
    Judge(CLIP, VISION).save(folder)
    return str(folder)


def images(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)


def reference(metric) -> torch.Tensor | list[str]:
    return PROMPTS if metric.against == "prompt" else images(1)


def test_each_is_the_cosine_of_its_towers(source):
    judge, output, truth = load_judge(source, "k"), images(), images(1)
    cosine = torch.nn.functional.cosine_similarity
    expected = {
        MiniClipI: cosine(judge.embed_images(output), judge.embed_images(truth)),
        MiniDino: cosine(judge.view_embed(output), judge.view_embed(truth)),
        MiniClipT: cosine(judge.embed_images(output), judge.embed_texts(PROMPTS)),
    }
    for kind, scores in expected.items():
        torch.testing.assert_close(kind(source)(output, reference(kind)), scores)
        others = [other for name, other in expected.items() if name is not kind]
        assert all((scores - other).abs().max() > 1e-3 for other in others), "the towers would not matter"


@pytest.mark.parametrize("kind", ALL)
def test_scores_are_per_item(source, kind):
    metric, output = kind(source), images()
    scores = metric(output, reference(metric))
    assert scores.shape == (3,) and scores.dtype == torch.float32 and not scores.requires_grad
    alone = torch.cat([metric(output[i : i + 1], reference(metric)[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-5)
    assert len(set(scores.tolist())) == 3 and metric.better == "higher"


@pytest.mark.parametrize("kind", [MiniClipI, MiniDino])
def test_equal_images_score_one(source, kind):
    torch.testing.assert_close(kind(source)(images(), images()), torch.ones(3))
    assert kind(source)(images(), images(1)).max() < 0.9999


def test_the_prompt_matters_with_its_style(source):
    metric = MiniClipT(source)
    plain, styled = metric(images(), PROMPTS), metric(images(), [f"{p}, openmoji style" for p in PROMPTS])
    assert (plain - styled).abs().min() > 1e-5


@pytest.mark.parametrize("kind", ALL)
def test_building_needs_no_weights_and_using_does(kind):
    metric = kind("shipped:nobody")
    assert metric.name == re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
    with pytest.raises(ValueError, match=f"shipped:nobody/clip.*metric.{metric.name}.judge"):
        metric(images(), reference(metric))
    with pytest.raises(ValueError, match="shipped:nobody/clip"):
        dict(metric.protocol)


def test_the_protocol_names_the_judge_by_its_weights(source, tmp_path):
    torch.manual_seed(2)
    Judge(CLIP, VISION).save(tmp_path)
    protocols = [dict(kind(source).protocol) for kind in ALL]
    for protocol in protocols:
        assert set(protocol) == {"library", "version", "parameters", "judge"}
        assert all(isinstance(value, str) and value for value in protocol.values())
        assert source in protocol["judge"] and fingerprint(Path(source)) in protocol["judge"]
    assert len({protocol["parameters"] for protocol in protocols}) == 3
    assert MiniDino(str(tmp_path)).protocol["judge"].split()[-1] != protocols[0]["judge"].split()[-1]


def test_wrong_input_is_refused(source):
    for kind in (MiniClipI, MiniDino):
        with pytest.raises(ValueError, match="uint8"):
            kind(source)(images().float(), images())
        with pytest.raises(ValueError, match="differ in shape"):
            kind(source)(images(), images()[:1])
    with pytest.raises(ValueError, match="uint8"):
        MiniClipT(source)(images().float(), PROMPTS)
    with pytest.raises(ValueError, match="3 outputs need as many prompts"):
        MiniClipT(source)(images(), PROMPTS[:1])
    with pytest.raises(ValueError, match="3 outputs need as many prompts"):
        MiniClipT(source)(images(), "cat")
