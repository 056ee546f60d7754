"""SessionData: chains of images of one glyph, a line for each turn, keyed batches of one chain."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datamodules.emoji.images import Row
from datamodules.emoji.names import base_of, caption, subject
from datamodules.emoji.sessions import SessionData
from unigen.core.types import CONDITION, TARGET, ImageSlot

ROOT = Path(__file__).parents[2]
CHAINS = ["canny>line>openmoji", "grey>target>canny>mask"]


@pytest.fixture(scope="module")
def make(folder):
    def build(**options) -> SessionData:
        given = {"tasks": CHAINS, "size": 32, "limit": 200, "cache": folder, "batch_size": 4, "val_items": 3}
        data = SessionData(**{**given, **options})
        data.prepare_data()
        return data

    return build


def test_a_batch_has_one_chain_and_a_row_for_each_turn(make):
    data, seen = make(), set()
    for batch in itertools.islice(data.train_dataloader(), 8):
        (chain,) = set(batch.tasks)
        turns = chain.count(">")
        assert batch.slots == (
            ImageSlot(CONDITION, CONDITION, 32, 32),
            *(ImageSlot(f"target{i}", TARGET, 32, 32, row=i) for i in range(turns)),
        )
        assert all(x.shape == (4, 1, 3, 32, 32) and x.dtype == torch.uint8 for x in batch.images.values())
        assert all(prompt.count("\n") == turns - 1 for prompt in batch.prompts)
        seen.add(chain)
    assert seen == set(data.tasks) == set(CHAINS)
    assert len(data.slots) == 4, "the header shows the longest chain"


def test_a_session_shows_one_glyph_in_the_images_of_its_chain(make):
    data = make()
    sample = data.dataset("train")["canny>line>openmoji", 5, 7]
    glyph, chain = sample.key.split("/")
    index, records = data.emoji.images.names.index(glyph), data.records
    for slot, name in zip(sample.slots, chain.split(">"), strict=True):
        drawn = records.image(name, Row(index, index, 7, 0))
        assert np.array_equal(sample.images[slot.name][0], drawn)
    assert not torch.equal(sample.images["target0"], sample.images["target1"])
    first, second = sample.prompt.split("\n")
    assert first.endswith(f": {caption(glyph)}") and caption(glyph) not in second and sample.caption == caption(glyph)
    assert sample.subjects == (subject(glyph),) and sample.clusters == {"base glyph": base_of(glyph)}


def test_held_out_sessions_are_fixed_and_the_chains_take_turns(make):
    batches = [list(make(seed=seed).val_dataloader()) for seed in (0, 1)]
    keys = [[key for batch in each for key in batch.keys] for each in batches]
    assert keys[0] == keys[1] and [key.split("/")[1] for key in keys[0]] == [CHAINS[0], CHAINS[0], CHAINS[1]]
    glyphs, data = {key.split("/")[0] for key in keys[0]}, make()
    assert len(glyphs) == 3 and not glyphs & {data.emoji.images.names[i] for i in data.emoji.indices["train"]}


def test_a_resumed_run_goes_on_exactly(make):
    run = list(itertools.islice(make().train_dataloader(), 5))
    again = make()
    again.start_batch = 2
    for a, b in zip(run[2:], itertools.islice(again.train_dataloader(), 3), strict=True):
        assert a.keys == b.keys and all(torch.equal(a.images[n], b.images[n]) for n in a.images)
    assert [batch.keys for batch in run] != [b.keys for b in itertools.islice(make(seed=1).train_dataloader(), 5)]
    dataset = make().dataset("train")
    copied, item = pickle.loads(pickle.dumps(dataset)), (CHAINS[0], 3, 5)
    assert torch.equal(copied[item].images["target0"], dataset[item].images["target0"])


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (["canny>target"], "'canny>target'; legal are chains of one image that is shown and 2 to 8"),
        (["line_ref>line>target"], "none of them a style reference"),
        (["cany>line>target"], "the emoji have no image 'cany'"),
        ([], "names no chain"),
        (None, "names no chain"),
        ([">".join(["target"] * 10)], "2 to 8 that are asked for"),
    ],
)
def test_what_is_no_chain_is_refused(tasks, said):
    with pytest.raises(ValueError, match=said):
        SessionData(tasks=tasks)


def test_a_limit_that_leaves_a_chain_no_glyph_is_refused(make):
    with pytest.raises(ValueError, match=r"split of 2 glyphs has none for canny>line>openmoji"):
        make(limit=2).val_dataloader()


def test_a_users_image_begins_a_session(make, tmp_path):
    data, file = make(), tmp_path / "a.png"
    Image.new("RGB", (50, 40), (200, 30, 30)).save(file)
    sample = data.user_sample(str(file), "red square", ("square",), CHAINS[1], prepared=False)
    assert sample.prompt.split("\n")[0].endswith(": red square") and sample.prompt.count("\n") == 2
    grey = sample.images[CONDITION][0, :, 16, 16].int()
    assert int(grey.max() - grey.min()) <= 2 and not sample.images["target2"].any()
    asis = data.user_sample(str(file), "one\ntwo\nthree", (), CHAINS[1], prepared=True)
    assert asis.prompt == "one\ntwo\nthree" and int(asis.images[CONDITION][0, 0, 16, 16]) == 200
    for files, task in (([str(file)] * 2, CHAINS[1]), (str(file), "grey>target")):
        with pytest.raises(ValueError, match="a session begins with one"):
            data.user_sample(files, "", (), task, prepared=False)


def test_the_yaml_lists_every_argument():
    written = yaml.safe_load((ROOT / "experiments/conf/data/sessions.yaml").read_text())
    defaults = dict(SessionData.__init__.__kwdefaults__)
    assert set(written) == {"_target_", "tasks", *defaults}
    assert all(written[key] == defaults[key] for key in defaults if key not in ("seed", "test_items"))
    assert SessionData(tasks=written["tasks"]).tasks == tuple(written["tasks"])
