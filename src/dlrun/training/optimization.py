"""How one step changes the weights: gradient, accumulation, clipping, optimizer, schedule, running average."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dlrun.config.settings import Settings
from dlrun.core.errors import Refused
from dlrun.core.types import History, Step
from dlrun.training.distributed import data_parallel, fsdp, process_group
from dlrun.training.fast.aot_inductor import INSTEAD
from dlrun.training.fast.flat_optimizer import Flat, fits
from dlrun.training.fast.fused_optimizer import Fused, kernel, laid_as
from dlrun.training.optimizers import quick_step, retune, spare_compiler
from dlrun.training.schedules import Moment, Schedule, set_rate


class Learner:
    """One optimizer for each group of parameters. It knows nothing of what the steps are about."""

    def __init__(
        self,
        groups: dict[str, list[nn.Parameter]],
        make: Callable[[list[nn.Parameter]], Optimizer],
        settings: Settings,
        schedule: Schedule | None,
        device: torch.device,
    ) -> None:
        if not settings.compile:
            spare_compiler()
        self.groups, self.settings, self.schedule = groups, settings, schedule
        self.optimizers = {name: make(parameters) for name, parameters in groups.items()}
        self.asked = {name: list(map(dict, each.param_groups)) for name, each in self.optimizers.items()}
        if settings.compile == "step":
            must_compile(groups, self.optimizers)
        if fsdp.wanted(settings):
            for optimizer in self.optimizers.values():
                optimizer.param_groups[:] = map(fsdp.unfused, optimizer.param_groups)
        self.apply = {name: quick_step(optimizer) for name, optimizer in self.optimizers.items()}
        self.scaler = torch.amp.GradScaler(device.type) if settings.precision == "fp16" else None
        self.average = {n: [p.detach().clone() for p in ps] for n, ps in groups.items()} if settings.ema else {}
        self.shared = process_group.here.size > 1
        self.sharded = fsdp.wanted(settings)
        self.wishes: Callable[[], list[float]] = list  # what goes along with the gradients to all processes,
        self.rows = 0
        self.heard: Tensor | None = None  # and has come with them
        self.members = 1  # models whose weights are stacked in these
        self.faster: dict[str, Flat | Fused | None] = {}
        self.taken = dict.fromkeys(groups, 0)
        self.skipped = 0  # updates that fp16 could not hold: they are no steps
        self.waiting = dict.fromkeys(groups, 0)  # rows whose gradient is in, but not yet applied
        self.history: History = []
        self.total = 1

    @property
    def numbers(self) -> int:
        """How many numbers are learnt, of each member."""
        return sum(each.numel() for group in self.groups.values() for each in group) // self.members

    @property
    def whole(self) -> bool:
        """No gradient is waiting: a checkpoint taken now loses nothing."""
        return not any(self.waiting.values())

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates of the latest step: 'lr', or one for each group and part of it."""
        found: dict[str, float] = {}
        for name, optimizer in self.optimizers.items():
            latest = Moment(max(0, self.taken[name] - 1), self.total, self.history)
            factor = self.schedule(latest) if self.schedule is not None else 1.0
            bases = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
            parts = [f"{name}/{number}" for number, _ in enumerate(bases, 1)] if len(bases) > 1 else [name]
            found |= {part: base * factor for part, base in zip(parts, bases, strict=True)}
        return {"lr": next(iter(found.values()))} if len(found) == 1 else found

    def learn(self, step: Step, rows: int, last: bool) -> None:
        """Take in one step's gradient; change the weights when its window is full. last: the window ends here.

        A group that is not there has nothing to learn: the step was only measured.
        """
        if step.group not in self.groups:
            return
        if step.gradient is None:
            self._walk_back(step, rows)
        else:
            for parameter, gradient in zip(self.groups[step.group], step.gradient, strict=True):
                parameter.grad = gradient
        self.rows = rows
        self.waiting[step.group] += process_group.whole(rows) if self.shared else rows
        if last:
            with torch.no_grad():
                self._apply(step.group)

    def _walk_back(self, step: Step, rows: int) -> None:
        loss = step.loss * rows if self.settings.accumulate > 1 or self.sharded else step.loss
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        if len(self.groups) > 1:
            loss.backward(inputs=self.groups[step.group])
        else:
            loss.backward()

    def _apply(self, name: str) -> None:
        parameters, optimizer = self.groups[name], self.optimizers[name]
        if self.sharded:
            self.heard = fsdp.add_gradients(parameters, self.waiting[name], self.wishes())
        elif self.shared:
            rows = 1 if self.settings.accumulate > 1 else self.rows
            self.heard = data_parallel.add_gradients(parameters, rows, self.waiting[name], self.wishes())
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        self._average(parameters, self.waiting[name])
        self._clip(parameters)
        if self.schedule is not None:
            set_rate([optimizer], self.schedule(Moment(self.taken[name], self.total, self.history)))
        done = self._scaled_step(self.scaler, optimizer) if self.scaler is not None else self._step(name)
        for parameter in parameters:
            parameter.grad = None
        if self.average and done:
            torch._foreach_lerp_(self.average[name], list[Tensor](parameters), 1 - (self.settings.ema or 0))
        self.taken[name] += done
        self.skipped += not done
        self.waiting[name] = 0

    def _scaled_step(self, scaler: torch.amp.GradScaler, optimizer: Optimizer) -> bool:
        """The optimizer's step; False where a gradient was beyond fp16, so that none was taken."""
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        return scaler.get_scale() >= before  # it is lowered after a step that was skipped, and then alone

    def _average(self, parameters: list[nn.Parameter], rows: int) -> None:
        """Make sums of gradients their mean over the rows that were really in the window."""
        if self.settings.accumulate > 1 and not self.shared:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= rows

    def _step(self, name: str) -> bool:
        """The optimizer's step, on all weights of the group at once where that can be. True: it is always taken."""
        parameters, optimizer = self.groups[name], self.optimizers[name]
        gradients = [parameter.grad for parameter in parameters]
        whole = all(gradient is not None for gradient in gradients)
        if name not in self.faster:
            plain = not any(each is not None and each.layout is not torch.strided for each in gradients)
            self.faster[name] = self._faster(parameters, optimizer, whole) if plain and not self.sharded else None
        own = self.faster[name]
        if isinstance(own, Flat) and not whole:
            own.kept.settle()
            own = self.faster[name] = None
        if own is None:
            for parameter in () if self.sharded else parameters:  # torch's kernels do not look how a gradient lies
                parameter.grad = None if parameter.grad is None else laid_as(parameter.grad, parameter)
            self.apply[name]()
        else:
            own.step(gradients)  # type: ignore[arg-type]
        return True

    def _faster(self, parameters: list[nn.Parameter], optimizer: Optimizer, whole: bool) -> Flat | Fused | None:
        """What takes an optimizer's step faster than it does itself, where that can be."""
        compile_ = self.settings.compile == "step"
        if self.members == 1 and not compile_ and kernel(parameters, optimizer):
            return Fused(parameters, optimizer)
        can = whole and fits(parameters, optimizer, self.members, compile_)
        return Flat(parameters, optimizer, self.members, compile_) if can else None

    def _clip(self, parameters: list[nn.Parameter]) -> None:
        if self.settings.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.settings.clip_value)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the weights are their running averages, where those are kept."""
        if not self.average:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for name, parameters in self.groups.items():
                for parameter, average in zip(parameters, self.average[name], strict=True):
                    held = parameter.clone()
                    parameter.copy_(average)
                    average.copy_(held)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, besides the weights."""
        for own in [each for each in self.faster.values() if each is not None]:
            own.kept.settle()
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "average": self.average,
            "taken": self.taken,
            "skipped": self.skipped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            retune(optimizer, self.asked[name])
            if (own := self.faster.get(name)) is not None:
                own.kept.tie()
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        for name, averages in self.average.items():
            for average, kept in zip(averages, state["average"][name], strict=True):
                average.copy_(kept)
        self.taken, self.skipped = dict(state["taken"]), state.get("skipped", 0)


def must_compile(groups: dict[str, list[nn.Parameter]], optimizers: dict[str, Optimizer]) -> None:
    """Raise Refused where the step of an optimizer cannot be compiled."""
    for name, optimizer in optimizers.items():
        if not fits(groups[name], optimizer, compile_=True):
            raise Refused(
                f"engine.compile=step: the step of {type(optimizer).__name__} cannot be compiled for these weights "
                "(those of SGD, RMSprop, Adam and AdamW can, at one rate for all, on weights in row order, as dense "
                f"layers have them and convolutions here do not); {INSTEAD}"
            )
