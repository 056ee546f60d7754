"""The header says who sees whom, what arrives by detours, and what may be cached."""

from dataclasses import replace

import pytest
from tiny import composed, slots, tiny

from unigen.core.layout import Layout, Segment
from unigen.core.masks import Mask, static_segments
from unigen.pipeline.build import build, build_pipeline
from unigen.pipeline.header import bundled, cacheable, influence, mask_table, print_header, sizes, strengths, unmasked
from unigen.pipeline.learner import parameters

# text, condition and target of 3, 4 and 5 tokens
LAYOUT = Layout(
    (
        Segment("text", "text", "text", (3, 1, 1), (0, 0, 0), (1, 1, 1), 0.0),
        Segment("condition", "condition", "visual", (1, 2, 2), (0, 0, 0), (1, 1, 1), 0.0),
        Segment("target", "target", "visual", (1, 1, 5), (1, 0, 0), (1, 1, 1), 1.0),
    )
)
DETOUR = "closure: {} is blocked, but arrives after 2 layers through others"
NEVER = "closure: {} never arrives"
BOTH_WAYS = [DETOUR.format("condition -> text"), DETOUR.format("text -> condition")]


@pytest.mark.parametrize(
    ("name", "rows", "lines"),
    [
        ("fcd_a", ["yes - yes", "- yes yes", "yes yes yes"], BOTH_WAYS),
        (
            "fcd_b",
            ["yes - yes", "- yes -", "yes yes yes"],
            [BOTH_WAYS[0], NEVER.format("text -> condition"), NEVER.format("target -> condition")],
        ),
        ("fcd_c", ["yes - yes", "- - yes", "yes yes yes"], BOTH_WAYS),
        ("fcd_d", ["yes yes yes"] * 3, ["closure: every segment reaches every other in one layer"]),
    ],
)
def test_masks_in_words(name, rows, lines):
    mask = build(composed(f"mask={name}")["mask"])
    table = mask_table(LAYOUT, mask)
    cells = [list(column.cells) for column in table.columns]
    assert [column.header for column in table.columns[1:]] == ["text (3)", "condition (4)", "target (5)"]
    assert list(zip(*cells, strict=True)) == [
        (query, *row.split()) for query, row in zip(("text", "condition", "target"), rows, strict=True)
    ]
    assert influence(LAYOUT, mask) == lines


def test_strengths_are_said_but_for_1():
    rows = {role: {"text": "all", "target": "all"} for role in ("text", "target")}
    found = strengths(Mask("m", rows, {"target": {"text": 1.5, "target": 1}}))
    assert found == ["strength: target attends to text with 1.5 times the weight (mask.bias.target.text)"]
    assert strengths(Mask("m", rows)) == []


def test_segments_of_one_role_share_a_row():
    """A grid of three rows has a dozen: by themselves they would fill the terminal with one word."""
    conditions = (
        Segment(f"condition{i}", "condition", "visual", (1, 2, 2), (i, 0, 0), (1, 1, 1), 0.0) for i in range(3)
    )
    layout = Layout((LAYOUT["text"], *conditions, LAYOUT["target"]))
    for name, cell, line in (("fcd_a_apart", "itself", True), ("fcd_a", "yes", False)):
        mask = build(composed(f"mask={name}")["mask"])
        table = mask_table(layout, mask)
        assert [column.header for column in table.columns[1:]] == ["text (3)", "condition (3 × 4)", "target (5)"]
        assert list(table.columns[2].cells)[1] == cell
        said = influence(layout, mask)
        assert (DETOUR.format("condition -> another condition") in said) == line and set(BOTH_WAYS) <= set(said)
        assert len(said) == 2 + line


def test_turns_are_named_where_a_mask_tells_them_apart():
    placed = [replace(s, name=f"{s.name}{turn}", turn=turn) for turn in (0, 1) for s in LAYOUT.segments]
    layout, causal = Layout(tuple(placed)), build(composed("mask=turns")["mask"])
    cells = list(zip(*(column.cells for column in mask_table(layout, causal).columns), strict=True))
    past = ("earlier", "earlier", "-")
    assert cells == [("text", *past), ("condition", *past), ("target", "earlier", "earlier", "itself")]
    said = influence(layout, causal)
    assert NEVER.format("condition of a later turn -> text") in said
    assert NEVER.format("target -> condition") in said and NEVER.format("target -> another target") in said
    assert cacheable_now(layout, causal) == ("text0", "condition0", "text1", "condition1")
    one = mask_table(LAYOUT, causal)
    assert [next(iter(column.cells)) for column in one.columns[1:]] == ["yes", "yes", "-"], "negative control: one turn"


