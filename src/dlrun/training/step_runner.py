"""The three stages of a training step, each chosen once a fit: compute, share, apply.

`StepRunner` computes losses and gradients: eagerly, replayed or compiled. `Strategy` shares them
among processes. `WeightUpdate` applies them to the weights of one fit, or of several stacked ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from dlrun.config.settings import Settings
from dlrun.core import device as runtime
from dlrun.core.dataset import Source
from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.errors import UserError
from dlrun.core.objective import Objective
from dlrun.core.types import Batch, Step
from dlrun.data.loading.table import EmptyBatches
from dlrun.training.optimizers import (
    FusedOptimizer,
    find_fused_kernel,
    get_unwrapped_step,
    match_strides,
)

if TYPE_CHECKING:
    from dlrun.training.fast.flat_optimizer import FlatOptimizer
    from dlrun.training.fast.replay import Replay
    from dlrun.training.meter import Meter


class StepRunner:
    """Computes an objective's steps in the precision that the settings name.

    Attributes:
        replay: Replays training steps, or their compiled form, where that gives the same bits;
            None: every step is computed eagerly.

    Raises:
        UserError: if engine.compile=step asks for what cannot be.
    """

    def __init__(
        self, objective: Objective, settings: Settings, device: torch.device, sharded: bool = False
    ) -> None:
        self.objective, self.precision, self.device = objective, settings.precision, device
        self.replay: Replay | None = None
        if settings.compile is True:
            for child in objective.children():
                child.compile()
        # Without a group there is nothing to learn, and no training step.
        if not objective.groups:
            return
        reason = find_replay_obstacle(objective, settings, device, sharded)
        if settings.compile == "step":
            from dlrun.training.fast.aot_inductor import DISABLE_HINT, TOLERANCES

            if reason:
                raise UserError(f"engine.compile=step: {reason}; {DISABLE_HINT}")
            self._replay_steps(TOLERANCES[settings.precision])
        elif not reason:
            self._replay_steps(None)

    def _replay_steps(self, tolerance: float | None) -> None:
        from dlrun.training.fast.replay import Replay

        self.replay = Replay(self.objective, self.compute_eagerly, tolerance)

    def steps(self, batch: Batch) -> Iterator[Step]:
        """The objective's steps for a batch.

        Args:
            batch: Column → values of B rows.

        Returns:
            An iterator that must be resumed only after its step was taken.
        """
        if self.replay is not None and self.objective.training:
            return self.replay.steps(batch)
        return self.compute_eagerly(batch)

    def compute_eagerly(self, batch: Batch) -> Iterator[Step]:
        """The same, by a forward pass of its own."""
        return runtime.iter_in_precision(self.objective.steps(batch), self.device, self.precision)


def find_replay_obstacle(
    objective: Objective, settings: Settings, device: torch.device, sharded: bool
) -> str:
    """Why an objective's training steps cannot be recorded and replayed; '' where they can."""
    # Loaded with any of dlrun's models.
    from dlrun.models.layers import InputProjection

    dynamic_part = has_dynamic_calls(objective)
    reads_bags = any(
        isinstance(module, InputProjection) and module.bags for module in objective.modules()
    )
    obstacles = {
        f"it is compiled for the CPU, and the device is {device}": device.type != "cpu",
        "engine.accumulate is above 1": settings.accumulate > 1,
        "engine.precision=fp16 scales the loss": settings.precision == "fp16",
        "engine.shard keeps weights in parts": sharded,
        "the network is compiled by itself": settings.compile is True,
        "rows of words are multiplied elsewhere, as the sparse matrices that they are": reads_bags,
        f"{dynamic_part} is not known to do the same calls for every batch, "
        "as dense networks do": bool(dynamic_part),
    }
    return next((reason for reason, holds in obstacles.items() if holds), "")


