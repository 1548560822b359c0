"""Reports the audit, the verdicts of a workflow, the worst errors, and the final score."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dlrun.core import formatting, run_reader, stored_files
from dlrun.report.blocks import Block, BulletList, ErrorRow, Gallery, Section, Text, make_sections
from dlrun.report.result_tables import TextTable, make_score_tables

MAX_ERRORS = 12
SPLIT_ROWS = {"test": "test rows", "train": "training rows", "val": "validation rows"}
SEVERITIES = {"leak": ("loud", "LEAK"), "warning": ("strong", "warning"), "note": ("", "note")}


def make_audit_section(folder: Path) -> list[Section]:
    """The findings of the data audit: leaks loud, then warnings, then notes."""
    findings = stored_files.load_json_or_none(folder / "audit.json")
    if findings is None:
        return []
    lines: list[Block] = []
    for severity, (tone, label) in SEVERITIES.items():
        matching = [finding for finding in findings if finding["severity"] == severity]
        lines += [
            Text(f"{label}, {finding['what']}: {_format_finding(finding)}", tone)
            for finding in matching
        ]
    return make_sections(
        "Audit of the data", lines or [Text("Nothing was found that speaks against these data.")]
    )


def _format_finding(finding: dict[str, Any]) -> str:
    effect = finding.get("effect")  # older audits have none
    return f"{finding['text']}; effect: {effect}" if effect else str(finding["text"])


def make_step_sections(verdicts: run_reader.JsonLines) -> list[Section]:
    """The steps of the workflow, each with its verdict, evidence and tables."""
    blocks: list[Block] = []
    for step in verdicts:
        blocks.append(Text(f"{step['step']}. {step['title']}", "heading"))
        blocks.append(Text(str(step["verdict"]), "loud" if step.get("stopped") else "strong"))
        if step.get("evidence"):
            blocks.append(BulletList(tuple(map(str, step["evidence"]))))
        blocks += [_to_text_table(table) for table in step.get("tables") or ()]
    return make_sections("The steps", blocks)


def make_error_sections(folder: Path, only: Collection[str] | None) -> list[Section]:
    """The rows with the largest loss.

    Args:
        folder: The run folder.
        only: The families of jobs to show, the folds of one together; None: all.
    """
    errors: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for file in sorted((folder / "errors").glob("*-*.json")):
        job, _, split = file.stem.rpartition("-")
        family = run_reader.get_family(job)
        # Repeats make errors on the same rows.
        if "repeat-" not in job and (only is None or family in only):
            errors.setdefault((family, split), []).extend(
                stored_files.load_json_or_none(file) or ()
            )
    blocks: list[Block] = []
    for family, split in run_reader.select_splits(errors):
        # Each fold has its own list: the worst of all folds are wanted.
        worst = sorted(errors[family, split], key=lambda entry: -_get_loss(entry))[:MAX_ERRORS]
        rows = SPLIT_ROWS.get(split, SPLIT_ROWS["val"])
        blocks.append(Text(f"{family}, {rows}", "heading"))
        blocks.append(Gallery(tuple(_make_error_row(folder, entry) for entry in worst)))
    return make_sections("The worst errors", blocks)


def make_test_section(
    folder: Path, results: run_reader.JsonLines, config: dict[str, Any], workflow: bool
) -> list[Section]:
    """The score on the test rows, and how often these were evaluated.

    A plain run has its test score among the other results.
    """
    tested = [line for line in results if line["split"] == "test"]
    openings = stored_files.load_json_or_none(folder / "openings.json") or {}
    blocks: list[Block] = list(make_score_tables(tested, config)) if workflow else []
    is_generative = not (
        stored_files.load_json_or_none(folder / "fields.json") or {"targets": True}
    )["targets"]
    # A run without test rows, such as a generative one, has openings.json and no score.
    if openings and (
        tested or openings.get("count") or not is_generative
    ):  # what makes something may have no test rows
        blocks += _format_test_log(openings)
    elif workflow and not tested:
        blocks.append(
            Text(
                "The test rows are sealed: no model has been measured on them. dlrun final opens "
                "them."
            )
        )
    return make_sections("The final score", blocks)


def _format_test_log(openings: dict[str, Any]) -> list[Block]:
    count = int(openings.get("count") or 0)
    if not count:
        return [Text("The test rows of these data have never been opened.")]
    times = "once" if count == 1 else f"{count} times"
    text = f"The test rows of these data have been opened {times}, as the ledger says."
    if count > 1:
        text += (
            " Each opening makes the score a little too good: whoever chooses by it is no longer "
            "measuring."
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
        [TextTable("Openings of the test rows", ["date", "score", "reason"], rows)] if rows else []
    )
    return [Text(text, "strong"), *table]


def _format_scores(score: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {formatting.format_number(value)}" for name, value in score.items())


def _to_text_table(table: dict[str, Any]) -> TextTable:
    rows = [[str(cell) for cell in row] for row in table["rows"]]
    return TextTable(
        str(table.get("title", "")), [str(column) for column in table["columns"]], rows
    )


def _get_loss(entry: dict[str, Any]) -> float:
    """How bad an error is; one whose loss is not finite is the worst."""
    loss = entry.get("loss")
    return math.inf if loss is None or math.isnan(loss) else float(loss)


def _make_error_row(folder: Path, entry: dict[str, Any]) -> ErrorRow:
    view = entry.get("shown") or {}
    cells = tuple((str(name), str(value)) for name, value in (view.get("cells") or {}).items())
    image = folder / "errors" / Path(str(view["image"])).name if view.get("image") else None
    return ErrorRow(
        row=str(entry["row"]),
        truth=str(entry["truth"]),
        prediction=str(entry["answer"]),
        loss=formatting.format_number(entry.get("loss")),
        text=str(view.get("text") or view.get("file") or ""),
        cells=cells,
        image=image if image and image.is_file() else None,
    )
