"""The wheel works where there is no checkout: built, installed beside its dependencies, run from an empty folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from tiny import CONF, ROOT

import unigen

PACKED = ("unigen", "callbacks", "datamodules", "experiments", "slurm", "pyproject.toml", "README.md", "LICENSE")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since setuptools leaves a folder `build` beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    words = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    subprocess.run([sys.executable, *words], check=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def bin_folder(wheel, tmp_path_factory) -> Path:
    """An environment with nothing but the wheel, which sees the packages of this one behind it."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    words = ["install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), *words], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but its own .pth files, such as that of an editable install, are not read.
    behind = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(behind) + "\n")
    return folder / "bin"


def unigen_in(folder: Path, bin_folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(bin_folder / "unigen"), *words], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_wheel_holds_what_the_programs_read(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = [*CONF.rglob("*.yaml"), *ROOT.glob("experiments/*.py"), ROOT / "slurm" / "array.sh.tmpl"]
    wanted += [path for path in (ROOT / "unigen").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert [str(path) for path in wanted if path.relative_to(ROOT).as_posix() not in held] == []
    assert not {name.split("/")[0] for name in held} & {"tests", "docs"}
    assert f"unigen-{unigen.__version__}.dist-info/licenses/LICENSE" in held


def test_the_command_works_from_an_empty_folder(bin_folder, tmp_path):
    where = subprocess.run(
        [bin_folder / "python", "-P", "-c", "import unigen; print(unigen.__file__)"],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout).is_relative_to(bin_folder.parent), "else this would test the checkout"
    (tmp_path / "nodes.py").write_text("from unigen.comfyui import *\nprint(*NODE_CLASS_MAPPINGS)\n")  # as in ComfyUI
    node = subprocess.run([bin_folder / "python", "-I", tmp_path / "nodes.py"], capture_output=True, text=True)
    assert node.stdout == "UnigenSample\n", node.stderr
    (tmp_path / "nodes.py").unlink()
    assert unigen_in(tmp_path, bin_folder, "--version").stdout == f"unigen {unigen.__version__}\n"
    helped = unigen_in(tmp_path, bin_folder, "run", "--help")
    assert helped.returncode == 0 and "fcd_mask_a" in helped.stdout and "unigen run +exp=NAME" in helped.stdout
    planned = unigen_in(tmp_path, bin_folder, "plan", "+exp=fcd_mask_a")
    assert planned.returncode == 0 and "fits: " in planned.stdout, planned.stderr
    assert not [*tmp_path.iterdir()], "none of them leaves a file"
    dry = unigen_in(tmp_path, bin_folder, "run", "+exp=fcd_mask_a", "dry_run=true")
    assert dry.returncode == 0, dry.stderr
    words = ["run=shipped:universal", "sheet=true", "items=1", "steps=2", "tasks=[canny>target]", "out=sheet.png"]
    drawn = unigen_in(tmp_path, bin_folder, "sample", *words)
    assert drawn.returncode == 0 and Image.open(tmp_path / "sheet.png").width > 64, drawn.stderr
    swept = unigen_in(tmp_path, bin_folder, "sweep", "+table=realgeneral_masks", "seed=0", "cluster=slurm", "--dry-run")
    assert str(bin_folder.parent) in swept.stdout and "/experiments/run.py" in swept.stdout, swept.stderr


def test_what_is_wrong_is_one_sentence_there_too(bin_folder, tmp_path):
    for words, said in (
        (["run", "+exp=fcd_mask_a", "trainer.max_step=1"], "did you mean 'trainer.max_steps'?"),
        (["run", "--config-dir", "nowhere", "+exp=mine"], "nowhere does not exist"),
        (["methods"], "is no file"),
        (["rum"], "did you mean 'run'?"),
    ):
        done = unigen_in(tmp_path, bin_folder, *words)
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1