def has_dynamic_calls(objective: Objective) -> str:
    """The objective, or which of its modules, may do other calls for another batch of one shape; ''
    where none does.

    torch's own modules are steady. One of dlrun's or of the user's has `steady = True`.
    """
    if len(objective.groups) > 1:
        return type(objective).__name__
    modules = (
        module
        for module in objective.modules()
        if not type(module).__module__.startswith("torch.nn.")
    )
    # Any torch module may stand inside a model: the contract of `Model` binds only the outermost.
    return next(
        (type(module).__name__ for module in modules if not getattr(module, "steady", False)), ""
    )


class Strategy:
    """How a fit is spread over processes: every hook, with what one process does, which is nothing.

    `DataParallel` overrides all of them.

    Attributes:
        processes: That share the fit.
        sharded: Whether each process holds only a part of every weight.
    """

    processes: ProcessGroup = ONE_PROCESS
    sharded: bool = False

    def attach(self, trainer: Any) -> None:
        """Called once, with the trainer of this fit."""

    def begin_fit(self, trainer: Any) -> None:
        """Called before the first epoch: all processes start with the same weights."""

    def batches(self, source: Source, size: int, **order: Any) -> Iterator[Batch]:
        """This process's share of every batch of a split.

        Args:
            source: The rows.
            size: Rows of a batch of all processes.
            **order: seed, epoch and start, as `Source.batches` takes them.
        """
        return source.batches(size, **order)

    def count_rows(self, batch: Batch, planned: int) -> int:
        """How many rows of a batch count.

        Args:
            batch: This process's share.
            planned: Rows of all processes.
        """
        return len(next(iter(batch.values()))) if batch else 1

    def should_save_or_stop(self, trainer: Any, train: bool) -> tuple[bool, int]:
        """Whether a checkpoint is due, and the signal that asks to stop; 0 while none does."""
        return trainer.checkpoint_due, trainer.interrupted

    def raise_divergence(self, meter: Meter) -> None:
        """Raise TrainingDiverged where any process has met a loss that is not finite."""

    def end_epoch(self, objective: Objective, meter: Meter) -> None:
        """Give the meter what all processes have measured."""

    def gather_state(self, trainer: Any, state: dict[str, Any]) -> dict[str, Any]:
        """A trainer's state as one process would have it."""
        return state

    def shard_state(self, trainer: Any, state: dict[str, Any]) -> dict[str, Any]:
        """The other way round: the part of a state that this process restores."""
        return state

    def end_restore(self, trainer: Any, state: dict[str, Any]) -> None:
        """Called when a trainer has restored a state."""

    def prepare_optimizer(self, optimizer: Optimizer) -> None:
        """Change options that cannot be kept with these weights."""

    def count_all_rows(self, rows: int) -> int:
        """Rows of the present batch in all processes together."""
        return rows

    def average_gradients(self, parameters: list[nn.Parameter], rows: int, total: int) -> bool:
        """Set gradients to the mean over the rows of all processes, if there are several.

        Args:
            parameters: Of one group.
            rows: Factor on this process's gradients: rows that they are means over, 1 for sums.
            total: Rows of all processes.

        Returns:
            Whether gradients are means over `total` rows now, whatever they were.
        """
        return False


