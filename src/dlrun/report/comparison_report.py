"""Compares several runs: their scores, their validation curves, and the settings that differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrun.core import formatting, run_reader
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report import result_tables, run_report, workflow_stages, workflow_steps
from dlrun.report.blocks import (
    Block,
    BulletList,
    Code,
    ImageBlock,
    Section,
    Text,
    make_data_notes,
    make_sections,
)
from dlrun.report.differences import compare_runs
from dlrun.report.learning_curves import (
    RING_NOTE,
    collect_curves,
    compute_mean_curve,
    find_curve_best,
    get_checkpoint_epoch,
)
from dlrun.report.plotting import (
    COLORS,
    WIDTH,
    Curve,
    add_legend_below,
    get_value_range,
    save_figure,
    truncate_name,
    use_integer_epochs,
)
from dlrun.report.result_tables import TextTable

MAX_RUNS = len(COLORS)  # curves in one panel


def make_comparison_sections(runs: Sequence[Path], drawn: Path | None) -> list[Section]:
    """What the runs share and where they differ, then each run by itself."""
    # Each note once, in the order of the runs.
    notes = dict.fromkeys(
        note for run in runs if (note := run_reader.get_data_warning(run_reader.read_results(run)))
    )
    drawn_runs = "the runs"
    if len(runs) > MAX_RUNS:
        drawn_runs = f"the first {MAX_RUNS} of {len(runs)} runs"
    title = f"Validation curves of {drawn_runs}"
    sections = [
        *make_sections(
            "", [*make_data_notes(notes, notes), *_describe_best(runs), _make_score_table(runs)]
        ),
        *make_sections("What differs", [_list_differences(runs)]),
        *make_sections(
            "Validation curves",
            [ImageBlock(drawn, title, f"{title}; {RING_NOTE}")] if drawn else [],
        ),
    ]
    for number, run in enumerate(runs, 1):
        sections += make_sections(
            f"{number}. {run_report.get_report_heading(run)}", _make_run_blocks(run)
        )
    return sections


def _describe_best(runs: Sequence[Path]) -> list[Block]:
    first, *details = compare_runs(runs)
    return [Text(first, "strong"), *([BulletList(tuple(details))] if details else [])]


def draw_comparison(runs: Sequence[Path], file: Path) -> Path | None:
    """Write the validation curves of the first runs, a panel a metric; None when there are none."""
    histories = {number: _validation_curves(run) for number, run in enumerate(runs[:MAX_RUNS], 1)}
    names = list(dict.fromkeys(name for curves in histories.values() for name in curves))
    if not names:
        return None
    results = [run_reader.read_results(run) for run in runs]
    warning = next(filter(None, map(run_reader.get_data_warning, results)), "")
    goals = {
        name: direction
        for lines in results
        for name, direction in run_reader.read_direction_map(lines).items()
    }
    checkpoint_epochs = {
        number: get_checkpoint_epoch(results[number - 1], find_main_stage(runs[number - 1]))
        for number in histories
    }
    # A line of legend for each run, below each panel.
    height = (2.9 + 0.15 * len(histories)) * len(names) + 0.5
    with save_figure(file, "Validation curves", {}, warning, height=height, width=WIDTH) as figure:
        for name, panel in zip(
            names, figure.subplots(len(names), 1, squeeze=False).flat, strict=True
        ):
            curves = {number: history.get(name, {}) for number, history in histories.items()}
            goal = formatting.get_direction(name, goals)
            _draw_panel(panel, truncate_name(name), curves, checkpoint_epochs, goal)
    return file


def _draw_panel(
    panel: Any, title: str, curves: dict[int, Curve], epochs: dict[int, int | None], goal: str
) -> None:
    """Draw one metric of several runs.

    Args:
        panel: Where to draw.
        title: Its title.
        curves: Number of the run → its curve, empty where it lacks the metric.
        epochs: Number of the run → the epoch that was kept, if one was.
        goal: The better direction.
    """
    # strict=False: there are more colors than runs in the figure, see MAX_RUNS.
    for (number, curve), color in zip(curves.items(), COLORS, strict=False):
        best = epochs[number] if epochs[number] in curve else find_curve_best(curve, goal)
        _draw_curve(panel, curve, best, str(number), color)
    panel.set(title=title, ylim=get_value_range(curve for curve in curves.values() if curve))
    use_integer_epochs(panel)
    add_legend_below(panel)


def find_main_stage(run: Path) -> str:
    """The stage that stands for a run: the winner of a workflow, or else the last of its fits."""
    results = run_reader.read_results(run)
    # A test result alone does not make a stage the main one.
    fitted = [line for line in results if line["split"] != "test"] or results
    return workflow_stages.find_best_stage(run_reader.read_verdicts(run)) or (
        run_reader.get_family(fitted[-1]["name"]) if fitted else ""
    )


def _draw_curve(panel: Any, curve: Curve, best: int | None, label: str, color: str) -> None:
    if best is None:
        return
    label = f"{label}: {formatting.format_number(curve[best])} at {best}"
    panel.plot(list(curve), list(curve.values()), color=color, linewidth=2, label=label)
    panel.plot([best], [curve[best]], "o", color=color, mfc="white", mew=2, ms=7, zorder=5)


def _validation_curves(run: Path) -> dict[str, Curve]:
    """Metric → the validation curve of the run's main stage, over folds their mean."""
    history, stage = run_reader.read_history(run), find_main_stage(run)
    names = dict.fromkeys(
        name for row in history if row["split"] == "val" for name in row["values"]
    )
    curves = {name: collect_curves(history, name, "val").get(stage, {}) for name in names}
    return {name: compute_mean_curve(list(jobs.values())) for name, jobs in curves.items() if jobs}


