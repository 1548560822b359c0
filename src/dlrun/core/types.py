"""The nouns of a fit: fields, specs, batches, steps, jobs, scores and results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import torch
from torch import Tensor

from dlrun.core import files
from dlrun.core.errors import UserError
from dlrun.core.files import is_safe_name
from dlrun.core.formatting import counted

SECONDS_PER_DAY = 86400.0
TIME_UNITS = ((SECONDS_PER_DAY, "d"), (3600.0, "h"), (60.0, "min"))


@dataclass(frozen=True)
class ForecastHorizon:
    """A target of a series: the values of a column at given numbers of rows ahead.

    The window that a model sees begins `lookback` rows before now and ends `step` rows before it
    (book §6.3).

    Attributes:
        column: The column that is predicted.
        rows: How many rows after now each predicted value lies.
        lookback: Rows before now at which the window begins.
        step: One row in so many is read.
        every: Time from one row to the next; seconds where `dated`.
        dated: Whether the time column holds dates.
        unit: The unit of the column; "" where it names none.
    """

    column: str
    rows: tuple[int, ...]
    lookback: int
    step: int
    every: float
    dated: bool
    unit: str = ""

    @property
    def span(self) -> int:
        """Rows from the first row of a window to the last one predicted.

        Windows that are nearer to each other than that share values.
        """
        return self.lookback + max(self.rows)

    @property
    def horizon_rows(self) -> tuple[int, ...]:
        """How many rows after the last one in the window each prediction is for."""
        return tuple(rows + self.step for rows in self.rows)

    @property
    def window_length(self) -> int:
        """Rows of the series in a window."""
        return self.lookback // self.step

    @property
    def rows_per_day(self) -> int | None:
        """Rows that make a day; None where that is no whole number, or unknown."""
        # Rounding: 0.1 s is no exact number, and 86400 / 0.1 no exact count.
        count = SECONDS_PER_DAY / self.every if self.dated and self.every > 0 else 0
        return round(count) if count >= 1 and abs(count - round(count)) < 1e-6 else None

    @property
    def horizon_labels(self) -> tuple[str, ...]:
        """How far each prediction looks ahead of the last row seen: 'in 24 h'."""
        return tuple(f"in {self.rows_to_time(rows)}" for rows in self.horizon_rows)

    def rows_to_time(self, rows: int) -> str:
        """A number of rows as a time: '24 h', '10 min', '3 d'.

        Where the time column holds no dates it stays a number of rows.
        """
        if not self.dated:
            return counted(rows, "row")
        seconds = rows * self.every
        if 1.5 * SECONDS_PER_DAY >= seconds >= 3600:
            return f"{seconds / 3600:.4g} h"
        return next(
            (f"{seconds / long:.4g} {name}" for long, name in TIME_UNITS if seconds >= long),
            f"{seconds:.4g} s",
        )

    def format_time(self, moment: float) -> str:
        """A moment as text: a date and time, or the number where there are no dates."""
        if not self.dated:
            return f"{moment:.10g}"
        date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=round(moment, 3))
        return date.replace(tzinfo=None).isoformat(" ")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as fields.json holds them."""
        return asdict(self)


def horizon_from_dict(values: dict[str, Any] | None) -> ForecastHorizon | None:
    """The horizon that fields.json holds; None stays None."""
    return None if values is None else ForecastHorizon(**{**values, "rows": tuple(values["rows"])})


Kind = Literal[
    "number", "fraction", "binary", "category", "multilabel", "tokens", "bag", "image", "series"
]
Batch = dict[str, Tensor]
# Column `image.ahead` replaces `image`: the features of a frozen base, computed once.
CACHED_FEATURES = ".ahead"


