"""The nouns of a fit: fields, specs, batches, steps, jobs, scores and results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import torch
from torch import Tensor

from dlrun.core.errors import UserError
from dlrun.core.files import is_safe_name
from dlrun.core.formatting import counted

SECONDS_PER_DAY = 86400.0
TIME_UNITS = ((SECONDS_PER_DAY, "d"), (3600.0, "h"), (60.0, "min"))


@dataclass(frozen=True)
class ForecastHorizon:
    """A target of a series: the values of `column` that come `rows` rows after now.

    The window that a model sees begins `lookback` rows before now and ends `step` rows before it, one row in `step`
    (book §6.3). every: from one row to the next; in seconds where the time column holds dates (`dated`). unit: of the
    column, '' where it names none.
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
        """Rows from the first that a window sees to the last that is foretold: windows nearer than that share some."""
        return self.lookback + max(self.rows)

    @property
    def horizon_rows(self) -> tuple[int, ...]:
        """How many rows after the last one that a window sees each answer is for."""
        return tuple(rows + self.step for rows in self.rows)

    @property
    def window_length(self) -> int:
        """How many rows of the series a window sees."""
        return self.lookback // self.step

    @property
    def rows_per_day(self) -> int | None:
        """How many rows make a day; None where that is no whole number, or not known."""
        count = SECONDS_PER_DAY / self.every if self.dated and self.every > 0 else 0
        return round(count) if count >= 1 and abs(count - round(count)) < 1e-6 else None

    @property
    def horizon_labels(self) -> tuple[str, ...]:
        """How far each answer looks ahead of the last row seen, in words."""
        return tuple(f"in {self.rows_to_time(rows)}" for rows in self.horizon_rows)

    def rows_to_time(self, rows: int) -> str:
        """So many rows as a time: '24 h', '10 min', '3 d'; as rows where the time column holds no dates."""
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
        """A moment as text: a date and time, or the number."""
        if not self.dated:
            return f"{moment:.10g}"
        found = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=round(moment, 3))
        return found.replace(tzinfo=None).isoformat(" ")

    def to_dict(self) -> dict[str, Any]:
        """As fields.json holds it."""
        return asdict(self)


def horizon_from_dict(plain: dict[str, Any] | None) -> ForecastHorizon | None:
    """From what fields.json holds."""
    return None if plain is None else ForecastHorizon(**{**plain, "rows": tuple(plain["rows"])})


Kind = Literal[
    "number", "fraction", "binary", "category", "multilabel", "tokens", "bag", "image", "series"
]
Batch = dict[str, Tensor]
CACHED_FEATURES = ".ahead"  # column `image.ahead` stands for `image`: what a frozen network answers to it, computed once


@dataclass(frozen=True)
class Field:
    """What one column holds. A batch of it is a tensor of shape (B, *shape).

    kind: number (float) · fraction (float in [0, 1]) · binary (float 0 or 1) · category (int64, 0..size-1) ·
    multilabel (float 0 or 1 for each of `size` labels) · tokens (int64 ids, 0 = padding; shape () where batches differ
    in length) · bag (sparse CSR counts of words) · image (float, channels first) · series (float, time first). A scalar
    has shape (1,), a category shape ().
    size: number of categories, labels or words. labels: their names. prior: what one would answer knowing nothing,
    from training rows: class frequencies, label frequencies, or the mean. median: of numbers. shift, scale: of
    standardized numbers, what brings them back to their own unit. outlook: of a target that is foretold from a series.
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
        """How many numbers a model answers for this target."""
        if self.kind in ("category", "multilabel"):
            return self.size
        return torch.Size(self.shape).numel()

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of what a model answers to one row: (outputs,), or (steps, size) where the target is tokens."""
        return (*self.shape, self.size) if self.kind == "tokens" else (self.num_outputs,)

    def to_probabilities(self, target: Tensor) -> Tensor:
        """A target's labels as shares (B, outputs): one-hot for a category; those that are shares as they are."""
        if self.kind != "category" or target.is_floating_point():
            return target
        return torch.nn.functional.one_hot(target, self.size).float()

    def apply_activation(self, raw: Tensor) -> Tensor:
        """The last layer of the book's table (§4.5): logits (B, outputs) → probabilities, or numbers as they are."""
        if self.kind in ("category", "tokens"):
            return raw.softmax(-1)
        if self.kind in ("binary", "multilabel", "fraction"):
            return raw.sigmoid()
        return raw

    def to_prediction(self, raw: Tensor) -> Tensor:
        """What is kept of raw answers: probabilities, or numbers in their own unit; of tokens only the likeliest."""
        return (
            raw.argmax(-1)
            if self.kind == "tokens"
            else self.to_original_units(self.apply_activation(raw))
        )

    def prediction_error(self, raw: Tensor, target: Tensor) -> Tensor:
        """Answer less target as measures see it: in the target's own unit; of a series in standard deviations, as the
        book has it (§6.3)."""
        found = self.apply_activation(raw) - target
        return (
            found
            if self.scale is None or self.outlook is not None
            else found * self.scale.to(found.device)
        )

    def to_original_units(self, numbers: Tensor) -> Tensor:
        """Numbers as the model has them, in their own unit."""
        if self.scale is None or self.shift is None:
            return numbers
        return numbers * self.scale.to(numbers.device) + self.shift.to(numbers.device)