class WeightUpdate:
    """The optimizer's step on one group: torch's own, or a faster one with the same result.

    Args:
        parameters: Of the group; of shape (members, …) where there are several members.
        optimizer: Has these parameters, and their state.
        compiled: Whether it has to be compiled (engine.compile=step).
        sharded: Whether each process holds a part of every weight: only torch's own step knows.
        members: Fits whose weights are stacked here.

    Attributes:
        fast: Takes the step in the optimizer's place; None: the optimizer itself does.
        chosen: Whether that is decided. It is at the first step, when gradients show whether they
            are dense and complete.

    Raises:
        UserError: if a step cannot be compiled that has to be.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        optimizer: Optimizer,
        compiled: bool = False,
        sharded: bool = False,
        members: int = 1,
    ) -> None:
        self.parameters, self.optimizer, self.members = parameters, optimizer, members
        self.compiled, self.sharded = compiled, sharded
        self.torch_step = get_unwrapped_step(optimizer)
        self.fast: FlatOptimizer | FusedOptimizer | None = None
        self.chosen = False
        if compiled:
            from dlrun.training.fast.flat_optimizer import check_optimizer_compile

            check_optimizer_compile(parameters, optimizer)

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned, of each member."""
        return sum(map(torch.numel, self.parameters)) // self.members

    def step(self) -> None:
        """Take a step with the gradients of the parameters. Call under no_grad."""
        gradients = [parameter.grad for parameter in self.parameters]
        complete = all(gradient is not None for gradient in gradients)
        if not self.chosen:
            self.fast, self.chosen = self._choose(gradients, complete), True
        if self.fast is not None and self.fast.needs_all_gradients and not complete:
            self.fast.state_view.write_step_counts()
            self.fast = None
        if self.fast is not None:
            self.fast.step(gradients)  # type: ignore[arg-type]
            return
        # torch's kernels do not look how a gradient lies.
        for parameter in () if self.sharded else self.parameters:
            parameter.grad = (
                None if parameter.grad is None else match_strides(parameter.grad, parameter)
            )
        self.torch_step()

    def _choose(
        self, gradients: list[Tensor | None], complete: bool
    ) -> FlatOptimizer | FusedOptimizer | None:
        if self.sharded or any(
            gradient is not None and gradient.layout is not torch.strided for gradient in gradients
        ):
            return None
        if (
            self.members == 1
            and not self.compiled
            and find_fused_kernel(self.parameters, self.optimizer)
        ):
            return FusedOptimizer(self.parameters, self.optimizer)
        from dlrun.training.fast.flat_optimizer import FlatOptimizer, supports_flat_step

        options = self.members, self.compiled
        if complete and supports_flat_step(self.parameters, self.optimizer, *options):
            return FlatOptimizer(self.parameters, self.optimizer, *options)
        return None

    def flatten(self) -> FlatOptimizer:
        """The weights and the optimizer's state in one buffer each, from now on."""
        from dlrun.training.fast.flat_optimizer import FlatOptimizer

        if not isinstance(self.fast, FlatOptimizer):
            self.write_state()
            self.fast = FlatOptimizer(self.parameters, self.optimizer, self.members)
            self.chosen = True
        return self.fast

    def write_state(self) -> None:
        """Write to the optimizer's state what only the faster step knows."""
        if self.fast is not None:
            self.fast.state_view.write_step_counts()

    def load_state(self) -> None:
        """Take over the state that the optimizer has been given."""
        if self.fast is not None:
            self.fast.state_view.load()


def uses_batch_norm(objective: nn.Module) -> bool:
    """Whether a training step takes statistics over the rows of its batch; frozen layers do not."""
    # A frozen layer puts itself back into evaluation mode when asked to train.
    was_training = objective.training
    objective.train()
    uses_statistics = any(
        isinstance(module, _BatchNorm) and module.training for module in objective.modules()
    )
    objective.train(was_training)
    return uses_statistics


def count_training_rows(source: Source, size: int, paired: bool) -> int:
    """How many rows an epoch learns from: all, or all but one where that would be a batch by
    itself.

    Args:
        paired: Whether a batch needs two rows. An epoch is shuffled, so it is another row each
            time.
    """
    rows = len(source)
    left_out = paired and rows > size and rows % size == 1 and not isinstance(source, EmptyBatches)
    return rows - left_out


def check_batch_norm(objective: nn.Module, train: Source, size: int) -> None:
    """Raise UserError where batch normalization would see no batch of two rows."""
    rows = min(size, len(train))
    if rows > 1 or isinstance(train, EmptyBatches) or not uses_batch_norm(objective):
        return
    reason = "there is one training row" if len(train) == 1 else "engine.batch_size is 1"
    raise UserError(
        f"batch normalization needs two rows in a batch, and {reason}: "
        + (
            "use a model without it, "
            if len(train) == 1
            else "say engine.batch_size=2 or more, or use a model without it, "
        )
        + "such as model.batch_norm=false"
    )
