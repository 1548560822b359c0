"""Reports one run as sections: question, data, results, figures, errors, and config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrun.core import formatting, run_folder, run_reader
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report import result_tables, run_details
from dlrun.report import result_tables as naming
from dlrun.report.blocks import (
    Block,
    ImageBlock,
    Pairs,
    Section,
    Text,
    make_data_notes,
    make_sections,
)
from dlrun.report.learning_curves import RING_NOTE
from dlrun.report.result_tables import TextTable, make_score_tables

SPLITS = {"test": "Test", "val": "Validation", "train": "Training"}


def get_report_heading(folder: Path) -> str:
    """'imdb · dense', or the folder's name."""
    config = RunFolder(folder).read_config()
    return naming.get_run_title(config) or folder.name


def make_run_sections(folder: Path, figures: dict[str, list[Path]]) -> list[Section]:
    """All sections there are data for, in reading order.

    What only some runs have is imported by the section that shows it.

    Args:
        folder: The run folder.
        figures: Kind → files, as `build.draw_figures` returns them.
    """
    config = RunFolder(folder).read_config()
    results = run_reader.read_results(folder)
    steps = run_reader.read_verdicts(folder)
    return [
        *make_sections("", _make_introduction(results, steps)),
        *run_details.make_task_section(config),
        *run_details.make_data_section(folder, config),
        *_make_result_sections(folder, results, config, steps, figures),
        *make_curve_sections(figures),
        *make_rate_section(run_reader.read_history(folder)),
        *make_prediction_sections(figures),
        *run_details.make_error_sections(folder, select_families(steps)),
        *_make_sample_sections(folder),
        *run_details.make_test_section(folder, results, config, bool(steps)),
        *run_details.make_config_section(
            folder, config, _make_changes_table(results, config, steps)
        ),
        *run_details.make_environment_section(folder),
        *run_details.make_command_section(folder),
    ]


def _make_introduction(results: run_folder.JsonLines, steps: run_folder.JsonLines) -> list[Block]:
    """The score, notes on the data, and the outcome of a workflow."""
    measured = [line for line in results if line.get("scores")]
    notes: list[Block] = [
        *make_data_notes(
            run_reader.collect_messages(measured), run_reader.collect_data_warnings(measured)
        )
    ]
    if not steps:
        return [*make_score_summary(results), *notes]
    from dlrun.report.workflow_steps import make_workflow_summary

    return [*notes, *make_workflow_summary(results, steps)]


def _make_result_sections(
    folder: Path,
    results: run_folder.JsonLines,
    config: dict[str, Any],
    steps: run_folder.JsonLines,
    figures: dict[str, list[Path]],
) -> list[Section]:
    """The audit, steps and stages of a workflow, or else the scores; members of an ensemble."""
    sections: list[Section] = []
    # A workflow that was cut early has its audit and no step.
    if steps or RunFolder(folder).exists(RunFile.AUDIT):
        from dlrun.report import workflow_steps

        sections += workflow_steps.make_audit_section(folder)
        sections += workflow_steps.make_step_sections(steps)
        sections += workflow_steps.make_stage_sections(results, steps, figures) if steps else []
    sections += [] if steps else make_score_sections(folder, results, config)
    if RunFolder(folder).exists(RunFile.MEMBERS):
        from dlrun.report.ensemble_members import make_ensemble_sections

        sections += make_ensemble_sections(folder)
    return sections


def _make_sample_sections(folder: Path) -> list[Section]:
    """The images of `dlrun visualize`, and what a run has generated."""
    sections: list[Section] = []
    run = RunFolder(folder)
    if run.path(RunFile.VISUALIZED).is_dir():
        from dlrun.report.interpretation import make_visualization_sections

        sections += make_visualization_sections(folder)
    if run.path(RunFile.SAMPLES).is_dir() or run.path(RunFile.GENERATED).is_dir():
        from dlrun.report.generated import make_sample_sections

        sections += make_sample_sections(folder)
    return sections


def _make_changes_table(
    results: run_folder.JsonLines, config: dict[str, Any], steps: run_folder.JsonLines
) -> TextTable | None:
    """What each stage of a workflow changes; None where there are no stages."""
    if not steps:
        return None
    from dlrun.report.workflow_stages import make_changes_table

    return make_changes_table(results, config)


def select_families(steps: run_folder.JsonLines) -> set[str] | None:
    """The families of jobs in every figure: of a workflow two stages; None: all."""
    if not steps:
        return None
    from dlrun.report.workflow_stages import select_display_stages

    return select_display_stages(steps)


