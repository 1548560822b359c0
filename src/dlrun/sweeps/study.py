"""What a sweep runs next. A study knows neither processes nor files.

The scheduler (sweeps/scheduler.py) uses it so:

    study.restore_jobs(earlier)             # once, before anything else
    overrides = study.ask()                 # for each idle worker, and again after each tell()
    study.should_prune(number, epoch, …)    # after each epoch, where study.supports_pruning
    study.tell(number, outcome)             # exactly once for each number

A job's number is how many ask() has given out, restored ones included. A job whose config has
been run before under other overrides is not run again: its outcome is that one's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from dlrun.core.errors import UserError, format_names
from dlrun.core.formatting import COST_NAMES

if TYPE_CHECKING:
    from dlrun.config.settings import Sweep

Status = Literal["done", "failed", "pruned"]


@dataclass(frozen=True)
class Axis:
    """One key of a sweep and its values: a list, or else an interval.

    Attributes:
        key: As in an override, with its + where it has one.
        values: Texts as overrides take them, in order; empty of an interval.
        low: Lower end of the interval.
        high: Upper end.
        log: Draw evenly in the logarithm.
        whole: Integers alone, both ends included.
        when: A choice's key and the values with which this key exists; empty: in every job.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    when: tuple[str, tuple[str, ...]] | tuple[()] = ()

    @property
    def is_interval(self) -> bool:
        """Whether numbers are drawn between two ends."""
        return not self.values

    def to_override(self, value: str | float) -> str:
        """The override that sets this key."""
        return f"{self.key}={value}"


@dataclass(frozen=True)
class Outcome:
    """The result of one job.

    Attributes:
        status: How it ended.
        scores: Metric → its mean over the job's folds on validation rows, without a prefix
            ('accuracy'); and 'parameters' and 'seconds', for multi-objective sweeps. Of a pruned
            job those of its best epoch, of a failed one none.
        reason: Why it failed or was pruned.
        epochs: Epochs that were trained.
        goals: Metric → 'min' or 'max', as the job recorded it.
    """

    status: Status
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    epochs: int = 0
    goals: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PreviousJob:
    """A job of an earlier start.

    Attributes:
        number: The job.
        overrides: Those that the study chose.
        outcome: None where it was cut and goes on.
        epochs: (epoch, values) of each recorded epoch, values as `should_prune` gets them.
    """

    number: int
    overrides: list[str]
    outcome: Outcome | None
    epochs: list[tuple[int, dict[str, float]]] = field(default_factory=list)


class Study(Protocol):
    """Decides what to try. Called from one thread only, and never while a job runs in it.

    Attributes:
        supports_pruning: Whether workers must wait for `should_prune` after each epoch.
    """

    supports_pruning: bool

    def restore_jobs(self, earlier: Sequence[PreviousJob]) -> None:
        """Take in jobs of earlier starts, before the first ask; unfinished ones are told later."""
        ...

    def ask(self) -> list[str] | None:
        """The overrides of the next job that vary, `key=value` for each axis; None: none now."""
        ...

    def tell(self, number: int, outcome: Outcome) -> None:
        """Learn the outcome of a job."""
        ...

    def should_prune(
        self, number: int, epoch: int, values: dict[str, float], goals: dict[str, str]
    ) -> bool:
        """Whether to stop a job after this epoch.

        Args:
            number: The job.
            epoch: From 1, counted on through the folds of one job.
            values: 'split/metric' → value of this epoch ('val/accuracy').
            goals: Metric → 'min' or 'max'.
        """
        ...

    @property
    def done(self) -> bool:
        """Whether ask() will never return overrides again."""
        ...


