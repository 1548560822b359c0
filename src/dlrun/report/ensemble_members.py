"""Tells an ensemble against its members: the same validation rows, and whether it is better than the best of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting, measure_names, run_reader, stored_files
from dlrun.core.errors import Refused
from dlrun.report import formatting as measures
from dlrun.report.blocks import Block, Section, Text, section
from dlrun.report.result_tables import Summary

if TYPE_CHECKING:
    from dlrun.evaluation.bootstrap import Interval


OPTIMISTIC = (
    "The weights were found on these validation rows, so the ensemble's score on them is a little too good: test rows, "
    "or the same members with model.combine=mean, tell more."
)


@dataclass(frozen=True)
class Beside:
    """One member on the ensemble's rows. gain: ensemble minus member; fault: why the two cannot be compared."""

    name: str
    model: str
    weight: float
    value: float | None = None
    gain: Interval | None = None
    fault: str = ""


def sections(folder: Path) -> list[Section]:
    """A section for an ensemble that was validated; none for other runs."""
    found = told(folder)
    return section("Against its members", [found[0], *map(_text, found[1])]) if found else []


def told(folder: Path) -> tuple[Summary, list[str]] | None:
    """A table of the members with their weights and scores, and what follows from it; None where nothing does."""
    account = stored_files.value_or_none(folder / "members.json")
    lines = [line for line in run_reader.results(folder) if line["split"] == "val" and line["scores"]]
    if account is None or not lines:
        return None
    measure = next(iter([name for name in lines[-1]["scores"] if not name.startswith("loss")]), "loss")
    found = [_beside(folder, lines[-1]["name"], member, measure) for member in _named(account["members"])]
    said = _verdict(found, measure, run_reader.goals(lines))
    return _table(found, lines[-1], measure), [*said, *([OPTIMISTIC] if account["combine"] == "weighted" else [])]


def _named(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The members with short names: without what their folders have in common."""
    shared = os.path.commonpath([Path(member["folder"]).parent for member in members])
    return [{"name": os.path.relpath(member["folder"], shared), **member} for member in members]


def _beside(folder: Path, job: str, member: dict[str, Any], measure: str) -> Beside:
    from dlrun.evaluation import predictions

    about = (member["name"], member["model"], member["weight"])
    try:
        ours = predictions.pooled(folder, [job], "val")
        theirs = predictions.pooled(Path(member["folder"]), [member["job"]], "val")
        gain = predictions.difference(theirs, ours, measure)
        return Beside(*about, predictions.interval(theirs, measure).value, gain)
    except (Refused, OSError) as error:
        return Beside(*about, fault=str(error))


def _table(found: list[Beside], own: dict[str, Any], measure: str) -> Summary:
    rows = []
    for each in found:
        gain = each.fault if each.gain is None else _gain(each.gain)
        rows.append([each.name, each.model, f"{each.weight:.3f}", formatting.number(each.value), gain])
    rows.append(["the ensemble", "ensemble", "", formatting.number(own["scores"][measure]["value"]), ""])
    columns = ["member", "model", "weight", f"val {measure}", "ensemble − member"]
    return Summary("Against its members", columns, rows, right=frozenset({2, 3, 4}))


def _gain(gain: Interval) -> str:
    ends = "" if gain.low is None else f" [{formatting.number(gain.low)}, {formatting.number(gain.high)}]"
    return f"{'+' if gain.value > 0 else ''}{formatting.number(gain.value)}{ends}"


def _verdict(found: list[Beside], measure: str, goals: dict[str, str]) -> list[str]:
    """One sentence on the member that is best on the same rows."""
    compared = [each for each in found if each.value is not None and each.gain is not None]
    if not compared:
        return ["No member can be compared with it row by row."]
    lower = measure_names.goal(measure, goals) == "min"
    best = min(compared, key=lambda each: (each.value or 0) * (1 if lower else -1))
    assert best.gain is not None
    if not best.gain.real:
        head = "The ensemble cannot be told from its best member"
    elif (best.gain.value < 0) == lower:
        head = "The ensemble is better than its best member"
    else:
        head = "The ensemble is worse than its best member"
    return [f"{head}, {best.name}: {measures.said(measure, best.gain, goals)}."]


def _text(line: str) -> Block:
    return Text(line, "strong" if line.startswith("The ensemble") else "")