def cacheable_now(layout: Layout, mask: Mask) -> tuple[str, ...]:
    return static_segments(layout, mask, dict.fromkeys(layout.roles, "own"))


def test_pooled_text_is_named_where_a_backbone_has_it():
    assert unmasked(build_pipeline(tiny())) == []
    [line] = unmasked(build_pipeline(tiny("backbone=flux_mini", "mask=fcd_b")))
    assert line.startswith("the prompt's pooled vector is part of every segment's time embedding")


def test_a_family_whose_text_asks_nothing_says_so_in_one_line():
    """And its table, closure and shares are those of what it does."""
    pipeline = build_pipeline(tiny("backbone=wan_mini", "process=rectified_flow", "mask=fcd_d"))
    [line] = unmasked(pipeline)
    assert line.startswith("text is read by cross-attention and reads nothing")
    layout = pipeline.plan(slots()).layout
    table = mask_table(layout, pipeline.effective_mask)
    assert [next(iter(column.cells)) for column in table.columns] == ["text", "yes", "-", "-"]
    assert cacheable(pipeline, layout) == "cacheable over denoising steps: text"
    said = sizes(pipeline, layout)
    assert "attention computes 100.0% of all pairs" in said[1], "text has no queries, so none of them is left out"
    assert said[3].startswith(f"backbone: WanTransformer3DModel of {pipeline.backbone.stock_parameters:,} parameters")


@pytest.mark.parametrize(
    ("mask", "timing", "said"),
    [
        ("fcd_b", "own", "cacheable over denoising steps: condition0"),
        (
            "fcd_b",
            "shared",
            "cacheable over denoising steps: nothing (condition0 would be, with conditioning.modulation.timing own)",
        ),
        ("fcd_a", "own", "cacheable over denoising steps: nothing"),
    ],
)
def test_what_may_be_cached(mask, timing, said):
    pipeline = build_pipeline(tiny(f"mask={mask}", f"conditioning.modulation.timing.condition={timing}"))
    assert cacheable(pipeline, pipeline.plan(slots()).layout) == said


def test_sizes_count_what_is_trained_and_what_is_attended(capsys):
    config = tiny("conditioning/adapter=lora", "+exp=fcd_mask_a")
    pipeline = build_pipeline(config)
    count = parameters(*pipeline.modules)
    lora = sum(p.numel() for name, p in pipeline.backbone.named_parameters() if "lora_" in name)
    small = [pipeline.embedding, pipeline.text]
    assert count["trained"] == lora + sum(p.numel() for module in small for p in module.parameters())
    assert count["trained"] < count["total"]
    lines = sizes(pipeline, pipeline.plan(slots()).layout)  # 4 text tokens (16 bytes by 4), 6 an image: 256 pairs
    assert lines[0].endswith(f"({count['trained']:,} of {count['total']:,})")
    share = (256 - 2 * 4 * 6) / 256
    assert (
        lines[1]
        == f"tokens per sample: 16 (text 4, condition0 6, target 6); attention computes {share:.1%} of all pairs"
    )
    print_header(pipeline, slots(), config)
    said = capsys.readouterr().out
    assert said.startswith("fcd_mask_a (RealGeneral, Tables 1 to 4), task canny, seed 0\n")
    assert all(text in said for text in lines)


def test_paper_scale_says_that_its_images_are_still_the_bundled_ones():
    (said,) = bundled(composed("+exp=fcd_mask_a", "scale=paper"))
    assert "bundled emoji" in said and "docs/paper_scale.md" in said
    assert bundled(composed("+exp=fcd_mask_a")) == []
    assert bundled(composed("+exp=fcd_mask_a", "scale=paper", "data=subjects200k", "data.train.root=x")) == []
