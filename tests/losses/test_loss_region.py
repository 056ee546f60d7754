"""Where training masks other cells than targets, a cell counts by what happens to it, sample by sample."""

import pytest
import torch

from unigen.losses.errors import Velocity
from unigen.losses.weighted import weighted_mean

ROLES = {"e": "example", "c": "condition", "x": "target"}
MASKED, EVERYTHING = {"target": 1.0, "condition": 0.0, "example": 0.0}, dict.fromkeys(ROLES.values(), 1.0)


def errors() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {n: torch.rand(2, tokens, 3, generator=g) for n, tokens in (("e", 4), ("c", 5), ("x", 6))}


def cells(c: list[bool], x: list[bool]) -> dict[str, torch.Tensor]:
    return {"e": torch.zeros(2, dtype=torch.bool), "c": torch.tensor(c), "x": torch.tensor(x)}


def test_only_what_is_generated_counts_in_the_masked_region():
    e, where = errors(), cells([True, False], [False, True])
    expected = (e["c"][0].mean() + e["x"][1].mean()) / 2
    loss, means = weighted_mean(e, ROLES, MASKED, where)
    torch.testing.assert_close(loss, expected)
    by_role, same_means = weighted_mean(e, ROLES, MASKED)
    assert not torch.allclose(by_role, expected, rtol=1e-3), "negative control: the table by role is another number"
    torch.testing.assert_close(means, same_means)


@pytest.mark.parametrize("where", [cells([True, False], [False, True]), cells([True, True], [True, True]), None])
def test_over_the_whole_grid_it_does_not_matter_what_is_generated(where):
    loss, _ = weighted_mean(errors(), ROLES, EVERYTHING, where)
    torch.testing.assert_close(loss, torch.cat([x.flatten() for x in errors().values()]).mean())


def test_with_the_targets_generated_the_table_by_role_is_the_masked_region():
    same, _ = weighted_mean(errors(), ROLES, MASKED, cells([False, False], [True, True]))
    torch.testing.assert_close(same, weighted_mean(errors(), ROLES, MASKED)[0])


def test_a_target_that_is_shown_counts_as_a_condition():
    weights, e = {"target": 1.0, "condition": 0.25, "example": 0.5}, errors()
    where = cells([True, False], [False, True])
    parts = [
        [(0.5, e["e"][0]), (1.0, e["c"][0]), (0.25, e["x"][0])],
        [(0.5, e["e"][1]), (0.25, e["c"][1]), (1.0, e["x"][1])],
    ]
    each = [formula(found) for found in parts]
    torch.testing.assert_close(weighted_mean(e, ROLES, weights, where)[0], sum(each) / 2)
    pooled = formula([*parts[0], *parts[1]])
    torch.testing.assert_close(weighted_mean(e, ROLES, weights, where, average="batch")[0], pooled)
    assert not torch.allclose(pooled, sum(each) / 2, rtol=1e-3), "the two means would be one"


def formula(parts: list[tuple[float, torch.Tensor]]) -> torch.Tensor:
    return sum(w * x.sum() for w, x in parts) / sum(w * x.numel() for w, x in parts)


def test_a_sample_with_two_masked_cells_counts_once():
    e, where = errors(), cells([True, False], [True, True])
    first = torch.cat([e["c"][0], e["x"][0]]).mean()
    torch.testing.assert_close(weighted_mean(e, ROLES, MASKED, where)[0], (first + e["x"][1].mean()) / 2)
    pooled = torch.cat([e["c"][0], e["x"][0], e["x"][1]]).mean()
    torch.testing.assert_close(weighted_mean(e, ROLES, MASKED, where, average="batch")[0], pooled)


def test_a_sample_of_which_nothing_counts_is_0():
    """Only a table that gives targets no weight has such samples."""
    weights = {"target": 0.0, "condition": 1.0, "example": 0.0}
    e = errors()
    loss, _ = weighted_mean(e, ROLES, weights, cells([True, True], [True, False]))
    torch.testing.assert_close(loss, e["x"][1].mean() / 2)


def test_another_mean_is_refused():
    with pytest.raises(ValueError, match=r"loss\.average is 'token'; legal are sample, batch"):
        Velocity(MASKED, average="token")


def test_what_does_not_count_reaches_no_gradient():
    e = {n: x.requires_grad_() for n, x in errors().items()}
    with torch.no_grad():
        e["c"][1] = e["x"][0] = float("nan")
    weighted_mean(e, ROLES, MASKED, cells([True, False], [False, True]))[0].backward()
    assert e["e"].grad is None and (e["c"].grad[1] == 0).all() and (e["x"].grad[0] == 0).all()
    assert (e["c"].grad[0] > 0).all() and (e["x"].grad[1] > 0).all()
