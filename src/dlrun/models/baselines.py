"""Common-sense baselines: a constant answer, the last value, the same hour of the day before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, ForecastHorizon, Spec
from dlrun.models.layers import escape_name
from dlrun.models.model import Model

ConstantKind = Literal["prior", "median", "yes", "loss"]
ConstantOutputs = dict[ConstantKind, Tensor]  # raw ones (outputs,), by what they are best by
LossFunction = Callable[[Tensor, Tensor], Tensor]

MIN_RELATIVE_GAIN = (
    1e-4  # of the loss: an answer that is no more than so much better is not another one
)
INTERPOLATION_STEPS = 20  # steps from the mean to the median, in which the best answer of a loss between squares and sizes lies


class ConstantModel(Model):
    """Answers the same for every row. Has nothing to learn.

    answers: of each target those that there are; one that is not there is the prior. which: the one that is given now.
    """

    def __init__(
        self, spec: Spec, answers: Mapping[str, ConstantOutputs], which: ConstantKind
    ) -> None:
        super().__init__()
        self.targets, self.answers, self.which = spec.targets, answers, which
        for name in spec.targets:
            self.register_buffer(
                f"answer_{escape_name(name)}", self.get_output(name, which).clone()
            )

    def get_output(self, target: str, which: ConstantKind) -> Tensor:
        """The raw answer for a target."""
        found = self.answers[target]
        return found.get(which, found["prior"])

    def select_output(self, which: ConstantKind) -> None:
        """From here on answer what is best by this."""
        self.which = which
        for name in self.targets:
            self.get_buffer(f"answer_{escape_name(name)}").copy_(self.get_output(name, which))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        rows = len(next(iter(batch.values())))
        answers = {name: self.get_buffer(f"answer_{escape_name(name)}") for name in self.targets}
        return {
            name: answer.expand(rows, *self.targets[name].output_shape)
            for name, answer in answers.items()
        }


def constant(spec: Spec, *, answer: Literal["prior", "median", "yes"] = "prior") -> nn.Module:
    """The same for every row: the class frequencies or the mean of the training rows (prior), their median, or yes."""
    return ConstantModel(
        spec, {name: constant_outputs(field) for name, field in spec.targets.items()}, answer
    )


def build_best_constant(
    spec: Spec, losses: Mapping[str, LossFunction], values: Mapping[str, Tensor]
) -> ConstantModel:
    """What a model has to beat. values: target → its training rows, where they are in memory."""
    found = {name: constant_outputs(field) for name, field in spec.targets.items()}
    for name, loss in losses.items():
        found[name]["loss"] = find_best_constant(
            loss, spec.targets[name], found[name], values.get(name)
        )
    return ConstantModel(spec, found, "loss")


def constant_outputs(field: Field) -> ConstantOutputs:
    """The answers that make sense for every row of a target. Mean and squares go together, median and sizes; always to
    say yes is best by precision, recall and F1."""
    found: ConstantOutputs = {"prior": prior_output(field)}
    if field.median is not None:
        found["median"] = to_raw_output(field, field.median)
    if field.kind in ("binary", "multilabel"):
        found["yes"] = found["prior"].clamp_min(1e-3)  # the order of labels is kept
    return found


def prior_output(field: Field) -> Tensor:
    """The prior as a raw output (outputs,)."""
    if field.prior is None:
        raise ValueError("a constant answer needs a prior, and this target has none")
    return to_raw_output(field, field.prior)


def to_raw_output(field: Field, said: Tensor) -> Tensor:
    """Shares or numbers as a raw output (outputs,): log-odds or log-frequencies where the last layer squashes."""
    said = said.float().reshape(-1)
    if field.kind in ("category", "tokens"):
        return said.clamp_min(1e-7).log()
    if field.kind in ("binary", "multilabel", "fraction"):
        return said.clamp(1e-6, 1 - 1e-6).logit()
    return said


def find_best_constant(
    loss: LossFunction, field: Field, known: ConstantOutputs, values: Tensor | None
) -> Tensor:
    """The answer with the least loss over the training rows: the prior, unless another one is clearly better."""
    if field.kind == "tokens" or (field.kind in ("number", "fraction") and values is None):
        return known["prior"]
    if field.kind in ("number", "fraction"):
        assert values is not None
        ends = (
            known["prior"].to(values.device),
            known.get("median", known["prior"]).to(values.device),
        )
        others = [
            torch.lerp(*ends, step / INTERPOLATION_STEPS)
            for step in range(INTERPOLATION_STEPS, 0, -1)
        ]
        of = lambda answer: float(loss(answer.expand(len(values), -1), values))  # noqa: E731
        best = min(others, key=of).to(known["prior"].device)
        found = (
            known["median"] if "median" in known and torch.equal(best, known["median"]) else best
        )
        return (
            found
            if of(best.to(values.device)) < of(ends[0]) * (1 - MIN_RELATIVE_GAIN)
            else known["prior"]
        )
    assert field.prior is not None
    shares, start = field.prior.float().reshape(1, -1), known["prior"][None]
    found = minimize_loss(lambda raw: loss(raw, shares), start)
    return (
        found[0]
        if float(loss(found, shares)) < float(loss(start, shares)) * (1 - MIN_RELATIVE_GAIN)
        else known["prior"]
    )


def minimize_loss(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a smooth loss is least, looked for from a start: BFGS (Liu & Nocedal 1989)."""
    raw = start.clone().requires_grad_()
    search = torch.optim.LBFGS([raw], max_iter=50, line_search_fn="strong_wolfe")

    def again() -> Tensor:
        search.zero_grad()
        value = loss(raw)
        value.backward()
        return value

    with torch.enable_grad():
        search.step(again)  # type: ignore[arg-type]
    return raw.detach() if bool(raw.isfinite().all()) else start


