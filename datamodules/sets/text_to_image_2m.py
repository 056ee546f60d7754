"""text-to-image-2M: generated images with their prompts, for tasks between an image and what is computed from it.

`jackyhate/text-to-image-2M` on the Hugging Face Hub, mit: WebDataset tars `data_512_2M/data_000000.tar` and so on (2M
images of 512 pixels, 423 GB together) and `data_1024_10K/data_000000.tar` (10K of 1024, 5 GB). Checked in November
2026, without the data: folders, names of the tars and licence on the card; that a sample is `jpg` and `json`, and that
the text is `prompt` in the latter, in OminiControl's code (src/train/data.py). Not checked: how many tars there are
(the card says 35, others read 46), and what else the json holds.

RealGeneral takes 310K of these for canny and depth (section 4.1), without saying which; so many of the first are
`limit=310_000`. Canny is computed (`datamodules.sets.online`), and depth by a model that one names
(`datamodules.reading.annotators`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from datamodules.reading.accounts import Account
from datamodules.reading.annotators import Annotator, annotators
from datamodules.reading.images import BadImage
from datamodules.sets.base import SetRecord, captions_of, stored
from datamodules.sets.files import annotated, computed_by, loaded
from datamodules.sets.tars import Tars


class TextToImage2M:
    """Records of a `target` and its prompt. See `datamodules.sets.base.ImageSet`.

    root: the folder that the data set was downloaded to. part: 'data_512_2M' or 'data_1024_10K'. limit: at most so many
    records, the first. computed: {annotation: model, null for none}, such as {depth: <model>}, see
    `datamodules.reading.annotators`. cache: see `Tars`, and of what models computed.
    """

    def __init__(
        self,
        root: str | Path,
        part: str = "data_512_2M",
        *,
        computed: Mapping[str, str | None] | None = None,
        limit: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.tars = Tars(root, f"{part}/*.tar", ("jpg", "json"), limit=limit, cache=cache)
        self.computed: dict[str, Annotator] = annotators(computed or {}, "data.train.computed", cache)
        self.names = ("target", *self.computed)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        count = len(self.tars)
        loaded(self.computed)
        return count

    @property
    def account(self) -> Account:
        """The account of the tars."""
        return self.tars.account

    def looked_for(self, name: str) -> str:
        """Words on what gives the annotation `name`, for a task that lacks it."""
        return computed_by(name, "data.train.computed")

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`; there are no variants, so `seed` is not used. Raises BadImage if it has no prompt."""
        key = self.tars.name(index)
        try:
            said = json.loads(self.tars.read(index, "json"))
            prompt = said["prompt"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, BadImage):
                raise
            told = f"it has no {error} but {', '.join(said)}" if isinstance(error, KeyError) else str(error)
            raise BadImage.of(f"{key}, json", told, 'it must be {"prompt": "..."}') from error

        def content() -> bytes:
            return self.tars.read(index, "jpg")

        target = stored(content, f"{key}, jpg")
        maps = {name: annotated(content, target, annotator) for name, annotator in self.computed.items()}
        return SetRecord(key, {"target": target, **maps}, captions_of({"target": [prompt]}))
