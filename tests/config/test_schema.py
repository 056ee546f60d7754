"""The JSON schema of configuration files: all that are shipped are legal, and what is misspelt in one is not."""

import json

import pytest
import yaml
from small_runs import command
from tiny import CONF, experiments

from unigen.config import ranges
from unigen.config.schema import FILES, schema
from unigen.config.values import ConfigError

jsonschema = pytest.importorskip("jsonschema", reason="of the extra `test`")
SHIPPED = {
    name: [path for group in groups for path in sorted((CONF / group).rglob("*.yaml"))]
    for name, groups in FILES.items()
}


@pytest.fixture(scope="module")
def validators():
    found = {}
    for name in FILES:
        jsonschema.Draft202012Validator.check_schema(made := schema([CONF], name))
        found[name] = jsonschema.Draft202012Validator(json.loads(json.dumps(made)))
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_shipped_file_is_legal(name, validators):
    assert len(SHIPPED[name]) > 30
    legal = {path: validators[name].is_valid(yaml.safe_load(path.read_text())) for path in SHIPPED[name]}
    assert [str(path.relative_to(CONF)) for path, fine in legal.items() if not fine] == []


def misspelt(node: dict, parts: tuple = ()) -> list[tuple]:
    """The paths of all keys of a file that no open table holds, and that no part of one's own may have."""
    from unigen.config.preflight import OPEN_TABLES

    found = []
    for key, value in node.items():
        if not parts and key in ("defaults", "hydra"):
            continue
        found.append((*parts, key))
        if isinstance(value, dict) and key not in OPEN_TABLES and "_target_" not in value:
            found += misspelt(value, (*parts, key))
    return found


@pytest.mark.parametrize("exp", experiments())
def test_a_misspelt_key_is_refused_wherever_it_stands(exp, validators):
    """Negative control of the test above, in every shipped experiment."""
    text = (CONF / "exp" / f"{exp}.yaml").read_text()
    for parts in misspelt(yaml.safe_load(text)):
        content = node = yaml.safe_load(text)
        for part in parts[:-1]:
            node = node[part]
        node[f"{parts[-1]}_x"] = node.pop(parts[-1])
        assert not validators["config"].is_valid(content), ".".join(parts)


@pytest.mark.parametrize(
    ("text", "legal"),
    [
        ("optimizer: {lr: 1.0e-4}", True),
        ("optimizer: {lr: 2}", False),
        ("optimizer: {lr: fast}", False),
        ("optimizer: {lr: '${backbone.lr}'}", True),
        ("optimizer: {betas: [0.9, 0.95]}", True),
        ("optimizer: {betas: [0.9]}", False),
        ("optimizer: {betas: [0.9, 1.0]}", False),
        ("trainer: {max_steps: 1.5}", False),
        ("trainer: {accelerator: gpu}", True),
        ("trainer: {accelerator: gpus}", False),
        ("dry_run: 'yes'", False),
        ("mask: {rows: {mine: {text: all}}}", True),
        ("mask: {row: {}}", False),
        ("published: {my_metric: 3}", True),
        ("callback: {ema: {decay: 0.9}}", True),
        ("callback: {ema: {dekay: 0.9}}", False),
        ("process: {shift: {_target_: mine.Shift, strength: 3}}", True),
        ("process: {shift: {strength: 3}}", False),
        ("data: {rows: [0, 2]}", True),
        ("data: {rows: 2}", False),
        ("data: {tasks: [3]}", False),
        ("defaults: [fcd_mask_a, override /mask: full, _self_]", True),
        ("defaults: [override /mask: ful]", False),
        ("defaults: [override /maks: full]", False),
        ("defaults: [override /family: 'flux/${scale}']", True),
        ("defaults: [override /metric: [ssim, psnr]]", True),
        ("defaults: [override /metric: [ssim, psrn]]", False),
        ("graph: {weights: {}}", False),  # a key of preview.py graph=NAME alone
    ],
)
def test_values_and_choices(text, legal, validators):
    assert validators["config"].is_valid(yaml.safe_load(text)) is legal


def test_a_comment_is_what_an_editor_shows(validators):
    said = validators["config"].schema["properties"]["dry_run"]["description"]
    assert said.startswith("true: compose, build on the meta device")


def test_an_interval_is_that_of_the_table(validators):
    lr = validators["config"].schema["properties"]["optimizer"]["anyOf"][0]["properties"]["lr"]["anyOf"][0]
    known = ranges.legal("optimizer.lr")
    assert (lr["exclusiveMinimum"], lr["maximum"]) == (known.low, known.high) and known.above


def test_own_choices_count_too(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "own.yaml").write_text("_target_: mine.Loss\nsharpness: 2.0\nweights: {target: 1.0}\n")
    own = "defaults: [override /loss: own]\nloss: {sharpness: 3.0}"
    assert jsonschema.Draft202012Validator(schema([CONF, tmp_path])).is_valid(yaml.safe_load(own))
    assert not jsonschema.Draft202012Validator(schema([CONF])).is_valid(yaml.safe_load(own)), "negative control"
    with pytest.raises(ConfigError, match="does not exist"):
        schema([CONF, tmp_path / "nowhere"])


def test_the_program_writes_it(tmp_path, capsys):
    assert command("schema.py", f"out={tmp_path / 'a.json'}", "config=evaluate") == 0
    assert "bench" in json.loads((tmp_path / "a.json").read_text())["properties"]
    assert command("schema.py", "config=mine") == 1
    assert "config=mine is unknown; legal are config and evaluate" in capsys.readouterr().err