@dataclass(frozen=True)
class ColumnPosition:
    """Where a target's own column is: in which input, and which of its columns."""

    input: str
    column: int


class SeriesBaseline(Model):
    """Answers each target with values of its own column in the window. Has nothing to learn.

    places: target → where its column is. steps: target → which step of the window each horizon is answered with. A
    target without a place is answered with its prior.
    """

    def __init__(
        self, spec: Spec, places: dict[str, ColumnPosition], steps: dict[str, list[int]], note: str
    ) -> None:
        super().__init__()
        self.spec, self.places, self.steps, self.note = spec, places, steps, note
        for name, field in spec.targets.items():
            if name in places:
                factor, constant_term = _compute_rescaling(
                    spec.inputs[places[name].input], places[name].column, field
                )
                self.register_buffer(f"factor_{escape_name(name)}", factor)
                self.register_buffer(f"term_{escape_name(name)}", constant_term)
            else:
                self.register_buffer(f"answer_{escape_name(name)}", prior_output(field))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self._predict_target(name, batch) for name in self.spec.targets}

    def _predict_target(self, name: str, batch: Batch) -> Tensor:
        if name not in self.places:
            return self.get_buffer(f"answer_{escape_name(name)}").expand(
                len(next(iter(batch.values()))), -1
            )
        place = self.places[name]
        found = batch[place.input][:, self.steps[name], place.column]
        return found * self.get_buffer(f"factor_{escape_name(name)}") + self.get_buffer(
            f"term_{escape_name(name)}"
        )


def _compute_rescaling(series: Field, column: int, target: Field) -> tuple[Tensor, Tensor]:
    """What turns the input's number into the target's: both may be standardised, each in its own way."""
    one, none = torch.ones(()), torch.zeros(())
    scale = one if series.scale is None else series.scale[column]
    shift = none if series.shift is None else series.shift[column]
    below, zero = (
        (one if target.scale is None else target.scale),
        (none if target.shift is None else target.shift),
    )
    return scale / below, (shift - zero) / below


def find_target_columns(spec: Spec) -> dict[str, ColumnPosition]:
    """Where each target's own column is, for the targets that are foretold from a series which holds it."""
    found: dict[str, ColumnPosition] = {}
    for target, field in spec.targets.items():
        for name, series in spec.inputs.items():
            if series.kind == "series" and field.outlook and field.outlook.column in series.labels:
                found[target] = ColumnPosition(name, series.labels.index(field.outlook.column))
    return found


def build_baseline(
    spec: Spec,
    losses: Mapping[str, LossFunction] | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """What any model has to beat: the last value of a series that is foretold; else the best constant answer.

    losses: of the targets that are judged by one; values: target → its training rows, where they are in memory.
    """
    known = find_target_columns(spec)
    return (
        _build_last_value(spec, known, "baseline: ")
        if known
        else build_best_constant(spec, losses or {}, values or {})
    )


def last_value(spec: Spec) -> nn.Module:
    """The last value that the window holds of the target's own column, for every horizon (book §6.3)."""
    return _build_last_value(spec, _require_target_columns(spec, "last_value"), "")


def same_time_before(spec: Spec, *, period: Count | None) -> nn.Module:
    """The value of the target's own column a whole number of periods before the moment that is foretold.

    It is the latest one that the window holds; of a window that sees one row in several, the last one before it.
    period: in rows; null is a day. Raises UserError where the window does not reach back so far.
    """
    known = _require_target_columns(spec, "same_time_before")
    steps: dict[str, list[int]] = {}
    for name in known:
        ahead = spec.targets[name].outlook
        assert ahead is not None
        steps[name] = compute_window_steps(ahead, period)
    return SeriesBaseline(spec, known, steps, "")


def compute_window_steps(ahead: ForecastHorizon, period: int | None) -> list[int]:
    """The step of the window that stands for each horizon, whole periods before it. Raises UserError, see above."""
    rows = period or ahead.rows_per_day
    if rows is None:
        raise UserError(
            "model=same_time_before: these rows do not make whole days: say model.period=ROWS"
        )
    found = []
    for delay in ahead.rows:
        back = delay - rows * -(
            -(delay + ahead.step) // rows
        )  # rows from now: at most -step, the window's last
        if back < -ahead.lookback:
            raise UserError(
                f"model=same_time_before: the value {ahead.rows_to_time(rows)} before what is foretold lies "
                f"{-back} rows before now, and the window begins {ahead.lookback} before: a larger data.lookback"
            )
        found.append((back + ahead.lookback) // ahead.step)
    return found


def _build_last_value(spec: Spec, known: dict[str, ColumnPosition], what: str) -> SeriesBaseline:
    columns = dict.fromkeys(spec.targets[name].outlook.column for name in known)  # type: ignore[union-attr]
    steps = {name: [-1] * spec.targets[name].num_outputs for name in known}
    return SeriesBaseline(
        spec,
        known,
        steps,
        f"{what}the last value of {', '.join(columns)} in the window" if what else "",
    )


def _require_target_columns(spec: Spec, model: str) -> dict[str, ColumnPosition]:
    known = find_target_columns(spec)
    if missing := [name for name in spec.targets if name not in known]:
        raise UserError(
            f"model={model} answers with earlier values of the target itself, and there are none of "
            f"{', '.join(missing)}: it needs a series (task=series, task=jena_climate) whose inputs hold that column"
        )
    return known
