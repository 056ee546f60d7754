"""EmojiGraph: what every image of a row is, which glyphs have it, and the graph of conf/graph/emoji."""

from collections import Counter

import numpy as np
import pytest
import yaml
from tiny import CONF

from datamodules import degradations
from datamodules.emoji.cache import LAYERS, EmojiImages, draw_glyph, glyphs
from datamodules.emoji.images import NAMES, NO_COLOUR_LAYER, NO_LINE, STYLES, EmojiGraph, Row, _codes, category, sobel
from datamodules.emoji.names import TONES, base_of, caption
from datamodules.emoji.splits import split_of
from datamodules.graph.graph import AnnotationGraph

SIZE = 32
WAVE, FARMER = "1f44b", "1f469-1f3fb-200d-1f33e"
TONED = tuple(f"-{tone}" for tone in TONES)
WAVES = [f"{WAVE}{tone}" for tone in ("", *TONED)]
FARMERS = [f"{who}{tone}-200d-1f33e" for who in ("1f468", "1f469", "1f9d1") for tone in ("", *TONED)]
OTHERS = [
    "1f600",
    "1f431",
    "1f1e9-1f1ea",
    "1f34e",
    "1f550",
    "1f3c2",
    "1f3c2-1f3fd",
    "1f468-200d-1f466",
    "1f469-200d-1f467",
]


def graph(name: str = "emoji", **changes) -> AnnotationGraph:
    """A graph of the config folder with some arguments changed."""
    config = yaml.safe_load((CONF / "graph" / f"{name}.yaml").read_text())
    return AnnotationGraph(**{key: value for key, value in {**config, **changes}.items() if key != "_target_"})


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> EmojiGraph:
    names = sorted([*WAVES, *FARMERS, *OTHERS])
    made = EmojiGraph(EmojiImages(SIZE, names, tmp_path_factory.mktemp("emoji")), shared_degradations=True)
    made.prepare(graph().tasks)
    return made


def row(records: EmojiGraph, glyph: str, other: str = "1f431", sample: int = 1, number: int = 0) -> Row:
    return Row(records.images.names.index(glyph), records.images.names.index(other), sample, number)


def shown(records: EmojiGraph, name: str, at: Row) -> str:
    return records.images.names[records.shown(name, at)]


# --- the graph ------------------------------------------------------------------------------------------------------


def test_the_graph_has_at_least_as_many_tasks_as_the_paper_of_images_that_emoji_have(records):
    made = graph()
    summary = made.summary()
    assert len(made.tasks) == 137 and len(summary["tasks_by_meta_task"]) == 5 and summary["nodes"] == 43
    assert made.strongly_connected() and made.strongly_connected(made.training_tasks)
    records.check((*made.tasks, *made.unseen_tasks), "tasks")
    with pytest.raises(ValueError, match=r"tasks: the emoji have no image 'depth', which task depth>target needs"):
        records.check(graph("graph200k").tasks, "tasks")
    used = {name for task in made.tasks for name in task.images}
    assert {*NAMES} - {"gray"} == used


def test_the_graph_has_the_mini_tasks_and_the_degradations_of_graph200k():
    made, paper = graph(), graph("graph200k")
    trained = {task.name for task in made.training_tasks}
    assert {"canny>target", "line>openmoji", "grey>target", "openmoji>target", "target>openmoji"} <= trained
    named = [{"grey": "gray"}.get(name, name) for name in made.of_kind("degradation")]
    assert named == list(paper.of_kind("degradation")) and set(named) == set(degradations.NAMES)
    assert made.held_out_tasks and made.unseen_tasks and not trained & {task.name for task in made.held_out_tasks}


# --- what a glyph has -----------------------------------------------------------------------------------------------


def test_relatives_differ_in_the_one_attribute_and_share_a_base_hence_a_split():
    names = glyphs()
    made = EmojiGraph(EmojiImages(SIZE, names), shared_degradations=True)
    for attribute, relatives in made.relatives.items():
        assert len(relatives) > 1900
        for index, found in relatives.items():
            values = [value for value, _ in found]
            assert len(set(values)) == len(values) and index not in [other for _, other in found]
            assert {base_of(names[other]) for _, other in found} == {base_of(names[index])}, names[index]
            assert all(any(back == index for _, back in relatives[other]) for _, other in found)
            tones = [[code for code in names[i].split("-") if code in TONES] for i in (index, found[0][1])]
            assert (tones[0] == tones[1]) == (attribute == "gender"), names[index]
    splits = {split_of(base_of(names[index])) for index in made.relatives["gender"]}
    assert splits == {"train", "val", "test"}


