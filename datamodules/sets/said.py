"""Reports on data before training: records by split, files left out, images that a task lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datamodules.graph.sampling import Task
from datamodules.reading.accounts import Account, account_of
from datamodules.sets.base import ImageSet
from datamodules.sets.online import ONLINE
from datamodules.sets.parts import BLOCK, Part


def counts(sources: Mapping[str, ImageSet]) -> str:
    """The number of records by split: '12 images (6 train, 4 val, 2 test), 6 with captions'."""
    accounts = _accounts(sources)
    noun = accounts["train"].noun
    told = ", ".join(f"{len(source)} {split}" for split, source in sources.items())
    if len(accounts) == 1:
        total = len(reader_of(sources["train"]))
        told = f"{total} {noun if total != 1 else noun.removesuffix('s')} ({told})"
    else:
        told = f"{noun}: {told}"
    for split, account in accounts.items():
        if account.captioned is not None:
            told += f", {account.captioned} {'' if len(accounts) == 1 else f'of {split} '}with captions"
    return told


def shown_again(sources: Mapping[str, ImageSet], not_given: Sequence[str]) -> tuple[str, ...]:
    """The splits without a reader of their own that show training images, because nothing was held out."""
    return tuple(name for name in not_given if not isinstance(sources[name], Part) or sources[name].whole)


def warnings(sources: Mapping[str, ImageSet], shown: Sequence[str], held_out: int | None) -> list[str]:
    """Sentences on splits that show training images (see `shown_again`), and on what the readers left out."""
    told = []
    if shown:
        why = "data.held_out=null holds nothing out"
        if held_out is not None:
            fewer = f" (data.held_out=3 from {3 * BLOCK})" if held_out > 3 else ""
            why = f"data.held_out={held_out} holds images out from {held_out * BLOCK} images on{fewer}"
        some = len(shown) > 1
        verb, whose = ("show", "their") if some else ("shows", "its")
        others = f"{' and '.join(f'data.{split}' for split in shown)} {'take readers' if some else 'takes a reader'} of"
        if getattr(reader_of(sources["train"]), "own", False):
            others = f"{' and '.join(f'data.{split}.root=<folder>' for split in shown)} {'name' if some else 'names'}"
        told.append(
            f"{' and '.join(shown)} {verb} training images, so {whose} scores are not of held-out images: {why}, and "
            f"{others} other images"
        )
    for split, account in _accounts(sources).items():
        told += [sentence if split == "train" else f"{split}: {sentence}" for sentence in account.sentences]
    return told


def check_found(source: ImageSet, tasks: Sequence[Task], split: str) -> None:
    """Check that every task has records. Raises ValueError, saying which files were looked for, if the user's own files
    serve one with none.
    """
    reader = reader_of(source)
    if not hasattr(reader, "looked_for"):
        return
    for task in tasks:
        if any(task.fits({*source.record(i).images, *ONLINE}) for i in range(len(source))):
            continue
        has = [name for i in range(len(source)) for name in source.record(i).images]
        lacking = [name for name in task.images if name not in (*has, *ONLINE)]
        where = "" if len(source) == len(reader) else f" of {split}"
        what = f"no {lacking[0]} file beside any" if lacking else f"no files of {' and '.join(task.images)} beside one"
        count = f"{len(source)} image{'' if len(source) == 1 else 's'}"
        looked_for = reader.looked_for((lacking or task.images)[0])
        raise ValueError(f"{what} of {count}{where}, which task {task.name} needs: {looked_for}")


def reader_of(source: ImageSet) -> ImageSet:
    """The reader that a split's records come from."""
    return source.source if isinstance(source, Part) else source


def _accounts(sources: Mapping[str, ImageSet]) -> dict[str, Account]:
    """The account of each reader, by the first split that has it."""
    readers: dict[int, tuple[str, ImageSet]] = {}
    for split, source in sources.items():
        reader = reader_of(source)
        readers.setdefault(id(reader), (split, reader))
    return {split: account_of(reader) for split, reader in readers.values()}
