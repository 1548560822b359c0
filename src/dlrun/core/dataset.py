"""What a dataset is, what becomes of it once it is prepared, and the columns that it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dlrun.core.types import Batch, ForecastHorizon, Kind, Spec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: np.ndarray) -> Ragged:
        """The rows of these indices, in this order."""
        import numpy as np

        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.values[np.repeat(self.offsets[:-1][rows], lengths) + within], offsets)


@dataclass(frozen=True)
class SlidingWindows:
    """Windows onto one series (T, columns), or onto the tokens of one text (T,): row i is values[first[i] + offsets].

    Steps change `values` for all rows.
    """

    values: np.ndarray
    first: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: np.ndarray) -> SlidingWindows:
        """The windows of these indices, in this order."""
        return SlidingWindows(self.values, self.first[rows], self.offsets)

    def unique_rows(self) -> np.ndarray:
        """The part of the series (t, columns) that lies within these windows, each row of it once."""
        import numpy as np

        length = len(self.values) + 1
        begun = np.bincount(self.first + self.offsets[0], minlength=length)
        ended = np.bincount(self.first + self.offsets[-1] + 1, minlength=length)
        return self.values[np.cumsum(begun - ended)[:-1] > 0]


RawColumn = Any  # a raw column: np.ndarray of any dtype (first axis = rows), Ragged or Windowed
RawColumns = dict[str, RawColumn]


class Preprocessor:
    """One step from a raw column to numbers, fitted on training rows alone.

    A step is frozen: `fit` returns a fitted copy. Subclasses write `fit`, `__call__` and `state`;
    the other hooks have defaults that suit a step which describes nothing.

    Example:
        @dataclass(frozen=True)
        class Center(Preprocessor):
            mean: float = 0.0

            def fit(self, column):
                return Center(float(column.mean()))

            def __call__(self, column):
                return column - self.mean

            def state(self):
                return {"mean": self.mean}
    """

    def with_fitted_inputs(self, fitted: Mapping[str, tuple[Any, ...]]) -> Preprocessor:
        """A copy for a target that takes over what was fitted on its inputs, before `fit`.

        Args:
            fitted: Column → its fitted steps, of all columns before this one.
        """
        return self

    def fit(self, column: RawColumn) -> Preprocessor:
        """A copy fitted on the training rows of a column."""
        raise NotImplementedError

    def __call__(self, column: RawColumn) -> RawColumn:
        """The column after this step, row by row."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What was fitted, as plain JSON values; stored with the run."""
        raise NotImplementedError

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, levels, words or columns that come out; () without names."""
        return ()

    @property
    def prior(self) -> Tensor | None:
        """The class shares or the mean of a target that is not in memory, counted by `fit`."""
        return None

    @property
    def shift_and_scale(self) -> tuple[Tensor | None, Tensor | None]:
        """What brings the column back to its own unit: value × scale + shift."""
        return None, None


@dataclass(frozen=True)
class Dataset:
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

    dev: RawColumns
    inputs: dict[str, Kind]
    targets: dict[str, Kind]
    preprocessors: dict[str, tuple[Preprocessor, ...]] = field(default_factory=dict)
    test: Callable[[], RawColumns] | None = None
    order: str | None = None
    group: str | None = None
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
    read_vocabulary: Callable[[], tuple[str, ...]] | None = None
    read_new_rows: Callable[..., tuple[RawColumns, list[int]]] | None = None
    rows_from_texts: Callable[[Sequence[str]], RawColumns] | None = None
    forecast: dict[str, ForecastHorizon] = field(default_factory=dict)
    shared_vocabularies: tuple[tuple[str, ...], ...] = ()
    overlap_gap: int = 0
    identifiers: RawColumns = field(default_factory=dict)
    num_validation_rows: int = 0
    row_fingerprints: tuple[str, str] = ("", "")

    def __len__(self) -> int:
        return len(next(iter(self.dev.values())))


class Source(Protocol):
    """Where batches come from."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def batches(
        self,
        size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Batch]:
        """Batches of `size` rows from batch number `start` on; without a seed in the rows' own order, else in an
        order that is a function of (seed, epoch). Of each batch only what process `rank` of `world` holds."""
        ...


@dataclass(frozen=True)
class PreparedData:
    """What the engine is given: statistics, vocabularies and priors come from the training rows alone."""

    spec: Spec
    train: Source
    val: Source | None = None
    preprocessors: dict[str, tuple[Preprocessor, ...]] = field(default_factory=dict)
