"""Evaluates a finished run on a benchmark: draws the images that are missing, then computes the metrics over all."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unigen.config.files import write_text
from unigen.config.preflight import preflight
from unigen.config.quoting import readable
from unigen.config.values import ConfigError, plain, read_config
from unigen.core.protocol_card import common, digest, hashed
from unigen.core.types import CONDITION, TARGET, Batch, rows_of
from unigen.evaluation.contact_sheet import write_sheet
from unigen.evaluation.gallery import CEILING, OUTPUT, OWN, TRUTH, Gallery, leaves, names_of
from unigen.evaluation.latency import Draw, sampling, timed_sample
from unigen.evaluation.results import print_metrics, unusable
from unigen.evaluation.scores import add_targets
from unigen.evaluation.scoring import BOUNDS, all_targets, bounded, metric_cards, protocol, references_of, through_codec
from unigen.evaluation.spread import print_spreads, spreads
from unigen.inference.sampling import number
from unigen.launch.claims import claimed
from unigen.pipeline import export
from unigen.pipeline.build import build
from unigen.pipeline.pipeline import Pipeline
from unigen.weights.loading import weights_hash
from unigen.weights.own_files import blamed, unreadable
from unigen.weights.repositories import beside_run

# Keys that may differ between two requests for the same images: where the data are, and how they are read.
PLACES = ("root", "cache", "report", "num_workers", "batch_size", "seed", "val_items", "window", "bad_share")

# Values of keys that older galleries do not have.
UNSAID = {"examples": 1, "test_example_seed": 0, "test_examples": "random"}

# The keys that a run's configuration must have, with their types.
NEEDED = {"data": dict, "name": str, "seed": int, "scale": {"name": (str, type(None))}, "paper": (str, type(None))}


def measure_run(given: Mapping[str, str], words: Sequence[str], config_dir: Path) -> dict[str, Any]:
    """Draw missing images, compute metrics, write evaluation.json and scores.jsonl, print the table; return the former.

    `given` holds run, bench, out and metrics_only of the command line; `words` are its other words, for the benchmark.
    Raises ValueError or OSError, in one sentence, for an unknown benchmark, an unfinished run, missing data, and a
    folder that holds other images.
    """
    run_dir, only = Path(given["run"]), given.get("metrics_only", "false")
    if only not in ("true", "false"):
        raise ConfigError(f"metrics_only={only} is neither true nor false")
    out = Path(given.get("out", beside_run(run_dir) / "evaluation" / given["bench"]))
    run_config = read_config(run_dir)
    if odd := unusable(run_config, NEEDED):
        raise unreadable(run_dir / "config.yaml", f"it has no usable '{odd}'", "restore it or use another run")
    config = bench_config(config_dir, given["bench"], words, out, run_config["data"].get("size"))
    data = config["data"]
    if "instruction" in data and data["instruction"] is None:  # the model gets instructions as in its training
        data["instruction"] = run_config["data"].get("instruction")
    if only == "false" and not (run_dir / "summary.json").is_file():
        raise ConfigError(
            f"{run_dir} is not finished: it has no summary.json; continue it with run_dir={run_dir} of run.py"
        )
    with claimed(out, "use out=<another folder>"):  # two commands would write every line twice
        return _measure(out, config, run_dir / "export", run_config, only == "true")


def _measure(
    out: Path, config: Mapping[str, Any], export_dir: Path, run_config: Mapping[str, Any], only: bool
) -> dict[str, Any]:
    """Do the work of `measure_run` with everything resolved; with `only` no image is drawn."""
    gallery, metrics = Gallery(out), {name: build(node) for name, node in config["metric"].items()}
    request = {"asked": asked(config), "weights": weights_hash(export_dir) if export_dir.is_dir() else None}
    if gallery.damaged:
        fate = "left out" if only else "drawn anew"
        print(f"{gallery.damaged} lines of {gallery.manifest} are damaged: their images are {fate}", file=sys.stderr)
    gallery.check(request)
    said = None
    if not only and not gallery.complete:
        said = draw(export_dir, config, gallery, request)
    if not gallery.records:
        raise ConfigError(f"{out} holds no images to measure; leave metrics_only out")
    result = results(gallery, metrics, run_config, config) | ({"data_report": said} if said else {})
    write_sheet(gallery)
    write_text(out / "evaluation.json", json.dumps(result, indent=1))
    show(result, out)
    return result


def bench_config(config_dir: Path, name: str, words: Sequence[str], out: Path, size: int | None) -> dict[str, Any]:
    """Compose the benchmark `name` with the overrides `words`; images have the run's `size` unless a word sets it.

    Raises ConfigError for an unknown benchmark or key, and for a folder that the user has to give.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    sized = any(word.partition("=")[0].lstrip("+") == "data.size" for word in words)
    line = [f"+bench={name}", *readable(words), *([] if sized or size is None else [f"data.size={size}"])]
    preflight(config_dir, line, "evaluate")
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir.resolve())):
        config = compose("evaluate", overrides=line)
    config.run_dir = str(out)
    for key, value in leaves(OmegaConf.to_container(config, resolve=False)).items():
        if value == "???":  # raise here, before an interpolation that refers to it fails
            raise ConfigError(f"'{key}' has no value; give it on the command line: {key}=<folder>")
    return plain(config)


def asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a benchmark's configuration on which its images depend, without the places of the data."""

    def clean(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {key: clean(value) for key, value in node.items() if key not in PLACES and UNSAID.get(key) != value}

    evaluation = {key: value for key, value in config["evaluation"].items() if UNSAID.get(key) != value}
    return {"data": clean(config["data"]), "evaluation": evaluation, "solver": dict(config["solver"])}


def draw(export_dir: Path, config: Mapping[str, Any], gallery: Gallery, request: Mapping[str, Any]) -> str | None:
    """Draw all images that the gallery lacks; return the report of the data, if they have one."""
    pipeline, run_config = export.load(export_dir)
    pipeline.to_gpu()
    chosen = {key: str(value) for key, value in config["solver"].items() if value is not None}
    pipeline.solver.steps = number(chosen, "steps", pipeline.solver.steps, lowest=1)
    if "guidance" in chosen:
        pipeline.guidance = pipeline.guidance.at(number(chosen, "guidance", 1.0, lowest=0.0))
    images, examples = config["evaluation"]["images"], config["evaluation"]["examples"]
    if images < 1:
        raise ConfigError(f"evaluation.images={images} must be at least 1")
    draws = [build(node) for node in by_examples(config["data"], examples)]
    data = draws[0]
    data.prepare_data()
    loaders = [drawn.test_dataloader() for drawn in draws]
    items = sum(len(batch) for batch in loaders[0].batch_sampler)
    with blamed(export_dir / export.CONFIG_FILE, export.AGAIN):
        said = common(protocol(pipeline, {}, {**run_config, **{key: config[key] for key in ("data", "evaluation")}}))
    said |= {"items": items} | {k: n for k, n in (("images", images), ("examples", examples)) if n > 1}
    gallery.begin({**request, "protocol": said, "protocol_hash": digest(said), "images": items * images * examples})
    fill(gallery, pipeline, loaders, items, config["evaluation"])
    return data.report() if hasattr(data, "report") else None


def by_examples(data: Mapping[str, Any], draws: int) -> list[dict[str, Any]]:
    """Return the configuration of the data for each draw of the examples; the first is the given one.

    Raises ConfigError for fewer than one draw, and for several if the test shows no examples.
    """
    if draws < 1:
        raise ConfigError(f"evaluation.examples={draws} must be at least 1")
    if draws == 1:
        return [dict(data)]
    rows = data.get("test_rows") or data.get("rows")
    if "test_example_seed" not in data or not max(rows):
        raise ConfigError(
            f"evaluation.examples={draws} draws other examples for the same items, and this benchmark shows none "
            f"(data.test_rows={rows}); legal is 1, or data.test_rows=[2,2]"
        )
    return [{**data, "test_example_seed": data["test_example_seed"] + draw} for draw in range(draws)]


def fill(
    gallery: Gallery,
    pipeline: Pipeline,
    loaders: Sequence[Iterable[Batch]],
    items: int,
    evaluation: Mapping[str, int],
) -> None:
    """Draw the images that are missing, with a progress bar.

    `loaders` has a loader of the same items for each draw of their examples. Image i of draw d is the record
    (item, d * images + i); its noise is the same in all draws d.
    """
    images = evaluation["images"]
    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=items * images * len(loaders), completed=len(gallery.records))
        for draw, batches in enumerate(loaders):
            first, said = 0, {"examples": draw} if len(loaders) > 1 else {}
            for batch in batches:
                for image in range(images):
                    place, seed = draw * images + image, evaluation["seed"] + image
                    missing = [i for i in range(len(batch)) if (first + i, place) not in gallery.records]
                    if missing:
                        _draw_some(gallery, pipeline, batch, missing, first, place, {"seed": seed, **said})
                        bar.update(task, advance=len(missing))
                first += len(batch)


