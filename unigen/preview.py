"""What the model will see, gathered before any training: samples, prompts, layouts, buckets, tasks.

Nothing is trained and no weights are read: the model is built on the meta device, pictures come from the training data.
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

from unigen.build import build, build_learner
from unigen.config import sentence
from unigen.layout import Layout, Plan
from unigen.learners.denoising import Denoising
from unigen.masks import Mask, closure
from unigen.pipeline import Pipeline
from unigen.subject_words import uce_line
from unigen.types import ImageSlot, Sample

DRAWS = 1000  # samples that buckets and tasks are counted over
FORMS = 3  # samples of other signatures that are shown besides the first ones
IMPOSSIBLE = "no run of this is possible: "
Slots = tuple[ImageSlot, ...]


class Draw(NamedTuple):
    """One training sample, not decoded: what the dataset is asked for, the slots, and the task's name."""

    item: Any
    slots: Slots
    task: str


class Prompt(NamedTuple):
    """A prompt as the text encoder reads it.

    pieces: (text, whether the subject's words are in it) of every text token, in order.
    cut: the text beyond the window ("" also where a tokenizer does not give back the text that it was given).
    length: tokenizer tokens of the whole prompt, end token included; of these `window` are read at the most.
    """

    pieces: tuple[tuple[str, bool], ...]
    cut: str
    length: int
    window: int


class Bucket(NamedTuple):
    """The samples of one signature: `count` of those drawn, and their plan, or why there is none."""

    slots: Slots
    count: int
    plan: Plan | None
    refusal: str


@dataclass(frozen=True)
class Preview:
    """All facts of the page.

    pipeline: on the meta device; None where the experiment has none or its parts refuse each other (`refusal`).
    samples: the first training samples, then the first one of other signatures.
    said: what the data say of themselves, "" if nothing; subjects: how often UCE finds the subject's word, likewise.
    tasks: how many of the drawn samples each task has; `expected`, how likely each is, None unless a graph says it.
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
        """How many samples were drawn."""
        return sum(bucket.count for bucket in self.buckets)

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why there is no model to show, or no layout of a signature: a sentence each."""
        return tuple(dict.fromkeys(filter(None, (self.refusal, *(bucket.refusal for bucket in self.buckets)))))

    def bucket(self, slots: Slots) -> Bucket:
        """The bucket of a sample."""
        return next(bucket for bucket in self.buckets if bucket.slots == slots)


def preview(config: Mapping[str, Any], samples: int = 4) -> Preview:
    """Gather what the training of a composed experiment will see; draws the picture caches if they are not there.

    config: as `unigen.config.plain` gives it. samples: how many of the first training samples to show.
    Raises ValueError or OSError for data that cannot be had. What the model refuses is kept as a sentence instead:
    the data can be looked at all the same.
    """
    data = build(config["data"])
    data.prepare_data()
    pipeline, refusal = model(config)
    loader = data.train_dataloader()
    draws = drawn(loader, DRAWS, getattr(data, "tasks", ()))
    several = len(getattr(data, "tasks", ())) > 1  # of a single task a graph says nothing
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
    """The pipeline as shapes alone, or None and why there is none to show, in a sentence."""
    try:
        with torch.device("meta"):
            learner = build_learner({**config, "cache": None})
    except (ValueError, OSError, InstantiationException) as error:
        return None, IMPOSSIBLE + sentence(error)
    if isinstance(learner, Denoising):
        return learner.pipeline, ""
    return None, f"only the data are shown: learner {type(learner).__name__} has no layout, mask or conditioning"


def looked_up(pipeline: Pipeline | None, loader: DataLoader) -> str:
    """How often UCE finds the subject's word, or why that is not known; "" where nothing looks it up."""
    if pipeline is None:
        return ""
    try:
        return uce_line(pipeline, loader)
    except (ValueError, OSError) as error:
        return f"UCE: not counted: {sentence(error)}"


