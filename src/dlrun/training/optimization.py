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
from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.types import History, Step
from dlrun.training.optimizers import avoid_dynamo_import, update_hyperparameters
from dlrun.training.schedules import Schedule, ScheduleState, scale_learning_rate
from dlrun.training.step_runner import Strategy, WeightUpdate


class Optimization:
    """One optimizer for each group of parameters. It knows nothing of what the steps are about.

    Args:
        groups: Group → its parameters.
        build_optimizer: Parameters → their optimizer.
        settings: Of the engine.
        schedule: Factor on the learning rates; None for none.
        device: Of the parameters.
        build_update: How a group's weights are changed; a stack of fits has one of its own.
        processes: That share the fit.

    Attributes:
        strategy: How the fit is spread over processes.
        updates: Group → what takes its optimizer's step.
        steps_taken: Group → steps so far.
        steps_skipped: Updates that fp16 could not hold: they are no steps.
        accumulated_rows: Group → rows whose gradient is in, but not yet applied.
        total_steps: Steps of the whole fit, for the schedule.
    """

    def __init__(
        self,
        groups: dict[str, list[nn.Parameter]],
        build_optimizer: Callable[[list[nn.Parameter]], Optimizer],
        settings: Settings,
        schedule: Schedule | None,
        device: torch.device,
        build_update: Callable[..., WeightUpdate] = WeightUpdate,
        processes: ProcessGroup = ONE_PROCESS,
    ) -> None:
        if not settings.compile:
            avoid_dynamo_import()
        self.groups, self.settings, self.schedule = groups, settings, schedule
        self.strategy = choose_strategy(settings, processes)
        self.optimizers = {name: build_optimizer(parameters) for name, parameters in groups.items()}
        self.requested_settings = {
            name: list(map(dict, optimizer.param_groups))
            for name, optimizer in self.optimizers.items()
        }
        for optimizer in self.optimizers.values():
            self.strategy.prepare_optimizer(optimizer)
        compiled, sharded = settings.compile == "step", self.strategy.sharded
        self.updates = {
            name: build_update(groups[name], optimizer, compiled=compiled, sharded=sharded)
            for name, optimizer in self.optimizers.items()
        }
        self.scaler = torch.amp.GradScaler(device.type) if settings.precision == "fp16" else None
        self.ema_parameters = (
            {n: [p.detach().clone() for p in ps] for n, ps in groups.items()}
            if settings.ema
            else {}
        )
        self.steps_taken = dict.fromkeys(groups, 0)
        self.steps_skipped = 0
        self.accumulated_rows = dict.fromkeys(groups, 0)
        self.history: History = []
        self.total_steps = 1

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned, of each member."""
        return sum(update.num_parameters for update in self.updates.values())

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

    def step(self, step: Step, rows: int, last: bool) -> None:
        """Take in one step's gradient; change the weights when its window is full.

        A group that is not there has nothing to learn: the step was only measured.

        Args:
            step: Its loss is a mean over the rows.
            rows: Of this process's share of the batch.
            last: The window ends here.
        """
        if step.group not in self.groups:
            return
        if step.gradient is None:
            self._backward(step, rows)
        else:
            for parameter, gradient in zip(self.groups[step.group], step.gradient, strict=True):
                parameter.grad = gradient
        self.accumulated_rows[step.group] += self.strategy.count_all_rows(rows)
        if last:
            with torch.no_grad():
                self._step_group(step.group, rows)

    @property
    def _is_loss_summed(self) -> bool:
        """Whether the loss is made a sum over rows, and gradients are averaged later.

        Windows, and processes whose gradients torch averages, may have batches of different sizes.
        """
        return self.settings.accumulate > 1 or self.strategy.sharded

    def _backward(self, step: Step, rows: int) -> None:
        loss = step.loss * rows if self._is_loss_summed else step.loss
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        if len(self.groups) > 1:
            # Only this group: the others' gradients are waiting, or are not wanted.
            loss.backward(inputs=self.groups[step.group])
        else:
            loss.backward()

    def _average_gradients(self, name: str, rows: int) -> None:
        """Turn a group's gradients into their means over the rows of all processes."""
        parameters, total = self.groups[name], self.accumulated_rows[name]
        averaged = self.strategy.average_gradients(
            parameters, 1 if self._is_loss_summed else rows, total
        )
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizers[name])
        if self.settings.accumulate > 1 and not averaged:
            divide_gradients(parameters, total)

    def _step_group(self, name: str, rows: int) -> None:
        """Average, clip, step, and let the running averages follow."""
        parameters, optimizer = self.groups[name], self.optimizers[name]
        self._average_gradients(name, rows)
        self._clip(parameters)
        if self.schedule is not None:
            state = ScheduleState(self.steps_taken[name], self.total_steps, self.history)
            scale_learning_rate([optimizer], self.schedule(state))
        stepped = True
        if self.scaler is not None:
            stepped = self._scaled_step(self.scaler, optimizer)
        else:
            self.updates[name].step()
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
        for update in self.updates.values():
            update.write_state()
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
            self.updates[name].load_state()
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        for name, averages in self.ema_parameters.items():
            for average, stored in zip(averages, state["average"][name], strict=True):
                average.copy_(stored)
        self.steps_taken, self.steps_skipped = dict(state["taken"]), state.get("skipped", 0)


def choose_strategy(settings: Settings, processes: ProcessGroup) -> Strategy:
    """How a fit is spread over the processes that there are."""
    if processes.world_size == 1:
        return Strategy()
    from dlrun.training.distributed.data_parallel import DataParallel
    from dlrun.training.distributed.process_group import TorchGroup

    assert isinstance(processes, TorchGroup)
    return DataParallel(processes, sharded=settings.shard)


def divide_gradients(parameters: list[nn.Parameter], rows: int) -> None:
    """Make sums of gradients their mean over the rows that were really in the window."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= rows
