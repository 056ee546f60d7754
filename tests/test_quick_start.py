"""What `--help` need not pay for: Hydra's listing by copies, and anything heavy."""

import subprocess
import sys

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from tiny import CONF, ROOT

from unigen.launch.start import list_folders_once


def test_groups_and_choices_are_those_that_hydra_lists(tmp_path, monkeypatch):
    (tmp_path / "mask" / "deep").mkdir(parents=True)
    (tmp_path / "mask" / "mine.yaml").write_text("a: 1\n")
    (tmp_path / "mask" / "deep" / "er.yaml").write_text("a: 1\n")
    (tmp_path / "mask" / "no.txt").write_text("")
    path = create_config_search_path(str(CONF))
    path.append("command-line", f"file://{tmp_path}")
    listed = Hydra.create_main_hydra2("help", path)
    GlobalHydra.instance().clear()  # which it has filled
    quick = ConfigLoaderImpl.get_group_options
    monkeypatch.setattr(ConfigLoaderImpl, "get_group_options", getattr(quick, "__wrapped__", quick))
    stock = listed.format_config_groups(lambda name: True)
    list_folders_once()
    assert listed.format_config_groups(lambda name: True) == stock
    assert "mine" in stock and "mask/deep: er" in stock and "hydra/launcher" in stock
    (tmp_path / "mask" / "later.yaml").write_text("a: 1\n")
    assert listed.format_config_groups(lambda name: True) != stock  # negative control


def test_help_imports_nothing_heavy():
    """In a process of its own: here everything is imported already."""
    heavy = "print([m for m in ('torch', 'lightning', 'torchvision', 'transformers') if m in sys.modules])"
    words = f"import runpy, sys, atexit; atexit.register(lambda: {heavy}); sys.argv = ['run.py', '--help']; "
    words += "runpy.run_path('experiments/run.py', run_name='__main__')"
    assert _said(words) == "[]"
    assert _said(f"import sys, torch; {heavy}") == "['torch']"  # negative control


def _said(words: str) -> str:
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]
