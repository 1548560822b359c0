"""Which training steps are played from a note instead of taken anew: steady ones, once they are proved the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.tape import Beyond, Play, complete, noted
from dlrun.types import Batch, Step

MOST_SHAPES = 4  # notes of one objective: of whole batches, of the last one, …


class Replay:
    """An objective's training steps. Of each shape of batch the first step is taken as ever, the second noted down.

    The third is taken as ever and played from the note as well: only where both give the same bits is the note used.
    """

    def __init__(self, objective: nn.Module) -> None:
        self.take: Callable[[Batch], Iterator[Step]] = objective.steps  # type: ignore[assignment]
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
        if self.off or key not in self.notes or len(self.notes) > MOST_SHAPES:
            self.notes[key] = None
            yield from self.take(batch)
            return
        before = self._random()
        try:
            step, self.notes[key] = noted(self.take, batch, self.group, self.known)
            yield step
        except Beyond:
            self.off = True
            self._set(before, [])
            yield from self.take(batch)

    def _prove(self, key: Any, batch: Batch, play: Play) -> Step:
        before, buffers = self._random(), [buffer.clone() for buffer in self.buffers]
        step = complete(next(self.take(batch)), self.group)
        after = self._random(), [buffer.clone() for buffer in self.buffers]
        self._set(before, buffers)
        if same(step, play, batch) and all(map(torch.equal, self._random(), after[0])):
            self.proved[key] = play
        else:
            self.off, self.notes = True, {}
        self._set(*after)
        return step

    def _random(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(stream.get_state() for stream in self.streams)]

    def _set(self, random: list[Tensor], buffers: list[Tensor]) -> None:
        torch.set_rng_state(random[0])
        for stream, state in zip(self.streams, random[1:], strict=True):
            stream.set_state(state)
        for buffer, value in zip(self.buffers, buffers, strict=False):
            buffer.copy_(value)


def same(step: Step, play: Play, batch: Batch) -> bool:
    """Whether what is played comes to this step, bit for bit."""
    parts = lambda step: [step.loss, *step.gradient, *step.outputs.values(), *step.parts.values()]  # noqa: E731
    try:
        played = play(*batch.values())
    except (RuntimeError, TypeError):  # one of torch's: a call that cannot be made in this way
        return False
    return all(torch.equal(a, b) for a, b in zip(parts(step), parts(played), strict=True))


def steady(objective: nn.Module) -> bool:
    """Whether a step is the same calls for every batch of one shape: the objective says so, and so do its modules.

    torch's own modules are steady. One of dlrun's or of the user's has `steady = True`.
    """
    own = getattr(objective, "steady", False) and len(objective.groups) == 1  # type: ignore[arg-type]
    modules = (type(module).__module__.startswith("torch.nn.") or getattr(module, "steady", False)
               for module in objective.modules())  # fmt: skip
    return bool(own) and all(modules)
