"""Locates pretrained models: in a folder, in this package, or in the Hugging Face cache, which is filled if possible.

A source is a folder, a repository id, or "shipped:NAME". If it is missing or incomplete, one sentence names the source,
the configuration key and the command that fetches it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from unigen.config.files import stand_in
from unigen.config.values import ConfigError

SHIPPED = "shipped:"
HUB_SECONDS = 10  # for which the Hub is waited for
GATED = ("black-forest-labs/",)  # whose licence has to be accepted on the repository's page
WEIGHTS = (".safetensors", ".bin", ".pth")
READ = (*WEIGHTS, ".json", ".model", ".txt")  # the endings of what `from_pretrained` reads
WORDS = ("tokenizer.json", "spiece.model", "vocab.json", "vocab.txt", "tokenizer.model")  # any one makes a tokenizer
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\..*)")


class Unavailable(ValueError):
    """Weights or a library that must come from elsewhere are not here. The run goes on without the number that needs
    them.
    """


class Wanted(NamedTuple):
    """A model or tokenizer that config key `key` names: in folder `part` of a pipeline, or alone in `source`."""

    key: str
    source: str
    part: str | None = None

    @property
    def is_tokenizer(self) -> bool:
        return self.part is not None and self.part.startswith("tokenizer")


def located(wanted: Wanted) -> Path:
    """The folder with all files of a source; those of a repository are downloaded if they are missing.

    Raises Unavailable otherwise.
    """
    return located_all([wanted])[0]


def located_all(wanted: Sequence[Wanted]) -> list[Path]:
    """The folder of each source. Raises Unavailable for the first incomplete source, with all that is wanted of it.

    Of a repository only the files of the wanted parts are downloaded, once the Hub answers.
    """
    found = []
    for one in wanted:
        folder = folder_of(one)
        if lacks(one, folder) and _is_repository(one.source):
            _download(one, [each for each in wanted if each.source == one.source])
            folder = folder_of(one)
        if said := lacks(one, folder):
            raise Unavailable(_sentence(one, said, wanted))
        found.append(folder)
    return found


def folder_of(wanted: Wanted) -> Path | None:
    """The folder of the files, complete or not; None if nothing of the source is here."""
    if wanted.source.startswith(SHIPPED):
        root = shipped_folder(wanted.source)
    elif _is_repository(wanted.source):
        root = _snapshot(wanted.source)
    else:
        root = Path(wanted.source).expanduser()
    if root is None or not root.is_dir():
        return None
    inside = root / (wanted.part or "")
    return inside if inside.is_dir() else root


def shipped_folder(source: str) -> Path:
    """The folder of "shipped:NAME[/PART]": weights that come with this package."""
    return Path(__file__).resolve().parents[1] / "shipped" / source.removeprefix(SHIPPED)


def run_folder(text: str) -> Path:
    """The folder of a run: `text` itself, or for "shipped:NAME" that of a run that comes with this package.

    Raises ConfigError for a name that is no shipped run's.
    """
    if not text.startswith(SHIPPED):
        return Path(text)
    folder = shipped_folder(text)
    if not (folder / "export").is_dir():
        names = sorted(path.parent.name for path in folder.parent.glob("*/export"))
        legal = f"legal are {', '.join(SHIPPED + name for name in names)}" if names else "no run is so far"
        raise ConfigError(f"run={text} is not shipped; {legal}")
    return folder


def beside_run(folder: Path) -> Path:
    """The folder for what is measured of a run: its own, but for a shipped one runs/shipped_NAME."""
    shipped = folder.resolve().is_relative_to(shipped_folder("").resolve())
    return Path("runs") / f"shipped_{folder.name}" if shipped else folder


def lacks(wanted: Wanted, folder: Path | None) -> str | None:
    """Say in a clause why `folder` cannot be read; None if it can."""
    if folder is None:
        where = "is no folder and not in the Hugging Face cache" if _is_repository(wanted.source) else "is not there"
        return f"'{wanted.source}' {where}"
    names = {path.name for path in folder.iterdir()}
    if wanted.part and "model_index.json" in names:
        return f"{folder} lacks the folder {wanted.part}"
    for file in sorted(folder.iterdir()):
        if file.suffix in READ and (said := stand_in(file) or _cut_short(file)):
            return f"{file} {said}"
    if wanted.is_tokenizer:
        return None if names & {*WORDS} else f"{folder} holds no tokenizer (none of {', '.join(WORDS)})"
    if missing := _missing(folder, names):
        begun = any(_unfinished(folder))
        return f"{folder} lacks {missing}{', whose download was not finished' if begun else ''}"
    return None


def _missing(folder: Path, names: set[str]) -> str | None:
    """The first missing file of a model. A link to nothing counts as missing."""
    there = {name for name in names if (folder / name).exists()}
    if not there & {"config.json", "preprocessor_config.json"}:
        return "config.json"
    absent: list[str] = []
    for ending in WEIGHTS:
        wanted = {name for name in names if name.endswith(ending)}
        for index in sorted(name for name in there if name.endswith(f"{ending}.index.json")):
            wanted |= _indexed(folder / index)
        for shard in filter(None, map(SHARD.fullmatch, [*wanted])):
            stem, _, most, rest = shard.groups()
            wanted |= {f"{stem}-{i + 1:05}-of-{most}{rest}" for i in range(int(most))} | {f"{stem}{rest}.index.json"}
        if wanted and wanted <= there:
            return None
        absent += sorted(wanted - there)
    return absent[0] if absent else "weights (*.safetensors, *.bin or *.pth)"


def _indexed(index: Path) -> set[str]:
    """The shards that an index of weights names."""
    try:
        return set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable(f"{index} is no index of weights ({reason(error)}): fetch it again") from error


def _cut_short(file: Path) -> str | None:
    """Say how much of a truncated safetensors file is there; None if it is complete. The header gives the end of the
    last tensor.
    """
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    size = file.stat().st_size
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > size:
            return None  # no safetensors at all, of which the library says more
        try:
            header = json.loads(opened.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
    whole = 8 + length + max(ends, default=0)
    return f"is cut short: {size:,} of {whole:,} bytes" if size < whole else None


def _unfinished(folder: Path) -> Iterable[Path]:
    """Yield the unfinished downloads of a repository, in the cache or into a folder."""
    for parent in (folder, *list(folder.parents)[:3]):
        yield from (parent / "blobs").glob("*.incomplete")
        yield from (parent / ".cache" / "huggingface" / "download").rglob("*.incomplete")


def _is_repository(source: str) -> bool:
    """True for a repository id, which is "owner/name" and no folder here."""
    own = not source.startswith(SHIPPED) and re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None
    return own and not source.startswith(".") and not Path(source).is_dir()


def _snapshot(repository: str) -> Path | None:
    """The newest snapshot of a repository in the cache."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    newest = root / "refs" / "main"
    return root / "snapshots" / newest.read_text().strip() if newest.is_file() else None


