"""LoRA on Flux between programs: from VisualCloze's own files, into diffusers' pipelines, and on from either."""

import json

import pytest
import torch
from flux_authors import WIDTH, authors_linears, authors_lora, merged_by_hand
from flux_case import case, config, forward, ours, stock_forward, stock_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import command
from tiny import mask

from unigen.pipeline import export
from unigen.pipeline.build import build_pipeline
from unigen.weights import interchange, lora_files


def guided_config(*overrides: str, start: str | None = None, **adapter):
    words = ("conditioning/adapter=lora_visualcloze", "conditioning/modulation=shared", "formatter=grid", *overrides)
    made = config("flux_fill_mini", *words, guided=True)
    made["conditioning"]["adapter"] |= {"start": start, **adapter}
    return made


def saved(tmp_path, state, name: str = "authors.pth") -> str:
    torch.save(state, tmp_path / name)
    return str(tmp_path / name)


# --- VisualCloze's own files --------------------------------------------------------------------------------------


def test_a_fused_lora_is_the_same_function_on_split_linears(tmp_path):
    """With the scale of any alpha, and on a model with SC-AdaLN's branches, each of which gets its norm's LoRA."""
    lora = authors_lora()
    path = saved(tmp_path, lora)
    stock = stock_model(guided_config())
    expected, wrong = (merged_by_hand(stock_model(guided_config()), lora, swap) for swap in (True, False))
    for words, adapter in (((), {}), ((), {"alpha": 32}), (("conditioning/modulation=sc_adaln",), {})):
        backbone = ours(stock, guided_config(*words, start=path, **adapter))
        tokens = case(backbone)
        found = forward(backbone, tokens, mask("fcd_d"))
        torch.testing.assert_close(found, stock_forward(expected, tokens, 1.0), rtol=1e-4, atol=1e-5)
    assert (found - stock_forward(wrong, tokens, 1.0)).abs().max() > 1e-3, "negative control: shift before scale"
    assert (found - stock_forward(stock, tokens, 1.0)).abs().max() > 1e-2, "negative control: without the LoRA"


