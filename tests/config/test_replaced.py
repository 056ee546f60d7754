"""A command line that replaces a part of an experiment's method is told in a sentence."""

import pytest
from tiny import CONF

from unigen.config.replaced import replaced


def write(folder, name, text):
    (folder / "exp").mkdir(parents=True, exist_ok=True)
    (folder / "exp" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")


@pytest.fixture
def conf(tmp_path):
    write(tmp_path, "parent", "defaults: [override /formatter: frames, override /mask: a]")
    write(tmp_path, "child", "defaults: [parent, override /mask: b, override /data: own, _self_]\nname: child")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "+exp=child formatter=grid",
            "child.yaml as it is written: the command line has formatter=grid (there frames)",
        ),
        ("+exp=child formatter=grid mask=a", "formatter=grid (there frames) and mask=a (there b)"),
        ("+exp=[child,none] mask=c", "exp/child.yaml as it is written: the command line has mask=c (there b)"),
    ],
)
def test_a_replaced_part_is_told(conf, line, said):
    (found,) = replaced(line.split(), [conf])
    assert said in found and "\n" not in found


@pytest.mark.parametrize("line", ["+exp=child mask=b", "+exp=child data=other process=vp", "mask=c", "+exp=none"])
def test_nothing_is_told_where_the_method_is_the_files(conf, line):
    assert replaced(line.split(), [conf]) == []


def test_tic_ft_without_its_buffers_is_told():
    (said,) = replaced(["+exp=tic_ft", "formatter=grid_clean"], [CONF])
    assert "not exp/tic_ft.yaml as it is written" in said
    assert replaced(["+exp=tic_ft", "scale=paper", "family=wan/mini", "task=line"], [CONF]) == []
