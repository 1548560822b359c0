"""What may change under a run that is gone on with, from which epoch, and what goes on of one that was finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dlrun.core.errors import Refused
from dlrun.core.run_folder import RunDir
from dlrun.core.types import Job, Result

# The one table. A key that stands nowhere decides the rows, the model or the loss, and takes a new run.
FREE = (  # how long, where and how it is carried out, what is kept and drawn on the way
    *("engine.epochs", "engine.max_steps", "engine.device", "engine.devices", "engine.shard", "engine.save_every"),
    *("engine.eval_batch_size", "engine.deterministic", "callback", "protocol.stacked", "test", "reason"),
    "workflow.budget",
)
APPLIED = ("optimizer.lr", "optimizer.weight_decay", "scheduler")  # from the next step on, which is noted
WHOLE = ("engine.batch_size", "engine.epoch_batches")  # likewise, and only between two epochs
FIXED = ("callback.keep_best.monitor",)  # what is kept is the best by it
LONGER = ("engine.epochs", "engine.max_steps", "callback")  # may let a fit that has ended go on
MOST_FITS = 1000


@dataclass(frozen=True)
class Fitted:
    """A fit that has begun: its job, its last checkpoint, and the epochs that it is to have."""

    job: Job
    state: dict[str, Any]
    wanted: int

    @property
    def amid(self) -> bool:
        """Whether it was cut within an epoch."""
        return bool(self.state["position"])

    @property
    def where(self) -> str:
        """'fit is in epoch 3'."""
        return f"{self.job.name} is in epoch {self.state['epoch'] + self.amid}"


def within(key: str, table: tuple[str, ...]) -> bool:
    """Whether a dotted key, or a node that it lies in, stands in a table."""
    return any(key == known or key.startswith(known + ".") for known in table)


def check_changes(changes: dict[str, Any], begun: list[Fitted], jobs: list[Job], again: str) -> None:
    """Raise Refused for what cannot change under these fits. jobs: all that the run asks for. again: the way out."""
    for key in changes:
        free, applied = within(key, FREE) and not within(key, FIXED), within(key, (*APPLIED, *WHOLE))
        if not free and not applied:
            raise Refused(f"{key} decides what this run is, and cannot change on the way; {again}. What can: {TOLD}")
        if applied and len(jobs) > 1:
            raise Refused(f"{key}: the {len(jobs)} fits of this run are to be trained alike; {again}")
        amid = next((fit for fit in begun if fit.amid), None)
        if within(key, WHOLE) and amid:
            raise Refused(f"{key} can change between two epochs only, and {amid.where}, batch "
                          f"{amid.state['position'] + 1}; {again}")  # fmt: skip
    for fit in begun:
        if fit.state["epoch"] + fit.amid > fit.wanted:
            raise Refused(f"{fit.where}, and engine.epochs={fit.wanted}; {again}")


TOLD = ", ".join(key if "." in key or key in ("test", "reason") else f"{key}.…" for key in (*FREE, *APPLIED, *WHOLE))


def jobs_of(plan: Callable[[list[Result]], Job | None]) -> list[Job]:
    """All fits that a plan asks for, whatever comes of them."""

    def each() -> Iterator[Job]:
        results: list[Result] = []
        while (job := plan(results)) is not None:
            yield job
            results.append(Result(job, "val", {}))

    return list(islice(each(), MOST_FITS))


def begun_fits(run: RunDir, jobs: list[Job], config: dict[str, Any]) -> list[Fitted]:
    """The fits that have a checkpoint to go on from, without those from which others began."""
    from dlrun.config.instantiate import patched
    from dlrun.core import checkpoint

    passed, found = {job.start for job in jobs}, []
    for job in (job for job in jobs if job.name not in passed):
        state = checkpoint.newest(run.checkpoints(job) / "last.pt")
        if state is not None:
            found.append(Fitted(job, state, patched(config, job.patch)["engine"]["epochs"]))
    return found


def go_on(changes: dict[str, Any], begun: list[Fitted], config: dict[str, Any]) -> bool:
    """Whether a fit of a run that was finished has something left to train, with these changes."""
    most = config["engine"]["max_steps"]
    left = [fit.state["learner"]["taken"].values() for fit in begun if fit.state["epoch"] < fit.wanted]
    more = [not most or max(taken, default=most) < most for taken in left]
    return any(more) and any(within(key, LONGER) for key in changes)


@contextmanager
def reopened(run: RunDir, begun: list[Fitted]) -> Iterator[None]:
    """Inside, the fits have no results, nor have their tests; they are kept in earlier_results.jsonl.

    What is refused puts them back.
    """
    from dlrun.core.files import write_text

    path, names = run.folder / "results.jsonl", {fit.job.name for fit in begun}
    before, lines = path.read_text(encoding="utf-8"), path.read_text(encoding="utf-8").splitlines(keepends=True)
    known = [result.job.name for result in run.results()]
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
    except Refused:
        write_text(path, before)
        write_text(earlier, kept)
        raise
