"""The contracts of data: a dataset as found, its columns, preprocessors, and batches from it."""

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
    """Rows of different lengths: row i is values[offsets[i]:offsets[i + 1]].

    Attributes:
        values: All rows one after the other (total,).
        offsets: int64 (rows + 1,), from 0 to `total`.
    """

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
    """Overlapping windows as views: row i is values[first[i] + offsets].

    Preprocessors change `values`, once for all rows.

    Attributes:
        values: One series (T, columns), or the tokens of one text (T,).
        first: int64 (rows,), where each window begins.
        offsets: int64 (length,), rising, relative to the beginning.
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
        """The rows of the series (t, columns) that lie in any window, each once."""
        import numpy as np

        length = len(self.values) + 1
        # Counting starts and ends costs O(T + rows); listing every index would be rows × length.
        starts = np.bincount(self.first + self.offsets[0], minlength=length)
        ends = np.bincount(self.first + self.offsets[-1] + 1, minlength=length)
        return self.values[np.cumsum(starts - ends)[:-1] > 0]


# np.ndarray of any dtype (first axis = rows), Ragged or SlidingWindows: each has `len` and takes
# an index array.
RawColumn = Any
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
    """A dataset as found, before anything is learned from it.

    Attributes:
        dev: Training and validation rows: column name → column.
        inputs: Input column → kind.
        targets: Target column → kind.
        preprocessors: Column → steps to fit on training rows, in order.
        test: Reads the held-out test rows; only the final evaluation calls it. None: no test rows.
        order: Column that puts rows in time.
        group: Column that names the owner of a row; owners are never split.
        labels: Column → names of its categories or labels.
        note: Line that must stand beside every result (SYNTHETIC, …).
        read_vocabulary: Reads the words of text columns, id → word, "" for padding and start; the
            tuple is empty where they are unknown.
        read_new_rows: Reads rows for prediction from a CSV file: columns, and each row's line
            number. A target comes along where no row lacks it.
        rows_from_texts: Makes rows of texts, where a row is one text and nothing else.
        forecast: Target → its horizon, for targets predicted from a series.
        shared_vocabularies: Groups of columns whose preprocessors are fitted on all of them, so
            that the same word has the same id.
        overlap_gap: Two rows at most this many rows apart may share values; 0: none do, or
            `forecast` says it.
        identifiers: Columns of the dev rows that are neither inputs nor targets: they tell rows
            apart that look alike.
        num_validation_rows: Number of last dev rows that the data set aside for validation.
        row_fingerprints: What dev and test rows are identified by, targets included, whichever
            inputs are read; "" where the inputs are always the same.
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
    """Where batches come from.

    Every source can start at any batch, so that a resumed epoch repeats nothing.
    """

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
        """Iterate over batches of one epoch.

        Args:
            size: Rows of a batch, over all processes.
            seed: Shuffles by a function of (seed, epoch); None: the rows' own order.
            epoch: Number of the epoch, part of what shuffles.
            start: Number of the first batch that is wanted.
            rank: This process.
            world: Number of processes; only the rows of `rank` are returned.

        Returns:
            Batches: column name → tensor (rows, *field.shape).
        """
        ...


@dataclass(frozen=True)
class PreparedData:
    """What the trainer is given. Statistics, vocabularies and priors come from training rows alone.

    Attributes:
        spec: Description of the columns.
        train: Training rows.
        val: Validation rows; None where none are held out.
        preprocessors: Column → fitted steps.
    """

    spec: Spec
    train: Source
    val: Source | None = None
    preprocessors: dict[str, tuple[Preprocessor, ...]] = field(default_factory=dict)
