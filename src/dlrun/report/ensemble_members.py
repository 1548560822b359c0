"""Compares an ensemble with its members on the same validation rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting, run_reader
from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report import result_tables
from dlrun.report.blocks import Block, Section, Text, make_sections
from dlrun.report.result_tables import TextTable

if TYPE_CHECKING:
    from dlrun.evaluation.bootstrap import Interval


BIAS_WARNING = (
    "The weights were found on these validation rows, so the ensemble's score on them is a little "
    "too good: test rows, or the same members with model.combine=mean, tell more."
)


@dataclass(frozen=True)
class MemberScore:
    """One member on the ensemble's rows.

    Attributes:
        name: The member's folder, without what all members' folders share.
        model: The name of its model.
        weight: Its weight in the ensemble.
        value: Its score.
        gain: Ensemble minus member.
        fault: Why the two cannot be compared.
    """

    name: str
    model: str
    weight: float
    value: float | None = None
    gain: Interval | None = None
    fault: str = ""


def make_ensemble_sections(folder: Path) -> list[Section]:
    """A section for an ensemble that was validated; none for other runs."""
    table_and_notes = make_members_table(folder)
    return (
        make_sections(
            "Against its members", [table_and_notes[0], *map(_to_block, table_and_notes[1])]
        )
        if table_and_notes
        else []
    )


def make_members_table(folder: Path) -> tuple[TextTable, list[str]] | None:
    """Compare the ensemble with each member.

    Returns:
        A table of the members with their weights and scores, and the conclusions; None where the
        run is no ensemble or was not validated.
    """
    record = RunFolder(folder).read_json(RunFile.MEMBERS)
    lines = [
        line
        for line in run_reader.read_results(folder)
        if line["split"] == "val" and line["scores"]
    ]
    # members.json alone: the ensemble was not validated.
    if record is None or not lines:
        return None
    measure = formatting.choose_metric(lines[-1]["scores"])
    scores = [
        _score_member(folder, lines[-1]["name"], member, measure)
        for member in _truncate_names(record["members"])
    ]
    notes = _describe_best_member(scores, measure, run_reader.read_direction_map(lines))
    return _format_table(scores, lines[-1], measure), [
        *notes,
        *([BIAS_WARNING] if record["combine"] == "weighted" else []),
    ]


def _truncate_names(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The members with short names: without what their folders share."""
    # The parents, so that members of one folder keep their own names.
    shared = os.path.commonpath([Path(member["folder"]).parent for member in members])
    return [{"name": os.path.relpath(member["folder"], shared), **member} for member in members]


def _score_member(folder: Path, job: str, member: dict[str, Any], measure: str) -> MemberScore:
    from dlrun.evaluation import predictions

    identity = (member["name"], member["model"], member["weight"])
    try:
        ours = predictions.combine_predictions(folder, [job], "val")
        theirs = predictions.combine_predictions(Path(member["folder"]), [member["job"]], "val")
        gain = predictions.compute_difference(theirs, ours, measure)
        return MemberScore(
            *identity, predictions.compute_metric_interval(theirs, measure).value, gain
        )
    # A member's folder may have moved: the others are compared all the same.
    except (UserError, OSError) as error:
        return MemberScore(*identity, fault=str(error))


def _format_table(members: list[MemberScore], result: dict[str, Any], measure: str) -> TextTable:
    rows = []
    for member in members:
        gain = member.fault if member.gain is None else _format_gain(member.gain)
        rows.append(
            [
                member.name,
                member.model,
                f"{member.weight:.3f}",
                formatting.format_number(member.value),
                gain,
            ]
        )
    rows.append(
        [
            "the ensemble",
            "ensemble",
            "",
            formatting.format_number(result["scores"][measure]["value"]),
            "",
        ]
    )
    columns = ["member", "model", "weight", f"val {measure}", "ensemble − member"]
    return TextTable("Against its members", columns, rows, right=frozenset({2, 3, 4}))


def _format_gain(gain: Interval) -> str:
    ends = (
        ""
        if gain.low is None
        else f" [{formatting.format_number(gain.low)}, {formatting.format_number(gain.high)}]"
    )
    return f"{'+' if gain.value > 0 else ''}{formatting.format_number(gain.value)}{ends}"


def _describe_best_member(
    members: list[MemberScore], measure: str, goals: dict[str, str]
) -> list[str]:
    """One sentence on the member that is best on the same rows."""
    # Members that could not be compared have a reason in the table instead.
    compared = [
        member for member in members if member.value is not None and member.gain is not None
    ]
    if not compared:
        return ["No member can be compared with it row by row."]
    lower_is_better = formatting.get_direction(measure, goals) == "min"
    best = min(compared, key=lambda member: (member.value or 0) * (1 if lower_is_better else -1))
    assert best.gain is not None
    if not best.gain.is_nonzero:
        head = "The ensemble cannot be told from its best member"
    elif (best.gain.value < 0) == lower_is_better:
        head = "The ensemble is better than its best member"
    else:
        head = "The ensemble is worse than its best member"
    return [f"{head}, {best.name}: {result_tables.describe_difference(measure, best.gain, goals)}."]


def _to_block(line: str) -> Block:
    return Text(line, "strong" if line.startswith("The ensemble") else "")
