"""Thousands of broken LoRA files: lora.py writes what a stock model takes and what the file says, or says why not."""

import json
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path

import loras
import pytest
import torch
from loras import Pairs, State, first_pairs, peft, stock_pairs, with_alphas
from safetensors.torch import load_file, save
from small_runs import command, files
from torch import Tensor

PREFIXES = ("", "transformer.", "diffusion_model.", "base_model.model.", "model.diffusion_model.")
FLAT = ("lora_unet_", "lora_unet__", "lora_transformer_", "lycoris_")
PARTS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "down.weight": "down",
    "up.weight": "up",
    "lora_B.bias": "bias",
    "lora_B.default.bias": "bias",
    "alpha": "alpha",
}
TYPES = [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.bool]
# linears whose sizes may differ from those of this test's stock models
FREE = r"x_embedder|proj_out|context_embedder|patch_embed\..*|time_.*|norm_out.*|.*norm\d?\.linear"


# --- good files, and what is done to them -------------------------------------------------------------------------


def biased(pairs: Pairs, prefix: str) -> State:
    bias = {f"{prefix}{name}.lora_B.bias": torch.ones(len(b)) for name, (_, b) in pairs.items()}
    return peft(pairs, prefix) | bias


@cache
def good() -> list[tuple[State, dict | None]]:
    first, some = first_pairs(), {}
    x_flux, _ = loras.x_flux(first)
    found = [
        (peft(first), None),
        (peft(first, "base_model.model."), {"lora_alpha": 3, "alpha_pattern": {"img_in": 8}}),
        (with_alphas(first, "lora_unet_", 3.0, flat=True), None),
        (with_alphas(first, "diffusion_model.", 3.0, flat=False), None),
        (biased(first, ""), None),
        (x_flux, None),
    ]
    for model in (loras.flux(), loras.cogvideox()):
        some = stock_pairs(model)
        found += [
            (peft(some, "transformer."), None),
            (peft(some, "base_model.model."), {"lora_alpha": 3, "use_rslora": True}),
            (with_alphas(some, "lora_unet__", 3.0, flat=True), None),
            (biased(some, "diffusion_model."), None),
        ]
    return found


def renamed(rng: random.Random, key: str) -> str:
    at = rng.randrange(len(key))
    prefix = next((p for p in (*PREFIXES[1:], *FLAT) if key.startswith(p)), "")
    ways = (
        lambda: key[:at] + key[at + 1 :],
        lambda: key[:at] + rng.choice("0129._aAlL\n") + key[at + 1 :],
        lambda: re.sub(r"\d+", lambda m: str(rng.choice((0, 1, 2, 9, 19, 77, 250))), key, count=1),
        lambda: rng.choice((*PREFIXES, *FLAT, "unet.", "text_encoder.", "lora_te1_")) + key.removeprefix(prefix),
        lambda: key.replace("lora_A", "lora_B") if "lora_A" in key else key.replace("up", "down"),
        lambda: key.replace("img", "txt") if "img" in key else key.replace("to_q", "to_k"),
        lambda: rng.choice((".", "", "x")) + key + rng.choice(("", ".", ".bias", ".weight", "_1")),
    )
    return rng.choice(ways)()


def reshaped(rng: random.Random, x: Tensor) -> Tensor:
    ways = (
        lambda: x[: rng.randrange(len(x) + 1)] if x.ndim else x,
        lambda: x[..., : rng.randrange(x.shape[-1] + 1)] if x.ndim else x,
        lambda: x.mT if x.ndim == 2 else x,
        lambda: torch.cat([x, x]) if x.ndim else x[None],
        lambda: x.flatten(),
        lambda: x[..., None],
        lambda: torch.zeros(0),
    )
    return rng.choice(ways)()


def spoilt(rng: random.Random, x: Tensor) -> Tensor:
    x = x.contiguous().clone()
    if x.numel() and x.is_floating_point() and x.itemsize > 1:
        value = rng.choice((float("nan"), float("inf"), -float("inf"), 0.0, 1e30, -1e38, 1e-30))
        x.view(-1)[rng.randrange(x.numel())] = value
    return x


