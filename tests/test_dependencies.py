"""What pyproject.toml admits: no version with a known hole in what is used here. And nothing unpickles unasked."""

import ast
import json
import runpy
import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.requirements import Requirement
from tiny import ROOT

# package -> {version: why it is refused}; the newest bad one of each kind
REFUSED = {
    "lightning": {
        "2.6.2": "malicious upload (GHSA-w37p-236h-pfx3)",
        "2.6.3": "malicious upload (GHSA-w37p-236h-pfx3)",
        "2.6.5": "a checkpoint runs code (CVE-2026-58659)",
    },
    "pytorch-lightning": {
        "2.6.2": "malicious upload (GHSA-w37p-236h-pfx3)",
        "2.6.3": "malicious upload (GHSA-w37p-236h-pfx3)",
        "2.6.5": "a checkpoint runs code (CVE-2026-58659)",
    },
    "torch": {"2.9.1": "memory corruption by weights_only=True (CVE-2026-24747)"},
    "transformers": {"5.2.0": "a model's config runs code (CVE-2026-4372, CVE-2026-5241)"},
    "hydra-core": {"1.3.3": "instantiate() without a list of what is blocked"},
    "pillow": {"12.1.0": "write out of bounds (CVE-2026-25990)", "12.2.0": "several writes out of bounds"},
    "opencv-python-headless": {"4.11.0.86": "heap write by a JPEG (CVE-2025-53644)"},
    "pyarrow": {"14.0.0": "a table runs code (CVE-2023-47248)", "23.0.0": "use after free (CVE-2026-25087)"},
}
# Calls that can run what a file says, unless they are told not to: name -> words that make them safe
UNPICKLING = {
    "torch.load": ("weights_only=True",),
    "np.load": ("allow_pickle=False",),
    "numpy.load": ("allow_pickle=False",),
    "yaml.load": ("SafeLoader", "Loader=YAML"),  # the latter of report_runs, which is a safe one
}
NEVER = {"pickle.load", "pickle.loads", "joblib.load", "dill.load", "marshal.loads", "eval", "exec"}
FOLDERS = ("unigen", "callbacks", "datamodules", "experiments", "slurm", ".ci")


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    return [Requirement(text) for text in (*project["dependencies"], *extras)]


@pytest.mark.parametrize("name", REFUSED)
def test_versions_with_known_holes_are_refused(name):
    found = [each for each in requirements() if each.name == name]
    assert found, f"{name} is asked for nowhere"
    for each in found:
        for bad, why in REFUSED[name].items():
            assert bad not in each.specifier, f"{each} admits {bad}: {why}"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_installed_is_admitted(name):
    """A bound that refuses everything would pass the test above."""
    try:
        installed = version(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    for each in requirements():
        assert each.name != name or each.specifier.contains(installed, prereleases=True), f"{each}, not {installed}"


def unpickling(source: str) -> list[str]:
    """The calls of a file that could run what they read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        call = ast.unparse(node)
        if name in NEVER or (name in UNPICKLING and not any(word in call for word in UNPICKLING[name])):
            found.append(f"line {node.lineno}: {call}")
    return found


def test_nothing_of_ours_unpickles():
    for folder in FOLDERS:
        files = list((ROOT / folder).rglob("*.py"))
        assert files, folder
        for path in files:
            assert not unpickling(path.read_text()), f"{path} can run code that a file holds"


def test_the_loader_of_yaml_is_a_safe_one():
    from yaml.constructor import SafeConstructor, UnsafeConstructor

    from unigen.evaluation.runs import YAML

    assert issubclass(YAML, SafeConstructor) and not issubclass(YAML, UnsafeConstructor)


def test_unpickling_is_found():
    bad = ("torch.load(x)", "torch.load(x, weights_only=False)", "np.load(x)", "pickle.loads(x)", "yaml.load(x)")
    assert all(unpickling(line) for line in bad), "negative control"
    good = ("torch.load(x, map_location='cpu', weights_only=True)", "np.load(x, allow_pickle=False)", "model.eval()")
    assert not any(unpickling(line) for line in good)


def audited(monkeypatch, capsys, dependencies: list | None) -> tuple[int, str]:
    """The exit code of .ci/audit.py and what it says, for what pip-audit reports (None: no JSON)."""
    script = runpy.run_path(str(ROOT / ".ci" / "audit.py"))
    text = "no network" if dependencies is None else json.dumps({"dependencies": dependencies, "fixes": []})
    done = type("Done", (), {"stdout": text})
    monkeypatch.setattr(script["subprocess"], "run", lambda *words, **options: done)
    return script["main"](["pip-audit", "here"]), capsys.readouterr().out


def test_the_audit_names_what_is_vulnerable(monkeypatch, capsys):
    hole = {"id": "PYSEC-2026-3624", "fix_versions": ["2.6.6"], "aliases": ["CVE-2026-58659"], "description": "..."}
    packages = [
        {"name": "lightning", "version": "2.6.5", "vulns": [hole]},
        {"name": "numpy", "version": "2.4.6", "vulns": []},
        {"name": "unigen", "skip_reason": "editable"},
    ]
    code, said = audited(monkeypatch, capsys, packages)
    assert code == 1 and "lightning 2.6.5: PYSEC-2026-3624 CVE-2026-58659, mended by 2.6.6" in said
    assert "1 known vulnerabilities in 2 packages; 1 could not be looked up" in said
    assert audited(monkeypatch, capsys, packages[1:])[0] == 0


@pytest.mark.parametrize("dependencies", [None, [{"name": "numpy", "skip_reason": "not found on PyPI"}]])
def test_an_audit_without_a_service_passes_and_says_so(dependencies, monkeypatch, capsys):
    code, said = audited(monkeypatch, capsys, dependencies)
    assert code == 0 and said.startswith("audit: not done") and said.count("\n") == 1
