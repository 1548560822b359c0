"""Reports the details of a run: question, data, errors, test rows, config, and environment."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dlrun.core import formatting, run_folder, run_reader
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report import result_tables
from dlrun.report.blocks import (
    Block,
    Code,
    ErrorRow,
    Gallery,
    Pairs,
    Section,
    Text,
    make_data_notes,
    make_sections,
)
from dlrun.report.result_tables import TextTable, make_score_tables

CONFIG_GROUPS = (
    "data",
    "model",
    "objective",
    "loss",
    "optimizer",
    "scheduler",
    "metric",
    "protocol",
    "engine",
    "callback",
    "workflow",
    "seed",
    "repeat",
    "source",
)
PACKAGES = ("torch", "torchvision", "numpy", "dlrun", "hydra_core", "scikit_learn")
SPLIT_ROWS = {"test": "test rows", "train": "training rows", "val": "validation rows"}
MAX_ERRORS = 12  # that are shown of each family and split
MAX_LABELS = 12  # of a target that are named
MAX_TEXT_LENGTH = 200  # letters of a value that is told only with all the rest


def describe_table_task(config: dict[str, Any]) -> str:
    """'price from the other columns of houses.csv' for a table of one's own; else ''."""
    data = config.get("data")
    if not isinstance(data, dict) or not data.get("path") or not data.get("target"):
        return ""
    # data.target is one name or several.
    targets = data["target"] if isinstance(data["target"], list) else [data["target"]]
    source = "what came before in" if data.get("lookback") else "the other columns of"
    return f"{', '.join(map(str, targets))} from {source} {Path(str(data['path'])).name}"


def make_task_section(config: dict[str, Any]) -> list[Section]:
    """What is predicted from what."""
    task = _get_node(config, "task")
    question = describe_table_task(config) or task.get("question")
    lines: list[Block] = [Text(str(question))] if question else []
    if task.get("book"):
        lines.append(Text(f"In the book: §{str(task['book']).removeprefix('§')}", "small"))
    return make_sections("The question", lines)


def make_data_section(folder: Path, config: dict[str, Any]) -> list[Section]:
    """The data: columns and their kinds, rows, fingerprint, and source."""
    run = RunFolder(folder)
    data_record, fields = run.read_data(), run.read_fields() or {}
    task, data = _get_node(config, "task"), _get_node(config, "data")
    rows = [("task", result_tables.get_task_name(config))]
    for role in ("inputs", "targets"):
        columns = fields.get(role) or task.get(role) or {}
        rows += [
            (role.removesuffix("s"), f"{name}: {_describe_kind(field)}")
            for name, field in columns.items()
        ]
    if data_record.get("rows"):
        rows.append(("training + validation rows", f"{data_record['rows']:,}"))
    origin = data.get("path") or data.get("source") or config.get("source")
    rows += [("source", str(origin))] if origin else []
    rows += (
        [("fingerprint", f"{str(data_record['fingerprint'])[:12]}…")]
        if data_record.get("fingerprint")
        else []
    )
    note, synthetic = (str(data_record.get(key) or "") for key in ("note", "synthetic"))
    notes = make_data_notes(filter(None, [note]), [synthetic])
    return make_sections(
        "The data", [*notes, Pairs(tuple((name, value) for name, value in rows if value))]
    )


def make_error_sections(folder: Path, only: Collection[str] | None) -> list[Section]:
    """The rows with the largest loss.

    Args:
        folder: The run folder.
        only: The families of jobs to show, the folds of one together; None: all.
    """
    errors: dict[tuple[str, str], list[dict[str, Any]]] = {}
    run = RunFolder(folder)
    for file in run.list_files(RunFile.ERRORS):
        job, _, split = file.stem.rpartition("-")
        family = run_reader.get_family(job)
        # Repeats make errors on the same rows.
        if "repeat-" not in job and (only is None or family in only):
            entries = run.read_json(RunFile.ERRORS, job=job, split=split) or ()
            errors.setdefault((family, split), []).extend(entries)
    blocks: list[Block] = []
    for family, split in run_reader.select_splits(errors):
        # Each fold has its own list: the worst of all folds are wanted.
        worst = sorted(errors[family, split], key=lambda entry: -_get_loss(entry))[:MAX_ERRORS]
        rows = SPLIT_ROWS.get(split, SPLIT_ROWS["val"])
        blocks.append(Text(f"{family}, {rows}", "heading"))
        blocks.append(Gallery(tuple(_make_error_row(folder, entry) for entry in worst)))
    return make_sections("The worst errors", blocks)


def _get_loss(entry: dict[str, Any]) -> float:
    """How bad an error is; one whose loss is not finite is the worst."""
    loss = entry.get("loss")
    return math.inf if loss is None or math.isnan(loss) else float(loss)


