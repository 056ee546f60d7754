"""Every published table composes with all its arms; what it says of them is in their files and in the paper's order."""

import re
import shlex
from functools import cache

import pytest
import yaml
from hydra import compose, initialize_config_dir
from tiny import CONF, choices, composed, composes, methods

from unigen.config.preflight import preflight
from unigen.config.values import ConfigError
from unigen.evaluation.benchmark import bench_config
from unigen.evaluation.evaluations import benches_of
from unigen.evaluation.runs import paper_table, read_table

TABLES = choices("table")


def table_file(name: str) -> dict:
    return yaml.safe_load((CONF / "table" / f"{name}.yaml").read_text())


def exp_file(name: str) -> dict:
    return yaml.safe_load((CONF / "exp" / f"{name}.yaml").read_text())


def arms(content: dict) -> list[str]:
    """The experiments that a table's sweep runs, as +exp= takes them."""
    return content["hydra"]["sweeper"]["params"]["+exp"].split(",") if "hydra" in content else []


def names(content: dict) -> list[str]:
    """What those experiments are called: their files' names without a folder."""
    return [arm.rpartition("/")[2] for arm in arms(content)]


def faults(content: dict, name: str) -> list[str]:
    """What is wrong with a table file of this name."""
    table, hydra, found = content["table"], content.get("hydra"), []
    if table["name"] != name or not table["title"]:
        found.append("name or title")
    if hydra and (hydra["mode"] != "MULTIRUN" or not hydra["sweep"]["dir"].endswith("_${table.name}")):
        found.append("mode or folder")
    if unknown := [arm for arm in arms(content) if arm not in [*choices("exp"), *methods()]]:
        return [*found, f"no exp {unknown}"]
    order, published, on_benches = table["order"], table.get("published", {}), table.get("benches", {})
    measured = {*order, *(row["exp"] for row in on_benches.values())}
    legal = {*published} <= {*order} <= {*published, *on_benches, *names(content)}
    if not legal or len(order) < 2 or len(order) > len({*order}):
        found.append("order")
    found += [f"{arm} is not in order" for arm in names(content) if arm not in measured]
    return found + bench_faults(content) + metric_faults(content) + number_faults(table) + exp_faults(content)


def scales_of(content: dict) -> list[str]:
    """The scales at which all arms of a table run; mini and paper are among them."""
    found = [
        scale for scale in choices("scale") if all(composes(f"+exp={arm}", f"scale={scale}") for arm in arms(content))
    ]
    assert {"mini", "paper"} <= set(found)
    return found


def bench_faults(content: dict) -> list[str]:
    """What is wrong with rows that are an experiment on benchmarks: one trained here, with the parts of a scale."""
    table, read, found = content["table"], paper_table(content["table"]), []
    for row, said in table.get("benches", {}).items():
        by_scale = {scale: benches for scale, benches in said.items() if scale != "exp"}
        if row not in table["order"] or said["exp"] not in arms(content) or not set(by_scale) <= set(choices("scale")):
            found.append(f"benches of {row}")
        for scale, benches in by_scale.items():
            if odd := set(benches) ^ set(read.parts(scale)):
                found.append(f"parts {odd} at {scale}")
    if {*by_scales(content)} != {scale for scale in scales_of(content) if read.parts(scale)}:
        found.append("scales of benches")
    return found


def by_scales(content: dict) -> list[str]:
    """The scales at which rows are on benchmarks; those that all of them have where rows say it themselves."""
    table, scales = content["table"], scales_of(content)
    if "benches" not in table:
        return [scale for scale in scales if paper_table(table).parts(scale)]
    return [scale for scale in scales if all(scale in said for said in table["benches"].values())]