def _make_score_table(runs: Sequence[Path]) -> TextTable:
    scores_by_run = [_collect_scores(run) for run in runs]
    # Validation first: it is what runs are compared by.
    heads = sorted(
        {head for scores in scores_by_run for head in scores},
        key=lambda head: (head[0] != "val", head),
    )
    columns = ["run", "folder", "stage", *(f"{split} {measure}" for split, measure in heads)]
    rows = [
        [
            f"{number}. {run_report.get_report_heading(run)}",
            str(run),
            find_main_stage(run),
            *(scores.get(head, "") for head in heads),
        ]
        for number, (run, scores) in enumerate(zip(runs, scores_by_run, strict=True), 1)
    ]
    caption = "In brackets 95 % intervals; over several fits mean ± sd."
    return TextTable("Scores", columns, rows, caption, right=frozenset(range(3, len(columns))))


def _collect_scores(run: Path) -> dict[tuple[str, str], str]:
    """(split, metric) → score: of the main stage on validation rows, and of all test rows."""
    stage, texts = find_main_stage(run), {}
    for split in ("val", "train", "test"):
        lines = [line for line in run_reader.read_results(run) if line["split"] == split]
        lines = [
            line
            for line in lines
            # Test rows are evaluated by one fit, whose stage need not be the main one.
            if split == "test" or run_reader.get_family(line["name"]) == stage
        ]
        scores = [line.get("scores") or {} for line in lines]
        for measure in dict.fromkeys(name for score in scores for name in score):
            texts[split, measure] = result_tables.format_over_folds(scores, measure)
    return texts


def _list_differences(runs: Sequence[Path]) -> Block:
    configs = [RunFolder(run).read_config() for run in runs]
    flats = [run_reader.flatten_config(config) for config in configs]
    rows = [
        [key, *("" if flat.get(key) is None else str(flat[key]) for flat in flats)]
        # Keys that all runs share would bury the few that matter.
        for key in run_reader.find_changed_keys(configs)
    ]
    if not rows:
        return Text("The configs of these runs are the same.")
    return TextTable("Config keys that differ", ["key", *map(str, range(1, len(runs) + 1))], rows)


def _make_run_blocks(run: Path) -> list[Block]:
    config = RunFolder(run).read_config()
    results = run_reader.read_results(run)
    steps = run_reader.read_verdicts(run)
    sections = (
        workflow_steps.make_stage_sections(results, steps, {})
        if steps
        else run_report.make_score_sections(run, results, config)
    )
    blocks: list[Block] = [
        Text(str(run), "small"),
        *(block for section in sections for block in section.blocks),
    ]
    # Only a figure that the run has drawn itself: other runs are read, never written.
    image = RunFolder(run).path(RunFile.LEARNING_CURVES)
    blocks += (
        [ImageBlock(image, run_report.CURVES_CAPTION, run_report.CURVES_CAPTION)]
        if image.is_file()
        else []
    )
    command = run_reader.read_command_or_empty(run)
    return [*blocks, *([Code(command)] if command else [])]
