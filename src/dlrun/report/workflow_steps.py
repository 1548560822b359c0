"""Reports a workflow: its outcome, the audit of the data, its steps, and its stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrun.core import run_folder
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report import workflow_stages
from dlrun.report.blocks import Block, BulletList, ImageBlock, Section, Text, make_sections
from dlrun.report.result_tables import TextTable

LAST_STEP = 7  # the step that ends a workflow
SEVERITIES = {"leak": ("loud", "LEAK"), "warning": ("strong", "warning"), "note": ("", "note")}


def make_workflow_summary(
    results: run_folder.JsonLines, steps: run_folder.JsonLines
) -> list[Block]:
    """The outcome of a workflow, in one paragraph."""
    last = steps[-1]
    stopped = bool(last.get("stopped"))
    text = f"Stopped at step {last['step']}: {last['verdict']}" if stopped else str(last["verdict"])
    blocks: list[Block] = [Text(text, "loud" if stopped else "strong")]
    # A stopped workflow has come to its end, too.
    if not stopped and last["step"] < LAST_STEP:
        blocks.append(
            Text(
                f"Not finished: it was cut after step {last['step']}; dlrun resume goes on with "
                "it.",
                "loud",
            )
        )
    if workflow_stages.find_best_stage(steps):
        blocks.append(Text(workflow_stages.format_num_candidates(results, steps)))
    return blocks


def make_audit_section(folder: Path) -> list[Section]:
    """The findings of the data audit: leaks loud, then warnings, then notes."""
    findings = RunFolder(folder).read_json(RunFile.AUDIT)
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


def make_stage_sections(
    results: run_folder.JsonLines, steps: run_folder.JsonLines, figures: dict[str, list[Path]]
) -> list[Section]:
    """The stages of a workflow against the baseline."""
    if not workflow_stages.group_by_stage(results):
        return []
    legend = "Each dot is a candidate; the baseline is gray: a dashed line, or an arrow to it."
    caption = f"{legend} {workflow_stages.format_num_candidates(results, steps)}"
    images = [
        ImageBlock(file, "The score of every stage with its interval", caption)
        for file in figures.get("stages", ())
    ]
    return make_sections(
        "Baseline against models", [*images, workflow_stages.make_stage_table(results, steps)]
    )


def make_step_sections(verdicts: run_folder.JsonLines) -> list[Section]:
    """The steps of the workflow, each with its verdict, evidence and tables."""
    blocks: list[Block] = []
    for step in verdicts:
        blocks.append(Text(f"{step['step']}. {step['title']}", "heading"))
        blocks.append(Text(str(step["verdict"]), "loud" if step.get("stopped") else "strong"))
        if step.get("evidence"):
            blocks.append(BulletList(tuple(map(str, step["evidence"]))))
        blocks += [_to_text_table(table) for table in step.get("tables") or ()]
    return make_sections("The steps", blocks)


def _to_text_table(table: dict[str, Any]) -> TextTable:
    rows = [[str(cell) for cell in row] for row in table["rows"]]
    return TextTable(
        str(table.get("title", "")), [str(column) for column in table["columns"]], rows
    )