def _draw_some(
    gallery: Gallery,
    pipeline: Pipeline,
    batch: Batch,
    rows: list[int],
    first: int,
    image: int,
    drawn_by: Mapping[str, int],
) -> None:
    """Draw some samples of a batch and add them to the gallery; noise is keyed by sample, so the others may be absent.

    `drawn_by` holds the seed of the noise, and the number of the draw of examples if there are several.
    Raises ConfigError for clips, and if a draw of the examples has another query than the first draw.
    """
    part = rows_of(batch, rows)
    targets = [slot.name for slot in part.slots if slot.role == TARGET]
    for name in targets:
        if part.images[name].shape[1] != 1:
            raise ConfigError(f"benchmarks take stills, and '{name}' of the data is a clip")
    for row in rows:
        known = gallery.records.get((first + row, 0))
        if known and known.get("key") not in (None, batch.keys[row]):
            raise ConfigError(
                f"item {first + row} is {known['key']} with the first examples and {batch.keys[row]} with others, "
                "because a record that is an example of it cannot be read; remove that record from the data"
            )
    drawn, took = timed_sample(pipeline, part, drawn_by["seed"])
    several, shown = {"targets": targets} if len(targets) > 1 else {}, {}
    for k, name in enumerate(targets):
        output, truth, ceiling = (names_of(several, own)[k] for own in OWN)
        shown |= {output: drawn[name][:, 0], truth: part.images[name][:, 0]}
        shown |= {ceiling: through_codec(pipeline.codec, shown[truth], pipeline.device)}
    shown |= {slot.name: part.images[slot.name][:, -1] for slot in part.slots if slot.role == CONDITION}
    for i, row in enumerate(rows):
        said = {"key": part.keys[i], "task": part.tasks[i], "prompt": part.prompts[i], "subjects": part.subjects[i]}
        said |= {"caption": part.captions[i]} if part.captions else {}  # if the prompt is an instruction
        said |= {"clusters": part.clusters[i]} if part.clusters else {}
        said |= {"facts": part.facts[i]} if part.facts and part.facts[i] else {}
        said |= {"draw": took._asdict(), **several}
        gallery.add({"item": first + row, "image": image, **drawn_by, **said}, {n: x[i] for n, x in shown.items()})


@torch.no_grad()
def results(
    gallery: Gallery, metrics: Mapping[str, Any], run_config: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Compute the metrics of a gallery; return them with their protocol and its hashes, and write scores.jsonl."""
    gallery.check_whole()
    records = gallery.ordered()
    places = gallery.places()
    prompts = [records[place.line].get("caption", records[place.line]["prompt"]) for place in places]
    subjects = [records[place.line]["subjects"] for place in places]
    shown = {name: gallery.images(name) for name in gallery.conditions}
    known = [records[place.line].get("facts", "") for place in places]
    references = references_of(gallery.images(TRUTH), prompts, subjects, shown, known)
    output, ceiling = gallery.images(OUTPUT), gallery.images(CEILING)
    found = bounded(metrics, output, ceiling, references, places)
    each = {name: score.pop("each") for name, score in found.items()}
    for name, score in found.items():
        score.update(spreads(records, each[name], score["better"]))
    facts = ("item", "image", "key", "seed", "clusters")
    lines = [{key: record[key] for key in facts if key in record} for record in records]
    for name, scores in each.items():
        for line, score in zip(lines, scores or (), strict=bool(scores)):
            line[name] = score if math.isfinite(score) else None
    for name, score in found.items():
        if "targets" in score:
            score["targets"] = add_targets(lines, name, score["targets"])
    write_text(gallery.folder / "scores.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    said = {**gallery.state["protocol"], "items": len({record["item"] for record in records}), **metric_cards(metrics)}
    said |= all_targets(place.target for place in places)
    return {
        "bench": config["bench"],
        **{key: run_config[key] for key in ("name", "seed", "paper")},
        "scale": run_config["scale"]["name"],
        "weights": gallery.state["weights"],
        "images": len(places),
        "sampling": sampling(
            [Draw(*(record["draw"][key] for key in Draw._fields)) for record in records if "draw" in record]
        ),
        **hashed({"metrics": found, "bounds": BOUNDS, "protocol": said}),
    }


def show(result: Mapping[str, Any], out: Path) -> None:
    """Print the table, and the paths of the files that were written."""
    console, said = Console(highlight=False), result["protocol"]
    drawn = f"{result['images']} images of {said['items']} held-out samples"
    console.print(
        f"{result['bench']['name']}: {drawn}, {said['steps']} steps, guidance {said['guidance']:g}", soft_wrap=True
    )
    print_metrics(console, result)
    print_spreads(console, result["metrics"])
    if "data_report" in result:
        console.print(f"data: {result['data_report']}", soft_wrap=True, markup=False)
    for what in ("images", "manifest.jsonl", "scores.jsonl", "samples.png", "evaluation.json"):
        console.print(f"{what + ':':<17}{out / what}", soft_wrap=True)
