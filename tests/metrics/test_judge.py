"""The judge: its losses and scores against written-out formulas, unit vectors, saving in half precision, loading."""

import hashlib
import json
import math

import pytest
import torch
from tiny_judge import CLIP, VISION
from torch.nn import functional as F

from unigen.metrics.judge import Judge, best_retrieval, byte_ids, fingerprint, info_nce, load_judge, retrieval
from unigen.weights.loading import round_to_half


@pytest.fixture
def judge() -> Judge:
    return Judge(CLIP, VISION).eval().requires_grad_(False)


def images(n: int, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)


def vectors(n: int, width: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(n, width), dim=-1)


# --- maths -------------------------------------------------------------------------------------------------------


def test_info_nce_equals_its_formula():
    a, b, log_scale = vectors(5), vectors(5), torch.tensor(1.5)
    s = math.exp(1.5)
    expected = 0.0
    for i in range(5):
        for one, others in ((a, b), (b, a)):
            share = math.exp(s * one[i] @ others[i]) / sum(math.exp(s * one[i] @ others[j]) for j in range(5))
            expected -= math.log(share) / 10
    assert info_nce(a, b, log_scale).item() == pytest.approx(expected, rel=1e-5)
    assert info_nce(b, a, log_scale).item() == pytest.approx(expected, rel=1e-5)
    assert abs(info_nce(a, b.roll(1, 0), log_scale).item() - expected) > 0.01, "which one is whose would not matter"
    assert info_nce(a, a, torch.tensor(50.0)) == info_nce(a, a, torch.tensor(math.log(100.0))), "no upper limit"


def test_info_nce_keeps_fp32_under_autocast():
    a, b, scale = vectors(6), vectors(6), torch.tensor(4.0)
    exact = info_nce(a, b, scale)
    with torch.autocast("cpu", torch.bfloat16):
        assert info_nce(a, b, scale) == exact
        assert F.cross_entropy(scale.exp() * a @ b.T, torch.arange(6)) != F.cross_entropy(
            scale.exp() * (a[:, None] * b).sum(-1), torch.arange(6)
        )


def test_retrieval_counts_hits():
    answers = torch.eye(4)
    questions = torch.tensor([[1.0, 0, 0, 0], [0.6, 0.5, 0, 0], [0.3, 0.2, 0.1, 0], [0, 0, 0, 1.0]])
    assert retrieval(questions, answers, 1) == 0.5
    assert retrieval(questions, answers, 2) == 0.75
    assert retrieval(questions, answers, 3) == 1.0
    assert retrieval(answers, answers.roll(1, 0), 1) == 0.0


def test_a_tie_is_a_miss():
    """A judge that gives everything one score finds nothing."""
    assert retrieval(torch.ones(8, 2), torch.ones(8, 2), 5) == 0.0
    assert retrieval(torch.ones(8, 2), torch.ones(8, 2), 8) == 1.0


def test_equal_questions_bound_the_retrieval():
    """The same question cannot have two right answers first; the bound is reached."""
    assert best_retrieval("abcd", 1) == 1.0
    assert best_retrieval("aabc", 1) == 0.75
    assert best_retrieval("aaab", 2) == 0.75
    answers = torch.eye(4)
    questions = torch.stack([answers[0] + 0.1 * answers[1]] * 2 + [answers[2], answers[3]])
    assert retrieval(questions, answers, 1) == best_retrieval("aabc", 1)
    assert retrieval(questions, answers, 2) == best_retrieval("aabc", 2) == 1.0


# --- embeddings ----------------------------------------------------------------------------------------------------


def test_tokens_are_byt5s():
    from transformers import ByT5Tokenizer

    texts = ["flag DE", "piñata, été", ""]
    ours = byte_ids(texts, 24)
    theirs = ByT5Tokenizer()(texts, padding=True, return_tensors="pt")["input_ids"]
    assert torch.equal(ours, theirs)
    assert not torch.equal(byte_ids(["flag DK"], 24), byte_ids(["flag DE"], 24))
    cut = byte_ids(["a" * 40, "b"], 24)
    assert cut.shape == (2, 24) and cut[0, -1] == 1 and (cut[0, :-1] == 100).all()
    assert cut[1].tolist() == [101, 1, *[0] * 22]


