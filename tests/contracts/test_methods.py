"""In-context methods of the field: each file says what its paper and code say, in numbers and not in its own words.

Positions are of images of 512 pixels (32 tokens a side); times are of the condition at the step's t = 0.7.
"""

import re
import shlex
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from tiny import CONF, ROOT, choices, composed, methods, trained

from unigen.config.preflight import preflight
from unigen.config.replaced import replaced
from unigen.config.values import ConfigError
from unigen.core.layout import Segment, positions
from unigen.core.types import ImageSlot
from unigen.pipeline.build import build, build_on_meta
from unigen.pipeline.pipeline import Pipeline
from unigen.tools import methods as page

NAMES = choices("exp/methods")
ALL, CONDITION = {"text", "condition", "target"}, "condition"


class Fact(NamedTuple):
    first: tuple[float, ...]  # position of the condition's first token
    last: tuple[float, ...]
    sees: set[str]  # whom the condition attends to
    other: bool  # whether it attends to a second condition
    time: float
    lora: set[str]  # whose tokens carry it
    cached: bool
    target: tuple[float, ...] = (0, 0, 0)  # position of the target's first token


ON_IT, END = (0, 0, 0), (0, 31, 31)
FACTS = {
    "ominicontrol": Fact(ON_IT, END, ALL, False, 0, {CONDITION}, False),
    "ominicontrol_subject": Fact((0, 0, -32), (0, 31, -1), ALL, False, 0, {CONDITION}, False),
    "ominicontrol2": Fact((0, 0.5, 0.5), (0, 30.5, 30.5), {CONDITION}, False, 0, {CONDITION}, True),
    "easycontrol_spatial": Fact(ON_IT, (0, 30, 30), {CONDITION}, False, 0, {CONDITION}, True),
    "easycontrol_subject": Fact((0, 64, 0), (0, 79, 15), {CONDITION}, False, 0, {CONDITION}, True),
    "kontext": Fact((1, 0, 0), (1, 31, 31), ALL, True, 0.7, ALL, False),
    "uno": Fact((0, 32, 32), (0, 63, 63), ALL, True, 0.7, ALL, False),
    "photodoodle": Fact(ON_IT, END, ALL, True, 0.7, ALL, False),
    "flux2_klein_kv": Fact((10, 0, 0), (10, 31, 31), {CONDITION}, True, 0, ALL, True),
    "dreamo": Fact((0, 32, 32), (0, 63, 63), ALL, True, 0.7, ALL, False),
    "omnigen2": Fact(ON_IT, END, ALL, True, 0.7, ALL, False, (1, 0, 0)),
    "in_context_lora": Fact(ON_IT, END, ALL, True, 0.7, ALL, False, (0, 0, 32)),
    "icedit": Fact(ON_IT, END, ALL, True, 0.7, ALL, False, (0, 0, 32)),
    "vincie": Fact(ON_IT, END, ALL, True, 0.7, ALL, False, (1, 0, 0)),
    "vincie_causal": Fact(ON_IT, END, {"text", CONDITION}, True, 0, ALL, True, (1, 0, 0)),
    "qwen_edit_2511": Fact((1, -16, -16), (1, 15, 15), ALL, True, 0, ALL, False, (0, -16, -16)),
}


def slot(name: str, role: str) -> ImageSlot:
    return ImageSlot(name, role, 512, 512, 1, 0)


def found(config: dict[str, Any]) -> Fact:
    """The facts of a configuration, by the code that trains and samples."""
    pipeline = build_on_meta(config)
    layout = pipeline.plan((slot(CONDITION, CONDITION), slot("target", "target"))).layout
    where, own = positions(layout).tolist(), layout.slices[CONDITION]
    seen = {key.role for key in layout.segments if pipeline.mask.sees(layout[CONDITION], key)}
    time = float(pipeline.times(layout, torch.tensor([0.7]))[CONDITION])
    return Fact(
        tuple(where[own.start]),
        tuple(where[own.stop - 1]),
        seen,
        pipeline.mask.sees(layout[CONDITION], second(layout[CONDITION])),
        round(time, 4),
        carriers(pipeline),
        CONDITION in pipeline.static(layout),
        tuple(where[layout.slices["target"].start]),
    )


def second(condition: Segment) -> Segment:
    return Segment("another", condition.role, condition.stream, condition.grid)


def carriers(pipeline: Pipeline) -> set[str]:
    told = pipeline.backbone.role_adapters
    return ALL if told is None else {role for role, name in told.table if name is not None} & ALL


