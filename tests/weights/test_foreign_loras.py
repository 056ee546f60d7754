"""LoRAs of other programs: what `lora.py convert` makes of them is what a stock pipeline adds, or a sentence."""

import math
from functools import cache
from pathlib import Path

import loras
import pytest
import torch
from diffusers.loaders import lora_conversion_utils as theirs
from loras import added, first_pairs, peft, split_by_hand, stock_pairs, with_alphas
from safetensors.torch import load_file
from small_runs import command

from unigen.weights.lora_files import understand

ALPHA = 3.0  # of a rank of 4: no power of two, so that a scale forgotten or rounded shows


def plainly(name: str) -> float:
    return 1.0


def by_alpha(name: str) -> float:
    return ALPHA / loras.RANK


@cache
def forms(family: str) -> dict:
    """By format: a file's tensors, what they add to the linears of a stock model, and peft's configuration beside."""
    model = loras.STOCK[family]()
    ours = stock_pairs(model)
    plain, scaled = added(ours, plainly), added(ours, by_alpha)
    patterned = {"r": loras.RANK, "lora_alpha": ALPHA, "alpha_pattern": {"norm_out.linear": 8}}
    ends = ("norm_out.linear", ".norm_out.linear")  # a pattern is a name or its end, such as that of a refiner's block
    by_pattern = added(ours, lambda name: 2.0 if name == ends[0] or name.endswith(ends[1]) else by_alpha(name))
    rooted = added(ours, lambda name: ALPHA / math.sqrt(loras.RANK))
    found = {
        "bare": (peft(ours), plain, None),
        "diffusers": (peft(ours, "transformer."), plain, None),
        "comfyui": (peft(ours, "diffusion_model."), plain, None),
        "peft": (peft(ours, "base_model.model."), by_pattern, patterned),
        "peft rslora": (
            peft(ours, "base_model.model."),
            rooted,
            {"peft_type": "LORA", "lora_alpha": ALPHA, "use_rslora": True},
        ),
        "ai-toolkit with alphas": (with_alphas(ours, "transformer.", ALPHA, flat=False), scaled, None),
        "onetrainer": (with_alphas(ours, "lora_transformer_", ALPHA, flat=True), scaled, None),
        "lycoris": (with_alphas(ours, "lycoris_", ALPHA, flat=True), scaled, None),
        "kohya": (with_alphas(ours, "lora_unet_", ALPHA, flat=True), scaled, None),
        "videox-fun": (with_alphas(ours, "lora_unet__", ALPHA, flat=True), scaled, None),
    }
    if family == "wan":
        first = loras.wan_authors(ours)
        found |= {
            "first": (peft(first), plain, None),
            "first comfyui": (peft(first, "diffusion_model."), plain, None),
            "first kohya": (with_alphas(first, "lora_unet_", ALPHA, flat=True), scaled, None),
        }
    if family == "flux":
        first = first_pairs()
        plain = split_by_hand(added(first, plainly), model)
        scaled = split_by_hand(added(first, by_alpha), model)
        state, used = loras.x_flux(first)
        kohya = with_alphas(first, "lora_unet_", ALPHA, flat=True)
        found |= {
            "first": (peft(first), plain, None),
            "first comfyui": (peft(first, "diffusion_model."), plain, None),
            "first whole prefix": (peft(first, "model.diffusion_model."), plain, None),
            "first peft": (peft(first, "base_model.model."), scaled, {"lora_alpha": ALPHA}),
            "first kohya": (kohya, scaled, None),
            "first with alphas": (with_alphas(first, "diffusion_model.", ALPHA, flat=False), scaled, None),
            "x-flux": (state, split_by_hand(added(used, plainly), model), None),
        }
    return found


FORMS = {(family, form) for family in loras.STOCK for form in forms(family)}


def difference(found: dict, expected: dict) -> float:
    expected = {name: x for name, x in expected.items() if x.any()}
    assert set(found) == set(expected)
    return max((found[name] - x).abs().max().item() for name, x in expected.items())


