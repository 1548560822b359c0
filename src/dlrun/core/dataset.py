"""The contracts of data: a dataset as found, its columns, preprocessors, and batches from it.

Each class lists every hook that dlrun calls, with the default of those that are optional.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dlrun.core.errors import UserError
from dlrun.core.types import Batch, ForecastHorizon, Kind, Spec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class RawColumn:
    """A column of a dataset as found, where that is more than an array.

    Subclasses write `__len__`, `__getitem__` for an array of row indices, and what `fingerprint`
    reads: `arrays`, or `digest`. All other hooks have defaults.

    Attributes:
        reads_files: Whether rows are read from files of which few fit in memory: steps are applied
            when a file is read, statistics are fitted file by file, and batches come from a
            StreamingTable.
    """

    reads_files: bool = False

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, rows: Any) -> Any:
        """The rows of these indices, in this order."""
        raise NotImplementedError

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays that the rows are made of, for a fingerprint."""
        raise NotImplementedError

    @property
    def digest(self) -> str:
        """The sha256 of the rows, where that is known without reading them; else ""."""
        return ""

    @property
    def row_hashes(self) -> np.ndarray | None:
        """A digest of each row, uint8 (N, 16): equal for equal rows; None: compare the values."""
        return None

    def file_name(self, index: int) -> str:
        """The name of the file that a row lies in; "" if it has none of its own."""
        return ""

    def apply(self, step: Callable[[Any], Any]) -> Any:
        """The column after a step: at once, or whenever rows are read."""
        return step(self)

    def store(self, name: str, kind: Kind) -> StoredColumn:
        """The column as batches are read from it, after its last step.

        Args:
            name: The column's name, for messages.
            kind: What its values are.

        Raises:
            UserError: Rows still have different lengths.
        """
        raise UserError(
            f"'{name}' has rows of different lengths: a column of kind {kind} needs a step that "
            "evens them out"
        )


@dataclass(frozen=True)
class Ragged(RawColumn):
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

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.values, self.offsets

    def count_marked(self, marks: np.ndarray) -> np.ndarray:
        """How many values of each row are marked (N,), of marks for all values (total,)."""
        import numpy as np

        return np.diff(np.concatenate([[0], np.cumsum(marks)])[self.offsets])


@dataclass(frozen=True)
class SlidingWindows(RawColumn):
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

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.values, self.first, self.offsets

    def unique_rows(self) -> np.ndarray:
        """The rows of the series (t, columns) that lie in any window, each once."""
        import numpy as np

        length = len(self.values) + 1
        # Counting starts and ends costs O(T + rows); listing every index would be rows × length.
        starts = np.bincount(self.first + self.offsets[0], minlength=length)
        ends = np.bincount(self.first + self.offsets[-1] + 1, minlength=length)
        return self.values[np.cumsum(starts - ends)[:-1] > 0]


# np.ndarray of any dtype (first axis = rows), or a RawColumn: each has `len` and takes an index
# array.
ColumnLike = Any
RawColumns = dict[str, ColumnLike]


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

    def fit(self, column: ColumnLike) -> Preprocessor:
        """A copy fitted on the training rows of a column."""
        raise NotImplementedError

    def __call__(self, column: ColumnLike) -> ColumnLike:
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

    def describe_new_values(
        self,
        name: str,
        labels: tuple[str, ...],
        column: ColumnLike,
        training_rows: Callable[[], ColumnLike],
    ) -> Iterator[str]:
        """Values of other rows that no training row has, each in a few words, with their number.

        Args:
            name: The column's name.
            labels: What the dataset calls the numbers of a row; () without names.
            column: The other rows.
            training_rows: Reads the rows that the step was fitted on.
        """
        return iter(())

    def count_unknown_words(self, column: ColumnLike) -> np.ndarray | None:
        """Words outside the vocabulary, and all words, of each text (N, 2); None without one."""
        return None


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
        note: Line that must stand beside every result.
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
        synthetic: Whether the rows are made up, so that scores are not comparable with real ones.
            The note says so in words.
        differs_from_book: Whether other rows stand for those of the book, as the note says.
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
    synthetic: bool = False
    differs_from_book: bool = False

    def __len__(self) -> int:
        return len(next(iter(self.dev.values())))


class StoredColumn:
    """A prepared column, which batches are read from.

    Subclasses write `__len__`, `shape`, `device`, `to` and `batches`.

    Attributes:
        reads_ahead: Whether an epoch is best read as one, since rows are prepared in advance.
        reads_files: As of a RawColumn.
    """

    reads_ahead: bool = False
    reads_files: bool = False

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a row in a batch; () for scalars and for rows of different lengths."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        raise NotImplementedError

    def to(self, device: torch.device) -> StoredColumn:
        """A copy whose batches are on a device."""
        raise NotImplementedError

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """These rows, `size` at a time: (B, *shape)."""
        raise NotImplementedError

    @property
    def row_bytes(self) -> int:
        """The bytes of a row, by which so many are gathered at once; 0: none in advance."""
        return 0

    @property
    def num_ids(self) -> int:
        """The number of distinct ids or words, where the column knows it; else 0."""
        return 0

    @property
    def lengths(self) -> Tensor | None:
        """The length of each row (N,), where rows of similar length make a batch."""
        return None

    def materialize(self) -> Tensor:
        """All rows at once, as they are stored (N, …).

        Raises:
            UserError: They are too many, or of different lengths.
        """
        raise UserError(f"a {type(self).__name__} cannot be read as one tensor")

    def count_tokens(self, size: int) -> Tensor | None:
        """How often each of `size` tokens stands in all rows (size,); None where it is unknown."""
        return None


class Source:
    """Where batches come from.

    Every source can start at any batch, so that a resumed epoch repeats nothing. Subclasses write
    `__len__` and `batches`.

    Attributes:
        columns: Column name → stored column; empty where batches come from elsewhere.
        reads_files: Whether rows are read from files of which few fit in memory.
    """

    columns: Mapping[str, StoredColumn] = MappingProxyType({})
    reads_files: bool = False

    def __len__(self) -> int:
        """Number of rows."""
        raise NotImplementedError

    def to(self, device: torch.device) -> Source:
        """The same source with its batches on a device."""
        return self

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
        raise NotImplementedError


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
