"""Keeps the outputs of frozen encoders by content in a folder that runs share: latents of clips, features of prompts.

The address of an entry is sha256(encoder) / sha256(input). The encoder is its class, its `identity`, how values are
stored and every byte of its weights; the input is a clip's pixels and shape, or a prompt's token ids with the pixels of
the images that it is about. Nothing else affects the output of an encoder, so an entry serves every run, layout and
task that asks for the same.

Shapes: N clips, F frames, C latent channels, B prompts, T text tokens, D width, W window in tokens.
"""

import json
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unigen.cache.files import Shelf
from unigen.core import canvas
from unigen.core.types import Illustrated
from unigen.protocols import Codec, TextEncoder

FORMAT = 2  # raised when `to_unit`, `moments` or a text encoder's features change their meaning
LOSSY = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Cache:
    """Entries in `folder`: present ones are read, missing ones are computed and added.

    Values are stored exactly. With `lossy` ("bfloat16" or "float16") they are rounded, and values computed just now are
    returned rounded too, so that a run does not depend on what the folder held before it. If the folder cannot be
    written, one warning says so, `refused` holds the error, and encoding goes on without storing. Raises ValueError for
    a path that is no folder, or another word for `lossy`.
    """

    def __init__(self, folder: Path, lossy: str | None = None) -> None:
        if lossy is not None and lossy not in LOSSY:
            raise ValueError(f"cache_lossy is {lossy!r}; it may be null (exact), {' or '.join(LOSSY)}")
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"cache={folder} is a file; give a folder, which is made if it is not there")
        self.folder, self.lossy = folder, lossy
        self.refused: OSError | None = None
        self._shelves: dict[str, Shelf] = {}
        self._known: dict[int, tuple[tuple, str]] = {}
        weakref.finalize(self, _close, folder, self._shelves)  # also when the process ends

    def moments(self, codec: Codec, clips_u8: Tensor, device: torch.device) -> Tensor:
        """The codec's moments (N, f, ...) of uint8 clips (N, F, 3, H, W), on `device`.

        Kernels round batches of other sizes in other ways (the last bits of fp32). So what would be encoded at once
        without a cache is encoded at once with it: of a `cacheable` codec the clips that are missing, of any other
        the whole batch if one is missing.
        """

        def make(positions: list[int]) -> Tensor:
            if codec.cacheable:
                return codec.moments(canvas.to_unit(clips_u8[positions].to(device)))
            return codec.moments(canvas.to_unit(clips_u8.to(device)))[positions]

        return self._fetch(codec, [clip_key(x) for x in clips_u8.cpu()], make, device)

    def features(self, text: TextEncoder, prompts: list[str] | list[Illustrated], device: torch.device) -> Tensor:
        """The features (B, T, D) of a frozen text encoder, on `device`."""
        keys = prompt_keys(text, prompts)
        return self._fetch(text, keys, lambda positions: text.encode([prompts[i] for i in positions]), device)

    def shelf(self, encoder: nn.Module) -> Shelf:
        """The entries of an encoder with its present weights."""
        name = self._fingerprint(encoder)
        if name not in self._shelves:
            about = {"class": type(encoder).__name__, "stored": self.lossy or "exact"}
            self._shelves[name] = Shelf(self.folder / name, about)
        return self._shelves[name]

    def flush(self) -> None:
        """Write the waiting entries to the disk."""
        self._guarded(lambda: _flush_all(self._shelves))

    def _fetch(
        self, encoder: nn.Module, keys: Sequence[str], make: Callable[[list[int]], Tensor], device: torch.device
    ) -> Tensor:
        """The values in the order of `keys`; `make(positions)` computes each missing one once."""
        shelf = self.shelf(encoder)
        found = {key: value for key in dict.fromkeys(keys) if (value := shelf.get(key)) is not None}
        missing = {key: i for i, key in reversed(list(enumerate(keys))) if key not in found}
        positions = sorted(missing.values())
        if positions:
            made = make(positions).detach().cpu()
            kept = self._storable(made, encoder)
            for position, value in zip(positions, kept, strict=True):
                value = value.clone(memory_format=torch.contiguous_format)  # a view would keep its batch alive
                found[keys[position]] = value
                self._keep(shelf, keys[position], value)
        if self.refused is None:
            self._guarded(shelf.flush_if_due)
        return torch.stack([found[key] for key in keys]).to(device, precision(encoder))

    def _storable(self, made: Tensor, encoder: nn.Module) -> Tensor:
        kept = made if self.lossy is None else made.to(LOSSY[self.lossy])
        if not kept.isfinite().all():
            cause = "" if not made.isfinite().all() else f" in {self.lossy}; use bfloat16 or null for cache_lossy"
            raise ValueError(f"{type(encoder).__name__} made values that are not finite{cause}: nothing was kept")
        return kept

    def _keep(self, shelf: Shelf, key: str, value: Tensor) -> None:
        if self.refused is None:
            self._guarded(lambda: shelf.put(key, value))

    def _guarded(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self.refused = error
            _warn(self.folder, error)

    def _fingerprint(self, encoder: nn.Module) -> str:
        """The `fingerprint` of an encoder, computed again only if a weight was replaced or written to since the last
        time.
        """
        state = tuple((id(x), x.dtype, 0 if x.is_inference() else x._version) for _, x in weights(encoder))
        if self._known.get(id(encoder), (None,))[0] != state:
            self._known[id(encoder)] = state, fingerprint(encoder, self.lossy)
        return self._known[id(encoder)][1]


class StrictCache(Cache):
    """A Cache that raises the OSError if the folder cannot be written, for commands that fill it."""

    def _guarded(self, write: Callable[[], None]) -> None:
        write()


def open_cache(config: Mapping[str, Any], kind: type[Cache] = Cache) -> Cache | None:
    """The cache that a run's configuration names; None if it names none. Nothing is read or made yet.

    Raises ValueError for anything but a folder, and for a precision without one.
    """
    folder, lossy = config["cache"], config["cache_lossy"]
    if folder is None:
        if lossy is not None:
            raise ValueError(f"cache_lossy is {lossy!r}, but there is no cache; name a folder: cache=<folder>")
        return None
    if not isinstance(folder, str) or not folder:
        raise ValueError(f"cache is {folder!r}; it must be a folder or null")
    return kind(Path(folder), lossy)


def fingerprint(encoder: nn.Module, lossy: str | None = None) -> str:
    """An encoder in 64 hexadecimal digits: class, identity, storage, and name, type, shape and bytes of every weight.

    Each tensor is hashed by itself, several at a time in threads, and the digests are hashed in the order of the
    names: about a second for each 2 GB and thread.
    """
    private = {name: value for name, value in encoder.identity.items() if not name.startswith("_")}
    facts = {"format": FORMAT, "class": type(encoder).__name__, "identity": private, "stored": lossy or "exact"}
    found = sha256(json.dumps(facts, sort_keys=True).encode())
    named = sorted(weights(encoder), key=lambda pair: pair[0])
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for (name, x), digest in zip(named, pool.map(lambda pair: _digest(pair[1]), named), strict=True):
            found.update(f"{name} {x.dtype} {tuple(x.shape)} {digest}\n".encode())
    return found.hexdigest()


def clip_key(clip_F3HW: Tensor) -> str:
    """sha256 (hexadecimal) of a uint8 clip's shape and pixels."""
    return sha256(f"{tuple(clip_F3HW.shape)} ".encode() + clip_F3HW.contiguous().numpy().tobytes()).hexdigest()


def ids_key(ids_W: Iterable[int | str]) -> str:
    """sha256 (hexadecimal) of a prompt's token ids: they say all that prompt, tokenizer and window decide."""
    return sha256(" ".join(map(str, ids_W)).encode()).hexdigest()


def prompt_keys(text: TextEncoder, prompts: list[str] | list[Illustrated]) -> list[str]:
    """The `ids_key` of each prompt, with the pixels of the images that it is about."""
    seen = [prompt.pixels if isinstance(prompt, Illustrated) else () for prompt in prompts]
    return [ids_key((*ids, *pixels)) for ids, pixels in zip(text.ids(prompts), seen, strict=True)]


def weights(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by name; shared ones once."""
    return [*module.named_parameters(), *module.named_buffers()]


def precision(encoder: nn.Module) -> torch.dtype:
    """The type of an encoder's weights, in which it makes its values."""
    return next(x.dtype for _, x in weights(encoder) if x.is_floating_point())


def _digest(x: Tensor) -> str:
    return sha256(memoryview(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())).hexdigest()


def _warn(folder: Path, error: OSError) -> None:
    warnings.warn(f"cache={folder}: {error}; encoding goes on, nothing more is kept", stacklevel=2)


def _close(folder: Path, shelves: Mapping[str, Shelf]) -> None:
    try:
        _flush_all(shelves)
    except OSError as error:
        _warn(folder, error)


def _flush_all(shelves: Mapping[str, Shelf]) -> None:
    for shelf in shelves.values():
        shelf.flush()
