"""One table of the legal values of configuration keys, and the check that refuses others in one sentence.

It is of numbers, and of the few keys whose default, null or auto, does not say what they take.

Light on purpose (no torch): the preflight asks it before anything heavy is imported, for every value of a sweep too.
A key that the table does not know, such as one of a plug-in of one's own, takes every finite number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from unigen.config.values import ConfigError

# Interval by dotted key. `*` stands for one name or for the place in a list, `**` for any number of names; the first
# pattern that matches decides. `[` and `]` include an end, `(` and `)` exclude it; `1..9` are whole numbers; words and
# numbers after `or` are legal besides, or alone; `text` is any text; `part` is a part of a config group, a mapping with
# its `_target_`, and `table` is any mapping. Upper ends are far above what is of use: they catch a slip of the
# exponent.
TABLE = {
    "paper": "text",
    "*.name": "text",
    "*.title": "text",
    "*.source": "text",
    "published.*": "[-1e12, 1e12]",
    **dict.fromkeys(("table.metrics", "table.metrics_at", "table.published", "table.benches"), "table"),
    "cache": "text",
    "cache_lossy": "bfloat16 or float16",
    "*.cache": "text",
    "data.*.cache": "text",
    "data.*.computed.*": "text",
    "**.pretrained": "text",
    "conditioning.adapter.start": "text",
    "callback.checkpoint.monitor": "text",
    "**.seed": "0..9223372036854775807",
    # training
    "optimizer.lr": "(0, 1]",
    "optimizer.batch": "1..1e9",
    "optimizer.betas.*": "[0, 1)",
    "optimizer.weight_decay": "[0, 10]",
    "optimizer.shares.*": "[0, 100]",
    "optimizer.warmup": "0..1e9",
    "optimizer.cooldown": "[0, 1]",
    "trainer.max_steps": "0..1e9",
    "trainer.accumulate_grad_batches": "1..1e6",
    "trainer.gradient_clip_val": "[0, 1e6]",
    "trainer.devices": "1..1024 or -1 or auto",
    "trainer.num_nodes": "1..1e5",
    "trainer.log_every_n_steps": "1..1e9",
    "trainer.limit_val_batches": "1..1e9",
    "trainer.num_sanity_val_steps": "0..1e9",
    "trainer.check_val_every_n_epoch": "1..1e9",
    "trainer.accelerator": "auto or cpu or gpu or cuda or mps or tpu",
    "trainer.precision": "auto or 32-true or 64-true or bf16-mixed or bf16-true or 16-mixed or 16-true or "
    "transformer-engine or transformer-engine-float16 or 16 or 32 or 64 or bf16",
    "strategy.stage": "1..3",
    "strategy.bucket_size": "1..1e12",
    "dropout.*": "[0, 1]",
    "validation.every": "1..1e9",
    "validation.batches": "1..1e9",
    "validation.metrics.*": "text",
    "validation.items": "1..1e9",
    "evaluation.items": "1..1e9",
    "evaluation.images": "1..1e6",
    "evaluation.examples": "1..1e4",
    "callback.checkpoint.every": "1..1e9",
    "callback.ema.decay": "[0, 1)",
    "callback.preemption.every": "1..1e9",
    "callback.sample_grid.items": "1..1e4",
    "callback.throughput.peak_tflops": "(0, 1e6]",
    # the model
    "backbone.training_steps": "1..1e6",
    "backbone.checkpoint_every": "1..1e4",
    "backbone.guidance.*": "[0, 1000]",
    "backbone.reach.*": "1..1e6",
    "backbone.config.eps": "(0, 1]",
    "backbone.config.mlp_ratio": "(0, 1000]",
    "backbone.config.rope_theta": "[1, 1e9]",
    "backbone.config.num_layers": "0..1000",
    "backbone.config.num_single_layers": "0..1000",
    "backbone.config.**": "1..1e6",
    "conditioning.adapter.rank": "1..65536",
    "conditioning.adapter.alpha": "(0, 1e6]",
    "conditioning.adapter.dropout": "[0, 1)",
    "conditioning.slots.numbers.*": "1..1e4",
    "conditioning.slots.turns.*": "1..1e4",
    "formatter.caps.*": "[0, 1]",
    "mask.bias.*.*": "(0, 1e6]",
    "encoder.codec.config.scaling_factor": "(0, 1000]",
    "encoder.codec.config.shift_factor": "[-1000, 1000]",
    "encoder.codec.config.latents_mean.*": "[-1000, 1000]",
    "encoder.codec.config.latents_std.*": "(0, 1000]",
    "encoder.codec.config.batch_norm_eps": "(0, 1]",
    "encoder.codec.whiten": "[0, 1]",
    "encoder.codec.noise": "[0, 1]",
    "encoder.codec.config.num_encoder_blocks.*": "0..100",
    "encoder.codec.**": "1..1e6",
    "encoder.text.config.dropout_rate": "[0, 1)",
    "encoder.text.config.rms_norm_eps": "(0, 1]",
    "encoder.text.**.*_token_id": "0..1e9",
    "encoder.text.**": "1..1e9",
    # training and sampling
    "loss.weights.*": "[0, 1e6]",
    "loss.gamma": "(0, 1e6]",
    "learner.l1": "[0, 1e6]",
    "learner.kl": "[0, 1e6]",
    "learner.**.*_token_id": "0..1e9",
    "learner.model.reassemble_factors.*": "(0, 64]",
    "learner.*.**": "1..1e6",
    "fill.share": "[0, 1]",
    "process.steps": "2..1e6",
    "process.beta_start": "(0, 1)",
    "process.beta_end": "(0, 1)",
    "process.snr_shift_scale": "(0, 1000]",
    "process.density.mean": "[-100, 100]",
    "process.density.std": "(0, 100]",
    "*.shift.*_shift": "[-100, 100]",
    "*.shift.*_tokens": "1..1e9",
    "*.shift.limit": "(0, 100]",
    "*.shift.factor": "(0, 1000]",
    "*.shift.few.*": "[-100, 100]",
    "*.shift.many.*": "[-100, 100]",
    "*.shift.most": "0..1e9",
    "solver.steps": "1..10000",
    "solver.terminal": "(0, 1)",
    "solver.guidance": "[0, 1000]",  # of a benchmark (evaluate.yaml)
    "guidance.strength": "[0, 1000]",
    "guidance.negative": "text",
    "guidance.interval.*": "[0, 1]",
    "guidance.by_task.*.strength": "[0, 1000]",
    "guidance.passes.*.strength": "[0, 1000]",
    # data
    "data.size": "1..16384",
    "data.batch_size": "1..1e6",
    "data.num_workers": "0..1024",
    "data.val_items": "1..1e9",
    "data.test_items": "1..1e9",
    "data.window": "1..1e9",
    "data.limit": "1..1e12",
    "data.clips": "1..1e9",
    "data.held_out": "3..1e9",
    "data.bad_share": "[0, 1]",
    "data.rows.*": "0..100",
    "data.test_rows.*": "0..100",
    "data.test_example_seed": "0..9223372036854775807",
    "data.tasks.*": "text",
    "data.test_tasks.*": "text",
    "data.row_shares.*": "[0, 1e6]",
    "data.forms.*.share": "[0, 1e6]",
    "data.forms.*.frames": "1..9",
    "data.forms.*.images": "1..5",
    "data.forms.*.rows": "1..5",
    "data.kinds.*": "[0, 1e6]",
    "data.motions.*": "[0, 1e6]",
    "data.instruction": "part",
    "data.instruction.*_dropout": "[0, 1]",
    "data.graph.weights.*": "(0, 1e6]",
    "data.*.limit": "1..1e12",
    "data.*.count": "2..1000",
    "data.*.pairs": "1..1e12",
    "data.*.least_consistency": "0..100",
    # metrics
    "metric.**.weights": "text",
    "metric.*.draw.cache": "text",
    "metric.**.crop": "1..16384",
    "metric.**.resize": "1..16384",
    "metric.*.size": "1..16384",
    "metric.*.multiple": "1..16384",
    "metric.*.background": "0..255",
    "metric.**.threshold": "[0, 1]",
    "metric.*.sigma": "(0, 5]",
    "metric.*.subsets": "1..1e6",
    "metric.*.subset_size": "2..1e6",
    "metric.*.low": "[0, 1e6]",
    "metric.*.high": "[0, 1e6]",
}
MAPPINGS = {
    "part": "null, or a part of its config group, chosen by GROUP@KEY=NAME",
    "table": "a table in braces, as in experiments/conf/table",
}
# Keys that take lists: of how many values, or of any number; what their values are says the table.
LISTS = {
    "optimizer.betas": 2,
    "guidance.interval": 2,
    "data.rows": 2,
    "data.test_rows": 2,
    "data.row_shares": None,
    "data.tasks": None,
    "data.test_tasks": None,
    "validation.metrics": None,
}
LARGEST = 2**63  # no whole number of a configuration needs more than 64 bits
_WHOLE = re.compile(r"(\S+)\.\.(\S+)")
_SPAN = re.compile(r"([\[(])(\S+), (\S+)([\])])")


class Range(NamedTuple):
    """The legal values of a key: an interval (of whole numbers if `whole`), and the values in `besides`."""

    low: float = math.inf
    high: float = -math.inf
    whole: bool = False
    above: bool = False  # `low` itself is not legal
    below: bool = False  # ... and `high`
    besides: tuple[int | str, ...] = ()
    text: bool = False  # any text is legal, and no number
    mapping: str = ""  # a mapping is legal, and nothing else: what it is of, in words
    broad: bool = False  # for patterns over keys of many kinds: only numbers are judged

    def holds(self, value: Any) -> bool:
        if isinstance(value, int | str) and not isinstance(value, bool) and value in self.besides:
            return True
        if self.mapping:
            return isinstance(value, dict)
        if self.text:
            return isinstance(value, str)
        if self.broad and not is_number(value):
            return True
        if not is_number(value) or (self.whole and not isinstance(value, int)):
            return False
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.mapping:
            return f"legal is {self.mapping}"
        if self.text:
            return "legal is a text, in quotes if it looks like something else: '\"...\"'"
        if self.low > self.high:
            return f"legal are {', '.join(map(str, self.besides))}"
        besides = "".join(f", or {word}" for word in self.besides)
        if self.whole:
            return f"legal are whole numbers from {_spelt(self.low)} to {_spelt(self.high)}{besides}"
        low, high = _spelt(self.low), _spelt(self.high)
        if self.above or self.below:
            over, under = "above" if self.above else "at least", "below" if self.below else "at most"
            return f"legal are numbers {over} {low} and {under} {high}{besides}"
        return f"legal are numbers from {low} to {high}{besides}"


class Refusal(NamedTuple):
    """An illegal value: its key, the value as text, and what would be legal."""

    parts: tuple[str, ...]
    value: str
    legal: str


def read(text: str) -> Range:
    """Parse a range as the table writes it."""
    if text == "text":
        return Range(text=True)
    if text in MAPPINGS:
        return Range(mapping=MAPPINGS[text])
    interval, *words = text.split(" or ")
    if not re.match(r"[\[(]|\d+\.\.", interval):
        words = [interval, *words]
    besides = tuple(int(word) if word.lstrip("-").isdigit() else word for word in words)
    if match := _WHOLE.fullmatch(interval):
        low, high = (int(end) if end.isdigit() else int(float(end)) for end in match.groups())
        return Range(low, high, whole=True, besides=besides)
    if match := _SPAN.fullmatch(interval):
        left, low, high, right = match.groups()
        return Range(float(low), float(high), above=left == "(", below=right == ")", besides=besides)
    if not words or interval != words[0] or not all(re.fullmatch(r"[\w-]+", word) for word in words):
        raise ValueError(f"{text!r} is no range; write [0, 1], (0, 1), 1..9 or words")
    return Range(besides=besides)


@cache
def pattern_of(key: str) -> str | None:
    """Return the pattern of TABLE that matches a dotted key."""
    return next((pattern for pattern, match in _matchers().items() if match.fullmatch(key)), None)


@cache
def legal(key: str) -> Range | None:
    """Return the range of a dotted key, or None where every finite number is legal."""
    pattern = pattern_of(key)
    return read(TABLE[pattern])._replace(broad=pattern.endswith("**")) if pattern else None


def refusal(key: str, value: Any, judged: bool = True) -> tuple[str, str] | None:
    """Return (the value as text, what is legal) if the value at a key is illegal, else None.

    `judged`: whether the table speaks of the key. Where it does, a text or a bool stands for a number, too. Null and
    what is not known yet ("???", an interpolation) pass: whether they are legal is not a matter of ranges.
    """
    known = legal(key) if judged else None
    if isinstance(value, float) and not math.isfinite(value):
        return str(value), str(known or "legal are finite numbers")
    if value is None or (isinstance(value, str) and ("${" in value or value == "???")):
        return None
    if isinstance(value, float) and value == 0 and math.copysign(1, value) < 0:
        return "-0.0", "write 0"
    if known is None:
        large = isinstance(value, int) and abs(value) >= LARGEST
        return (_spelt(value), "legal are whole numbers of 64 bits") if large else None
    return None if known.holds(value) else (_spelt(value), str(known))


def refusals(parts: tuple[str, ...], value: Any, judged: Callable[[tuple[str, ...]], bool]) -> Iterator[Refusal]:
    """Yield every illegal value at and below a key; the items of a list are numbered from 0.

    `judged` says whether the table speaks of a key: not of one whose default it refuses, which is another plug-in's.
    """
    key = ".".join(parts)
    known = legal(key) if isinstance(value, dict | list) else None
    if known and not known.broad and not known.holds(value) and judged(parts):
        yield Refusal(parts, f"a {'mapping' if isinstance(value, dict) else 'list'}", str(known))
    elif isinstance(value, dict) and key not in LISTS:
        for name, item in value.items():
            yield from refusals((*parts, str(name)), item, judged)
    elif key in LISTS and judged(parts) and not _is_list(value, LISTS[key]):
        said = f"a list of {len(value)}" if isinstance(value, list) else _spelt(value)
        yield Refusal(parts, said, f"legal are lists of {LISTS[key]} numbers" if LISTS[key] else "legal are lists")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from refusals((*parts, str(i)), item, judged)
    elif said := refusal(key, value, judged(parts)):
        yield Refusal(parts, *said)


def check(key: str, value: Any) -> None:
    """Check a value and everything below it against the table, for parts that are built without a preflight.

    Raises:
        ConfigError: one is not.
    """
    for wrong in refusals(tuple(key.split(".")), value, lambda parts: True):
        raise ConfigError(f"{'.'.join(wrong.parts)} is {wrong.value}; {wrong.legal}")


def _is_list(value: Any, length: int | None) -> bool:
    """True for a list of `length` values (None: of any length). Null and values not known yet pass, as everywhere."""
    if isinstance(value, list):
        return length in (None, len(value))
    return value is None or (isinstance(value, str) and ("${" in value or value == "???"))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spelt(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**20 else f"a whole number of {len(f'{value:x}') * 4} bits"
    return f"{value:g}" if isinstance(value, float) and value == float(f"{value:g}") else repr(value)


@cache
def _matchers() -> dict[str, re.Pattern[str]]:
    def part(name: str) -> str:
        return re.escape(name).replace(r"\*", r"[^.]*")

    def matcher(key: str) -> str:
        *above, last = key.split(".")
        start = "".join(r"(?:[^.]+\.)*" if name == "**" else rf"{part(name)}\." for name in above)
        return start + (r".+" if last == "**" else part(last))

    return {key: re.compile(matcher(key)) for key in TABLE}
