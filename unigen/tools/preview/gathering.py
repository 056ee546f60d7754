"""Gathers the facts of a preview before any training: samples, prompts, layouts, buckets and tasks.

Nothing is trained and no weights are read: the model is built on the meta device, images come from the training data.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from torch.utils.data import DataLoader

from unigen.config.values import sentence
from unigen.core.layout import Layout, Plan
from unigen.core.masks import Mask, closure
from unigen.core.types import ImageSlot, Sample
from unigen.pipeline.build import build, build_learner
from unigen.pipeline.pipeline import Pipeline
from unigen.pipeline.subject_words import uce_line

DRAWS = 1000  # the number of samples over which buckets and tasks are counted
FORMS = 3  # the number of samples of other signatures that are shown besides the first ones
IMPOSSIBLE = "no run of this is possible: "
Slots = tuple[ImageSlot, ...]


class Draw(NamedTuple):
    """A training sample before decoding: its index in the dataset, its slots, and the task's name."""

    item: Any
    slots: Slots
    task: str


class Prompt(NamedTuple):
    """A prompt as the text encoder reads it.

    pieces: for every text token in order its text, and True if the subject's words are in it.
    cut: the text beyond the window ("" also if the tokenizer does not decode to the text that it was given).
    length: the number of tokens of the whole prompt with the end token; at most `window` of them are read.
    """

    pieces: tuple[tuple[str, bool], ...]
    cut: str
    length: int
    window: int


class Bucket(NamedTuple):
    """The samples of one signature: their number among the draws, and their placement plan or the refusal of it."""

    slots: Slots
    count: int
    plan: Plan | None
    refusal: str


@dataclass(frozen=True)
class Preview:
    """All facts of the page.

    pipeline: on the meta device; None if the experiment has none, or if its parts do not fit together (`refusal`).
    samples: the first training samples, then the first one of other signatures.
    said: the data's line about themselves, or "". subjects: the line on how often UCE finds the subject's word, or "".
    tasks: the number of drawn samples of each task. expected: the probability of each task, None without a graph.
    """

    config: Mapping[str, Any]
    pipeline: Pipeline | None
    refusal: str
    samples: tuple[Sample, ...]
    buckets: tuple[Bucket, ...]
    tasks: Counter[str]
    expected: Mapping[str, float] | None
    graph: Any
    said: str = ""
    subjects: str = ""

    @property
    def drawn(self) -> int:
        """The number of samples that were drawn."""
        return sum(bucket.count for bucket in self.buckets)

    @property
    def refusals(self) -> tuple[str, ...]:
        """The reasons for a missing model or for the missing layout of a signature, a sentence each."""
        return tuple(dict.fromkeys(filter(None, (self.refusal, *(bucket.refusal for bucket in self.buckets)))))

    def bucket(self, slots: Slots) -> Bucket:
        """Return the bucket of a sample with these slots."""
        return next(bucket for bucket in self.buckets if bucket.slots == slots)


def preview(config: Mapping[str, Any], samples: int = 4) -> Preview:
    """Gather the facts of a composed experiment; the data's image caches are made if they do not exist.

    `config` is a result of `unigen.config.values.plain`. `samples` of the first training samples are shown.
    Raises ValueError or OSError for data that cannot be read. If the model cannot be built, the reason is kept as a
    sentence, so that the data can be looked at all the same.
    """
    data = build(config["data"])
    data.prepare_data()
    pipeline, refusal = model(config)
    loader = data.train_dataloader()
    draws = drawn(loader, DRAWS, getattr(data, "tasks", ()))
    several = len(getattr(data, "tasks", ())) > 1  # a graph is not shown for a single task
    graph = build(config["data"]["graph"]) if several and "graph" in config["data"] else None
    return Preview(
        config=config,
        pipeline=pipeline,
        refusal=refusal,
        samples=tuple(loader.dataset[draw.item] for draw in shown(draws, samples)),
        buckets=tuple(buckets(draws, pipeline)),
        tasks=Counter(draw.task for draw in draws),
        expected=None if graph is None else expectation(graph, data.tasks),
        graph=graph,
        said=data.said() if hasattr(data, "said") else "",
        subjects=looked_up(pipeline, loader),
    )


def model(config: Mapping[str, Any]) -> tuple[Pipeline | None, str]:
    """Return the pipeline on the meta device, or None and the reason in a sentence."""
    try:
        with torch.device("meta"):
            learner = build_learner({**config, "cache": None})
    except (ValueError, OSError, InstantiationException) as error:
        return None, IMPOSSIBLE + sentence(error)
    if learner.has_pipeline:
        return learner.pipeline, ""
    return None, f"only the data are shown: learner {type(learner).__name__} has no layout, mask or conditioning"


def looked_up(pipeline: Pipeline | None, loader: DataLoader) -> str:
    """Return a line on how often UCE finds the subject's word, or the reason why not; "" without UCE."""
    if pipeline is None:
        return ""
    try:
        return uce_line(pipeline, loader)
    except (ValueError, OSError) as error:
        return f"UCE: not counted: {sentence(error)}"