@dataclass(frozen=True)
class Field:
    """The description of one column. A batch of it is a tensor (B, *shape).

    Attributes:
        kind: What the values are:
            number: float, standardized where `scale` is set.
            fraction: float in [0, 1].
            binary: float, 0 or 1.
            category: int64 in [0, size).
            multilabel: float, 0 or 1 for each of `size` labels.
            tokens: int64 ids, 0 is padding; shape () where batches differ in length.
            bag: sparse CSR word counts.
            image: float, channels first.
            series: float, time first.
        shape: Shape of one row; (1,) of a scalar, () of a category.
        size: Number of categories, labels or words.
        labels: Their names, `size` of them, or none.
        prior: Best constant prediction by cross-entropy or squared error, from training rows: class
            frequencies (size,), label frequencies (size,), or the mean (1,).
        shift: Mean that standardization subtracted, in the column's unit.
        scale: Standard deviation that it divided by, in the column's unit.
        outlook: The forecast horizon of a target of a series.
        median: Median of the training rows, for kinds number and fraction.
    """

    kind: Kind
    shape: tuple[int, ...] = ()
    size: int = 0
    labels: tuple[str, ...] = ()
    prior: Tensor | None = None
    shift: Tensor | None = None
    scale: Tensor | None = None
    outlook: ForecastHorizon | None = None
    median: Tensor | None = None

    @property
    def num_outputs(self) -> int:
        """Numbers that a model predicts for this target, in each row."""
        if self.kind in ("category", "multilabel"):
            return self.size
        return torch.Size(self.shape).numel()

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one row's logits: (outputs,), or (steps, size) of tokens."""
        return (*self.shape, self.size) if self.kind == "tokens" else (self.num_outputs,)

    def to_probabilities(self, target: Tensor) -> Tensor:
        """Labels as probabilities.

        Args:
            target: Class numbers (B,), or values (B, outputs).

        Returns:
            (B, outputs): one-hot rows for class numbers, other targets as they are.
        """
        if self.kind != "category" or target.is_floating_point():
            return target
        return torch.nn.functional.one_hot(target, self.size).float()

    def apply_activation(self, logits: Tensor) -> Tensor:
        """Apply the last layer of the book's table (§4.5).

        Args:
            logits: (B, outputs).

        Returns:
            Probabilities of the same shape; numbers as they are.
        """
        if self.kind in ("category", "tokens"):
            return logits.softmax(-1)
        if self.kind in ("binary", "multilabel", "fraction"):
            return logits.sigmoid()
        return logits

    def to_prediction(self, logits: Tensor) -> Tensor:
        """What is stored of logits.

        Args:
            logits: (B, outputs), or (B, steps, size) of tokens.

        Returns:
            Probabilities, numbers in their original unit, or of tokens the most likely id.
        """
        if self.kind == "tokens":
            return logits.argmax(-1)
        return self.to_original_units(self.apply_activation(logits))

    def prediction_error(self, logits: Tensor, target: Tensor) -> Tensor:
        """Prediction minus target, as metrics see it.

        Args:
            logits: (B, outputs).
            target: (B, outputs).

        Returns:
            (B, outputs) in the target's original unit; of a series in standard deviations, as the
            book has it (§6.3).
        """
        error = self.apply_activation(logits) - target
        if self.scale is None or self.outlook is not None:
            return error
        return error * self.scale.to(error.device)

    def to_original_units(self, numbers: Tensor) -> Tensor:
        """Undo standardization, on the device of the numbers."""
        if self.scale is None or self.shift is None:
            return numbers
        return numbers * self.scale.to(numbers.device) + self.shift.to(numbers.device)


@dataclass(frozen=True)
class Spec:
    """The description of the data from which a model takes its sizes.

    Attributes:
        inputs: Input columns by name.
        targets: Target columns by name; empty where there is nothing to predict.
    """

    inputs: dict[str, Field]
    targets: dict[str, Field] = field(default_factory=dict)


@dataclass
class Step:
    """One optimizer step: minimize `loss` over the parameters of `groups[group]`.

    Attributes:
        group: Which parameter group of the objective learns.
        loss: Scalar, a mean over the batch.
        outputs: Logits by target name, for metrics.
        parts: Summands of the loss by name, scalars; only recorded.
        measured: Other means over the batch by name, scalars; only recorded.
        gradient: Gradient of each parameter of the group where it is already known; None: backward.
    """

    group: str
    loss: Tensor
    outputs: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, Tensor] = field(default_factory=dict)
    measured: dict[str, Tensor] = field(default_factory=dict)
    gradient: list[Tensor] | None = None


