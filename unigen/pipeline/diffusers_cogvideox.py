# SPDX-License-Identifier: Apache-2.0
"""A run of unigen on CogVideoX as a custom pipeline of diffusers: one file that an export carries, and needs no unigen.

    base, code = "zai-org/CogVideoX1.5-5B", "<export>/pipeline.py"
    pipe = DiffusionPipeline.from_pretrained(base, custom_pipeline=code, trust_remote_code=True)
    pipe.load_export("<export>")
    image = pipe(image=condition, prompt="a red pot", subject="pot", seed=0).images[0]

The transformer, its blocks, the VAE and T5 are those of diffusers and transformers. Three things are put in: attention
under a mask by role (FCD), a modulation with a branch for each role (SC-AdaLN), and the shift of the conditions'
latents (UCE). What an export has beyond that is refused (`refusals`).

Shapes: B samples, F frames, f latent frames, C latent channels, H and W pixels, h and w latent cells, T text tokens,
L tokens, D width, E width of the time embedding, K clocks.
"""

from __future__ import annotations

import json
import math
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
from diffusers.models.embeddings import apply_rotary_emb, get_3d_rotary_pos_embed
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import snapshot_download
from PIL import Image, ImageOps
from safetensors import safe_open
from torch import Generator, Tensor, nn

CONFIG_FILE, MODULES_FILE, LORA_FILE = "unigen.json", "unigen_modules.safetensors", "pytorch_lora_weights.safetensors"
TEXT, CONDITION, TARGET = "text", "condition", "target"
ADAPTER, USER = "unigen", "user"  # the LoRA's name in the transformer; the key of sample.py's noise for one's own image
LORA, UCE = "unigen.conditioning.lora.LoRA", "unigen.conditioning.uce.UCE"
LIMITS = "sample_width", "sample_height", "sample_frames", "max_text_seq_length"  # keys that change no result
# What this file computes, by key of the run's configuration; a key that is absent counts as null.
LEGAL: dict[str, tuple[Any, ...]] = {
    "backbone._target_": ("unigen.backbones.cogvideox.CogVideoX",),
    "backbone.config.in_channels": (16,),
    "backbone.quantize": (None,),
    "encoder.codec._target_": ("unigen.encoders.vae.CogVideoXVAE",),
    "encoder.text._target_": ("unigen.encoders.t5.T5Text",),
    "encoder.text.pool": (1,),
    "encoder.text.mask_padding": (False, None),
    "formatter._target_": ("unigen.formatters.placed.Placed",),
    "formatter.places": ({"all": {"run": "t"}},),
    "formatter.buffers": ([], None),
    "formatter.caps.target": (1.0,),
    "formatter.temporal_padding": ("replicate",),
    "formatter.copy_noise": ("same",),
    "mask._target_": ("unigen.core.masks.Mask",),
    "conditioning.embedding._target_": ("unigen.conditioning.uce.NoEmbedding", UCE),
    "conditioning.modulation._target_": ("unigen.conditioning.sc_adaln.RoleModulation",),
    "conditioning.slots._target_": ("unigen.conditioning.slots.NoSlotVectors", None),
    "conditioning.adapter._target_": ("unigen.conditioning.lora.Full", LORA),
    "conditioning.adapter.adapters": (None,),
    "process._target_": ("unigen.processes.vp.VariancePreserving",),
    "process.zero_terminal_snr": (True,),
    "solver._target_": ("unigen.solvers.ddim.DDIM",),
    "guidance.passes": ([], None),
    "guidance.rescale": (False, None),
    "guidance.interval": ([0.0, 1.0], None),
    "guidance.hide.condition": ("zero", None),
    "data.instruction": (None,),
}


def value_of(config: Any, key: str) -> Any:
    """Return the value at a key with dots; None where a part of it is absent."""
    for word in key.split("."):
        config = config.get(word) if isinstance(config, Mapping) else None
    return config


