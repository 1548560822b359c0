"""The run folder: each run has its own, of plain files; all of them are written and read here.

Needs no torch, until results are asked for as objects.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import files, stored_files
from dlrun.core.errors import CorruptedFileError, UserError
from dlrun.core.files import atomic_write, convert_write_errors, write_text
from dlrun.core.stored_files import FIELDS, Schema, load_json_lines

if TYPE_CHECKING:
    import numpy as np

    from dlrun.core.types import EpochRecord, FitJob, History, Result

JsonLines = list[dict[str, Any]]
# Number of this layout of run folders, in environment.json. Without one a folder is of format 1.
RUN_FORMAT = 2


class RunFile(StrEnum):
    """Every file of a run folder, by its name in it; {job} and the like are filled in.

    What the JSON files must hold is in `core/schemas.py`.
    """

    # What was asked for, and where.
    CONFIG = "config.yaml"
    COMMAND = "command.txt"
    ENVIRONMENT = "environment.json"
    LOCK = ".lock"
    LOG = "log.txt"
    # Of a job of a sweep: why it failed, and what it printed in a process of its own.
    JOB_ERROR = "error.txt"
    CONSOLE = "console.txt"
    # The data, as the model sees them. The first file of fields is for whoever asks of no fit.
    DATA = "data.json"
    FIELDS = "fields.json"
    FIT_FIELDS = "fields/{job}.json"
    PREPARATION = "preparation/{job}.json"
    # Training.
    HISTORY = "history.jsonl"
    CHECKPOINT = "checkpoints/{job}/{name}.pt"
    CHANGES = "changes.json"
    UNFINISHED = "unfinished.json"
    MEMBERS = "members.json"
    TENSORBOARD = "tensorboard"
    ACTIVATIONS = "activations"
    SAMPLES = "samples"
    # Scores, and what they were computed from.
    RESULTS = "results.jsonl"
    EARLIER_RESULTS = "earlier_results.jsonl"
    PREDICTIONS = "predictions/{job}-{split}.npz"
    ERROR_FOLDER = "errors"
    ERRORS = "errors/{job}-{split}.json"
    FORECAST = "forecast/{job}-{split}.json"
    OPENINGS = "openings.json"
    # Of a workflow.
    AUDIT = "audit.json"
    BEGUN = "begun.json"
    BUDGET = "budget.json"
    WORKFLOW = "workflow.json"
    # Pages and plots.
    REPORT_PAGE = "report.html"
    REPORT_TEXT = "report.md"
    LEARNING_CURVES = "learning-curves.png"
    STAGES_PLOT = "stages.png"
    LADDER_PLOT = "ladder.png"
    STUDY_PLOT = "study.png"
    # What other commands leave: dlrun generate, visualize, lr and show.
    GENERATED = "generated"
    VISUALIZED = "visualize"
    VISUALIZED_LIST = "visualize/pictures.json"
    LR_TEST = "lr.json"
    LR_PLOT = "lr.png"
    IMAGE_TABLE = "show.png"


class RunFolder:
    """Reads and writes the files of one run; whoever reads a damaged one gets a line naming it.

    Attributes:
        folder: Its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, file: RunFile, **names: object) -> Path:
        """Where a file lies; `names` fill in job and split."""
        return self.folder / file.format(**names)

    def exists(self, file: RunFile, **names: object) -> bool:
        """Whether a file is there."""
        return self.path(file, **names).is_file()

    def list_files(self, file: RunFile, **names: object) -> list[Path]:
        """All files of one kind, by name, such as the predictions of all fits and splits."""
        return sorted(self.folder.glob(file.format(**{"job": "*", "split": "*", **names})))

    def checkpoint_folder(self, job: FitJob) -> Path:
        """The folder of one job's checkpoints."""
        return self.checkpoint_file(job.name, "last").parent

    def checkpoint_file(self, job: str, name: str) -> Path:
        """Where one checkpoint of a job lies.

        Args:
            job: The name of the job.
            name: 'best' or 'last'.
        """
        return self.path(RunFile.CHECKPOINT, job=job, name=name)

    def read_config(self) -> dict[str, Any]:
        """Read the resolved config.

        Raises:
            UserError: The folder is no run, its format is newer than this dlrun, or it is damaged.
        """
        if not self.folder.is_dir():
            raise UserError(f"there is no folder {self.folder}")
        if not self.exists(RunFile.CONFIG):
            raise UserError(f"{self.folder} is no run folder: it has no {RunFile.CONFIG}")
        self.check_format()
        return stored_files.load_yaml(self.path(RunFile.CONFIG))

    def check_format(self) -> None:
        """Refuse the run folder of a newer dlrun, whose files may mean something else.

        Raises:
            UserError: Its format number is larger than ours.
        """
        try:
            environment = self.read_json(RunFile.ENVIRONMENT) or {}
        except UserError:
            return  # only the report needs this file, and says itself that it is damaged
        number = environment.get("format", 1)
        if not isinstance(number, int) or number <= RUN_FORMAT:
            return
        writer = environment.get("dlrun")
        version = writer.get("version", "?") if isinstance(writer, dict) else "?"
        raise UserError(
            f"{self.folder} has run folder format {number}, and this dlrun reads formats up to "
            f"{RUN_FORMAT}: update dlrun (dlrun {version} has made this run)"
        )

    def write_request(
        self, config: dict[str, Any], words: Iterable[str], environment: dict[str, Any]
    ) -> None:
        """Store what the run was asked for, and where.

        Args:
            config: The resolved config.
            words: The words of the command line, without `dlrun`.
            environment: As `collect_environment` returns it.
        """
        self.folder.mkdir(exist_ok=True)
        self.write_json(RunFile.ENVIRONMENT, environment)
        write_text(self.path(RunFile.COMMAND), format_command(words) + "\n")
        # Written last: its presence means that the others are there.
        self.write_config(config)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the resolved config."""
        import yaml

        # libyaml's dumper is much faster; not every build of PyYAML has it.
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        text = yaml.dump(config, Dumper=dumper, sort_keys=False)
        write_text(self.path(RunFile.CONFIG), text)

    def read_command(self) -> str:
        """Read the command line, as it was typed.

        Raises:
            UserError: It is missing or damaged.
        """
        path = self.path(RunFile.COMMAND)
        command = stored_files.load_complete_text(path).strip()
        if not command.startswith("dlrun"):
            raise CorruptedFileError(f"{path} is damaged: it does not begin with dlrun")
        return command

    def read_command_words(self) -> list[str]:
        """Read the words of the command line, without `dlrun`.

        Raises:
            UserError: It is missing or damaged.
        """
        try:
            return shlex.split(self.read_command())[1:]
        except ValueError as error:
            path = self.path(RunFile.COMMAND)
            raise CorruptedFileError(f"{path} is damaged: {error}") from error

    def read_data(self) -> dict[str, Any]:
        """Read what identifies the data; {} where nothing was recorded.

        Returns:
            `fingerprint`, `rows`, `note`, and `synthetic`: the note, where the rows are made up.
        """
        data = self.read_json(RunFile.DATA)
        return {} if data is None else {**data, "synthetic": _get_synthetic(data)}

    def read_fields(self, job: str = "") -> Any:
        """Read the columns as a fit saw them; None where they were not recorded.

        Args:
            job: The name of the fit; "" for any.
        """
        # Runs of before 0.1.1 kept the columns of their last fold alone.
        has_own = job and self.exists(RunFile.FIT_FIELDS, job=job)
        return self.read_json(RunFile.FIT_FIELDS if has_own else RunFile.FIELDS, job=job)

    def require_inputs(self, job: str = "") -> dict[str, Any]:
        """Read the columns as a fit saw them, inputs and targets.

        Raises:
            UserError: The file is missing, damaged, or from before inputs were recorded.
        """
        has_own = job and self.exists(RunFile.FIT_FIELDS, job=job)
        file = RunFile.FIT_FIELDS if has_own else RunFile.FIELDS
        fields: dict[str, Any] = self.require_json(file, {"inputs": FIELDS}, job=job)
        return fields

    def read_history(self) -> JsonLines:
        """The lines of history.jsonl."""
        return load_json_lines(self.path(RunFile.HISTORY))

    def write_history(self, job: FitJob, history: History) -> None:
        """Replace the rows of one job; other jobs' rows stay."""
        from dlrun.core.types import epoch_to_dict

        path = self.path(RunFile.HISTORY)
        other_rows = [line for line in load_json_lines(path) if line["job"] != job.name]
        own_rows = [epoch_to_dict(job, row) for row in history]
        write_text(path, "".join(files.to_json_line(line) for line in (*other_rows, *own_rows)))

    def append_history(self, job: FitJob, rows: Iterable[EpochRecord]) -> None:
        """Append rows of one job."""
        from dlrun.core.types import epoch_to_dict

        path = self.path(RunFile.HISTORY)
        with convert_write_errors(path), path.open("a", encoding="utf-8") as file:
            file.write("".join(files.to_json_line(epoch_to_dict(job, row)) for row in rows))

    def read_result_lines(self) -> JsonLines:
        """The lines of results.jsonl, with the fields that runs of before 0.1.1 lack."""
        return [_add_missing_fields(line) for line in load_json_lines(self.path(RunFile.RESULTS))]

    def read_results(self) -> list[Result]:
        """The results of the jobs so far.

        Raises:
            UserError: results.jsonl is damaged.
        """
        from dlrun.core.types import result_from_dict

        try:
            return [result_from_dict(line) for line in self.read_result_lines()]
        except (KeyError, TypeError) as error:
            path = self.path(RunFile.RESULTS)
            raise UserError(f"{path} is damaged, or another dlrun wrote it: {error}") from error

    def add_results(self, results: Iterable[Result]) -> None:
        """Add results, all of them or none."""
        from dlrun.core.types import result_to_dict

        path = self.path(RunFile.RESULTS)
        lines = [*load_json_lines(path), *map(result_to_dict, results)]
        write_text(path, "".join(files.to_json_line(line) for line in lines))

    def record_failure(self, job: FitJob, why: str, *, diverged: bool) -> None:
        """Record why a fit ended without a result.

        Args:
            job: The fit.
            why: The error.
            diverged: Its loss became nan or infinite, and would again.
        """
        failures = self.read_json(RunFile.UNFINISHED) or {}
        self.write_json(
            RunFile.UNFINISHED,
            failures | {job.name: {"job": asdict(job), "why": why, "diverged": diverged}},
        )

    def failed_jobs(self) -> list[FitJob]:
        """The fits that ended in an error and have no result, by repetition and fold."""
        from dlrun.core.types import FitJob

        finished = {result.job.name for result in self.read_results()}
        jobs = [
            FitJob(**entry["job"])
            for name, entry in (self.read_json(RunFile.UNFINISHED) or {}).items()
            if name not in finished
        ]
        return sorted(jobs, key=lambda job: (job.repeat, job.fold))

    def describe_failure(self, job: FitJob) -> str:
        """The remark beside the scores of a run in which this fit failed."""
        why = (self.read_json(RunFile.UNFINISHED) or {})[job.name]["why"]
        return f"{job.name} has no result: it was ended by an error ({why})"

    def describe_next_step(self) -> str:
        """How to go on with an unfinished run."""
        failures = self.read_json(RunFile.UNFINISHED) or {}
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
        path = self.path(RunFile.PREDICTIONS, job=job.name, split=split)
        with atomic_write(path) as fresh, fresh.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def read_predictions(self, job: str, split: str) -> dict[str, np.ndarray]:
        """The arrays that `write_predictions` wrote.

        Raises:
            UserError: The file is missing or damaged.
        """
        return stored_files.load_arrays(self.path(RunFile.PREDICTIONS, job=job, split=split))

    def write_json(self, file: RunFile, value: Any, **names: object) -> None:
        """Write a small file of plain values."""
        write_text(self.path(file, **names), files.to_json(value, 1) + "\n")

    def read_json(self, file: RunFile, schema: Schema = None, **names: object) -> Any:
        """Read what `write_json` wrote; None where the file is not there.

        Args:
            file: Which.
            schema: What is required here, besides the file's usual schema.
            **names: Job and the like.

        Raises:
            UserError: The file is damaged.
        """
        path = self.path(file, **names)
        return stored_files.load_json(path, schema) if path.exists() else None

    def require_json(self, file: RunFile, schema: Schema = None, **names: object) -> Any:
        """Read what `write_json` wrote.

        Raises:
            UserError: The file is missing or damaged.
        """
        return stored_files.load_json(self.path(file, **names), schema)

    def read_text(self, file: RunFile) -> str:
        """The text of a small file; "" where it is not there."""
        return stored_files.load_text(self.path(file)) if self.exists(file) else ""


def _add_missing_fields(line: dict[str, Any]) -> dict[str, Any]:
    """A line of results.jsonl with the fields that others act on.

    Runs of before 0.1.1 have them as words of the note alone. This is the one place that looks for
    words.
    """
    note = str(line.get("note") or "")
    different = [text for text in split_messages(note) if "not the book's" in text]
    from_note = {
        "synthetic": _get_synthetic({"note": note}),
        "book_difference": "; ".join(different),
        "exit_code": int("FAILED" in note),
    }
    return from_note | line


def _get_synthetic(record: dict[str, Any]) -> str:
    """Why a result or data are made up; "" where they are not."""
    if "synthetic" in record:
        return str(record["synthetic"])
    messages = split_messages(str(record.get("note") or ""))
    return "; ".join(message for message in messages if "SYNTHETIC" in message)


def format_command(words: Iterable[str]) -> str:
    """These words as one line for a shell."""
    return shlex.join(["dlrun", *words])


def split_messages(note: str) -> list[str]:
    """The remarks of a note, without empty ones."""
    return list(filter(None, (message.strip() for message in note.split("; "))))
