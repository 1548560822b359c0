"""What may change under a run that is resumed, and what can be trained longer of a finished one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import FitJob, Result

# These tables are the only list of what may change. A key in none of them decides the rows, the
# model or the loss: with another value it would be another run.

# How long, where and how a run is carried out, and what is stored and drawn on the way.
ALWAYS_ALLOWED = (
    "engine.epochs",
    "engine.max_steps",
    "engine.device",
    "engine.devices",
    "engine.shard",
    "engine.save_every",
    "engine.eval_batch_size",
    "engine.deterministic",
    "callback",
    "protocol.stacked",
    "test",
    "reason",
    "workflow.budget",
)
# These hold from the next step on; the history of the run notes from which.
BETWEEN_STEPS = ("optimizer.lr", "optimizer.weight_decay", "scheduler")
# Likewise, but only between two epochs: the position within an epoch counts batches.
BETWEEN_EPOCHS = ("engine.batch_size", "engine.epoch_batches")
# The stored checkpoint is the best by this metric, and would not be by another.
NEVER_ALLOWED = ("callback.keep_best.monitor",)
# These may let a fit that has ended go on.
EXTENDING_KEYS = ("engine.epochs", "engine.max_steps", "callback")
# A plan that never ends must not hang the check.
MOST_FITS = 1000


@dataclass(frozen=True)
class StartedFit:
    """A fit that has begun.

    Attributes:
        job: The fit.
        state: Its last checkpoint.
        num_epochs: The epochs that it is to have.
    """

    job: FitJob
    state: dict[str, Any]
    num_epochs: int

    @property
    def is_within_epoch(self) -> bool:
        """Whether the fit was interrupted within an epoch."""
        return bool(self.state["position"])

    @property
    def position_text(self) -> str:
        """The text 'fit is in epoch 3'."""
        return f"{self.job.name} is in epoch {self.state['epoch'] + self.is_within_epoch}"


def is_key_in(key: str, table: tuple[str, ...]) -> bool:
    """Return whether a dotted key, or a node that holds it, stands in a table."""
    return any(key == entry or key.startswith(entry + ".") for entry in table)


def check_allowed_changes(
    changes: dict[str, Any], started: list[StartedFit], jobs: list[FitJob], alternative: str
) -> None:
    """Refuse settings that cannot change under these fits.

    Args:
        changes: Dotted keys of the changed settings.
        started: The fits that have begun.
        jobs: All fits of the run.
        alternative: The command for a new run, for the message.

    Raises:
        UserError: For the first such setting.
    """
    for key in changes:
        free = is_key_in(key, ALWAYS_ALLOWED) and not is_key_in(key, NEVER_ALLOWED)
        applied = is_key_in(key, (*BETWEEN_STEPS, *BETWEEN_EPOCHS))
        if not free and not applied:
            raise UserError(
                f"{key} decides what this run is, and cannot change on the way; {alternative}. "
                f"What can: {ALLOWED_KEYS_TEXT}"
            )
        # Folds that were trained with different rates could not be compared.
        if applied and len(jobs) > 1:
            raise UserError(
                f"{key}: the {len(jobs)} fits of this run are to be trained alike; {alternative}"
            )
        interrupted = next((fit for fit in started if fit.is_within_epoch), None)
        if is_key_in(key, BETWEEN_EPOCHS) and interrupted:
            raise UserError(
                f"{key} can change between two epochs only, and {interrupted.position_text}, batch "
                f"{interrupted.state['position'] + 1}; {alternative}"
            )
    for fit in started:
        if fit.state["epoch"] + fit.is_within_epoch > fit.num_epochs:
            raise UserError(
                f"{fit.position_text}, and engine.epochs={fit.num_epochs}; {alternative}"
            )


ALLOWED_KEYS_TEXT = ", ".join(
    key if "." in key or key in ("test", "reason") else f"{key}.…"
    for key in (*ALWAYS_ALLOWED, *BETWEEN_STEPS, *BETWEEN_EPOCHS)
)


def list_fit_jobs(plan: Callable[[list[Result]], FitJob | None]) -> list[FitJob]:
    """List all fits that a plan asks for, whatever their results."""

    def iter_jobs() -> Iterator[FitJob]:
        results: list[Result] = []
        while (job := plan(results)) is not None:
            yield job
            results.append(Result(job, "val", {}))

    return list(islice(iter_jobs(), MOST_FITS))


def find_started_jobs(
    run: RunFolder, jobs: list[FitJob], config: dict[str, Any]
) -> list[StartedFit]:
    """Find the fits that have a checkpoint, without those from whose weights others began.

    Args:
        run: The run folder.
        jobs: All fits of the run.
        config: The config of the run, with its changes.
    """
    from dlrun.config.instantiate import apply_patch
    from dlrun.core import checkpoint

    starts = {job.start for job in jobs}
    started = []
    for job in (job for job in jobs if job.name not in starts):
        state = checkpoint.load_latest_or_none(run.checkpoint_file(job.name, "last"))
        if state is not None:
            started.append(
                StartedFit(job, state, apply_patch(config, job.patch)["engine"]["epochs"])
            )
    return started


def can_train_longer(
    changes: dict[str, Any], started: list[StartedFit], config: dict[str, Any]
) -> bool:
    """Return whether a fit of a finished run has something left to train with these changes.

    Args:
        changes: Dotted keys of the changed settings.
        started: The fits of the run.
        config: The config of the run, with its changes.
    """
    max_steps = config["engine"]["max_steps"]
    steps_taken = [
        fit.state["learner"]["taken"].values()
        for fit in started
        if fit.state["epoch"] < fit.num_epochs
    ]
    can_step = [not max_steps or max(taken, default=max_steps) < max_steps for taken in steps_taken]
    return any(can_step) and any(is_key_in(key, EXTENDING_KEYS) for key in changes)


@contextmanager
def remove_finished_results(run: RunFolder, started: list[StartedFit]) -> Iterator[None]:
    """Inside, the fits have no results, nor their tests; these are moved to earlier_results.jsonl.

    Where the run is refused, they are put back.

    Args:
        run: The run folder.
        started: The fits that are trained longer.
    """
    from dlrun.core.files import write_text

    path = run.path(RunFile.RESULTS)
    names = {fit.job.name for fit in started}
    text = path.read_text(encoding="utf-8")
    job_names = [result.job.name for result in run.read_results()]
    named_lines = list(zip(job_names, text.splitlines(keepends=True), strict=True))
    earlier_file = run.path(RunFile.EARLIER_RESULTS)
    earlier_text = earlier_file.read_text(encoding="utf-8") if earlier_file.exists() else ""
    # First the copy, then the removal: a crash in between loses nothing.
    write_text(
        earlier_file, earlier_text + "".join(line for name, line in named_lines if name in names)
    )
    if remaining := "".join(line for name, line in named_lines if name not in names):
        write_text(path, remaining)
    else:
        path.unlink()
    try:
        yield
    except UserError:
        write_text(path, text)
        write_text(earlier_file, earlier_text)
        raise
