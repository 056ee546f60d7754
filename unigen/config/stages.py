"""Sweeps in stages: a line that asks for tuning, or for seeds until its question is answered, is run batch by batch.

    python experiments/run.py +table=realgeneral_masks until=resolved seeds=4..16 tune.optimizer.lr=3e-4,1e-3,3e-3

The sweep's folder holds its plan (plan.json) and the lines of all batches so far (manifest.tsv). Both files are the
same whether this machine runs the lines or SLURM does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unigen.config.files import write_text
from unigen.config.manifest import Sweep, expand
from unigen.config.quoting import as_value
from unigen.config.values import ConfigError, sentence

PLAN, TUNE = "plan.json", "tune"  # the plan's file, and the folder of the runs that tune
TUNE_SEED = 10_000  # of the runs that tune; a sweep may not test with it
STAGED = ("until=", "seeds=", "tune.", "tune=")  # how the words begin that ask for stages
NO_TEST = ("metric=[]", "validation.metrics=null")  # runs that tune do not see the test split
UNTUNABLE = ("seed", *(word.partition("=")[0] for word in NO_TEST))
COMPARED = ("task", "trainer.max_steps")  # arms that differ in these are not compared


class Plan(NamedTuple):
    """A sweep in stages.

    `words` are those of the line without its folder, `looks` the numbers of seeds after which it looks (none for the
    line's own seeds), and `tune` the values of the keys that are tuned. What has happened so far: `tuned` has what was
    chosen for each arm (None before), `seen` the looks (`unigen.evaluation.looks.Decision`), `stop` why it has ended.
    """

    words: list[str]
    config_dir: str | None
    looks: list[int]
    tune: dict[str, str]
    tuned: dict[str, dict[str, Any]] | None = None
    seen: list[dict[str, Any]] = []
    stop: str = ""

    @property
    def tuning(self) -> bool:
        """True if the next batch is that of the runs that tune."""
        return bool(self.tune) and self.tuned is None

    @property
    def seeds(self) -> tuple[int, int]:
        """The number of seeds at the last look, 0 before the first, and that at the next one."""
        done = self.seen[-1]["seeds"] if self.seen else 0
        return done, next((each for each in self.looks if each > done), done)

    def same_line(self, other: Plan) -> bool:
        """True if both come from the same line."""
        return self[:4] == other[:4]


def read_line(words: Sequence[str], config_dir: Path | None = None) -> tuple[Plan | None, Path | None]:
    """Return the plan that a line asks for, None if it is run in one go, and the folder that it names.

    Raises:
        ConfigError: `until`, `seeds` or `tune` is not as it has to be.
    """
    said: dict[str, str] = {}
    tune: dict[str, str] = {}
    rest, folder = [], None
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key in ("until", "seeds"):
            said[key] = value
        elif key in ("tune", "tune."):
            raise ConfigError(f"'{word}' names no key; write tune.KEY=a,b, as in tune.optimizer.lr=1e-3,3e-3")
        elif key.startswith("tune."):
            tune[key.removeprefix("tune.")] = value
        elif key == "hydra.sweep.dir" and "${" not in value:
            folder = Path(value.strip("'\"")).absolute()
        else:
            rest.append(word)
    if not said and not tune:
        return None, None
    looks = _looks(said, rest) if said else []
    _check_tuning(tune, rest)
    return Plan(rest, None if config_dir is None else str(config_dir.resolve()), looks, tune), folder


def _looks(said: dict[str, str], rest: Sequence[str]) -> list[int]:
    """Return the numbers of seeds after which to look: the multiples of the first up to the last, and the last."""
    if said.get("until") != "resolved":
        got = f"until={said['until']}" if "until" in said else f"seeds={said['seeds']} without until"
        raise ConfigError(f"{got} has no meaning; write until=resolved seeds=4..16, or fixed seeds as seed=0,1,2")
    match = re.fullmatch(r"(\d+)\.\.(\d+)", said.get("seeds", ""))
    if match is None or not 2 <= int(match[1]) <= int(match[2]) <= 1000:
        got = f"seeds={said['seeds']}" if "seeds" in said else "until=resolved without seeds"
        raise ConfigError(f"{got} is no range; write the first look and the limit, 2 to 1000, as in seeds=4..16")
    if own := next((word for word in rest if key_of(word) == "seed"), None):
        raise ConfigError(f"'{own}' is said beside seeds={said['seeds']}, which are the seeds 0, 1, ...; leave it out")
    first, last = int(match[1]), int(match[2])
    return [*range(first, last, first), last]


def _check_tuning(tune: dict[str, str], rest: Sequence[str]) -> None:
    for key, values in tune.items():
        grid = _grid(key, values)
        if len(grid) < 2:
            raise ConfigError(f"tune.{key}={values} is no grid; write several values, as in tune.{key}=1e-3,3e-3")
        if any(value in grid[:i] for i, value in enumerate(grid)):
            raise ConfigError(f"tune.{key}={values} has a value twice; write each value of the grid once")
        if key in map(key_of, rest) or key in UNTUNABLE:
            raise ConfigError(f"'{key}' is said beside tune.{key}, or decides what is measured; it cannot be tuned")
        if key in COMPARED:
            raise ConfigError(f"tune.{key}: arms that differ in {key} are not compared, so it cannot be tuned")
    seeds = [word for word in rest if key_of(word) == "seed"]
    if tune and any(re.search(rf"\b{TUNE_SEED}\b", word) for word in seeds):
        raise ConfigError(f"seed {TUNE_SEED} is that of the runs that tune; test with other seeds")


def _grid(key: str, values: str) -> list[tuple[bool, Any]]:
    """Return the values of a grid as Hydra reads them, so that 1e-3 and 0.001 are equal, and 1 and true are not.

    Raises:
        ConfigError: Hydra cannot read them.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        said = OverridesParser.create().parse_override(f"{key}={values}")
        found = list(said.sweep_iterator()) if said.is_sweep_override() else [said.value()]
    except HydraException as error:
        raise ConfigError(f"tune.{key}={values} cannot be read: {sentence(error)}") from error
    return [(isinstance(value, bool), getattr(value, "text", value)) for value in found]


def key_of(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def batch(conf: Path, plan: Plan, folder: Path | None = None) -> Sweep:
    """Return the runs of the stage that a plan is in. Without `folder`, they lie where the configuration says.

    Raises:
        ConfigError: what `expand` refuses; a line that asks for a resolved difference and has one arm.
    """
    found = _stage(conf, plan, folder)
    if plan.looks and len({arm_of(line, plan) for line in found.lines}) < 2:
        raise ConfigError("until=resolved with one arm has nothing to compare; sweep over arms, as in +exp=a,b")
    if plan.tuned is None:
        return found
    chosen = {arm: [f"{k}={v}" for k, v in told["chosen"].items()] for arm, told in plan.tuned.items()}
    return found._replace(lines=[[*line[:-2], *chosen[arm_of(line, plan)], *line[-2:]] for line in found.lines])


def _stage(conf: Path, plan: Plan, folder: Path | None) -> Sweep:
    """Return the runs of a stage without what was chosen for their arms."""
    config_dir = None if plan.config_dir is None else Path(plan.config_dir)
    if plan.tuning:
        words = [word for word in plan.words if key_of(word) not in UNTUNABLE]
        words += [*(f"{key}={values}" for key, values in plan.tune.items()), f"seed={TUNE_SEED}", *NO_TEST]
        found = expand(conf, [*words, *_at(folder)], config_dir)
        return expand(conf, [*words, *_at(found.folder / TUNE)], config_dir)._replace(folder=found.folder)
    done, until = plan.seeds
    seeds = [f"seed={','.join(map(str, range(done, until)))}"] if plan.looks else []
    return expand(conf, [*plan.words, *seeds, *_at(folder)], config_dir)


def _at(folder: Path | None) -> list[str]:
    return [] if folder is None else [f"hydra.sweep.dir={as_value(str(folder))}"]


def arm_of(line: Sequence[str], plan: Plan) -> str:
    """Return the words of a line that name its arm, separated by tabs: all but its seed, its folder, what is tuned, and
    what is measured.
    """
    other = {*UNTUNABLE, *plan.tune, "run_dir", "hydra.mode"}
    return "\t".join(word for word in line if key_of(word) not in other)


def arm_names(arms: Sequence[str]) -> list[str]:
    """Return for each arm the words that not all arms share, or all of its words if there is one arm."""
    words = [arm.split("\t") for arm in arms]
    shared = set.intersection(*map(set, words)) if len(words) > 1 else set()
    return [" ".join(word for word in each if word not in shared) for each in words]


def read_plan(folder: Path) -> Plan | None:
    """Return the plan of a sweep's folder, None if it has none. Raises ConfigError if it cannot be read."""
    path = folder / PLAN
    if not path.is_file():
        return None
    try:
        plan = Plan(**json.loads(path.read_text(encoding="utf-8")))
        _check_types(plan)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged and no plan of a sweep; restore it or use another folder") from error
    return plan


def _check_types(plan: Plan) -> None:
    """Raises TypeError or KeyError if a value of a plan that was read is of another kind."""
    numbers = [*plan.looks, *(look["seeds"] for look in plan.seen)]
    texts = [*plan.words, *plan.tune, *plan.tune.values(), plan.stop, plan.config_dir or ""]
    kinds = isinstance(plan.looks, list) and isinstance(plan.words, list) and isinstance(plan.tuned or {}, dict)
    if not kinds or any(type(x) is not int for x in numbers) or not all(isinstance(x, str) for x in texts):
        raise TypeError


def write_plan(folder: Path, plan: Plan) -> None:
    write_text(folder / PLAN, json.dumps(plan._asdict(), indent=2, ensure_ascii=False) + "\n")