def make_score_summary(results: run_folder.JsonLines) -> list[Block]:
    """The score of a run that is no workflow, on test rows if any, beside its baseline."""
    fitted = [line for line in run_reader.drop_previous_stages(results) if line.get("scores")]
    if not fitted:
        return []
    # The family that was fitted last is the one that the run is about.
    family = run_reader.get_family(fitted[-1]["name"])
    # The first that there is, the least optimistic first.
    for split in ("test", "val", "train"):
        lines = [
            line
            for line in fitted
            if line["split"] == split and run_reader.get_family(line["name"]) == family
        ]
        if lines:
            return [Text(_describe_score(split, lines), "strong")]
    return []


def _describe_score(split: str, lines: run_folder.JsonLines) -> str:
    scores = [line["scores"] for line in lines]
    # A reader knows what an accuracy of 0.9 is, and not a loss of 0.3.
    name = formatting.choose_metric(result_tables.get_metric_labels(scores))
    text = f"{SPLITS[split]} {name}: {result_tables.format_over_folds(scores, name)}"
    bars = result_tables.get_metric_values([line.get("baseline") or {} for line in lines], name)
    baseline, score = (
        result_tables.mean_and_std(values)[0]
        for values in (bars, result_tables.get_metric_values(scores, name))
    )
    if baseline is None or score is None:
        return f"{text}."
    is_better = (
        score < baseline
        if formatting.get_direction(name, run_reader.read_direction_map(lines)) == "min"
        else score > baseline
    )
    remark = "" if is_better else ", which is not beaten"
    return f"{text}; baseline {formatting.format_number(baseline)}{remark}."


def make_score_sections(
    folder: Path, results: run_folder.JsonLines, config: dict[str, Any]
) -> list[Section]:
    """The scores of a run that is no workflow, and the fits that failed."""
    failures = [
        Text(f"{name} has no result: {reason}.", "loud")
        for name, reason in run_reader.read_failures(folder, results).items()
    ]
    return make_sections(
        "Results",
        [*failures, *make_score_tables(results, config)] or [Text("No result was written.")],
    )


def make_rate_section(history: run_folder.JsonLines) -> list[Section]:
    """The learning rates at the ends of the epochs of each fit: first, highest and last."""
    rates: dict[str, list[float]] = {}
    for row in history:
        for name, rate in (row.get("rates") or {}).items():
            rates.setdefault(row["job"] if name == "lr" else f"{row['job']}, {name}", []).append(
                rate
            )
    texts = {
        name: " → ".join(f"{rate:.3g}" for rate in summarize_rates(values))
        for name, values in rates.items()
    }
    return make_sections("Learning rate", [Pairs(tuple(texts.items()))] if texts else [])


def summarize_rates(rates: list[float]) -> list[float]:
    """The first, highest and last of some numbers, without repetitions."""
    key_rates = [rates[0], max(rates), rates[-1]]
    return [
        rate for index, rate in enumerate(key_rates) if index == 0 or rate != key_rates[index - 1]
    ]


def make_curve_sections(figures: dict[str, list[Path]]) -> list[Section]:
    """The course of training: learning curves, capacity, regularization."""
    captions = (
        ("Learning curves", "curves", CURVES_CAPTION),
        ("The overfit ladder", "ladder", CAPACITY_CAPTION),
        ("The regularisation study", "study", REGULARIZATION_CAPTION),
    )
    sections: list[Section] = []
    for title, name, caption in captions:
        sections += make_sections(
            title, [ImageBlock(file, caption, caption) for file in figures.get(name, ())]
        )
    return sections


def make_prediction_sections(figures: dict[str, list[Path]]) -> list[Section]:
    """Predictions against the truth."""
    images = [ImageBlock(file, file.stem.replace("-", " ")) for file in figures.get("answers", ())]
    forecasts = [
        ImageBlock(file, file.stem.replace("-", " "), FORECAST_CAPTION)
        for file in figures.get("forecast", ())
    ]
    return [
        *make_sections("Forecast vs actual", forecasts),
        *make_sections("Predicted vs actual", images),
    ]


CURVES_CAPTION = f"Each measure by epoch: training dotted, validation solid; {RING_NOTE}"
FORECAST_CAPTION = (
    "The first days of the split: what came, what was foretold for that moment, and the last "
    "value that was known when it was foretold, which costs nothing; the errors are over the "
    "whole split."
)
CAPACITY_CAPTION = (
    "Validation loss solid, training loss dotted. The ring is the epoch where the validation loss "
    "was best, noise aside, over folds their median; where there is a dashed line, the network "
    "overfits from there on."
)
REGULARIZATION_CAPTION = (
    "Validation loss by epoch of the network that overfits (dashed) and of each variant of it "
    "(solid), all on one scale; the ring is the variant's lowest. Over folds: their mean, as far "
    "as every fold goes."
)
