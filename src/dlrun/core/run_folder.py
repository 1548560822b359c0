"""The run folder: each run has its own, of plain files; all of them are written and read here."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from dlrun.core import json_text, stored_files
from dlrun.core.errors import UserError
from dlrun.core.files import atomic_write, convert_write_errors, is_safe_name, write_text
from dlrun.core.stored_files import load_json_lines
from dlrun.core.types import EpochRecord, Field, FitJob, History, Result, Score, Spec

UNFINISHED_FILE = "unfinished.json"


def create_run_folder(root: Path, *names: str) -> Path:
    """Make a new folder root/<names>/<date>_<time>[-n] that no other process has.

    Args:
        root: Where runs are kept.
        names: Folders in it, such as task and model.

    Raises:
        UserError: A name cannot be a folder's, or the folder cannot be made.
    """
    for name in names:
        if not is_safe_name(name):
            raise UserError(
                f"'{name}' cannot be the name of a folder, and one is made for each task and model"
            )
    parent = root.absolute().joinpath(*names)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 10_000):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        # mkdir itself decides who gets the name: asking first would race with other processes.
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise UserError(
                    f"cannot make the run folder {folder}: there is a file of that name"
                ) from None
            continue
        except OSError as error:
            raise UserError(
                f"cannot make the run folder {folder}: {error.strerror}; choose another: output=…"
            ) from error
        return folder
    raise UserError(f"no free name left in {parent}")


def remove_run_folder(folder: Path) -> None:
    """Remove the folder of a run that never trained, and its empty parents of model and task."""
    shutil.rmtree(folder)
    with suppress(OSError):
        for parent in list(folder.parents)[:2]:
            parent.rmdir()


class RunLogHandler(logging.FileHandler):
    """A log file whose write errors do not end the run.

    A full disk is reported by whatever else cannot be written.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line if possible."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging calls it so)
        """Stay silent: logging would print a traceback for every line."""

    def close(self) -> None:
        """Close the file, even where its buffer cannot be written."""
        with suppress(OSError):
            super().close()


class DuplicateFilter(logging.Filter):
    """Lets each message of the data and protocol code through once.

    Every fold prepares the same rows and would repeat them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen_messages: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this message is new."""
        if not {"data", "protocols"} & set(Path(record.pathname.rpartition("dlrun")[2]).parts):
            return True
        text = record.getMessage()
        is_new = text not in self.seen_messages
        self.seen_messages.add(text)
        return is_new