def refusals(config: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each key of a run's configuration that this file cannot compute."""
    found = []
    for key, legal in LEGAL.items():
        if (value := value_of(config, key)) not in legal:
            words = " and ".join(json.dumps(each) for each in legal)
            found.append(f"{key} is {json.dumps(value)}; the pipeline for diffusers computes {words} alone")
    if value_of(config, "encoder.text.tokenizer") == "byt5":
        found.append("encoder.text.tokenizer is byt5; the pipeline for diffusers reads the base's own tokenizer alone")
    if (rows := value_of(config, "data.rows")) and min(rows) > 0:
        found.append(f"data.rows is {rows}: the run always had example rows, which the pipeline for diffusers lacks")
    tables = (config.get("guidance"), *(value_of(config, "guidance.by_task") or {}).values())
    if odd := sorted({role for table in tables for role in value_of(table, "drop") or ()} - {TEXT, CONDITION}):
        found.append(f"guidance.drop has {odd[0]}; the pipeline for diffusers hides text and condition alone")
    return found


class Segment(NamedTuple):
    """The text or one image: its role, its number of tokens, and the highest noise level that it reaches."""

    role: str
    tokens: int
    cap: float


class Layout:
    """What the tokens of the running call are. The norms and the attention of every block read this one object.

    The stock transformer passes its blocks no such thing, so a call sets it: `segments` once, and in each step the
    number of `clocks` and the one that each segment has (`clock_of`). It is for sampling alone.
    """

    def __init__(self, mask: Mapping[str, Any], timing: Mapping[str, str]) -> None:
        self.rows, self.bias, self.timing = mask["rows"], mask.get("bias") or {}, timing

    def begin(self, segments: Sequence[Segment]) -> None:
        """Set the segments of a call, text first."""
        self.segments, self.lengths = list(segments), [segment.tokens for segment in segments]
        self.groups: dict[tuple[tuple[int, float], ...], list[int]] = {}  # keys with their bias -> their queries
        for i, query in enumerate(segments):
            of_key = self.bias.get(query.role, {})
            seen = [(j, math.log(of_key.get(k.role, 1.0))) for j, k in enumerate(segments) if self._sees(i, j)]
            self.groups.setdefault(tuple(seen), []).append(i)

    def _sees(self, i: int, j: int) -> bool:
        word = self.rows[self.segments[i].role][self.segments[j].role]
        return i == j if word == "same" else word != "none"  # a call is one turn, which "earlier" includes

    def set_time(self, t: float) -> list[float]:
        """Give every segment its clock at time t, the step's or its own, and return the distinct clocks."""
        times = [t if self.timing[s.role] == "shared" else min(t, s.cap) for s in self.segments]
        distinct = list(dict.fromkeys(times))
        self.clocks, self.clock_of = len(distinct), [distinct.index(time) for time in times]
        return distinct

    def attend(self, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor) -> Tensor:
        """Attend by one call without a mask for each distinct set of keys; queries without keys get zeros."""
        q, k, v = (x.split(self.lengths, dim=2) for x in (q_BHLD, k_BHLD, v_BHLD))
        outputs: dict[int, Tensor] = {}
        for seen, queries in self.groups.items():
            asking = torch.cat([q[i] for i in queries], dim=2)
            out = torch.zeros_like(asking)
            if seen:
                bias = torch.cat([asking.new_full((self.lengths[j],), log) for j, log in seen])[None, None, None]
                keys, values = (torch.cat([x[j] for j, _ in seen], dim=2) for x in (k, v))
                added = bias if any(log for _, log in seen) else None
                out = F.scaled_dot_product_attention(asking, keys, values, attn_mask=added)
            outputs |= zip(queries, out.split([self.lengths[i] for i in queries], dim=2), strict=True)
        return torch.cat([outputs[i] for i in range(len(self.segments))], dim=2)


@dataclass
class RoleAttention:
    """The attention processor of CogVideoX under the role mask of the layout. Text has no position."""

    layout: Layout

    def __call__(
        self, attn: nn.Module, x: Tensor, encoder_hidden_states: Tensor, attention_mask: None, image_rotary_emb: Any
    ) -> tuple[Tensor, Tensor]:
        text = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, x], dim=1)
        q, k, v = (to(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for to in (attn.to_q, attn.to_k, attn.to_v))
        q, k = (
            torch.cat([y[:, :, :text], apply_rotary_emb(y[:, :, text:], image_rotary_emb)], dim=2)
            for y in (attn.norm_q(q), attn.norm_k(k))
        )
        out = self.layout.attend(q, k, v.to(q.dtype)).transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))
        return out[:, text:], out[:, :text]


