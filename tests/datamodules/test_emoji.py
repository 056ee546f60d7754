"""EmojiData: splits, tasks, keyed batches and exact resumption under Lightning."""

import itertools

import lightning as L
import pytest
import torch

from datamodules import keyed
from datamodules.emoji import EmojiData, split_indices, split_of
from datamodules.emoji_cache import KINDS, glyphs
from datamodules.emoji_names import base_of, caption
from datamodules.emoji_tasks import TASKS, emoji_slots
from datamodules.keyed import KeyedBatchSampler
from unigen.noise import mix
from unigen.types import Batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("emoji")


@pytest.fixture
def make(folder):
    def build(**options) -> EmojiData:
        data = EmojiData(**{"size": 24, "limit": 200, "cache": folder, "batch_size": 8, **options})
        data.prepare_data()
        data.setup("fit")
        return data

    return build


def first(loader, n: int) -> list[Batch]:
    return list(itertools.islice(loader, n))


def same(a: list[Batch], b: list[Batch]) -> bool:
    """Whether two runs of batches are equal in words and in pixels."""
    return [(x.keys, x.prompts, x.tasks) for x in a] == [(y.keys, y.prompts, y.tasks) for y in b] and all(
        torch.equal(x.images[name], y.images[name]) for x, y in zip(a, b, strict=True) for name in x.images
    )


def straddling(names, split) -> set[str]:
    """Base glyphs with glyphs in more than one split, `split` telling a glyph's."""
    splits: dict[str, set[str]] = {}
    for name in names:
        splits.setdefault(base_of(name), set()).add(split(name))
    return {base for base, found in splits.items() if len(found) > 1}


def test_splits_are_disjoint_by_base_and_about_90_5_5():
    names = glyphs()
    indices = split_indices(names)
    where = {names[i]: split for split, found in indices.items() for i in found}
    assert len(where) == len(names) == sum(map(len, indices.values()))
    assert not straddling(names, where.get)
    assert straddling(names, split_of)  # splitting by glyph would straddle
    assert 0.85 < len(indices["train"]) / len(names) < 0.93
    assert min(len(indices["val"]), len(indices["test"])) > 150


def test_val_and_test_begin_with_one_glyph_of_every_base():
    names, indices = glyphs(), split_indices(glyphs())
    for split in ("val", "test"):
        bases = [base_of(names[i]) for i in indices[split]]
        assert len(set(bases[:64])) == 64 and len(set(bases)) < len(bases)


@pytest.mark.parametrize("task", list(TASKS))
def test_a_batch_of_each_task(make, task):
    data = make(tasks=[task])
    batch = first(data.train_dataloader(), 1)[0]
    assert data.tasks == (task,) and data.slots == batch.slots == emoji_slots(24) and len(batch) == 8
    for i, key in enumerate(batch.keys):
        glyph, pair = key.split("/")
        kinds = tuple(pair.split(">"))
        assert kinds in TASKS[task] and batch.tasks[i] == task
        index = data.pictures.names.index(glyph)
        for name, kind, other in (("condition", *kinds), ("target", *kinds[::-1])):
            pixels = batch.images[name][i]
            assert pixels.shape == (1, 3, 24, 24) and pixels.dtype == torch.uint8
            assert torch.equal(pixels[0], torch.tensor(data.pictures.picture(kind, index)))
            assert not torch.equal(pixels[0], torch.tensor(data.pictures.picture(other, index)))
        styled = f"{caption(glyph)}, {kinds[1]} style" if task == "subject" else caption(glyph)
        assert batch.prompts[i] == styled and batch.subjects[i][0] in batch.prompts[i]
        assert split_of(base_of(glyph)) == "train"


