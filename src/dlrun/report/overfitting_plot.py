"""Draws the overfit ladder, and beside its last rung what each way to regularise does to the validation loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting, measure_names, run_reader
from dlrun.evaluation.diagnosis import TURNED, Diagnosis, circumstances, diagnose, over_folds
from dlrun.report import formatting as measures
from dlrun.report import workflow_stages
from dlrun.report.learning_curves import best_epoch, curves, mean_curve
from dlrun.report.plotting import COLOURS, GREY, WIDTH, Curve, legend_below, picture, whole_epochs, window

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PANELS_A_ROW = 2
WIDER = 6.4  # inches


def draw_ladder(
    history: run_reader.Lines, results: run_reader.Lines, config: dict[str, Any], file: Path, steps: run_reader.Lines
) -> Path | None:
    """Write the losses of all rungs; None where none was climbed."""
    val, train = loss_curves(history, "val"), loss_curves(history, "train")
    rungs = [rung for rung in workflow_stages.ladder(config) if rung in val]
    if not rungs:
        return None
    warning = run_reader.warning_of(results)
    with picture(file, "Overfit ladder", config, warning, height=4.6, width=WIDTH) as figure:
        panel = figure.subplots()
        for rung, colour in zip(rungs, COLOURS, strict=False):
            found = diagnosed(history, results, rung, config, workflow_stages.main_measure(steps, results))
            _rung(panel, found, rung, (val[rung], train.get(rung, {})), colour)
        panel.plot([], [], ":", color=GREY, linewidth=1.4, label="training loss")
        limits = window([*(val[rung] for rung in rungs), *(train[rung] for rung in rungs if rung in train)])
        panel.set(ylabel="loss", ylim=limits)
        whole_epochs(panel)
        legend_below(panel)
    return file


def draw_study(history: run_reader.Lines, results: run_reader.Lines, config: dict[str, Any], file: Path) -> Path | None:
    """Write a panel for each regularised variant, with its base; None where none was tried."""
    val, found = loss_curves(history, "val"), workflow_stages.by_stage(results)
    base = next((rung for rung in reversed(workflow_stages.ladder(config)) if rung in val), "")
    variants = [name for name in workflow_stages.study(config) if name in val]
    if not base or not variants:
        return None
    rows = -(-len(variants) // PANELS_A_ROW)
    last = 2 * max(max(val[name]) for name in variants)  # of the base, which may go on for much longer
    base_curve = {epoch: value for epoch, value in val[base].items() if epoch <= last}
    low, high = window([base_curve, *(val[name] for name in variants)]) or (0, 1)
    about = f"Validation loss against '{base}'"
    size: dict[str, Any] = {"height": 2.35 * rows + 0.9, "width": WIDER}
    with picture(file, about, config, run_reader.warning_of(results), **size) as figure:
        panels = list(figure.subplots(rows, min(len(variants), PANELS_A_ROW), squeeze=False, sharey=True).flat)
        for name, panel in zip(variants, panels, strict=False):
            _variant(panel, changed(name, found.get(name, []), found.get(base, [])), val[name], base_curve)
            panel.set_ylim(low - 0.2 * (high - low), high)  # room for the numbers below the rings
        for panel in panels[len(variants) :]:
            panel.set_axis_off()
        handles = {text: handle for handle, text in zip(*panels[0].get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), [base, "variant"], loc="outside lower left", ncols=2)
    return file


def loss_curves(history: run_reader.Lines, split: str) -> dict[str, Curve]:
    """Stage → its loss by epoch, over folds their mean."""
    return {stage: mean_curve(list(jobs.values())) for stage, jobs in curves(history, "loss", split).items()}


def changed(name: str, lines: run_reader.Lines, base: run_reader.Lines) -> str:
    """'dropout = 0.5', 'smaller: units = [8, 8]': what a variant changes, in few letters."""
    before = workflow_stages.patch(base)
    own = {
        key.rpartition(".")[2]: value for key, value in workflow_stages.patch(lines).items() if before.get(key) != value
    }
    text = ", ".join(f"{key} = {value}" for key, value in own.items())
    if not text or len(text) > 30:
        return name
    return text if name in own else f"{name}: {text}"


def diagnosed(
    history: run_reader.Lines, results: run_reader.Lines, stage: str, config: dict[str, Any], measure: str
) -> Diagnosis:
    """What the verdicts of a workflow say of a stage: how its fits went, and the epoch where they were best."""
    lines = workflow_stages.by_stage(results).get(stage, [])
    patch = (lines[0]["job"].get("patch") or {}) if lines else {}
    losses = measures.values([line.get("baseline") or {} for line in lines], "loss")
    goal = measure_names.goal(measure, run_reader.goals(results))
    how = circumstances(patch, config.get("model") or {}, losses, measure, goal)
    jobs: dict[str, run_reader.Lines] = {}
    for row in history:
        if run_reader.family(row["job"]) == stage:
            jobs.setdefault(row["job"], []).append(row)
    return over_folds(jobs.values(), **how) if len(jobs) > 1 else diagnose(next(iter(jobs.values()), []), **how)


def _rung(panel: Axes, found: Diagnosis, rung: str, losses: tuple[Curve, Curve], colour: str) -> None:
    """Both losses of a rung; a ring where validation was best, and a line where it overfits from there on."""
    val, train = losses
    overfits = found.kind in TURNED
    label = f"{rung}: {'overfits after' if overfits else 'best at'} {found.epoch}" if found.epoch else rung
    panel.plot(list(train), list(train.values()), ":", color=colour, linewidth=1.4, alpha=0.7)
    panel.plot(list(val), list(val.values()), color=colour, linewidth=2, label=label)
    if found.epoch in val:
        panel.plot([found.epoch], [val[found.epoch]], "o", color=colour, mfc="white", mew=2, ms=8, zorder=5)
    if overfits and found.epoch:
        panel.axvline(found.epoch, color=colour, linestyle="--", linewidth=1, alpha=0.8)


def _variant(panel: Axes, heading: str, variant: Curve, base: Curve) -> None:
    panel.plot(list(base), list(base.values()), color=GREY, linewidth=1.6, linestyle="--", label="base")
    panel.plot(list(variant), list(variant.values()), color=COLOURS[0], linewidth=2.2, label="variant")
    best = best_epoch(variant, "min")
    if best is not None:
        panel.plot([best], [variant[best]], "o", color=COLOURS[0], mfc="white", mew=1.8, ms=7, zorder=5)
        side = "left" if best < 0.15 * max(*base, *variant) else "center"
        panel.annotate(formatting.number(variant[best]), (best, variant[best]), (0, -9), ha=side, **NEAR)
    panel.set_title(heading, fontsize=10.5)
    whole_epochs(panel)


NEAR: dict[str, Any] = {"textcoords": "offset points", "va": "top", "fontsize": 9.5}
