"""Peak memory within 10 %, FLOPs within 2 %: a plan beside what PyTorch counts of real mini steps."""

import sys

import pytest
from tiny import CONF, composed

sys.path.insert(0, str(CONF.parent))

from unigen.tools.bench.calibration import ADAPTERS, Step, calibration_table, measured, planned, words

BATCH = {"fcd_mask_a": 16, "visualcloze_fill": 4}  # so large that activations, not encoding, make the peak


def step_of(exp, adapter, checkpointed):
    config = composed(f"+exp={exp}", *words(adapter, checkpointed), "data.limit=200", f"data.batch_size={BATCH[exp]}")
    return planned(config), measured(config)


def within(found, wanted, share):
    return abs(found / wanted - 1) <= share


@pytest.fixture(scope="module")
def steps():
    """All of the video mini, two of the image mini; `python experiments/bench.py calibration` has the rest."""
    cases = [("fcd_mask_a", a, c) for a in ADAPTERS for c in (False, True)]
    cases += [("visualcloze_fill", "lora", False), ("visualcloze_fill", "full", True)]
    return {case: step_of(*case) for case in cases}


@pytest.mark.slow
def test_peak_memory_and_flops_are_those_of_the_profiler(steps):
    for case, (plan, real) in steps.items():
        assert within(plan.peak, real.peak, 0.10), (case, plan.peak / real.peak)
        assert within(plan.flops, real.flops, 0.02), (case, plan.flops / real.flops)


@pytest.mark.slow
def test_the_tolerances_tell_steps_apart(steps):
    """Negative control: checkpointing and what is trained are seen, in memory and in FLOPs."""
    for adapter in ADAPTERS:
        plain, real = steps["fcd_mask_a", adapter, False][0], steps["fcd_mask_a", adapter, True][1]
        assert not within(plain.peak, real.peak, 0.10) and not within(plain.flops, real.flops, 0.02)
    lora, full = steps["fcd_mask_a", "lora", False][0], steps["fcd_mask_a", "full", False][1]
    assert not within(lora.flops, full.flops, 0.02)
    lora, full = steps["visualcloze_fill", "lora", False][0], steps["visualcloze_fill", "full", True][1]
    assert not within(lora.peak, full.peak, 0.10) and not within(lora.flops, full.flops, 0.02)


def test_the_table_has_a_row_for_every_step(monkeypatch):
    monkeypatch.setattr("unigen.tools.bench.calibration.planned", lambda config: Step(3.0, 4e9))
    monkeypatch.setattr("unigen.tools.bench.calibration.measured", lambda config: Step(2.0, 5e9))
    asked = []
    table = calibration_table(lambda *line: asked.append(line) or {})
    assert len(table.rows) == len(set(asked)) == 8 and {row[3] for row in table.rows} == {1.5}
    assert {row[6] for row in table.rows} == {0.8} and "visualcloze_fill, full, checkpointed" in table.markdown()
