"""The Hugging Face cache as its client lays it out: blobs by checksum, snapshots of links, a name for the newest."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from pathlib import Path
from unittest import mock

REVISION = sha1(b"a miniature").hexdigest()


def repository_folder(cache: Path, repository: str) -> Path:
    return cache / f"models--{repository.replace('/', '--')}"


def publish(folder: Path, cache: Path, repository: str) -> Path:
    """Move the files of `folder` into the cache as a download of `repository`; returns the snapshot."""
    root = repository_folder(cache, repository)
    snapshot, blobs = root / "snapshots" / REVISION, root / "blobs"
    blobs.mkdir(parents=True)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = blobs / sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(REVISION)
    return snapshot


def words(cache: Path) -> dict[str, str]:
    """The environment of a process that has this cache and no network."""
    return {"HF_HOME": str(cache.parent), "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


@contextmanager
def offline(cache: Path) -> Iterator[None]:
    """This process and those that it starts have this cache and no network."""
    from huggingface_hub import constants

    from unigen.weights import repositories

    asked = repositories.hub_silent
    asked.cache_clear()
    with (
        mock.patch.dict(os.environ, words(cache)),
        mock.patch.object(constants, "HF_HUB_CACHE", str(cache)),
        mock.patch.object(constants, "HF_HUB_OFFLINE", True),
    ):
        yield
    asked.cache_clear()
