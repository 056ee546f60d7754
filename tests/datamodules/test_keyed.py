"""Keyed batches: what they depend on, how ranks part them, and exact resumption under Lightning."""

import itertools

import lightning as L
import pytest
import torch
from bare_trainer import bare_trainer
from tiny import composed

from datamodules.emoji.data import EmojiGraphData
from datamodules.graph import keyed
from datamodules.graph.keyed import KeyedBatchSampler
from unigen.core.noise import mix
from unigen.core.types import Batch
from unigen.pipeline.build import build

FEW = {"size": 24, "limit": 200, "batch_size": 8, "tasks": ["canny>target", "line>openmoji", "jpeg>target"]}


@pytest.fixture
def make(folder):
    def build_data(**options) -> EmojiGraphData:
        data = build({**composed()["data"], **FEW, "cache": str(folder), **options})
        data.prepare_data()
        return data

    return build_data


def first(loader, n: int) -> list[Batch]:
    return list(itertools.islice(loader, n))


def same(a: list[Batch], b: list[Batch]) -> bool:
    """Whether two runs of batches are equal in words and in pixels."""
    return [(x.keys, x.prompts, x.tasks) for x in a] == [(y.keys, y.prompts, y.tasks) for y in b] and all(
        torch.equal(x.images[name], y.images[name]) for x, y in zip(a, b, strict=True) for name in x.images
    )


def test_training_batches_depend_on_seed_and_number_alone(make):
    run = first(make().train_dataloader(), 6)
    again = make()
    again.start_batch = 2
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert same(run[2:], first(again.train_dataloader(), 4))
    assert torch.equal(before, torch.get_rng_state())  # the loader leaves the global generator alone
    assert not same(run[1:5], first(again.train_dataloader(), 4))
    assert not same(run, first(make(seed=1).train_dataloader(), 6))
    assert same(run, first(make(num_workers=2).train_dataloader(), 6))


@pytest.mark.parametrize("wrong", ["batch_size=0", "num_workers=-1"])
def test_bad_options_are_refused(make, wrong):
    name, _, value = wrong.partition("=")
    with pytest.raises(ValueError, match=wrong):
        make(**{name: int(value)})


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


def fit(data: EmojiGraphData, steps: int, accumulate: int, resume=None):
    trainer = bare_trainer(steps, accumulate_grad_batches=accumulate, use_distributed_sampler=False)
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
