"""Weights sharded over processes by torch's FSDP, for models that no device holds as a whole.

Weights are gathered layer by layer while a layer computes. Checkpoints hold them whole, as those of
one process do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.models.model import Model

if TYPE_CHECKING:
    from dlrun.config.settings import Settings
    from dlrun.core.environment import ProcessGroup
    from dlrun.training.distributed.process_group import TorchGroup


def shard_model(
    model: nn.Module, settings: Settings, device: torch.device, processes: ProcessGroup
) -> None:
    """Shard the weights over the processes, if engine.shard asks for it and there are several.

    The layers of a list are gathered one after the other, all else with the model. All are freed
    after a forward pass, the outermost too: what it kept from a validation would be computed with
    after weights were set to others (running averages, the best epoch).

    Args:
        model: Changed in place.
        settings: Of the engine.
        device: Of this process.
        processes: That share the run.

    Raises:
        UserError: if precision, compilation or a penalty rule it out.
    """
    if settings.precision == "fp16" or settings.compile:
        raise UserError("engine.shard=true computes in fp32 or bf16, and is not compiled")
    if isinstance(model, Model) and model.penalty() is not None:
        raise UserError(
            "engine.shard=true cannot add a penalty on weights: say optimizer.weight_decay instead"
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # One dimension: every process has a part of every weight.
    mesh = init_device_mesh(device.type, (processes.world_size,))
    lists = [
        module for module in model.modules() if isinstance(module, nn.Sequential | nn.ModuleList)
    ]
    layers = [
        module_part
        for module in reversed(lists)
        for module_part in module
        if any(True for _ in module_part.parameters())
    ]
    for module_part in dict.fromkeys([*layers, model]):
        if not isinstance(module_part, nn.ModuleList):  # which computes nothing itself
            fully_shard(module_part, mesh=mesh, reshard_after_forward=True)


def average_sharded_gradients(
    processes: TorchGroup, parameters: list[nn.Parameter], total_rows: int, flags: list[float]
) -> Tensor:
    """Turn the gradients of summed losses, averaged over processes by FSDP, into means over rows.

    Args:
        processes: That share the fit.
        parameters: Of one group.
        total_rows: Rows of all processes.
        flags: What this process wishes, 0 or 1 each.

    Returns:
        The flags, summed over processes.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(processes.world_size / total_rows)
    return processes.all_reduce_sum(torch.tensor(flags, device=parameters[0].device))


def unshard(value: Any) -> Any:
    """The same value with every tensor whole, on the CPU; a collective call of all processes."""
    if isinstance(value, dict):
        return {name: unshard(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [unshard(item) for item in value]
    if hasattr(value, "full_tensor"):
        return value.full_tensor().detach().cpu()
    return value


def shard_tensor(value: Tensor, reference: Any) -> Tensor:
    """A whole tensor, sharded as the reference is where that is sharded."""
    if not hasattr(reference, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        value.to(reference.device), reference.device_mesh, reference.placements
    )


def shard_trainer_state(
    state: dict[str, Any], objective: nn.Module, optimizers: dict[str, Any]
) -> dict[str, Any]:
    """The state of a fit, with all that belongs to a weight sharded as the weight is."""
    local_tensors, optimization = objective.state_dict(), dict(state["learner"])
    weights = {
        name: shard_tensor(value, local_tensors.get(name))
        for name, value in state["objective"].items()
    }
    optimization["optimizers"] = {
        name: shard_optimizer_state(optimizer_state, optimizers[name])
        for name, optimizer_state in optimization["optimizers"].items()
    }
    groups = {
        name: [p for group in optimizer.param_groups for p in group["params"]]
        for name, optimizer in optimizers.items()
    }
    optimization["average"] = {
        name: [
            shard_tensor(value, parameter)
            for value, parameter in zip(values, groups[name], strict=True)
        ]
        for name, values in optimization["average"].items()
    }
    return state | {"objective": weights, "learner": optimization}


def shard_optimizer_state(
    state: dict[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """An optimizer's state, sharded as its weights are where it has their shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def shard(value: Any, parameter: Tensor) -> Any:
        return (
            shard_tensor(value, parameter)
            if isinstance(value, Tensor) and value.shape == parameter.shape
            else value
        )

    sharded = {
        number: {name: shard(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return state | {
        "state": sharded,
        "param_groups": list(map(without_fused_kernel, state["param_groups"])),
    }


def without_fused_kernel(group: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's options without `fused`: torch has no fused SGD of sharded weights."""
    return group | {"fused": False} if group.get("fused") else group
