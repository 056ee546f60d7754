"""Hooks of `make docs`: the reference of configuration groups, and links to files that are not pages.

mkdocs calls the functions that begin with `on_`. Whatever they warn of stops the build, which is strict.
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "experiments" / "conf"
LINK = re.compile(r"\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)]*)?\)")
LOG = logging.getLogger("mkdocs.hooks.unigen")


def on_config(config, **_):
    """Give every group of configurations a page behind the written ones."""
    pages = [{group: f"reference/{group}.md"} for group in groups()]
    config.nav.append({"Every key": [{"The whole": "reference/index.md"}, *pages]})
    return config


def on_files(files: Files, config, **_) -> Files:
    """Make the pages of the reference from the YAML files."""
    for name, text in reference().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Name files of the repository that are not pages by their path. A path that does not exist is a warning."""
    return LINK.sub(lambda found: named(found, Path(page.file.src_uri).parent), markdown)


def named(found: re.Match, folder: Path) -> str:
    """Return the words of a link out of the documentation and the path that it had, from the root of the repository."""
    path = os.path.normpath(Path("docs") / folder / found[2])
    if not (ROOT / path).exists():
        LOG.warning("a page links to %s, which does not exist", path)
    return f"{found[1]} (`{path}`)" if found[1].strip("`") != path else f"`{path}`"


def groups() -> list[str]:
    """Return the configuration groups, which are the folders."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def reference() -> dict[str, str]:
    """Return the Markdown of each page of the reference by its name."""
    pages = {"index": "\n".join(index())}
    for group in groups():
        files = sorted((CONF / group).rglob("*.yaml"))
        parts = [f"# {group}\n", *(part for path in files for part in section(path, CONF / group))]
        pages[group] = "\n".join(parts)
    return pages


def index() -> Iterator[str]:
    """Yield the lines of the first page: what a group is, all groups, and the keys of the root."""
    yield "# Every key\n"
    yield "A choice of a group is a YAML file of `experiments/conf/GROUP`: `mask=fcd_a` takes `mask/fcd_a.yaml`. "
    yield "Each key of a file can be set on the command line: `trainer.max_steps=100`. A misspelt one is refused. "
    yield "These pages are the files themselves, with the comments of each key.\n"
    yield "| group | choices |\n|---|--:|"
    for group in groups():
        yield f"| [{group}]({group}.md) | {len(list((CONF / group).rglob('*.yaml')))} |"
    yield ""
    for root in sorted(CONF.glob("*.yaml")):
        yield from section(root, CONF)


def section(path: Path, folder: Path) -> Iterator[str]:
    """Yield the heading of a YAML file, what its header says, and its body."""
    lines = path.read_text().splitlines()
    length = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    said = [line.lstrip("#").strip() for line in lines[:length] if "@package" not in line]
    yield f"## {path.relative_to(folder).with_suffix('').as_posix()}\n"
    yield from (_sentence(line) for line in said)
    body = "\n".join(lines[length:]).strip()
    yield f"\n```yaml\n{body}\n```\n" if body else "\nThe file has no keys.\n"


def _sentence(line: str) -> str:
    """Return a line of a header: a command as code, anything else as it is, without Markdown's own signs."""
    if line.startswith(("python ", "Then: ", "slurm/")):
        return f"\n`{line}`\n"
    return re.sub(r"([<>*_\[\]])", r"\\\1", line)