class BranchedNorm(nn.Module):
    """CogVideoXLayerNormZero with one branch for each role: LN(x) * (1 + scale) + shift (SC-AdaLN).

    A branch is the stock linear's text half or image half, shared if `tied` (its LoRA tells branches apart), else
    copied. `temb` (K B, E) has the embeddings of all clocks, one after the other.
    """

    def __init__(self, stock: nn.Module, branches: Mapping[str, str], tied: bool, layout: Layout) -> None:
        super().__init__()
        self.silu, self.norm, self.table, self.layout = stock.silu, stock.norm, dict(branches), layout
        weights, biases = stock.linear.weight.detach().chunk(2), stock.linear.bias.detach().chunk(2)
        halves = [[nn.Parameter(x, requires_grad=False) for x in half] for half in zip(weights, biases, strict=True)]
        self.branches = nn.ModuleDict()
        for name, role in {name: role for role, name in branches.items()}.items():
            own = halves[role == TEXT]  # the image half comes first
            branch = self.branches[name] = nn.Linear(1, 1, device="meta")
            branch.out_features, branch.in_features = own[0].shape
            branch.weight, branch.bias = own if tied else [nn.Parameter(x.clone()) for x in own]

    def forward(self, images_BLD: Tensor, text_BTD: Tensor, temb: Tensor) -> tuple[Tensor, ...]:
        """Return modulated images and text, then the gates of both."""
        tembs, pairs = temb.chunk(self.layout.clocks), zip(self.layout.segments, self.layout.clock_of, strict=True)
        keys = [(self.table[segment.role], clock) for segment, clock in pairs]
        made = {key: self.branches[key[0]](self.silu(tembs[key[1]]))[:, None].chunk(3, dim=-1) for key in {*keys}}
        outs, gates = [], []
        for part, key in zip([text_BTD, *images_BLD.split(self.layout.lengths[1:], dim=1)], keys, strict=True):
            shift, scale, gate = made[key]
            outs.append(self.norm(part) * (1 + scale) + shift)
            gates.append(gate.expand(-1, part.shape[1], -1))
        return torch.cat(outs[1:], dim=1), outs[0], torch.cat(gates[1:], dim=1), gates[0]


