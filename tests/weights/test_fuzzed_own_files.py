"""Thousands of damaged files of this project's own: each is read right, or one sentence names it; nothing hangs."""

import json
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from made_runs import make_run
from mutants import mutants
from small_runs import LORA, command, small, train
from visual_prompts import exported, image_file

from unigen.config.values import ConfigError, read_config
from unigen.evaluation.benchmark import NEEDED, results
from unigen.evaluation.gallery import OUTPUT, Gallery
from unigen.evaluation.results import print_results, read_summary, unusable
from unigen.inference.sampling import sample_user_image
from unigen.pipeline import export
from unigen.pipeline.build import build
from unigen.tools.plan.profile import read_profile
from unigen.tools.report.html import to_html
from unigen.tools.report.latex import to_latex
from unigen.tools.report.markdown import to_markdown
from unigen.tools.report.report import build_report
from unigen.training import consolidation

SECONDS = 30  # of one file


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run with a LoRA and an evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(small(folder, "+exp=fcd_mask_a", *LORA, "backbone.pretrained=null", "trainer.max_steps=1"))
    words = ["bench=emoji_canny", "evaluation.items=2", "metric=[psnr,ssim]", "data.limit=200", "solver.steps=1"]
    assert command("evaluate.py", f"run={folder}", *words) == 0
    return folder


@contextmanager
def in_time(what: str) -> Iterator[None]:
    def stop(*_):
        raise AssertionError(f"{what}: not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(path: Path, count: int, read: Callable[[], object], check: Callable[[object], None], seed: int = 0) -> int:
    """Read damaged files in the place of a good one; returns how many were taken, which `check` looks at."""
    good, taken = path.read_bytes(), 0
    try:
        for number, made in enumerate(mutants(good, count, seed)):
            path.write_bytes(made)
            with in_time(f"{path.name}, number {number}"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found = read()
                except ValueError as error:
                    assert path.name in str(error) and "\n" not in str(error), (number, made[:200], str(error))
                    continue
                except Exception as error:
                    raise AssertionError(f"{path.name}, number {number}, {made[:300]!r}") from error
                check(found)
                taken += 1
    finally:
        path.write_bytes(good)
    return taken


def tensors(pipeline) -> dict[str, torch.Tensor]:
    parts = {f"part{i}": module for i, module in enumerate(pipeline.modules)}
    return {f"{part}.{name}": x for part, module in parts.items() for name, x in module.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [(export.MODULES_FILE, 400), (export.CONFIG_FILE, 400)])
def test_an_export_is_loaded_as_it_was_written_or_not_at_all(name, count, tmp_path):
    folder = exported(tmp_path) / "export"
    good = tensors(export.load(folder)[0])
    taken = fuzz(folder / name, count, lambda: export.load(folder), lambda found: check_same(found[0], good))
    assert taken < count / 2, "negative control: most files are damaged where it matters"


def check_same(pipeline, good) -> None:
    assert equal(tensors(pipeline), good)


@pytest.mark.slow
def test_a_lora_that_was_not_written_is_told(tmp_path):
    folder = exported(tmp_path, *LORA) / "export"

    def read():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            return export.load(folder), [str(warning.message) for warning in told]

    good = tensors(export.load(folder)[0])

    def check(found):
        (pipeline, _), told = found
        assert any("is not the LoRA that the run wrote" in said for said in told) or equal(tensors(pipeline), good)

    assert not read()[1]
    fuzz(folder / export.LORA_FILE, 250, read, check)


@pytest.mark.slow
def test_a_checkpoint_is_read_as_it_was_written_or_not_at_all(run):
    path = run / "checkpoints" / "last.ckpt"
    good = consolidation.read(path)[1]

    def check(found):
        assert equal(found[1], good)

    assert fuzz(path, 400, lambda: consolidation.read(path), check) < 100


@pytest.mark.slow
def test_a_configuration_is_a_mapping_or_is_named(run):
    path = run / "config.yaml"

    def read():
        config = read_config(run)
        if odd := unusable(config, NEEDED):
            raise ConfigError(f"config.yaml: {odd}")
        return config

    def check(config):
        assert isinstance(config["data"], dict) and isinstance(config["scale"]["name"], str | None)

    fuzz(path, 400, read, check)
    path.write_text(json.dumps(yaml.safe_load(path.read_text())))  # which is YAML too: values of another shape
    fuzz(path, 300, read, check)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("summary.json", 250),
        ("scores.jsonl", 200),
        ("metrics.jsonl", 200),
        ("config.yaml", 150),
        ("evaluation/emoji_canny/evaluation.json", 250),
        ("evaluation/emoji_canny/scores.jsonl", 150),
    ],
)
def test_a_report_takes_a_run_or_says_why_not(name, count, run, tmp_path):
    """In every form; beside it the whole run is there."""
    runs = tmp_path / "runs"
    shutil.copytree(run, runs / "whole", ignore=shutil.ignore_patterns("checkpoints", "export", "images"))
    shutil.copytree(runs / "whole", runs / "damaged")
    summary = json.loads((runs / "damaged" / "summary.json").read_text())
    (runs / "damaged" / "summary.json").write_text(json.dumps(summary | {"seed": 1}, indent=1))
    benches = ["emoji_canny"] if name.startswith("evaluation") else []

    def read():
        report = build_report(str(runs), None, None, benches)
        return [to_markdown(report, tmp_path), to_latex(report), to_html(report)]

    def check(forms):
        assert all("damaged" in form or "seed" in form for form in forms) and "whole" in forms[0]

    fuzz(runs / "damaged" / name, count, read, check)


