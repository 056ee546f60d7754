"""Exports in ComfyUI: every key is one that it loads (`comfyui_facts`), unchanged or as `lora.py` converts it."""

import json
import re
from pathlib import Path

import comfyui_facts
import pytest
import torch
from comfyui_facts import accepted
from loras import STOCK, stock_pairs, written
from safetensors.torch import load_file
from small_runs import command
from test_lora_round_trip import BLOCKS
from tiny import ROOT, randomise, tiny

from unigen.pipeline import export
from unigen.pipeline.build import build_pipeline
from unigen.weights import interchange, lora_comfyui
from unigen.weights.interchange import Delta

FLOW = ("process=rectified_flow", "solver=euler_static")
ENDS = "embedders"  # left out where one of them is a convolution, whose LoRA lora.py does not read
CASES = {  # by mini backbone: family, parts, and whether the export loads unchanged
    "flux_mini": ("flux", (*BLOCKS, ENDS), True),
    "flux_fill_mini": ("flux", (*BLOCKS, ENDS), True),
    "flux2_mini": ("flux2", (*BLOCKS, ENDS), False),
    "qwen_image_mini": ("qwen_image", (*BLOCKS, ENDS), True),
    "wan_mini": ("wan", BLOCKS, False),
    "hunyuan_video_mini": ("hunyuan_video", BLOCKS, False),
    "cogvideox_mini": ("cogvideox", (*BLOCKS, ENDS), False),
}


def exported(folder, name: str, parts, kind: str = "lora", **adapter) -> tuple[dict, str]:
    """A real export with one modulation for all images: its tensors by key, and what it says of ComfyUI."""
    flow = () if name == "cogvideox_mini" else FLOW
    config = tiny(f"backbone={name}", *flow, "conditioning/modulation=shared", f"conditioning/adapter={kind}")
    config["conditioning"]["adapter"] |= {"parts": list(parts), **adapter}
    pipeline = build_pipeline(config)
    randomise(pipeline.backbone, 0.1)
    export.save(pipeline, folder, config)
    return load_file(folder / export.LORA_FILE), json.loads((folder / export.CONFIG_FILE).read_text())["comfyui"]


