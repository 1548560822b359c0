"""How far a score could have come out otherwise: bootstrap intervals over rows, of one model or between two."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

Array = np.ndarray
Statistic = Callable[[Array], float]  # row numbers, which may repeat → the measure of these rows
MIN_ROWS = 20
NUM_MEAN_RESAMPLES, NUM_STATISTIC_RESAMPLES = (
    2000,
    1000,
)  # resamples: of means, which are cheap, and of whole-split statistics
CHUNK_NUMBERS = 1 << 20
MAX_RESAMPLED_NUMBERS = 200_000_000  # numbers that the resamples of one statistic may go through: some 8 s on one thread
MIN_RESAMPLES = 200  # fewer resamples say nothing of the ends
NUM_JACKKNIFE_GROUPS = 100  # left out in turn to see how skewed a statistic is
NORMAL = NormalDist()
NO_INTERVAL = "it has no interval"
NO_VARIATION = "all rows have the same value, so that they say nothing of how others would come out"
MAX_UNDEFINED_SHARE = 0.05  # a larger share of resamples without a value leaves no interval


def check_sample_size(rows: int) -> str:
    """Why there is no interval over so few rows; '' where there is one.

    An interval is of one score of one fit over its rows, or of a difference on the same rows: how far it could have
    come out otherwise with other rows. Of several fits, or of two or three rows, it is not taken.
    """
    subject = "1 row is" if rows == 1 else f"{rows} rows are"
    return (
        f"{subject} too few for an interval: at least {MIN_ROWS} are needed"
        if rows < MIN_ROWS
        else ""
    )


@dataclass(frozen=True)
class Interval:
    """A value, or a difference, with its 95 % interval over n different rows; `why` says why there is none."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    why: str = ""

    @property
    def is_nonzero(self) -> bool:
        """Whether zero lies outside: of a difference, whether it is more than chance."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def compute_mean_interval(
    values: Array, rows: Array | None = None, *, finish: Callable[[float], float] = float, seed: int
) -> Interval:
    """The interval of finish(mean of per-row values (n,)).

    rows (n,): who each value belongs to; values of one row are drawn together (cluster bootstrap). None: each its own.
    The percentile interval, widened for few rows as in Hesterberg (2015), "What teachers should know about the
    bootstrap", 3.3; rows that all say the most frequent value do not count among the many.
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
    telling = round(len(units) * (1 - counts.max() / len(values)))
    return _interval_from_samples(value, np.array(resampled), len(units), telling)


def compute_interval(
    function: Statistic, rows: Array, *, telling: int | None = None, seed: int, work: int = 0
) -> Interval:
    """The interval of function(row numbers), such as an area under a curve; fewer resamples than for a mean.

    Corrected for bias and skewness (BCa, Efron 1987), without which that of an area near 1 is too short.
    rows (n,): who each of the n rows belongs to, as in `compute_mean_interval`. telling: of how many rows the statistic depends, where
    it is fewer than all (those of the rarer class; those on which two models differ). work: how many numbers one
    taking of it goes through; where many resamples would take too long there are fewer, or none, and `why` says so.
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
    if np.ptp(resampled) == 0:
        return Interval(
            value, n=len(units), why="every resample has the same value, so resampling says nothing"
        )
    acceleration = _acceleration(function, units, seed)
    interval = _interval_from_samples(
        value, resampled, len(units), len(units) if telling is None else telling, acceleration
    )
    warning = f"its interval is of {num_samples} resamples, not {NUM_STATISTIC_RESAMPLES:,}, which would take too long"
    return (
        replace(interval, why=interval.why or warning)
        if num_samples < NUM_STATISTIC_RESAMPLES
        else interval
    )


def get_num_samples(work: int) -> int:
    """How many resamples of a statistic there are, one taking of which goes through so many numbers."""
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
    """Second minus first on the same rows: both are taken on the same resamples, so what is hard for both cancels.

    first, second: per-row values (n,), or statistics as in `compute_interval`. Rows on which the two are equal do not count
    among the many: a handful of rows apart is no proof, however many there are besides (McNemar 1947).
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
    pairs, units = (
        np.stack([np.asarray(first, float), np.asarray(second, float)], 1),
        ResamplingUnits.from_ids(rows, len(rows)),
    )
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
    """What is drawn as one: rows with the same id. owner (n,): the unit of each row, numbered as they first appear."""

    owner: Array
    order: Array  # the rows, unit by unit
    starts: Array  # where each unit begins in `order`, and the end

    @classmethod
    def from_ids(cls, ids: Array | None, n: int) -> ResamplingUnits:
        """The units of n rows. Raises ValueError when there is not one id a row."""
        if ids is None:
            return cls(np.arange(n), np.arange(n), np.arange(n + 1))
        if len(ids) != n:
            raise ValueError(f"{len(ids)} row ids for {n} values")
        _, first, owner = np.unique(np.asarray(ids), return_index=True, return_inverse=True)
        owner = np.argsort(np.argsort(first))[owner.ravel()] if n else owner
        starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(first)))]).astype(
            int
        )
        return cls(owner, np.argsort(owner, kind="stable"), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def get_rows(self, chosen: Array) -> Array:
        """The row numbers of these units."""
        if len(self) == len(self.owner):
            return self.order[chosen]
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
    """Means (MEANS, k) of values (n, k) over resampled units."""
    sums, lengths = units.sum_by_unit(values), np.diff(units.starts)
    chunk_size, random, n = (
        max(1, CHUNK_NUMBERS // len(units)),
        np.random.default_rng(seed),
        len(units),
    )
    chunks = []
    for start in range(0, NUM_MEAN_RESAMPLES, chunk_size):
        chosen = random.integers(0, n, (min(chunk_size, NUM_MEAN_RESAMPLES - start), n), np.int32)
        totals = np.stack([column[chosen].sum(1) for column in sums.T], 1)
        chunks.append(totals / (lengths[chosen].sum(1)[:, None] if lengths.max() > 1 else n))
    return np.concatenate(chunks)


def _make_zero_interval(rows: Array) -> Interval:
    return Interval(0.0, 0.0, 0.0, len(np.unique(rows)), "the two are equal on every row")


def _find_fault(values: Array, units: ResamplingUnits) -> str:
    if few := check_sample_size(len(units)):
        return few
    return "" if np.isfinite(values).all() else "it is not defined on these rows"


def _acceleration(function: Statistic, units: ResamplingUnits, seed: int) -> float:
    """How skewed a statistic is, by leaving out groups of units in turn (Efron and Tibshirani 1993, 14.15)."""
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
    """From resamples to an interval: percentiles, moved for bias and skewness where the skewness is given."""
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
    """Which share of resamples to leave out at each end: 2.5 %, less for few rows, since they spread too little.

    Student's quantile by the Cornish-Fisher expansion (Abramowitz and Stegun, 26.7.5), back through the normal one.
    """
    z, nu = 1.959964, max(1, n - 1)
    student = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    student += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * nu**3)
    return 0.5 * math.erfc(student * math.sqrt((nu + 1) / nu) / math.sqrt(2))
