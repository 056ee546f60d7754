"""Every published table composes with all its arms; what it says of them is in their files and in the paper's order."""

import re

import pytest
import yaml
from tiny import CONF, choices, composed

from unigen.config import ConfigError
from unigen.preflight import preflight
from unigen.report_runs import read_table

TABLES = choices("table")
RUN = [name for name in TABLES if "hydra" in yaml.safe_load((CONF / "table" / f"{name}.yaml").read_text())]


def table_file(name: str) -> dict:
    return yaml.safe_load((CONF / "table" / f"{name}.yaml").read_text())


def exp_file(name: str) -> dict:
    return yaml.safe_load((CONF / "exp" / f"{name}.yaml").read_text())


def arms(content: dict) -> list[str]:
    return content["hydra"]["sweeper"]["params"]["+exp"].split(",") if "hydra" in content else []


def faults(content: dict, name: str) -> list[str]:
    """What is wrong with a table file of this name."""
    table, hydra, found = content["table"], content.get("hydra"), []
    if table["name"] != name or not table["title"]:
        found.append("name or title")
    if hydra and (hydra["mode"] != "MULTIRUN" or not hydra["sweep"]["dir"].endswith("_${table.name}")):
        found.append("mode or folder")
    if unknown := [arm for arm in arms(content) if arm not in choices("exp")]:
        return [*found, f"no exp {unknown}"]
    rows, on_benches = sorted(table.get("published", arms(content))), table.get("benches", {})
    known = {*rows, *(row["exp"] for row in on_benches.values())}
    if rows != sorted(table["order"]) or not set(arms(content)) <= known or len(set(rows)) < 2:
        found.append("order")
    found += bench_faults(table, arms(content)) if on_benches else []
    return found + number_faults(table) + exp_faults(table, arms(content), name.startswith("cross_"))


def bench_faults(table: dict, own: list[str]) -> list[str]:
    """What is wrong with rows that are an experiment on benchmarks: one trained here, on known ones, at every scale."""
    found = []
    for row, said in table["benches"].items():
        by_scale = {scale: benches for scale, benches in said.items() if scale != "exp"}
        if row not in table["order"] or said["exp"] not in own or set(by_scale) != set(choices("scale")):
            found.append(f"benches of {row}")
        found += [f"no bench {b}" for x in by_scale.values() for b in x.values() if b not in choices("bench")]
    parts = {part for said in table["benches"].values() for x in said.values() if isinstance(x, dict) for part in x}
    named = {match[1] for ours in table["metrics"].values() if ours and (match := re.search(r" \((.+)\)$", ours))}
    return found + ([f"parts {parts ^ named}"] if parts != named else [])


def own_values(content: dict) -> dict:
    """What a table says besides its name, its choices and its sweep."""
    return {key: said for key, said in content.items() if key not in ("defaults", "table", "hydra")}


def number_faults(table: dict) -> list[str]:
    """What is wrong with the numbers that the table itself holds, if it does."""
    if "published" not in table:
        return []
    found = [] if table.get("source") else ["source"]
    for column in table["metrics"]:
        if not any(isinstance(row.get(column), float) for row in table["published"].values()):
            found.append(f"no number in column {column}")
    for name, row in table["published"].items():
        if not row or set(row) - set(table["metrics"]):
            found.append(f"columns of {name}")
    return found


def exp_faults(table: dict, own: list[str], crossed: bool) -> list[str]:
    """What the experiments say otherwise: without numbers of its own, a table's stand in its experiments.

    `crossed`: of a cross nobody has published any.
    """
    found = []
    for arm in own:
        said = exp_file(arm).get("published", {})
        told = table.get("published", {}).get(arm, said)
        columns = table["metrics"] if told is said else ()
        if not table["metrics"] or any(isinstance(told.get(key), float) == crossed for key in columns):
            found.append(f"published columns of {arm}")
        if any(said[key] != value for key, value in told.items() if key in said and exp_is_of(arm, table)):
            found.append(f"numbers of {arm}")
    return found