def _download(one: Wanted, wanted: Sequence[Wanted]) -> None:
    """Fetch the wanted parts of a repository, of which `one` lacks files. Raises Unavailable if that cannot be."""
    from huggingface_hub import HfApi, snapshot_download

    lacking = lacks(one, folder_of(one))
    if why := hub_silent():
        raise Unavailable(_sentence(one, f"{lacking}, and {why}", wanted))
    try:
        names = HfApi().list_repo_files(one.source)
        snapshot_download(one.source, allow_patterns=sorted({name for each in wanted for name in _files(each, names)}))
    except Exception as error:  # the Hub raises a dozen unrelated types
        raise Unavailable(
            _sentence(wanted[0], f"{lacking}, and cannot be fetched ({reason(error)})", wanted)
        ) from error


def _files(wanted: Wanted, names: Sequence[str]) -> list[str]:
    """The files of a repository that make up the wanted part. Of weights in several formats, the first in WEIGHTS
    counts.
    """
    inside = [name for name in names if wanted.part and name.startswith(f"{wanted.part}/")]
    inside = [name for name in inside or names if "/" not in name.removeprefix(f"{wanted.part}/")]
    kept = [name for name in inside if name.endswith(READ[len(WEIGHTS) :])]
    form = next((end for end in WEIGHTS if any(name.endswith(end) for name in inside)), None)
    return kept + [name for name in inside if form and name.endswith(form)]


def _sentence(one: Wanted, said: str, wanted: Sequence[Wanted]) -> str:
    """One sentence with the fault, its key and the remedy."""
    if one.source.startswith(SHIPPED):
        advice = f"this package ships {_shipped_names()}"
    elif _is_repository(one.source):
        advice = f"fetch it with `{fetch_line([each for each in wanted if each.source == one.source])}`"
        if one.source.startswith(GATED):
            advice += f" after `hf auth login` and after accepting its licence on huggingface.co/{one.source}"
        advice += f", set {one.key}=<folder>, or check the plan without files by dry_run=true"
    else:
        advice = f"set {one.key}=<folder> or a repository id, or check the plan without files by dry_run=true"
    return f"{said} (config key {one.key}): {advice}"


def fetch_line(wanted: Sequence[Wanted]) -> str:
    """The command that fetches these parts of one repository and nothing else of it."""
    parts = list(dict.fromkeys(one.part for one in wanted))
    included = "" if None in parts else "".join(f" --include '{part}/*'" for part in parts)
    return f"hf download {wanted[0].source}{included}"


def _shipped_names() -> str:
    root = shipped_folder("")
    found = sorted(path.parent.relative_to(root).as_posix() for path in root.rglob("config.json"))
    return ", ".join(f"{SHIPPED}{name}" for name in found) or "none"


@cache
def hub_silent() -> str | None:
    """Explain why the Hugging Face Hub cannot be asked; None if it can. Asked only once, because its own client retries
    for 50 s a file.

    Proxies and HF_ENDPOINT count.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the Hub"
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception as error:  # any error of the HTTP library that it uses
        return f"{constants.ENDPOINT} does not answer ({reason(error)})"
    return None


def reason(error: Exception, most: int = 300) -> str:
    """The text of an error, on one line and not too long."""
    said = " ".join((str(error).strip() or type(error).__name__).split()).rstrip(".")
    return said if len(said) <= most else f"{said[:most].rstrip()} ..."
