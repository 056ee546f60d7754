"""SceneGraphData: keyed batches of an annotation graph's tasks on scenes, with in-context examples.

Scene n of a split is drawn from (split, n) alone, and so is everything random in its sample: a run that goes on repeats
what it would have seen, and latents may be kept. The images are described in `datamodules.scenes.graph`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules import degradations
from datamodules.emoji.data import EmojiGraphData
from datamodules.emoji.images import Row
from datamodules.emoji.names import base_of
from datamodules.emoji.names import subject as short_name
from datamodules.emoji.samples import Forms, GraphDataset
from datamodules.graph.choosing import RANDOM
from datamodules.graph.columns import Columns, Instruction
from datamodules.graph.graph import CENTRE, AnnotationGraph
from datamodules.graph.instruction_words import word_of
from datamodules.graph.sampling import Task
from datamodules.scenes.captions import LONGEST, caption
from datamodules.scenes.facts import facts_of
from datamodules.scenes.graph import OF_IMAGES, OTHER_STYLE, SceneGraph
from datamodules.scenes.worlds import ALIKE, EDITS, SceneRow
from unigen.core.noise import mix
from unigen.core.types import Sample

WHOLE = (CENTRE, "reference", "second_reference", "skin_tone", "gender", *EDITS)  # their caption says all of them


class SceneDataset(GraphDataset):
    """Samples by (form, scene number, item seed), as `GraphDataset`'s.

    scenes: how many scenes there are; scene n is about glyph n mod `len(indices)`, and its sample is drawn from its
    number. None: as many as glyphs, and samples are drawn from their item seeds.
    results_said: whether a bare caption says of what kind the result is, where it is no image of a scene (', depth').
    reference_alike: how often a sample's references share more with the target than the object, see `SceneRow.alike`.
    """

    records: SceneGraph

    def __init__(
        self,
        records: SceneGraph,
        indices: Sequence[int],
        pool: Sequence[int],
        forms: Forms,
        columns: Columns,
        example_seed: int = 0,
        choice: str = RANDOM,
        scenes: int | None = None,
        results_said: bool = True,
        reference_alike: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(records, indices, pool, forms, columns, example_seed, choice)
        self.scenes, self.results_said, self.reference_alike = scenes, results_said, reference_alike or {}

    def __len__(self) -> int:
        return self.scenes or len(self.indices)

    def plan(self, item: tuple[str, int, int]) -> tuple[Task, tuple[SceneRow, ...]]:
        """The task of a sample, and its rows, the query last; no two subjects of them have one base."""
        task, rows = super().plan(self._drawn(item))
        return task, tuple(self.records.row(row, task)._replace(alike=self._alike(row.sample)) for row in rows)

    def _alike(self, seed: int) -> str | None:
        """Draw what the references of a sample share with its target beside the object, see `SceneRow.alike`."""
        shares = self.reference_alike
        rest = max(0.0, 1 - sum(shares.values()))
        return random.Random(mix(seed, "alike")).choices([*shares, None], [*shares.values(), rest])[0]

    def conditions(self, task: Task, row: Row) -> list[np.ndarray]:
        return super().conditions(task, self.records.row(row, task))

    def __getitem__(self, item: tuple[str, int, int]) -> Sample:
        task, rows = self.plan(item)
        seed = rows[-1].sample
        slots, shown = self._slots[item[0]], self.columns.order(task, seed)
        pixels = [self.records.image(name, row) for row in rows for name in shown.images]
        images = {slot.name: torch.from_numpy(np.array(image))[None] for slot, image in zip(slots, pixels, strict=True)}
        prompt, subjects, described = self._words(task, rows, seed)
        glyph = rows[-1].glyph
        key = f"{glyph}/{shown.name}/{seed % 10**8}"
        facts = json.dumps(self._facts(task, rows[-1]))
        return Sample(slots, images, prompt, subjects, task.name, key, described, {"base glyph": base_of(glyph)}, facts)

    def _facts(self, task: Task, row: SceneRow) -> dict[str, Any]:
        """The facts of the first image that is asked for, see `facts_of`; of the conditions the first counts that shows
        a background of other colours.
        """
        scene = self.records.scene(task.targets[0], row)
        shown = (self.records.scene(name, row) for name in task.conditions if name in WHOLE)
        elsewhere = next((other for other in shown if not other.colours & scene.colours), None)
        return facts_of(scene, self.records.rendered(scene), elsewhere)

    def _drawn(self, item: tuple[str, int, int]) -> tuple[str, int, int]:
        """The item with a seed that follows from the scene's number, where there are such."""
        if self.scenes is None:
            return item
        name, number, _ = item
        return name, number % len(self.indices), mix("scene", number)

    def _words(self, task: Task, rows: Sequence[SceneRow], seed: int) -> tuple[str, tuple[str, ...], str]:
        """A sample's prompt, the words for its subject, and the caption of what is asked for.

        The seed is that of the rows: of a training item the scene's number decides, not the item's own seed.
        """
        row, name = rows[-1], self.columns.told(task)
        seed = row.sample
        scene = self.records.scene(name, row)
        if name == "redrawn":
            scene, name = scene._replace(style=OTHER_STYLE[scene.style]), CENTRE
        kind = f", {word_of(name)}" if self.results_said and name not in WHOLE else ""
        mirrored = None
        if "reference" in task.conditions:
            mirrored = scene.subject.flip != self.records.scene("reference", row).subject.flip
        rng = random.Random(mix(seed, "caption", row.number))
        described = caption(scene, rng, LONGEST - len(kind), mirrored)
        described += kind if self.columns.instruction is None else ""
        subjects = (short_name(scene.subject.glyph),)
        prompt = self.columns.prompt(self.columns.order(task, seed), len(rows), described, subjects, seed)
        return prompt, subjects, described


