"""Which training steps are played from a note instead of taken anew: steady ones, once they are proved the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn

from dlrun.config.settings import Settings
from dlrun.core.errors import Refused
from dlrun.core.types import Batch, Step
from dlrun.training.distributed import fsdp
from dlrun.training.fast.aot_inductor import INSTEAD, ROUNDING, close, compilable, compiled, refuse
from dlrun.training.fast.fused_optimizer import laid_as
from dlrun.training.fast.tape import MAPPINGS, Beyond, Play, complete, noted

TOLERANCES = {"fp32": ROUNDING, "bf16": 0.1}  # of a compiled step, which rounds elsewhere
Take = Callable[[Batch], Iterator[Step]]
MOST_SHAPES = 4  # notes of one objective: of whole batches, of the last one, …


class Replay:
    """An objective's training steps. Of each shape of batch the first step is taken as ever, the second noted down.

    The third is taken as ever and played from the note as well: only where both give the same bits is the note used.
    take: batch → its steps. tolerance: of a compiled step's numbers, relative to their size; None = none is compiled.
    """

    def __init__(self, objective: nn.Module, take: Take, tolerance: float | None = None) -> None:
        self.take, self.tolerance = take, tolerance
        (self.group,) = objective.groups.values()  # type: ignore[operator,union-attr]
        self.buffers = list(objective.buffers())
        self.streams = getattr(objective, "streams", ())  # what it draws from besides torch's own generator
        self.known = [*objective.parameters(), *self.buffers]
        self.notes: dict[Any, Play | None] = {}
        self.proved: dict[Any, Play] = {}
        self.off = False

    def steps(self, batch: Batch) -> Iterator[Step]:
        """The step of this batch, with its gradient where that is known already."""
        key = tuple(map(torch.Tensor.size, batch.values()))
        if key in self.proved:
            yield self.proved[key](*batch.values())
        elif (play := self.notes.get(key)) is not None:
            yield self._prove(key, batch, play)
        else:
            yield from self._first(key, batch)

    def _first(self, key: Any, batch: Batch) -> Iterator[Step]:
        if self.tolerance is not None and any(part.layout is not torch.strided for part in batch.values()):
            self._give_up("rows of words are multiplied elsewhere, as the sparse matrices that they are")
        if self.off or key not in self.notes or len(self.notes) > MOST_SHAPES:
            self.notes[key] = None
            yield from self.take(batch)
            return
        before, buffers = self._random(), [buffer.clone() for buffer in self.buffers]
        try:
            step, self.notes[key] = noted(self.take, batch, self.group, self.known)
            yield step
        except Beyond as error:
            self._give_up(str(error))
            self._set(before, buffers)
            yield from self.take(batch)

    def _prove(self, key: Any, batch: Batch, play: Play) -> Step:
        before, buffers = self._random(), [buffer.clone() for buffer in self.buffers]
        step = complete(next(self.take(batch)), self.group)
        after = self._random(), [buffer.clone() for buffer in self.buffers]
        if not all(bool(part.isfinite().all()) for part in tensors(step)):
            return step  # it proves nothing, and the meter will tell
        self._set(before, buffers)
        if same(step, play, batch) and all(map(torch.equal, [*self._random(), *self.buffers], [*after[0], *after[1]])):
            self._set(before, buffers)
            self.proved[key] = self._compiled(step, play, batch, after[1])
        else:
            self._give_up("it is more than the same calls of torch for every batch")
        self._set(*after)
        return step

    def _compiled(self, step: Step, play: Play, batch: Batch, buffers: list[Tensor]) -> Play:
        if self.tolerance is None or self.proved:  # the shape of whole batches is proved first
            return play
        found = in_machine_code(step, play, batch, self.tolerance)
        return found if close(buffers, self.buffers, self.tolerance) else refuse()

    def _give_up(self, why: str) -> None:
        if self.tolerance is not None:
            raise Refused(f"engine.compile=step: a training step of this model cannot be noted down: {why}; {INSTEAD}")
        self.off, self.notes = True, {}

    def _random(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(stream.get_state() for stream in self.streams)]

    def _set(self, random: list[Tensor], buffers: list[Tensor]) -> None:
        torch.set_rng_state(random[0])
        for stream, state in zip(self.streams, random[1:], strict=True):
            stream.set_state(state)
        for buffer, value in zip(self.buffers, buffers, strict=True):
            buffer.copy_(value)


def same(step: Step, play: Play, batch: Batch) -> bool:
    """Whether what is played comes to this step, bit for bit."""
    try:
        played = play(*batch.values())
    except (RuntimeError, TypeError):  # one of torch's: a call that cannot be made in this way
        return False
    return all(map(torch.equal, tensors(step), tensors(played)))


def tensors(step: Step) -> list[Tensor]:
    """All that is in a step, its gradient last."""
    return [step.loss, *(part for name in MAPPINGS for part in getattr(step, name).values()), *(step.gradient or ())]


def in_machine_code(step: Step, play: Play, batch: Batch, tolerance: float) -> Play:
    """What is played, compiled. step: what it comes to for this batch. Raises Refused where this comes to another.

    tolerance: how large a difference may be, relative to the size of a tensor.
    """
    code, scope = cast(FunctionType, play).__code__, cast(FunctionType, play).__globals__
    names = [name for name, value in scope.items() if isinstance(value, Tensor)]
    kept, shown, count = [scope[name] for name in names], list(batch.values()), len(batch)
    calls = {name: compilable(value) for name, value in scope.items()}

    def whole(*inputs: Tensor) -> list[Tensor]:
        return tensors(FunctionType(code, calls | dict(zip(names, inputs[count:], strict=True)))(*inputs[:count]))

    run = compiled(whole, [*shown, *kept], "the training step")

    def play_fast(*columns: Tensor) -> Step:
        found = iter(run([*map(laid_as, columns, shown), *kept]))
        loss = next(found)
        parts = {key: {name: next(found) for name in getattr(step, key)} for key in MAPPINGS}
        return Step(step.group, loss, gradient=list(found), **parts)

    return play_fast if close(tensors(step), tensors(play_fast(*batch.values())), tolerance) else refuse()


def of(objective: nn.Module, take: Take, settings: Settings, device: torch.device) -> Any:
    """What plays an objective's training steps, where that can be; else None. Raises Refused where it was asked for.

    take: batch → its steps, in the precision that the settings say.
    """
    if not objective.groups:  # nothing is learnt
        return None
    who = restless(objective)
    against = {
        f"it is compiled for the CPU, and the device is {device}": device.type != "cpu",
        "engine.accumulate is above 1": settings.accumulate > 1,
        "engine.precision=fp16 scales the loss": settings.precision == "fp16",
        "engine.shard keeps weights in parts": fsdp.wanted(settings),
        "the network is compiled by itself": settings.compile is True,
        f"{who} is not known to do the same calls for every batch, as dense networks do": bool(who),
    }
    reason = next((reason for reason, holds in against.items() if holds), None)
    if reason and settings.compile == "step":
        raise Refused(f"engine.compile=step: {reason}; {INSTEAD}")
    tolerance = TOLERANCES[settings.precision] if settings.compile == "step" else None
    return None if reason else Replay(objective, take, tolerance)


def restless(objective: nn.Module) -> str:
    """The objective, or which of its modules, may do other calls for another batch of one shape; '' where none does.

    torch's own modules are steady. One of dlrun's or of the user's has `steady = True`.
    """
    if len(objective.groups) > 1:  # type: ignore[arg-type]
        return type(objective).__name__
    own = (each for each in objective.modules() if not type(each).__module__.startswith("torch.nn."))
    return next((type(each).__name__ for each in own if not getattr(each, "steady", False)), "")