def metric_faults(content: dict) -> list[str]:
    """Metrics that nothing takes: the runs' own test at a scale, or the benchmark in their brackets."""
    table, found = paper_table(content["table"]), []
    for scale in scales_of(content):
        for arm in arms(content):
            taken = {bench: bench_metrics(bench) for bench in benches_of(table, arm, scale)}
            own = set() if taken else run_metrics(arm, scale)
            for metric in (metric for ours in table.at(scale).values() for metric in ours):
                name, _, part = metric.removesuffix(")").partition(" (")
                at = {said[scale][part] for said in table.benches.values() if part in said.get(scale, {})}
                if not (name in own if not part else any(name in taken.get(b, ()) for b in at or {part})):
                    found.append(f"nothing takes {metric} at {scale}")
    return found


@cache
def run_metrics(arm: str, scale: str) -> set[str]:
    return set(composed(f"+exp={arm}", f"scale={scale}")["metric"])


@cache
def bench_metrics(bench: str) -> set[str]:
    if bench not in choices("bench"):
        return set()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return set(compose("evaluate", overrides=[f"+bench={bench}"]).metric)


def columns_of(table: dict) -> list[str]:
    """The published columns."""
    return list(dict.fromkeys([*table["metrics"], *(c for said in table.get("metrics_at", {}).values() for c in said)]))


def own_values(content: dict) -> dict:
    """What a table says besides its name, its choices and its sweep."""
    return {key: said for key, said in content.items() if key not in ("defaults", "table", "hydra")}


def laid_over(config: dict, values: dict) -> None:
    for key, said in values.items():
        if isinstance(said, dict):
            laid_over(config[key], said)
        else:
            config[key] = said


def number_faults(table: dict) -> list[str]:
    """What is wrong with the numbers that the table itself holds, if it does."""
    if "published" not in table:
        return []
    found = [] if table.get("source") else ["source"]
    for column in table["metrics"]:  # what a scale alone asks about need not be published
        if not any(isinstance(row.get(column), float) for row in table["published"].values()):
            found.append(f"no number in column {column}")
    for name, row in table["published"].items():
        if not row or set(row) - set(columns_of(table)):
            found.append(f"columns of {name}")
    return found


def exp_faults(content: dict) -> list[str]:
    """Numbers that an experiment's file holds although its table does. An arm of one's own has no number at all."""
    return [f"numbers of {arm}" for arm in arms(content) if exp_file(arm).get("published")]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_what_its_arms_say(name):
    assert faults(table_file(name), name) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda c: c["table"].update(name="other"), "name or title"),
        (lambda c: c["hydra"]["sweep"].update(dir="runs"), "mode or folder"),
        (lambda c: c["hydra"]["sweeper"]["params"].update({"+exp": "fcd_mask_z"}), "no exp ['fcd_mask_z']"),
        (lambda c: c["table"]["order"].pop(), "order"),
        (lambda c: c["table"]["metrics"].update(fid="mini_fid"), "no number in column fid"),
        (lambda c: c["table"]["published"]["fcd_mask_b"].update(lpips=0.1), "columns of fcd_mask_b"),
        (lambda c: c["table"].pop("source"), "source"),
        (lambda c: c["table"]["order"].append("nobody"), "order"),
        (lambda c: c["table"]["order"].append("fcd_mask_a"), "order"),
        (lambda c: c["hydra"]["sweeper"]["params"].update({"+exp": "fcd_mask_a,wo_uce"}), "wo_uce is not in order"),
        (lambda c: c["table"]["metrics"].update(dino="dino"), "nothing takes dino at mini"),
        (
            lambda c: c["table"]["metrics_at"]["paper"].update(dino="mini_dino (dreambench)"),
            "nothing takes mini_dino (d",
        ),
        (
            lambda c: c["table"]["metrics_at"]["paper"].update(dino="dino (dreambank)"),
            "nothing takes dino (dreambank) at",
        ),
    ],
)
def test_a_table_that_says_something_else_is_found(change, fault):
    """Negative control."""
    content = table_file("realgeneral_masks")
    change(content)
    assert any(fault in found for found in faults(content, "realgeneral_masks"))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda t: [t["benches"][row]["mini"].update(deblur="emoji_9") for row in t["order"]],
            "nothing takes rmse (deb",
        ),
        (lambda t: t["benches"]["1 example"].update(exp="visualcloze_dev"), "benches of 1 example"),
        (lambda t: t["benches"]["1 example"].update(medium={}), "benches of 1 example"),
        (lambda t: t["benches"]["1 example"].pop("scratch"), "scales of benches"),
        (lambda t: t["benches"].update({"3 examples": t["benches"]["1 example"]}), "benches of 3 examples"),
        (lambda t: t["metrics"].update(depth_rmse="depth_rmse (depth)"), "parts {'depth'} at mini"),
    ],
)
def test_a_row_on_benchmarks_that_says_something_else_is_found(change, fault):
    """Negative control."""
    content = table_file("visualcloze_examples")
    change(content["table"])
    assert any(fault in found for found in faults(content, "visualcloze_examples"))


