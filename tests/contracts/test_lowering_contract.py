"""The lowerings of one mask agree, whatever the order, the padding and the table."""

import random

import pytest
import torch
from tiny import choices, mask

from unigen.core import attention
from unigen.core.layout import Layout, Segment, text_segment
from unigen.core.masks import WORDS, Mask

SIZES = {"text": 5, "c0": 6, "c1": 4, "x": 8}
ROLES = {"text": "text", "c0": "condition", "c1": "condition", "x": "target"}
TURNS = {"text": 1, "c0": 0, "c1": 2, "x": 1}
ORDERS = {"as placed": ["text", "c0", "c1", "x"], "interleaved": ["x", "c1", "text", "c0"]}
PARTS = {"all": ["text", "c0", "c1", "x"], "one query": ["x"], "queries apart": ["c1", "x"]}


def layout(names: list[str]) -> Layout:
    boxes = {n: Segment(n, ROLES[n], "visual", (1, 2, SIZES[n] // 2), turn=TURNS[n]) for n in names if n != "text"}
    return Layout(tuple(text_segment(SIZES[n], TURNS[n]) if n == "text" else boxes[n] for n in names))


def qkv(queries: Layout, keys: Layout, grad: bool = False) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    lengths = [len(queries), len(keys), len(keys)]
    return [torch.randn(2, 3, n, 16, generator=g).requires_grad_(grad) for n in lengths]


def padding(keys: Layout) -> torch.Tensor:
    """Two text tokens of sample 0 and a whole condition of sample 1 do not exist."""
    valid = torch.ones(2, len(keys), dtype=torch.bool)
    valid[0, keys.slices["text"].start : keys.slices["text"].start + 2] = False
    valid[1, keys.slices["c0"]] = False
    return valid


def random_table(seed: int) -> Mask:
    """A table of random words, with random strengths under every other seed."""
    pick, roles = random.Random(seed), sorted(set(ROLES.values()))
    rows = {q: {k: pick.choice(WORDS) for k in roles} for q in roles}
    bias = {q: {k: pick.choice((0.3, 1.0, 4.0)) for k in roles if pick.random() < 0.7} for q in roles}
    return Mask(f"random{seed}", rows, bias if seed % 2 else None)


def segment_at(layout: Layout, token: int) -> Segment:
    return next(s for s in layout.segments if token in range(len(layout))[layout.slices[s.name]])


def by_hand(q, k, v, queries: Layout, keys: Layout, table: Mask, valid=None) -> torch.Tensor:
    """Softmax over exactly the tokens that the table and the padding leave, token by token."""
    out = torch.zeros(*q.shape[:3], v.shape[-1])
    for s in queries.segments:
        seen = [i for n in keys.segments if table.sees(s, n) for i in range(len(keys))[keys.slices[n.name]]]
        for b in range(len(q)):
            left = [i for i in seen if valid is None or valid[b, i]]
            if left:
                rows = q[b, :, queries.slices[s.name]] @ k[b][:, left].transpose(1, 2) / q.shape[-1] ** 0.5
                rows = rows + torch.tensor([table.log_bias(s, segment_at(keys, i)) for i in left])
                out[b, :, queries.slices[s.name]] = rows.softmax(-1) @ v[b][:, left]
    return out


TABLES = [*choices("mask"), *range(8)]


def table_of(which: str | int) -> Mask:
    return mask(which) if isinstance(which, str) else random_table(which)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("which", TABLES)
def test_lowerings_agree(which, part, order, padded):
    keys = layout(ORDERS[order])
    queries = keys.only(PARTS[part])
    q, k, v = qkv(queries, keys)
    valid = padding(keys) if padded else None
    expected = by_hand(q, k, v, queries, keys, table_of(which), valid)
    for lowering in (attention.dense, attention.grouped, attention.plain):
        found = lowering(q, k, v, queries, keys, table_of(which), valid)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("which", TABLES)
def test_flex_agrees(which, order, padded):
    keys = layout(ORDERS[order])
    for part in PARTS.values():
        queries = keys.only(part)
        q, k, v = qkv(queries, keys)
        valid = padding(keys) if padded else None
        found = attention.flex(q, k, v, queries, keys, table_of(which), valid)
        expected = attention.dense(q, k, v, queries, keys, table_of(which), valid)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("which", TABLES)
def test_gradients_of_the_lowerings_agree(which, order, padded):
    """Of dense and grouped: flex has no backward on a CPU (torch raises NotImplementedError)."""
    keys = layout(ORDERS[order])
    valid = padding(keys) if padded else None
    grads = []
    for lowering in (attention.dense, attention.grouped, attention.plain, by_hand):
        inputs = qkv(keys, keys, grad=True)
        out = lowering(*inputs, keys, keys, table_of(which), valid)
        probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        (out * probe + sum(x.sum() * 0 for x in inputs)).sum().backward()
        grads.append([x.grad for x in inputs])
    for *lowered, hand in zip(*grads, strict=True):
        for found in lowered:
            torch.testing.assert_close(found, hand, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("lowering", [attention.dense, attention.grouped, attention.plain, attention.flex])
def test_rows_that_see_nothing_are_zero(lowering):
    blind = Mask(
        "blind", {q: dict.fromkeys(ROLES.values(), "none" if q == "condition" else "all") for q in ROLES.values()}
    )
    keys = layout(ORDERS["interleaved"])
    for valid in (None, padding(keys)):
        out = lowering(*qkv(keys, keys), keys, keys, blind, valid)
        for name in ("c0", "c1"):
            assert (out[:, :, keys.slices[name]] == 0).all()
        assert (out[:, :, keys.slices["x"]] != 0).all() and out.isfinite().all()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("lowering", [attention.dense, attention.grouped, attention.plain, attention.flex])
def test_a_sample_without_any_key_is_zero(lowering):
    keys = layout(ORDERS["as placed"])
    valid = torch.ones(2, len(keys), dtype=torch.bool)
    valid[1] = False
    out = lowering(*qkv(keys, keys), keys, keys, mask("fcd_d"), valid)
    assert (out[1] == 0).all() and (out[0] != 0).all() and out.isfinite().all()


def test_a_wrong_mask_order_or_padding_is_seen():
    """Negative control: each thing that the equalities above are meant to hold, broken once."""
    keys, other = layout(ORDERS["interleaved"]), layout(ORDERS["as placed"])
    inputs, valid = qkv(keys, keys), padding(keys)
    right = attention.grouped(*inputs, keys, keys, mask("fcd_a"), valid)
    wrong = [
        attention.dense(*inputs, keys, keys, mask("fcd_b"), valid),
        attention.dense(*inputs, keys, keys, mask("fcd_a"), None),
        attention.dense(*inputs, other, other, mask("fcd_a"), valid),
        attention.dense(*inputs, keys, other, mask("fcd_a"), valid),
    ]
    for out in wrong:
        assert (out - right).abs().max() > 1e-2


def test_a_strength_moves_attention_towards_its_keys_and_1_changes_nothing():
    """OminiControl's condition strength: between target and condition, both ways; text keeps what it has."""
    keys = layout(ORDERS["as placed"])
    q, k, _ = qkv(keys, keys)
    v = torch.zeros(2, 3, len(keys), 16)
    for name in ("c0", "c1"):
        v[:, :, keys.slices[name]] = 1.0  # so that the output is the share of attention that conditions get
    rows = {role: dict.fromkeys(set(ROLES.values()), "all") for role in set(ROLES.values())}

    def share(strength: float) -> torch.Tensor:
        bias = {"target": {"condition": strength}, "condition": {"target": strength}}
        return attention.grouped(q, k, v, keys, keys, Mask("m", rows, bias))

    weak, stock, strong = share(0.2), attention.grouped(q, k, v, keys, keys, Mask("m", rows)), share(5.0)
    assert torch.equal(share(1.0), stock)
    at = keys.slices["x"]
    assert (weak[:, :, at] < stock[:, :, at]).all() and (stock[:, :, at] < strong[:, :, at]).all()
    torch.testing.assert_close(strong[:, :, keys.slices["text"]], stock[:, :, keys.slices["text"]])
    odds = stock[:, :, at] / (1 - stock[:, :, at])
    torch.testing.assert_close(strong[:, :, at] / (1 - strong[:, :, at]), 5 * odds, rtol=1e-4, atol=1e-4)
