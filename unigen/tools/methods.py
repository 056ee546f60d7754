"""Writes the table of docs/methods.md: what each file of exp/methods says, and what its header leaves out."""

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from unigen.config.files import write_text
from unigen.config.values import ConfigError
from unigen.core.layout import Geometry, Layout, Segment
from unigen.core.masks import static_segments
from unigen.core.types import CONDITION, TARGET, TEXT, ImageSlot, Signature
from unigen.pipeline.build import build
from unigen.pipeline.guidance import Guidance
from unigen.pipeline.hiding import WORDS, share_of, way_of

START, END = "<!-- written by experiments/methods.py -->", "<!-- up to here -->"
SIDE = 512  # pixels of the images whose positions the table shows
FLUX = Geometry(8, (1, 2, 2), ("t", "h", "w"), (16, 256, 512))  # 16 pixels a token
AXES = ("t", "h", "w")
OUT_CHANNELS = 64  # of Flux: what it reads beyond them are the channels of a Fill model
COLUMNS = (
    *("method", "task", f"condition's tokens at {SIDE} px", "condition is", "it sees", "its time", "LoRA on"),
    *("modulation", "slot vectors", "training times", "training hides", "guidance hides", "computed once"),
)
PARTS = ("Stated", "Inferred", "Left out")


def files(conf: Path) -> list[Path]:
    """Return the methods' files. Raises ConfigError if there are none."""
    found = sorted((conf / "exp" / "methods").glob("*.yaml"))
    if not found:
        raise ConfigError(f"{conf / 'exp' / 'methods'} has no method; legal is the config folder of the repository")
    return found


def write_page(path: Path, conf: Path) -> str:
    """Replace what lies between the two marks of a page; return a sentence. Raises ConfigError for a page without."""
    if not path.is_file():
        raise ConfigError(f"page={path} is no file; give one with the lines '{START}' and '{END}'")
    text = path.read_text(encoding="utf-8")
    write_text(path, with_table(text, written(conf), path))
    return f"wrote {len(files(conf))} methods to {path}"


def with_table(text: str, block: str, path: Path) -> str:
    """Return the page with another block between its marks."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ConfigError(f"{path} lacks the lines '{START}' and '{END}', between which the table is written")
    return f"{before}{START}\n\n{block}\n\n{END}{after}"


def written(conf: Path) -> str:
    """Return the table and the paragraphs of all methods."""
    lines = [row(COLUMNS), row(["---"] * len(COLUMNS))]
    lines += [row(cells(path.stem, composed(conf, path.stem))) for path in files(conf)]
    return "\n\n".join(["\n".join(lines), *(paragraph(path) for path in files(conf))])


def row(values: Any) -> str:
    return f"| {' | '.join(values)} |"


def composed(conf: Path, name: str) -> dict[str, Any]:
    """Return a method's configuration at mini scale, as plain data."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf.resolve())):
        return OmegaConf.to_container(compose("config", [f"+exp=methods/{name}", "run_dir=run"]), resolve=True)


def cells(name: str, config: Mapping[str, Any]) -> list[str]:
    """Return a row of the table, which says the treatments in the words of the configuration."""
    layout, modulation = layout_of(config), config["conditioning"]["modulation"]
    once = static_segments(layout, build(config["mask"]), modulation["timing"])
    branches = modulation["branches"]
    return [
        f"[`{name}`](#{name})",
        config["task"]["name"],
        places(layout[CONDITION]),
        content(layout[CONDITION], config["backbone"]["config"]),
        sees(config["mask"]["rows"][CONDITION]),
        modulation["timing"][CONDITION],
        adapted(config["conditioning"]["adapter"]),
        "shared" if branches[CONDITION] == branches[TARGET] else "own branch",
        slot_vectors(config["conditioning"]["slots"]),
        times(config["process"]),
        hides(config),
        guides(config),
        "yes" if CONDITION in once else "no",
    ]


def layout_of(config: Mapping[str, Any]) -> Layout:
    """Return the layout of one condition and one target of `SIDE` pixels, on Flux."""
    slots = tuple(ImageSlot(role, role, SIDE, SIDE, 1, 0) for role in (CONDITION, TARGET))
    return build(config["formatter"])(Signature(slots, 1), FLUX).layout