def test_who_has_relatives(records):
    names = records.images.names
    found = {name: {a for a in ("skin_tone", "gender") if records.has(i, a)} for i, name in enumerate(names)}
    assert all(found[name] == {"skin_tone"} for name in WAVES)
    assert all(found[name] == {"skin_tone", "gender"} for name in FARMERS)
    assert not any(found[name] for name in OTHERS)  # a snowboarder's skin is not seen, families are drawn alike
    of_farmer = [names[i] for _, i in records.relatives["gender"][names.index(FARMER)]]
    assert sorted(of_farmer) == ["1f468-1f3fb-200d-1f33e", "1f9d1-1f3fb-200d-1f33e"]


def test_the_layers_that_are_said_to_be_blank_are_and_others_are_not():
    for kind, text in (("colour_layer", NO_COLOUR_LAYER), ("line", NO_LINE)):
        blank = _codes(text)
        assert blank <= set(glyphs()) and all(draw_glyph(name, kind, 12).min() == 255 for name in blank)
        assert all(draw_glyph(name, kind, 12).min() < 255 for name in glyphs(150) if name not in blank)
        assert blank & set(glyphs(1000)), "negative control: such glyphs are among those that are looked at"


def test_needs_are_what_not_every_glyph_has(records):
    task = graph().task
    assert records.needs(task("reference+canny>target")) == frozenset()
    assert records.needs(task("target+line_ref>line")) == {"line"}
    assert records.needs(task("gender>target")) == {"gender"}
    clock = records.images.names.index("1f550")
    assert not records.has(clock, "colour_layer") and not records.has(clock, "colour_layer_ref")
    assert records.has(clock, "line") and records.has(clock, "jpeg")


def test_categories_are_one_for_all_variants_of_a_base():
    assert [category(glyph) for glyph in ("1f9d1", WAVE, "1f3c3", "1f1e9-1f1ea", "1f600", "2194")] == [
        "people",
        "people",
        "people",
        "flags",
        "emoticons",
        "arrows",
    ]
    found: dict[str, set[str]] = {}
    for glyph in glyphs():
        found.setdefault(base_of(glyph), set()).add(category(glyph))
    mixed = {base for base, categories in found.items() if len(categories) > 1}
    assert len(mixed) <= 2 and "people" not in set().union(*(found[base] for base in mixed), set())
    assert len(Counter(category(glyph) for glyph in glyphs())) > 10


# --- what an image is ----------------------------------------------------------------------------------------------


def test_every_image_is_an_image_and_most_differ(records):
    at, seen = row(records, FARMER), set()
    for name in NAMES:
        image = records.image(name, at)
        assert image.dtype == np.uint8 and image.shape == (3, SIZE, SIZE), name
        seen.add(image.tobytes())
    assert len(seen) == len(NAMES) - 1  # gray and grey are one
    with pytest.raises(ValueError, match="unknown degradation 'sepia'"):
        records.image("sepia", at)


def test_drawn_images_and_their_references(records):
    at = row(records, FARMER)
    assert np.array_equal(records.image("target", at), draw_glyph(FARMER, "twemoji", SIZE))
    for style in STYLES:
        assert np.array_equal(records.image(style, at), draw_glyph(FARMER, style, SIZE))
        assert np.array_equal(records.image(f"{style}_ref", at), draw_glyph("1f431", style, SIZE))
        assert shown(records, style, at) == FARMER and shown(records, f"{style}_ref", at) == "1f431"
    assert np.array_equal(records.image("grey", at), records.image("gray", at))
    assert not np.array_equal(records.image("grey", at), records.image("target", at))


def test_the_two_layers_make_up_the_drawing(records):
    """Outlines laid over colours, of drawings that have no white or coloured ones."""
    for glyph in (WAVE, "1f431", "1f34e"):
        at = row(records, glyph)
        whole, line, colours = (records.image(style, at).astype(int) for style in STYLES)
        assert np.abs(line * colours / 255 - whole).mean() < 1
        assert np.abs(line - whole).mean() > 9 and np.abs(colours - whole).mean() > 9


def test_mask_foreground_and_box(records):
    for glyph in (FARMER, "1f600", "1f1e9-1f1ea"):
        at = row(records, glyph)
        target, mask, over_black, box = (
            records.image(name, at).astype(int) for name in ("target", "mask", "foreground", "bbox")
        )
        assert np.array_equal(over_black + (255 - mask), target)  # over white it is the target again
        assert not over_black[mask == 0].any() and (target[mask == 0] == 255).all()
        solid = mask >= 128
        assert (mask == 255).any() and (box[solid] == 255).all() and set(np.unique(box)) <= {0, 255}
        rows, columns = np.flatnonzero(box[0].any(1)), np.flatnonzero(box[0].any(0))
        assert solid[0][rows[[0, -1]]].any(1).all() and solid[0][:, columns[[0, -1]]].any(0).all()  # none smaller
    assert (box == 0).any()