def test_a_number_in_the_experiment_too_is_found(monkeypatch):
    """Negative control: it could be another one than the table's."""
    monkeypatch.setattr(f"{__name__}.exp_file", lambda name: {"published": {"dino": 0.669}})
    assert "numbers of fcd_mask_a" in faults(table_file("realgeneral_masks"), "realgeneral_masks")


@pytest.mark.parametrize("name", ["realgeneral_masks", "cross_formatters"])
def test_a_table_takes_an_arm_of_ones_own_without_a_number(name):
    """Its name in `order` and in the sweep is all; a row of the paper whose arm is left out stays a row."""
    content = table_file(name)
    content["table"]["order"].append("wo_uce")
    content["hydra"]["sweeper"]["params"]["+exp"] += ",wo_uce"
    assert faults(content, name) == []
    assert paper_table(content["table"]).order[-1] == "wo_uce"


def commands(name: str) -> list[list[str]]:
    """The words of each command of a header, a folder for what is to be filled in; "#   " goes on with a line."""
    text = (CONF / "table" / f"{name}.yaml").read_text().replace("\n#   ", " ")
    return [
        shlex.split(re.sub(r"<[^>]*>", "/nowhere", line))
        for line in re.findall(r"^# python experiments/(.*)$", text, re.M)
    ]


@cache
def evaluated(bench: str, *words: str) -> dict:
    """The configuration of a benchmark; several tables have it by the same words."""
    return bench_config(CONF, bench, list(words), CONF, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_tables_header_has_its_commands_and_they_pass(name):
    """Runs; then, where a scale is measured on benchmarks, those and the report."""
    runs = [words for words in commands(name) if words[0] == "run.py"]
    rest, table = commands(name)[len(runs) :], read_table(CONF / "table", name)
    for script, *words in runs:
        assert script == "run.py" and words[0] == f"+table={name}" and words[1].startswith("seed=0")
        preflight(CONF, words)
    assert [words[0] for words in rest] == (["evaluate.py", "report.py"] if table.parts("paper") else [])
    for words in rest:
        assert words[1] == ("run=/nowhere" if words[0] == "evaluate.py" else "runs=/nowhere")
    for bench in {bench for arm in arms(table_file(name)) for bench in benches_of(table, arm, "paper")}:
        evaluated(bench, *rest[0][3:])
        assert rest[0][2] == f"table={name}"


def test_a_command_that_forgets_the_data_names_the_key():
    with pytest.raises(ConfigError, match=r"^'data\.test\.root' has no value"):
        bench_config(CONF, "dreambench", [], CONF, 64)
    asked = composed("+exp=fcd_mask_a", "+table=realgeneral_masks", "scale=paper", "data=subjects200k")
    assert asked["data"]["train"]["root"] == "???" and asked["data"]["tasks"] == ["reference>target"]


def test_a_table_of_published_numbers_alone_is_refused_by_name(tmp_path):
    (tmp_path / "table").mkdir()
    own = {"name": "mine", "title": "t", "order": ["a"], "metrics": {"fid": None}, "published": {"a": {"fid": 1.0}}}
    (tmp_path / "table" / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"table": own}))
    with pytest.raises(ConfigError, match=r"table/mine.yaml holds published numbers and names no experiment"):
        preflight(CONF, ["--config-dir", str(tmp_path), "+table=mine"])


