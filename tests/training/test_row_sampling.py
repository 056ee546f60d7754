"""`Pipeline.sample` on what visual prompts may hold: several targets, in any column, rows of different sizes."""

import pytest
import torch
from visual_prompts import CLEAN, COGVIDEOX, FILL, pipeline_for

from unigen.core.types import Batch, ImageSlot

FORMS = {"fill": FILL, "clean": CLEAN, "cogvideox": COGVIDEOX}
SIZES = [(16, 48), (32, 16), (48, 32)]  # (height, width) of the rows' images


def rows_batch(query: str, size: int = 1) -> Batch:
    """Two example rows and a query such as 'target condition target', all of different sizes."""
    columns = query.split()
    slots = [
        ImageSlot(f"row{r}_{i}", "example" if r < 2 else role, *SIZES[r], 1, r)
        for r in range(3)
        for i, role in enumerate(columns)
    ]
    g = torch.Generator().manual_seed(0)
    images = {s.name: torch.randint(0, 256, (size, 1, 3, s.height, s.width), generator=g).byte() for s in slots}
    words = ["a cat"] * size
    return Batch(tuple(slots), images, words, [()] * size, ["x"] * size, [f"item{i}" for i in range(size)])


@pytest.fixture(scope="module", params=FORMS)
def pipeline(request):
    return pipeline_for(*FORMS[request.param])[0]


@pytest.mark.parametrize(
    ("query", "targets"),
    [
        ("condition target", ["row2_1"]),
        ("target condition", ["row2_0"]),
        ("target condition target", ["row2_0", "row2_2"]),
        ("condition target condition", ["row2_1"]),
        ("target target", ["row2_0", "row2_1"]),
    ],
)
def test_every_target_is_made_at_its_size(pipeline, query, targets):
    batch = rows_batch(query, size=2)
    made = pipeline.sample(batch, seed=0)
    assert list(made) == targets
    assert all(x.shape == (2, 1, 3, 48, 32) and x.dtype == torch.uint8 for x in made.values())
    changed = rows_batch(query, size=2)
    for name in targets:
        changed.images[name] = 255 - changed.images[name]
    again = pipeline.sample(changed, seed=0)
    assert all(torch.equal(made[name], again[name]) for name in targets), "what stands in a target's place is not read"
    changed.images["row0_0"] = 255 - changed.images["row0_0"]
    other = pipeline.sample(changed, seed=0)
    assert all(not torch.equal(made[name], other[name]) for name in targets), "negative control: an example is"


def test_a_cropped_target_is_its_own_column_of_the_decoded_row():
    """facts: the released sampler cuts column i of the query at i W / L; another column is another image."""
    pipeline, _ = pipeline_for(*FILL)
    batch = rows_batch("target condition target")
    pages, decode = [], pipeline.codec.decode
    pipeline.codec.decode = lambda z: pages.append(decode(z)) or pages[-1]
    made = pipeline.sample(batch, seed=0)
    assert len(pages) == 1 and pages[0].shape == (1, 1, 3, 48, 96), "of all rows the query's alone is decoded"
    whole = ((pages[0][:, 0] + 1) * 127.5).round().clamp(0, 255).byte()
    for name, column in (("row2_0", 0), ("row2_2", 2)):
        assert torch.equal(made[name][:, 0], whole[..., 32 * column : 32 * (column + 1)])
    assert not torch.equal(made["row2_0"][:, 0], whole[..., 32:64])


def test_targets_have_noise_of_their_own():
    pipeline, _ = pipeline_for(*FILL)
    batch = rows_batch("target target")
    drawn = pipeline.draw_noise(pipeline.plan(batch.slots), [torch.Generator().manual_seed(0)])
    assert drawn["row2_0"].shape == drawn["row2_1"].shape and not torch.equal(drawn["row2_0"], drawn["row2_1"])
