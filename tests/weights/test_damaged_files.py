"""One damaged file at a time, by hand: what is refused by name, what is told, and what is taken all the same."""

import json
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import LORA, command, kept_images, small, train
from tiny import CONF
from visual_prompts import exported

from unigen.config.values import ConfigError, read_config
from unigen.evaluation.gallery import Gallery
from unigen.evaluation.scores import read_scores
from unigen.pipeline import export
from unigen.tools.plan.profile import read_profile
from unigen.training import consolidation
from unigen.weights.own_files import read_object


@pytest.fixture
def folder(tmp_path):
    return exported(tmp_path, *LORA) / "export"


def flip(path, at: int) -> None:
    """Another bit, so many bytes from the start or the end."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_tensor_of_another_shape_is_not_spread_over_the_right_one(folder):
    """One number would have filled all of it."""
    path = folder / export.MODULES_FILE
    tensors = load_file(path)
    save_file(tensors, path)
    export.load(folder)  # negative control: without metadata, as others write it
    name = next(name for name, x in tensors.items() if x.dim() == 1 and len(x) > 1)
    save_file(tensors | {name: torch.zeros(1)}, path)
    with pytest.raises(
        ConfigError, match=rf"{path} does not fit its configuration: {name} is \(1,\) float32 and should"
    ):
        export.load(folder)
    save_file(tensors | {name: torch.zeros(tensors[name].shape, dtype=torch.int64)}, path)
    with pytest.raises(ConfigError, match=r"int64 and should be .* float32"):
        export.load(folder)


def test_one_bit_of_an_export_is_noticed(folder):
    path = folder / export.MODULES_FILE
    flip(path, -3)
    with pytest.raises(ConfigError, match=f"{path} cannot be read .*its checksum differs.; restore it, or write the"):
        export.load(folder)
    flip(path, -3)
    export.load(folder)
    with pytest.warns(UserWarning, match="is not the LoRA that the run wrote; it is used as it is"):
        flip(folder / export.LORA_FILE, -3)
        export.load(folder)


def test_the_parts_of_an_export_are_those_that_were_written(folder):
    """What may differ by machine, and what a run says of its data, may be changed."""
    path = folder / export.CONFIG_FILE
    about = json.loads(path.read_text())
    for key, value in (("dropout", {"text": 0.5}), ("backbone", 3), ("mask", about["config"]["mask"] | {"name": "x"})):
        path.write_text(json.dumps(about | {"config": about["config"] | {key: value}}))
        with pytest.raises(ConfigError, match=f"{path} cannot be read .the parts that it names are not those"):
            export.load(folder)
    path.write_text(json.dumps(about | {"config": about["config"] | {"data": None}}))
    assert export.load(folder)[1]["data"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ("1" * 5000, "4300 digits"),
        ('{"config": NaN}', "it holds NaN"),
        ("[]", "it holds no JSON object"),
        ("{}", "it has no usable 'config'"),
        ('{"config": {"mask": 3}}', "it lacks"),
    ],
)
def test_json_of_another_shape_is_named(text, said, folder):
    path = folder / export.CONFIG_FILE
    path.write_text(text)
    tensors = load_file(folder / export.MODULES_FILE)
    save_file(tensors, folder / export.MODULES_FILE)  # as before there were checksums
    with pytest.raises(ConfigError, match=f"^{path} cannot be read ") as error:
        export.load(folder)
    assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"none.json is missing; do this"):
        read_object(folder / "none.json", "do this")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(small(folder, "+exp=fcd_mask_a", "trainer.max_steps=1"))
    return folder


def test_a_damaged_checkpoint_is_not_exported(run, tmp_path, capfd):
    path = run / "checkpoints" / "last.ckpt"
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = max(archive.infolist(), key=lambda info: info.file_size)
    for damage in (whole[:-2000], whole[:100], b"", b"not a checkpoint"):
        path.write_bytes(damage)
        assert command("export.py", f"run={run}", f"out={tmp_path / 'made'}") == 1
        assert capfd.readouterr().err.splitlines()[-1].startswith(f"error: {path} cannot be read (")
    path.write_bytes(whole)
    flip(path, info.header_offset + info.file_size // 2 + 200)
    with pytest.raises(ConfigError, match=f"^{path} cannot be read .Bad CRC-32 for file|is not what was written"):
        consolidation.read(path)
    path.write_bytes(whole)
    consolidation.read(path)
    (run / "config.yaml").rename(run / "kept.yaml")
    (run / "config.yaml").write_text("data: 3")
    assert command("export.py", f"run={run}", f"out={tmp_path / 'made'}") == 1
    assert f"error: {run / 'config.yaml'} cannot be read (it lacks 'learner')" in capfd.readouterr().err
    for text in ("a: 1" + "1" * 5000, "[" * 2000, "a: \x00"):
        (run / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"cannot read .*config.yaml"):
            read_config(run)
    (run / "kept.yaml").rename(run / "config.yaml")


def test_damaged_lines_of_a_gallery_are_told_and_their_images_drawn_anew(run, capfd):
    words = ["bench=emoji_canny", "evaluation.items=3", "metric=[psnr]", "data.limit=200", "solver.steps=1"]
    words = [f"run={run}", *words, kept_images()]
    assert command("evaluate.py", *words) == 0
    folder = run / "evaluation" / "emoji_canny"
    lines, scores = (folder / "manifest.jsonl").read_text().splitlines(), (folder / "scores.jsonl").read_bytes()
    assert len(lines) == 3 and "damaged" not in capfd.readouterr().err
    record = json.loads(lines[0])
    escaping = json.dumps(record | {"files": record["files"] | {"output": "../../config.yaml"}})
    for bad in (
        "null",
        json.dumps(record | {"item": "0"}),
        lines[0].replace('"item"', '"itm"'),
        escaping,
        lines[0][:-9],
    ):
        (folder / "manifest.jsonl").write_text("\n".join([bad, *lines[1:]]) + "\n")
        assert Gallery(folder).damaged == 1 and len(Gallery(folder).records) == 2
    assert command("evaluate.py", *words) == 0
    assert f"1 lines of {folder / 'manifest.jsonl'} are damaged: their images are drawn anew" in capfd.readouterr().err
    assert Gallery(folder).complete and not Gallery(folder).damaged and (folder / "scores.jsonl").read_bytes() == scores
    (folder / "manifest.jsonl").write_text("\n".join([*lines[:2], lines[2][:-9]]))  # of a killed process: no damage
    assert Gallery(folder).damaged == 0
    (folder / "protocol.json").write_text("[]")
    assert command("evaluate.py", *words) == 1
    assert f"error: {folder / 'protocol.json'} cannot be read (it holds no JSON object)" in capfd.readouterr().err


@pytest.mark.parametrize(
    "line", ['{"item": 1}', '{"item": 1, "psnr": "2"}', '{"psnr": true}', '{"psnr": NaN}', "{", "3"]
)
def test_a_line_that_would_move_other_items_scores_is_refused(line, tmp_path):
    """The score of the third item would have counted as the second's."""
    path = tmp_path / "scores.jsonl"
    path.write_text('{"item": 0, "psnr": 1}\n{"item": 1, "psnr": null}\n{"item": 2, "psnr": 3}\n')
    assert read_scores(tmp_path).each == {"psnr": [1.0, None, 3.0]}
    path.write_text(f'{{"item": 0, "psnr": 1}}\n{line}\n{{"item": 2, "psnr": 3}}\n')
    with pytest.raises(ValueError, match=r"scores.jsonl, line [23], does not hold an item's scores"):
        read_scores(tmp_path)


def test_a_profile_says_numbers(tmp_path):
    good, path = (CONF / "profile" / "h100.yaml").read_text(), tmp_path / "mine.yaml"
    path.write_text(good)
    assert read_profile(CONF / "profile", str(path)).memory_gib == 79.1
    for old, new, said in (
        ("memory_gib: 79.1", "memory_gib: lots", "memory_gib is 'lots'; it must be a number above 0"),
        ("bf16: 989.0e+12", "bf16: -1", "flops.bf16 is -1"),
        ("efficiency: 0.35", "efficiency: .nan", "efficiency is nan"),
        ("link: 450.0e+9", "link: [", "cannot read"),
    ):
        path.write_text(good.replace(old, new))
        with pytest.raises(ConfigError, match=rf"{path}") as error:
            read_profile(CONF / "profile", str(path))
        assert said in str(error.value)
