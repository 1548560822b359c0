"""Which training steps are played from a note instead of taken anew.

Steady ones, once they are proved the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dlrun.core.errors import UserError
from dlrun.core.objective import Objective
from dlrun.core.types import Batch, Step
from dlrun.training.fast.tape import (
    NotRecordable,
    RecordedStep,
    collect_step_tensors,
    record_step,
    with_gradient,
)

TakeStep = Callable[[Batch], Iterator[Step]]
MAX_SHAPES = 4  # notes of one objective: of whole batches, of the last one, …


class Replay:
    """An objective's training steps, replayed once that is proved to give the same bits.

    Of each shape of batch the first step is taken as usual and the second is recorded. The third is
    taken as usual and replayed as well: only where both give the same bits is the recording used.

    Args:
        objective: Has one group of parameters.
        take_steps: Batch → its steps.
        tolerance: Of a compiled step's numbers, relative to their size; None: nothing is compiled.
    """

    def __init__(
        self, objective: Objective, take_steps: TakeStep, tolerance: float | None = None
    ) -> None:
        self.take, self.tolerance = take_steps, tolerance
        (group,) = objective.groups.values()
        self.group: list[Tensor] = [*group]
        self.buffers = list(objective.buffers())
        self.streams = objective.streams
        self.known_tensors = [*objective.parameters(), *self.buffers]
        self.recordings: dict[Any, RecordedStep | None] = {}
        self.verified: dict[Any, RecordedStep] = {}
        self.disabled = False

    def steps(self, batch: Batch) -> Iterator[Step]:
        """The step of this batch, with its gradient where that is known already."""
        key = tuple(map(torch.Tensor.size, batch.values()))
        if key in self.verified:
            yield self.verified[key](*batch.values())
        elif (play := self.recordings.get(key)) is not None:
            yield self._verify(key, batch, play)
        else:
            yield from self._record_first(key, batch)

    def _record_first(self, key: Any, batch: Batch) -> Iterator[Step]:
        if self.tolerance is not None and any(
            column.layout is not torch.strided for column in batch.values()
        ):
            self._disable(
                "rows of words are multiplied elsewhere, as the sparse matrices that they are"
            )
        if self.disabled or key not in self.recordings or len(self.recordings) > MAX_SHAPES:
            self.recordings[key] = None
            yield from self.take(batch)
            return
        random_states, buffers = (
            self._get_random_states(),
            [buffer.clone() for buffer in self.buffers],
        )
        try:
            step, self.recordings[key] = record_step(
                self.take, batch, self.group, self.known_tensors
            )
            yield step
        except NotRecordable as error:
            self._disable(str(error))
            self._restore_states(random_states, buffers)
            yield from self.take(batch)

    def _verify(self, key: Any, batch: Batch, play: RecordedStep) -> Step:
        random_states, buffers = (
            self._get_random_states(),
            [buffer.clone() for buffer in self.buffers],
        )
        step = with_gradient(next(self.take(batch)), self.group)
        after = self._get_random_states(), [buffer.clone() for buffer in self.buffers]
        if not all(bool(tensor.isfinite().all()) for tensor in collect_step_tensors(step)):
            return step  # it proves nothing, and the meter will tell
        self._restore_states(random_states, buffers)
        if is_replay_exact(step, play, batch) and all(
            map(torch.equal, [*self._get_random_states(), *self.buffers], [*after[0], *after[1]])
        ):
            self._restore_states(random_states, buffers)
            # Proved for this shape: from now on it is replayed.
            self.verified[key] = self._compiled(step, play, batch, after[1])
        else:
            self._disable("it is more than the same calls of torch for every batch")
        self._restore_states(*after)
        return step

    def _compiled(
        self, step: Step, play: RecordedStep, batch: Batch, buffers: list[Tensor]
    ) -> RecordedStep:
        if self.tolerance is None or self.verified:  # the shape of whole batches is proved first
            return play
        from dlrun.training.fast import aot_inductor

        compiled = aot_inductor.compile_recorded_step(step, play, batch, self.tolerance)
        if not aot_inductor.is_close(buffers, self.buffers, self.tolerance):
            aot_inductor.raise_compiler_error()
        return compiled

    def _disable(self, reason: str) -> None:
        if self.tolerance is not None:
            from dlrun.training.fast.aot_inductor import DISABLE_HINT

            raise UserError(
                "engine.compile=step: a training step of this model cannot be noted down: "
                f"{reason}; {DISABLE_HINT}"
            )
        self.disabled, self.recordings = True, {}

    def _get_random_states(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(stream.get_state() for stream in self.streams)]

    def _restore_states(self, random: list[Tensor], buffers: list[Tensor]) -> None:
        torch.set_rng_state(random[0])
        for stream, state in zip(self.streams, random[1:], strict=True):
            stream.set_state(state)
        for buffer, value in zip(self.buffers, buffers, strict=True):
            buffer.copy_(value)


def is_replay_exact(step: Step, play: RecordedStep, batch: Batch) -> bool:
    """Whether what is played comes to this step, bit for bit."""
    try:
        played = play(*batch.values())
    except (RuntimeError, TypeError):  # one of torch's: a call that cannot be made in this way
        return False
    return all(map(torch.equal, collect_step_tensors(step), collect_step_tensors(played)))
