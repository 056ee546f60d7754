"""Short hashes of what numbers depend on: equal where that is equal, and nowhere else."""

import json

import pytest

from unigen.core.protocol_card import card_of, digest, hashed
from unigen.evaluation.results import print_metrics
from unigen.weights.loading import file_hash, weights_hash

PROTOCOL = {
    "data": "emoji",
    "steps": 20,
    "metric.psnr": {"version": "1.9.0"},
    "metric.psnr_hvs": {"version": "2"},
    "metric.ssim": {"version": "1.9.0"},
}
SCORE = {"value": 0.5, "low": 0.1, "high": 0.9, "better": "higher", "items": 4}


def hashes(protocol: dict) -> dict[str, str]:
    names = {name.removeprefix("metric."): SCORE for name in protocol if name.startswith("metric.")}
    found = hashed({"metrics": names, "bounds": {}, "protocol": protocol})["metrics"]
    return {name: score["protocol_hash"] for name, score in found.items()}


def test_a_hash_is_of_the_content_alone():
    assert digest({"a": 1, "b": [2, None]}) == digest({"b": [2, None], "a": 1})
    assert len({digest(x) for x in ({"a": 1}, {"a": 2}, {"a": 1.5}, {"b": 1}, {"a": "1"}, [1])}) == 6
    assert len(digest({})) == 12 and digest(json.loads(json.dumps(PROTOCOL))) == digest(PROTOCOL)


def test_a_number_depends_on_the_common_part_and_its_own_metric():
    before = hashes(PROTOCOL)
    assert before["psnr"] != before["psnr_hvs"] and before["psnr"] == before["ssim"], "the column says which it is"
    assert all(before[name] != found for name, found in hashes(PROTOCOL | {"steps": 50}).items())
    newer = hashes(PROTOCOL | {"metric.ssim": {"version": "2.0.0"}})
    assert newer["ssim"] != before["ssim"] and newer["psnr"] == before["psnr"]


@pytest.mark.parametrize(
    ("metric", "card"),
    [
        ("psnr", {"version": "1.9.0"}),
        ("psnr_line", {"version": "1.9.0"}),
        ("psnr_hvs", {"version": "2"}),
        ("psnr_hvs_line", {"version": "2"}),
        ("psn", None),
        ("retrieval", None),
    ],
)
def test_a_metric_of_several_kinds_of_images_has_its_metrics_card(metric, card):
    common = {"data": "emoji", "steps": 20}
    assert card_of(PROTOCOL, metric) == common | ({"metric": card} if card else {})


def test_what_is_absent_has_no_hash_and_a_reason_on_the_terminal(capsys):
    from rich.console import Console

    absent = {**SCORE, "value": None, "low": None, "high": None, "reason": "no [bold]weights[/bold] here"}
    found = hashed({"metrics": {"psnr": SCORE, "dino": absent}, "bounds": {}, "protocol": PROTOCOL})
    assert "protocol_hash" in found["metrics"]["psnr"] and "protocol_hash" not in found["metrics"]["dino"]
    print_metrics(Console(width=200), found | {"bounds": {"low": "no condition", "high": "through codec"}})
    said = capsys.readouterr().out
    assert "dino is absent: no [bold]weights[/bold] here" in said and "psnr is absent" not in said
    row = next(line for line in said.splitlines() if "│ dino" in line)
    assert "absent" in row and not any(digit in row for digit in "0123456789")


def test_weights_are_hashed_by_content_and_again_after_a_change(tmp_path):
    import os

    with pytest.raises(FileNotFoundError, match="has no weight files"):
        weights_hash(tmp_path)
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"1")
    (tmp_path / "a.bin").write_bytes(b"unused beside safetensors")
    first, alone = weights_hash(tmp_path), file_hash(file)
    (tmp_path / "a.bin").write_bytes(b"changed")
    assert weights_hash(tmp_path) == first
    file.write_bytes(b"2")
    os.utime(file, ns=(1, 1))
    assert weights_hash(tmp_path) != first and file_hash(file) != alone
    file.rename(tmp_path / "b.safetensors")
    renamed = weights_hash(tmp_path)
    file.write_bytes(b"1")
    assert len({first, renamed, weights_hash(tmp_path)}) == 3
