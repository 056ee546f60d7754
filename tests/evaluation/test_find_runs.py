"""Which folders a report reads: at any depth, lists, patterns, links; a run once."""

import pytest
from made_runs import make_run

from unigen.evaluation.runs import find_runs


def test_folders_inside_a_run_are_not_runs_and_lists_do_not_count_twice(tmp_path):
    run = make_run(tmp_path / "deep" / "er" / "0")
    (run / "other").mkdir()
    (run / "other" / "config.yaml").write_text("a: 1")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "config.yaml").write_text("a: 1")
    assert len(find_runs(f"{tmp_path}, {run}")) == 1
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "config.yaml").write_text("a: 1")
    assert len(find_runs(str(tmp_path))) == 2
    comma = make_run(tmp_path / "exp=a,seed=0")  # as Hydra names the folders of a sweep
    assert find_runs(str(comma)) == [comma.resolve()]


def test_runs_may_be_a_pattern_and_links(tmp_path):
    for name in ("grid_flux", "grid_cogvideox", "frames_flux"):
        make_run(tmp_path / "sweep" / name)
    assert [run.name for run in find_runs(f"{tmp_path}/sweep/*flux*")] == ["frames_flux", "grid_flux"]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "one").symlink_to(tmp_path / "sweep" / "grid_flux")
    (tmp_path / "links" / "back").symlink_to(tmp_path / "links")
    assert find_runs(f"{tmp_path}/links") == [tmp_path / "sweep" / "grid_flux"]
    with pytest.raises(ValueError, match=r"runs: there is no folder '.*/sweep/\*sd3\*'"):
        find_runs(f"{tmp_path}/sweep/*flux*,{tmp_path}/sweep/*sd3*")