class ClockedNorm(nn.Module):
    """The stock last norm of the images, each modulated at its own clock; `temb` as in `BranchedNorm`."""

    def __init__(self, stock: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.silu, self.linear, self.norm, self.layout = stock.silu, stock.linear, stock.norm, layout

    def forward(self, x_BLD: Tensor, temb: Tensor) -> Tensor:
        made = [self.linear(self.silu(own))[:, None].chunk(2, dim=-1) for own in temb.chunk(self.layout.clocks)]
        parts = self.norm(x_BLD).split(self.layout.lengths[1:], dim=1)
        pairs = zip(parts, self.layout.clock_of[1:], strict=True)
        return torch.cat([x * (1 + made[clock][1]) + made[clock][0] for x, clock in pairs], dim=1)


class Schedule:
    """The noise schedule over times t from 1 (noise) to 0 (data).

    A step of DDIM ends where the next one begins, and every image has its own ceiling, as unigen samples. Diffusers'
    own schedulers end a step 1000 // steps below its timestep, so their `step` is not used.
    """

    def __init__(self, process: Mapping[str, Any]) -> None:
        kept, self.steps = {k: process[k] for k in ("beta_start", "beta_end", "snr_shift_scale")}, process["steps"]
        stock = CogVideoXDDIMScheduler(num_train_timesteps=self.steps, rescale_betas_zero_snr=True, **kept)
        self.abar = torch.cat([torch.ones(1, dtype=torch.float64), stock.alphas_cumprod.cpu()])

    def times(self, steps: int) -> list[float]:
        """Return steps + 1 times from 1 to 0; all but the first lie at integer timesteps."""
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64).float()
        grid = ((even[1:].double() * self.steps).round(decimals=3).round() / self.steps).float()
        return [1.0, *grid.tolist()]

    def factors(self, times_f: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) at the time of each latent frame, fp32 (1, f, 1, 1, 1): x_t = alpha x_0 + sigma noise.

        Between integer timesteps alpha squared is interpolated.
        """
        position = times_f * self.steps
        nearest = position.round()  # fp32 times reach the schedule's own values
        position = torch.where((position - nearest).abs() < self.steps * 2.0**-22, nearest, position)
        below = position.long().clamp(max=self.steps - 1)
        abar = torch.lerp(self.abar[below], self.abar[below + 1], position - below).view(1, -1, 1, 1, 1)
        return abar.sqrt().float().to(device), (1 - abar).sqrt().float().to(device)


def spans(prompt: str, subject: str) -> list[tuple[int, int]]:
    """Return the span (first, last + 1), in characters of the prompt, of every occurrence of the subject's words.

    Whole words are compared without case; the last one may be in the other number (pot and pots). UCE reads its tokens.
    """
    said, wanted = _words(prompt), [word for word, _ in _words(subject)]
    *_, end = wanted or [""]
    singulars = [each for each in (end[:-1], end[:-2], f"{end[:-3]}y") if end in _plurals(each)]
    for legal in ([end], [*_plurals(end), *singulars]) if wanted else ():
        found, at = [], 0
        while at + len(wanted) <= len(said):
            *first, (last, (_, stop)) = said[at : at + len(wanted)]
            hit = [word for word, _ in first] == wanted[:-1] and last in legal
            found += [(said[at][1][0], stop)] if hit else []
            at += len(wanted) if hit else 1
        if found:
            return found
    return []


def _plurals(word: str) -> list[str]:
    if len(word) < 3:
        return []
    if word.endswith("y") and word[-2] not in "aeiou":
        return [f"{word[:-1]}ies"]
    ends = ["es"] if word.endswith(("s", "x", "z", "ch", "sh")) else ["s", "es"] if word.endswith("o") else ["s"]
    return [word + end for end in ends]


def _words(text: str) -> list[tuple[str, tuple[int, int]]]:
    """Split a text into words and single other signs, in one Unicode form, each with its span in the text."""
    found, open_word = [], False
    starts = [i for i, letter in enumerate(text) if i == 0 or unicodedata.category(letter)[0] != "M"]
    for start, stop in pairwise([*starts, len(text)]):
        letter = unicodedata.normalize("NFKD", text[start:stop]).casefold()
        word = letter[0].isalnum() or letter[0] == "_"
        if word and open_word:
            found[-1] = (found[-1][0] + letter, (found[-1][1][0], stop))
        elif word or not (letter[0].isspace() or unicodedata.category(letter[0]) == "Pd"):
            found.append((letter, (start, stop)))
        open_word = word
    return found


def pixels_of(frame: Image.Image, height: int, width: int) -> Tensor:
    """Return an image as uint8 (3, H, W): upright, over white, cropped around its centre (LANCZOS)."""
    frame = ImageOps.exif_transpose(frame).convert("RGBA")
    whole = Image.alpha_composite(Image.new("RGBA", frame.size, "white"), frame).convert("RGB")
    data = bytearray(ImageOps.fit(whole, (width, height), Image.Resampling.LANCZOS).tobytes())
    return torch.frombuffer(data, dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1)


def padded(z_BfChw: Tensor, patch: int) -> Tensor:
    """Put copies of the first latent frame in front, up to whole temporal patches."""
    return torch.cat([z_BfChw[:, :1].expand(-1, -z_BfChw.shape[1] % patch, -1, -1, -1), z_BfChw], dim=1)


def keyed(*keys: int | str) -> Generator:
    """Return the generator that unigen makes of these keys."""
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return Generator().manual_seed(int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of the sidecar. Raises ValueError if they are not those that were written."""
    with safe_open(path, "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        said = json.loads((file.metadata() or {}).get("unigen", "{}"))
    found = sha256()
    for key in sorted(stored):
        x = stored[key].contiguous()
        found.update(f"{key} {x.dtype} {tuple(x.shape)} ".encode())
        found.update(memoryview(x.flatten().view(torch.uint8).numpy()))
    if said.get("sha256", found.hexdigest()) != found.hexdigest():  # old exports do not say it
        raise ValueError(f"{path} does not hold what was written: its checksum differs")
    return stored


class UnigenCogVideoXPipeline(CogVideoXPipeline):
    """CogVideoX1.5 with an export of unigen: `load_export`, then call it."""

    _run: Mapping[str, Any] | None = None  # the configuration of the run, once an export is loaded

    def load_export(self, source: str | Path, **hub: Any) -> UnigenCogVideoXPipeline:
        """Load an export into the base, and return this pipeline.

        `source` is the export's folder, a folder that holds it as `export`, or a Hub repository of that form; `hub` are
        keywords of `snapshot_download` (revision, token, ...). Raises ValueError for what this file cannot compute, for
        a damaged file, and for a base of another architecture. After an error the base has to be loaded anew.
        """
        if self._run is not None:
            raise ValueError("this pipeline has an export already; load the base anew for another one")
        folder = Path(source)
        if not folder.is_dir():
            folder = Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"], **hub))
        folder = folder if (folder / CONFIG_FILE).is_file() else folder / "export"
        if not (folder / CONFIG_FILE).is_file():
            raise ValueError(f"{source} holds no export: neither it nor its folder export has {CONFIG_FILE}")
        config = json.loads((folder / CONFIG_FILE).read_text())["config"]
        if refused := refusals(config):
            raise ValueError(f"{folder}: {refused[0]}")
        stored = read_tensors(folder / MODULES_FILE)
        self._put_in(config, tied := config["conditioning"]["adapter"]["_target_"] == LORA)
        if tied:  # before the other tensors, whose names it changes where no base was pretrained
            self._load_lora(folder)
        self._fill({k: v for k, v in stored.items() if not k.startswith("embedding.")}, folder / MODULES_FILE)
        self._uce = {k.removeprefix("embedding."): v.float() for k, v in stored.items() if k.startswith("embedding.")}
        self._schedule = Schedule(config["process"])
        self.vae.enable_slicing()  # one clip at a time, as in training; diffusers splits larger batches along time
        self._run = config
        return self

    def _put_in(self, config: Mapping[str, Any], tied: bool) -> None:
        """Put the norms and the attention of the export into the base. Raises ValueError for another model."""
        for key, value in config["backbone"]["config"].items():
            if key not in LIMITS and (held := self.transformer.config.get(key)) != value:
                raise ValueError(f"the base is another model: its {key} is {held}, and that of the export is {value}")
        modulation = config["conditioning"]["modulation"]
        self._layout, branches = Layout(config["mask"], modulation["timing"]), modulation["branches"]
        for block in self.transformer.transformer_blocks:
            block.norm1 = BranchedNorm(block.norm1, branches, tied, self._layout)
            block.norm2 = BranchedNorm(block.norm2, branches, tied, self._layout)
        self.transformer.norm_out = ClockedNorm(self.transformer.norm_out, self._layout)
        self.transformer.set_attn_processor(RoleAttention(self._layout))

    def _load_lora(self, folder: Path) -> None:
        """Load the LoRA by diffusers. Raises ValueError unless its tensors and the adapter's are the same."""
        self.load_lora_weights(folder, weight_name=LORA_FILE, adapter_name=ADAPTER)
        with safe_open(folder / LORA_FILE, "pt") as file:
            stored = {name.removeprefix("transformer.") for name in file.keys()}  # noqa: SIM118
        held = {n.replace(f".{ADAPTER}.", ".") for n, _ in self.transformer.named_parameters() if ".lora_" in n}
        if stored != held:
            raise ValueError(f"{folder / LORA_FILE} fits only in part: {min(stored ^ held)} does not match")

    @torch.no_grad()
    def _fill(self, stored: Mapping[str, Tensor], path: Path) -> None:
        """Copy the tensors of the sidecar to their places. Raises ValueError for one that has no place of its shape."""
        parts = {"backbone.": self.transformer, "text.model.": self.text_encoder, "codec.vae.": self.vae}
        places = {p + n: x for p, m in parts.items() for n, x in (*m.named_parameters(), *m.named_buffers())}
        for name, tensor in stored.items():
            if name not in places or places[name].shape != tensor.shape:
                raise ValueError(f"{path}: {name} {tuple(tensor.shape)} has no place in this base")
            places[name].copy_(tensor)

    def _task(self, task: str | None, conditions: int) -> str | None:
        """Return the task, or the run's only one. Raises ValueError for an unknown one and other numbers of images."""
        with_bias = value_of(self._run, "conditioning.embedding.tasks")
        known = list(with_bias or value_of(self._run, "data.tasks") or [])
        task = known[0] if task is None and len(known) == 1 else task
        if (task is None and known) or (with_bias and task not in with_bias):
            raise ValueError(f"task is {task!r}; this export has {len(known)} tasks: {', '.join(known)}")
        shown, arrow, wanted = (task or "").partition(">")
        if arrow and len(names := [word for word in shown.split("+") if word.strip()]) != conditions:
            raise ValueError(f"task={task} shows {' and '.join(names) or 'no image'}; image= has {conditions} images")
        if {"+", ">"} & set(wanted):
            raise ValueError(f"task={task} has several targets, which the pipeline for diffusers does not draw")
        return task

    def _encoded_image(self, frames: Sequence[Image.Image], height: int, width: int) -> Tensor:
        """Return the latents (1, f, C, h, w) of a still or a clip in fp32: the posterior's mean."""
        pixels_3FHW = torch.stack([pixels_of(frame, height, width) for frame in frames], dim=1)
        unit = (pixels_3FHW.float() / 127.5 - 1)[None].to(self._execution_device, self.vae.dtype)
        return self.vae.encode(unit).latent_dist.mode().float().transpose(1, 2) * self.vae.config.scaling_factor

    def _keywords(self, prompts: list[str], subjects: list[Sequence[str]], window: int) -> Tensor:
        """Return (B, T) booleans, True for the tokens that name a subject."""
        hits = torch.zeros(len(prompts), window, dtype=torch.bool)
        for row, (prompt, words) in enumerate(zip(prompts, subjects, strict=True)):
            found = [span for word in words for span in spans(prompt, word)]
            offsets = self.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"] if found else ()
            for token, (a, b) in enumerate(offsets[: window - 1]):  # the last one is the end token
                hits[row, token] = any(a < stop and b > start for start, stop in found)
        return hits.to(self._execution_device)

    def _shown(
        self, prompts: list[str], subjects: list[Sequence[str]], task: Any, latents: list[Tensor], hide: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Return a pass's text (B, T, D) in fp32, and its conditions (B, f, C, h, w), which are zeros if hidden.

        UCE shifts a condition by the mean of the subject's text tokens, mapped to the latent width, and a bias.
        """
        window, found = value_of(self._run, "encoder.text.window"), []
        text_BTD = self.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=window)[0].float()
        uce = {name: x.to(text_BTD.device) for name, x in self._uce.items()}
        for i, z in enumerate(latents):
            z = z.expand(len(prompts), -1, -1, -1, -1)
            if uce:
                own = [(s[i],) if len(s) == len(latents) > 1 else s for s in subjects]
                marks_BT1 = self._keywords(prompts, own, window).float()[..., None]
                instance_BD = (text_BTD * marks_BT1).sum(1) / marks_BT1.sum(1).clamp(min=1)
                bias_C = uce["bias"][value_of(self._run, "conditioning.embedding.tasks").index(task)]
                z = z + (F.linear(instance_BD, uce["subject.weight"]) + bias_C)[:, None, :, None, None]
            found.append(padded(torch.zeros_like(z) if hide else z, self.transformer.config.patch_size_t))
        return text_BTD, found

    def _guidance(
        self, task: str | None, given: float | None, negative: str | None
    ) -> tuple[float, Sequence[str], str]:
        """Return the strength of guidance, the roles that its other pass hides, and the prompt shown there instead.

        Raises ValueError for a negative prompt that no pass would show.
        """
        said = {**self._run["guidance"], **(value_of(self._run, "guidance.by_task") or {}).get(task, {})}
        strength = float(said["strength"] if given is None else given)
        drop = said["drop"] if strength != 1 else ()
        if negative is not None and TEXT not in drop:
            raise ValueError("negative_prompt would not be used: guidance is off, or does not hide the text")
        hidden = " " if value_of(said, "hide.text") == "blank" else ""
        return strength, drop, next((each for each in (negative, said.get("negative")) if each is not None), hidden)

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | Sequence[Image.Image | Sequence[Image.Image]] | None = None,
        prompt: str | list[str] = "",
        subject: str | Sequence[str] | None = None,
        task: str | None = None,
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
        generator: Generator | list[Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw an image for each prompt. What is left out is as the run was measured.

        image: the condition as the model sees it (an edge map, not the photo), or several in the order of the task; a
        clip is a list of its frames. None for a task from text alone. It is shown to all prompts.
        subject: the words of the prompt that name the subject (UCE), or one for each of several conditions; by default
        the whole prompt. task: needed for exports of several tasks.
        negative_prompt: what guidance shows in the place of the empty prompt. guidance_scale: 1 turns guidance off.
        seed: the noise of `sample.py seed=...`; or `generator` draws it, or `latents` are it, (B, f, C, h, w): that of
        the target, behind that of conditions that are noised too.
        output_type: pil (a list of images, or of lists of frames) or latent.
        Raises ValueError for what does not fit the export, and for results that are not finite.
        """
        if self._run is None:
            raise ValueError("call load_export first; the base alone is diffusers' CogVideoXPipeline")
        if output_type not in ("pil", "latent"):
            raise ValueError(f"output_type is {output_type!r}; legal are pil and latent")
        height, width = (side or value_of(self._run, "data.size") for side in (height, width))
        shown = [] if image is None else [image] if isinstance(image, Image.Image) else image
        clips = [[each] if isinstance(each, Image.Image) else list(each) for each in shown]
        frames = [*map(len, clips), num_frames]
        self._check_sizes(height, width, frames)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        said = (subject,) if isinstance(subject, str) else subject
        task = self._task(task, len(clips))
        strength, drop, against = self._guidance(task, guidance_scale, negative_prompt)
        for each, word in ((each, word) for each in prompts for word in said or () if self._uce):
            if not spans(each, word):
                warnings.warn(f"UCE does not find subject={word!r} in {each!r}; it adds a bias alone", stacklevel=3)
        encoded = [self._encoded_image(clip, height, width) for clip in clips]
        subjects = [said or (each,) for each in prompts]
        passes = [self._shown(prompts, subjects, task, encoded, hide=False)]
        if drop:
            hidden = [against] * len(prompts) if TEXT in drop else prompts
            passes.append(self._shown(hidden, subjects, task, encoded, hide=CONDITION in drop))
        caps = [float(torch.tensor(self._run["formatter"]["caps"][r])) for r in (*[CONDITION] * len(clips), TARGET)]
        counts = [1 + (count - 1) // self.vae_scale_factor_temporal for count in frames]
        cells = height // self.vae_scale_factor_spatial, width // self.vae_scale_factor_spatial
        generator = generator if seed is None else [keyed(seed, "sample", USER) for _ in prompts]
        shapes = [(len(prompts), count, self.vae.config.latent_channels, *cells) for count in counts]
        noises = self._noises(shapes, caps, generator, latents)
        known = torch.cat([torch.cat([*shown, torch.zeros_like(noises[-1])], dim=1) for _, shown in passes])
        text = torch.cat([text for text, _ in passes])
        z = self._integrate(known, noises, text, caps, strength, num_inference_steps)
        z = z[:, -noises[-1].shape[1] :].mean(1, True) if num_frames == 1 else z[:, -counts[-1] :]  # without padding
        found = z if output_type == "latent" else self._decoded(z)
        return ImagePipelineOutput(images=found) if return_dict else (found,)

    def _integrate(
        self, known: Tensor, noises: list[Tensor], text_BTD: Tensor, caps: list[float], strength: float, steps: Any
    ) -> Tensor:
        """Return the latents (B, f, C, h, w) of all images, one after the other, at t = 0.

        `known` and `text_BTD` have the passes one after the other, of which the first hides nothing. An image waits
        until the time falls below its ceiling (`caps`), so one with the ceiling 0 stays as it is known in each pass.
        """
        c, device = self.transformer.config, known.device
        by_frame = [cap for cap, eps in zip(caps, noises, strict=True) for _ in eps[0]]
        ceiling_f = torch.tensor(by_frame, dtype=torch.float64)
        noised = (ceiling_f > 0).view(1, -1, 1, 1, 1).to(device)
        alpha, sigma = self._schedule.factors(ceiling_f, device)
        z = alpha * known[: len(noises[0])] + sigma * torch.cat(noises, dim=1)
        grid = [known.shape[axis] // c.patch_size for axis in (3, 4)]
        tokens = [eps.shape[1] // c.patch_size_t * math.prod(grid) for eps in noises]
        roles = *[CONDITION] * (len(noises) - 1), TARGET
        self._layout.begin([Segment(TEXT, text_BTD.shape[1], 0.0), *map(Segment, roles, tokens, caps)])
        places = {"grid_type": "slice", "max_size": grid, "device": device}
        rope = get_3d_rotary_pos_embed(c.attention_head_dim, None, grid, known.shape[1] // c.patch_size_t, **places)
        times = self._schedule.times(steps or value_of(self._run, "solver.steps"))
        for t, s in self.progress_bar(list(pairwise(times))):
            again = z.repeat(len(known) // len(z), 1, 1, 1, 1)
            v, *hidden = self._predict(torch.where(noised, again, known), text_BTD, t, rope).split(len(z))
            v = hidden[0] + strength * (v - hidden[0]) if hidden else v
            here, there = ceiling_f.clamp(max=t), ceiling_f.clamp(max=s)
            (alpha, sigma), (alpha_s, sigma_s) = (self._schedule.factors(each, device) for each in (here, there))
            moved = alpha_s * (alpha * z - sigma * v) + sigma_s * (sigma * z + alpha * v)
            z = torch.where((here == there).view(1, -1, 1, 1, 1).to(device), z, moved)
        return z

    def _predict(self, z_BfChw: Tensor, text_BTD: Tensor, t: float, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Return the stock transformer's prediction in fp32, each segment modulated at its clock."""
        clocks = torch.tensor(self._layout.set_time(t), dtype=torch.float32, device=text_BTD.device)
        k = (clocks * value_of(self._run, "backbone.training_steps") - 1).clamp(min=0).round()
        k, z, text = k.repeat_interleave(len(text_BTD)), *(x.to(self.transformer.dtype) for x in (z_BfChw, text_BTD))
        return self.transformer(z, text, k, image_rotary_emb=rope, return_dict=False)[0].float()

    def _noises(self, shapes: list[tuple], caps: list[float], generator: Any, given: Tensor | None) -> list[Tensor]:
        """Return padded noise (B, f, C, h, w) for each image, zeros for a clean one; drawn unless it is given."""
        size, device, patch = shapes[0][0], self._execution_device, self.transformer.config.patch_size_t
        if isinstance(generator, list) and len(generator) != size:
            raise ValueError(f"generator has {len(generator)} generators for {size} prompts")
        wanted = [shape for shape, cap in zip(shapes, caps, strict=True) if cap > 0]
        drawn = [randn_tensor(x, generator=generator, device=device) for x in wanted] if given is None else [given]
        noise, lengths = torch.cat(drawn, dim=1).to(device, torch.float32), [shape[1] for shape in wanted]
        if noise.shape != (whole := (size, sum(lengths), *shapes[0][2:])):
            raise ValueError(f"latents has the shape {tuple(noise.shape)}; it must be {whole}")
        parts, pairs = iter(noise.split(lengths, dim=1)), zip(shapes, caps, strict=True)
        return [padded(next(parts) if cap > 0 else noise.new_zeros(shape), patch) for shape, cap in pairs]

    def _decoded(self, z_BfChw: Tensor) -> list[Any]:
        """Decode latents to images. Raises ValueError for what is not finite, which would become black."""
        z = (z_BfChw.transpose(1, 2) / self.vae.config.scaling_factor).to(self.vae.dtype)
        pixels_B3FHW = self.vae.decode(z).sample.float()
        if not pixels_B3FHW.isfinite().all():
            raise ValueError("the images are not finite; check the weights, or take a higher precision")
        bytes_BFHW3 = ((pixels_B3FHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
        clips = [[Image.fromarray(frame) for frame in clip] for clip in bytes_BFHW3.cpu().numpy()]
        return [clip[0] if len(clip) == 1 else clip for clip in clips]

    def _check_sizes(self, height: int, width: int, frames: Sequence[int]) -> None:
        """Raises ValueError for sides and numbers of frames that tokens or the VAE cannot hold."""
        unit = self.vae_scale_factor_spatial * self.transformer.config.patch_size
        if height % unit or width % unit:
            raise ValueError(f"height and width are {height} and {width}; legal are multiples of {unit}")
        clip = 2 * self.vae_scale_factor_temporal
        if odd := [count for count in frames if count < 1 or (count - 1) % clip]:
            raise ValueError(f"a clip of {odd[0]} frames cannot be encoded; legal are 1 + {clip} n")
