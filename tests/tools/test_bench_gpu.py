"""The bench's gpu section on tiny models: rows go on after each other, and hold what plans and runs count. No times."""

import sys

import pytest
import torch
from tiny import CONF, tiny

from unigen.core.types import Batch
from unigen.pipeline.build import build_learner
from unigen.tools.bench.turns import Effort
from unigen.tools.plan.profile import read_profile

sys.path.insert(0, str(CONF.parent))

from bench import arguments

from unigen.tools.bench import gpu as bench_gpu
from unigen.tools.bench.gpu import BASE, COLUMNS, GRIDS, OUT_OF_MEMORY, PAIR, Row, all_rows, gpu_table, materialise

ONCE = Effort(torch.device("cpu"), rounds=1, limit=0.0)
H100 = read_profile(CONF / "profile", "h100")
MATH = ("backbone.kernel=math",)


def small(row):
    words = (f"+exp={row.setting.exp}", "trainer.precision=32-true", *BASE, *row.words)
    return tiny(*words, "conditioning/adapter=lora", num_layers=1, num_single_layers=1)


def rows_of(rows, path, known=True, machine="here"):
    return list(bench_gpu.measured_rows(rows, small, H100, known, path, machine, ONCE))


@pytest.mark.slow
def test_rows_are_measured_once_each_and_a_second_start_goes_on(tmp_path, monkeypatch):
    path, rows = (
        tmp_path / "new" / "rows.jsonl",
        [Row(PAIR, ()), Row(PAIR, MATH), Row(GRIDS[2], ("optimizer.fused=true",))],
    )
    first = rows_of(rows, path)
    assert [r["name"] for r in first] == [r.name for r in rows] and all(r["ms"] > 0 for r in first)
    assert first[0]["planned_gib"] == first[1]["planned_gib"] and 0 < first[0]["mfu"] < 1
    assert "mfu" not in rows_of(rows[:1], tmp_path / "other.jsonl", known=False)[0]
    with path.open("a") as file:
        file.write('{"name": "torn')
    monkeypatch.setattr(bench_gpu, "Step", None)  # negative control: whoever measures again fails
    assert rows_of(rows, path) == first
    with pytest.raises(TypeError):
        rows_of(rows, path, machine="elsewhere")
    table = gpu_table(iter(first), "title", H100)
    assert len(table.rows) == 3 and table.columns == COLUMNS and "h100 at 35%" in table.note


@pytest.mark.slow
def test_what_does_not_fit_or_is_not_there_says_so_and_the_next_goes_on(tmp_path, monkeypatch):
    rows, real, tried = [Row(PAIR, MATH), Row(PAIR, ("backbone.kernel=flash_2",)), Row(PAIR, ())], bench_gpu.Step, []

    def step(*args):
        tried.append(args)
        if len(tried) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(*args)

    monkeypatch.setattr(bench_gpu, "Step", step)
    full, absent, fine = rows_of(rows, tmp_path / "rows.jsonl")
    assert full["else"] == OUT_OF_MEMORY and "ms" not in full and full["planned_gib"] > 0
    assert absent["else"].startswith("backbone.kernel=flash_2 cannot train here") and "ms" not in absent
    assert fine["ms"] > 0
    cells = gpu_table(iter([full, fine]), "title", H100).rows
    assert cells[0][COLUMNS.index("ms")] is None and cells[1][COLUMNS.index("ms")] == fine["ms"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3


def test_a_row_counts_what_a_run_and_a_plan_count():
    row = Row(PAIR, ())
    config = small(row)
    slots, learner = PAIR.slots(config["data"]["size"]), build_learner(config)
    assert bench_gpu.model_flops(learner.pipeline, row, config) == learner.cost(Batch(slots, {}, [], [], []))[1] > 0
    made = bench_gpu.planned(config, row, H100)
    assert made.batch == PAIR.batch and made.held.encoders == 0 == made.encoding.flops == made.profile.reserve_gib
    step = bench_gpu.Step(config, slots, 2, ONCE.device)
    assert made.held.weights - sum(p.nbytes for p in step.pipeline.backbone.parameters()) == sum(
        p.nbytes for p in (*learner.pipeline.embedding.parameters(), *learner.pipeline.text.parameters())
    )


def test_a_step_changes_adapters_alone_at_times_of_its_own():
    config = small(Row(PAIR, ()))
    step = bench_gpu.Step(config, PAIR.slots(config["data"]["size"]), 2, ONCE.device)
    model = step.pipeline.backbone
    before = {n: p.clone() for n, p in model.named_parameters()}
    step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("lora_" in n for n in changed)


def test_made_up_weights_are_shared_as_the_shapes_were():
    with torch.device("meta"):
        meta = build_learner(small(Row(PAIR, ()))).pipeline.backbone
    shared = len(list(meta.named_parameters(remove_duplicate=False))) - len(list(meta.parameters()))
    trained = [n for n, p in meta.named_parameters() if p.requires_grad]
    materialise(meta, ONCE.device, torch.bfloat16)
    assert len(list(meta.named_parameters(remove_duplicate=False))) - len(list(meta.parameters())) == shared > 0
    assert [n for n, p in meta.named_parameters() if p.requires_grad] == trained
    assert all(p.dtype == torch.bfloat16 and not p.is_meta for p in meta.parameters())
    with pytest.raises(ValueError, match="module 1 has buffers"):
        materialise(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm1d(2)), ONCE.device, torch.float32)


def test_settings_are_the_published_ones():
    sizes = {s.name: (s.role, s.height, s.row) for s in GRIDS[4].slots(384)}
    assert len(sizes) == 12 and [role for role, _, _ in sizes.values()].count("example") == 8
    assert sizes["target"] == ("target", 384, 2) and len(PAIR.slots(512)) == 2
    names = [row.name for row in all_rows()]
    assert len(set(names)) == len(names)
    words = " ".join(names)
    assert all(w in words for w in ("flash", "cudnn", "compile", "int8", "nf4", "fused", "flex", "dense", "3×2", "3×4"))


def test_the_section_runs_only_if_named_and_paper_models_not_on_a_cpu(tmp_path):
    assert "gpu" not in arguments([])[0] and arguments(["gpu", "scale=mini"])[0] == ["gpu"]
    with pytest.raises(ValueError, match="on a CPU use scale=mini"):
        bench_gpu.gpu_section(None, CONF / "profile", "paper", "", tmp_path / "rows.jsonl", ONCE)
    with pytest.raises(ValueError, match="profile=h1000"):
        arguments(["gpu", "profile=h1000"])
