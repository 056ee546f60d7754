"""LoRAs as numbers: which keys are read, what a weighted sum is, and the command line for both."""

import pytest
import torch
import torch.nn.functional as F
from small_runs import command

from unigen.weights import interchange, lora_files
from unigen.weights.interchange import Delta


def added(delta: Delta, x: torch.Tensor) -> torch.Tensor:
    return F.linear(F.linear(x.double(), delta.down_RI.double()), delta.up_OR.double(), delta.bias_O.double())


def some(*names: str, seed: int, rank: int = 4, inputs: int = 24, outputs: int = 40) -> dict[str, Delta]:
    g = torch.Generator().manual_seed(seed)
    shapes = (rank, inputs), (outputs, rank), (outputs,)
    return {name: Delta(*(torch.randn(*shape, generator=g) for shape in shapes)) for name in names}


@pytest.mark.parametrize("sizes", [{}, {"outputs": 6}, {"inputs": 6}])
def test_a_merged_lora_adds_the_weighted_sum(sizes):
    """Exactly; with a rank of 4 + 4, or 6 where a linear has no more."""
    one, other = some("a", "b", seed=1, **sizes), some("a", "c", seed=2, **sizes)
    found = interchange.merge([one, other], [0.7, -0.3])
    x = torch.randn(5, sizes.get("inputs", 24))
    expected = {"a": 0.7 * added(one["a"], x) - 0.3 * added(other["a"], x)}
    expected |= {"b": 0.7 * added(one["b"], x), "c": -0.3 * added(other["c"], x)}
    assert set(found) == set(expected) and len(found["a"].down_RI) == min(8, *sizes.values(), 24)
    for name, value in expected.items():
        torch.testing.assert_close(added(found[name], x), value, rtol=1e-5, atol=1e-5)
    assert (added(interchange.merge([one, other], [0.3, 0.7])["a"], x) - expected["a"]).abs().max() > 0.1


def test_a_linear_without_a_bias_has_none_to_add():
    biased = some("a", seed=1)
    bare = {"b": some("b", seed=2)["b"]._replace(bias_O=None)} | some("a", seed=3)
    state = interchange.state_of(interchange.merge([biased, bare], [1.0, 1.0]))
    assert (state["b.lora_B.bias"] == 0).all() and (state["a.lora_B.bias"] != 0).any()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (some("b", seed=2), r"no linear is common \(one has 'a', one 'b'\): these LoRAs are of different base models"),
        (some("a", seed=2, inputs=20), "'a' maps 20 to 40 and 24 to 40: these LoRAs are of different base models"),
        (some("a", "x.norm1.branches.video", seed=2), "'x.norm1' has linear in one and branches.video in the other"),
    ],
)
def test_loras_of_different_bases_are_not_merged(other, said):
    with pytest.raises(ValueError, match=said):
        interchange.merge([some("a", "x.norm1.linear", seed=1), other], [0.5, 0.5])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """a.pth, of VisualCloze's own naming, and b.safetensors."""
    monkeypatch.chdir(tmp_path)
    (a,) = some("a", seed=1).values()
    torch.save({f"img_in.lora_{k}": x for k, x in zip(("A.weight", "B.weight", "B.bias"), a, strict=True)}, "a.pth")
    lora_files.write(tmp_path / "b.safetensors", interchange.state_of(some("x_embedder", seed=2)))
    return tmp_path


def test_the_command_line_merges_and_converts(folder, capsys):
    (a,), (b,) = some("a", seed=1).values(), some("a", seed=2).values()
    assert command("lora.py", "convert", "lora=a.pth", "out=a.safetensors") == 0
    said, fits = capsys.readouterr().out.splitlines()
    assert said == "a.safetensors: 1 linears, rank 4, 296 parameters in float32"
    models = (
        f"a {name} of width 40, as no published model is"
        for name in ("FluxTransformer2DModel", "Flux2Transformer2DModel")
    )
    assert sorted(fits.removeprefix("It was loaded into ").removesuffix(".").split(", and into ")) == sorted(models)
    assert torch.equal(lora_files.read(folder / "a.safetensors")["x_embedder"].up_OR, a.up_OR)
    words = "loras=[a.safetensors,b.safetensors]", "weights=[0.7,0.3]", "out=c.safetensors"
    assert command("lora.py", "merge", *words) == 0
    found, x = lora_files.read(folder / "c.safetensors")["x_embedder"], torch.randn(3, 24)
    expected = 0.7 * added(a, x) + 0.3 * added(b, x)
    torch.testing.assert_close(added(found, x), expected, rtol=1e-5, atol=1e-5)
    assert (added(a, x) - expected).abs().max() > 0.1, "negative control"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("merge loras=[a.pth,b.safetensors] weights=[1] out=c.safetensors", "names 2 files, weights= has 1 numbers"),
        ("merge loras=a.pth weights=[1] out=c.safetensors", "loras=a.pth is not a list: write loras="),
        ("merge loras=[a.pth] weights=[much] out=c.safetensors", "weights= has 'much', which is not a number"),
        ("merge loras=[no.pth] weights=[1] out=c.safetensors", "no.pth is no LoRA: there is no such file"),
        ("convert lora=a.pth out=c.pth", "out=c.pth must end in .safetensors"),
        ("convert lora=b.safetensors out=b.safetensors", "would overwrite a LoRA that was given"),
        ("convert lora=. out=b.safetensors", "would overwrite a LoRA that was given"),
        ("convert lora=a.pth out=b.safetensors", "is there already, and nothing is overwritten; name another file"),
        ("convert lora=a.pth", "give out=<...>"),
        ("mix lora=a.pth", "unknown command 'mix' (known: merge, convert)"),
    ],
)
def test_a_bad_line_is_one_sentence(words, said, folder, capsys):
    assert command("lora.py", *words.split()) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and said in error
    assert sorted(path.name for path in folder.iterdir()) == ["a.pth", "b.safetensors"]


