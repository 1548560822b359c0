"""Tells several runs side by side: their scores, their validation curves, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrun.core import formatting, measure_names, run_reader, stored_files
from dlrun.report import formatting as measures
from dlrun.report import run_report, workflow_stages
from dlrun.report.blocks import Block, Code, Picture, Points, Section, Text, remark, section
from dlrun.report.differences import verdict
from dlrun.report.learning_curves import RING, best_epoch, curves, kept_epoch, mean_curve
from dlrun.report.plotting import COLOURS, WIDTH, Curve, legend_below, picture, short, whole_epochs, window
from dlrun.report.result_tables import Summary

MOST = len(COLOURS)  # curves in one panel


def sections(runs: Sequence[Path], drawn: Path | None) -> list[Section]:
    """What is the same and what is not, then each run by itself."""
    notes = dict.fromkeys(note for run in runs if (note := run_reader.warning_of(run_reader.results(run))))
    shown = f"Validation curves of {'the runs' if len(runs) <= MOST else f'the first {MOST} of {len(runs)} runs'}"
    found = [
        *section("", [*map(remark, notes), *_verdict(runs), _scores(runs)]),
        *section("What differs", [_differences(runs)]),
        *section("Validation curves", [Picture(drawn, shown, f"{shown}; {RING}")] if drawn else []),
    ]
    for place, run in enumerate(runs, 1):
        found += section(f"{place}. {run_report.heading(run)}", _alone(run))
    return found


def _verdict(runs: Sequence[Path]) -> list[Block]:
    first, *others = verdict(runs)
    return [Text(first, "strong"), *([Points(tuple(others))] if others else [])]


def draw(runs: Sequence[Path], file: Path) -> Path | None:
    """Write the validation curves of the first runs, a panel a measure; None when there are none."""
    histories = {place: _curves(run) for place, run in enumerate(runs[:MOST], 1)}
    names = list(dict.fromkeys(name for found in histories.values() for name in found))
    if not names:
        return None
    results = [run_reader.results(run) for run in runs]
    warning = next(filter(None, map(run_reader.warning_of, results)), "")
    goals = {name: each for lines in results for name, each in run_reader.goals(lines).items()}
    height = (2.9 + 0.15 * len(histories)) * len(names) + 0.5
    with picture(file, "Validation curves", {}, warning, height=height, width=WIDTH) as figure:
        for name, panel in zip(names, figure.subplots(len(names), 1, squeeze=False).flat, strict=True):
            for (place, found), colour in zip(histories.items(), COLOURS, strict=False):
                curve, kept = found.get(name, {}), kept_epoch(results[place - 1], main_stage(runs[place - 1]))
                best = kept if kept in curve else best_epoch(curve, measure_names.goal(name, goals))
                _curve(panel, curve, best, str(place), colour)
            panel.set(title=short(name), ylim=window(found[name] for found in histories.values() if name in found))
            whole_epochs(panel)
            legend_below(panel)
    return file


def main_stage(run: Path) -> str:
    """What stands for a run: the winner of a workflow, or else the last of its fits."""
    results = run_reader.results(run)
    fitted = [line for line in results if line["split"] != "test"] or results
    return workflow_stages.winner(workflow_stages.verdicts(run)) or (
        run_reader.family(fitted[-1]["name"]) if fitted else ""
    )


def _curve(panel: Any, curve: Curve, best: int | None, label: str, colour: str) -> None:
    if best is None:
        return
    label = f"{label}: {formatting.number(curve[best])} at {best}"
    panel.plot(list(curve), list(curve.values()), color=colour, linewidth=2, label=label)
    panel.plot([best], [curve[best]], "o", color=colour, mfc="white", mew=2, ms=7, zorder=5)


def _curves(run: Path) -> dict[str, Curve]:
    """Measure → the validation curve of the run's main stage, over folds their mean."""
    history, stage = run_reader.history(run), main_stage(run)
    names = dict.fromkeys(name for row in history if row["split"] == "val" for name in row["values"])
    found = {name: curves(history, name, "val").get(stage, {}) for name in names}
    return {name: mean_curve(list(jobs.values())) for name, jobs in found.items() if jobs}


def _scores(runs: Sequence[Path]) -> Summary:
    found = [_scored(run) for run in runs]
    heads = sorted({head for scores in found for head in scores}, key=lambda head: (head[0] != "val", head))
    columns = ["run", "folder", "stage", *(f"{split} {measure}" for split, measure in heads)]
    rows = [
        [f"{place}. {run_report.heading(run)}", str(run), main_stage(run), *(scores.get(head, "") for head in heads)]
        for place, (run, scores) in enumerate(zip(runs, found, strict=True), 1)
    ]
    caption = "In brackets 95 % intervals; over several fits mean ± sd."
    return Summary("Scores", columns, rows, caption, right=frozenset(range(3, len(columns))))


def _scored(run: Path) -> dict[tuple[str, str], str]:
    """(split, measure) → score: of the main stage on validation rows, and of whatever was tested."""
    stage, found = main_stage(run), {}
    for split in ("val", "train", "test"):
        lines = [line for line in run_reader.results(run) if line["split"] == split]
        lines = [line for line in lines if split == "test" or run_reader.family(line["name"]) == stage]
        scores = [line.get("scores") or {} for line in lines]
        for measure in dict.fromkeys(name for score in scores for name in score):
            found[split, measure] = measures.over_folds(scores, measure)
    return found


def _differences(runs: Sequence[Path]) -> Block:
    configs = [stored_files.config(run) for run in runs]
    flats = [run_reader.flat(config) for config in configs]
    rows = [
        [key, *("" if flat.get(key) is None else str(flat[key]) for flat in flats)]
        for key in run_reader.differing(configs)
    ]
    if not rows:
        return Text("The configs of these runs are the same.")
    return Summary("Config keys that differ", ["key", *map(str, range(1, len(runs) + 1))], rows)


def _alone(run: Path) -> list[Block]:
    config, results, steps = stored_files.config(run), run_reader.results(run), workflow_stages.verdicts(run)
    told = run_report.scores(results, steps, {}) if steps else run_report.plain_scores(run, results, config)
    found: list[Block] = [Text(str(run), "small"), *(block for part in told for block in part.blocks)]
    curve = run / "learning-curves.png"
    found += [Picture(curve, run_report.CURVES, run_report.CURVES)] if curve.is_file() else []
    command = run_reader.command(run)
    return [*found, *([Code(command)] if command else [])]
