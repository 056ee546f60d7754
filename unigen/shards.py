"""What a rank holds of a parameter: all of it, or the part that ZeRO-3 or FSDP2 left it.

ZeRO-3 flattens a parameter, pads it to a multiple of the ranks and gives each an equal part; FSDP2 gives each a run of
its first axis. Whoever keeps something beside the parameters (an average) keeps it for the local part alone.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

CALLED = ("training_step", "validation_step", "sample")  # what a learner's weights are gathered for


def is_divided(parameter: Tensor) -> bool:
    """Whether other ranks hold parts of it that this one does not."""
    return hasattr(parameter, "ds_tensor") or hasattr(parameter, "full_tensor")


def local(parameter: Tensor) -> Tensor:
    """This rank's part, sharing its memory: the parameter's own shape if it is not divided."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.data
    return parameter.detach().to_local() if hasattr(parameter, "full_tensor") else parameter.detach()


def whole(part: Tensor, parameter: Tensor) -> Tensor:
    """The ranks' parts of something shaped as `local(parameter)`, put together; every rank must call it."""
    from torch import distributed

    if hasattr(parameter, "ds_tensor"):
        ranks = distributed.get_world_size()
        found = part.new_empty(ranks * part.numel())
        distributed.all_gather_into_tensor(found, part.flatten().contiguous())
        return found[: parameter.ds_numel].view(parameter.ds_shape)
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import DTensor

        given = {"shape": parameter.shape, "stride": parameter.stride(), "run_check": False}
        return DTensor.from_local(part, parameter.device_mesh, parameter.placements, **given).full_tensor()
    return part


def part_of(full: Tensor, parameter: Tensor) -> Tensor:
    """What `local(parameter)` would be if the parameter were `full`, on its device; no rank waits for another."""
    mine = local(parameter)
    if hasattr(parameter, "ds_tensor"):
        from torch import distributed

        start = distributed.get_rank() * mine.numel()
        found = full.flatten()[start : start + mine.numel()].to(mine.device)
        return torch.cat([found, found.new_zeros(mine.numel() - found.numel())])
    if hasattr(parameter, "full_tensor"):
        ranks, rank = parameter.device_mesh.size(), parameter.device_mesh.get_local_rank()
        chunks = full.chunk(ranks, dim=parameter.placements[0].dim)
        return (chunks[rank] if rank < len(chunks) else full[:0]).to(mine.device)
    return full.to(mine.device)


@torch.no_grad()
def put(part: Tensor, parameter: Tensor) -> None:
    """Overwrite this rank's part; every rank must call it, because ZeRO-3 keeps small parameters whole beside it."""
    local(parameter).copy_(part)
    if hasattr(parameter, "ds_tensor") and parameter.ds_status.name == "AVAILABLE":
        parameter.data.copy_(whole(part, parameter))


def divide(learner: nn.Module, mesh: "DeviceMesh") -> None:
    """FSDP2 over a one-dimensional mesh: each block is gathered when it is called, the rest with the learner's steps.

    Blocks are the entries of the outermost module lists. Nothing stays gathered between steps, so that weights may be
    exchanged there (`callbacks.ema`).
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in list(_blocks(learner)):
        fully_shard(block, mesh=mesh)
    fully_shard(learner, mesh=mesh, reshard_after_forward=True)
    for name in CALLED:
        register_fsdp_forward_method(learner, name)


def gathered(*modules: nn.Module) -> int:
    """How many parameters `divide` has whole on a device at one time: those outside blocks, one block and the next."""
    every = {id(p): p.numel() for module in modules for p in module.parameters()}
    blocks = [{id(p): p.numel() for p in block.parameters()} for module in modules for block in _blocks(module)]
    inside = {key for block in blocks for key in block}
    rest = sum(size for key, size in every.items() if key not in inside)
    return rest + sum(sorted(sum(block.values()) for block in blocks)[-2:])


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if any(True for _ in block.parameters()))
        else:
            yield from _blocks(child)


def trained(module: nn.Module) -> list[tuple[str, Any]]:
    """Names and parameters that training changes, each once."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]