@dataclass(frozen=True)
class EpochRecord:
    """What one visit of a split measured.

    Attributes:
        epoch: Counts from 1.
        split: 'train', 'val' or 'test'.
        values: Metric → its mean over the rows.
        rates: Learning rate of the epoch's last step, by parameter group.
    """

    epoch: int
    split: str
    values: dict[str, float]
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the split.

        Raises:
            UserError: It would lead out of the run folder, as a foreign checkpoint's may.
        """
        if not is_safe_name(self.split):
            raise UserError(f"'{self.split}' is no name of a split")


History = list[EpochRecord]


@dataclass(frozen=True)
class FitJob:
    """One fit: its stage, its fold, and the settings in which it differs.

    Attributes:
        stage: The name of its stage; 'fit' where there is one.
        fold: Which fold, from 0.
        folds: Of how many.
        repeat: Which repetition with another seed, from 0.
        patch: Dotted config key → plain value.
        start: The job whose weights it begins with; "" for new ones.
    """

    stage: str = "fit"
    fold: int = 0
    folds: int = 1
    repeat: int = 0
    patch: dict[str, Any] = field(default_factory=dict)
    start: str = ""

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            UserError: One would lead out of the run folder, as in a file of foreign origin.
        """
        if odd := [name for name in (self.stage, self.start) if name and not is_safe_name(name)]:
            raise UserError(f"'{odd[0]}' is no name of a fit")

    @property
    def name(self) -> str:
        """The name of its folder and of its line in tables.

        'fit', 'fold-2', 'repeat-2-fold-1', 'wider-fold-2'.
        """
        words = [self.stage] if self.stage != "fit" else []
        words += [f"repeat-{self.repeat + 1}"] if self.repeat else []
        words += [f"fold-{self.fold + 1}"] if self.folds > 1 else []
        return "-".join(words) or self.stage


@dataclass(frozen=True)
class Score:
    """A mean over rows with its 95 % confidence interval.

    Attributes:
        value: nan where the metric is not defined on these rows.
        low: Lower end of the interval; None where none is known.
        high: Upper end of the interval; None where none is known.
        n: Number of rows.
        goal: 'min' or 'max', the better direction; "" where it was not recorded.
        why: Why there is no value, or else no interval.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    goal: str = ""
    why: str = ""


@dataclass(frozen=True)
class Result:
    """The result of one job on one split.

    Attributes:
        job: The fit.
        split: Where it was measured.
        scores: Metric → score of the model.
        baseline: Metric → score of the common-sense baseline.
        epochs: Epochs that were trained.
        checkpoint: Path of the checkpoint that was measured.
        seconds: Training time.
        note: Remarks that must stand beside the scores.
        parameters: Numbers that were learned; 0 where an older dlrun did not record it.
        synthetic: The remarks of `note` that say that data or weights are made up, so that the
            scores are not comparable with real ones; "" where both are real.
        book_difference: The remark of `note` that says how the data differ from the book's; "".
        exit_code: Of a run with this result: 0, or 1 where a check that was asked for failed.
    """

    job: FitJob
    split: str
    scores: dict[str, Score]
    baseline: dict[str, Score] = field(default_factory=dict)
    epochs: int = 0
    checkpoint: str = ""
    seconds: float = 0.0
    note: str = ""
    parameters: int = 0
    synthetic: str = ""
    book_difference: str = ""
    exit_code: int = 0


def epoch_to_dict(job: FitJob, row: EpochRecord) -> dict[str, Any]:
    """One row of history.jsonl."""
    line = {"job": job.name, **asdict(row)}
    return line if row.rates else {key: value for key, value in line.items() if key != "rates"}


def result_to_dict(result: Result) -> dict[str, Any]:
    """One row of results.jsonl."""
    return {"name": result.job.name, **asdict(result)}


def result_from_dict(line: dict[str, Any]) -> Result:
    """The result of a row of results.jsonl."""
    fields = {key: value for key, value in line.items() if key != "name"}
    for key in ("scores", "baseline"):
        fields[key] = {name: score_from_dict(score) for name, score in fields[key].items()}
    return Result(**{**fields, "job": FitJob(**fields["job"])})


def score_from_dict(score: dict[str, Any]) -> Score:
    """The score of its plain values; a missing number is nan."""
    return Score(**{**score, "value": files.number_from_json(score["value"])})


def spec_to_dict(spec: Spec) -> dict[str, Any]:
    """The description of the data that a model was built for, as fields.json holds it."""
    return {
        group: {name: _field_to_dict(field) for name, field in fields.items()}
        for group, fields in (("inputs", spec.inputs), ("targets", spec.targets))
    }


def _field_to_dict(field: Field) -> dict[str, Any]:
    stored: dict[str, Any] = {
        "kind": field.kind,
        "shape": list(field.shape),
        "size": field.size,
        "labels": list(field.labels),
    }
    tensors = {
        "prior": field.prior,
        "shift": field.shift,
        "scale": field.scale,
        "median": field.median,
    }
    stored |= {name: None if value is None else value.tolist() for name, value in tensors.items()}
    return stored | {"outlook": None if field.outlook is None else field.outlook.to_dict()}