def test_every_method_has_its_facts():
    assert set(FACTS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_what_its_paper_and_its_code_say(name):
    assert found(composed(f"+exp=methods/{name}")) == FACTS[name]


@pytest.mark.parametrize("name", ["ominicontrol2", "kontext"])
def test_another_method_under_the_same_name_is_found_out(name):
    """Negative control: with every treatment changed, every fact differs."""
    config, fact = deepcopy(composed(f"+exp=methods/{name}")), FACTS[name]
    config["formatter"]["places"]["all"]["centred"] = True
    config["formatter"]["places"][CONDITION] = {"at": "origin", "offset": [2, 40, 3]}
    alone = fact.sees == {CONDITION}
    words = {"text": "all", CONDITION: "all", "target": "all"} if alone else {"text": "none", CONDITION: "same"}
    config["mask"]["rows"][CONDITION] |= words
    modulation, adapter = config["conditioning"]["modulation"], config["conditioning"]["adapter"]
    modulation["timing"][CONDITION] = {"own": "shared", "shared": "own"}[modulation["timing"][CONDITION]]
    adapter["adapters"] = None if adapter["adapters"] else dict.fromkeys(modulation["branches"])
    if adapter["adapters"]:
        adapter["adapters"]["target"], adapter["parts"] = "mine", ["attention"]
    if not alone:
        config["mask"]["rows"][CONDITION]["target"] = "none"
    changed = found(config)
    assert [key for key in Fact._fields if getattr(changed, key) == getattr(fact, key)] == []


def noised_and_encoded(name: str) -> tuple[tuple[float, ...], int, int, set[str]]:
    """Noise ceilings of condition and target; images for the codec; features beside the noise; the roles with loss."""
    pipeline = build_on_meta(composed(f"+exp=methods/{name}"))
    plan = pipeline.plan((slot(CONDITION, CONDITION), slot("target", "target")))
    canvases = {p.canvas for p in plan.placements}
    learned = {s.role for s in plan.layout.visual if s.cap > 0 and pipeline.loss.weights[s.role] > 0}
    return tuple(s.cap for s in plan.layout.visual), len(canvases), pipeline.backbone.context_width, learned


def test_what_is_noised_encoded_together_and_learned():
    """In the methods that noise the condition too, it is a panel of one image (ICEdit, In-Context LoRA) or a frame."""
    fill, panels = 64 + 256, {CONDITION, "target"}
    assert noised_and_encoded("icedit") == ((1, 1), 1, fill, panels)
    assert noised_and_encoded("in_context_lora") == ((1, 1), 1, 0, panels)
    assert noised_and_encoded("vincie") == ((1, 1), 2, fill, {"target"})
    assert noised_and_encoded("vincie_causal") == ((0, 1), 2, 0, {"target"})
    assert noised_and_encoded("kontext") == ((0, 1), 2, 0, {"target"}), "negative control: tokens of its own, clean"


def test_in_context_lora_generates_every_panel():
    data = build(composed("+exp=methods/in_context_lora")["data"])
    assert [(s.role, s.row) for s in data.slots] == [("target", 0), ("target", 0)]


def test_vincies_turns_see_the_past_alone():
    """Whom each part of a third turn sees, by name. Image i lies at time i, and all but targets is computed once."""
    pipeline = build_on_meta(composed("+exp=methods/vincie_causal"))
    targets = (ImageSlot(f"x{turn}", "target", 512, 512, row=turn) for turn in range(3))
    layout = pipeline.plan((slot(CONDITION, CONDITION), *targets)).layout
    seen = {q.name: {k.name for k in layout.segments if pipeline.mask.sees(q, k)} for q in layout.segments}
    first, past = {"text0", CONDITION}, {"text0", CONDITION, "text1", "x0_finished"}
    assert seen["x0"] == {"x0", *first} and seen["text0"] == seen[CONDITION] == first
    assert seen["x1"] == {"x1", *past} and seen["text1"] == seen["x0_finished"] == past
    assert seen["x2"] == {"x2", *past, "text2", "x1_finished"}
    assert [s.origin[0] for s in layout.visual] == [0, 1, 1, 2, 2, 3]
    assert set(layout.names) - set(pipeline.static(layout)) == {"x0", "x1", "x2"}


def test_ominicontrols_lora_has_the_parameters_that_its_paper_states():
    """14.5 M (Table 1), of 19 double and 38 single blocks; the patch embedder, left out, has 12,544 of them."""
    assert round(parameters(()) / 1e6, 1) == 14.5
    assert round(parameters(("feed_forward_in",)) / 1e6, 1) != 14.5, "negative control"


def parameters(more: tuple[str, ...]) -> int:
    """The trained parameters of the published model, from one block of each kind."""
    config = deepcopy(published("ominicontrol"))
    depths = {"transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers"}
    counts = {kind: config["backbone"]["config"][key] for kind, key in depths.items()}
    for node in (config["backbone"], config["encoder"]["text"]):
        node["config"] |= dict.fromkeys({*depths.values()} & set(node["config"]), 1)
    config["conditioning"]["adapter"]["parts"] += more
    model = build_on_meta(config).backbone.model
    return sum(counts[kind] * trained(getattr(model, kind)) for kind in depths)


# --- headers, and the page that is made of them ----------------------------------------------------------------------


def commands(name: str) -> list[list[str]]:
    """The commands of a header, a folder in place of those to be given."""
    text = (CONF / "exp" / "methods" / f"{name}.yaml").read_text()
    lines = re.findall(r"# python experiments/run.py (.*(?:\n#   .*)*)", text)
    return [shlex.split(re.sub(r"\n#", " ", line).replace("<folder>", ".")) for line in lines]


@cache
def published(name: str) -> dict[str, Any]:
    return composed(*commands(name)[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_header_has_both_commands_and_the_file_its_name(name):
    mini, paper = commands(name)
    assert mini == [f"+exp=methods/{name}"] and paper[:2] == [*mini, "scale=paper"]
    config = published(name)
    assert composed(*mini)["name"] == config["name"] == name and config["scale"]["name"] == "paper"
    training = config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"]
    assert training == config["optimizer"]["batch"], "on one device"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_both_commands_are_legal(name):
    for words in commands(name):
        preflight(CONF, words)
    with pytest.raises(ConfigError, match="unknown key"):  # negative control
        preflight(CONF, [*commands(name)[0], "+formatter.place=1"])


def test_a_lora_of_a_methods_own_refuses_training_from_scratch():
    with pytest.raises(ConfigError, match=r"unknown key 'conditioning\.adapter\.parts'"):
        preflight(CONF, ["+exp=methods/uno", "scale=scratch"])


def test_a_method_whose_parent_chose_the_mask_is_told_when_it_is_replaced():
    (said,) = replaced(["+exp=methods/ominicontrol_subject", "mask=full"], [CONF])
    assert "mask=full (there conditions_apart)" in said
    assert replaced(["+exp=methods/ominicontrol_subject", "task=canny"], [CONF]) == []


def test_no_method_is_another_one_under_a_second_name():
    said = [{k: v for k, v in composed(f"+exp={exp}").items() if k != "name"} for exp in methods()]
    assert all(said.count(config) == 1 for config in said)


def test_the_page_is_what_its_command_writes(monkeypatch):
    monkeypatch.setattr(page, "composed", lambda conf, name: composed(f"+exp=methods/{name}"))
    path = ROOT / "docs" / "methods.md"
    assert page.with_table(path.read_text(), page.written(CONF), path) == path.read_text()
    monkeypatch.setattr(page, "composed", lambda conf, name: composed("+exp=methods/uno"))
    assert page.with_table(path.read_text(), page.written(CONF), path) != path.read_text(), "negative control"
    with pytest.raises(ConfigError, match="lacks the lines"):
        page.with_table("# a page", "a table", path)


def shown() -> list[str]:
    """The commands of the page that train something."""
    text = (ROOT / "docs" / "methods.md").read_text()
    found = re.findall(r"python experiments/run\.py ([^`\n]*?)(?:`|\s+#|\n)", text)
    assert len(found) > 8
    return found


@pytest.mark.slow
@pytest.mark.parametrize("line", shown())
def test_every_command_of_the_page_is_legal(line):
    preflight(CONF, shlex.split(line))


def test_a_command_with_a_misspelt_method_is_refused():
    """The control of the commands above, which are legal where nothing is raised."""
    with pytest.raises(ConfigError, match="ominicontrl"):
        preflight(CONF, ["+exp=methods/ominicontrl"])


def test_a_header_that_leaves_out_nothing_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\n# Stated: all.\n# Inferred: nothing.\nname: mine\n"
    )
    with pytest.raises(ConfigError, match="lacks '# Left out:'"):
        page.paragraph(tmp_path / "mine.yaml")
