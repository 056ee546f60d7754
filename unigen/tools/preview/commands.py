"""The commands of `experiments/preview.py`: they write the page of an experiment, or of an annotation graph alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from unigen.config.files import write_text
from unigen.pipeline.build import build
from unigen.pipeline.header import cacheable, influence, mask_table, session, sizes
from unigen.tools.forms.tables import Table
from unigen.tools.forms.text import print_tables
from unigen.tools.preview.gathering import DRAWS, Preview, preview, signature
from unigen.tools.preview.graph import choices_table, graph_tables
from unigen.tools.preview.html import graph_page, page
from unigen.tools.preview.tables import buckets_table, tasks_table
from unigen.training.experiment import quiet


def preview_experiment(config: Mapping[str, Any], options: Mapping[str, str]) -> None:
    """Print the main tables and write the page. The page is written even if the model's parts do not fit together."""
    quiet()
    made = preview(config, int(options.get("samples", 4)))
    path = write(page(made), config["name"], options)
    where = f" ({config['paper']})" if config["paper"] else ""
    console = Console(highlight=False)
    console.print(f"{config['name']}{where}: what the model will see", markup=False)
    if made.said:
        console.print(f"data: {made.said}", soft_wrap=True, markup=False)
    if made.subjects:
        console.print(made.subjects, soft_wrap=True, markup=False)
    print_model(made, console)
    show([buckets_table(made), tasks_table(made)])
    if made.graph is not None:
        drawn = {name: made.tasks[name] for name in made.expected}
        show(graph_tables(made.graph, drawn, made.expected)[:-1])
    print(f"preview: {path}", flush=True)


def print_model(made: Preview, console: Console) -> None:
    """Print the refusals; then the mask and the cost of a sample, for the most frequent signature with a layout."""
    for refusal in made.refusals:
        console.print(refusal, soft_wrap=True, markup=False)
    bucket = next((bucket for bucket in made.buckets if bucket.plan), None)
    if bucket is None:
        return
    if len(made.buckets) > 1:
        console.print(f"for {signature(bucket.slots)}:", markup=False)
    layout, mask = bucket.plan.layout, made.pipeline.effective_mask
    console.print(mask_table(layout, mask))
    facts = [*influence(layout, mask), *session(made.pipeline, bucket.plan), cacheable(made.pipeline, layout)]
    for line in [*facts, *sizes(made.pipeline, layout)[:-1]]:
        console.print(line, soft_wrap=True, markup=False)


def preview_graph(config: Mapping[str, Any], options: Mapping[str, str]) -> None:
    """Print a graph's tables and a comparison with all other graphs, and write the page."""
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    hydra = HydraConfig.get()
    name, graph = hydra.runtime.choices["graph"], build(config["graph"])
    tables = graph_tables(graph, graph.training.histogram(DRAWS, config["seed"]), graph.training.probabilities())
    folders = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
    others = sorted({path.stem for folder in folders for path in (folder / "graph").glob("*.yaml")})
    graphs = {other: build(OmegaConf.to_container(compose("graph_only", [f"graph={other}"]).graph)) for other in others}
    tables.append(choices_table(graphs))
    path = write(graph_page(name, tables), name, options)
    show(tables)
    print(f"preview: {path}", flush=True)


def show(tables: list[Table]) -> None:
    """Print the tables that are meant for the terminal."""
    print_tables(tables)


def write(html: str, name: str, options: Mapping[str, str]) -> Path:
    """Write the page; return its path."""
    out = Path(options.get("out", f"runs/preview_{name}.html"))
    path = out if out.suffix == ".html" else out / "preview.html"
    write_text(path, html)
    return path