def test_two_tables_at_once_are_refused():
    """Hydra would run the arms of the second alone."""
    with pytest.raises(ConfigError, match=r"would run the arms of realgeneral_modules alone; run one table at a time"):
        preflight(CONF, ["+table=[realgeneral_masks,realgeneral_modules]"])
    preflight(CONF, ["+table=[realgeneral_modules]"])


def test_every_number_of_realgenerals_tables_is_there():
    """Counted in the paper: 7 methods by 3, 2 conditions of 5 methods by 2, 4 settings by 3, 4 masks by 3."""
    names = ("customization", "canny", "depth", "modules", "masks")
    counts = [sum(map(len, table_file(f"realgeneral_{name}")["table"]["published"].values())) for name in names]
    assert counts == [21, 10, 10, 12, 12]


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_every_job_of_a_table_is_its_arm_under_the_tables_choices(name):
    """In Hydra's order: what is swept over comes before what the command line says."""
    content, papers = table_file(name), set()
    lines, values = content.get("defaults", []), own_values(content)
    own = [f"{key.removeprefix('override /')}={value}" for line in lines for key, value in line.items()]
    for arm in arms(content):
        job, alone = composed(f"+exp={arm}", f"+table={name}", "seed=2"), composed(f"+exp={arm}", *own, "seed=2")
        told = [run["logger"]["wandb"].pop("table") for run in (job, alone)]
        assert told == [name, None], "W&B is told the table"
        assert (job["name"], job["seed"]) == (arm.rpartition("/")[2], 2) and content["table"].items() <= job.pop(
            "table"
        ).items()
        laid_over(alone, values)
        assert alone.pop("table")["name"] is None and job == alone
        other = ["task=line"] if any(choice.startswith("task=") for choice in own) else []
        bare = composed(f"+exp={arm}", *other, "seed=2")
        bare.pop("table"), bare["logger"]["wandb"].pop("table")
        assert (bare != alone) == bool(own or values)  # the choices do something
        papers.add(job["paper"])
    papers = {paper.partition(",")[0] for paper in papers if paper}  # an arm of one's own reproduces none
    assert len(papers) <= 1, "one paper's experiments"
    assert not content["table"].get("published") or papers.pop() in content["table"]["title"]


@pytest.mark.parametrize("name", ["realgeneral_masks", "realgeneral_modules"])
def test_realgenerals_ablations_are_on_customization_unless_the_command_line_says_otherwise(name):
    for task, guidance in ((None, 6.0), ("canny", 2.0)):
        job = composed(f"+table={name}", *([f"task={task}"] if task else []))
        assert (job["task"]["name"], job["guidance"]["strength"]) == (task or "subject", guidance)


@pytest.mark.parametrize(
    ("table", "right", "wrong", "said"),
    [
        ("realgeneral_masks", "    paper:", "    papr:", "names the scale 'papr', which does not exist; did you"),
        ("realgeneral_masks", "clip_t (dreambench)", "clip_t (dreambnch)", "did you mean 'dreambench'?"),
        ("realgeneral_canny", "fid (coco_canny)", "fid (cocoa)", "table.metrics_at.paper in table/mine.yaml"),
        ("visualcloze_examples", "paper:\n        canny:", "papier:\n        canny:", "names the scale 'papier'"),
        ("visualcloze_examples", "canny: graph200k_canny\n", "canny: graph200_canny\n", "benchmark 'graph200_canny'"),
    ],
)  # fmt: skip
def test_scales_and_benchmarks_of_a_table_exist_before_anything_is_trained(tmp_path, table, right, wrong, said):
    mine = tmp_path / "table" / "mine.yaml"
    mine.parent.mkdir()
    text = (CONF / "table" / f"{table}.yaml").read_text()
    line = [f"--config-dir={tmp_path}", "+table=mine"]
    mine.write_text(text)
    preflight(CONF, line)
    assert right in text
    mine.write_text(text.replace(right, wrong, 1))
    with pytest.raises(ConfigError, match=re.escape(said)):
        preflight(CONF, line)
