"""The documentation as a site: it builds without a dead link, and its reference is the YAML files."""

import importlib.util
import logging
import subprocess
import sys

import pytest
from tiny import CONF, ROOT, choices

pytest.importorskip("mkdocs", reason="the site is built by mkdocs-material (extra test)")


def build(config, folder):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(config), "-d", str(folder)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1"})


def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_builds_strictly_and_has_a_page_for_each_group(tmp_path):
    done = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "mask.html").read_text()
    assert all(f'id="{name}"' in page for name in choices("mask"))
    assert "text and condition do not see each other" in page  # the header of fcd_a
    assert {path.stem for path in (tmp_path / "site" / "reference").glob("*.html")} == {
        "index",
        *(path.name for path in CONF.iterdir() if path.is_dir()),
    }
    text = (tmp_path / "site" / "tutorial.html").read_text()
    assert "fonts.googleapis" not in text and "cdn" not in text, "the site needs no network"


def test_a_dead_link_out_of_the_documentation_is_a_warning(caplog, tmp_path):
    page = type("Page", (), {"file": type("File", (), {"src_uri": "data.md"})})
    with caplog.at_level(logging.WARNING):
        good = hooks().on_page_markdown("see [the graph](../experiments/conf/graph/emoji.yaml)", page)
    assert good == "see the graph (`experiments/conf/graph/emoji.yaml`)" and not caplog.records
    with caplog.at_level(logging.WARNING):
        hooks().on_page_markdown("see [the graph](../experiments/conf/graph/emojis.yaml)", page)
    assert "experiments/conf/graph/emojis.yaml, which does not exist" in caplog.text, "negative control"
