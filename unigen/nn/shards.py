"""The part of a parameter that a rank holds under ZeRO-3 or FSDP2, which is all of it without them.

ZeRO-3 flattens a parameter, pads it to a multiple of the ranks and gives each an equal part; FSDP2 gives each a run of
its first axis. Code that keeps something beside the parameters, such as an average, keeps it for the local part.
"""

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

CALLED = ("training_step", "validation_step", "sample")  # the methods for which a learner's weights are gathered


def is_divided(parameter: Tensor) -> bool:
    """Return whether other ranks hold parts of the parameter that this one does not."""
    return hasattr(parameter, "ds_tensor") or hasattr(parameter, "full_tensor")


def local(parameter: Tensor) -> Tensor:
    """Return this rank's part, which shares the parameter's memory; its shape is the same if it is not divided."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.data
    return parameter.detach().to_local() if hasattr(parameter, "full_tensor") else parameter.detach()


def whole(part: Tensor, parameter: Tensor) -> Tensor:
    """Put together the ranks' parts of something shaped as `local(parameter)`. Every rank must call it."""
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
    """Return the part of `full`, a value for the whole parameter, that is this rank's. No rank waits for another."""
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
    """Divide by FSDP2 over a one-dimensional mesh: each block is gathered when it is called, the rest for whole steps.

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
    """Return how many parameters a device holds whole at once after `divide`: those outside blocks, and two blocks."""
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
    """Return the names and parameters that training changes, each once."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def sizes(module: nn.Module) -> tuple[int, int]:
    """Return the inputs and outputs of a linear layer or a convolution, whatever part of its weight this rank holds."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels * prod(module.kernel_size), module.out_channels
