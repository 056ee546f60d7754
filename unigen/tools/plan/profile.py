"""The profile of a device for a resource estimate: its memory, its speeds, and the share of them that is reached."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from unigen.config.values import ConfigError, sentence


class Profile(NamedTuple):
    """A device as its file in conf/profile describes it, in GiB, FLOP/s and bytes/s; `efficiency` is an assumption.

    `device` is the name that torch.cuda.get_device_name returns.
    """

    name: str
    device: str
    memory_gib: float
    reserve_gib: float
    flops: Mapping[str, float]
    bandwidth: float
    link: float
    network: float
    efficiency: float


def read_profile(folder: Path, word: str) -> Profile:
    """Read the profile `word` of `folder`, or a .yaml file. Raises ConfigError if it is absent or has other keys."""
    from omegaconf import OmegaConf

    path = Path(word) if word.endswith(".yaml") else folder / f"{word}.yaml"
    if not path.is_file():
        legal = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(f"profile={word} is unknown; legal are {legal}, or the path of a .yaml file like theirs")
    try:
        said = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # PyYAML and OmegaConf raise a dozen unrelated types for damaged YAML
        raise ConfigError(f"cannot read {path} ({sentence(error)}); write it like those of {folder}") from error
    wanted = set(Profile._fields) - {"name"}
    if not isinstance(said, dict) or set(said) != wanted:
        raise ConfigError(f"{path} must have exactly the keys {', '.join(sorted(wanted))}")
    rates = said["flops"] if isinstance(said["flops"], dict) else {"": None}
    numbers = {f"flops.{key}": value for key, value in rates.items()}
    numbers |= {key: value for key, value in said.items() if key not in ("flops", "device")}
    for key, value in numbers.items():
        if type(value) not in (int, float) or not 0 <= value < 1e300 or (value == 0 and key != "reserve_gib"):
            raise ConfigError(f"{path}: {key.rstrip('.')} is {value!r}; it must be a number above 0")
    return Profile(name=path.stem, **{**said, "device": str(said["device"])})