class GridStudy:
    """Every combination of the values, each once; at most `trials` of them.

    Attributes:
        left: Combinations to be handed out.
        wanted: Metrics by which the table is sorted; the first finished job must have them.
    """

    supports_pruning = False

    def __init__(
        self,
        axes: Sequence[Axis],
        zipped: Sequence[str] = (),
        trials: int | None = None,
        metrics: Sequence[str] = (),
    ) -> None:
        """List the combinations.

        Args:
            axes: What varies.
            zipped: Keys whose values are paired instead of combined.
            trials: The most that are run; None: all.
            metrics: Metrics by which the table is sorted.

        Raises:
            UserError: An axis is an interval.
        """
        if drawn := [axis.key for axis in axes if axis.is_interval]:
            raise UserError(
                f"{', '.join(drawn)}: a grid needs values, and an interval has no end of them; "
                "sweep=random, sweep=tpe and sweep=halving draw from it"
            )
        self.left, self.wanted = make_combinations(axes, zipped)[:trials], metrics

    def restore_jobs(self, earlier: Sequence[PreviousJob]) -> None:
        """Leave out what has been run."""
        finished = {tuple(job.overrides) for job in earlier}
        self.left = [words for words in self.left if tuple(words) not in finished]

    def ask(self) -> list[str] | None:
        """The next combination."""
        return self.left.pop(0) if self.left else None

    def tell(self, number: int, outcome: Outcome) -> None:
        """Check that the first finished job measured the deciding metrics. Raises UserError."""
        if outcome.status == "done":
            check_metrics(self.wanted, list(outcome.scores))
            self.wanted = ()

    def should_prune(
        self, number: int, epoch: int, values: dict[str, float], goals: dict[str, str]
    ) -> bool:
        """Never."""
        return False

    @property
    def done(self) -> bool:
        """Whether all combinations were handed out."""
        return not self.left


def get_metric_names(settings: Sweep) -> list[str]:
    """The deciding metrics of a sweep, without their split; none where the first job is to choose.

    Raises:
        UserError: One is not of validation rows, or cannot be known while a trial runs.
    """
    measures = [settings.measure] if isinstance(settings.measure, str) else settings.measure or []
    names = [name.removeprefix("val/") for name in measures]
    for name in names:
        if "/" in name:
            raise UserError(
                f"sweep.measure={name}: a sweep is decided on validation rows, such as val/loss"
            )  # on test rows a sweep would fit the test set
    # A pruning rule compares one number, and costs are known only at the end.
    if settings.prune and (len(names) > 1 or set(names) & set(COST_NAMES)):
        listed = ", ".join(names)
        raise UserError(
            f"sweep.measure=[{listed}] cannot be seen epoch by epoch as one number: "
            "say sweep.prune=null"
        )
    return names


def check_metrics(names: Sequence[str], measured: Sequence[str], when: str = "") -> None:
    """Check that a job measured the deciding metrics.

    Args:
        names: Those of the sweep.
        measured: Those of the job.
        when: Added to the message.

    Raises:
        UserError: One is missing.
    """
    for name in names:
        if name not in measured:
            available = format_names(measured, name)
            raise UserError(f"sweep.measure={name} is not measured{when}; there are: {available}")


def make_combinations(axes: Sequence[Axis], zipped: Sequence[str] = ()) -> list[list[str]]:
    """The overrides of each combination, the last key changing fastest.

    Args:
        axes: Axes with lists.
        zipped: Keys that move as one, where the first of them stands.

    Raises:
        UserError: A zipped key has no list, or their lists have different lengths.
    """
    pairs = [axis for key in zipped for axis in axes if axis.key.lstrip("+") == key]
    if len(pairs) < len(zipped):
        lists = ", ".join(axis.key for axis in axes) or "none"
        absent = [key for key in zipped if key not in [axis.key.lstrip("+") for axis in pairs]]
        raise UserError(
            f"sweep.zip: no list of values for {', '.join(absent)}; there are lists for: {lists}"
        )
    # An interval has no values, so it cannot be paired with a list.
    lengths = {axis.key: len(axis.values) for axis in pairs}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        raise UserError(f"sweep.zip pairs lists of one length: {listed}")
    whens = {axis.key: axis.when for axis in axes}
    combinations: list[list[str]] = []
    for groups in itertools.product(*_iter_axis_values(axes, pairs)):
        words = [word for group in groups for word in group]
        active = [word for word in words if is_active(whens[word.partition("=")[0]], words)]
        # Combinations that differ only in keys that they do not have are one.
        if active == words or active not in combinations:
            combinations.append(active)
    return combinations


def is_active(when: tuple[str, tuple[str, ...]] | tuple[()], words: Sequence[str]) -> bool:
    """Whether a key belongs to the job of these overrides; see `Axis.when`."""
    if not when:
        return True
    key, values = when
    return any(f"{key}={value}" in words for value in values)


def _iter_axis_values(axes: Sequence[Axis], pairs: Sequence[Axis]) -> Iterator[list[list[str]]]:
    """For each axis, or group of zipped ones, the overrides of each of its values."""
    # Zipped keys move as one, in the place of the first.
    first = next((axis for axis in axes if axis in pairs), None)
    for axis in axes:
        if axis is first:
            columns = [[pair.to_override(value) for value in pair.values] for pair in pairs]
            yield [list(words) for words in zip(*columns, strict=True)]
        elif axis not in pairs:
            yield [[axis.to_override(value)] for value in axis.values]
