"""Carries out several configs of a sweep as one, each in its own run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.settings import parallel_fits_mode
from dlrun.core.errors import TrainingInterrupted
from dlrun.core.types import Result
from dlrun.experiment.parallel_fits.driver import build_fits, finish_member, start_member
from dlrun.experiment.parallel_fits.loop import train_members

if TYPE_CHECKING:
    from dlrun.training.trainer import FitWatcher


log = logging.getLogger("dlrun")


@dataclass
class ParallelOutcome:
    """What came of one config: its results, or what ended it."""

    results: list[Result] = field(default_factory=list)
    error: Exception | None = None


def run_parallel(
    configs: Sequence[dict[str, Any]],
    folders: Sequence[Path],
    plugins: tuple[str, ...] = (),
    watch: FitWatcher | None = None,
) -> list[ParallelOutcome]:
    """Carry out the configs of one group of `alike.group_compatible`, each in its own run folder,
    all their fits as one.

    Where that cannot be, one after the other.

    Raises:
        TrainingInterrupted: once all members are saved.
    """
    from dlrun.experiment.runner import Experiment

    outcomes, experiments = [ParallelOutcome() for _ in configs], dict[int, Experiment]()
    for number, (config, folder) in enumerate(zip(configs, folders, strict=True)):
        with capture_error(outcomes[number]):
            experiments[number] = Experiment(config, folder, plugins)
    jobs = [
        (number, job)
        for number, experiment in experiments.items()
        for job in experiment.get_pending_jobs()
    ]
    required = any(parallel_fits_mode(config) is True for config in configs)
    fits, reason = build_fits(
        [(experiments[number], job) for number, job in jobs], required=required
    )
    if required and reason is not None:
        log.warning("protocol.stacked=true: these are trained one after the other: %s", reason)
    # Then each experiment trains its own, below.
    fits = [] if reason is not None else fits
    members = [
        (number, start_member(experiments[number], fit))
        for (number, _), fit in zip(jobs, fits, strict=False)
    ]
    train_members([member for _, member in members], watch)
    for number, member in members:
        with capture_error(outcomes[number]):
            experiments[number].add_result(member.fit, finish_member(member))
    for number, experiment in experiments.items():
        if outcomes[number].error is None:
            with capture_error(outcomes[number]):
                outcomes[number].results = experiment.results(watch)
    return outcomes


@contextmanager
def capture_error(outcome: ParallelOutcome) -> Iterator[None]:
    """Inside, an error is this outcome's and nobody else's, unless it is a request to stop."""
    try:
        yield
    except TrainingInterrupted:
        raise
    except Exception as error:
        outcome.error = error