@dataclass(frozen=True)
class Spec:
    """What a model is told of the data: its input and target columns by name."""

    inputs: dict[str, Field]
    targets: dict[str, Field] = field(default_factory=dict)


@dataclass
class Step:
    """Minimise `loss` (a mean over the batch) over the objective's `groups[group]`, once.

    parts: what the loss is the sum of, by name; measured: other means over the batch. Both are only written down.
    gradient: of the loss by each parameter of the group, where that is known already.
    """

    group: str
    loss: Tensor
    outputs: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, Tensor] = field(default_factory=dict)
    measured: dict[str, Tensor] = field(default_factory=dict)
    gradient: list[Tensor] | None = None


@dataclass(frozen=True)
class EpochRecord:
    """What one visit of a split came to. epoch counts from 1. rates: learning rates of its last step, by name."""

    epoch: int
    split: str
    values: dict[str, float]
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError for a split that would lead out of the run folder, as one in a stranger's checkpoint may."""
        if not is_safe_name(self.split):
            raise UserError(f"'{self.split}' is no name of a split")


History = list[EpochRecord]


@dataclass(frozen=True)
class FitJob:
    """One fit: its stage, which fold of how many, and the settings that differ: dotted config key → plain value.

    start: the name of the job whose weights it begins with; '' for new ones.
    """

    stage: str = "fit"
    fold: int = 0
    folds: int = 1
    repeat: int = 0
    patch: dict[str, Any] = field(default_factory=dict)
    start: str = ""

    def __post_init__(self) -> None:
        """Raises UserError for names that would lead out of the run folder, as a stranger's may hold."""
        if odd := [name for name in (self.stage, self.start) if name and not is_safe_name(name)]:
            raise UserError(f"'{odd[0]}' is no name of a fit")

    @property
    def name(self) -> str:
        """The name of its folder and its line in a table: 'fit', 'fold-2', 'repeat-2-fold-1', 'wider-fold-2'."""
        parts = [self.stage] if self.stage != "fit" else []
        parts += [f"repeat-{self.repeat + 1}"] if self.repeat else []
        parts += [f"fold-{self.fold + 1}"] if self.folds > 1 else []
        return "-".join(parts) or self.stage


@dataclass(frozen=True)
class Score:
    """A measured mean with its 95 % interval over n rows; low and high are None where no interval is known.

    value: nan where the measure is not defined on these rows. goal: which direction is better, 'min' or 'max'; '' where
    nobody has said it. why: why there is no value, or else no interval.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    goal: str = ""
    why: str = ""


@dataclass(frozen=True)
class Result:
    """What came of one job: its scores on `split`, the common-sense baseline's beside them.

    seconds: of training. parameters: how many numbers it learnt; 0 where an older dlrun did not say.
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