def _make_error_row(folder: Path, entry: dict[str, Any]) -> ErrorRow:
    view = entry.get("shown") or {}
    cells = tuple((str(name), str(value)) for name, value in (view.get("cells") or {}).items())
    images = RunFolder(folder).path(RunFile.ERROR_FOLDER)
    image = images / Path(str(view["image"])).name if view.get("image") else None
    return ErrorRow(
        row=str(entry["row"]),
        truth=str(entry["truth"]),
        prediction=str(entry["answer"]),
        loss=formatting.format_number(entry.get("loss")),
        text=str(view.get("text") or view.get("file") or ""),
        cells=cells,
        image=image if image and image.is_file() else None,
    )


def make_test_section(
    folder: Path, results: run_folder.JsonLines, config: dict[str, Any], workflow: bool
) -> list[Section]:
    """The score on the test rows, and how often these were evaluated.

    A plain run has its test score among the other results.
    """
    tested = [line for line in results if line["split"] == "test"]
    run = RunFolder(folder)
    openings = run.read_json(RunFile.OPENINGS) or {}
    blocks: list[Block] = list(make_score_tables(tested, config)) if workflow else []
    is_generative = not (run.read_fields() or {"targets": True})["targets"]
    # A run without test rows, such as a generative one, has openings.json and no score.
    if openings and (
        tested or openings.get("count") or not is_generative
    ):  # what makes something may have no test rows
        blocks += _format_test_log(openings)
    elif workflow and not tested:
        blocks.append(
            Text(
                "The test rows are sealed: no model has been measured on them. dlrun final "
                "evaluates them."
            )
        )
    return make_sections("The final score", blocks)


def _format_test_log(openings: dict[str, Any]) -> list[Block]:
    count = int(openings.get("count") or 0)
    if not count:
        return [Text("The test split of these data has never been evaluated.")]
    times = "once" if count == 1 else f"{count} times"
    text = f"The test split of these data has been evaluated {times}, as the ledger says."
    if count > 1:
        text += (
            " Each evaluation makes the score a little too good: whoever chooses by it is no "
            "longer measuring."
        )
    rows = [
        [
            str(entry.get("date", "")),
            _format_scores(entry.get("score") or {}),
            str(entry.get("reason") or ""),
        ]
        for entry in openings.get("entries") or ()
    ]
    table = (
        [TextTable("Evaluations of the test split", ["date", "score", "reason"], rows)]
        if rows
        else []
    )
    return [Text(text, "strong"), *table]


def _format_scores(score: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {formatting.format_number(value)}" for name, value in score.items())


def make_config_section(
    folder: Path, node: dict[str, Any], changes: TextTable | None
) -> list[Section]:
    """What each stage of a workflow changes, then the settings of the run."""
    rows = []
    for group in CONFIG_GROUPS:
        values = (
            run_reader.flatten_config(node.get(group), group) if node.get(group) is not None else {}
        )
        rows += [(key, str(value)) for key, value in values.items() if value is not None]
    # Named settings first; what only a machine reads is folded at the end.
    text = RunFolder(folder).read_text(RunFile.CONFIG).strip()
    full_config = Code(text, f"{RunFile.CONFIG}, all of it")
    return make_sections(
        "Config", [*([changes] if changes else []), Pairs(tuple(rows)), full_config]
    )


def make_environment_section(folder: Path) -> list[Section]:
    """The machine and the packages."""
    environment = RunFolder(folder).read_json(RunFile.ENVIRONMENT)
    if not environment:
        return make_sections("Environment", [Text("not recorded")])
    values = {
        key: str(value)
        for key, value in run_reader.flatten_config(environment).items()
        if value not in (None, "")
    }
    rows = tuple((key, value) for key, value in values.items() if not _is_long(key, value))
    listing = "\n".join(f"{key}: {value}" for key, value in values.items())
    return make_sections("Environment", [Pairs(rows), Code(listing, "all packages and changes")])


def make_command_section(folder: Path) -> list[Section]:
    """The command that started the run."""
    command = run_reader.read_command_or_empty(folder)
    return make_sections("The command that repeats it", [Code(command)] if command else [])


def _get_node(config: dict[str, Any], name: str) -> dict[str, Any]:
    node = config.get(name)
    return node if isinstance(node, dict) else {}


def _describe_kind(field: dict[str, Any] | str) -> str:
    """'bag of 10000', 'number, 13', 'binary: negative, positive'."""
    # Without a fit there is no fields.json, and the task knows the kinds alone.
    if isinstance(field, str):
        return field
    # A size of 1 is no news: a number has the shape (1,).
    shape = [size for size in field.get("shape") or () if size != 1]
    size = f", {' × '.join(map(str, shape))}" if shape else ""
    labels = [str(label) for label in field.get("labels") or ()]
    hint = f", … ({len(labels)} in all)" if len(labels) > MAX_LABELS else ""
    return f"{field['kind']}{size}{': ' if labels else ''}{', '.join(labels[:MAX_LABELS])}{hint}"


def _is_long(key: str, value: str) -> bool:
    is_other_package = (
        key.startswith("packages.")
        and key.removeprefix("packages.").replace("-", "_") not in PACKAGES
    )
    return is_other_package or len(value) > MAX_TEXT_LENGTH or "\n" in value
