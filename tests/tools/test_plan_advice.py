"""What a plan advises are words of a command line that do what it says, and what it says of communication."""

import pytest
from tiny import CONF, composed, tiny

from unigen.config.preflight import preflight
from unigen.config.values import ConfigError
from unigen.tools.plan.estimate import _computed, fitting, plan
from unigen.tools.plan.memory import GIB, Traffic, sharding, traffic
from unigen.tools.plan.profile import read_profile
from unigen.tools.plan.terminal import time_table, verdict

H100 = read_profile(CONF / "profile", "h100")
SMALL = ("backbone.pretrained=null", "backbone.config.num_layers=1", "data.batch_size=4", "data.limit=200")
LINE = ("+exp=fcd_mask_a", *SMALL, "trainer.devices=4", "trainer.precision=bf16-mixed")


def strategy(name):
    return composed(f"strategy={name}")["strategy"]


def test_advice_is_a_command_line_that_does_what_it_says():
    """Nothing fits into no memory, so every switch is proposed; each line has those of the one before it."""
    nothing, config = H100._replace(memory_gib=0.0), composed(*LINE)
    made, others = plan(config, nothing), list(fitting(config, nothing))
    lines = [line.strip().partition(": ")[0].split() for line in verdict(made, others)[1 : len(others) + 1]]
    assert "strategy=deepspeed_2" in lines[-3] and "strategy=deepspeed_3" in lines[-1]
    for words, other in ((lines[i], others[i]) for i in (-3, -1)):
        preflight(CONF, [*LINE, *words])
        again = plan(composed(*LINE, *words), nothing)
        assert (again.peak, again.seconds) == (other.peak, other.seconds) != (made.peak, made.seconds)
    proposed = {word.partition("=")[0] for words in lines for word in words}
    assert {"backbone.gradient_checkpointing", "encoder.text.dtype", "strategy", "trainer.precision"} <= proposed
    with pytest.raises(ConfigError, match=r"trainer\.strategy"):  # negative control: where it once was
        preflight(CONF, [*LINE, "trainer.strategy=deepspeed_3"])


def test_a_trained_text_encoder_is_not_to_be_rounded():
    config = tiny("+exp=fcd_mask_a", "trainer.devices=4")
    assert config["encoder"]["text"]["trained"]
    found = [made.switches["encoder.text.dtype"] for made in fitting(config, H100._replace(memory_gib=0.0))]
    assert len(found) > 2 and set(found) == {"float32"}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ddp", Traffic(gradients=300, updates=300, weights=0)),  # an all-reduce, once
        ("deepspeed_1", Traffic(gradients=300, updates=300, weights=0)),
        ("deepspeed_2", Traffic(gradients=900, updates=300, weights=0)),  # summed after each of 3 micro-batches
        ("deepspeed_3", Traffic(gradients=900, updates=0, weights=18000)),
        ("fsdp2", Traffic(gradients=900, updates=0, weights=18000)),
    ],
)
def test_what_a_device_sends(name, wanted):
    """100 trained weights of 1,000, 4 bytes each, on 4 devices: three quarters of 400 and of 4,000 bytes."""
    assert traffic(100, 1000, 4, world=4, accumulate=3, s=sharding(strategy(name), 4)) == wanted
    assert sum(traffic(100, 1000, 4, world=1, accumulate=3, s=sharding(strategy(name), 1))) == 0
    halved = traffic(100, 1000, 2, world=4, accumulate=3, s=sharding(strategy(name), 4))
    assert sum(halved) == sum(wanted) / 2


def test_communication_is_added_to_computing_and_slower_between_nodes():
    line = ("+exp=fcd_mask_a", "trainer.devices=4", "strategy=ddp")
    one, two = (plan(tiny(*line, f"trainer.num_nodes={n}"), H100) for n in (1, 2))
    assert one.communicating == sum(one.traffic) / H100.link > 0
    assert two.communicating == sum(two.traffic) / H100.network > one.communicating
    assert one.computing == two.computing and two.seconds == two.computing + two.communicating
    assert one.mfu > two.mfu
    table = time_table(two)
    rows = dict(zip(table.columns[0].cells, table.columns[1].cells, strict=True))
    assert rows["GiB sent by a device in an optimizer step: gradients"] == f"{two.traffic.gradients / GIB:.2f}"
    assert any("assumed" in name and "communicating" in name for name in rows)


def test_a_codec_in_bfloat16_computes_faster():
    made = plan(tiny("+exp=fcd_mask_a"), H100)
    narrow = made._replace(switches={**made.switches, "encoder.codec.dtype": "bfloat16"})
    saved = made.encoding.flops / H100.efficiency * (1 / H100.flops["tf32"] - 1 / H100.flops["bf16"])
    assert _computed(made) - _computed(narrow) == pytest.approx(saved) and saved > 0