def test_every_linear_of_the_authors_tree_becomes_every_linear_of_diffusers():
    split = interchange.parse(authors_lora(rank=64))
    stock = stock_model(guided_config())
    linears = {n: m for n, m in stock.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(split) == set(linears) and len(split) == len(authors_linears()) + 2 * 2 * 2 + 2 * 3
    for name, delta in split.items():
        assert (delta.up_OR @ delta.down_RI).shape == linears[name].weight.shape
    qkv, (a, b) = "double_blocks.1.txt_attn.qkv", ("lora_A.weight", "lora_B.weight")
    k = split["transformer_blocks.1.attn.add_k_proj"]
    lora = authors_lora(rank=64)
    assert torch.equal(k.down_RI, lora[f"{qkv}.{a}"]) and torch.equal(k.up_OR, lora[f"{qkv}.{b}"][WIDTH : 2 * WIDTH])
    assert not torch.equal(k.up_OR, lora[f"{qkv}.{b}"][:WIDTH])


def without(state, *names):
    return {k: x for k, x in state.items() if not k.startswith(names)}


@pytest.mark.parametrize(
    ("change", "adapter", "said"),
    [
        (lambda s: without(s, "img_in.lora_B.weight"), {}, "'img_in' has no lora_B.weight"),
        (lambda s: without(s, "img_in."), {}, r"has nothing for 'x_embedder', which this run adapts"),
        (lambda s: without(s, "single_blocks.1."), {}, r"has nothing for .single_transformer_blocks.1.* and 5 more"),
        (lambda s: s | {"ema.weight": torch.ones(2)}, {}, "key 'ema.weight' is no part of a LoRA"),
        (
            lambda s: s | {"one.lora_A.weight": torch.ones(2, 2), "one.lora_B.weight": torch.ones(2, 2)},
            {},
            "LoRA for 'one', which this run does not adapt",
        ),
        (
            lambda s: (
                s | {"img_in.extra.lora_A.weight": torch.ones(2, 2), "img_in.extra.lora_B.weight": torch.ones(2, 2)}
            ),
            {},
            "'img_in.extra' is no linear of FLUX as its first release names them",
        ),
        (lambda s: s | {"lora_te1_a.alpha": torch.ones(())}, {}, r"1 key\(s\) of text encoders .* are left out"),
        (
            lambda s: s | {"img_in.lora_A.weight": s["img_in.lora_A.weight"] / 0},
            {},
            r"adapter.start: .*authors.pth: it is damaged: \d+ of the \d+ numbers of 'img_in.lora_A.weight' are NaN or",
        ),
        (lambda s: s, {"parts": ["attention"]}, r"LoRA for '\w+.*' and \d+ more, which this run does not adapt"),
        (lambda s: s, {"rank": 8, "alpha": 8}, r"has rank 4, here 8 \(conditioning.adapter.rank\)"),
        (lambda s: s, {"bias": False}, "has a bias, but conditioning.adapter.bias is false"),
        (
            lambda s: {k: x for k, x in s.items() if "bias" not in k},
            {},
            "has no bias, but conditioning.adapter.bias is",
        ),
        (lambda s: authors_lora(fill=False), {}, "'x_embedder' maps 64 to 32, in this backbone 384 to 32"),
        (
            lambda s: {k: x[:-1] if "linear1.lora_B" in k else x for k, x in s.items()},
            {},
            "127, in this backbone .* 128",
        ),
        (lambda s: {k: x[:90] if "qkv.lora_B" in k else x for k, x in s.items()}, {}, "has 90 outputs, too few"),
        (lambda s: {}, {}, "holds no LoRA"),
        (lambda s: [s], {}, "something else than tensors by name"),
    ],
)
def test_a_lora_that_fits_in_part_is_refused(change, adapter, said, tmp_path):
    made = guided_config(start=saved(tmp_path, change(authors_lora())), **adapter)
    with pytest.raises(ValueError, match=said) as error:
        ours(stock_model(made), made)
    assert "\n" not in str(error.value)


class Trap:
    """What a malicious .pth would run."""

    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def test_a_pth_runs_nothing_and_an_absent_file_is_named(tmp_path):
    for path, said in (
        (saved(tmp_path, {"x": Trap()}), "cannot be read as a LoRA"),
        (str(tmp_path / "no"), "no such file"),
    ):
        with pytest.raises(ValueError, match=said):
            ours(stock_model(guided_config()), guided_config(start=path))
    (tmp_path / "two").mkdir()
    for name in "ab":
        save_file({"x": torch.ones(1)}, tmp_path / "two" / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"holds 2 \.safetensors files"):
        lora_files.read(tmp_path / "two")


# --- for diffusers and back ---------------------------------------------------------------------------------------


def exported(tmp_path, *overrides: str, **adapter):
    """A run's pipeline with random adapters, its export, and the stock model that it began from."""
    made = guided_config(*overrides, **adapter)
    pipeline = build_pipeline(made)
    stock = stock_model(made)
    pipeline.backbone = backbone = ours(stock, made)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in trained:
            p.copy_(torch.randn(p.shape, generator=g) * 0.1)
    export.save(pipeline, tmp_path, made)
    return made, backbone, stock


def test_a_run_goes_on_from_kohyas_file_and_its_export_is_converted(tmp_path):
    """alpha / rank, the fused linears and the turned modulation, all the way into a stock model and back."""
    first = {k: x for k, x in authors_lora().items() if not k.endswith("bias")}
    kohya = {}
    for key, x in first.items():
        linear, _, part = key.rpartition(".lora_")
        stem = f"lora_unet_{linear.replace('.', '_')}"
        kohya |= {f"{stem}.lora_{'down' if part[0] == 'A' else 'up'}.weight": x, f"{stem}.alpha": torch.tensor(3.0)}
    save_file(kohya, tmp_path / "kohya.safetensors")
    made = guided_config(start=str(tmp_path / "kohya.safetensors"), bias=False, alpha=16)
    stock, pipeline = stock_model(made), build_pipeline(made)
    pipeline.backbone = backbone = ours(stock, made)
    scaled = {k: x * 3 / 4 if "lora_B" in k else x for k, x in first.items()}
    zero = {
        k: torch.zeros(len(x)) for k, x in ((k.replace("weight", "bias"), x) for k, x in first.items() if "lora_B" in k)
    }
    tokens = case(backbone)
    expected, plain = (
        stock_forward(merged_by_hand(stock_model(made), lora | zero), tokens, 1.0) for lora in (scaled, first)
    )
    torch.testing.assert_close(forward(backbone, tokens, mask("fcd_d")), expected, rtol=1e-4, atol=1e-5)
    assert (plain - expected).abs().max() > 1e-3, "negative control: without alpha"
    export.save(pipeline, tmp_path / "export", made)
    assert command("lora.py", "convert", f"lora={tmp_path / 'export'}", f"out={tmp_path / 'ours.safetensors'}") == 0
    stock.load_lora_adapter(load_file(tmp_path / "ours.safetensors"))
    torch.testing.assert_close(stock_forward(stock, tokens, 1.0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adapter", [{"alpha": 4}, {"alpha": 16}, {"rank": 40, "alpha": 80}])
def test_flux_fill_pipeline_of_diffusers_loads_the_export(adapter, tmp_path):
    """With scale 1 and another; and with a rank beyond what most linears can have, 32."""
    from diffusers import FluxFillPipeline

    _, backbone, stock = exported(tmp_path, **adapter)
    tokens = case(backbone)
    before, expected = stock_forward(stock, tokens, 1.0), forward(backbone, tokens, mask("fcd_d"))
    nothing = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = FluxFillPipeline(transformer=stock, **nothing)
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(stock_forward(stock, tokens, 1.0), expected, rtol=1e-5, atol=1e-5)
    assert (before - expected).abs().max() > 1e-2, "negative control"
    adapters = {n for n, m in stock.named_modules() if hasattr(m, "lora_A")}
    assert len(adapters) == len(authors_linears()) + 14, "every linear"
    said = json.loads((tmp_path / export.CONFIG_FILE).read_text())["lora_is_for"]
    assert said.startswith("a stock FluxTransformer2DModel")
    assert not any("branches" in key for key in load_file(tmp_path / export.LORA_FILE))


def test_the_model_alone_loads_it_too_and_so_does_a_run(tmp_path):
    """`load_lora_adapter`; and conditioning.adapter.start takes a run's export, in its folder or by the file."""
    made, backbone, stock = exported(tmp_path, alpha=16)
    tokens = case(backbone)
    expected = forward(backbone, tokens, mask("fcd_d"))
    for path in (tmp_path, tmp_path / export.LORA_FILE):
        again = ours(stock_model(made), guided_config(start=str(path), alpha=4))
        torch.testing.assert_close(forward(again, tokens, mask("fcd_d")), expected, rtol=1e-5, atol=1e-5)
    other = ours(stock_model(made), guided_config(alpha=4))
    assert (forward(other, tokens, mask("fcd_d")) - expected).abs().max() > 1e-2, "negative control"
    stock.load_lora_adapter(load_file(tmp_path / export.LORA_FILE), metadata=_header(tmp_path / export.LORA_FILE))
    torch.testing.assert_close(stock_forward(stock, tokens, 1.0), expected, rtol=1e-5, atol=1e-5)


def _header(path):
    with safe_open(path, framework="pt") as opened:
        return json.loads(opened.metadata()["lora_adapter_metadata"])


def test_with_sc_adaln_the_export_says_that_no_stock_model_takes_it(tmp_path):
    made, backbone, _ = exported(tmp_path, "conditioning/modulation=sc_adaln")
    said = json.loads((tmp_path / export.CONFIG_FILE).read_text())["lora_is_for"]
    assert "whose modulation this project has split" in said and "in no stock model" in said
    tokens = case(backbone)
    again = ours(stock_model(made), guided_config("conditioning/modulation=sc_adaln", start=str(tmp_path)))
    expected = forward(backbone, tokens, mask("fcd_d"))
    torch.testing.assert_close(forward(again, tokens, mask("fcd_d")), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="which this run does not adapt"):
        ours(stock_model(made), guided_config(start=str(tmp_path)))


def test_an_export_is_loaded_without_the_file_that_the_run_began_with(tmp_path):
    path = tmp_path / "authors.pth"
    saved(tmp_path, authors_lora())
    made = guided_config(start=str(path))
    pipeline = build_pipeline(made)
    export.save(pipeline, tmp_path / "export", made)
    path.unlink()
    loaded, read = export.load(tmp_path / "export")
    assert read["conditioning"]["adapter"]["start"] == str(path)
    for (n, a), (_, b) in zip(loaded.backbone.named_parameters(), pipeline.backbone.named_parameters(), strict=True):
        assert torch.equal(a, b), n
    with pytest.raises(ValueError, match="no such file"):
        build_pipeline(made)