def changed(rng: random.Random, state: State) -> State:
    """One of the ways in which the tensors of a file may be other than they were; of whole linears, of some or one."""
    keys = sorted(state)
    some = rng.sample(keys, min(len(keys), rng.choice((1, 1, 2, 1 + len(keys) // 3, len(keys)))))
    what = rng.randrange(8)
    if what == 0:
        return {renamed(rng, key) if key in some else key: x for key, x in state.items()}
    if what == 1:
        return {key: x for key, x in state.items() if key not in some[: len(keys) - 1]}
    if what == 2:
        return {key: reshaped(rng, x) if key in some else x for key, x in state.items()}
    if what == 3:
        kind = rng.choice(TYPES)
        return {key: x.to(kind) if key in some else x for key, x in state.items()}
    if what == 4:
        return {key: spoilt(rng, x) if key in some else x for key, x in state.items()}
    if what == 5:  # of all linears but a few, nothing is left
        stems = rng.choices(sorted({stem(key) for key in keys}), k=3)
        return {key: x for key, x in state.items() if stem(key) in stems}
    if what == 6:
        other, _ = rng.choice(good())
        return {**state, **dict(rng.sample(sorted(other.items(), key=lambda item: item[0]), rng.randrange(1, 5)))}
    return {
        re.sub(r"(?<=blocks[._])\d+", lambda m: str(int(m[0]) + rng.choice((0, 1, 5))), k): x for k, x in state.items()
    }


def stem(key: str) -> str:
    part = max((part for part in PARTS if key.endswith(f".{part}")), key=len, default="")
    return key.removesuffix(f".{part}")


def broken(rng: random.Random, data: bytes) -> bytes:
    """Bytes changed, in the header more often than behind it, taken out, put in, or cut off."""
    changed, header = bytearray(data), 8 + int.from_bytes(data[:8], "little")
    end = header if rng.random() < 0.7 else len(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, what = rng.randrange(min(end, len(changed)) or 1), rng.randrange(6)
        if what < 3 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif what == 3:
            del changed[at : at + rng.randrange(1, 9)]
        elif what == 4:
            changed[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 4)))
        else:
            del changed[rng.choice((at, len(changed) - 1)) :]
    return bytes(changed)


# --- what a file says, read here in another way -------------------------------------------------------------------


@cache
def known() -> dict[str, list[tuple[str, bool]]]:
    """By a stem as any program may write it: the stock linears that it is, and whether their halves change places.

    Where two families have a stem (`img_in`), it is FLUX's, of which the good files are.
    """
    found = {}
    for family, make in loras.STOCK.items():
        model = make()
        names = {name: [name] for name in stock_pairs(model)}
        if family == "flux":
            names |= loras.fused(model) | x_flux_names(loras.fused(model))
        if family == "wan":
            names |= {theirs: [ours] for ours, theirs in zip(names, loras.wan_authors(stock_pairs(model)), strict=True)}
        for name, into in names.items():
            turned = name == "final_layer.adaLN_modulation.1"
            for n in range(200) if "blocks.0." in name else [0]:
                here, *there = (x.replace("blocks.0.", f"blocks.{n}.") for x in (name, *into))
                flat = here.replace(".", "_")
                stems = [prefix + here for prefix in PREFIXES]
                stems += [prefix + flat for prefix in FLAT] if "processor" not in here else []
                for stem_of in stems:
                    found.setdefault(stem_of, [(x, turned) for x in there])
    return found


def x_flux_names(fused: dict[str, list[str]]) -> dict[str, list[str]]:
    found = {}
    for name, into in fused.items():
        if match := re.fullmatch(r"(double_blocks\.\d+)\.(img|txt)_attn\.(qkv|proj)", name):
            found[f"{match[1]}.processor.{match[3]}_lora{1 + (match[2] == 'txt')}"] = into
        elif match := re.fullmatch(r"(single_blocks\.\d+)\.linear(1|2)", name):
            found[f"{match[1]}.processor.{'qkv' if match[2] == '1' else 'proj'}_lora"] = into[:3]
    return found


def said(state: State, config: dict | None) -> dict[str, Tensor]:
    """What the file adds to the weights of stock linears, in fp64, biases under their names with ".bias"."""
    linears: dict[str, State] = {}
    for key, x in state.items():
        if not re.match(r"text_encoder\.|lora_te1_", key):
            name = stem(key)
            part = PARTS[key.removeprefix(f"{name}.")]
            name = name.removeprefix(max((p for p in PREFIXES if name.startswith(p)), key=len))
            assert part not in linears.setdefault(name, {}), f"{key} is there twice"
            linears[name][part] = x.double()
    found = {}
    for name, parts in linears.items():
        into = known()[name]
        down, up = parts["down"], parts["up"]
        scale = _scale(name, parts, config or {}, len(down))
        blocks = {"": scale * (up @ down)} | ({".bias": scale * parts["bias"]} if "bias" in parts else {})
        for end, rows in blocks.items():
            rows = rows.roll(len(rows) // 2, 0) if into[0][1] else rows
            width = down.shape[1]
            sizes = [len(rows)] if len(into) == 1 else [width] * 3 + [len(rows) - 3 * width] * (len(into) == 4)
            for (linear, _), part in zip(into, rows.split(sizes), strict=True):
                assert linear + end not in found, f"{linear}{end} is there twice"
                found[linear + end] = part
    return found


def _scale(name: str, parts: State, config: dict, rank: int) -> float:
    if "alpha" in parts:
        return parts["alpha"].item() / rank
    if "lora_alpha" not in config:
        return 1.0
    own = [value for end, value in config.get("alpha_pattern", {}).items() if re.fullmatch(rf"(.*\.)?({end})", name)]
    return (own or [config["lora_alpha"]])[0] / (rank**0.5 if config.get("use_rslora") else rank)


def check_written(out: Path, expected: dict[str, Tensor]) -> None:
    """The file adds `expected`, and a stock model takes it all."""
    state = load_file(out)
    plain = {key.removeprefix("transformer."): x for key, x in state.items()}
    found = {}
    for key, up in plain.items():
        name = key.removesuffix(".lora_B.weight")
        if name != key:
            found[name] = up.double() @ plain[f"{name}.lora_A.weight"].double()
        elif key.endswith(".lora_B.bias"):
            found[key.removesuffix(".lora_B.bias") + ".bias"] = up.double()
    zero = {name for name in set(found) - set(expected) if name.endswith(".bias") and not found[name].any()}
    assert set(found) - zero == set(expected)
    for name, x in expected.items():
        assert found[name].shape == x.shape
        assert (found[name] - x).abs().max() <= 1e-5 * x.abs().max().clamp(min=1e-30), name
    of_cogvideox = any(re.search(r"attn1|patch_embed|time_embedding", name) for name in found)
    family = "cogvideox" if of_cogvideox else "flux"
    if any(
        re.search(r"_mlp_proj|linear_(in|out)\.|_stream_modulation|time_guidance|^single.*to_out", n) for n in found
    ):
        family = "flux2"
    if any(re.match(r"blocks\.|condition_embedder", name) for name in found):
        family = "wan"
    deepest = max((int(n) for name in found for n in re.findall(r"blocks\.(\d+)\.", name)), default=0)
    model = loras.STOCK[family](deepest + 1)
    usual = {
        key: x
        for key, x in state.items()
        if not re.fullmatch(FREE, key.removeprefix("transformer.").partition(".lora_")[0])
    }
    if usual:
        model.load_lora_adapter(usual)
        taken = {re.sub(r"\.default_0\.", ".", n): p for n, p in model.named_parameters() if ".lora_" in n}
        assert {f"transformer.{n}" for n in taken} == set(usual)
        assert all(torch.equal(p, usual[f"transformer.{n}"].to(p.dtype)) for n, p in taken.items())


def tried(rng: random.Random, folder: Path, capsys: pytest.CaptureFixture) -> int:
    """The exit code of lora.py on one file that is changed in some way; everything about it is checked."""
    state, config = rng.choice(good())
    path, out = folder / "in.safetensors", folder / "out.safetensors"
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        state = changed(rng, state)
    data = save({key: x.contiguous().clone() for key, x in state.items()})
    path.write_bytes(broken(rng, data) if rng.random() < 0.3 else data)
    if config is not None:
        text = json.dumps(config).encode()
        beside = folder / "adapter_config.json"
        beside.write_bytes(broken(rng, text) if rng.random() < 0.3 else text)
    before = files(folder)
    factor = rng.choice((0.3, 1, 1))
    words = ("merge", f"loras=[{path}]", "weights=[0.3]") if factor == 0.3 else ("convert", f"lora={path}")
    code, (printed, error) = command("lora.py", *words, f"out={out}"), capsys.readouterr()
    if code == 0:
        assert printed.startswith(f"{out}: ") and "It was loaded into a " in printed
        state = load_file(path)
        used = config and any(key.startswith("base_model.model.") for key in state)
        expected = said(state, json.loads(beside.read_text()) if used else None)
        check_written(out, {name: factor * x for name, x in expected.items()})
        out.unlink()
    else:
        assert code == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    assert files(folder) == before, "a file is left behind, or another one changed"
    for file in folder.iterdir():
        file.unlink()
    return code


@pytest.mark.parametrize("count", [80, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")
def test_a_broken_lora_is_what_it_says_or_refused(count, tmp_path, capsys):
    rng = random.Random(count)
    outcomes = Counter(tried(rng, tmp_path, capsys) for _ in range(count))
    assert min(outcomes[0], outcomes[1]) > count / 10, outcomes


def test_the_reader_of_this_test_sees_a_wrong_file(tmp_path):
    """Negative control: other numbers, a missing linear and other rows are found."""
    state, _ = good()[0]
    expected = said(state, None)
    path = loras.written(tmp_path / "in", state)
    out = tmp_path / "out.safetensors"
    assert command("lora.py", "convert", f"lora={path}", f"out={out}") == 0
    check_written(out, expected)
    for wrong in (
        expected | {"norm_out.linear": expected["norm_out.linear"].roll(32, 0)},
        expected | {"proj_out": expected["proj_out"] * 1.001},
        {name: x for name, x in expected.items() if name != "proj_out"},
    ):
        with pytest.raises(AssertionError):
            check_written(out, wrong)
