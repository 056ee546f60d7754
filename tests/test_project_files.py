"""Licences, citation, changelog, contributing and containers: what they name exists, and says the same everywhere."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from tiny import ROOT

import unigen

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTAINER = ROOT / "slurm" / "container"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/install.md", "docs/notebook.md")
INSTRUCTIONS = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "ENTRYPOINT", "CMD", "ARG", "LABEL", "USER"}
SECTIONS = {"files", "post", "environment", "runscript", "test", "labels", "help"}


def missing(page: str, text: str) -> list[str]:
    """The links and the paths in backticks of a page that lead nowhere; names in capitals stand for others."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    paths = [path for path in re.findall(r"`([\w./-]+/[\w./-]*)`", text) if not re.search(r"\b[A-Z]{4,}\b", path)]
    wrong = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    return wrong + [path for path in paths if page == "CONTRIBUTING.md" and not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
    assert missing(page, (ROOT / page).read_text()) == []


def test_a_path_that_leads_nowhere_is_found():
    """Negative control."""
    text = "[a](docs/nothing.md) `unigen/nothing.py` `unigen/backbones/NAME.py` [b](https://x.org/y)"
    assert missing("CONTRIBUTING.md", text) == ["docs/nothing.md", "unigen/nothing.py"]


def test_every_group_of_parts_has_its_section():
    """Each plug-in folder of the package and of the data is in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    folders = ["formatters", "backbones", "encoders", "processes", "losses", "solvers", "metrics", "learners"]
    named = [f"unigen/{name}" for name in folders] + ["datamodules/sets", "datamodules/degradations"]
    assert [name for name in named if f"`{name}/" not in text] == []


def test_the_licences_are_whole_and_stated():
    code, weights = (ROOT / "LICENSE").read_text(), (ROOT / "unigen" / "shipped" / "LICENSE").read_text()
    assert "Apache License" in code and "END OF TERMS AND CONDITIONS" in code and len(code) > 11_000
    assert "OpenMoji" in weights and "Section 8 -- Interpretation." in weights
    assert PROJECT["license"] == "Apache-2.0 AND CC-BY-SA-4.0"
    assert all((ROOT / path).is_file() for path in PROJECT["license-files"])
    weighed = {
        path.relative_to(ROOT / "unigen" / "shipped").parts[0] for path in ROOT.glob("unigen/shipped/**/*.safetensors")
    }
    cards = [ROOT / "unigen" / "shipped" / name / "README.md" for name in weighed]
    assert cards and all("license: cc-by-sa-4.0" in card.read_text() for card in cards)
    readme = (ROOT / "README.md").read_text()
    assert "[CC BY-SA 4.0](unigen/shipped/LICENSE)" in readme and "[Apache License 2.0](LICENSE)" in readme


def test_citation_and_changelog_are_of_this_version():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(said), "what the format requires"
    assert said["version"] == unigen.__version__
    assert said["license"] == PROJECT["license"].split(" AND ")
    assert f"## {unigen.__version__}" in (ROOT / "CHANGELOG.md").read_text()


# --- containers ------------------------------------------------------------------------------------------------


def copied(dockerfile: str) -> list[str]:
    """The sources of every COPY; raises ValueError for a line that is no instruction of a Dockerfile."""
    sources = []
    for line in re.sub(r"\\\n", " ", dockerfile).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word not in INSTRUCTIONS:
            raise ValueError(f"no instruction: {line}")
        if word == "COPY":
            sources += rest.split()[:-1]
        if word == "RUN":
            checked(rest)
    return sources


def sections(definition: str) -> dict[str, list[str]]:
    """The lines of each section of an Apptainer definition; "" is its head. Raises ValueError for an unknown one."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in definition.splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            if name not in SECTIONS:
                raise ValueError(f"no section: {line}")
            found[name] = []
        elif line.strip() and not line.startswith("#"):
            found[name].append(line.strip())
    return found


def checked(script: str) -> None:
    """Raise ValueError if a shell cannot parse a script."""
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr)


def installed(text: str) -> Requirement:
    """What a recipe installs of ours, with its extras."""
    (found,) = re.findall(r'pip install \S+ "/opt/(unigen\[[\w,]+\])"', text)
    return Requirement(found)


def needed() -> set[str]:
    """What the wheel is made of: the folders of its packages, and the files that pyproject.toml names."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    return {name.rstrip("*") for name in packages} | {"pyproject.toml", PROJECT["readme"], "LICENSE"}


def test_the_dockerfile_copies_what_the_wheel_is_made_of():
    text = (CONTAINER / "Dockerfile").read_text()
    assert set(copied(text)) == needed() and all((ROOT / name).exists() for name in needed())
    assert installed(text).extras <= set(PROJECT["optional-dependencies"])
    assert f'ENTRYPOINT ["{next(iter(PROJECT["scripts"]))}"]' in text


def test_the_apptainer_definition_copies_it_too():
    text = (CONTAINER / "apptainer.def").read_text()
    found = sections(text)
    assert {line.split()[0] for line in found["files"]} == needed()
    assert all(Path(line.split()[1]) == Path("/opt/unigen") / line.split()[0] for line in found["files"])
    assert {line.split(":")[0] for line in found[""]} == {"Bootstrap", "From"}
    for name in ("post", "environment", "runscript", "test"):
        checked("\n".join(found[name]))
    assert installed(text) == installed((CONTAINER / "Dockerfile").read_text())


def test_a_broken_recipe_is_found():
    """Negative control."""
    for text in ("FORM python", "FROM python\nRUN if true; then", "RUN (cd /x"):
        with pytest.raises(ValueError):
            copied(text)
    with pytest.raises(ValueError):
        sections("%pots\n    true\n")
    assert copied("FROM a\nCOPY x \\\n  y /z\n") == ["x", "y"]


def test_versions_of_python_are_admitted():
    from packaging.specifiers import SpecifierSet

    for name in ("Dockerfile", "apptainer.def"):
        (version,) = re.findall(r"python:(\d+\.\d+)-slim", (CONTAINER / name).read_text())
        assert SpecifierSet(PROJECT["requires-python"]).contains(version)