@pytest.mark.slow
def test_a_summary_is_shown_or_named(run, capsys):
    fuzz(run / "summary.json", 300, lambda: print_results(read_summary(run), run), lambda _: None)
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("manifest.jsonl", 400), ("protocol.json", 250)])
def test_a_gallery_has_the_records_that_were_written_and_counts_the_others(name, count, run):
    folder = run / "evaluation" / "emoji_canny"
    metrics = {"psnr": build({"_target_": "unigen.metrics.pixels.PSNR"})}
    config = {"bench": {"name": "emoji_canny"}}
    kept = (folder / "scores.jsonl").read_bytes()

    def read():
        gallery = Gallery(folder)
        if gallery.records:
            results(gallery, metrics, read_config(run), config)
        return gallery

    def check(gallery):
        for (item, image), record in gallery.records.items():
            assert record["files"][OUTPUT] == f"images/{item:06d}_{image}_output.png"

    try:
        fuzz(folder / name, count, read, check)
    finally:
        (folder / "scores.jsonl").write_bytes(kept)


@pytest.mark.slow
def test_a_profile_has_numbers_or_is_named(tmp_path):
    from tiny import CONF

    path = tmp_path / "mine.yaml"
    path.write_bytes((CONF / "profile" / "h100.yaml").read_bytes())
    fuzz(path, 300, lambda: read_profile(CONF / "profile", str(path)), lambda profile: profile.memory_gib + 0.0)


def test_mutants_are_others_and_the_same_each_time(tmp_path):
    good = json.dumps({"a": [1, {"b": 2}]}).encode()
    made = list(mutants(good, 50))
    assert made == list(mutants(good, 50)) != list(mutants(good, 50, seed=1)) and good not in made and len(made) > 40
    assert sum(len(x) > 0 for x in made) > 30
    path = make_run(tmp_path / "run") / "summary.json"
    for read in (lambda: json.loads(path.read_text()), lambda: {}["summary.json"]):  # negative controls
        with pytest.raises(AssertionError, match=r"summary\.json"):
            fuzz(path, 20, read, lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("data", [(), ("data=own_folder", "data.train.root=/nowhere")])
def test_what_an_export_says_of_the_data_is_used_or_is_named(data, tmp_path):
    """The rest of unigen.json is compared with what the weights were written for."""
    run = exported(tmp_path / "run", *data, "task=canny", tasks=("canny>target",))
    path, kept = run / "export" / "unigen.json", tmp_path / "data.json"
    about = json.loads(path.read_text())
    kept.write_text(json.dumps({"data": about["config"]["data"]}, indent=1))
    given = {"run": str(run), "condition": str(image_file(tmp_path / "mine.png")), "out": str(tmp_path / "out.png")}
    pipeline = export.load(run / "export")[0]

    def read():
        try:
            said = json.loads(kept.read_text())["data"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError("data.json") from None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "load", lambda folder: (pipeline, about["config"] | {"data": said}))
            try:
                sample_user_image(given)
            except ValueError as error:
                raise ConfigError(f"data.json: {error}".replace("\n", " ")) from error

    assert fuzz(kept, 300, read, lambda _: None) > 10
