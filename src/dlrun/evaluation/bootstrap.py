"""Bootstrap intervals over rows: of the score of one model, or of the difference of two."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from dlrun.evaluation.metrics import NO_INTERVAL, NO_VARIATION, check_sample_size

Array = np.ndarray
Statistic = Callable[[Array], float]  # row numbers, which may repeat → the measure of these rows
NUM_MEAN_RESAMPLES = 2000  # of means, which are cheap
NUM_STATISTIC_RESAMPLES = 1000  # of statistics of a whole split
CHUNK_NUMBERS = 1 << 20  # row numbers drawn at once, 4 MB
# Numbers that the resamples of one statistic may go through: some 8 s on one thread.
MAX_RESAMPLED_NUMBERS = 200_000_000
MIN_RESAMPLES = 200  # fewer resamples say nothing of the ends
NUM_JACKKNIFE_GROUPS = 100  # left out in turn to see how skewed a statistic is
NORMAL = NormalDist()
MAX_UNDEFINED_SHARE = 0.05  # a larger share of resamples without a value leaves no interval


@dataclass(frozen=True)
class Interval:
    """A value, or a difference, with its 95 % interval.

    Attributes:
        value: The value on all rows.
        low: The lower end; None without an interval.
        high: The upper end; None without an interval.
        n: How many different rows.
        why: Why there is no interval, or a caution about it.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    why: str = ""

    @property
    def is_nonzero(self) -> bool:
        """Whether zero lies outside; of a difference, whether it is more than chance."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def compute_mean_interval(
    values: Array, rows: Array | None = None, *, finish: Callable[[float], float] = float, seed: int
) -> Interval:
    """The interval of finish(mean of per-row values).

    The percentile interval, widened for few rows as in Hesterberg (2015), "What teachers should
    know about the bootstrap", 3.3. Rows with the most frequent value do not count among the many.

    Args:
        values: (n,) one value a row.
        rows: (n,) the unit that each value belongs to; values of one unit are drawn together
            (cluster bootstrap). None: each its own.
        finish: Applied to the mean.
        seed: Of the resamples.
    """
    values, units = np.asarray(values, float), ResamplingUnits.from_ids(rows, len(values))
    if fault := _find_fault(values, units):
        return Interval(
            finish(float(values.mean())) if len(values) else math.nan, n=len(units), why=fault
        )
    value = finish(float(values.mean()))
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:
        return Interval(value, n=len(units), why=NO_VARIATION)
    resampled = [finish(mean) for mean in _resample_means(values[:, None], units, seed)[:, 0]]
    # Rows with the most frequent value tell nothing of the spread: 3 errors in 10,000 are few.
    telling = round(len(units) * (1 - counts.max() / len(values)))
    return _interval_from_samples(value, np.array(resampled), len(units), telling)


def compute_interval(
    function: Statistic, rows: Array, *, telling: int | None = None, seed: int, work: int = 0
) -> Interval:
    """The interval of a statistic that is no mean, such as an area under a curve.

    Corrected for bias and skewness (BCa, Efron 1987), without which that of an area near 1 is too
    short; with fewer resamples than for a mean.

    Args:
        function: Row numbers, which may repeat → the statistic of these rows.
        rows: (n,) the unit of each row, as in `compute_mean_interval`.
        telling: How many rows the statistic depends on, where not on all: those of the rarer class,
            or those on which two models differ.
        seed: Of the resamples.
        work: How many numbers one evaluation goes through. Where many resamples would take too long
            there are fewer, or none, and `why` says so.
    """
    units, num_samples = ResamplingUnits.from_ids(rows, len(rows)), get_num_samples(work)
    value = float(function(np.arange(len(rows)))) if len(rows) else math.nan
    if fault := _find_fault(np.array([value]), units):
        return Interval(value, n=len(units), why=fault)
    if num_samples < MIN_RESAMPLES:
        return Interval(
            value, n=len(units), why=f"{NO_INTERVAL}: resampling {work:,} numbers takes too long"
        )
    resampled = np.array(
        [
            function(units.get_rows(chosen))
            for chosen in _iter_samples(len(units), num_samples, seed)
        ]
    )
    # An area of 1 stays 1 in each resample: an interval of no width would be wrong.
    if np.ptp(resampled) == 0:
        return Interval(
            value, n=len(units), why="every resample has the same value, so resampling says nothing"
        )
    acceleration = _acceleration(function, units, seed)
    interval = _interval_from_samples(
        value, resampled, len(units), len(units) if telling is None else telling, acceleration
    )
    if num_samples == NUM_STATISTIC_RESAMPLES:
        return interval
    warning = (
        f"its interval is of {num_samples} resamples, not {NUM_STATISTIC_RESAMPLES:,}, which "
        "would take too long"
    )
    return replace(interval, why=interval.why or warning)


def get_num_samples(work: int) -> int:
    """How many resamples are affordable of a statistic that goes through `work` numbers."""
    return (
        min(NUM_STATISTIC_RESAMPLES, MAX_RESAMPLED_NUMBERS // work - NUM_JACKKNIFE_GROUPS)
        if work
        else NUM_STATISTIC_RESAMPLES
    )


def compute_paired_interval(
    first: Array | Statistic,
    second: Array | Statistic,
    rows: Array,
    *,
    finish: Callable[[float], float] = float,
    telling: int | None = None,
    seed: int,
    work: int = 0,
) -> Interval:
    """Second minus first on the same rows.

    Both are computed on the same resamples, so that what is hard for both cancels. Rows on which
    the two are equal do not count among the many: a handful of different rows is no proof, however
    many there are besides (McNemar 1947).

    Args:
        first: (n,) per-row values, or a statistic as in `compute_interval`.
        second: The same of the second model.
        rows: (n,) the unit of each row, as in `compute_mean_interval`.
        finish: Applied to each mean.
        telling: See `compute_interval`.
        seed: Of the resamples.
        work: See `compute_interval`.
    """
    if callable(first) and callable(second):
        if telling == 0:
            return _make_zero_interval(rows)
        first_statistic, second_statistic = first, second
        return compute_interval(
            lambda chosen: second_statistic(chosen) - first_statistic(chosen),
            rows,
            telling=telling,
            seed=seed,
            work=work,
        )
    pairs = np.stack([np.asarray(first, float), np.asarray(second, float)], 1)
    units = ResamplingUnits.from_ids(rows, len(rows))
    first_value, second_value = (
        map(finish, pairs.mean(0).tolist()) if len(pairs) else (math.nan, math.nan)
    )
    if fault := _find_fault(pairs, units):
        return Interval(second_value - first_value, n=len(units), why=fault)
    num_different = len(np.unique(units.owner[pairs[:, 0] != pairs[:, 1]]))
    if not num_different:
        return _make_zero_interval(rows)
    resampled = _resample_means(pairs, units, seed)
    differences = np.array([finish(b) - finish(a) for a, b in resampled.tolist()])
    return _interval_from_samples(
        second_value - first_value, differences, len(units), num_different
    )


@dataclass(frozen=True)
class ResamplingUnits:
    """Rows with the same id, which are drawn together.

    Attributes:
        owner: (n,) the unit of each row, numbered by first appearance.
        order: (n,) the rows, unit by unit.
        starts: (units + 1,) where each unit begins in `order`, and the end.
    """

    owner: Array
    order: Array
    starts: Array

    @classmethod
    def from_ids(cls, ids: Array | None, n: int) -> ResamplingUnits:
        """The units of n rows; raises ValueError unless there is one id a row."""
        if ids is None:
            return cls(np.arange(n), np.arange(n), np.arange(n + 1))
        if len(ids) != n:
            raise ValueError(f"{len(ids)} row ids for {n} values")
        _, first, owner = np.unique(np.asarray(ids), return_index=True, return_inverse=True)
        # np.unique numbers by value: renumber, so that the resamples do not depend on the ids.
        owner = np.argsort(np.argsort(first))[owner.ravel()] if n else owner
        counts = np.bincount(owner, minlength=len(first))
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
        return cls(owner, np.argsort(owner, kind="stable"), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def get_rows(self, chosen: Array) -> Array:
        """The row numbers of these units."""
        if len(self) == len(self.owner):
            return self.order[chosen]  # one row a unit, the usual case, needs no ranges
        # The ranges starts[unit] … starts[unit] + length of all chosen units, without a loop.
        lengths = np.diff(self.starts)[chosen]
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.order[np.repeat(self.starts[:-1][chosen], lengths) + offsets]

    def sum_by_unit(self, values: Array) -> Array:
        """The sum over each unit of values (n, k)."""
        return np.stack([np.bincount(self.owner, column, len(self)) for column in values.T], 1)


def _iter_samples(n: int, times: int, seed: int) -> Iterator[Array]:
    random = np.random.default_rng(seed)
    for _ in range(times):
        yield random.integers(0, n, n, np.int32)


def _resample_means(values: Array, units: ResamplingUnits, seed: int) -> Array:
    """Means (NUM_MEAN_RESAMPLES, k) of values (n, k) over resampled units."""
    sums, lengths, n = units.sum_by_unit(values), np.diff(units.starts), len(units)
    random = np.random.default_rng(seed)
    chunk_size = max(1, CHUNK_NUMBERS // n)
    chunks = []
    for start in range(0, NUM_MEAN_RESAMPLES, chunk_size):
        count = min(chunk_size, NUM_MEAN_RESAMPLES - start)
        chosen = random.integers(0, n, (count, n), np.int32)
        totals = np.stack([column[chosen].sum(1) for column in sums.T], 1)
        chunks.append(totals / (lengths[chosen].sum(1)[:, None] if lengths.max() > 1 else n))
    return np.concatenate(chunks)


def _make_zero_interval(rows: Array) -> Interval:
    return Interval(0.0, 0.0, 0.0, len(np.unique(rows)), "the two are equal on every row")


def _find_fault(values: Array, units: ResamplingUnits) -> str:
    if fault := check_sample_size(len(units)):
        return fault
    return "" if np.isfinite(values).all() else "it is not defined on these rows"


def _acceleration(function: Statistic, units: ResamplingUnits, seed: int) -> float:
    """How skewed a statistic is: a jackknife over groups (Efron and Tibshirani 1993, 14.15)."""
    order = np.random.default_rng(seed).permutation(len(units))
    groups = np.array_split(order, min(len(units), NUM_JACKKNIFE_GROUPS))
    left_out = np.array([function(units.get_rows(np.setdiff1d(order, group))) for group in groups])
    deviations = left_out[np.isfinite(left_out)]
    deviations = deviations.mean() - deviations
    spread = float((deviations**2).sum() ** 1.5)
    return float((deviations**3).sum()) / (6 * spread) if spread else 0.0


def _interval_from_samples(
    value: float, resampled: Array, n: int, telling: int, acceleration: float | None = None
) -> Interval:
    """From resamples to an interval: percentiles, corrected where an acceleration is given."""
    defined = resampled[np.isfinite(resampled)]
    if len(defined) < (1 - MAX_UNDEFINED_SHARE) * len(resampled):
        num_undefined = len(resampled) - len(defined)
        return Interval(
            value, n=n, why=f"it is not defined on {num_undefined} of {len(resampled)} resamples"
        )
    tails = _tail_probability(min(telling, n)), 1 - _tail_probability(min(telling, n))
    if acceleration is not None:
        share = (np.mean(defined < value) + np.mean(defined <= value)) / 2
        tails = _correct_quantiles(
            tails[0], NORMAL.inv_cdf(min(max(float(share), 0.001), 0.999)), acceleration
        )
    low, high = np.quantile(defined, tails)
    return Interval(value, float(low), float(high), n)


def _correct_quantiles(tail: float, bias: float, acceleration: float) -> tuple[float, float]:
    edge = -NORMAL.inv_cdf(tail)
    lower, upper = (
        NORMAL.cdf(bias + z / max(1e-6, 1 - acceleration * z)) for z in (bias - edge, bias + edge)
    )
    return lower, upper


def _tail_probability(n: int) -> float:
    """The share of resamples to leave out at each end: 2.5 %, less for few rows.

    Student's quantile by the Cornish-Fisher expansion (Abramowitz and Stegun, 26.7.5), back through
    the normal one.
    """
    z, nu = 1.959964, max(1, n - 1)
    student = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    student += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * nu**3)
    return 0.5 * math.erfc(student * math.sqrt((nu + 1) / nu) / math.sqrt(2))