def places(segment: Segment) -> str:
    """Say the first and the last position on each axis, and the step where it is not 1."""
    said = []
    for axis, first, step, count in zip(AXES, segment.origin, segment.step, segment.grid, strict=True):
        last = first + step * (count - 1)
        ends = number(first) if count == 1 else f"{number(first)} to {number(last)}"
        said.append(f"{axis} {ends}" + (f" by {number(step)}" if step != 1 and count > 1 else ""))
    return ", ".join(said)


def content(segment: Segment, backbone: Mapping[str, Any]) -> str:
    """Say whether a condition's tokens are clean, and if not whether its clean latents come on channels."""
    if segment.cap == 0:
        return "clean"
    return "noised, clean on channels" if backbone["in_channels"] > OUT_CHANNELS else "noised, generated too"


def number(value: int | Fraction) -> str:
    return f"{float(value):g}".replace("-", "−")


def sees(words: Mapping[str, str]) -> str:
    """Say what a condition attends to; "past" is its own turn and those before it."""
    itself = {"all": "all conditions", "same": "itself", "earlier": "past conditions", "none": ""}[words[CONDITION]]
    others = ["past " * (words[role] == "earlier") + role for role in (TEXT, TARGET) if words[role] != "none"]
    return ", ".join(filter(None, [itself, *others])) or "nothing"


def adapted(adapter: Mapping[str, Any]) -> str:
    """Say which tokens carry the LoRA, and in which parts of the blocks."""
    table = adapter["adapters"]
    roles = [role for role, name in (table or {}).items() if name is not None and role in (TEXT, CONDITION, TARGET)]
    return f"{' and '.join(roles) or 'all'}: {', '.join(adapter['parts'])}"


def slot_vectors(slots: Mapping[str, Any]) -> str:
    """Say which roles have a learned vector, and for how many numbers and turns."""
    if "roles" not in slots:
        return "none"
    roles = [role for role in (CONDITION, TARGET) if slots["roles"][role] is not None]
    numbers = [f"{role} 1 to {count}" for role, count in slots["numbers"].items()]
    turns = [f"{role} of turns 1 to {count}" for role, count in slots["turns"].items()]
    return ", ".join([*roles, *numbers, *turns])


def times(process: Mapping[str, Any]) -> str:
    """Say the density of the training times and their shift."""
    density = {"Uniform": "uniform", "LogitNormal": "logit-normal"}[process["density"]["_target_"].rpartition(".")[2]]
    shift = process["shift"]
    if shift is None:
        return f"{density}, no shift"
    by = f"by {shift['factor']:g}" if "factor" in shift else f"by the tokens of {shift['count']}"
    return f"{density}, shifted {by}"


def hides(config: Mapping[str, Any]) -> str:
    """Say which roles training hides, how often, and what stands for them."""
    shares = {role: share_of(role, config["dropout"]) for role in (TEXT, CONDITION)}
    ways = {role: WORDS[way_of(role, config["guidance"]["hide"])] for role in shares}
    return "; ".join(f"{role} {share:.0%}: {ways[role]}" for role, share in shares.items() if share) or "nothing"


def guides(config: Mapping[str, Any]) -> str:
    """Say what the passes of guidance hide, the one that hides most first."""
    guidance = Guidance(**config["guidance"])
    said = "; ".join(" and ".join(each.drop) for each in guidance.passes_of(""))
    return said + (", rescaled" if guidance.rescale else "")


def paragraph(path: Path) -> str:
    """Return the header of a method's file as prose: what it is, and what is stated, inferred and left out.

    Raises ConfigError for a header that lacks one of these.
    """
    said = header(path)
    if missing := [part for part in PARTS if part not in said]:
        raise ConfigError(f"the header of {path} lacks '# {missing[0]}:'; legal are {', '.join(PARTS)}")
    lines = [f"### {path.stem}", "", said[""], "", *(f"- **{part}:** {said[part]}" for part in PARTS)]
    return "\n".join(lines)


def header(path: Path) -> dict[str, str]:
    """Return the texts of a header: "" for its beginning, then by the words before the colon; commands are left out."""
    found: dict[str, list[str]] = {"": []}
    part = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("# python"):
            break
        text = line.removeprefix("#").strip()
        if opened := re.match(rf"({'|'.join(PARTS)}): (.*)", text):
            part, text = opened[1], opened[2]
        if not text.startswith("@package"):
            found.setdefault(part, []).append(text)
    return {name: " ".join(lines) for name, lines in found.items()}
