"""What data-parallel processes do together: gradients, meters, checkpoints, and when to stop."""

from __future__ import annotations

import copy
import logging
import signal
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlrun.config.settings import Settings
from dlrun.core import device as random
from dlrun.core.dataset import Source
from dlrun.core.device import derive_seed
from dlrun.core.environment import ProcessGroup
from dlrun.core.errors import TrainingDiverged, UserError
from dlrun.core.objective import Objective
from dlrun.core.types import Batch
from dlrun.data.loading.table import EmptyBatches, partition_batch
from dlrun.training import step_runner
from dlrun.training.distributed import fsdp
from dlrun.training.distributed.process_group import TorchGroup
from dlrun.training.meter import Meter, move_to_device
from dlrun.training.step_runner import Strategy

log = logging.getLogger("dlrun")
ROWS_PER_CHECK = 16  # batches between two looks at what others wish, where a look has a price
RUNNING_STATISTICS = ("running_mean", "running_var")
CPU = torch.device("cpu")


class DistributedTrainer(Protocol):
    """What processes have to know of the trainer of the fit that they share."""

    objective: Objective
    optimization: Any
    meter: Meter | None
    device: torch.device
    seed: int
    epoch: int
    position: int  # batches of this epoch that are done
    batches: int  # batches of this epoch
    interrupted: int  # the signal that asks to stop, 0 while none does

    @property
    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due."""

    def save(self) -> None:
        """Write a checkpoint."""


def check_data_parallel(
    objective: Objective, train: Source, settings: Settings, processes: ProcessGroup
) -> None:
    """Check that processes can share this fit, and log how batch norm fares.

    Args:
        objective: What is minimized.
        train: Training rows.
        settings: Of the engine.
        processes: That share the run.

    Raises:
        UserError: if there is nothing to share, or a process has too few rows of a batch.
    """
    if processes.world_size == 1:
        return
    if isinstance(train, EmptyBatches):
        raise UserError(
            f"this objective reads no rows that {processes.world_size} processes could share: "
            "say engine.devices=null"
        )
    if settings.shard and not objective.losses:
        raise UserError(
            "engine.shard=true shards a model that predicts targets, and this objective has none"
        )
    if not step_runner.uses_batch_norm(objective):
        return
    rows = step_runner.count_training_rows(train, settings.batch_rows, True)
    for batch_rows in {min(settings.batch_rows, rows), rows % settings.batch_rows} - {0}:
        if any(
            partition_batch(batch_rows, rank, processes.world_size).local_rows == 1
            for rank in range(processes.world_size)
        ):
            raise UserError(
                f"batch norm needs two rows, and of a batch of {batch_rows} one of "
                f"{processes.world_size} processes has only one: "
                "choose another engine.batch_size"
            )
    log.info(
        "batch norm: each of %d processes has the statistics of its own part of a batch",
        processes.world_size,
    )


def batch_norm_statistics(objective: Objective) -> dict[str, Tensor]:
    """Name → running mean or variance of all batch norm."""
    norms = {
        name: module for name, module in objective.named_modules() if isinstance(module, _BatchNorm)
    }
    statistics = {
        f"{name}.{kind}": getattr(norm, kind)
        for name, norm in norms.items()
        for kind in RUNNING_STATISTICS
    }
    return {name: value for name, value in statistics.items() if value is not None}


def average_tensors(processes: TorchGroup, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as their mean over all processes."""
    if not tensors:
        return {}
    mean = (
        processes.all_reduce_sum(torch.cat([tensor.reshape(-1) for tensor in tensors.values()]))
        / processes.world_size
    )
    means = mean.split([tensor.numel() for tensor in tensors.values()])
    return {name: mean.view_as(tensors[name]) for name, mean in zip(tensors, means, strict=True)}


def sync_batch_norm(processes: TorchGroup, objective: Objective) -> None:
    """Set running means and variances to their mean over all processes, as after every epoch."""
    statistics = batch_norm_statistics(objective)
    for name, mean in average_tensors(processes, statistics).items():
        statistics[name].copy_(mean)