class RunFolder:
    """Reads and writes the files of one run.

    Attributes:
        folder: Its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoint_folder(self, job: FitJob) -> Path:
        """The folder of one job's checkpoints."""
        return self.folder / "checkpoints" / job.name

    def write_history(self, job: FitJob, history: History) -> None:
        """Replace the rows of one job; other jobs' rows stay."""
        path = self.folder / "history.jsonl"
        other_rows = [line for line in load_json_lines(path) if line["job"] != job.name]
        own_rows = [epoch_to_dict(job, row) for row in history]
        write_text(path, "".join(json_text.to_json_line(line) for line in (*other_rows, *own_rows)))

    def append_history(self, job: FitJob, rows: Iterable[EpochRecord]) -> None:
        """Append rows of one job."""
        path = self.folder / "history.jsonl"
        with convert_write_errors(path), path.open("a", encoding="utf-8") as file:
            file.write("".join(json_text.to_json_line(epoch_to_dict(job, row)) for row in rows))

    def read_results(self) -> list[Result]:
        """The results of the jobs so far.

        Raises:
            UserError: results.jsonl is damaged.
        """
        path = self.folder / "results.jsonl"
        try:
            return [result_from_dict(line) for line in load_json_lines(path)]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged, or another dlrun wrote it: {error}") from error

    def add_results(self, results: Iterable[Result]) -> None:
        """Add results, all of them or none."""
        path = self.folder / "results.jsonl"
        lines = [*load_json_lines(path), *map(result_to_dict, results)]
        write_text(path, "".join(json_text.to_json_line(line) for line in lines))

    def record_failure(self, job: FitJob, why: str, *, diverged: bool) -> None:
        """Record why a fit ended without a result.

        Args:
            job: The fit.
            why: The error.
            diverged: Its loss became nan or infinite, and would again.
        """
        failures = self.read_json(UNFINISHED_FILE) or {}
        self.write_json(
            UNFINISHED_FILE,
            failures | {job.name: {"job": asdict(job), "why": why, "diverged": diverged}},
        )

    def failed_jobs(self) -> list[FitJob]:
        """The fits that ended in an error and have no result, by repetition and fold."""
        finished = {result.job.name for result in self.read_results()}
        jobs = [
            FitJob(**entry["job"])
            for name, entry in (self.read_json(UNFINISHED_FILE) or {}).items()
            if name not in finished
        ]
        return sorted(jobs, key=lambda job: (job.repeat, job.fold))

    def describe_failure(self, job: FitJob) -> str:
        """The remark beside the scores of a run in which this fit failed."""
        why = (self.read_json(UNFINISHED_FILE) or {})[job.name]["why"]
        return f"{job.name} has no result: it was ended by an error ({why})"

    def describe_next_step(self) -> str:
        """How to go on with an unfinished run."""
        failures = self.read_json(UNFINISHED_FILE) or {}
        for job in self.failed_jobs():
            if failures[job.name]["diverged"]:
                return (
                    f"it ended with {failures[job.name]['why']}: "
                    f"dlrun rerun {self.folder} optimizer.lr=… trains with a lower rate"
                )
        return "dlrun resume goes on with it"

    def write_predictions(
        self,
        job: FitJob,
        split: str,
        predictions: dict[str, tuple[Any, Any]],
        rows: Any,
        values: dict[str, Any],
    ) -> None:
        """Write predictions/<job>-<split>.npz: predictions on a split beside the targets.

        Args:
            job: The fit.
            split: The split.
            predictions: Target → (predictions (n, …), targets (n, …)).
            rows: (n,), the index of each row among the dev (or test) rows.
            values: Metric → its value for each row (n,).

        Raises:
            ValueError: The arrays have different lengths.
        """
        import numpy as np

        arrays = {"row": np.asarray(rows, np.int64)}
        for name, (prediction, target) in predictions.items():
            arrays |= {f"output/{name}": prediction, f"target/{name}": target}
        arrays |= {f"value/{name}": value for name, value in values.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"predictions of {job.name} on {split} have different lengths: {lengths}"
            )
        path = self.folder / "predictions" / f"{job.name}-{split}.npz"
        with atomic_write(path) as fresh, fresh.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def write_json(self, name: str, value: Any) -> None:
        """Write a small file of plain values."""
        write_text(self.folder / name, json_text.to_json(value, 1) + "\n")

    def read_json(self, name: str) -> Any:
        """Read what `write_json` wrote; None where the file is not there.

        Raises:
            UserError: The file is damaged.
        """
        return stored_files.load_json_or_none(self.folder / name)

    def make_log_handler(self) -> logging.Handler:
        """A handler that appends to log.txt, and stays silent where it cannot."""
        # delay: the file is made with its first line.
        handler = RunLogHandler(self.folder / "log.txt", encoding="utf-8", delay=True)
        handler.addFilter(DuplicateFilter())
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        return handler


def epoch_to_dict(job: FitJob, row: EpochRecord) -> dict[str, Any]:
    """One row of history.jsonl."""
    line = {"job": job.name, **asdict(row)}
    return line if row.rates else {key: value for key, value in line.items() if key != "rates"}


def result_to_dict(result: Result) -> dict[str, Any]:
    """One row of results.jsonl."""
    return {"name": result.job.name, **asdict(result)}


def result_from_dict(line: dict[str, Any]) -> Result:
    """The result of a row of results.jsonl."""
    fields = {key: value for key, value in line.items() if key != "name"}
    for key in ("scores", "baseline"):
        fields[key] = {name: score_from_dict(score) for name, score in fields[key].items()}
    return Result(**{**fields, "job": FitJob(**fields["job"])})


def score_from_dict(score: dict[str, Any]) -> Score:
    """The score of its plain values; a missing number is nan."""
    return Score(**{**score, "value": json_text.number_from_json(score["value"])})


def spec_to_dict(spec: Spec) -> dict[str, Any]:
    """The description of the data that a model was built for, as fields.json holds it."""
    return {
        group: {name: _field_to_dict(field) for name, field in fields.items()}
        for group, fields in (("inputs", spec.inputs), ("targets", spec.targets))
    }


def _field_to_dict(field: Field) -> dict[str, Any]:
    stored: dict[str, Any] = {
        "kind": field.kind,
        "shape": list(field.shape),
        "size": field.size,
        "labels": list(field.labels),
    }
    tensors = {
        "prior": field.prior,
        "shift": field.shift,
        "scale": field.scale,
        "median": field.median,
    }
    stored |= {name: None if value is None else value.tolist() for name, value in tensors.items()}
    return stored | {"outlook": None if field.outlook is None else field.outlook.to_dict()}
