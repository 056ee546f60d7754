"""A LoRA of VisualCloze's own on a tiny FLUX: FLUX's first names, its fused linears, its merged weights."""

import torch

WIDTH, MLP = 32, 128  # of the tiny Flux


def authors_linears(fill: bool = True, guided: bool = True) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of every linear, as FLUX's first release names them: 2 double and 2 single blocks."""
    d = WIDTH
    found = {"img_in": (384 if fill else 64, d), "txt_in": (d, d), "final_layer.linear": (d, 64)}
    for name, inputs in {"time_in": 256, "vector_in": d, **({"guidance_in": 256} if guided else {})}.items():
        found |= {f"{name}.in_layer": (inputs, d), f"{name}.out_layer": (d, d)}
    for n in range(2):
        for side in ("img", "txt"):
            block = f"double_blocks.{n}.{side}_"
            found |= {f"{block}mod.lin": (d, 6 * d), f"{block}attn.qkv": (d, 3 * d), f"{block}attn.proj": (d, d)}
            found |= {f"{block}mlp.0": (d, MLP), f"{block}mlp.2": (MLP, d)}
        block = f"single_blocks.{n}."
        found |= {f"{block}modulation.lin": (d, 3 * d), f"{block}linear1": (d, 3 * d + MLP)}
        found[f"{block}linear2"] = (d + MLP, d)
    return found | {"final_layer.adaLN_modulation.1": (d, 2 * d)}


def authors_lora(rank: int = 4, std: float = 0.1, seed: int = 5, **form: bool) -> dict[str, torch.Tensor]:
    """Random, with a bias on B."""
    g, state = torch.Generator().manual_seed(seed), {}
    for name, (inputs, outputs) in authors_linears(**form).items():
        r = min(rank, inputs, outputs)
        state[f"{name}.lora_A.weight"] = torch.randn(r, inputs, generator=g) * inputs**-0.5
        state[f"{name}.lora_B.weight"] = torch.randn(outputs, r, generator=g) * std
        state[f"{name}.lora_B.bias"] = torch.randn(outputs, generator=g) * std
    return state


def fused(stock: torch.nn.Module) -> dict[str, list[str]]:
    """By the first release's name, the stock linears whose rows it holds, one after another."""
    table, names = {"img": ("", "to_", ""), "txt": ("_context", "add_", "_proj")}, {}
    for n in range(2):
        double, single = f"transformer_blocks.{n}.", f"single_transformer_blocks.{n}."
        for side, (tail, head, end) in table.items():
            names[f"double_blocks.{n}.{side}_attn.qkv"] = [f"{double}attn.{head}{x}{end}" for x in "qkv"]
            names[f"double_blocks.{n}.{side}_attn.proj"] = [f"{double}attn.{'to_add_out' if tail else 'to_out.0'}"]
            names[f"double_blocks.{n}.{side}_mod.lin"] = [f"{double}norm1{tail}.linear"]
            names[f"double_blocks.{n}.{side}_mlp.0"] = [f"{double}ff{tail}.net.0.proj"]
            names[f"double_blocks.{n}.{side}_mlp.2"] = [f"{double}ff{tail}.net.2"]
        names[f"single_blocks.{n}.linear1"] = [f"{single}attn.to_{x}" for x in "qkv"] + [f"{single}proj_mlp"]
        names |= {f"single_blocks.{n}.linear2": [f"{single}proj_out"]}
        names |= {f"single_blocks.{n}.modulation.lin": [f"{single}norm.linear"]}
    for there, here in {"time": "timestep", "vector": "text", "guidance": "guidance"}.items():
        for i, layer in enumerate(("in", "out"), 1):
            names[f"{there}_in.{layer}_layer"] = [f"time_text_embed.{here}_embedder.linear_{i}"]
    names |= {"img_in": ["x_embedder"], "txt_in": ["context_embedder"], "final_layer.linear": ["proj_out"]}
    return names | {"final_layer.adaLN_modulation.1": ["norm_out.linear"]}


@torch.no_grad()
def merged_by_hand(stock: torch.nn.Module, lora: dict[str, torch.Tensor], swap: bool = True) -> torch.nn.Module:
    """The stock model with each fused W + B A and b + bias computed under the first release's names.

    Its final modulation makes (shift, scale), diffusers' (scale, shift): `swap` on the way there and back.
    """
    for name, parts in fused(stock).items():
        linears = [stock.get_submodule(part) for part in parts]
        weight, bias = torch.cat([x.weight for x in linears]), torch.cat([x.bias for x in linears])
        turn = name.endswith("adaLN_modulation.1") and swap
        if turn:
            weight, bias = weight.roll(WIDTH, 0), bias.roll(WIDTH, 0)
        weight = weight + lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"]
        bias = bias + lora[f"{name}.lora_B.bias"]
        if turn:
            weight, bias = weight.roll(WIDTH, 0), bias.roll(WIDTH, 0)
        sizes = [len(x.weight) for x in linears]
        for linear, w, b in zip(linears, weight.split(sizes), bias.split(sizes), strict=True):
            linear.weight.copy_(w), linear.bias.copy_(b)
    return stock
