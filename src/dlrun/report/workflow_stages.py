"""The stages of a workflow run: which there are, what each changes and scores, and which of them won."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrun.core import formatting, run_reader, stored_files
from dlrun.report import formatting as measures
from dlrun.report.result_tables import Summary

CONSTANT, CONFIGURED = "constant", "configured"
FINAL = "final"
TUNE, SCORE = 7, 2  # the step that compares all candidates, and the column of its table with their scores
BASELINE = 5  # the step that decides whether there is anything to go on with
STAR = "★"  # of the winner


def verdicts(folder: Path) -> run_reader.Lines:
    """The steps of workflow.json that were taken; none where the run is no workflow."""
    return stored_files.value_or_none(folder / "workflow.json") or []


def winner(steps: run_reader.Lines) -> str:
    """The stage that step 7 chose, or nothing."""
    return next((str(step["winner"]) for step in steps if step.get("winner")), "")


def chosen(steps: run_reader.Lines) -> set[str] | None:
    """The stages that are shown with every picture: of a workflow the winner and the final one; None means all."""
    return {winner(steps), FINAL} - {""} if steps else None


def by_stage(results: run_reader.Lines) -> dict[str, run_reader.Lines]:
    """Stage → its results on validation rows, in the order in which they were fitted."""
    found: dict[str, run_reader.Lines] = {}
    for line in results:
        if line["split"] == "val":
            found.setdefault(run_reader.family(line["name"]), []).append(line)
    return found


def ladder(config: dict[str, Any]) -> list[str]:
    """The rungs on which overfitting is looked for, from the configured network on."""
    return [CONFIGURED, *((config.get("workflow") or {}).get("ladder") or {})]


def study(config: dict[str, Any]) -> list[str]:
    """The stages that regularise the last rung, or train it at another rate."""
    return list((config.get("workflow") or {}).get("study") or {})


def main_measure(steps: run_reader.Lines, results: run_reader.Lines) -> str:
    """What the stages are judged by: the measure that step 2 names, or else the first that is no loss."""
    names = list(dict.fromkeys(name for line in results for name in line.get("scores") or {}))
    named = [str(step["measure"]) for step in steps if step.get("measure") in names]
    return next(iter([*named, *(name for name in names if not name.startswith("loss")), *names]), "")


def patch(lines: run_reader.Lines) -> dict[str, Any]:
    """Flat config key → value: what a stage changes, its callbacks aside."""
    changes = (lines[0]["job"].get("patch") or {}) if lines else {}
    found: dict[str, Any] = {}
    for key, value in changes.items():
        found |= run_reader.flat(value, key)
    return {key: value for key, value in found.items() if not key.startswith("callback")}


def spread(scores: list[measures.Scores], measure: str) -> tuple[float | None, float | None, float | None]:
    """A score with the ends of its whisker: its 95 % interval, or over several fits mean - sd and mean + sd."""
    if len(scores) == 1:
        score = scores[0].get(measure) or {}
        return score.get("value"), score.get("low"), score.get("high")
    mean, deviation = measures.mean_and_deviation(measures.values(scores, measure))
    if mean is None or deviation is None:
        return mean, None, None
    return mean, mean - deviation, mean + deviation


def constant(results: run_reader.Lines, measure: str) -> float | None:
    """What the constant answer scores on the validation rows, over folds their mean."""
    known = [line.get("baseline") or {} for line in results if line["split"] == "val"]
    return measures.mean_and_deviation(measures.values(known, measure))[0]


def scores_table(results: run_reader.Lines, steps: run_reader.Lines) -> Summary:
    """All stages with all their scores; the winner has a star."""
    stages, won = by_stage(results), winner(steps)
    main = main_measure(steps, results)
    known = [line["scores"] for lines in stages.values() for line in lines if line.get("scores")]
    labels = measures.labels(known)
    names = sorted(labels, key=lambda name: (name != main, not name.endswith("_unit"), name))
    rows = [[CONSTANT, *(formatting.number(constant(results, name)) for name in names), "", ""]]
    rows = [] if CONSTANT in stages else rows
    for stage, lines in stages.items():
        scores = [line.get("scores") or {} for line in lines]
        cells = [measures.over_folds(scores, name) for name in names]
        epochs = "/".join(dict.fromkeys(str(line.get("epochs") or 0) for line in lines))
        seconds = f"{sum(float(line.get('seconds') or 0) for line in lines):.1f}"
        called = f"{stage}\u00a0{STAR}" if stage == won else stage if all(scores) else f"{stage} (failed)"
        rows.append([called, *cells, epochs, seconds])
    fits = max((len(lines) for lines in stages.values()), default=1)
    each = [line.get("scores") or {} for lines in stages.values() for line in lines]
    interval = f"mean ± sd over {fits} fits" if fits > 1 else measures.headed(False, each)
    columns = ["candidate", *(labels[name] for name in names), "epochs", "seconds"]
    right = frozenset(range(1, len(columns)))
    title = f"Every candidate on its validation rows{f' ({interval})' if interval else ''}"
    together = pooled(steps) if fits > 1 else {}
    if together:  # as the verdicts have it
        columns.insert(1, f"{main}, folds together [95 %]")
        rows = [[row[0], together.get(row[0].split("\u00a0")[0], ""), *row[1:]] for row in rows]
        right = frozenset(range(1, len(columns)))
    return Summary(title, columns, rows, tried(results, steps), right=right)


def tried(results: run_reader.Lines, steps: run_reader.Lines) -> str:
    """How many candidates with a score the winner was chosen from: the more, the luckier the best of them."""
    scored = [stage for stage, lines in by_stage(results).items() if all(line.get("scores") for line in lines)]
    count, won = len([stage for stage in scored if stage != CONSTANT]), winner(steps)
    said = f"{count} candidate{'s were' if count != 1 else ' was'} tried"
    biased = "its validation score is optimistically biased (selection bias)"
    return f"{STAR} {won} was chosen. {said}: {biased}." if won else f"{said}."


def pooled(steps: run_reader.Lines) -> dict[str, str]:
    """Candidate → its score over the rows of all folds together, as the table of step 7 has it."""
    tables = [table for step in steps if step["step"] == TUNE for table in step.get("tables") or ()]
    rows = [row for table in tables for row in table["rows"] if len(row) > SCORE]
    return {str(row[0]).partition(" (")[0]: str(row[SCORE]) for row in rows}


def changes_table(results: run_reader.Lines, config: dict[str, Any]) -> Summary | None:
    """What each stage changes in the config, before → after; None where no stage changes anything."""
    before = run_reader.flat(config)
    tested = [line for line in results if line["split"] == "test"]
    rows = []
    for stage, lines in [*by_stage(results).items(), *([(FINAL, tested)] if tested else [])]:
        changes = {key: value for key, value in patch(lines).items() if before.get(key) != value}
        rows += [[stage, key, str(before.get(key, "")), str(value)] for key, value in changes.items()]
    if not rows:
        return None
    caption = "Callbacks are left out."
    return Summary("What each stage changes in the config below", ["stage", "key", "config", "here"], rows, caption)
