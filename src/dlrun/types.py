"""The nouns that the floors share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dlrun.columns import Ragged as Ragged
from dlrun.columns import Windowed as Windowed
from dlrun.errors import Refused
from dlrun.outlook import Outlook
from dlrun.whole import is_name

Kind = Literal["number", "fraction", "binary", "category", "multilabel", "tokens", "bag", "image", "series"]
Batch = dict[str, Tensor]
AHEAD = ".ahead"  # column `image.ahead` stands for `image`: what a frozen network answers to it, computed once


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
    outlook: Outlook | None = None
    median: Tensor | None = None

    @property
    def outputs(self) -> int:
        """How many numbers a model answers for this target."""
        if self.kind in ("category", "multilabel"):
            return self.size
        return torch.Size(self.shape).numel()

    @property
    def answered(self) -> tuple[int, ...]:
        """The shape of what a model answers to one row: (outputs,), or (steps, size) where the target is tokens."""
        return (*self.shape, self.size) if self.kind == "tokens" else (self.outputs,)

    def shares(self, target: Tensor) -> Tensor:
        """A target's labels as shares (B, outputs): one-hot for a category; those that are shares as they are."""
        if self.kind != "category" or target.is_floating_point():
            return target
        return torch.nn.functional.one_hot(target, self.size).float()

    def activate(self, raw: Tensor) -> Tensor:
        """The last layer of the book's table (§4.5): logits (B, outputs) → probabilities, or numbers as they are."""
        if self.kind in ("category", "tokens"):
            return raw.softmax(-1)
        if self.kind in ("binary", "multilabel", "fraction"):
            return raw.sigmoid()
        return raw

    def said(self, raw: Tensor) -> Tensor:
        """What is kept of raw answers: probabilities, or numbers in their own unit; of tokens only the likeliest."""
        return raw.argmax(-1) if self.kind == "tokens" else self.own(self.activate(raw))

    def apart(self, raw: Tensor, target: Tensor) -> Tensor:
        """Answer less target as measures see it: in the target's own unit; of a series in standard deviations, as the
        book has it (§6.3)."""
        found = self.activate(raw) - target
        return found if self.scale is None or self.outlook is not None else found * self.scale.to(found.device)

    def own(self, numbers: Tensor) -> Tensor:
        """Numbers as the model has them, in their own unit."""
        if self.scale is None or self.shift is None:
            return numbers
        return numbers * self.scale.to(numbers.device) + self.shift.to(numbers.device)


@dataclass(frozen=True)
class Spec:
    """What a model is told of the data: its input and target columns by name."""

    inputs: dict[str, Field]
    targets: dict[str, Field] = field(default_factory=dict)


Column = Any  # a raw column: np.ndarray of any dtype (first axis = rows), Ragged or Windowed
Rows = dict[str, Column]


class Preparation(Protocol):
    """One step from a raw column to numbers, learnt on training rows. Frozen: `fit` returns a copy that has learnt."""

    def fit(self, column: Column) -> Preparation: ...

    def __call__(self, column: Column) -> Column: ...

    def state(self) -> dict[str, Any]:
        """What was learnt, as plain JSON values; stored with the run."""
        ...


@dataclass(frozen=True)
class Raw:
    """A dataset as found.

    dev: all rows that may be looked at. test: reads the sealed rows; called by the final evaluation alone.
    inputs, targets: column name → kind. learn: column name → the steps to learn on training rows, in order.
    order: name of a column that puts rows in time, group: one that says who owns a row.
    note: a line that must stand beside every result (SYNTHETIC, …). words: reads what the word numbers of text columns
    mean, number → word ('' for padding and the start); empty when that cannot be known. further: reads new rows like
    these from a CSV file, and the line of each; a target comes along where no row misses it. of_texts: makes rows of
    new texts, where a row is one text and nothing else. outlook: of targets that are foretold from a series, what each
    looks ahead to. shared: groups of columns with the same steps, which learn from the training rows of them all, so
    that the same words have the same numbers. apart: two rows that are so many rows apart, or fewer, may share
    values; 0 where none do, or where outlook says it. identifiers: columns of the development rows that are neither
    inputs nor targets, by name: they tell rows apart that look alike. validation: so many of the development rows, the
    last ones, are set apart for validation by the data themselves. marks: what the development rows and the test rows
    are known by, with their targets, whichever inputs are read from them; '' where the inputs are always the same.
    """

    dev: Rows
    inputs: dict[str, Kind]
    targets: dict[str, Kind]
    learn: dict[str, tuple[Preparation, ...]] = field(default_factory=dict)
    test: Callable[[], Rows] | None = None
    order: str | None = None
    group: str | None = None
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
    words: Callable[[], tuple[str, ...]] | None = None
    further: Callable[..., tuple[Rows, list[int]]] | None = None
    of_texts: Callable[[Sequence[str]], Rows] | None = None
    outlook: dict[str, Outlook] = field(default_factory=dict)
    shared: tuple[tuple[str, ...], ...] = ()
    apart: int = 0
    identifiers: Rows = field(default_factory=dict)
    validation: int = 0
    marks: tuple[str, str] = ("", "")

    def __len__(self) -> int:
        return len(next(iter(self.dev.values())))


class Source(Protocol):
    """Where batches come from."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Batches of `size` rows from batch number `start` on; without a seed in the rows' own order, else in an
        order that is a function of (seed, epoch). Of each batch only what process `rank` of `world` holds."""
        ...


@dataclass(frozen=True)
class Data:
    """What the engine is given: statistics, vocabularies and priors come from the training rows alone."""

    spec: Spec
    train: Source
    val: Source | None = None
    learnt: dict[str, tuple[Preparation, ...]] = field(default_factory=dict)


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
class Row:
    """What one visit of a split came to. epoch counts from 1. rates: learning rates of its last step, by name."""

    epoch: int
    split: str
    values: dict[str, float]
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises Refused for a split that would lead out of the run folder, as one in a stranger's checkpoint may."""
        if not is_name(self.split):
            raise Refused(f"'{self.split}' is no name of a split")


History = list[Row]


@dataclass(frozen=True)
class Job:
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
        """Raises Refused for names that would lead out of the run folder, as a stranger's may hold."""
        if odd := [name for name in (self.stage, self.start) if name and not is_name(name)]:
            raise Refused(f"'{odd[0]}' is no name of a fit")

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

    job: Job
    split: str
    scores: dict[str, Score]
    baseline: dict[str, Score] = field(default_factory=dict)
    epochs: int = 0
    checkpoint: str = ""
    seconds: float = 0.0
    note: str = ""
    parameters: int = 0