def exp_is_of(arm: str, table: dict) -> bool:
    """Whether the experiment's numbers are those of this table: an arm may stand in several."""
    return exp_file(arm)["paper"] in table["title"]


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
        (lambda c: c["table"]["metrics"].pop("dino"), "columns of fcd_mask_b"),
        (lambda c: c["table"].pop("source"), "source"),
        (lambda c: c["table"]["published"]["fcd_mask_a"].update(dino=0.669), "numbers of fcd_mask_a"),
        (lambda c: c["table"]["published"].pop("fcd_mask_a"), "order"),
        (lambda c: (c["table"].pop("published"), c["table"]["metrics"].update(fid=None)), "published columns of fcd_"),
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
        (lambda t: t["benches"]["1 example"]["mini"].update(deblur="emoji_deblur_9"), "no bench emoji_deblur_9"),
        (lambda t: t["benches"]["1 example"].update(exp="visualcloze_dev"), "benches of 1 example"),
        (lambda t: t["benches"]["1 example"].pop("scratch"), "benches of 1 example"),
        (lambda t: t["benches"].update({"3 examples": t["benches"]["1 example"]}), "benches of 3 examples"),
        (lambda t: t["metrics"].update(depth_rmse=None), "parts {'depth'}"),
    ],
)
def test_a_row_on_benchmarks_that_says_something_else_is_found(change, fault):
    """Negative control."""
    content = table_file("visualcloze_examples")
    change(content["table"])
    assert fault in faults(content, "visualcloze_examples")


def test_a_cross_with_published_numbers_is_found():
    """Negative control."""
    content = table_file("cross_formatters")
    content["hydra"]["sweeper"]["params"]["+exp"] += ",fcd_mask_a"
    assert "published columns of fcd_mask_a" in faults(content, "cross_formatters")


@pytest.mark.parametrize("name", TABLES)
def test_a_tables_header_shows_its_command_and_the_command_passes(name):
    text = (CONF / "table" / f"{name}.yaml").read_text()
    [line] = re.findall(r"^# python experiments/(.*)$", text, re.M)
    if name in RUN:
        assert line == f"run.py +table={name} seed=0,1,2"
        preflight(CONF, line.split()[1:])
    else:
        assert line == f"report.py table={name}"
        with pytest.raises(ConfigError, match=f"table/{name}.yaml holds published numbers and names no experiment"):
            preflight(CONF, [f"+table={name}"])


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
    assert read_table(CONF / "table", "realgeneral_depth").published["OmniGen"] == {"fid": 21.62, "ssim": 0.25}


@pytest.mark.parametrize("name", RUN)
def test_every_job_of_a_table_is_its_arm_under_the_tables_choices(name):
    """In Hydra's order: what is swept over comes before what the command line says."""
    content, papers = table_file(name), set()
    lines, values = content.get("defaults", []), own_values(content)
    own = [f"{key.removeprefix('override /')}={value}" for line in lines for key, value in line.items()]
    for arm in arms(content):
        job, alone = composed(f"+exp={arm}", f"+table={name}", "seed=2"), composed(f"+exp={arm}", *own, "seed=2")
        assert (job["name"], job["seed"]) == (arm, 2) and content["table"].items() <= job.pop("table").items()
        for key, said in values.items():
            alone[key] = {**alone[key], **said}
        assert alone.pop("table")["name"] is None and job == alone
        other = ["task=line"] if any(choice.startswith("task=") for choice in own) else []
        bare = composed(f"+exp={arm}", *other, "seed=2")
        bare.pop("table")
        assert (bare != alone) == bool(own or values)  # the choices do something
        papers.add(job["paper"])
    assert len(papers) == 1
    if set(arms(content)) == set(content["table"]["order"]):
        assert (papers.pop() or "Crosses") in content["table"]["title"]


@pytest.mark.parametrize("name", ["realgeneral_masks", "realgeneral_modules"])
def test_realgenerals_ablations_are_on_customization_unless_the_command_line_says_otherwise(name):
    for task, guidance in ((None, 6.0), ("canny", 2.0)):
        job = composed(f"+table={name}", *([f"task={task}"] if task else []))
        assert (job["task"]["name"], job["solver"]["guidance"]) == (task or "subject", guidance)