@pytest.mark.parametrize(("family", "form"), sorted(FORMS))
def test_the_stock_pipeline_adds_what_the_file_says(family, form, tmp_path, capsys):
    state, expected, config = forms(family)[form]
    path = loras.written(tmp_path / "theirs", state, config)
    assert command("lora.py", "convert", f"lora={path}", f"out={tmp_path / 'ours.safetensors'}") == 0
    assert "of width 32, as no published model is.\n" in capsys.readouterr().out
    found = loras.loaded(tmp_path / "ours.safetensors", family)
    assert difference(found, expected) < 1e-4
    assert difference(found, {name: x * 4 / 3 for name, x in expected.items()}) > 0.1, "negative control: no alpha"
    turned = {name: x.roll(len(x) // 2, 0) for name, x in expected.items()}
    assert difference(found, turned) > 0.1, "negative control: other rows"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_other_precisions_are_exact_with_any_alpha(dtype, tmp_path):
    """alpha / rank of 3 / 4 is not what bf16 can multiply by; 3e-4 / 4 makes fp16's numbers too small for it."""
    pairs = {n: tuple(x.to(getattr(torch, dtype)) for x in pair) for n, pair in stock_pairs(loras.flux()).items()}
    for alpha in (ALPHA, 4.0, 3e-4):
        out = tmp_path / f"{alpha}.safetensors"
        path = loras.written(tmp_path / f"{alpha}", with_alphas(pairs, "lora_transformer_", alpha, flat=True))
        assert command("lora.py", "convert", f"lora={path}", f"out={out}") == 0
        state = load_file(out)
        for name, expected in added(pairs, lambda name, alpha=alpha: alpha / loras.RANK).items():
            a, b = (state[f"transformer.{name}.lora_{part}.weight"].double() for part in "AB")
            torch.testing.assert_close(b @ a, expected, rtol=1e-6, atol=1e-6 * alpha)
        kept = {x.dtype for x in state.values()}
        assert alpha != 4 or kept == {getattr(torch, dtype if "8" not in dtype else "bfloat16")}


def test_names_that_both_families_have_are_tried_in_both(tmp_path, capsys):
    path = loras.written(tmp_path, one("transformer_blocks.0.ff.net.2", 128, 32))
    assert command("lora.py", "convert", f"lora={path}", f"out={tmp_path / 'ours.safetensors'}") == 0
    said = capsys.readouterr().out
    assert said.count("of width 32, as no published model is") == 3 and "CogVideoXTransformer3DModel" in said


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_the_ends_of_qwen_image_are_not_those_of_flux(form, tmp_path):
    """`img_in` is diffusers' name there, and in FLUX's first release what diffusers calls `x_embedder`."""
    ends = {name: pair for name, pair in stock_pairs(loras.qwen_image()).items() if name in ("img_in", "txt_in")}
    block = loras.some({"transformer_blocks.0.attn.to_q": (32, 32)})
    plain = form == "diffusers"
    for n, (pairs, expected) in enumerate(
        ((ends | block, {*ends, *block}), (ends, {"x_embedder", "context_embedder"}))
    ):
        state = peft(pairs, "transformer.") if plain else with_alphas(pairs, "lora_unet_", ALPHA, flat=True)
        assert set(understand(loras.written(tmp_path / str(n), state))[0]) == expected, "alone they are FLUX's"


def test_ranks_may_differ_by_linear(tmp_path):
    pairs = stock_pairs(loras.flux())
    for name in list(pairs)[::2]:
        a, b = pairs[name]
        pairs[name] = (a[:2], b[:, :2])
    path = loras.written(tmp_path / "theirs", peft(pairs, "diffusion_model."))
    out = tmp_path / "ours.safetensors"
    assert command("lora.py", "convert", f"lora={path}", f"out={out}") == 0
    assert difference(loras.loaded(out, "flux"), added(pairs, plainly)) < 1e-4


@pytest.mark.parametrize("form", ["kohya", "x-flux"])
def test_it_agrees_with_the_converters_of_diffusers(form, tmp_path, capsys):
    """In FLUX.1's own sizes, which they take for granted."""
    d, single, double = 3072, "single_blocks.0.", "double_blocks.0."
    sizes = {f"{double}{side}_attn.qkv": (d, 3 * d) for side in ("img", "txt")}
    sizes |= {f"{double}{side}_attn.proj": (d, d) for side in ("img", "txt")}
    sizes |= {f"{single}linear1": (d, 7 * d), f"{single}linear2": (5 * d, d)}
    if form == "kohya":
        sizes |= {
            f"{double}img_mod.lin": (d, 6 * d),
            f"{double}txt_mlp.0": (d, 4 * d),
            f"{double}img_mlp.2": (4 * d, d),
        }
        sizes |= {f"{single}modulation.lin": (d, 3 * d), "vector_in.in_layer": (768, d), "txt_in": (4096, d)}
        state = with_alphas(loras.some(sizes), "lora_unet_", ALPHA, flat=True)
        final = loras.some({"final_layer.adaLN_modulation.1": (d, 2 * d), "final_layer.linear": (d, 64)})
        state |= with_alphas(final, "lora_unet_", float(loras.RANK), flat=True)  # whose alphas diffusers drops
        expected = theirs._convert_kohya_flux_lora_to_diffusers(dict(state))
    else:
        state, _ = loras.x_flux(loras.some(sizes))
        expected = theirs._convert_xlabs_flux_lora_to_diffusers(dict(state))
    path = loras.written(tmp_path / "theirs", state)
    out = tmp_path / "ours.safetensors"
    assert command("lora.py", "convert", f"lora={path}", f"out={out}") == 0
    assert "It was loaded into a FluxTransformer2DModel of width 3072, as FLUX.1 is.\n" in capsys.readouterr().out
    # some of theirs, which diffusers would then not load, have no prefix
    found, expected = load_file(out), {f"transformer.{k.removeprefix('transformer.')}": x for k, x in expected.items()}
    assert set(found) == set(expected)
    for name in {key.rpartition(".lora_")[0] for key in found}:
        a, b, c, e = (of[f"{name}.lora_{part}.weight"] for of in (found, expected) for part in "AB")
        torch.testing.assert_close(b[::64] @ a, e[::64] @ c, rtol=1e-4, atol=1e-4)


# --- what is left out, taken for granted, or refused --------------------------------------------------------------


def test_text_encoders_are_left_out_and_counted(tmp_path, capsys):
    pairs = stock_pairs(loras.flux())
    for n, prefix in enumerate(("text_encoder.text_model.", "lora_te1_", "text_encoders.clip_l.transformer.")):
        state = peft(pairs, "transformer.") | peft({"q": (torch.ones(4, 8), torch.ones(8, 4))}, prefix)
        path = loras.written(tmp_path / str(n), state)
        assert command("lora.py", "convert", f"lora={path}", f"out={tmp_path / f'{n}.safetensors'}") == 0
        said = capsys.readouterr().out
        assert f"\n2 key(s) of text encoders ('{prefix}q.lora_A.weight', ...) are left out" in said
        assert difference(loras.loaded(tmp_path / f"{n}.safetensors", "flux"), added(pairs, plainly)) < 1e-4


def test_pefts_alpha_is_said_to_be_missing(tmp_path, capsys):
    path = loras.written(tmp_path / "theirs", peft(stock_pairs(loras.flux()), "base_model.model."))
    assert command("lora.py", "convert", f"lora={path}", f"out={tmp_path / 'a.safetensors'}") == 0
    said = "no adapter_config.json of peft's with the alpha is beside it, so alpha is taken to be the rank"
    assert said in capsys.readouterr().out
    (tmp_path / "theirs" / "adapter_config.json").write_text('{"lora_alpha": 4}')
    assert command("lora.py", "convert", f"lora={tmp_path / 'theirs'}", f"out={tmp_path / 'b.safetensors'}") == 0
    assert said not in capsys.readouterr().out, "negative control"


def bad(change) -> dict:
    state = peft(stock_pairs(loras.flux()), "transformer.")
    return change(state) or state


def one(name: str, inputs: int, outputs: int, prefix: str = "") -> dict:
    return peft(loras.some({name: (inputs, outputs)}), prefix)


def named(state: dict, adapter: str) -> dict:
    """As peft's model itself names them."""
    return {key.replace(".weight", f".{adapter}.weight"): x for key, x in state.items()}


def spoilt(state: dict, key: str, value: float) -> None:
    state[f"transformer.{key}"][-1] = value


def shaped(down: tuple, up: tuple) -> dict:
    return {"proj_out.lora_A.weight": torch.ones(down), "proj_out.lora_B.weight": torch.ones(up)}


QKV = "diffusion_model.double_blocks.0.img_attn.qkv"
SDXL = with_alphas(loras.some({"down_blocks.0.attentions.0.proj_in": (8, 8)}), "lora_unet_", 4.0, flat=True)
MORE = {  # one key beside a good LoRA
    "lora_te_a.alpha": (math.nan, "1 of the 1 numbers of 'lora_te_a.alpha' are NaN or infinite"),
    "transformer.proj_out.alpha": (math.inf, "'transformer.proj_out.alpha' are NaN or infinite"),
    "transformer.proj_out.alpha ": (1.0, "key 'transformer.proj_out.alpha ' is no part of a LoRA"),
    "diffusion_model.proj_out.alpha": (0.0, "the alpha of 'proj_out' is 0.0; legal is one finite number other than 0"),
    "lora_unet_proj_out.alpha": (1.0, "'lora_unet_proj_out' has an alpha, but no lora_A and lora_B"),
    "proj_out.alpha": (3e38, "'proj_out' would add numbers beyond fp32's range"),
    "ema_decay": (1.0, "key 'ema_decay' is no part of a LoRA"),
    "transformer.proj_out.dora_scale": (1.0, "is DoRA's"),
    "transformer.proj_out.lora_magnitude_vector": (1.0, "is DoRA's"),
    "lycoris_proj_out.hada_w1_a": (1.0, "is LoHa's"),
    "lycoris_proj_out.lokr_w1": (1.0, "is LoKr's"),
    "lora_unet_proj_out.oft_blocks": (1.0, "is OFT's"),
    "lora_unet_proj_out.lora_mid.weight": (1.0, "is the core of a convolution's LoRA"),
    "diffusion_model.img_in.diff_b": (1.0, "is a whole difference"),
    "double_blocks.0.img_attn.norm.query_norm.scale": (1.0, "is a norm's weight, as in BFL's control LoRAs"),
    "base_model.model.a.modules_to_save.default.weight": (1.0, "is a whole weight beside peft's LoRA"),
    f"{QKV}.scale_weight": (1.0, "is a scale of quantised weights"),
}
REFUSED = {
    **{key: (lambda s, key=key, x=x: s | {key: torch.tensor(x)}, said) for key, (x, said) in MORE.items()},
    "NaN": (lambda s: spoilt(s, "proj_out.lora_B.weight", math.nan), "4 of the 256 numbers of 'transformer.proj_out."),
    "infinite": (lambda s: spoilt(s, "proj_out.lora_A.weight", -math.inf), "are NaN or infinite"),
    "text encoder alone": (lambda s: one("a", 8, 8, "text_encoder."), "LoRAs of text encoders alone"),
    "half a pair": (lambda s: s.pop("transformer.proj_out.lora_A.weight") is None, "'proj_out' has no lora_A.weight"),
    "integers": (lambda s: {k: x.char() for k, x in s.items()}, "holds int8 numbers; a LoRA holds floating-point ones"),
    "whole model": (lambda s: loras.flux().state_dict(), "holds no LoRA, but other weights (such as"),
    "empty": (lambda s: {"nothing": torch.zeros(0)}, "holds no LoRA, but other weights (such as 'nothing')"),
    "rank 0": (lambda s: shaped((0, 32), (64, 0)), "do not fit each other"),
    "convolution": (lambda s: shaped((4, 32, 1, 1), (64, 4, 1, 1)), "is a convolution"),
    "other ranks": (lambda s: shaped((4, 32), (64, 5)), "do not fit each other"),
    "twice by prefix": (lambda s: s | one("proj_out", 32, 64), "proj_out.lora_A.weight' is there twice"),
    "twice by name": (lambda s: s | one("img_in", 64, 32), "'img_in' and 'x_embedder' are both 'x_embedder'"),
    "twice by fusion": (lambda s: s | one(QKV, 32, 96), "are both 'transformer_blocks.0.attn.to_k' in diffusers"),
    "one width wrong": (
        lambda s: s | one("transformer.proj_out", 48, 64),
        "'proj_out' maps 48 to 64, and in a FluxTransformer2DModel of width 32",
    ),
    "fused rows wrong": (lambda s: one(QKV, 32, 95), "has 95 outputs, too few or too many"),
    "SD3": (lambda s: one("transformer_blocks.0.attn.to_q", 1536, 1536), "of another model; known are FLUX.1 (3072 wi"),
    "Qwen-Image": (
        lambda s: one("transformer_blocks.60.attn.to_q", 3072, 3072),
        "is in a block that Qwen-Image lacks: it has 60 of these, 0 to 59; this is another model's, or damaged",
    ),
    "another size": (lambda s: one("transformer_blocks.0.attn.to_q", 2304, 2304), "sizes of another model"),
    "SDXL": (lambda s: SDXL, "'lora_unet_down_blocks_0_attentions_0_proj_in' is no linear of"),
    "Wan I2V": (
        lambda s: one("blocks.0.cross_attn.k_img", 8, 8, "diffusion_model."),
        "k_img' is no linear of",
    ),
    "a convolution": (
        lambda s: {
            "transformer.patch_embedding.lora_A.weight": torch.ones(4, 16, 1, 2, 2),
            "transformer.patch_embedding.lora_B.weight": torch.ones(32, 4, 1, 1, 1),
        },
        "'patch_embedding' is a convolution, such as Wan's patch embedding; LoRAs of linears alone are read",
    ),
    "block 30 of Wan": (
        lambda s: one("blocks.30.self_attn.q", 1536, 1536),
        "'blocks.30.attn1.to_q' is in a block that Wan2.1-T2V-1.3B lacks: it has 30 of these, 0 to 29",
    ),
    "FLUX.2": (lambda s: one("single_blocks.0.linear1", 32, 9 * 32), "blocks.0.proj_mlp' maps 32 to 192"),
    "two families": (lambda s: s | one("transformer_blocks.0.attn1.to_q", 32, 32), "is no linear of diffusers' Flux"),
    "block 999": (lambda s: one("transformer_blocks.999.attn.to_q", 32, 32), "is in a block that no FluxTransformer2D"),
    "block 01": (lambda s: one("transformer_blocks.01.attn.to_q", 32, 32), "is no linear of diffusers'"),
    "block 99 of FLUX.1": (
        lambda s: one("single_transformer_blocks.99.attn.to_q", 3072, 3072),
        "'single_transformer_blocks.99.attn.to_q' is in a block that FLUX.1 lacks: it has 38 of these, 0 to 37",
    ),
    "two adapters": (
        lambda s: named(s, "default_0") | named(s, "style"),
        "it holds 2 adapters (default_0, style); legal is a file of one",
    ),
    "SC-AdaLN": (
        lambda s: s | one("transformer_blocks.0.norm1.branches.target", 32, 192),
        "of a modulation that this project has split (SC-AdaLN)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_lora_of_a_stock_model_is_one_sentence(name, tmp_path, capsys):
    change, said = REFUSED[name]
    path = loras.written(tmp_path, bad(change))
    refused(path, said, capsys)


def refused(path: Path, said: str, capsys) -> None:
    before = sorted(path.parent.iterdir())
    assert command("lora.py", "convert", f"lora={path}", f"out={path.parent / 'out' / 'ours.safetensors'}") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error and str(path) in error
    assert sorted(path.parent.iterdir()) == before


def test_the_unchanged_file_is_taken(tmp_path):
    """Negative control of the test above."""
    path = loras.written(tmp_path, bad(lambda state: None))
    assert command("lora.py", "convert", f"lora={path}", f"out={tmp_path / 'ours.safetensors'}") == 0


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin", "a.ckpt", "a.gguf"])
def test_a_damaged_file_is_one_sentence(name, tmp_path, capsys):
    state = bad(lambda state: None)
    whole = loras.written(tmp_path / "whole", state).read_bytes()
    if name.endswith((".pt", ".bin", ".ckpt")):
        torch.save(state, tmp_path / "whole.pt")
        whole = (tmp_path / "whole.pt").read_bytes()
    for n, content in enumerate((b"", whole[: len(whole) // 2], whole[:-1], b"not a LoRA", b"\xff" * 4096)):
        path = tmp_path / str(n) / name
        path.parent.mkdir()
        path.write_bytes(content)
        refused(path, "cannot be read as a LoRA", capsys)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_pickles_are_read_and_nested_ones_refused(tmp_path, capsys):
    state = bad(lambda state: None)
    torch.save(state, tmp_path / "a.pt")
    assert command("lora.py", "convert", f"lora={tmp_path / 'a.pt'}", f"out={tmp_path / 'ours.safetensors'}") == 0
    assert (
        difference(loras.loaded(tmp_path / "ours.safetensors", "flux"), added(stock_pairs(loras.flux()), plainly))
        < 1e-4
    )
    for n, other in enumerate(
        (
            {"state_dict": {"state_dict": state}},
            {"state_dict": [state]},
            {0: torch.ones(1)},
            {"a": torch.eye(2).to_sparse()},
            {"a": torch.ones(1, device="meta")},
            [1],
        )
    ):
        torch.save(other, tmp_path / f"{n}.pt")
        refused(tmp_path / f"{n}.pt", "something else than tensors by name", capsys)


def test_what_stands_in_for_a_lora_is_called_what_it_is(tmp_path, capsys):
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        refused(tmp_path / name, "it is a Git LFS pointer and not the file: `git lfs pull` brings it", capsys)
        (tmp_path / name).write_text("\n<!DOCTYPE html>\n<html></html>")
        refused(tmp_path / name, "it is a web page, saved in place of the file", capsys)


def test_a_state_dict_and_the_name_of_an_adapter_are_unwrapped(tmp_path, capsys):
    """Each is the plain file, and what beside the state_dict is left out is said."""
    state = bad(lambda state: None)
    plain = understand(loras.written(tmp_path, state))[0]
    for n, (other, notes) in enumerate(
        [
            ({"state_dict": state}, []),
            ({"state_dict": state, "epoch": 3}, ["1 thing(s) beside its state_dict ('epoch', ...) are left out"]),
            (named(state, "default_0"), []),
            (named(state, "default"), []),
        ]
    ):
        torch.save(other, tmp_path / f"{n}.pt")
        lora, said = understand(tmp_path / f"{n}.pt")
        assert said == notes and lora.keys() == plain.keys()
        assert all(torch.equal(x.up_OR, plain[name].up_OR) for name, x in lora.items())


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        "",
        "[]",
        '{"r": 4}',
        "\\xff",
        '{"lora_alpha": "many"}',
        '{"lora_alpha": NaN}',
        '{"peft_type": "LOKR"}',
    ],
)
def test_a_bad_configuration_of_peft_is_one_sentence(text, tmp_path, capsys):
    path = loras.written(tmp_path, peft(stock_pairs(loras.flux()), "base_model.model."))
    (tmp_path / "adapter_config.json").write_text(text)
    refused(path, "its configuration of peft", capsys)


def test_a_merge_is_checked_in_the_same_way(tmp_path, capsys):
    """The sum of two programs' files is what both add; other widths, overflow and NaN are refused."""
    first, ours = first_pairs(), stock_pairs(loras.flux())
    a = loras.written(tmp_path / "a", with_alphas(first, "lora_unet_", ALPHA, flat=True))
    b = loras.written(tmp_path / "b", peft(ours, "transformer."))
    out = tmp_path / "sum.safetensors"
    assert command("lora.py", "merge", f"loras=[{a},{b}]", "weights=[0.7,-2]", f"out={out}") == 0
    expected = split_by_hand(added(first, lambda name: 0.7 * by_alpha(name)), loras.flux())
    expected = {name: expected[name] + x for name, x in added(ours, lambda name: -2.0).items()}
    found = loras.loaded(out, "flux")
    assert difference(found, expected) < 1e-4
    assert difference(found, added(ours, lambda name: -2.0)) > 0.1, "negative control"
    capsys.readouterr()
    for weights in ("[1e38,3e38]", "[1,1e39]"):
        bad = tmp_path / "bad.safetensors"
        assert command("lora.py", "merge", f"loras=[{a},{b}]", f"weights={weights}", f"out={bad}") == 1
        error = capsys.readouterr().err
        assert "would add numbers beyond fp32's range" in error and error.count("\n") == 1 and not bad.exists()


def test_a_merge_of_split_modulations_says_who_takes_it(tmp_path, capsys):
    pairs = stock_pairs(loras.flux()) | loras.some({"transformer_blocks.0.norm1.branches.target": (32, 192)})
    del pairs["transformer_blocks.0.norm1.linear"]
    a = loras.written(tmp_path / "a", peft(pairs, "transformer."))
    assert command("lora.py", "merge", f"loras=[{a}]", "weights=[0.5]", f"out={tmp_path / 'b.safetensors'}") == 0
    assert "No stock model takes it: 'transformer_blocks.0.norm1.branches.target'" in capsys.readouterr().out
