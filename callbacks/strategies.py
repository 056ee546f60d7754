"""Divides a run among devices: thin Lightning strategies beside Lightning's own DDP.

Checkpoints of both are folders, written atomically (`callbacks.atomic_checkpoint`): the strategy's own files with
trained weights and optimizer states in shards, and one file with everything else
(`unigen.training.consolidation.STATE`).
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import DeepSpeedPrecision, Precision
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy

from callbacks.atomic_checkpoint import whole_folder
from unigen.config.values import ConfigError
from unigen.nn import shards
from unigen.training.consolidation import STATE, TAG, read_state

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")  # that ZeRO takes here


def single() -> str:
    """Lightning's "auto": one device needs no strategy, and several devices use DDP."""
    return "auto"


class ZeROPrecision(DeepSpeedPrecision):
    """Mixed precision as on one device: fp32 weights, products under autocast. Batches are left as they are.

    Lightning's own lets DeepSpeed cast the whole module to bf16, and rounds every floating-point tensor of a batch.
    Raises ConfigError for a precision that needs a loss scale: DeepSpeed's own would halve the module.
    """

    def __init__(self, precision: str) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(
                f"trainer.precision={precision} does not go with DeepSpeed here; legal are {', '.join(PRECISIONS)}"
            )
        super().__init__(precision)

    def convert_input(self, data: Any) -> Any:
        return data

    def forward_context(self) -> AbstractContextManager:
        if "mixed" not in self.precision:
            return super().forward_context()
        return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=torch.bfloat16)

    def backward(
        self, tensor: torch.Tensor, model: L.LightningModule, optimizer: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Run DeepSpeed's backward pass without its division by the number of micro-batches: Lightning has divided the
        loss already, and gradients would be clipped too late.
        """
        super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)


class ZeRO(DeepSpeedStrategy):
    """DeepSpeed's ZeRO (Rajbhandari et al., 2020) on CUDA devices.

    stage: 1 divides the optimizer's states among the devices, 2 gradients too, 3 weights too, frozen ones included.
    offload_optimizer: states and fp32 masters lie in the host's memory and are updated there, by torch's AdamW;
    offload_parameters (stage 3 alone): the weights too. bucket_size: elements communicated at once.
    Raises ConfigError where DeepSpeed is not installed, and for a stage that there is not.
    """

    def __init__(
        self,
        stage: int,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        bucket_size: int = 200_000_000,
    ) -> None:
        if stage not in (1, 2, 3) or (offload_parameters and stage != 3):
            raise ConfigError(
                f"strategy.stage={stage} with strategy.offload_parameters={str(offload_parameters).lower()}: legal are "
                "1, 2, 3, and only 3 has parameters to offload"
            )
        try:
            super().__init__(
                stage=stage,
                offload_optimizer=offload_optimizer,
                offload_parameters=offload_parameters,
                allgather_bucket_size=bucket_size,
                reduce_bucket_size=bucket_size,
                exclude_frozen_parameters=True,
            )
        except (ImportError, L.pytorch.utilities.exceptions.MisconfigurationException) as error:
            raise ConfigError("strategy=deepspeed_* needs DeepSpeed: pip install 'unigen[cluster]'") from error
        self.config["zero_force_ds_cpu_optimizer"] = False  # it would take no other optimizer than its own
        self.divides_weights = stage == 3
        self._trained: Any = None  # the engine of a training that is over

    @property
    def precision_plugin(self) -> Precision:
        return self._precision_plugin or Precision()

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        """Replace Lightning's own DeepSpeed plugin, which the Trainer sets, by ZeROPrecision."""
        self._precision_plugin = plugin
        if isinstance(plugin, DeepSpeedPrecision):
            self._precision_plugin = ZeROPrecision(plugin.precision)
            if "mixed" in plugin.precision:
                self.config["bf16"] = {"enabled": False}  # else Lightning switches on the cast

    def _initialize_deepspeed_train(self, model: torch.nn.Module) -> None:
        super()._initialize_deepspeed_train(model)
        self._trained = self.model

    def _initialize_deepspeed_inference(self, model: torch.nn.Module) -> None:
        """Use the engine that trained. A second engine would wrap weights that the first has divided."""
        if self._trained is None:
            super()._initialize_deepspeed_inference(model)
        else:
            model.to(self.root_device)  # Lightning moves it to the CPU when a fit ends
            self.model = self._trained

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save each rank's shard, and the Trainer's state once (DeepSpeed would repeat it for every rank)."""
        with whole_folder(Path(filepath), self) as part, _trained_alone(self.lightning_module):
            self.deepspeed_engine.save_checkpoint(str(part), tag=TAG, exclude_frozen_parameters=True)
            if self.is_global_zero:
                torch.save(_without_weights(checkpoint), part / STATE)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint. Raises ConfigError if another strategy or another number of devices wrote it."""
        path = Path(checkpoint_path)
        state = read_state(path, "DeepSpeed")
        if state["world_size"] != self.world_size:
            raise ConfigError(
                f"{path} was written by {state['world_size']} devices, and DeepSpeed divides it among as many alone; "
                f"this run has {self.world_size}"
            )
        fitting = self.lightning_module.trainer.state.fn == "fit"
        self.deepspeed_engine.load_checkpoint(
            str(path),
            tag=TAG,
            load_optimizer_states=fitting,
            load_lr_scheduler_states=False,
            load_module_strict=False,
        )
        return state


class FSDP2(ModelParallelStrategy):
    """torch's fully_shard over all devices: weights, gradients and optimizer states are divided (`unigen.nn.shards`).

    A checkpoint may be taken up by another number of devices.
    """

    divides_weights = True

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The shards of the trained weights, sharing memory with them."""
        return {name: p.detach() for name, p in shards.trained(self.model)}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        from torch.distributed import checkpoint as dcp

        with whole_folder(Path(filepath), self) as part:
            divided = {"state_dict": checkpoint["state_dict"], "optimizer": checkpoint["optimizer_states"][0]}
            dcp.save(divided, checkpoint_id=part)
            if self.is_global_zero:
                torch.save(_without_weights(checkpoint), part / STATE)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint. Raises ConfigError if another strategy wrote it."""
        from torch.distributed import checkpoint as dcp
        from torch.distributed.checkpoint import state_dict as states

        path = Path(checkpoint_path)
        state = read_state(path, "FSDP2")
        dcp.load({"state_dict": self.lightning_module_state_dict()}, checkpoint_id=path)  # in place
        for optimizer in self.optimizers:  # none while validating
            found = {"optimizer": states.get_optimizer_state_dict(self.model, optimizer)}
            dcp.load(found, checkpoint_id=path)
            states.set_optimizer_state_dict(self.model, optimizer, optim_state_dict=found["optimizer"])
        return state


@contextmanager
def _trained_alone(module: torch.nn.Module) -> Iterator[None]:
    """Drop frozen weights under all their names: DeepSpeed excludes only the first, and SC-AdaLN's branches share
    theirs.
    """
    names = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}

    def drop(module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name in names & set(state):
            del state[name]

    handle = module.register_state_dict_post_hook(drop)
    try:
        yield
    finally:
        handle.remove()


def _without_weights(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
    world = torch.distributed.get_world_size()
    return kept | {"world_size": world}