def test_mixed_tasks_and_both_directions_are_drawn_by_seed(make):
    batches = first(make(tasks=["canny", "line"]).train_dataloader(), 20)
    drawn = [task for batch in batches for task in batch.tasks]
    assert set(drawn) == {"canny", "line"} and 40 < drawn.count("canny") < 120
    keys = [key for batch in first(make(tasks=["subject"]).train_dataloader(), 20) for key in batch.keys]
    assert 40 < sum(key.endswith(">openmoji") for key in keys) < 120


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tasks": ["cany"]}, "unknown task 'cany'.*canny, line, subject, colour"),
        ({"tasks": []}, "no task given.*canny"),
        ({"tasks": None}, "no task given.*canny"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"size": 4}, "size=4"),
        ({"flip": 2.0}, "flip=2.0"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_bad_options_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        EmojiData(**{"size": 24, **wrong})


def test_training_batches_depend_on_seed_and_number_alone(make):
    tasks = list(TASKS)
    run = first(make(tasks=tasks, flip=0.5).train_dataloader(), 6)
    again = make(tasks=tasks, flip=0.5)
    again.start_batch = 2
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert same(run[2:], first(again.train_dataloader(), 4))
    assert torch.equal(before, torch.get_rng_state())  # the loader leaves the global generator alone
    assert not same(run[1:5], first(again.train_dataloader(), 4))
    assert not same(run, first(make(tasks=tasks, flip=0.5, seed=1).train_dataloader(), 6))
    assert same(run, first(make(tasks=tasks, flip=0.5, num_workers=2).train_dataloader(), 6))


def test_validation_is_fixed_whatever_the_seed(make):
    one, other = make(seed=0, val_items=7, tasks=["subject"]), make(seed=1, val_items=7, tasks=["subject"])
    batches = list(one.val_dataloader())
    assert same(batches, list(other.val_dataloader())) and sum(map(len, batches)) == min(7, len(one.indices["val"]))
    assert not same(batches, list(make(val_items=7, tasks=["canny"]).val_dataloader()))
    tested = {key.split("/")[0] for batch in one.test_dataloader() for key in batch.keys}
    assert tested and not tested & {key.split("/")[0] for batch in batches for key in batch.keys}
    with pytest.raises(ValueError, match="val split of 2 glyphs is empty"):
        make(limit=2).val_dataloader()


def test_flipping_mirrors_both_pictures(make):
    plain, flipped = (first(make(tasks=["line"], flip=p).train_dataloader(), 1)[0] for p in (0.0, 1.0))
    for name in ("condition", "target"):
        assert torch.equal(plain.images[name].flip(-1), flipped.images[name])
        assert not torch.equal(plain.images[name], flipped.images[name])


def test_fit_pictures_are_of_all_kinds_and_of_training_only(make):
    data = make()
    pictures = data.fit_pictures(20)
    assert pictures.shape == (20, 3, 24, 24) and pictures.dtype == torch.uint8
    assert torch.equal(pictures, make(seed=3, tasks=["line"]).fit_pictures(20))
    assert len({picture.numpy().tobytes() for picture in pictures}) == 20
    train = set(data.indices["train"])
    for k, kind in enumerate(KINDS):
        found = [i for i in range(200) if torch.equal(torch.tensor(data.pictures.picture(kind, i)), pictures[k])]
        assert found and set(found) <= train


def test_ranks_part_each_global_batch_and_every_item_comes_once_an_epoch():
    whole = first(KeyedBatchSampler(30, 10, seed=4), 9)
    parts = [first(KeyedBatchSampler(30, 5, seed=4, ranks=2, rank=r), 9) for r in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    assert parts[0] != parts[1]
    assert sorted(index for batch in whole[:3] for index, _ in batch) == list(range(30))
    assert len({seed for batch in whole for _, seed in batch}) == 90
    assert [i for b in whole[:3] for i, _ in b] != [i for b in whole[3:6] for i, _ in b]


def test_sampler_resumes_handles_tiny_data_and_refuses_nonsense():
    run = first(KeyedBatchSampler(7, 4, seed=0), 10)
    assert first(KeyedBatchSampler(7, 4, seed=0, start=3), 7) == run[3:]
    assert first(KeyedBatchSampler(7, 4, seed=1), 10) != run
    assert [i for i, _ in first(KeyedBatchSampler(2, 5, seed=0), 1)[0]].count(0) in (2, 3)
    for wrong in ({"n": 0}, {"batch_size": 0}, {"start": -1}, {"ranks": 2, "rank": 2}):
        with pytest.raises(ValueError, match=r"rank|sample"):
            KeyedBatchSampler(**{"n": 5, "batch_size": 2, "seed": 0, **wrong})


def test_sampler_reads_its_rank_from_torch_distributed(monkeypatch):
    sampler = KeyedBatchSampler(30, 5, seed=4)
    alone = first(sampler, 3)
    monkeypatch.setattr(keyed.torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(keyed.torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(keyed.torch.distributed, "get_rank", lambda: 1)
    assert first(sampler, 3) == first(KeyedBatchSampler(30, 5, seed=4, ranks=2, rank=1), 3) != alone


def test_mix_is_stable():
    assert mix(0, 1) == mix(0, 1) != mix(1, 0) and mix("1") != mix(1) and 0 <= mix("a") < 2**63
    assert mix("emoji split", "1f600") == 1962448826484933933  # written down once


class Recorder(L.LightningModule):
    """Trains one number and remembers the keys of the batches that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.keys = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        self.keys.append(batch.keys)
        return (self.weight - batch.images["target"].float().mean()) ** 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(data: EmojiData, steps: int, accumulate: int, resume=None):
    trainer = L.Trainer(
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    module = Recorder()
    trainer.fit(module, train_dataloaders=None, datamodule=data, ckpt_path=resume)
    return trainer, module.keys


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_lightning_run_goes_on_exactly(make, tmp_path, accumulate):
    _, run = fit(make(), 6, accumulate)
    trainer, begun = fit(make(), 2, accumulate)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    _, resumed = fit(make(), 6, accumulate, tmp_path / "two.ckpt")
    assert len(run) == 6 * accumulate and begun + resumed == run
    restarted = make()
    restarted.start_batch = 0
    assert begun + fit(restarted, 6, accumulate, tmp_path / "two.ckpt")[1] != run
