"""What may change under a run that is gone on with, from which epoch, and what goes on of one that was finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import FitJob, Result

# The one table. A key that stands nowhere decides the rows, the model or the loss, and takes a new run.
ALWAYS_ALLOWED = (  # how long, where and how it is carried out, what is kept and drawn on the way
    *(
        "engine.epochs",
        "engine.max_steps",
        "engine.device",
        "engine.devices",
        "engine.shard",
        "engine.save_every",
    ),
    *(
        "engine.eval_batch_size",
        "engine.deterministic",
        "callback",
        "protocol.stacked",
        "test",
        "reason",
    ),
    "workflow.budget",
)
BETWEEN_STEPS = (
    "optimizer.lr",
    "optimizer.weight_decay",
    "scheduler",
)  # from the next step on, which is noted
BETWEEN_EPOCHS = (
    "engine.batch_size",
    "engine.epoch_batches",
)  # likewise, and only between two epochs
NEVER_ALLOWED = ("callback.keep_best.monitor",)  # what is kept is the best by it
EXTENDING_KEYS = (
    "engine.epochs",
    "engine.max_steps",
    "callback",
)  # may let a fit that has ended go on
MOST_FITS = 1000


@dataclass(frozen=True)
class StartedFit:
    """A fit that has begun: its job, its last checkpoint, and the epochs that it is to have."""

    job: FitJob
    state: dict[str, Any]
    num_epochs: int

    @property
    def is_within_epoch(self) -> bool:
        """Whether it was cut within an epoch."""
        return bool(self.state["position"])

    @property
    def position_text(self) -> str:
        """'fit is in epoch 3'."""
        return f"{self.job.name} is in epoch {self.state['epoch'] + self.is_within_epoch}"


def is_key_in(key: str, table: tuple[str, ...]) -> bool:
    """Whether a dotted key, or a node that it lies in, stands in a table."""
    return any(key == known or key.startswith(known + ".") for known in table)


def check_allowed_changes(
    changes: dict[str, Any], begun: list[StartedFit], jobs: list[FitJob], again: str
) -> None:
    """Raise UserError for what cannot change under these fits. jobs: all that the run asks for. again: the way out."""
    for key in changes:
        free, applied = (
            is_key_in(key, ALWAYS_ALLOWED) and not is_key_in(key, NEVER_ALLOWED),
            is_key_in(key, (*BETWEEN_STEPS, *BETWEEN_EPOCHS)),
        )
        if not free and not applied:
            raise UserError(
                f"{key} decides what this run is, and cannot change on the way; {again}. What can: {ALLOWED_KEYS_TEXT}"
            )
        if applied and len(jobs) > 1:
            raise UserError(
                f"{key}: the {len(jobs)} fits of this run are to be trained alike; {again}"
            )
        amid = next((fit for fit in begun if fit.is_within_epoch), None)
        if is_key_in(key, BETWEEN_EPOCHS) and amid:
            raise UserError(f"{key} can change between two epochs only, and {amid.position_text}, batch "
                          f"{amid.state['position'] + 1}; {again}")  # fmt: skip
    for fit in begun:
        if fit.state["epoch"] + fit.is_within_epoch > fit.num_epochs:
            raise UserError(f"{fit.position_text}, and engine.epochs={fit.num_epochs}; {again}")


ALLOWED_KEYS_TEXT = ", ".join(
    key if "." in key or key in ("test", "reason") else f"{key}.…"
    for key in (*ALWAYS_ALLOWED, *BETWEEN_STEPS, *BETWEEN_EPOCHS)
)


def list_fit_jobs(plan: Callable[[list[Result]], FitJob | None]) -> list[FitJob]:
    """All fits that a plan asks for, whatever comes of them."""

    def each() -> Iterator[FitJob]:
        results: list[Result] = []
        while (job := plan(results)) is not None:
            yield job
            results.append(Result(job, "val", {}))

    return list(islice(each(), MOST_FITS))


def find_started_jobs(
    run: RunFolder, jobs: list[FitJob], config: dict[str, Any]
) -> list[StartedFit]:
    """The fits that have a checkpoint to go on from, without those from which others began."""
    from dlrun.config.instantiate import apply_patch
    from dlrun.core import checkpoint

    passed, found = {job.start for job in jobs}, []
    for job in (job for job in jobs if job.name not in passed):
        state = checkpoint.load_latest_or_none(run.checkpoint_folder(job) / "last.pt")
        if state is not None:
            found.append(StartedFit(job, state, apply_patch(config, job.patch)["engine"]["epochs"]))
    return found


def can_train_longer(
    changes: dict[str, Any], begun: list[StartedFit], config: dict[str, Any]
) -> bool:
    """Whether a fit of a run that was finished has something left to train, with these changes."""
    most = config["engine"]["max_steps"]
    left = [
        fit.state["learner"]["taken"].values()
        for fit in begun
        if fit.state["epoch"] < fit.num_epochs
    ]
    more = [not most or max(taken, default=most) < most for taken in left]
    return any(more) and any(is_key_in(key, EXTENDING_KEYS) for key in changes)


@contextmanager
def remove_finished_results(run: RunFolder, begun: list[StartedFit]) -> Iterator[None]:
    """Inside, the fits have no results, nor have their tests; they are kept in earlier_results.jsonl.

    What is refused puts them back.
    """
    from dlrun.core.files import write_text

    path, names = run.folder / "results.jsonl", {fit.job.name for fit in begun}
    before, lines = (
        path.read_text(encoding="utf-8"),
        path.read_text(encoding="utf-8").splitlines(keepends=True),
    )
    known = [result.job.name for result in run.read_results()]
    pairs = list(zip(known, lines, strict=True))
    earlier = run.folder / "earlier_results.jsonl"
    kept = earlier.read_text(encoding="utf-8") if earlier.exists() else ""
    write_text(earlier, kept + "".join(line for name, line in pairs if name in names))
    if left := "".join(line for name, line in pairs if name not in names):
        write_text(path, left)
    else:
        path.unlink()
    try:
        yield
    except UserError:
        write_text(path, before)
        write_text(earlier, kept)
        raise