def converted(folder) -> dict:
    words = ("convert", f"lora={folder}", "for=comfyui", f"out={folder / 'comfyui.safetensors'}")
    assert command("lora.py", *words) == 0
    return load_file(folder / "comfyui.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_comfyui_loads_every_key_of_an_export(name, tmp_path):
    family, parts, unchanged = CASES[name]
    state, said = exported(tmp_path, name, parts)
    assert all(accepted(family, key) for key in state) == unchanged
    assert said.startswith(f"ComfyUI 0.33.0 {'loads it unchanged' if unchanged else 'would load only a part'}")
    made = converted(tmp_path)
    assert [key for key in made if not accepted(family, key)] == []
    assert not accepted(family, next(iter(made)).replace(".", ".other.", 1)), "negative control"
    if unchanged:
        assert set(made) == set(state) and all(torch.equal(made[key], state[key]) for key in made)


def test_of_flux2_attention_and_feed_forward_load_unchanged(tmp_path):
    state, said = exported(tmp_path, "flux2_mini", ("attention", "feed_forward"))
    assert all(accepted("flux2", key) for key in state) and "loads it unchanged" in said


# --- what is added ------------------------------------------------------------------------------------------------

FUSED = {  # the linears of ComfyUI that hold several of diffusers', in the order of their rows
    ".img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    ".txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    ".self_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
}


def added(state: dict) -> dict[str, torch.Tensor]:
    """B A by linear, without the prefix."""
    stems = {key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")}
    return {n.partition(".")[2]: state[f"{n}.lora_B.weight"] @ state[f"{n}.lora_A.weight"] for n in stems}


def turned(x: torch.Tensor) -> torch.Tensor:
    return torch.cat(x.chunk(2)[::-1])


@pytest.mark.parametrize("family", STOCK)
def test_what_is_added_to_the_weights_is_the_same(family):
    """Each of diffusers' linears is found once: as a whole, as rows of a fused one, or with its halves turned."""
    pairs = stock_pairs(STOCK[family]())
    state, _ = lora_comfyui.convert({name: Delta(a, b) for name, (a, b) in pairs.items()})
    left, found = {name: b @ a for name, (a, b) in pairs.items()}, added(state)
    assert [key for key in state if not accepted(family, key)] == []
    for name, x in found.items():
        parts = next((into for end, into in FUSED.items() if name.endswith(end)), None)
        for k, y in enumerate([x] if parts is None else x.chunk(3)):
            if name == lora_comfyui.TURNED:
                y = turned(y)
            same = [n for n, z in left.items() if z.shape == y.shape and torch.allclose(z, y, rtol=1e-5, atol=1e-5)]
            assert len(same) == 1 and (parts is None or same[0].endswith(parts[k])), name
            block = "".join(c for c in name if c.isdigit())[:1]
            assert ".blocks." not in f".{name}" or f".{block}." in same[0], name
            del left[same[0]]
    assert not left, "negative control: none is left over"


def test_a_bias_and_a_scale_are_written_as_comfyui_reads_them(tmp_path):
    """VisualCloze's adapter: alpha is not in the header, and a bias is that of the fused linear."""
    state, said = exported(tmp_path, "flux_fill_mini", (*BLOCKS, ENDS), "lora_visualcloze", rank=4, alpha=12)
    assert "reads no alpha in a header, and it reads a bias by another key" in said
    assert not any(accepted("flux", key) for key in state if key.endswith("bias"))
    made = converted(tmp_path)
    assert [key for key in made if not accepted("flux", key)] == []
    lora = interchange.parse(state, {"lora_alpha": 12})
    name = "transformer_blocks.0.attn.to_k"
    both = made[f"transformer.{name}.lora_B.weight"] @ made[f"transformer.{name}.lora_A.weight"]
    torch.testing.assert_close(both, lora[name].up_OR @ lora[name].down_RI)
    assert (both - state[f"transformer.{name}.lora_B.weight"] @ lora[name].down_RI).abs().max() > 1e-2, "control"
    single = [f"single_transformer_blocks.0.{x}" for x in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    expected = torch.cat([lora[name].bias_O for name in single])
    torch.testing.assert_close(made["diffusion_model.single_blocks.0.linear1.diff_b"], expected)
    last = made["diffusion_model.final_layer.adaLN_modulation.1.diff_b"]
    torch.testing.assert_close(last, turned(lora["norm_out.linear"].bias_O))
    assert not torch.allclose(last, lora["norm_out.linear"].bias_O), "negative control"


def test_rows_without_a_lora_are_zero():
    pairs = stock_pairs(STOCK["hunyuan_video"]())
    kept = {n: Delta(a, b) for n, (a, b) in pairs.items() if not n.endswith("attn.to_k")}
    x = added(lora_comfyui.convert(kept)[0])["double_blocks.1.img_attn.qkv"].chunk(3)
    assert not x[1].any() and x[0].any() and x[2].any()


# --- what is refused ----------------------------------------------------------------------------------------------


def test_sc_adaln_and_adapters_by_role_are_for_the_node(tmp_path, capsys):
    roles = "conditioning.adapter.adapters={text: null, condition: cond, example: cond, target: null}"
    for folder, words in (("split", ("conditioning/modulation=sc_adaln",)), ("roles", (roles,))):
        parts = ("attention",) if folder == "roles" else BLOCKS
        config = tiny("backbone=flux_mini", *FLOW, "conditioning/adapter=lora", *words)
        config["conditioning"]["adapter"]["parts"] = list(parts)
        export.save(build_pipeline(config), tmp_path / folder, config)
        said = json.loads((tmp_path / folder / export.CONFIG_FILE).read_text())["comfyui"]
        assert said.endswith(lora_comfyui.NODE)
        file = next((tmp_path / folder).glob("pytorch_lora*"))
        out = f"out={tmp_path / f'{folder}.safetensors'}"
        assert command("lora.py", "convert", f"lora={file}", "for=comfyui", out) == 1
        assert "the node 'unigen sample'" in capsys.readouterr().err


def test_a_convolution_is_for_the_node_too(tmp_path):
    _, said = exported(tmp_path, "wan_mini", (*BLOCKS, ENDS))
    assert said.startswith("'patch_embedding' is a convolution") and said.endswith(lora_comfyui.NODE)
    words = ("convert", f"lora={tmp_path}", "for=comfyui", f"out={tmp_path / 'comfyui.safetensors'}")
    assert command("lora.py", *words) == 1


def test_refusals_are_one_sentence(tmp_path, capsys):
    pairs = stock_pairs(STOCK["flux2"]())
    state = {f"transformer.{n}.lora_{k}.weight": x for n, pair in pairs.items() for k, x in zip("AB", pair)}
    biased = state | {"transformer.proj_out.lora_B.bias": torch.ones(64)}
    either = {k: x for k, x in state.items() if ".0.attn.to_q." in k and "single" not in k}
    for name, tensors, program, said in (
        ("biased", biased, "comfyui", "'proj_out' has a bias in the LoRA and none in the model"),
        ("either", either, "comfyui", "alike, which ComfyUI names differently"),
        ("fine", state, "comfy", "for=comfy is no program that LoRAs are written for; legal are diffusers, comfyui"),
    ):
        file = written(tmp_path / name, tensors)
        out = tmp_path / f"{name}.safetensors"
        assert command("lora.py", "convert", f"lora={file}", f"for={program}", f"out={out}") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error and not out.exists()


def test_the_page_and_the_code_speak_of_one_comfyui():
    page, facts = (ROOT / "docs" / "comfyui.md").read_text(), Path(comfyui_facts.__file__).read_text()
    (commit,) = re.findall(r"commit ([0-9a-f]{7})", lora_comfyui.__doc__)
    assert f"ComfyUI {lora_comfyui.VERSION}" in page and f"ComfyUI {lora_comfyui.VERSION}" in lora_comfyui.__doc__
    assert f"`{commit}`" in page and commit in facts and lora_comfyui.VERSION in facts
