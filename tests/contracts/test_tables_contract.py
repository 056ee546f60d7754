"""Every published table composes with all its arms; what it says of them is in their files and in the paper's order."""

import re

import pytest
import yaml
from tiny import CONF, choices, composed

from unigen.preflight import preflight

TABLES = choices("table")


def table_file(name: str) -> dict:
    return yaml.safe_load((CONF / "table" / f"{name}.yaml").read_text())


def exp_file(name: str) -> dict:
    return yaml.safe_load((CONF / "exp" / f"{name}.yaml").read_text())


def arms(content: dict) -> list[str]:
    return content["hydra"]["sweeper"]["params"]["+exp"].split(",")


def faults(content: dict, name: str) -> list[str]:
    """What is wrong with a table file of this name."""
    table, hydra, found = content["table"], content["hydra"], []
    if table["name"] != name or not table["title"]:
        found.append("name or title")
    if hydra["mode"] != "MULTIRUN" or not hydra["sweep"]["dir"].endswith("_${table.name}"):
        found.append("mode or folder")
    if unknown := [arm for arm in arms(content) if arm not in choices("exp")]:
        return [*found, f"no exp {unknown}"]
    if sorted(table["order"]) != sorted(arms(content)) or len(set(table["order"])) < 2:
        found.append("order")
    crossed = name.startswith("cross_")  # of what nobody has published
    for arm in arms(content):
        published = exp_file(arm).get("published", {})
        if not table["metrics"] or any(isinstance(published.get(key), float) == crossed for key in table["metrics"]):
            found.append(f"published columns of {arm}")
    return found


def own_values(content: dict) -> dict:
    """What a table says besides its name, its choices and its sweep."""
    return {key: said for key, said in content.items() if key not in ("defaults", "table", "hydra")}


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
        (lambda c: c["table"]["metrics"].update(fid="mini_fid"), "published columns of fcd_mask_a"),
    ],
)
def test_a_table_that_says_something_else_is_found(change, fault):
    """Negative control."""
    content = table_file("realgeneral_masks")
    change(content)
    assert fault in faults(content, "realgeneral_masks")


def test_a_cross_with_published_numbers_is_found():
    """Negative control."""
    content = table_file("cross_formatters")
    content["hydra"]["sweeper"]["params"]["+exp"] += ",fcd_mask_a"
    assert "published columns of fcd_mask_a" in faults(content, "cross_formatters")


@pytest.mark.parametrize("name", TABLES)
def test_a_tables_header_shows_its_command_and_the_command_passes(name):
    text = (CONF / "table" / f"{name}.yaml").read_text()
    [line] = re.findall(r"^# python experiments/run.py (.*)$", text, re.M)
    assert line == f"+table={name} seed=0,1,2"
    preflight(CONF, line.split())


@pytest.mark.parametrize("name", TABLES)
def test_every_job_of_a_table_is_its_arm_under_the_tables_choices(name):
    """In Hydra's order: what is swept over comes before what the command line says."""
    content, papers = table_file(name), set()
    lines, values = content.get("defaults", []), own_values(content)
    own = [f"{key.removeprefix('override /')}={value}" for line in lines for key, value in line.items()]
    for arm in arms(content):
        job, alone = composed(f"+exp={arm}", f"+table={name}", "seed=2"), composed(f"+exp={arm}", *own, "seed=2")
        assert (job["name"], job["seed"]) == (arm, 2) and job.pop("table") == content["table"]
        for key, said in values.items():
            alone[key] = {**alone[key], **said}
        assert alone.pop("table")["name"] is None and job == alone
        bare = composed(f"+exp={arm}", "seed=2")
        bare.pop("table")
        assert (bare != alone) == bool(own or values)  # the choices do something
        papers.add(job["paper"])
    assert len(papers) == 1 and (papers.pop() or "Crosses") in content["table"]["title"]


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("realgeneral")])
def test_realgenerals_ablations_are_on_customization_unless_the_command_line_says_otherwise(name):
    for task, guidance in ((None, 6.0), ("canny", 2.0)):
        job = composed(f"+table={name}", *([f"task={task}"] if task else []))
        assert (job["task"]["name"], job["solver"]["guidance"]) == (task or "subject", guidance)
