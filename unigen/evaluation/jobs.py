"""Evaluates several finished runs on several benchmarks, one after another, for `experiments/evaluate.py`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from unigen.config.arguments import one_of
from unigen.config.preflight import preflight
from unigen.config.quoting import readable
from unigen.config.values import ConfigError, read_config
from unigen.evaluation.benchmark import NEEDED, measure_run
from unigen.evaluation.evaluations import benches_of
from unigen.evaluation.results import unusable
from unigen.evaluation.runs import find_runs, read_table
from unigen.weights.own_files import unreadable
from unigen.weights.repositories import run_folder

Job = tuple[Path, str]  # a run's folder and a benchmark


def measure_all(given: Mapping[str, str], words: Sequence[str], config_dir: Path) -> list[Job]:
    """Do all jobs of the command line; return those that failed, after printing an error on stderr for each.

    `given` holds run, bench or table, out and metrics_only; `words` are the other words, for every benchmark.
    A word for a metric, such as metric.fid.extractor.weights=<file>, is passed to the benchmarks that have this metric,
    if any has it.
    Raises ValueError or OSError, in one sentence, for an error that concerns all jobs; if there is one job only, its
    error is raised too.
    """
    asked = jobs(given, config_dir)
    if len(asked) == 1:
        [(run, bench)] = asked
        measure_run({**given, "run": str(run), "bench": bench}, words, config_dir)
        return []
    if "out" in given:
        raise ConfigError(
            f"out={given['out']} is for one run and one benchmark, and {len(asked)} evaluations were requested"
        )
    own = own_words(words, list(dict.fromkeys(bench for _, bench in asked)), config_dir)
    for bench, said in own.items():
        preflight(config_dir, [f"+bench={bench}", *readable(said)], "evaluate")  # before hours of sampling
    console, failed = Console(highlight=False), []
    for number, (run, bench) in enumerate(asked, start=1):
        console.print(f"\n{number} of {len(asked)}: {run} on {bench}", soft_wrap=True, markup=False)
        try:
            measure_run({**given, "run": str(run), "bench": bench}, own[bench], config_dir)
        except (ValueError, OSError) as error:
            print(f"error: {run} on {bench}: {error}", file=sys.stderr)
            failed.append((run, bench))
    return failed


def jobs(given: Mapping[str, str], config_dir: Path) -> list[Job]:
    """Return each run with each benchmark of `bench`, or with those that the rows of `table` name.

    With a table, a folder without a configuration is reported on stderr and left out.
    Raises ConfigError if the folder, the run or the table does not exist, and if there is nothing to do.
    """
    runs = run_folders(given["run"])
    if one_of(given, {"bench": (), "table": ()}) == "bench":
        names = [name.strip() for name in given["bench"].split(",") if name.strip()]
        return [(run, bench) for run in runs for bench in names]
    table, found = read_table(config_dir / "table", given["table"]), []
    for run in runs:
        try:
            config = read_config(run)
            if odd := unusable(config, NEEDED):
                raise unreadable(run / "config.yaml", f"it has no usable '{odd}'", "restore it")
        except ConfigError as error:  # for example, the run died before it wrote anything
            print(f"error: {error}", file=sys.stderr)
            continue
        found += [(run, bench) for bench in benches_of(table, config["name"], config["scale"]["name"])]
    if not found:
        raise ConfigError(
            f"table={table.name} asks for no benchmark of any run in {given['run']}; name one with bench="
        )
    return found


def own_words(words: Sequence[str], benches: Sequence[str], config_dir: Path) -> dict[str, list[str]]:
    """Return {benchmark: its words}: all words but those for metrics that only other benchmarks have."""
    taken = {bench: metrics_of(bench, words, config_dir) for bench in benches}
    known = set().union(*taken.values())

    def concerns(word: str, bench: str) -> bool:
        group, _, rest = word.lstrip("+").partition("=")[0].partition(".")
        metric = rest.partition(".")[0]
        return group != "metric" or metric not in known or metric in taken[bench]

    return {bench: [word for word in words if concerns(word, bench)] for bench in benches}


def metrics_of(bench: str, words: Sequence[str], config_dir: Path) -> set[str]:
    """Return the metrics of a benchmark, by its file or by a word metric=[...]. Raises ConfigError for unknown ones."""
    from hydra import compose, initialize_config_dir

    chosen = [f"+bench={bench}", *readable([word for word in words if word.startswith("metric=")])]
    preflight(config_dir, chosen, "evaluate")
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir.resolve())):
        return set(compose("evaluate", overrides=chosen).metric)


def run_folders(text: str) -> list[Path]:
    """Return the run folder `text`, or all run folders in it or in the comma-separated list, at any depth.

    Raises ValueError if there is none.
    """
    folder = run_folder(text)
    if (folder / "config.yaml").is_file():
        return [folder]
    if not folder.is_dir() and "," not in text:
        raise ConfigError(f"run={folder} is no folder; give a finished run folder, or one with runs in it")
    return find_runs(text, "run")
