"""Many processes: which of them this is, how they were launched, and sharding a model with tied weights over
them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from learngene.errors import LearngeneError
from learngene.processes import is_follower
from learngene.recipe import Recipe


def launched_by_lightning() -> bool:
    """Whether this is a process that Lightning itself started beside the first."""
    return is_follower() and not TorchElasticEnvironment.detect() and not SLURMEnvironment.detect()


def launcher() -> ClusterEnvironment | None:
    """SLURM without Lightning's own requeueing (the job script does that, after the run has saved itself),
    else Lightning's choice.
    """
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    return None


def check_launch(trainer: L.Trainer) -> None:
    """Raise unless as many processes were launched as the recipe asks for; Lightning does not look, and each
    could train alone.
    """
    if TorchElasticEnvironment.detect():
        launched = int(os.environ["WORLD_SIZE"])
    elif SLURMEnvironment.detect():
        launched = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    else:
        return
    if launched != trainer.num_nodes * trainer.num_devices:
        raise LearngeneError(
            f"{launched} processes were launched, but this run is to have {trainer.num_nodes} x "
            f"{trainer.num_devices}: give the number "
            f"of machines with --num-nodes and of processes on each with --devices"
        )


def choose_strategy(recipe: Recipe) -> str | Strategy:
    """Lightning's strategy of that name, but our own for ``fsdp``."""
    if recipe.strategy != "fsdp":
        return recipe.strategy
    for name in ("ema", "rifle"):
        if getattr(recipe, name):
            raise LearngeneError(
                f"{name} {getattr(recipe, name)} does not work with sharded weights; use --strategy ddp, or "
                f"{name} 0"
            )
    return Sharded()


class Sharded(ModelParallelStrategy):
    """FSDP2 around the whole module, with the checkpoints of any other strategy: whole tensors in one file.

    Lightning's own ``fsdp`` (FSDP1) refuses CPUs and clipping by norm. Layers are not wrapped one by one:
    what layers of a stage share would belong to several groups, which `fully_shard` refuses. Lightning's
    saving under FSDP2 numbers the optimizer's state by name, where a tied parameter has several.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        """All devices shard; none splits a tensor product."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.model is not None
        return _whole(self.model.state_dict(keep_vars=True))

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return _whole(getattr(optimizer, "_optimizer", optimizer).state_dict())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        own = self.model.state_dict()
        self.model.load_state_dict(
            {k: _split_like(v, own.get(k)) for k, v in checkpoint["state_dict"].items()}, strict=strict
        )

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            split = {
                i: {k: _split_like(v, parameters[i]) for k, v in values.items()}
                for i, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": split})


def _whole(tree: Any) -> Any:
    """A nest of tensors with each shard replaced by the whole on CPU; what was one tensor stays one."""
    found: dict[int, torch.Tensor] = {}

    def gathered(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in found:
            found[id(tensor)] = (
                (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()
            )
        return found[id(tensor)]

    return tree_map_only(torch.Tensor, gathered, tree)


def _split_like(value: Any, model: Any) -> Any:
    """A whole tensor split as ``model`` is, if it has its shape; anything else as it is."""
    if isinstance(model, DTensor) and isinstance(value, torch.Tensor) and value.shape == model.shape:
        return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)
    return value


def shard(module: L.LightningModule) -> None:
    """Shard all parameters of a module under `Sharded`; each tied one is sharded once. Otherwise nothing
    happens.
    """
    if module.device_mesh is None or isinstance(module, FSDPModule):
        return
    fully_shard(module, mesh=module.device_mesh["data_parallel"])
    for name in ("training_step", "validation_step"):
        register_fsdp_forward_method(module, name)


def gather(module: L.LightningModule) -> None:
    """Give every process whole weights again, tied as they were. All processes have to call it."""
    if not isinstance(module, FSDPModule):
        return
    module.reshard()  # else, after validation, they look whole until somebody asks for the state
    whole: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if isinstance(parameter, DTensor):
                if id(parameter) not in whole:
                    whole[id(parameter)] = nn.Parameter(
                        parameter.full_tensor().detach(), parameter.requires_grad
                    )
                setattr(part, name, whole[id(parameter)])
