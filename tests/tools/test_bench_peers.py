"""The bench's peers section at tiny shapes: a peer computes what ours does, or is refused. No times."""

import math
import sys

import pytest
import torch
from tiny import CONF, tiny
from torch import nn

sys.path.insert(0, str(CONF.parent))

from bench import arguments, composed

from unigen.tools.bench import peers as bench_peers
from unigen.tools.bench.gpu import GRIDS
from unigen.tools.bench.peers import (
    CASES,
    COLUMNS,
    DENSE,
    FRESH,
    KEPT,
    PEER,
    REUSE,
    SIZES,
    Contest,
    Way,
    case_table,
    peak,
    peer_tables,
)
from unigen.tools.bench.turns import Effort

ONCE = Effort(torch.device("cpu"), rounds=1, limit=0.0)
SMALL = CASES[0], CASES[1], CASES[2]._replace(setting=GRIDS[2])
TRAINED = [case for case in SMALL if case.trained]
# Codecs whose posteriors are sampled in training, as the published ones' are.
VAE = (
    "pretrained=null",
    "config.block_out_channels=[8,8,8,8]",
    "config.norm_num_groups=4",
    "config.layers_per_block=1",
)
CODECS = {"fcd_mask_a": "cogvideox_vae", "fcd_mask_b": "cogvideox_vae", "visualcloze_fill": "flux_vae"}


def small(case, *overrides: str) -> dict:
    """The case at the tests' sizes, with LoRA and a frozen text encoder."""
    exact = "trainer.precision=32-true"  # also on a CPU that multiplies bf16
    config = tiny(f"+exp={case.exp}", "conditioning/adapter=lora", exact, *case.words, *overrides)
    config["encoder"]["text"] |= {"trained": False, "window": 32}
    config["data"] |= {"size": 32, "batch_size": 2}
    config["solver"]["steps"] = 2  # divides 1000: else diffusers rounds times otherwise
    return config


def sampled(case) -> list[str]:
    return [f"encoder/codec={CODECS[case.exp]}", *(f"encoder.codec.{word}" for word in VAE)]


@pytest.mark.parametrize("case", SMALL, ids=[c.exp for c in SMALL])
def test_a_peer_computes_what_ours_does(case):
    """Gradients of a batch of one, through a codec that samples; the loss of a batch of two, through one that does not;
    and sampled latents, under guidance where the case has it."""
    guided = ["guidance.strength=6.0"] if case.exp.startswith("fcd") else []
    contest = Contest(case, small(case, *sampled(case), *guided), ONCE)
    assert contest.training_difference() < 1e-5 and contest.sampling_difference() < 1e-4
    contest = Contest(case, small(case), ONCE)
    batch = contest.fresh.batch(2)
    losses = contest._our_loss(contest.ours, batch), contest._loss(contest.peers[PEER], batch)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


@pytest.mark.parametrize("case", TRAINED, ids=[c.exp for c in TRAINED])
def test_a_peer_computes_the_same_in_bf16(case):
    """As on a GPU, where weights and encoders are held in it."""
    kept = ("trainer.precision=bf16-true", "encoder.text.dtype=bfloat16", "encoder.codec.dtype=bfloat16")
    contest = Contest(case, small(case, *sampled(case), *kept), ONCE)
    assert all(p.dtype == torch.bfloat16 for p in contest.peers[PEER].model.parameters())
    assert contest.training_difference() < 0.1 and contest.sampling_difference() < 0.1


