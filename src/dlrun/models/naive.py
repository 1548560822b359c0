"""Answers for a series that nothing is learnt for: the value that was there last, or at the same time a day before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count
from dlrun.core.errors import Refused
from dlrun.core.types import Batch, Field, Outlook, Spec
from dlrun.models.constant import Loss, best_constant, raw_prior
from dlrun.models.named import safe


@dataclass(frozen=True)
class Place:
    """Where a target's own column is: in which input, and which of its columns."""

    input: str
    column: int


class Naive(nn.Module):
    """Answers each target with values of its own column in the window. Has nothing to learn.

    places: target → where its column is. steps: target → which step of the window each horizon is answered with. A
    target without a place is answered with its prior.
    """

    def __init__(self, spec: Spec, places: dict[str, Place], steps: dict[str, list[int]], note: str) -> None:
        super().__init__()
        self.spec, self.places, self.steps, self.note = spec, places, steps, note
        for name, field in spec.targets.items():
            if name in places:
                factor, constant_term = _rescaled(spec.inputs[places[name].input], places[name].column, field)
                self.register_buffer(f"factor_{safe(name)}", factor)
                self.register_buffer(f"term_{safe(name)}", constant_term)
            else:
                self.register_buffer(f"answer_{safe(name)}", raw_prior(field))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self._answer(name, batch) for name in self.spec.targets}

    def _answer(self, name: str, batch: Batch) -> Tensor:
        if name not in self.places:
            return self.get_buffer(f"answer_{safe(name)}").expand(len(next(iter(batch.values()))), -1)
        place = self.places[name]
        found = batch[place.input][:, self.steps[name], place.column]
        return found * self.get_buffer(f"factor_{safe(name)}") + self.get_buffer(f"term_{safe(name)}")


def _rescaled(series: Field, column: int, target: Field) -> tuple[Tensor, Tensor]:
    """What turns the input's number into the target's: both may be standardised, each in its own way."""
    one, none = torch.ones(()), torch.zeros(())
    scale = one if series.scale is None else series.scale[column]
    shift = none if series.shift is None else series.shift[column]
    below, zero = (one if target.scale is None else target.scale), (none if target.shift is None else target.shift)
    return scale / below, (shift - zero) / below


def places(spec: Spec) -> dict[str, Place]:
    """Where each target's own column is, for the targets that are foretold from a series which holds it."""
    found: dict[str, Place] = {}
    for target, field in spec.targets.items():
        for name, series in spec.inputs.items():
            if series.kind == "series" and field.outlook and field.outlook.column in series.labels:
                found[target] = Place(name, series.labels.index(field.outlook.column))
    return found


def common_sense(
    spec: Spec, losses: Mapping[str, Loss] | None = None, values: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """What any model has to beat: the last value of a series that is foretold; else the best constant answer.

    losses: of the targets that are judged by one; values: target → its training rows, where they are in memory.
    """
    known = places(spec)
    return _last(spec, known, "baseline: ") if known else best_constant(spec, losses or {}, values or {})


def last_value(spec: Spec) -> nn.Module:
    """The last value that the window holds of the target's own column, for every horizon (book §6.3)."""
    return _last(spec, _all(spec, "last_value"), "")


def same_time_before(spec: Spec, *, period: Count | None) -> nn.Module:
    """The value of the target's own column a whole number of periods before the moment that is foretold.

    It is the latest one that the window holds; of a window that sees one row in several, the last one before it.
    period: in rows; null is a day. Raises Refused where the window does not reach back so far.
    """
    known = _all(spec, "same_time_before")
    steps: dict[str, list[int]] = {}
    for name in known:
        ahead = spec.targets[name].outlook
        assert ahead is not None
        steps[name] = earlier(ahead, period)
    return Naive(spec, known, steps, "")


def earlier(ahead: Outlook, period: int | None) -> list[int]:
    """The step of the window that stands for each horizon, whole periods before it. Raises Refused, see above."""
    rows = period or ahead.day
    if rows is None:
        raise Refused("model=same_time_before: these rows do not make whole days: say model.period=ROWS")
    found = []
    for delay in ahead.rows:
        back = delay - rows * -(-(delay + ahead.step) // rows)  # rows from now: at most -step, the window's last
        if back < -ahead.lookback:
            raise Refused(
                f"model=same_time_before: the value {ahead.lasting(rows)} before what is foretold lies "
                f"{-back} rows before now, and the window begins {ahead.lookback} before: a larger data.lookback"
            )
        found.append((back + ahead.lookback) // ahead.step)
    return found


def _last(spec: Spec, known: dict[str, Place], what: str) -> Naive:
    columns = dict.fromkeys(spec.targets[name].outlook.column for name in known)  # type: ignore[union-attr]
    steps = {name: [-1] * spec.targets[name].outputs for name in known}
    return Naive(spec, known, steps, f"{what}the last value of {', '.join(columns)} in the window" if what else "")


def _all(spec: Spec, model: str) -> dict[str, Place]:
    known = places(spec)
    if missing := [name for name in spec.targets if name not in known]:
        raise Refused(
            f"model={model} answers with earlier values of the target itself, and there are none of "
            f"{', '.join(missing)}: it needs a series (task=series, task=jena_climate) whose inputs hold that column"
        )
    return known
