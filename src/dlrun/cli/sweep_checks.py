"""Checks of a sweep before its first job: valid configs, unused overrides, test evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from dlrun.config.compose import ConfigComposer
from dlrun.config.parallel_fits import incompatibility
from dlrun.config.settings import Sweep, parallel_fits_mode
from dlrun.config.unused_settings import find_unused_settings
from dlrun.core.errors import UserError
from dlrun.sweeps.space import SweepOverrides
from dlrun.sweeps.study import Axis, make_combinations

# An override that has no effect in so many combinations is reported as unused.
MAX_CHECKED_JOBS = 20
# One of so many combinations must be valid before anything is begun.
MAX_TRIED_JOBS = 200


def find_valid_config(
    space: SweepOverrides, settings: Sweep, composer: ConfigComposer
) -> dict[str, Any]:
    """Return the config of the first job that is valid.

    Args:
        space: The overrides with their axes.
        settings: The settings of the sweep.
        composer: Composes the config of a job.

    Raises:
        UserError: Where no job is, with all errors.
    """
    errors: dict[str, None] = {}
    # Conditions may exclude many combinations, so the first one alone proves nothing.
    for axis_overrides in islice(iter_override_combinations(space.axes, settings), MAX_TRIED_JOBS):
        try:
            return composer(space.get_job_overrides(axis_overrides))
        except UserError as error:
            errors[str(error)] = None
    raise UserError("\n".join(errors))


def find_unused_overrides(
    first: dict[str, Any], space: SweepOverrides, settings: Sweep, composer: ConfigComposer
) -> list[str]:
    """Describe which fixed overrides have no effect in any job, among those that are looked at."""
    unused = find_unused_settings(first, space.fixed, composer.folders)
    combinations = iter_override_combinations(space.axes, settings)
    for axis_overrides in islice(combinations, MAX_CHECKED_JOBS if unused else 0):
        # A combination that is not valid is reported when its turn comes.
        with suppress(UserError):
            config = composer(space.get_job_overrides(axis_overrides))
            job_unused = find_unused_settings(config, space.fixed, composer.folders)
            unused = [text for text in unused if text in job_unused]
    return unused


def check_test_evaluation(first: dict[str, Any], space: SweepOverrides) -> None:
    """Refuse to evaluate the same test rows in every job without a reason.

    The second evaluation would be refused, and the first be spent.

    Raises:
        UserError: In that case.
    """
    # Jobs that differ in these may have different test rows, or a reason of their own.
    varies = {axis.key for axis in space.axes}
    reason = first["reason"] or first["book"] or varies & {"reason", "task", "experiment"}
    if first["test"] and space.axes and first["source"] == "official" and not reason:
        raise UserError(
            'test=true in a sweep evaluates the test split in every job; say why, reason="…"'
        )


def get_sequential_reason(
    first: dict[str, Any], settings: Sweep, launcher: list[str]
) -> str | None:
    """Return why jobs that should be trained as one are not; None where they are, or should not
    be.
    """
    if parallel_fits_mode(first) is not True:
        return None
    if launcher:
        return "a launcher hands each out by itself"
    if settings.limit is not None:
        return "sweep.limit ends each by itself"
    if settings.method != "grid" or settings.prune is not None:
        choice = f"sweep.method={settings.method}, sweep.prune={settings.prune}"
        return f"{choice} ask for one at a time"
    if first["test"]:
        return "test=true evaluates the test split of each by itself"
    return incompatibility(first)


def iter_override_combinations(axes: list[Axis], settings: Sweep) -> Iterator[list[str]]:
    """Yield combinations of values, with each interval's lower end for all of it."""
    finite = []
    for axis in axes:
        if axis.values:
            finite.append(axis)
            continue
        low = str(int(axis.low) if axis.whole else axis.low)
        finite.append(Axis(axis.key, (low,), when=axis.when))
    yield from make_combinations(finite, settings.zip)
