"""Makes everything that there is to look at from a finished run folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dlrun.core import run_reader, stored_files
from dlrun.core.files import write_text
from dlrun.report import (
    comparison_report,
    confusion_matrix,
    forecast_plot,
    html,
    learning_curves,
    markdown,
    overfitting_plot,
    run_report,
    score_plot,
    workflow_stages,
)

NAMED, LONGEST = 3, 60  # runs that are named in a file's name, letters of each
Pictures = dict[str, list[Path]]


def write(folder: Path) -> list[Path]:
    """Write the pictures, report.md and report.html into the folder, and say which files these are.

    learning-curves.png · confusion-<target>-<stage>-<split>.png or residuals-…, where <stage> is 'folds' for the folds
    of a plain run together · forecast-<target>-<stage>-<split>.png of a series · of a workflow stages.png, ladder.png,
    study.png · report.html has them all inside, with what lies in samples/, generated/ and errors/. Raises Refused
    where there is no run.
    """
    drawn = draw(folder)
    sections = run_report.sections(folder, drawn)
    heading = run_report.heading(folder)
    write_text(folder / "report.md", markdown.page(heading, sections, folder))
    write_text(folder / "report.html", html.page(heading, sections))
    made = [file for files in drawn.values() for file in files]
    return [*made, folder / "report.md", folder / "report.html"]


def write_comparison(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write report-A-B.md, .html and .png into a folder, A and B being the names of the runs' folders.

    The runs are only read. Raises Refused where one of them is no run.
    """
    stem = comparison_name(runs)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = comparison_report.draw(runs, folder / f"{stem}.png")
    sections = comparison_report.sections(runs, drawn)
    heading = f"Comparison of {len(runs)} runs"
    write_text(folder / f"{stem}.md", markdown.page(heading, sections, folder))
    write_text(folder / f"{stem}.html", html.page(heading, sections))
    return [*([drawn] if drawn else []), folder / f"{stem}.md", folder / f"{stem}.html"]


def comparison_name(runs: Sequence[Path]) -> str:
    """'report-A-B', of more than three runs 'report-A-and-5-more'; letters that a file name may have."""
    names = [re.sub(r"[^\w.-]+", "_", run.resolve().name)[:LONGEST] for run in runs]
    return "-".join(["report", *(names if len(names) <= NAMED else (names[0], "and", str(len(names) - 1), "more"))])


def draw(folder: Path) -> Pictures:
    """Draw what there are data for: 'curves', 'stages', 'ladder', 'study', 'answers'."""
    config, history, results = stored_files.config(folder), run_reader.history(folder), run_reader.results(folder)
    steps = workflow_stages.verdicts(folder)
    drawn = {
        "curves": learning_curves.draw(history, results, config, folder / "learning-curves.png", only=_shown(steps))
    }
    if steps:
        drawn["stages"] = score_plot.draw(results, steps, config, folder / "stages.png")
    if any(step["step"] > workflow_stages.BASELINE for step in steps):
        drawn["ladder"] = overfitting_plot.draw_ladder(history, results, config, folder / "ladder.png", steps)
        drawn["study"] = overfitting_plot.draw_study(history, results, config, folder / "study.png")
    found = {name: [file] for name, file in drawn.items() if file is not None}
    found["forecast"] = forecast_plot.draw_all(folder, results, config, workflow_stages.chosen(steps))
    found["answers"] = confusion_matrix.draw_all(folder, results, config, workflow_stages.chosen(steps))
    return found


def _shown(steps: run_reader.Lines) -> set[str] | None:
    """Whose learning curves are shown: of a workflow the configured network's and the winner's; None means all."""
    return {workflow_stages.CONFIGURED, workflow_stages.winner(steps)} if steps else None
