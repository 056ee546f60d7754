"""LoRAs in miniature as other programs write them, for a stock model of each family; and what each adds."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from backbones.flux_authors import authors_linears, fused
from diffusers import (
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanVideo15Transformer3DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors.torch import save_file
from torch import Tensor, nn

RANK = 4
Pairs = dict[str, tuple[Tensor, Tensor]]  # A and B by linear
State = dict[str, Tensor]


def flux(blocks: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        num_layers=blocks,
        num_single_layers=blocks,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def flux2(blocks: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return Flux2Transformer2DModel(
        in_channels=64,
        num_layers=blocks,
        num_single_layers=blocks,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=20,
        axes_dims_rope=(4, 4, 4, 4),
    )


def cogvideox(blocks: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return CogVideoXTransformer3DModel(
        num_layers=blocks,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=24,
        time_embed_dim=20,
        patch_size_t=2,
        use_rotary_positional_embeddings=True,
    )


def wan(blocks: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_layers=blocks,
        attention_head_dim=16,
        num_attention_heads=2,
        text_dim=24,
        freq_dim=20,
        ffn_dim=48,
        rope_max_seq_len=16,
    )


def qwen_image(blocks: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        num_layers=blocks,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(4, 6, 6),
    )


def hunyuan_video(blocks: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return HunyuanVideo15Transformer3DModel(
        num_layers=blocks,
        num_refiner_layers=blocks,
        attention_head_dim=16,
        num_attention_heads=2,
        mlp_ratio=2.0,
        text_embed_dim=24,
        text_embed_2_dim=8,
        image_embed_dim=12,
        rope_axes_dim=(4, 6, 6),
    )


STOCK: dict[str, Callable[..., nn.Module]] = {
    "flux": flux,
    "flux2": flux2,
    "cogvideox": cogvideox,
    "wan": wan,
    "qwen_image": qwen_image,
    "hunyuan_video": hunyuan_video,
}
PIPELINES = {  # HunyuanVideo-1.5's has no loader of LoRAs; its transformer has one
    "flux": FluxPipeline,
    "flux2": Flux2KleinPipeline,
    "cogvideox": CogVideoXPipeline,
    "wan": WanPipeline,
    "qwen_image": QwenImagePipeline,
}


def some(sizes: dict[str, tuple[int, int]], seed: int = 3) -> Pairs:
    g = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(RANK, inputs, generator=g), torch.randn(outputs, RANK, generator=g))
        for name, (inputs, outputs) in sizes.items()
    }


def stock_pairs(model: nn.Module) -> Pairs:
    """A LoRA on every linear of a stock model."""
    modules = model.named_modules()
    return some({name: (m.in_features, m.out_features) for name, m in modules if isinstance(m, nn.Linear)})


def first_pairs() -> Pairs:
    """A LoRA on every linear of the tiny Flux as FLUX's first release names and fuses them."""
    return some(authors_linears(fill=False))


# --- what the programs write --------------------------------------------------------------------------------------


def peft(pairs: Pairs, prefix: str = "") -> State:
    found = {f"{prefix}{name}.lora_A.weight": a for name, (a, _) in pairs.items()}
    return found | {f"{prefix}{name}.lora_B.weight": b for name, (_, b) in pairs.items()}


def with_alphas(pairs: Pairs, prefix: str, alpha: float, flat: bool) -> State:
    """kohya's; `flat`: with underscores for dots."""
    state = {}
    for name, (a, b) in pairs.items():
        stem = prefix + (name.replace(".", "_") if flat else name)
        state |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b, f"{stem}.alpha": torch.tensor(alpha)}
    return state


WAN_AUTHORS = {  # what stands in diffusers' names, and in those of Wan's authors
    **{
        f".{ours}.to_{x}": f".{theirs}.{x}"
        for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for x in "qkv"
    },
    ".attn1.to_out.0": ".self_attn.o",
    ".attn2.to_out.0": ".cross_attn.o",
    ".ffn.net.0.proj": ".ffn.0",
    ".ffn.net.2": ".ffn.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
}


def wan_authors(pairs: Pairs) -> Pairs:
    """The LoRA by the names of Wan's authors."""
    found = {}
    for name, pair in pairs.items():
        (own,) = [name.replace(ours, theirs) for ours, theirs in WAN_AUTHORS.items() if name.endswith(ours)]
        found[own] = pair
    return found


def x_flux(pairs: Pairs) -> tuple[State, Pairs]:
    """x-flux's: attention alone, without alphas; and what of `pairs` that is (q, k and v of single blocks' linear1)."""
    names, state, used = {"img": "1", "txt": "2"}, {}, {}
    for name, (a, b) in pairs.items():
        block, _, rest = name.rpartition(".") if name.startswith("single") else name.rpartition("_attn.")
        if block.startswith("double"):
            head, side = block.rsplit(".", 1)
            stem = f"{head}.processor.{rest}_lora{names[side]}"
        elif rest in ("linear1", "linear2"):
            stem = f"{block}.processor.{'qkv' if rest == 'linear1' else 'proj'}_lora"
            b = torch.cat([b[: 3 * a.shape[1]], 0 * b[3 * a.shape[1] :]]) if rest == "linear1" else b
        else:
            continue
        used[name] = (a, b)
        state |= {f"{stem}.down.weight": a, f"{stem}.up.weight": b[: 3 * a.shape[1]] if "qkv_lora" in stem else b}
    return state, used


# --- what they add ------------------------------------------------------------------------------------------------


def added(pairs: Pairs, scale: Callable[[str], float]) -> dict[str, Tensor]:
    """scale B A by linear, in fp64."""
    return {name: scale(name) * (b.double() @ a.double()) for name, (a, b) in pairs.items()}


def split_by_hand(deltas: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What fused linears of FLUX's first release are added, on those of a stock model."""
    found = {}
    for name, into in fused(model).items():
        if name in deltas:
            delta = deltas[name]
            if name == "final_layer.adaLN_modulation.1":  # shift and scale there, scale and shift here
                delta = delta.roll(len(delta) // 2, 0)
            sizes = [model.get_submodule(linear).out_features for linear in into]
            found |= dict(zip(into, delta.split(sizes), strict=True))
    return found


def loaded(file: Path, family: str) -> dict[str, Tensor]:
    """What a stock model has more in its weights, by linear, when its pipeline has loaded `file` and merged it.

    Where the pipeline has no loader, the model's own is asked.
    """
    model = STOCK[family]()
    before = {name: x.clone() for name, x in model.named_parameters() if name.endswith(".weight")}
    nothing = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer"))
    nothing |= dict.fromkeys(("text_encoder_2", "tokenizer_2")) if family == "flux" else {}
    if family in PIPELINES:
        pipe = PIPELINES[family](transformer=model, **nothing)
        pipe.load_lora_weights(file.parent, weight_name=file.name)
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    else:
        model.load_lora_adapter(file.parent, weight_name=file.name)
        model.fuse_lora()
        model.unload_lora()
    after = dict(model.named_parameters())
    found = {name.removesuffix(".weight"): after[name].double() - x.double() for name, x in before.items()}
    return {name: x for name, x in found.items() if x.any()}


def written(folder: Path, state: State, config: dict | None = None, name: str = "lora.safetensors") -> Path:
    """`state` as a file, and peft's configuration beside it."""
    folder.mkdir(exist_ok=True, parents=True)
    save_file({key: x.contiguous().clone() for key, x in state.items()}, folder / name)
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder / name