# --- keys ---------------------------------------------------------------------------------------------------------


def test_the_scale_is_the_alphas_or_pefts_or_one():
    """alpha / rank goes into B and its bias; one linear may have an alpha of its own in either way."""
    state = {f"transformer.{k}": x for k, x in interchange.state_of(some("a", "b.a", seed=1)).items()}
    plain = interchange.parse(state)
    assert torch.equal(plain["a"].up_OR, some("a", "b.a", seed=1)["a"].up_OR)
    config = {"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.alpha_pattern": {"^a": 2.0}}
    alphas = {"transformer.a.alpha": torch.tensor(2.0), "transformer.b.a.alpha": torch.tensor(8.0)}
    rooted = {"transformer.lora_alpha": 4, "use_rslora": True, "alpha_pattern": {"^a": 1}}  # by the root of the rank
    for found in (
        interchange.parse(state, config),
        interchange.parse(state | alphas),
        interchange.parse(state, rooted),
    ):
        assert torch.equal(found["a"].up_OR, plain["a"].up_OR / 2) and torch.equal(
            found["a"].bias_O, plain["a"].bias_O / 2
        )
        assert torch.equal(found["b.a"].up_OR, 2 * plain["b.a"].up_OR)


@pytest.mark.parametrize(
    ("more", "config", "said"),
    [
        ({"unet.a.lora_down.weights": torch.ones(2, 2)}, {}, "key 'unet.a.lora_down.weights' is no part of a LoRA"),
        ({"transformer.b.alpha": torch.ones(())}, {}, "'b' has an alpha, but no lora_A and lora_B"),
        ({"transformer.b.lora_B.bias": torch.ones(1)}, {}, "'b' has a bias, but no lora_A and lora_B"),
        ({"transformer.b.lora_A.weight": torch.ones(2, 2)}, {}, "'b' has no lora_B.weight"),
        ({"transformer.a.lora_B.weight": torch.ones(40, 3)}, {}, r"'a' do not fit each other .*\(40, 3\)"),
        ({"transformer.a.lora_B.weight": torch.ones(40, 4).int()}, {}, "'a' holds int32 numbers"),
        ({"base_model.model.a.lora_A.weight": torch.ones(4, 24)}, {}, "'base_model.*' is there twice"),
        ({"transformer.a.alpha": torch.tensor(float("nan"))}, {}, "alpha of 'a' is nan; legal is one finite number"),
        ({"transformer.a.alpha": torch.ones(3)}, {}, r"alpha of 'a' is of shape \(3,\)"),
        ({"transformer.a.alpha": torch.ones(())}, {"lora_alpha": 2}, "'a' has the alpha 1, and 2 in the configuration"),
        ({}, {"transformer.use_dora": True}, "says use_dora: true; only plain LoRA is"),
        ({}, {"peft_type": "LOHA"}, "says peft_type: LOHA; only plain LoRA is"),
        ({}, {"lora_alpha": "8"}, "no lora_alpha, or an alpha that is no finite number"),
        ({}, {"r": 4}, "no lora_alpha"),
        ({}, {"lora_alpha": 8, "alpha_pattern": {"(": 1}}, "an alpha_pattern that is no pattern"),
        ({}, [1], "configuration of peft is no table"),
    ],
)
def test_a_key_that_is_not_understood_is_refused(more, config, said):
    state = {f"transformer.{k}": x for k, x in interchange.state_of(some("a", seed=1)).items()}
    assert interchange.parse(state)
    with pytest.raises(ValueError, match=said):
        interchange.parse(state | more, config)
