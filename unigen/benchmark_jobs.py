"""Several finished runs on several benchmarks, one after another: what `experiments/evaluate.py` is asked to do."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from unigen.arguments import one_of
from unigen.benchmark import NEEDED, measure_run
from unigen.config import ConfigError, read_config
from unigen.own_files import unreadable
from unigen.preflight import preflight
from unigen.quoting import readable
from unigen.report_evaluations import benches_of
from unigen.report_runs import find_runs, read_table
from unigen.results import unusable

Job = tuple[Path, str]  # a run's folder and a benchmark


def measure_all(given: Mapping[str, str], words: Sequence[str], config_dir: Path) -> list[Job]:
    """Do every job of the command line; returns those that failed, each of which was said on stderr.

    `given`: run, bench or table, out and metrics_only; `words` are the other words, for every benchmark.
    A word for a metric, such as metric.fid.extractor.weights=<file>, is for those benchmarks that take it, if any does.
    Raises ValueError or OSError, one sentence each, for what concerns all jobs, and for the failure of a single one.
    """
    asked = jobs(given, config_dir)
    if len(asked) == 1:
        [(run, bench)] = asked
        measure_run({**given, "run": str(run), "bench": bench}, words, config_dir)
        return []
    if "out" in given:
        raise ConfigError(f"out={given['out']} is for one run and one benchmark, and these are {len(asked)}")
    own = own_words(words, list(dict.fromkeys(bench for _, bench in asked)), config_dir)
    for bench, said in own.items():
        preflight(config_dir, [f"+bench={bench}", *readable(said)], "evaluate")  # before hours of drawing
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
    """Every run on every benchmark of `bench`, or on those that the rows of `table` ask for.

    Under a table a folder without a configuration is said and left out.
    Raises ConfigError if there is no such folder, run or table, or nothing to do.
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
        except ConfigError as error:  # of a run that died before it wrote anything
            print(f"error: {error}", file=sys.stderr)
            continue
        found += [(run, bench) for bench in benches_of(table, config["name"], config["scale"]["name"])]
    if not found:
        raise ConfigError(
            f"table={table.name} asks for no benchmark of any run in {given['run']}; name one with bench="
        )
    return found


def own_words(words: Sequence[str], benches: Sequence[str], config_dir: Path) -> dict[str, list[str]]:
    """{benchmark: the words that are for it}: all but those for a metric that others of the benchmarks take alone."""
    taken = {bench: metrics_of(bench, words, config_dir) for bench in benches}
    known = set().union(*taken.values())

    def concerns(word: str, bench: str) -> bool:
        group, _, rest = word.lstrip("+").partition("=")[0].partition(".")
        metric = rest.partition(".")[0]
        return group != "metric" or metric not in known or metric in taken[bench]

    return {bench: [word for word in words if concerns(word, bench)] for bench in benches}


def metrics_of(bench: str, words: Sequence[str], config_dir: Path) -> set[str]:
    """What a benchmark measures, by its file or by a word metric=[...]. Raises ConfigError for an unknown one."""
    from hydra import compose, initialize_config_dir

    chosen = [f"+bench={bench}", *readable([word for word in words if word.startswith("metric=")])]
    preflight(config_dir, chosen, "evaluate")
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir.resolve())):
        return set(compose("evaluate", overrides=chosen).metric)


def run_folders(text: str) -> list[Path]:
    """A run folder, or all runs in a folder or in a comma-separated list, at any depth.

    Raises ValueError if there is none.
    """
    folder = Path(text)
    if (folder / "config.yaml").is_file():
        return [folder]
    if not folder.is_dir() and "," not in text:
        raise ConfigError(f"run={folder} is no folder; give a finished run folder, or one with runs in it")
    return find_runs(text, "run")