def test_embeddings_are_unit_vectors_of_their_item_alone(judge):
    x, words = images(4), ["red heart", "cat", "flag DE", "woman, dark skin tone"]
    for embed, items in ((judge.embed_images, x), (judge.view_embed, x), (judge.embed_texts, words)):
        e = embed(items)
        assert e.shape == (4, 16) and e.dtype == torch.float32
        torch.testing.assert_close(e.norm(dim=-1), torch.ones(4))
        torch.testing.assert_close(embed(items[1:3]), e[1:3], rtol=1e-4, atol=1e-5)  # whatever is padded
        assert (e[1] - e[2]).abs().max() > 1e-3
    assert (judge.embed_images(x) - judge.view_embed(x)).abs().max() > 1e-2


def test_the_text_is_read_up_to_its_end(judge):
    """The last byte matters, and what is beyond the positions does not."""
    a, b = judge.embed_texts(["flag DE", "flag DK"])
    assert (a - b).abs().max() > 1e-4
    c, d = judge.embed_texts(["x" * 30 + "a", "x" * 30 + "b"])
    assert torch.equal(c, d)


def test_images_of_another_size_are_resized(judge):
    small = images(2)
    large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    for embed in (judge.embed_images, judge.view_embed):
        assert (embed(large) * embed(small)).sum(-1).min() > 0.98
        assert embed(images(1, 50)).shape == (1, 16)
    with pytest.raises(ValueError, match="uint8 pixels of shape"):
        judge.embed_images(small.float())
    with pytest.raises(ValueError, match="uint8 pixels of shape"):
        judge.view_embed(small[0])


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_saved_judge_judges_alike(judge, tmp_path):
    x, words = images(3), ["a", "b", "c"]
    unrounded = judge.embed_images(x)
    round_to_half(judge)
    judge.save(tmp_path)
    loaded = Judge.load(str(tmp_path), "some.key")
    assert not torch.equal(unrounded, loaded.embed_images(x)), "rounding would change nothing"
    assert torch.equal(judge.embed_images(x), loaded.embed_images(x))
    assert torch.equal(judge.view_embed(x), loaded.view_embed(x))
    assert torch.equal(judge.embed_texts(words), loaded.embed_texts(words))
    assert not torch.equal(loaded.embed_images(x), Judge(CLIP, VISION).embed_images(x))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32} == {p.dtype for p in judge.parameters()}
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training


def test_the_files_are_transformers_own_in_half_precision(judge, tmp_path):
    from transformers import CLIPModel, CLIPVisionModelWithProjection

    judge.save(tmp_path)
    assert json.loads((tmp_path / "clip" / "config.json").read_text())["architectures"] == ["CLIPModel"]
    assert CLIPModel.from_pretrained(tmp_path / "clip").dtype == torch.float16
    assert CLIPVisionModelWithProjection.from_pretrained(tmp_path / "dino").dtype == torch.float16
    size = sum(path.stat().st_size for path in tmp_path.glob("*/model.safetensors"))
    assert size < 2.2 * sum(p.numel() for p in judge.parameters())


def test_the_fingerprint_is_of_the_weights(judge, tmp_path):
    judge.save(tmp_path / "one")
    judge.save(tmp_path / "same")
    Judge(CLIP, VISION).save(tmp_path / "other")
    known = fingerprint(tmp_path / "one")
    content = b"".join((tmp_path / "one" / part / "model.safetensors").read_bytes() for part in ("clip", "dino"))
    assert known == hashlib.sha256(content).hexdigest()[:12] == fingerprint(tmp_path / "same")
    assert known != fingerprint(tmp_path / "other")
    assert Judge.load(str(tmp_path / "one"), "k").fingerprint == known
    assert judge.fingerprint is None


def test_loading_leaves_the_global_generator_alone(judge, tmp_path):
    judge.save(tmp_path)
    before = torch.get_rng_state()
    Judge.load(str(tmp_path), "k")
    assert torch.equal(before, torch.get_rng_state())
    Judge(CLIP, VISION)
    assert not torch.equal(before, torch.get_rng_state())


def test_a_judge_is_loaded_once(judge, tmp_path):
    judge.save(tmp_path / "a")
    judge.save(tmp_path / "b")
    assert load_judge(str(tmp_path / "a"), "k") is load_judge(str(tmp_path / "a"), "other key")
    assert load_judge(str(tmp_path / "a"), "k") is not load_judge(str(tmp_path / "b"), "k")


@pytest.mark.parametrize("source", ["shipped:nobody", "/nowhere/judge"])
def test_missing_weights_are_one_sentence(source):
    with pytest.raises(ValueError) as caught:
        load_judge(source, "metric.mini_dino.judge")
    said = str(caught.value)
    assert f"'{source}/clip'" in said and "metric.mini_dino.judge" in said and "\n" not in said


def test_a_full_disk_is_an_os_error(judge, tmp_path, full_disk):
    with pytest.raises(OSError):
        judge.save(tmp_path)
