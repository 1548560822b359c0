"""What a sweep runs next. A study names words and is told what came of them; it knows no processes and no files.

The loop that asks it (sweeps/loop.py) does, in short:

    study.recall(earlier)                           # once, before anything else
    words = study.ask()                             # as often as there are idle workers, and again after each told()
    ...                                             # number = how many ask() has given out, the recalled ones included
    study.prune(number, epoch, values)              # after each epoch of a running job, where study.prunes
    study.told(number, outcome)                     # exactly once for each number

A job whose config has been run before under other words is not run again: it is told what came of that one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from dlrun.core.errors import UserError, format_names
from dlrun.core.measure_names import COST_NAMES

if TYPE_CHECKING:
    from dlrun.config.settings import Sweep

Status = Literal["done", "failed", "pruned"]


@dataclass(frozen=True)
class Axis:
    """One key of a sweep and what it may be: texts as words take them, in order, or else the numbers of an interval.

    key: as in a word, with its + where it has one. log: an interval to be drawn from evenly in the logarithm. whole:
    its numbers are whole, both ends included. when: the key of a choice, and the values with which this key is there;
    it belongs to every job where that says nothing.
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
        """Whether there is a number between two ends to be drawn, and no list."""
        return not self.values

    def to_override(self, value: str | float) -> str:
        """The word that sets this key."""
        return f"{self.key}={value}"


@dataclass(frozen=True)
class Outcome:
    """What came of one job.

    scores: measure → its mean over the folds of the job on validation rows, as in the table (no prefix: 'accuracy',
    'loss'); besides 'parameters' (weights that are learnt) and 'seconds', for sweeps with several aims. Of a pruned job
    those of its best epoch up to then, of a failed one nothing. reason: why it failed or was pruned. goals: measure →
    'min' or 'max', as the job has written it down.
    """

    status: Status
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    epochs: int = 0
    goals: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PreviousJob:
    """A job of an earlier start: its number, its own words, and what came of it; None where it was cut and goes on.

    epochs: (epoch, values) of each epoch that it wrote down, values as prune() gets them.
    """

    number: int
    overrides: list[str]
    outcome: Outcome | None
    epochs: list[tuple[int, dict[str, float]]] = field(default_factory=list)


class Study(Protocol):
    """What to try. Called from one thread only, and never while a job's own code runs in it.

    prunes: whether `prune` is to be asked: each worker then waits for the answer after each epoch.
    """

    supports_pruning: bool

    def restore_jobs(self, earlier: Sequence[PreviousJob]) -> None:
        """Take in the jobs of earlier starts, before the first ask. Those without an outcome will be told later."""
        ...

    def ask(self) -> list[str] | None:
        """The words of the next job that vary, `key=value` for each axis, or None: nothing to ask now."""
        ...

    def tell(self, number: int, outcome: Outcome) -> None:
        """Learn what came of a job."""
        ...

    def should_prune(
        self, number: int, epoch: int, values: dict[str, float], goals: dict[str, str]
    ) -> bool:
        """Whether to stop this job after this epoch.

        epoch: from 1, counted on through the folds of one job. values: 'split/measure' of this epoch ('val/accuracy').
        goals: measure → 'min' or 'max'.
        """
        ...

    @property
    def done(self) -> bool:
        """Whether no more words will ever come."""
        ...


class GridStudy:
    """Every combination of the values, each once; values of zipped keys go together. At most `trials` of them.

    wanted: the measures that the table is sorted by.
    """

    supports_pruning = False

    def __init__(
        self,
        axes: Sequence[Axis],
        zipped: Sequence[str] = (),
        trials: int | None = None,
        wanted: Sequence[str] = (),
    ) -> None:
        if drawn := [axis.key for axis in axes if axis.is_interval]:
            raise UserError(
                f"{', '.join(drawn)}: a grid needs values, and an interval has no end of them; "
                "sweep=random, sweep=tpe and sweep=halving draw from it"
            )
        found = make_combinations(axes, zipped)
        self.left, self.wanted = found[:trials], wanted

    def restore_jobs(self, earlier: Sequence[PreviousJob]) -> None:
        """Leave out what is there."""
        there = {tuple(job.overrides) for job in earlier}
        self.left = [words for words in self.left if tuple(words) not in there]

    def ask(self) -> list[str] | None:
        """The next combination."""
        return self.left.pop(0) if self.left else None

    def tell(self, number: int, outcome: Outcome) -> None:
        """See that the first job that is done has measured what is wanted. Raises UserError."""
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
        """Whether all combinations were named."""
        return not self.left


def get_metric_names(settings: Sweep) -> list[str]:
    """The measures that a sweep is decided by, without their split; none where the first job is to say it.

    Raises UserError for one that is not of validation rows, and for what cannot be judged while a trial runs.
    """
    given = [settings.measure] if isinstance(settings.measure, str) else settings.measure or []
    names = [name.removeprefix("val/") for name in given]
    for name in names:
        if "/" in name:
            raise UserError(
                f"sweep.measure={name}: a sweep is decided on validation rows, such as val/loss"
            )
    if settings.prune and (len(names) > 1 or set(names) & set(COST_NAMES)):
        told = ", ".join(names)
        raise UserError(
            f"sweep.measure=[{told}] cannot be seen epoch by epoch as one number: say sweep.prune=null"
        )
    return names


def check_metrics(names: Sequence[str], there: Sequence[str], when: str = "") -> None:
    """Raise UserError where a job has not measured what its sweep is to be decided by."""
    for name in names:
        if name not in there:
            raise UserError(
                f"sweep.measure={name} is not measured{when}; there are: {format_names(there, name)}"
            )


def make_combinations(axes: Sequence[Axis], zipped: Sequence[str] = ()) -> list[list[str]]:
    """The words of each combination, the last key changing fastest; zipped keys move as one, where the first stands.

    Raises UserError where a zipped key has no list, or lists of several lengths are paired.
    """
    pairs = [axis for key in zipped for axis in axes if axis.key.lstrip("+") == key]
    if len(pairs) < len(zipped):
        lists = ", ".join(axis.key for axis in axes) or "none"
        absent = [key for key in zipped if key not in [axis.key.lstrip("+") for axis in pairs]]
        raise UserError(
            f"sweep.zip: no list of values for {', '.join(absent)}; there are lists for: {lists}"
        )
    lengths = {axis.key: len(axis.values) for axis in pairs}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        raise UserError(f"sweep.zip pairs lists of one length: {told}")
    whens = {axis.key: axis.when for axis in axes}
    found: list[list[str]] = []
    for chosen in itertools.product(*_iter_axis_values(axes, pairs)):
        words = [word for each in chosen for word in each]
        own = [word for word in words if is_active(whens[word.partition("=")[0]], words)]
        if own == words or own not in found:
            found.append(own)
    return found


def is_active(when: tuple[str, tuple[str, ...]] | tuple[()], words: Sequence[str]) -> bool:
    """Whether a key belongs to the job of these words: see `Axis.when`."""
    return not when or any(f"{when[0]}={value}" in words for value in when[1])


def _iter_axis_values(axes: Sequence[Axis], pairs: Sequence[Axis]) -> Iterator[list[list[str]]]:
    """What moves by itself: for each place the words that it puts together."""
    first = next((axis for axis in axes if axis in pairs), None)
    for axis in axes:
        if axis is first:
            yield [
                list(words)
                for words in zip(
                    *([p.to_override(v) for v in p.values] for p in pairs), strict=True
                )
            ]
        elif axis not in pairs:
            yield [[axis.to_override(value)] for value in axis.values]