def test_a_peer_that_does_other_work_is_refused():
    """Negative controls: another mask, the step's time for conditions, other positions, another blank."""
    frames, own, grid = SMALL

    def broken(case, **changed):
        contest = Contest(case, small(case), ONCE)
        for name, value in changed.items():
            setattr(contest.peers[PEER], name, value)
        return contest

    other = small(frames) | {"mask": {"rows": small(frames, "mask=fcd_d")["mask"]["rows"]}}
    real = Contest(grid, small(grid), ONCE).peers[PEER]._ids
    for contest in (
        broken(frames, config=other),
        broken(own, own_time=False),
        broken(grid, _ids=lambda batch: [ids * torch.tensor([3, 1, 1]) for ids in real(batch)]),
        broken(
            grid,
            fill=type("Grey", (), {"draw": broken(grid).ours.fill.draw, "blank": {"train": "grey", "sample": "grey"}}),
        ),
    ):
        with pytest.raises(ArithmeticError, match="gradients of ours and the peer differ by"):
            contest.training_difference()
        with pytest.raises(ArithmeticError, match="latents of ours and the peer differ by"):
            contest.sampling_difference()


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL, ids=[c.exp for c in SMALL])
def test_a_table_is_whole(case):
    config = small(case)
    table = case_table("tiny", Contest(case, config, ONCE), ONCE)
    peers = [PEER, DENSE] if case.exp == "visualcloze_fill" else [PEER]
    wanted = [f"training step: {n}" for n in (*peers, FRESH, KEPT)] * case.trained
    wanted += [f"sampling: {n}" for n in (*peers, FRESH, *[REUSE] * (case.exp == "fcd_mask_b"))]
    assert [row[0] for row in table.rows] == wanted and table.columns == COLUMNS
    assert all(math.isfinite(x) and x > 0 for row in table.rows for x in row[1:])
    assert all(row[2] == row[4] == 1.0 for row in table.rows if row[0].endswith(f": {PEER}"))


def test_nothing_is_known_of_fresh_batches_and_everything_of_kept_ones(tmp_path):
    """How many images the codec is asked for: two of each sample by both, and none when latents are kept."""
    contest = Contest(SMALL[0], small(SMALL[0], *sampled(SMALL[0])), ONCE)
    ways, asked = contest.training(tmp_path), []
    moments = contest.ours.codec.moments
    contest.ours.codec.moments = lambda pixels: asked.append(len(pixels)) or moments(pixels)
    for name, wanted in ((PEER, [1, 1, 1, 1]), (FRESH, [2, 2]), (KEPT, [2, 2])):
        asked.clear()
        ways[name].run()
        assert asked == wanted
    asked.clear()
    ways[KEPT].run()
    assert asked == []


def test_peak_memory_is_what_is_held_and_what_is_made():
    layer = nn.Linear(100, 100)
    way = Way(lambda: [torch.zeros(250_000) for _ in range(2)] and torch.zeros(1), (layer, layer))
    weights = 4 * (100 * 100 + 100)
    assert way.held() == weights, "what is shared counts once"
    assert peak(way, ONCE.device) == pytest.approx(weights + 2 * 1_000_000, rel=0.01)
    adamw = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 100)).sum().backward()
    adamw.step()
    assert way._replace(optimizer=adamw).held() == 3 * weights + 2 * 4


@pytest.mark.parametrize("size", SIZES)
def test_sizes_compose(size):
    for case in CASES:
        config = composed(case.exp, *case.words, *SIZES[size][case.setting])
        assert config["conditioning"]["adapter"]["rank"] > 0
        assert (size == "mini") == (config["scale"]["name"] == "mini")
        if size != "mini":
            assert config["backbone"]["pretrained"] is config["encoder"]["codec"]["pretrained"] is None
            assert config["encoder"]["text"]["pretrained"] is None and config["encoder"]["text"]["tokenizer"] == "byt5"


def test_full_size_is_refused_on_a_cpu_and_full_training_for_a_peer():
    with pytest.raises(ValueError, match="on a CPU use sizes=mini,medium"):
        next(peer_tables(composed, ["mini", "paper"], ONCE))
    with pytest.raises(ValueError, match="conditioning/adapter=lora"):
        Contest(SMALL[0], small(SMALL[0], "conditioning/adapter=full"), ONCE)
    with pytest.raises(ValueError, match="sizes=large: 'large' is not one of medium, mini, paper"):
        arguments(["peers", "sizes=large"])
    assert arguments(["peers"])[0] == ["peers"] and "peers" not in arguments([])[0] and bench_peers.CASES
