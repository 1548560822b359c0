"""How one step changes the weights.

Gradient, accumulation, clipping, optimizer, schedule, running average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dlrun.config.settings import Settings
from dlrun.core.errors import UserError
from dlrun.core.types import History, Step
from dlrun.training.distributed import data_parallel, fsdp, process_group
from dlrun.training.fast.aot_inductor import DISABLE_HINT
from dlrun.training.fast.flat_optimizer import FlatOptimizer, supports_flat_step
from dlrun.training.fast.fused_optimizer import FusedOptimizer, find_fused_kernel, match_strides
from dlrun.training.optimizers import (
    avoid_dynamo_import,
    get_unwrapped_step,
    update_hyperparameters,
)
from dlrun.training.schedules import Schedule, ScheduleState, scale_learning_rate


class Optimization:
    """One optimizer for each group of parameters. It knows nothing of what the steps are about."""

    def __init__(
        self,
        groups: dict[str, list[nn.Parameter]],
        build_optimizer: Callable[[list[nn.Parameter]], Optimizer],
        settings: Settings,
        schedule: Schedule | None,
        device: torch.device,
    ) -> None:
        if not settings.compile:
            avoid_dynamo_import()
        self.groups, self.settings, self.schedule = groups, settings, schedule
        self.optimizers = {name: build_optimizer(parameters) for name, parameters in groups.items()}
        self.requested_settings = {
            name: list(map(dict, optimizer.param_groups))
            for name, optimizer in self.optimizers.items()
        }
        if settings.compile == "step":
            check_optimizer_compile(groups, self.optimizers)
        if fsdp.is_sharded(settings):
            for optimizer in self.optimizers.values():
                optimizer.param_groups[:] = map(fsdp.without_fused_kernel, optimizer.param_groups)
        self.apply = {
            name: get_unwrapped_step(optimizer) for name, optimizer in self.optimizers.items()
        }
        self.scaler = torch.amp.GradScaler(device.type) if settings.precision == "fp16" else None
        self.ema_parameters = (
            {n: [p.detach().clone() for p in ps] for n, ps in groups.items()}
            if settings.ema
            else {}
        )
        self.shared = process_group.this_process.world_size > 1
        self.sharded = fsdp.is_sharded(settings)
        self.get_control_flags: Callable[[], list[float]] = (
            list  # what goes along with the gradients to all processes,
        )
        self.rows = 0
        self.gathered_flags: Tensor | None = None  # and has come with them
        self.members = 1  # models whose weights are stacked in these
        self.fast_steps: dict[str, FlatOptimizer | FusedOptimizer | None] = {}
        self.steps_taken = dict.fromkeys(groups, 0)
        self.steps_skipped = 0  # updates that fp16 could not hold: they are no steps
        self.accumulated_rows = dict.fromkeys(
            groups, 0
        )  # rows whose gradient is in, but not yet applied
        self.history: History = []
        self.total_steps = 1

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned, of each member."""
        return (
            sum(parameter.numel() for group in self.groups.values() for parameter in group)
            // self.members
        )

    @property
    def at_step_boundary(self) -> bool:
        """No gradient is waiting: a checkpoint taken now loses nothing."""
        return not any(self.accumulated_rows.values())

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates of the latest step: 'lr', or one for each group and part of it."""
        rates: dict[str, float] = {}
        for name, optimizer in self.optimizers.items():
            latest = ScheduleState(
                max(0, self.steps_taken[name] - 1), self.total_steps, self.history
            )
            factor = self.schedule(latest) if self.schedule is not None else 1.0
            bases = [
                float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups
            ]
            names = (
                [f"{name}/{number}" for number, _ in enumerate(bases, 1)]
                if len(bases) > 1
                else [name]
            )
            rates |= {name: base * factor for name, base in zip(names, bases, strict=True)}
        return {"lr": next(iter(rates.values()))} if len(rates) == 1 else rates

    def accumulate_and_step(self, step: Step, rows: int, last: bool) -> None:
        """Take in one step's gradient; change the weights when its window is full.

        A group that is not there has nothing to learn: the step was only measured.

        Args:
            last: The window ends here.
        """
        if step.group not in self.groups:
            return
        if step.gradient is None:
            self._backward(step, rows)
        else:
            for parameter, gradient in zip(self.groups[step.group], step.gradient, strict=True):
                parameter.grad = gradient
        self.rows = rows
        self.accumulated_rows[step.group] += (
            process_group.get_global_batch_size(rows) if self.shared else rows
        )
        if last:
            with torch.no_grad():
                self._step_group(step.group)

    def _backward(self, step: Step, rows: int) -> None:
        # A mean becomes a sum: windows and processes may have batches of different sizes.
        loss = step.loss * rows if self.settings.accumulate > 1 or self.sharded else step.loss
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        if len(self.groups) > 1:
            # Only this group: the others' gradients are waiting, or are not wanted.
            loss.backward(inputs=self.groups[step.group])
        else:
            loss.backward()

    def _step_group(self, name: str) -> None:
        parameters, optimizer = self.groups[name], self.optimizers[name]
        if self.sharded:
            self.gathered_flags = fsdp.average_sharded_gradients(
                parameters, self.accumulated_rows[name], self.get_control_flags()
            )
        elif self.shared:
            rows = 1 if self.settings.accumulate > 1 else self.rows
            self.gathered_flags = data_parallel.all_reduce_gradients(
                parameters, rows, self.accumulated_rows[name], self.get_control_flags()
            )
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        self._divide_by_rows(parameters, self.accumulated_rows[name])
        self._clip(parameters)
        if self.schedule is not None:
            scale_learning_rate(
                [optimizer],
                self.schedule(
                    ScheduleState(self.steps_taken[name], self.total_steps, self.history)
                ),
            )
        stepped = (
            self._scaled_step(self.scaler, optimizer)
            if self.scaler is not None
            else self._optimizer_step(name)
        )
        for parameter in parameters:
            # Not zeroed: None costs no pass over memory, and unused weights stay untouched.
            parameter.grad = None
        if self.ema_parameters and stepped:
            # average += (1 - decay) · (weight - average), all parameters in one call.
            torch._foreach_lerp_(
                self.ema_parameters[name], list[Tensor](parameters), 1 - (self.settings.ema or 0)
            )
        self.steps_taken[name] += stepped
        self.steps_skipped += not stepped
        self.accumulated_rows[name] = 0

    def _scaled_step(self, scaler: torch.amp.GradScaler, optimizer: Optimizer) -> bool:
        """The optimizer's step; False where a gradient was beyond fp16, so that none was taken."""
        scale_before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        return (
            scaler.get_scale() >= scale_before
        )  # it is lowered after a step that was skipped, and then alone

    def _divide_by_rows(self, parameters: list[nn.Parameter], rows: int) -> None:
        """Make sums of gradients their mean over the rows that were really in the window."""
        if self.settings.accumulate > 1 and not self.shared:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= rows

    def _optimizer_step(self, name: str) -> bool:
        """The optimizer's step, on all weights of the group at once where that can be. True.

        It is always taken.
        """
        parameters, optimizer = self.groups[name], self.optimizers[name]
        gradients = [parameter.grad for parameter in parameters]
        complete = all(gradient is not None for gradient in gradients)
        # Decided at the first step, when gradients show whether they are dense and complete.
        if name not in self.fast_steps:
            all_dense = not any(
                gradient is not None and gradient.layout is not torch.strided
                for gradient in gradients
            )
            self.fast_steps[name] = (
                self._build_fast_step(parameters, optimizer, complete)
                if all_dense and not self.sharded
                else None
            )
        fast_step = self.fast_steps[name]
        if isinstance(fast_step, FlatOptimizer) and not complete:
            fast_step.state_view.write_step_counts()
            fast_step = self.fast_steps[name] = None
        if fast_step is None:
            for parameter in (
                () if self.sharded else parameters
            ):  # torch's kernels do not look how a gradient lies
                parameter.grad = (
                    None if parameter.grad is None else match_strides(parameter.grad, parameter)
                )
            self.apply[name]()
        else:
            fast_step.step(gradients)  # type: ignore[arg-type]
        return True

    def _build_fast_step(
        self, parameters: list[nn.Parameter], optimizer: Optimizer, complete: bool
    ) -> FlatOptimizer | FusedOptimizer | None:
        """What takes an optimizer's step faster than it does itself, where that can be."""
        compile_ = self.settings.compile == "step"
        if self.members == 1 and not compile_ and find_fused_kernel(parameters, optimizer):
            return FusedOptimizer(parameters, optimizer)
        is_flat = complete and supports_flat_step(parameters, optimizer, self.members, compile_)
        return FlatOptimizer(parameters, optimizer, self.members, compile_) if is_flat else None

    def _clip(self, parameters: list[nn.Parameter]) -> None:
        if self.settings.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.settings.clip_value)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Inside, the weights are their running averages, where those are kept."""
        if not self.ema_parameters:
            yield
            return
        self._swap_ema_weights()
        try:
            yield
        finally:
            self._swap_ema_weights()

    def _swap_ema_weights(self) -> None:
        with torch.no_grad():
            for name, parameters in self.groups.items():
                for parameter, average in zip(parameters, self.ema_parameters[name], strict=True):
                    current = parameter.clone()
                    parameter.copy_(average)
                    average.copy_(current)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, besides the weights."""
        for fast_step in [
            fast_step for fast_step in self.fast_steps.values() if fast_step is not None
        ]:
            fast_step.state_view.write_step_counts()
        return {
            "optimizers": {
                name: optimizer.state_dict() for name, optimizer in self.optimizers.items()
            },
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "average": self.ema_parameters,
            "taken": self.steps_taken,
            "skipped": self.steps_skipped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            update_hyperparameters(optimizer, self.requested_settings[name])
            if (fast_step := self.fast_steps.get(name)) is not None:
                fast_step.state_view.load()
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        for name, averages in self.ema_parameters.items():
            for average, stored in zip(averages, state["average"][name], strict=True):
                average.copy_(stored)
        self.steps_taken, self.steps_skipped = dict(state["taken"]), state.get("skipped", 0)


def check_optimizer_compile(
    groups: dict[str, list[nn.Parameter]], optimizers: dict[str, Optimizer]
) -> None:
    """Raise UserError where the step of an optimizer cannot be compiled."""
    for name, optimizer in optimizers.items():
        if not supports_flat_step(groups[name], optimizer, compile_=True):
            raise UserError(
                f"engine.compile=step: the step of {type(optimizer).__name__} cannot be compiled "
                "for these weights "
                "(those of SGD, RMSprop, Adam and AdamW can, at one rate for all, on weights in "
                "row order, as dense "
                f"layers have them and convolutions here do not); {DISABLE_HINT}"
            )
