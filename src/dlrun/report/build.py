"""Writes the report of a run folder, or of several runs, with its figures."""

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

# So that a file name stays below the 255 bytes that file systems allow.
MAX_NAMED_RUNS, MAX_NAME_LENGTH = 3, 60
PlotFiles = dict[str, list[Path]]


def write_report(folder: Path) -> list[Path]:
    """Write the figures, report.md and report.html into a run folder.

    Figures: learning-curves.png; confusion-<target>-<stage>-<split>.png or residuals-…, where
    <stage> is 'folds' for all folds of a plain run; forecast-<target>-<stage>-<split>.png of a
    series; and of a workflow stages.png, ladder.png and study.png. report.html holds them all, with
    what lies in samples/, generated/ and errors/.

    Returns:
        The files that were written.

    Raises:
        UserError: The folder holds no run.
    """
    drawn = draw_figures(folder)
    # Drawn first: the pages hold the figures, and the HTML has their bytes inside.
    sections = run_report.make_run_sections(folder, drawn)
    heading = run_report.get_report_heading(folder)
    write_text(folder / "report.md", markdown.make_markdown_page(heading, sections, folder))
    write_text(folder / "report.html", html.make_html_page(heading, sections))
    files = [file for paths in drawn.values() for file in paths]
    return [*files, folder / "report.md", folder / "report.html"]


def write_comparison(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write report-A-B.md, .html and .png into a folder, A and B being names of run folders.

    The runs are only read.

    Returns:
        The files that were written.

    Raises:
        UserError: One of them is no run.
    """
    stem = make_comparison_name(runs)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = comparison_report.draw_comparison(runs, folder / f"{stem}.png")
    sections = comparison_report.make_comparison_sections(runs, drawn)
    heading = f"Comparison of {len(runs)} runs"
    write_text(folder / f"{stem}.md", markdown.make_markdown_page(heading, sections, folder))
    write_text(folder / f"{stem}.html", html.make_html_page(heading, sections))
    return [*([drawn] if drawn else []), folder / f"{stem}.md", folder / f"{stem}.html"]


def make_comparison_name(runs: Sequence[Path]) -> str:
    """'report-A-B', of more than three runs 'report-A-and-5-more', in safe letters."""
    names = [re.sub(r"[^\w.-]+", "_", run.resolve().name)[:MAX_NAME_LENGTH] for run in runs]
    return "-".join(
        [
            "report",
            *(
                names
                if len(names) <= MAX_NAMED_RUNS
                else (names[0], "and", str(len(names) - 1), "more")
            ),
        ]
    )


def draw_figures(folder: Path) -> PlotFiles:
    """Draw the figures there are data for; kind of figure → files."""
    config, history, results = (
        stored_files.load_run_config(folder),
        run_reader.read_history(folder),
        run_reader.read_results(folder),
    )
    # A workflow draws its stages; a plain run has one, and its curves say all.
    steps = workflow_stages.read_verdicts(folder)
    drawn = {
        "curves": learning_curves.draw_learning_curves(
            history, results, config, folder / "learning-curves.png", only=_select_stages(steps)
        )
    }
    if steps:
        drawn["stages"] = score_plot.draw_score_plot(results, steps, config, folder / "stages.png")
    if any(step["step"] > workflow_stages.BASELINE_STEP for step in steps):
        drawn["ladder"] = overfitting_plot.draw_capacity_curves(
            history, results, config, folder / "ladder.png", steps
        )
        drawn["study"] = overfitting_plot.draw_regularization_curves(
            history, results, config, folder / "study.png"
        )
    figures = {name: [file] for name, file in drawn.items() if file is not None}
    figures["forecast"] = forecast_plot.draw_forecasts(
        folder, results, config, workflow_stages.select_display_stages(steps)
    )
    figures["answers"] = confusion_matrix.draw_predictions(
        folder, results, config, workflow_stages.select_display_stages(steps)
    )
    return figures


def _select_stages(steps: run_reader.JsonLines) -> set[str] | None:
    """The stages with learning curves: of a workflow the configured one and the winner."""
    return (
        {workflow_stages.CONFIGURED_STAGE, workflow_stages.find_best_stage(steps)}
        if steps
        else None
    )