def drawn(loader: DataLoader, count: int, tasks: tuple[str, ...] = ()) -> list[Draw]:
    """Return the first samples that training draws, in order.

    One sample is decoded for each batch to know its slots, which the samples of a batch share. The task is known
    without decoding if the data have only one, or if the dataset can `plan` an item.
    """
    dataset, found = loader.dataset, []
    for batch in loader.batch_sampler:
        first = dataset[batch[0]]
        for item in batch[: count - len(found)]:
            if len(tasks) == 1:
                task = tasks[0]
            else:
                task = dataset.plan(item)[0].name if hasattr(dataset, "plan") else dataset[item].task
            found.append(Draw(item, first.slots, task))
        if len(found) == count:
            break
    return found


def shown(draws: list[Draw], samples: int) -> list[Draw]:
    """Return the first draws, then the first one of each other signature, at most FORMS of them."""
    first = draws[:samples]
    seen = {draw.slots for draw in first}
    others: dict[Slots, Draw] = {}
    for draw in draws:
        if draw.slots not in seen:
            others.setdefault(draw.slots, draw)
    return [*first, *list(others.values())[:FORMS]]


def buckets(draws: list[Draw], pipeline: Pipeline | None) -> Iterator[Bucket]:
    """Yield a bucket for every signature among the draws, the most frequent ones first."""
    for slots, count in Counter(draw.slots for draw in draws).most_common():
        plan, refusal = None, ""
        if pipeline is not None:
            try:
                plan = pipeline.plan(slots)
            except ValueError as error:
                refusal = IMPOSSIBLE + sentence(error)
        yield Bucket(slots, count, plan, refusal)


def expectation(graph: Any, tasks: tuple[str, ...]) -> dict[str, float]:
    """Return the probability of each of these tasks in training: the graph's, scaled to sum to 1."""
    likely = graph.training.probabilities()
    total = sum(likely[task] for task in tasks)
    return {task: likely[task] / total for task in tasks}


def read_prompt(text: Any, prompt: str, subjects: tuple[str, ...]) -> Prompt:
    """Split a prompt into the tokens of the text encoder (`unigen.encoders.t5.T5Text`).

    Raises ValueError or OSError if the tokenizer cannot be loaded.
    """
    tokenizer = text.tokenizer
    length = len(tokenizer(prompt)["input_ids"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the page says itself that the prompt is cut
        (ids,) = text.ids([prompt])
        (marked,) = text.keywords([prompt], [subjects]).tolist()
    pool = len(ids) // text.tokens
    ends = [*range(pool, min(length, len(ids)), pool), min(length, len(ids))]
    # Prefixes, not tokens, are decoded: a letter of several bytes may lie across two tokens, and belongs to the last.
    texts = ["", *(_decoded(tokenizer, ids[:end]) for end in ends)]
    pieces = tuple((text[len(before) :], hit) for before, text, hit in zip(texts, texts[1:], marked, strict=False))
    return Prompt(pieces, prompt.removeprefix(texts[-1]) if prompt.startswith(texts[-1]) else "", length, len(ids))


def _decoded(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def depths(layout: Layout, mask: Mask) -> list[list[int | None]]:
    """Return the number of layers after which each segment (row) depends on each other (column); None: never.

    0 on the diagonal: the segment does not attend to itself, and its input stays through residual connections alone.
    """
    count = len(layout.segments)
    reach = [closure(layout, mask, depth).tolist() for depth in range(1, count + 1)]
    found = [[next((d for d, r in enumerate(reach, 1) if r[i][j]), None) for j in range(count)] for i in range(count)]
    for i, segment in enumerate(layout.segments):
        if not mask.sees(segment, segment):
            found[i][i] = 0
    return found


def images_of(task: str, slots: Slots) -> list[str]:
    """Return the name of each slot's image if the task names them for every row ('canny>target'), or for every turn of
    a session ('canny>line>target'), else "".
    """
    names = [name for side in task.split(">") for name in side.split("+")] if ">" in task else []
    rows = list(chain.from_iterable(names for _ in dict.fromkeys(slot.row for slot in slots)))
    fitting = [each for each in (names, rows) if len(each) == len(slots)]
    return fitting[0] if fitting else [""] * len(slots)


def columns_of(sample: Sample) -> str:
    """Return the sample's task with its images in the order in which they are shown.

    If images are shuffled, a sample's key ends with that order ('1f34e/canny+reference>target').
    """
    shown = sample.key.rpartition("/")[2]
    same = sorted(re.split(r"[+>]", shown)) == sorted(re.split(r"[+>]", sample.task))
    return shown if same else sample.task


def signature(slots: Slots) -> str:
    """Describe slots in a few words: '2 example, 1 condition, 1 target in 2 rows; 64×64'."""
    roles, rows = Counter(slot.role for slot in slots), len({slot.row for slot in slots})
    sizes = dict.fromkeys(f"{s.height}×{s.width}" + (f", {s.frames} frames" * (s.frames > 1)) for s in slots)
    counts = ", ".join(f"{count} {role}" for role, count in roles.items())
    return f"{counts}{f' in {rows} rows' if rows > 1 else ''}; {' and '.join(sizes)}"


def prompt_of(pipeline: Pipeline | None, sample: Sample) -> tuple[Prompt | None, str]:
    """Return a sample's prompt as the encoder reads it, or None and the reason."""
    if pipeline is None:
        return None, "there is no model to read it"
    try:
        return read_prompt(pipeline.text, sample.prompt, sample.subjects), ""
    except (ValueError, OSError) as error:
        return None, sentence(error)
