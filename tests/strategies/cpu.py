"""DeepSpeed on the CPU with gloo, for tests alone: Lightning insists on CUDA."""

from argparse import Namespace

from lightning.pytorch.strategies import DeepSpeedStrategy

from callbacks.strategies import ZeRO


class CPUZeRO(ZeRO):
    """`ZeRO` without the checks for CUDA, and with `device_rank` as DeepSpeed wants it on a CPU."""

    def __init__(self, **options):
        super().__init__(**options)
        zero = self.config["zero_optimization"]
        zero["stage3_param_persistence_threshold"] = 0  # else nothing as small as a test's would be divided

    def setup_environment(self):
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self):
        self._process_group_backend = "gloo"
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(self, model, optimizer, lr_scheduler=None):
        import deepspeed

        engine, wrapped, _, _ = deepspeed.initialize(
            args=Namespace(device_rank=-1),
            config=self.config,
            model=model,
            model_parameters=[p for p in model.parameters() if p.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, wrapped
