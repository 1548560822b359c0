"""Writes the report of a run folder, or of several runs, with its figures."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dlrun.core import run_reader
from dlrun.core.files import write_text
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report import confusion_matrix, html, learning_curves, markdown, run_report

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
    run = RunFolder(folder)
    text, page = run.path(RunFile.REPORT_TEXT), run.path(RunFile.REPORT_PAGE)
    write_text(text, markdown.make_markdown_page(heading, sections, folder))
    write_text(page, html.make_html_page(heading, sections))
    return [*(file for paths in drawn.values() for file in paths), text, page]


def write_comparison(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write report-A-B.md, .html and .png into a folder, A and B being names of run folders.

    The runs are only read.

    Returns:
        The files that were written.

    Raises:
        UserError: One of them is no run.
    """
    # Here, because the report of one run needs neither it nor what it compares with.
    from dlrun.report import comparison_report

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
    config = RunFolder(folder).read_config()
    results = run_reader.read_results(folder)
    steps = run_reader.read_verdicts(folder)
    drawn = (
        _draw_workflow(folder, config, results, steps)
        if steps
        else {"curves": _draw_curves(folder, config, results, None)}
    )
    figures = {name: [file] for name, file in drawn.items() if file is not None}
    only = run_report.select_families(steps)
    if RunFolder(folder).list_files(RunFile.FORECAST):
        from dlrun.report import forecast_plot

        figures["forecast"] = forecast_plot.draw_forecasts(folder, results, config, only)
    figures["answers"] = confusion_matrix.draw_predictions(folder, results, config, only)
    return figures


def _draw_curves(
    folder: Path,
    config: dict[str, Any],
    results: run_reader.JsonLines,
    only: Collection[str] | None,
) -> Path | None:
    file, history = RunFolder(folder).path(RunFile.LEARNING_CURVES), run_reader.read_history(folder)
    return learning_curves.draw_learning_curves(history, results, config, file, only=only)


def _draw_workflow(
    folder: Path,
    config: dict[str, Any],
    results: run_reader.JsonLines,
    steps: run_reader.JsonLines,
) -> dict[str, Path | None]:
    """The figures of a workflow: curves of the configured stage and the winner, and all stages."""
    from dlrun.report import overfitting_plot, score_plot, workflow_stages

    only = {workflow_stages.CONFIGURED_STAGE, workflow_stages.find_best_stage(steps)}
    run = RunFolder(folder)
    stages = score_plot.draw_score_plot(results, steps, config, run.path(RunFile.STAGES_PLOT))
    drawn = {"curves": _draw_curves(folder, config, results, only), "stages": stages}
    # Where nothing beats the baseline, no larger network has been tried.
    if any(step["step"] > workflow_stages.BASELINE_STEP for step in steps):
        history = run_reader.read_history(folder)
        drawn["ladder"] = overfitting_plot.draw_capacity_curves(
            history, results, config, run.path(RunFile.LADDER_PLOT), steps
        )
        drawn["study"] = overfitting_plot.draw_regularization_curves(
            history, results, config, run.path(RunFile.STUDY_PLOT)
        )
    return drawn