def test_soft_edges_are_where_the_luma_changes():
    flat, step = np.full((3, 8, 8), 90, np.uint8), np.zeros((3, 8, 8), np.uint8)
    step[:, :, 4:] = 255
    assert not sobel(flat, flat).any()
    assert (sobel(step, step)[:, :, 3:5] == 255).all() and not sobel(step, step)[:, :, :3].any()


def test_the_reference_is_the_target_moved_alike_in_all_rows_of_a_sample(records):
    first, second = (records.image("reference", row(records, FARMER, number=number)) for number in (0, 1))
    elsewhere = records.image("reference", row(records, FARMER, sample=2))
    assert np.array_equal(first, second) and not np.array_equal(first, elsewhere)
    assert (first < 250).sum() < 0.95 * (records.image("target", row(records, FARMER)) < 250).sum()


def test_an_edit_leads_all_rows_of_a_sample_to_the_same_tone(records):
    wanted, kept = Counter(), 0
    for sample in range(200):
        led = Counter(shown(records, "skin_tone", row(records, glyph, sample=sample)) for glyph in WAVES)
        (first, often), (_, rarely) = led.most_common()  # the tone of the sample; for the glyph that has it, another
        assert (often, rarely) == (5, 1)
        wanted[first] += 1
        farmer = shown(records, "skin_tone", row(records, FARMER, sample=sample))
        assert farmer != FARMER and base_of(farmer) == base_of(FARMER) and caption(farmer).startswith("woman farmer")
        kept += [code for code in farmer.split("-") if code in TONES] == first.split("-")[1:]
    assert min(wanted[glyph] for glyph in WAVES) > 12 and 120 < kept < 200  # 5 in 6: the farmer has a tone herself


def test_a_gender_edit_keeps_the_skin_tone(records):
    led = Counter(shown(records, "gender", row(records, FARMER, sample=sample)) for sample in range(100))
    assert set(led) == {"1f468-1f3fb-200d-1f33e", "1f9d1-1f3fb-200d-1f33e"} and min(led.values()) > 20
    at = row(records, FARMER)
    assert np.array_equal(records.image("gender", at), draw_glyph(shown(records, "gender", at), "twemoji", SIZE))


def rows_alike(records: EmojiGraph, name: str, shared: bool) -> int:
    """Of 20 samples, in how many two rows of one glyph get the same image."""
    records = EmojiGraph(records.images, shared)
    pairs = [[records.image(name, row(records, FARMER, sample=s, number=n)) for n in (0, 1)] for s in range(20)]
    return sum(np.array_equal(*pair) for pair in pairs)


def test_rows_share_a_degradation_or_draw_their_own(records):
    assert rows_alike(records, "brighten", True) == 20 and rows_alike(records, "brighten", False) < 10
    assert rows_alike(records, "gaussian_noise", True) == 0, "the strength is shared, the noise is not"
    samples = {records.image("brighten", row(records, FARMER, sample=s)).tobytes() for s in range(20)}
    assert len(samples) > 10


def test_a_shared_strength_is_the_strength_of_every_row(records):
    """Noise of one strength: its size is alike within a sample, and not between samples."""
    target = records.image("target", row(records, WAVE)).astype(int)

    def size(made: EmojiGraph, sample: int, number: int) -> float:
        noisy = made.image("gaussian_noise", row(made, WAVE, sample=sample, number=number))
        return float(np.abs(noisy.astype(int) - target).mean())

    def spread(shared: bool) -> float:
        made = EmojiGraph(records.images, shared)
        return float(np.median([abs(size(made, s, 0) / size(made, s, 1) - 1) for s in range(30)]))

    assert spread(True) < 0.06 < 0.15 < spread(False)


def test_layers_have_a_file_of_their_own(tmp_path):
    names = glyphs(4)
    drawings, layers = EmojiImages(16, names, tmp_path), EmojiImages(16, names, tmp_path, LAYERS)
    assert drawings.path != layers.path
    layers.prepare()
    assert layers.path.exists() and not drawings.path.exists()
    assert np.array_equal(layers.image("mask", 2), draw_glyph(names[2], "mask", 16))
    assert not np.array_equal(layers.image("mask", 2), layers.image("colour_layer", 2))
    for kind in ("twemoji", "canny"):
        with pytest.raises(ValueError, match=f"no images of kind '{kind}': legal kinds are mask, colour_layer"):
            layers.image(kind, 0)