def drawn(loader: DataLoader, count: int, tasks: tuple[str, ...] = ()) -> list[Draw]:
    """The first samples that training draws, in order.

    One picture is decoded for each batch, for its slots, which the samples of a batch share. A task is known without
    decoding where the data have only one, or the dataset can `plan` an item.
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
    """The first draws, then the first one of each other signature, FORMS of them at the most."""
    first = draws[:samples]
    seen = {draw.slots for draw in first}
    others: dict[Slots, Draw] = {}
    for draw in draws:
        if draw.slots not in seen:
            others.setdefault(draw.slots, draw)
    return [*first, *list(others.values())[:FORMS]]


def buckets(draws: list[Draw], pipeline: Pipeline | None) -> Iterator[Bucket]:
    """Every signature among the draws, the most frequent ones first."""
    for slots, count in Counter(draw.slots for draw in draws).most_common():
        plan, refusal = None, ""
        if pipeline is not None:
            try:
                plan = pipeline.plan(slots)
            except ValueError as error:
                refusal = IMPOSSIBLE + sentence(error)
        yield Bucket(slots, count, plan, refusal)


def expectation(graph: Any, tasks: tuple[str, ...]) -> dict[str, float]:
    """How likely training draws each of these tasks: the graph's proportions among them, summing to 1."""
    likely = graph.training.probabilities()
    total = sum(likely[task] for task in tasks)
    return {task: likely[task] / total for task in tasks}


def read_prompt(text: Any, prompt: str, subjects: tuple[str, ...]) -> Prompt:
    """A prompt token by token, from what the text encoder (`unigen.encoders.t5.T5Text`) makes of it.

    Raises ValueError or OSError if its tokenizer cannot be had.
    """
    tokenizer = text.tokenizer
    length = len(tokenizer(prompt)["input_ids"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the page says it: the prompt is cut
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
    """After how many layers each segment (row) first depends on each other (column); None: never.

    On the diagonal 0 says that a segment does not attend to itself: its own input stays by residual connections alone.
    """
    count = len(layout.segments)
    reach = [closure(layout, mask, depth).tolist() for depth in range(1, count + 1)]
    found = [[next((d for d, r in enumerate(reach, 1) if r[i][j]), None) for j in range(count)] for i in range(count)]
    for i, segment in enumerate(layout.segments):
        if not mask.sees(segment, segment):
            found[i][i] = 0
    return found


def pictures_of(task: str, slots: Slots) -> list[str]:
    """What each slot shows, if the task's name says it for every row ('canny>target'); else nothing."""
    names = [name for side in task.split(">") for name in side.split("+")] if ">" in task else []
    rows = list(chain.from_iterable(names for _ in dict.fromkeys(slot.row for slot in slots)))
    return rows if len(rows) == len(slots) else [""] * len(slots)


def columns_of(sample: Sample) -> str:
    """The sample's task with its pictures in the order in which they are shown, with which its key ends if they may
    have been shuffled ('1f34e/canny+reference>target')."""
    shown = sample.key.rpartition("/")[2]
    same = sorted(re.split(r"[+>]", shown)) == sorted(re.split(r"[+>]", sample.task))
    return shown if same else sample.task


def signature(slots: Slots) -> str:
    """Slots in a few words: '2 example, 1 condition, 1 target in 2 rows; 64×64'."""
    roles, rows = Counter(slot.role for slot in slots), len({slot.row for slot in slots})
    sizes = dict.fromkeys(f"{s.height}×{s.width}" + (f", {s.frames} frames" * (s.frames > 1)) for s in slots)
    counts = ", ".join(f"{count} {role}" for role, count in roles.items())
    return f"{counts}{f' in {rows} rows' if rows > 1 else ''}; {' and '.join(sizes)}"


def prompt_of(pipeline: Pipeline | None, sample: Sample) -> tuple[Prompt | None, str]:
    """A sample's prompt as the encoder reads it, or None and why that is not known."""
    if pipeline is None:
        return None, "there is no model to read it"
    try:
        return read_prompt(pipeline.text, sample.prompt, sample.subjects), ""
    except (ValueError, OSError) as error:
        return None, sentence(error)
