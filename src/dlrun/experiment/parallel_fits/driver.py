"""Trains several fits together where that can be: folds, repeats over seeds, members of a sweep.

What comes of each is what came of it alone: its own history, callbacks, best epoch, checkpoints and
result. A run of one fit asks here, too: what stacks fits is imported once there are several.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from dlrun.config import parallel_fits
from dlrun.config.compatibility import get_target_part
from dlrun.config.instantiate import apply_patch
from dlrun.config.settings import parallel_fits_mode
from dlrun.core.errors import NotStackable, UserError
from dlrun.core.types import FitJob, Result
from dlrun.experiment.builder import BuiltFit
from dlrun.training.trainer import Trainer

if TYPE_CHECKING:
    from dlrun.experiment.parallel_fits.loop import FitOwner, Member
    from dlrun.training.trainer import FitWatcher


log = logging.getLogger("dlrun")
MAX_WEIGHTS, MAX_WORK, MAX_WORK_PER_MEMBER = (
    1 << 15,
    1 << 20,
    1 << 17,
)  # of a member; times rows of a batch; see `is_worthwhile`


def train_jobs(
    experiment: FitOwner, jobs: Sequence[FitJob], watch: FitWatcher | None = None
) -> list[BuiltFit] | None:
    """Train several fits as one, where that can be; results are written in the protocol's order.

    Args:
        experiment: Whose fits they are.
        jobs: The fits.
        watch: Shows the progress of each.

    Returns:
        None where they were trained, else the fits that were built to find out.

    Raises:
        UserError: if protocol.stacked=true asks for what cannot be.
    """
    is_required = parallel_fits_mode(experiment.builder.config) is True
    fits, reason = build_fits([(experiment, job) for job in jobs], is_required)
    if reason is not None:
        if is_required:
            raise UserError(f"protocol.stacked=true: {reason}")
        log.debug("one fit after the other: %s", reason)
        return fits
    from dlrun.experiment.parallel_fits.loop import train_members

    members = [start_member(experiment, fit) for fit in fits]
    train_members(members, watch)
    for member in members:
        experiment.add_result(member.fit, finish_member(member))
    return None


def build_fits(
    jobs: Sequence[tuple[FitOwner, FitJob]], required: bool
) -> tuple[list[BuiltFit], str | None]:
    """The fits of these jobs, as far as they were needed to find why they are not to be trained as
    one, and that.

    must: though it be slower.
    """
    configs = [apply_patch(experiment.builder.config, job.patch) for experiment, job in jobs]
    reason = next(filter(None, map(parallel_fits.incompatibility, configs)), None)
    several = any(experiment.builder.processes.world_size > 1 for experiment, _ in jobs)
    if several or len(jobs) < 2:
        reason = reason or "there is nothing to train together"
    fits: list[BuiltFit] = []
    for experiment, job in jobs if reason is None else ():
        fits.append(experiment.builder.build_fit(job))
        # After the first fit: its network shows whether stacking pays, before the others are built.
        if not required and not is_worthwhile(fits[0].trainer, len(jobs)):
            return fits, "for networks of this size it would not be faster"
    return fits, reason or find_conflict(fits, find_mean_losses(configs[0], fits[0]))


def find_conflict(fits: Sequence[BuiltFit], means: Sequence[str]) -> str | None:
    """Why these fits cannot be trained as one; None where they can."""
    from dlrun.experiment.parallel_fits.batches import SUPPORTED_COLUMNS
    from dlrun.experiment.parallel_fits.stack import StackedTrainer
    from dlrun.objectives.supervised import Supervised

    trainers = [fit.trainer for fit in fits]
    for trainer in trainers:
        objective, tables = (
            trainer.objective,
            [trainer.data.train, *filter(None, [trainer.data.val])],
        )
        if (
            type(objective) is not Supervised
            or objective.augment is not None
            or not objective.groups
        ):
            return (
                "what is minimized is not the predictions of a model that learns, against targets"
            )
        for column in (
            column for table in tables for column in (table.columns.values() or [table])
        ):
            if not isinstance(column, SUPPORTED_COLUMNS):
                return f"columns of kind {type(column).__name__} are not handed out side by side"
    # One loop runs them all: batch size, epochs and precision have to be the same.
    if any(trainer.settings != trainers[0].settings for trainer in trainers):
        return "their settings of the engine differ"
    if len({trainer.data.val is None for trainer in trainers}) > 1:
        return "some hold rows out and some do not"
    try:
        StackedTrainer(trainers, means, [torch.Generator(trainer.device) for trainer in trainers])
    except NotStackable as fault:
        return str(fault)
    return None


def find_mean_losses(config: dict[str, Any], fit: BuiltFit) -> list[str]:
    """The targets whose loss is a plain mean over rows."""
    return [
        name
        for name in fit.data.spec.targets
        if parallel_fits.is_mean_loss(get_target_part(config, "loss", name))
    ]


def start_member(experiment: FitOwner, fit: BuiltFit) -> Member:
    """A fit ready to be trained, or to go on."""
    from dlrun.experiment.parallel_fits.loop import Member

    config = apply_patch(experiment.builder.config, fit.job.patch)
    return Member(experiment, fit, experiment.restore(fit), find_mean_losses(config, fit))


def finish_member(member: Member) -> Result:
    """What came of a member. Raises what ended it before its time."""
    if member.error is not None:
        raise member.error
    member.trainer.began_at = time.monotonic()  # what went by since it stopped is not its own
    return member.experiment.finalize(member.fit, member.baseline)


def is_worthwhile(trainer: Trainer, members: int) -> bool:
    """Whether so many of these are trained faster as one, and are in memory together.

    Calls are saved, and nothing else: measured on one thread of a CPU for dense networks of 464 to
    401,408 weights, batches of 1 to 256 and 2 to 16 members, it is 1.0 to 7.6 times as fast inside
    these bounds and 0.7 to 1.2 times outside (1.7 in one cell). Other devices have not been
    measured.
    """
    table: Any = trainer.data.train
    weights = sum(map(torch.numel, trainer.optimization.groups.get("model", [])))
    work = weights * min(trainer.settings.batch_rows, len(table))
    row_bytes = sum(column.row_bytes for column in trainer.data.train.columns.values())
    small = weights <= MAX_WEIGHTS and work <= min(MAX_WORK, MAX_WORK_PER_MEMBER * (members - 1))
    return (
        trainer.device.type == "cpu"
        and small
        and members * len(table) * row_bytes <= get_free_memory() / 4
    )


def get_free_memory() -> float:
    """Bytes of memory that nobody uses now; no bound where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    return (
        os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if "SC_AVPHYS_PAGES" in names
        else math.inf
    )
