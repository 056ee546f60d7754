"""The bench at tiny shapes: what it measures is equal, what it counts is right, what it prints is whole. No times."""

import math
import statistics
import subprocess
import sys

import pytest
import torch
from tiny import CONF, mask

from unigen.core import attention, masks
from unigen.core.layout import Layout, Segment, text_segment
from unigen.tools.bench.turns import Effort, Table, Timings, interleaved, shown

FOLDER = CONF.parent
sys.path.insert(0, str(FOLDER))

from bench import arguments, composed, tables  # noqa: E402

from unigen.tools.bench.attention import COLUMNS, LOWERINGS, Shape, attention_tables, candidates, dense_mask_bytes  # noqa: E402

ONCE = Effort(torch.device("cpu"), rounds=1, limit=0.0)
LAYOUT = Layout(
    (
        text_segment(3),
        Segment("condition", "condition", "visual", (1, 2, 2), cap=0.0),
        Segment("target", "target", "visual", (1, 2, 4), (1, 0, 0)),
    )
)
SHAPE = Shape("tiny", LAYOUT, batch=2, heads=2, width=8)
FCD = ["fcd_a", "fcd_b", "fcd_c", "fcd_d"]


def figures(table: Table) -> list[float]:
    return [cell for row in table.rows for cell in row if isinstance(cell, (int, float))]


def test_medians_and_ratios():
    """The ratio is taken within rounds: a slow round does not move it, while it moves the medians' ratio."""
    times = Timings({"a": [1.0, 2.0, 30.0], "b": [3.0, 8.0, 90.0]})
    assert (times.median("a"), times.median("b"), times.rounds) == (2.0, 8.0, 3)
    assert times.ratio("b", "a") == statistics.median([3.0, 4.0, 3.0]) == 3.0
    assert times.ratio("b", "a") != times.median("b") / times.median("a")


def test_candidates_take_turns_after_a_round_that_does_not_count():
    said: list[str] = []
    ticks = iter(range(100))
    effort = Effort(torch.device("cpu"), rounds=4, limit=1e9, clock=lambda: float(next(ticks)))
    times = interleaved({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, effort)
    assert "".join(said) == "ab" * 5
    assert times.seconds == {"a": [1.0] * 4, "b": [1.0] * 4}


def test_a_comparison_out_of_time_still_has_three_rounds():
    effort = Effort(torch.device("cpu"), rounds=9, limit=0.0)
    assert interleaved({"a": lambda: sum(range(1000))}, effort).rounds == 3


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", FCD)
def test_what_is_compared_is_equal(name):
    found = {n: run() for n, run in candidates(SHAPE, mask(name), torch.float32, False, ONCE.device).items()}
    assert found.keys() == LOWERINGS.keys()
    for out in found.values():
        torch.testing.assert_close(out, found["dense"], rtol=1e-5, atol=1e-5)
    grads = {n: run() for n, run in candidates(SHAPE, mask(name), torch.float32, True, ONCE.device).items()}
    for found in grads.values():
        for ours, reference in zip(found, grads["dense"], strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FCD)
def test_plain_leaves_padding_out_and_gives_zeros_to_the_blind(name):
    valid = torch.ones(2, len(LAYOUT), dtype=torch.bool)
    valid[0, :2] = False
    valid[1] = False
    q, k, v = (torch.randn(2, 2, len(LAYOUT), 8, requires_grad=True) for _ in range(3))
    ours, reference = (f(q, k, v, LAYOUT, LAYOUT, mask(name), valid) for f in (attention.plain, attention.dense))
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    assert (ours[1] == 0).all() and (ours[0] != 0).any()
    assert all(g.isfinite().all() for g in torch.autograd.grad(ours.sum(), (q, k, v)))
    unpadded = attention.plain(q, k, v, LAYOUT, LAYOUT, mask(name))
    assert (unpadded[0] - reference[0]).abs().max() > 1e-2, "negative control: padding matters"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_table_is_whole_and_counts_pairs():
    made = list(attention_tables([SHAPE], [mask(n) for n in FCD], ONCE))
    floor = COLUMNS.index("floor")
    for table in made:
        assert len(table.rows) == 2 * len(FCD) and table.columns == COLUMNS
        assert all(math.isfinite(x) and x >= 0 for x in figures(table))
        assert all(cell > 0 for row in table.rows for cell in row[1:4])
        for row, name in zip(table.rows[::2], FCD, strict=True):
            rule = mask(name)
            pairs = sum(rule.sees(a, b) for a in _by_token() for b in _by_token())
            assert row[floor] == pairs / len(LAYOUT) ** 2
            assert masks.attended_pairs(LAYOUT, LAYOUT, rule) == pairs
    assert made[0].rows[0][floor] < made[0].rows[-1][floor] == 1.0


def _by_token() -> list[Segment]:
    return [s for s in LAYOUT.segments for _ in range(s.tokens)]


def test_mask_memory():
    assert dense_mask_bytes(LAYOUT, mask("fcd_a"), torch.float32) == 15 * 15 * (1 + 4)
    assert dense_mask_bytes(LAYOUT, mask("fcd_d"), torch.float32) == 0


@pytest.mark.slow
def test_steps_and_profile_run(monkeypatch):
    """The step, profile and codec sections on the mini model with one layer and two samples."""
    import bench

    small = composed(
        "fcd_mask_a", "data.batch_size=2", "data.size=16", "backbone.config.num_layers=1", "backbone.pretrained=null"
    )
    monkeypatch.setattr(bench, "composed", lambda *_: small)
    step, profile, codec = tables(["step", "profile", "codec"], arguments([])[1], ONCE._replace(limit=0.0))
    assert [row[0] for row in step.rows][:1] == ["stock, dense mask"] and step.rows[0][3] == 1.0
    assert {row[0] for row in profile.rows} >= {"text encoder", "backbone forward", "backward", "optimiser"}
    for table in (step, profile, codec):
        assert figures(table) and all(math.isfinite(x) and x > 0 for x in figures(table))


def test_markdown():
    table = Table("T", ("what", "ms", "count"), note="n")
    table.add("a", 0.12345, 12345)
    table.add("b", None, 1)
    assert (
        table.markdown()
        == "### T\n\n| what | ms | count |\n| --- | --: | --: |\n| a | 0.123 | 12,345 |\n| b | - | 1 |\n\nn\n"
    )
    assert [shown(x) for x in (1.0, 99.96, 1234.5, 3.14159)] == ["1.00", "100", "1234", "3.14"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["atention"], "unknown section 'atention' (did you mean 'attention'?)"),
        (["round=3"], "unknown key 'round' (did you mean 'rounds'?)"),
        (["rounds=0"], "rounds=0 is not a whole number above 0"),
        (["out="], "'out=' is not key=value"),
        (["masks=fcd_z"], "masks=fcd_z: 'fcd_z' is not one of "),
        (["exp=nothing"], "exp=nothing: 'nothing' is not one of "),
        (["clock=cpu"], "clock=cpu sums over threads: use it with threads=1"),
    ],
)
def test_bad_arguments(words, said):
    with pytest.raises(ValueError) as error:
        arguments(words)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


@pytest.mark.parametrize("word", ["--help", "rounds=x", "device=tpu"])
def test_command(word):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "bench.py"), word], capture_output=True, text=True, check=False, timeout=120
    )
    if word == "--help":
        assert done.returncode == 0 and "attention" in done.stdout
    else:
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