class SceneGraphData(EmojiGraphData):
    """Samples of the tasks of `graph` on scenes of `size` x `size` pixels, in batches of `unigen.core.types.Batch`.

    scenes: how many training scenes there are; scene n is the same whatever `seed` is, and an epoch shows each once.
    results_said: see `SceneDataset`. reference_alike: too, for training samples alone, so that the test stays the same.
    All else is as in `EmojiGraphData`; subjects are drawn by base, so that people are not a third of them.
    """

    def __init__(
        self,
        *,
        graph: AnnotationGraph,
        size: int = 64,
        tasks: Sequence[str] | None = None,
        test_tasks: Sequence[str] | None = None,
        rows: Sequence[int] = (0, 2),
        row_shares: Sequence[float] | None = None,
        test_rows: Sequence[int] | None = None,
        test_example_seed: int = 0,
        test_examples: str = RANDOM,
        arrangements: Mapping[str, float] | None = None,
        test_arrangements: Mapping[str, float] | None = None,
        instruction: Instruction | None = None,
        shuffle_columns: bool = False,
        shared_degradations: bool = True,
        scenes: int = 1048576,
        results_said: bool = True,
        reference_alike: Mapping[str, float] | None = None,
        batch_size: int = 32,
        seed: int = 0,
        val_items: int = 64,
        test_items: int = 64,
        num_workers: int = 0,
        cache: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        if scenes < 1:
            raise ValueError(f"scenes={scenes} leaves no data: it must be at least 1")
        self.scenes, self.results_said = scenes, results_said
        self.reference_alike = alike_shares(reference_alike)
        super().__init__(
            graph=graph,
            size=size,
            tasks=tasks,
            test_tasks=test_tasks,
            rows=rows,
            row_shares=row_shares,
            test_rows=test_rows,
            test_example_seed=test_example_seed,
            test_examples=test_examples,
            arrangements=arrangements,
            test_arrangements=test_arrangements,
            instruction=instruction,
            shuffle_columns=shuffle_columns,
            shared_degradations=shared_degradations,
            batch_size=batch_size,
            seed=seed,
            val_items=val_items,
            test_items=test_items,
            num_workers=num_workers,
            cache=cache,
            limit=limit,
        )

    made = frozenset({*OF_IMAGES, *degradations.NAMES})
    records_of = SceneGraph
    records: SceneGraph

    def fit_images(self, n: int) -> Tensor:
        """`n` training scenes, uint8 (n, 3, size, size), the same for every seed."""
        self.records.prepare(())
        dataset, found = self.dataset("train", self.forms), []
        form = next(iter(self.forms))
        for number in range(n):
            found.append(self.records.image(CENTRE, dataset.plan((form, number, 0))[1][-1]))
        return torch.from_numpy(np.stack(found))

    def dataset(self, split: str, forms: Forms) -> SceneDataset:
        """Samples of these forms. In 'val' and 'test' the first glyphs alone are queries; examples may be any."""
        pool = self.emoji.indices[split]
        columns = self.columns._replace(training=split == "train")
        options: dict[str, Any] = {"results_said": self.results_said}
        if split == "train":
            options |= {"scenes": self.scenes, "reference_alike": self.reference_alike}
            return SceneDataset(self.records, self._by_base(pool), pool, forms, columns, **options)
        if split == "test":
            options |= {"example_seed": self.test_example_seed, "choice": self.test_examples}
        return SceneDataset(self.records, pool[: self.emoji.items[split]], pool, forms, columns, **options)

    def _by_base(self, indices: Sequence[int], rounds: int = 30) -> list[int]:
        """Glyphs in rounds, in each of which every base has one glyph, another one each time if it has several."""
        by_base: dict[str, list[int]] = {}
        for index in indices:
            by_base.setdefault(base_of(self.emoji.images.names[index]), []).append(index)
        bases = sorted(by_base, key=lambda base: mix("scene base", base))
        return [by_base[base][turn % len(by_base[base])] for turn in range(rounds) for base in bases]


def alike_shares(shares: Mapping[str, float] | None) -> dict[str, float]:
    """Check the shares of samples whose references share more with the target than the object. Raises ValueError."""
    found = dict(shares) if isinstance(shares, Mapping) else {}
    numbers = all(type(share) in (int, float) and share >= 0 for share in found.values())
    if (shares and not found) or set(found) - set(ALIKE) or not numbers or sum(found.values()) > 1:
        raise ValueError(
            f"reference_alike={shares!r} must be null or shares of the training samples for {' and '.join(ALIKE)}, "
            "which add up to 1 at the most, such as {pose: 0.2, size: 0.3}"
        )
    return found