def all_reduce_gradients(
    processes: TorchGroup,
    parameters: list[nn.Parameter],
    rows: float,
    total_rows: int,
    flags: list[float],
) -> Tensor:
    """Set gradients to the mean over the rows of all processes, in one collective call.

    A parameter without a gradient in all processes keeps none.

    Args:
        processes: That share the fit.
        parameters: Of one group.
        rows: Factor on this process's gradients, for they are means over its rows.
        total_rows: Rows of all processes.
        flags: What this process wishes, 0 or 1 each; sent along.

    Returns:
        The flags, summed over processes.
    """
    has_gradient = [float(parameter.grad is not None) for parameter in parameters]
    gradients = [
        (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in parameters
    ]
    sizes = [len(gradient) for gradient in gradients]
    total = torch.cat([*gradients, gradients[0].new_tensor([*has_gradient, *flags])])
    # Means of unequal shares become sums, which add up.
    total[: sum(sizes)] *= rows
    *summed, summed_flags = processes.all_reduce_sum(total).split(
        [*sizes, len(has_gradient) + len(flags)]
    )
    has_gradient_anywhere = (
        summed_flags[: len(has_gradient)].bool().tolist()
        if 0.0 in has_gradient
        else [True] * len(has_gradient)
    )
    for parameter, gradient, any_has in zip(parameters, summed, has_gradient_anywhere, strict=True):
        parameter.grad = gradient_view(gradient.div_(total_rows), parameter) if any_has else None
    return summed_flags[len(has_gradient) :]


def gradient_view(numbers: Tensor, parameter: Tensor) -> Tensor:
    """Numbers as a gradient of a parameter, with its strides: fused optimizers need both alike."""
    gradient = numbers.view_as(parameter)
    if parameter.is_contiguous() and parameter.dtype == gradient.dtype:
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def raise_first_divergence(processes: TorchGroup, meter: Meter) -> None:
    """Raise in every process what one of them has found.

    Raises:
        TrainingDiverged: of the first step whose loss is not finite in some process.
    """
    if faults := [
        fault for fault in processes.all_gather_object(meter.divergence) if fault is not None
    ]:
        processes.end_batch()
        raise TrainingDiverged(min(faults)[1])


def merge_meter_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """One meter state of those of all processes, each with its share of every batch.

    None is pending.
    """
    counts = [state["counts"] for state in states]
    first = states[0]
    merged = {name: sum(state[name] for state in states) for name in ("rows", "pending_numbers")}
    merged |= {name: sum_by_name([state[name] for state in states]) for name in ("losses", "parts")}
    merged["sums"] = {name: sum(state["sums"][name] for state in states) for name in first["sums"]}
    merged |= {"pending": [], "steps": first["steps"]}
    merged["kept"] = {
        name: [
            restore_row_order([state["kept"][name][index] for state in states], counts)
            for index in (0, 1)
        ]
        for name in first["kept"]
    }
    merged["each"] = {
        name: restore_row_order([state["each"][name] for state in states], counts)
        for name in first["each"]
    }
    merged["counts"] = [sum(rows) for rows in zip(*counts, strict=True)]
    return merged


def sum_by_name(totals: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Name → [sum, rows] of all of these."""
    names = dict.fromkeys(name for total in totals for name in total)
    return {
        name: [sum(total[name][index] for total in totals) for index in (0, 1)] for name in names
    }


def restore_row_order(rows_by_process: list[list[Tensor]], counts: list[list[int]]) -> list[Tensor]:
    """The rows of all processes in the order of one process.

    Args:
        rows_by_process: Of each process its rows, in pieces.
        counts: Of each process its rows of each batch.
    """
    example = next((rows[0] for rows in rows_by_process if rows), None)
    if example is None:
        return []
    batches = [
        torch.cat([example[:0], *rows]).split(sizes)
        for rows, sizes in zip(rows_by_process, counts, strict=True)
    ]
    return [torch.cat([piece for batch in zip(*batches, strict=True) for piece in batch])]


def move_tensors(value: Any, device: torch.device) -> Any:
    """The same with every tensor in it on a device."""
    if isinstance(value, list | tuple):
        return [move_tensors(item, device) for item in value]
    if isinstance(value, dict):
        return {name: move_tensors(item, device) for name, item in value.items()}
    return move_to_device(value, device)


class DataParallel(Strategy):
    """Several processes, each with its share of every batch and, unless sharded, all weights.

    Args:
        processes: That share the fit.
        sharded: Whether torch's FSDP keeps a part of every weight in each process.

    Attributes:
        trainer: Of this fit.
        gathered_flags: What all processes wish, summed; it has come with the latest gradients.
    """

    def __init__(self, processes: TorchGroup, *, sharded: bool) -> None:
        self.processes: TorchGroup = processes
        self.sharded = sharded
        self.trainer: DistributedTrainer | None = None
        self.gathered_flags: Tensor | None = None

    def attach(self, trainer: DistributedTrainer) -> None:
        self.trainer = trainer

    def begin_fit(self, trainer: DistributedTrainer) -> None:
        """Begin with the first process's weights, and save: a run may lose a process."""
        # Sharded weights begin alike, by the seed.
        weights = [] if self.sharded else [*trainer.objective.parameters()]
        self.processes.broadcast_tensors(
            [tensor.detach() for tensor in (*weights, *trainer.objective.buffers())]
        )
        optimization = trainer.optimization
        if optimization.groups and not any(optimization.steps_taken.values()):
            trainer.save()

    def batches(self, source: Source, size: int, **order: Any) -> Iterator[Batch]:
        this = self.processes
        return source.batches(size, rank=this.rank, world=this.world_size, **order)

    def count_rows(self, batch: Batch, planned: int) -> int:
        rows = super().count_rows(batch, planned)
        return self.processes.begin_batch(planned, rows)

    def count_all_rows(self, rows: int) -> int:
        return self.processes.get_global_batch_size(rows)

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        if self.sharded:
            groups = optimizer.param_groups
            groups[:] = map(fsdp.without_fused_kernel, groups)

    def average_gradients(self, parameters: list[nn.Parameter], rows: int, total: int) -> bool:
        """Average them in one collective call, in which each process says what it wishes."""
        flags, group = self._get_control_flags(), self.processes
        if self.sharded:
            average = fsdp.average_sharded_gradients
            self.gathered_flags = average(group, parameters, total, flags)
        else:
            self.gathered_flags = all_reduce_gradients(group, parameters, rows, total, flags)
        return True

    def _get_control_flags(self) -> list[float]:
        """What this process wishes after this step, 0 or 1 each.

        Returns:
            Stop on SIGINT, stop on SIGTERM, save, look at a loss that is not finite.
        """
        trainer = self.trainer
        if trainer is None:
            return []
        stop = [float(trainer.interrupted == number) for number in (signal.SIGINT, signal.SIGTERM)]
        return [
            *stop,
            float(self.processes.rank == 0 and trainer.checkpoint_due),
            float(trainer.meter is not None and trainer.meter.divergence is not None),
        ]

    def _gather_flags(self, trainer: DistributedTrainer, train: bool) -> list[float]:
        """The flags of all processes, summed; [] where this is not the time to ask.

        In training they have come with the gradients; to read them is to wait for the device.
        """
        learns = bool(train and trainer.optimization.groups)
        is_slow = not learns or trainer.device.type != "cpu"
        is_between = trainer.position % ROWS_PER_CHECK and trainer.position != trainer.batches
        if not trainer.optimization.at_step_boundary or (is_slow and is_between):
            return []
        if learns:
            flags, self.gathered_flags = self.gathered_flags, None
            return [] if flags is None else flags.tolist()
        wishes = torch.tensor(self._get_control_flags(), device=trainer.device)
        return self.processes.all_reduce_sum(wishes).tolist()

    def should_save_or_stop(self, trainer: DistributedTrainer, train: bool) -> tuple[bool, int]:
        """Whether all processes save now, and the signal on which all of them stop (0: none).

        Raises:
            TrainingDiverged: in all processes, if the loss of one is not finite.
        """
        flags = self._gather_flags(trainer, train)
        # The usual case.
        if not any(flags):
            return False, 0
        # A divergence outranks all else: no checkpoint of it is written.
        interrupt, terminate, due, fault = flags
        if fault and trainer.meter is not None:
            raise_first_divergence(self.processes, trainer.meter)
        number = signal.SIGTERM if terminate else signal.SIGINT if interrupt else 0
        return bool(due), int(number)

    def raise_divergence(self, meter: Meter) -> None:
        raise_first_divergence(self.processes, meter)

    def end_epoch(self, objective: Objective, meter: Meter) -> None:
        """Give the meter the sums of all processes, and all stored rows in their order."""
        self.processes.end_batch()
        raise_first_divergence(self.processes, meter)
        # Only training changes running means.
        if objective.training:
            sync_batch_norm(self.processes, objective)
        states = self.processes.all_gather_object(move_tensors(meter.state(), CPU))
        meter.restore(merge_meter_states(states))

    def gather_state(self, trainer: DistributedTrainer, state: dict[str, Any]) -> dict[str, Any]:
        """The state of a fit as one process would have it.

        Amid an epoch, `ranks` is each one's own part.
        """
        state = fsdp.unshard(state) if self.sharded else state
        state["random"] = self.processes.shared_state or state["random"]
        if trainer.meter is None:
            return state
        running = batch_norm_statistics(trainer.objective)
        local_state = {
            "random": random.get_random_state(trainer.device),
            "meter": trainer.meter.state(),
            "statistics": running,
        }
        flushed_meter = copy.deepcopy(trainer.meter)
        flushed_meter.flush()
        gathered = self.processes.all_gather_object(
            move_tensors([local_state, flushed_meter.state()], CPU)
        )
        copies = {name: value.clone() for name, value in running.items()}
        average = average_tensors(self.processes, copies)
        return state | {
            "objective": state["objective"] | average,
            "meter": merge_meter_states([meter_state for _, meter_state in gathered]),
            "ranks": [meter_state for meter_state, _ in gathered],
        }

    def shard_state(self, trainer: DistributedTrainer, state: dict[str, Any]) -> dict[str, Any]:
        """The part of every weight that this process holds."""
        if not self.sharded:
            return state
        return fsdp.shard_trainer_state(state, trainer.objective, trainer.optimization.optimizers)

    def end_restore(self, trainer: DistributedTrainer, state: dict[str, Any]) -> None:
        """Take up this process's part of an epoch, whatever number of processes wrote it."""
        self.processes.shared_state, ranks = state["random"], state.get("ranks", [])
        if trainer.meter is None:
            return
        if len(ranks) == self.processes.world_size:
            local_state = ranks[self.processes.rank]
            random.restore_random_state(local_state["random"], trainer.device)
            trainer.meter.restore(local_state["meter"])
            for name, value in batch_norm_statistics(trainer.objective).items():
                value.copy_(local_state["statistics"][name])
            return
        # Another number of processes cannot go on with the old streams: new ones, by position.
        position = trainer.epoch, trainer.position, self.processes.rank
        torch.manual_seed(derive_seed(trainer.seed, *position))
        # The first goes on with what all have added up.
        if self.processes.rank:
            gathered = trainer.meter
            trainer.meter = Meter(
                gathered.metrics, gathered.fields, gathered.device, gathered.where, several=True
            )
            trainer.meter.steps, trainer.meter.counts = gathered.steps, [0] * len(gathered.counts)
