"""Draws losses by capacity, and how each regularization changes the loss of the largest network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting, run_folder, run_reader
from dlrun.evaluation.diagnosis import TURNED, Diagnosis, diagnose, diagnose_folds, get_fit_context
from dlrun.report import result_tables, workflow_stages
from dlrun.report.learning_curves import collect_curves, compute_mean_curve, find_curve_best
from dlrun.report.plotting import (
    COLORS,
    GREY,
    WIDTH,
    Curve,
    add_legend_below,
    get_value_range,
    save_figure,
    use_integer_epochs,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


NUM_COLUMNS = 2
WIDE_FIGURE = 6.4  # inches


def draw_capacity_curves(
    history: run_folder.JsonLines,
    results: run_folder.JsonLines,
    config: dict[str, Any],
    file: Path,
    steps: run_folder.JsonLines,
) -> Path | None:
    """Write the losses of all capacity stages; None where none was trained."""
    val, train = collect_loss_curves(history, "val"), collect_loss_curves(history, "train")
    stages = [stage for stage in workflow_stages.get_capacity_stages(config) if stage in val]
    if not stages:
        return None
    warning = run_reader.get_data_warning(results)
    with save_figure(file, "Overfit ladder", config, warning, height=4.6, width=WIDTH) as figure:
        panel = figure.subplots()
        for stage, color in zip(stages, COLORS, strict=False):
            diagnosis = diagnose_stage(
                history, results, stage, config, workflow_stages.get_main_metric(steps, results)
            )
            _draw_capacity(panel, diagnosis, stage, (val[stage], train.get(stage, {})), color)
        # One legend entry for the dotted lines of all stages.
        panel.plot([], [], ":", color=GREY, linewidth=1.4, label="training loss")
        limits = get_value_range(
            [
                *(val[stage] for stage in stages),
                *(train[stage] for stage in stages if stage in train),
            ]
        )
        panel.set(ylabel="loss", ylim=limits)
        use_integer_epochs(panel)
        add_legend_below(panel)
    return file


def draw_regularization_curves(
    history: run_folder.JsonLines, results: run_folder.JsonLines, config: dict[str, Any], file: Path
) -> Path | None:
    """Write a panel for each regularized variant, with its base; None where none was trained."""
    val, stages = collect_loss_curves(history, "val"), workflow_stages.group_by_stage(results)
    base = next(
        (stage for stage in reversed(workflow_stages.get_capacity_stages(config)) if stage in val),
        "",
    )
    variants = [name for name in workflow_stages.get_regularization_stages(config) if name in val]
    if not base or not variants:
        return None
    # The base may have been trained for far longer, which would squeeze the variants.
    max_epoch = 2 * max(max(val[name]) for name in variants)
    base_curve = {epoch: value for epoch, value in val[base].items() if epoch <= max_epoch}
    titled = [
        (format_patch(name, stages.get(name, []), stages.get(base, [])), val[name])
        for name in variants
    ]
    # Rounded up.
    rows = -(-len(variants) // NUM_COLUMNS)
    title = f"Validation loss against '{base}'"
    size: dict[str, Any] = {"height": 2.35 * rows + 0.9, "width": WIDE_FIGURE}
    with save_figure(file, title, config, run_reader.get_data_warning(results), **size) as figure:
        panels = list(
            figure.subplots(rows, min(len(variants), NUM_COLUMNS), squeeze=False, sharey=True).flat
        )
        _draw_variants(panels, titled, base_curve)
        handles, _ = panels[0].get_legend_handles_labels()
        figure.legend(handles, [base, "variant"], loc="outside lower left", ncols=2)
    return file


def _draw_variants(panels: list[Axes], variants: list[tuple[str, Curve]], base: Curve) -> None:
    """Draw a panel for each variant, given as its title and its curve."""
    # One scale for all panels, or a small gain would look like a large one.
    low, high = get_value_range([base, *(curve for _, curve in variants)]) or (0, 1)
    for (title, curve), panel in zip(variants, panels, strict=False):
        _draw_variant(panel, title, curve, base)
        panel.set_ylim(low - 0.2 * (high - low), high)  # room for the numbers below the rings
    # An odd number of variants leaves a panel empty.
    for panel in panels[len(variants) :]:
        panel.set_axis_off()


def collect_loss_curves(history: run_folder.JsonLines, split: str) -> dict[str, Curve]:
    """Stage → its loss by epoch, over folds their mean."""
    return {
        stage: compute_mean_curve(list(jobs.values()))
        for stage, jobs in collect_curves(history, "loss", split).items()
    }


def format_patch(name: str, lines: run_folder.JsonLines, base: run_folder.JsonLines) -> str:
    """'dropout = 0.5' or 'smaller: units = [8, 8]': the change of a variant, in few letters."""
    base_changes = workflow_stages.get_stage_changes(base)
    changes = {
        key.rpartition(".")[2]: value
        for key, value in workflow_stages.get_stage_changes(lines).items()
        if base_changes.get(key) != value
    }
    text = ", ".join(f"{key} = {value}" for key, value in changes.items())
    # A longer patch does not fit above a panel.
    if not text or len(text) > 30:
        return name
    return text if name in changes else f"{name}: {text}"


def diagnose_stage(
    history: run_folder.JsonLines,
    results: run_folder.JsonLines,
    stage: str,
    config: dict[str, Any],
    measure: str,
) -> Diagnosis:
    """The diagnosis of a stage, with what it needs to know of the fit; over folds that of most."""
    lines = workflow_stages.group_by_stage(results).get(stage, [])
    patch = (lines[0]["job"].get("patch") or {}) if lines else {}
    losses = result_tables.get_metric_values([line.get("baseline") or {} for line in lines], "loss")
    goal = formatting.get_direction(measure, run_reader.read_direction_map(results))
    context = get_fit_context(patch, config.get("model") or {}, losses, measure, goal)
    jobs: dict[str, run_folder.JsonLines] = {}
    for row in history:
        if run_reader.get_family(row["job"]) == stage:
            jobs.setdefault(row["job"], []).append(row)
    return (
        diagnose_folds(jobs.values(), **context)
        if len(jobs) > 1
        else diagnose(next(iter(jobs.values()), []), **context)
    )


def _draw_capacity(
    panel: Axes, diagnosis: Diagnosis, stage: str, losses: tuple[Curve, Curve], color: str
) -> None:
    """Draw both losses of a stage, with a ring, and a line if it overfits, at the best epoch."""
    val, train = losses
    overfits = diagnosis.kind in TURNED
    label = stage
    if diagnosis.epoch:
        label += f": {'overfits after' if overfits else 'best at'} {diagnosis.epoch}"
    panel.plot(list(train), list(train.values()), ":", color=color, linewidth=1.4, alpha=0.7)
    panel.plot(list(val), list(val.values()), color=color, linewidth=2, label=label)
    if diagnosis.epoch in val:
        panel.plot(
            [diagnosis.epoch],
            [val[diagnosis.epoch]],
            "o",
            color=color,
            mfc="white",
            mew=2,
            ms=8,
            zorder=5,
        )
    if overfits and diagnosis.epoch:
        panel.axvline(diagnosis.epoch, color=color, linestyle="--", linewidth=1, alpha=0.8)


def _draw_variant(panel: Axes, heading: str, variant: Curve, base: Curve) -> None:
    panel.plot(
        list(base), list(base.values()), color=GREY, linewidth=1.6, linestyle="--", label="base"
    )
    panel.plot(
        list(variant), list(variant.values()), color=COLORS[0], linewidth=2.2, label="variant"
    )
    best = find_curve_best(variant, "min")
    if best is not None:
        panel.plot(
            [best], [variant[best]], "o", color=COLORS[0], mfc="white", mew=1.8, ms=7, zorder=5
        )
        side = "left" if best < 0.15 * max(*base, *variant) else "center"
        panel.annotate(
            formatting.format_number(variant[best]),
            (best, variant[best]),
            (0, -9),
            ha=side,
            **LABEL_STYLE,
        )
    panel.set_title(heading, fontsize=10.5)
    use_integer_epochs(panel)


LABEL_STYLE: dict[str, Any] = {"textcoords": "offset points", "va": "top", "fontsize": 9.5}
