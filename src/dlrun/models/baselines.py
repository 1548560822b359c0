"""Common-sense baselines: a constant, the last value, the same time of the day before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, ForecastHorizon, Spec
from dlrun.models.constant_model import (
    ConstantModel,
    LossFunction,
    build_best_constant,
    constant_outputs,
    prior_output,
)
from dlrun.models.layers import escape_name
from dlrun.models.model import Model


def constant(spec: Spec, *, answer: Literal["prior", "median", "yes"] = "prior") -> nn.Module:
    """A constant prediction for every row.

    Args:
        spec: The targets.
        answer: prior (class frequencies or the mean of the training rows), their median, or yes
            (every label is predicted).
    """
    return ConstantModel(
        spec, {name: constant_outputs(field) for name, field in spec.targets.items()}, answer
    )


@dataclass(frozen=True)
class ColumnPosition:
    """Where the past values of a target are.

    Attributes:
        input: Name of the series.
        column: Which of its columns.
    """

    input: str
    column: int


class SeriesBaseline(Model):
    """Predicts each target from values of its own column in the window. There is nothing to learn.

    Attributes:
        spec: Inputs and targets.
        positions: Target → where its column is; a target without one is predicted by its prior.
        steps: Target → which step of the window predicts each horizon.
    """

    def __init__(
        self,
        spec: Spec,
        positions: dict[str, ColumnPosition],
        steps: dict[str, list[int]],
        note: str,
    ) -> None:
        super().__init__()
        self.spec, self.positions, self.steps = spec, positions, steps
        self.note = note
        for name, field in spec.targets.items():
            if name in positions:
                factor, constant_term = _compute_rescaling(
                    spec.inputs[positions[name].input], positions[name].column, field
                )
                self.register_buffer(f"factor_{escape_name(name)}", factor)
                self.register_buffer(f"term_{escape_name(name)}", constant_term)
            else:
                self.register_buffer(f"answer_{escape_name(name)}", prior_output(field))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self._predict_target(name, batch) for name in self.spec.targets}

    def _predict_target(self, name: str, batch: Batch) -> Tensor:
        if name not in self.positions:
            rows = len(next(iter(batch.values())))
            return self.get_buffer(f"answer_{escape_name(name)}").expand(rows, -1)
        position = self.positions[name]
        values = batch[position.input][:, self.steps[name], position.column]
        factor = self.get_buffer(f"factor_{escape_name(name)}")
        return values * factor + self.get_buffer(f"term_{escape_name(name)}")


def _compute_rescaling(series: Field, column: int, target: Field) -> tuple[Tensor, Tensor]:
    """Return factor and term that turn an input's number into the target's.

    Both may be standardized, each in its own way.
    """
    unit_scale, no_shift = torch.ones(()), torch.zeros(())
    scale = unit_scale if series.scale is None else series.scale[column]
    shift = no_shift if series.shift is None else series.shift[column]
    target_scale = unit_scale if target.scale is None else target.scale
    target_shift = no_shift if target.shift is None else target.shift
    return scale / target_scale, (shift - target_shift) / target_scale


def find_target_columns(spec: Spec) -> dict[str, ColumnPosition]:
    """Return target → position of its own column, for forecasts of a series that holds it."""
    positions: dict[str, ColumnPosition] = {}
    for target, field in spec.targets.items():
        for name, series in spec.inputs.items():
            if series.kind != "series" or not field.outlook:
                continue
            if field.outlook.column in series.labels:
                positions[target] = ColumnPosition(name, series.labels.index(field.outlook.column))
    return positions


def build_baseline(
    spec: Spec,
    losses: Mapping[str, LossFunction] | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Return the baseline of these data: the last value for a forecast, else the best constant.

    Args:
        spec: Inputs and targets.
        losses: Target → loss of (raw output, target), for the targets that have one.
        values: Target → its training values (N, …), where they are in memory.
    """
    positions = find_target_columns(spec)
    if positions:
        return _build_last_value(spec, positions, "baseline: ")
    return build_best_constant(spec, losses or {}, values or {})


def last_value(spec: Spec) -> nn.Module:
    """The window's last value of the target's own column, for every horizon (book §6.3)."""
    return _build_last_value(spec, _require_target_columns(spec, "last_value"), "")


def same_time_before(spec: Spec, *, period: Count | None) -> nn.Module:
    """The value of the target's own column a whole number of periods before the forecast time.

    It is the latest one that the window holds; where a window sees one row in several, the last one
    before it.

    Args:
        spec: Inputs and targets.
        period: In rows; null is a day.

    Raises:
        UserError: The window does not reach back so far.
    """
    positions = _require_target_columns(spec, "same_time_before")
    steps: dict[str, list[int]] = {}
    for name in positions:
        horizon = spec.targets[name].outlook
        assert horizon is not None
        steps[name] = compute_window_steps(horizon, period)
    return SeriesBaseline(spec, positions, steps, "")


def compute_window_steps(horizon: ForecastHorizon, period: int | None) -> list[int]:
    """Return the step of the window, whole periods back, that predicts each forecast row.

    Args:
        horizon: What the target forecasts.
        period: In rows; None is a day.

    Raises:
        UserError: The window does not reach back so far, or the rows do not make whole days.
    """
    rows = period or horizon.rows_per_day
    # rows that do not divide a day have no same time the day before
    if rows is None:
        raise UserError(
            "model=same_time_before: these rows do not make whole days: say model.period=ROWS"
        )
    steps = []
    for delay in horizon.rows:
        # whole periods back until it lies in the window, whose last row is `step` before now
        periods = -(-(delay + horizon.step) // rows)
        offset = delay - rows * periods
        if offset < -horizon.lookback:
            raise UserError(
                f"model=same_time_before: the value {horizon.rows_to_time(rows)} before what is "
                f"foretold lies {-offset} rows before now, and the window begins "
                f"{horizon.lookback} before: a larger data.lookback"
            )
        steps.append((offset + horizon.lookback) // horizon.step)
    return steps


def _build_last_value(
    spec: Spec, positions: dict[str, ColumnPosition], prefix: str
) -> SeriesBaseline:
    fields = [spec.targets[name] for name in positions]
    columns = dict.fromkeys(field.outlook.column for field in fields if field.outlook)
    # every horizon is predicted by the last step of the window
    steps = {name: [-1] * spec.targets[name].num_outputs for name in positions}
    note = f"{prefix}the last value of {', '.join(columns)} in the window" if prefix else ""
    return SeriesBaseline(spec, positions, steps, note)


def _require_target_columns(spec: Spec, model: str) -> dict[str, ColumnPosition]:
    positions = find_target_columns(spec)
    if missing := [name for name in spec.targets if name not in positions]:
        raise UserError(
            f"model={model} predicts earlier values of the target itself, and there are none "
            f"of {', '.join(missing)}: it needs a series (task=series, task=jena_climate) whose "
            "inputs hold that column"
        )
    return positions
