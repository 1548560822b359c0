"""Tells one run as sections: what was asked, how it was tried, what came of it, and how to do it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrun.core import formatting, measure_names, run_reader, stored_files
from dlrun.report import (
    ensemble_members,
    forecast_plot,
    generated,
    interpretation,
    naming,
    run_details,
    workflow_stages,
    workflow_steps,
)
from dlrun.report import formatting as measures
from dlrun.report.blocks import Block, Pairs, Picture, Section, Text, remark, section
from dlrun.report.learning_curves import RING
from dlrun.report.result_tables import summaries

LAST = 7  # the step that ends a workflow
SPLITS = {"test": "Test", "val": "Validation", "train": "Training"}


def heading(folder: Path) -> str:
    """'imdb · dense', or the folder's name."""
    config = stored_files.config(folder)
    return naming.called(config) or folder.name


def sections(folder: Path, pictures: dict[str, list[Path]]) -> list[Section]:
    """All sections there are data for, in the order in which they are read. pictures: see `report.write.draw`."""
    config, results, steps = stored_files.config(folder), run_reader.results(folder), workflow_stages.verdicts(folder)
    workflow, measured = bool(steps), [line for line in results if line.get("scores")]
    return [
        *section("", [*headline(results, steps), *map(remark, run_reader.notes_of(measured)), *short(results, steps)]),
        *run_details.question(config),
        *run_details.data_card(folder, config),
        *workflow_steps.audit(folder),
        *workflow_steps.steps(steps),
        *(scores(results, steps, pictures) if workflow else plain_scores(folder, results, config)),
        *ensemble_members.sections(folder),
        *curves(pictures),
        *rates(run_reader.history(folder)),
        *answers(pictures),
        *workflow_steps.gallery(folder, workflow_stages.chosen(steps)),
        *interpretation.sections(folder),
        *generated.sections(folder),
        *workflow_steps.final(folder, results, config, workflow),
        *run_details.config(folder, config, workflow_stages.changes_table(results, config) if workflow else None),
        *run_details.environment(folder),
        *run_details.again(folder),
    ]


def headline(results: run_reader.Lines, steps: run_reader.Lines) -> list[Block]:
    """The score of a run that is no workflow, beside its baseline; on test rows where it has any."""
    fitted = [line for line in run_reader.standing(results) if line.get("scores")]
    if steps or not fitted:
        return []
    family = run_reader.family(fitted[-1]["name"])
    for split in ("test", "val", "train"):
        lines = [line for line in fitted if line["split"] == split and run_reader.family(line["name"]) == family]
        if lines:
            return [Text(_headline(split, lines), "strong")]
    return []


def _headline(split: str, lines: run_reader.Lines) -> str:
    scores = [line["scores"] for line in lines]
    names = list(measures.labels(scores))
    name = next((name for name in names if not name.startswith("loss")), names[0])
    text = f"{SPLITS[split]} {name}: {measures.over_folds(scores, name)}"
    bars = measures.values([line.get("baseline") or {} for line in lines], name)
    bar, own = (measures.mean_and_deviation(each)[0] for each in (bars, measures.values(scores, name)))
    if bar is None or own is None:
        return f"{text}."
    ahead = own < bar if measure_names.goal(name, run_reader.goals(lines)) == "min" else own > bar
    return f"{text}; baseline {formatting.number(bar)}{'' if ahead else ', which is not beaten'}."


def short(results: run_reader.Lines, steps: run_reader.Lines) -> list[Block]:
    """What came of a workflow, in one paragraph; nothing for other runs."""
    last = steps[-1] if steps else {}
    if not last:
        return []
    stopped = bool(last.get("stopped"))
    said = f"Stopped at step {last['step']}: {last['verdict']}" if stopped else str(last["verdict"])
    found: list[Block] = [Text(said, "loud" if stopped else "strong")]
    if not stopped and last["step"] < LAST:
        found.append(Text(f"Not finished: it was cut after step {last['step']}; dlrun resume goes on with it.", "loud"))
    if workflow_stages.winner(steps):
        found.append(Text(workflow_stages.tried(results, steps)))
    return found


def scores(results: run_reader.Lines, steps: run_reader.Lines, pictures: dict[str, list[Path]]) -> list[Section]:
    """The stages of a workflow against the constant answer."""
    if not workflow_stages.by_stage(results):
        return []
    about = "Each dot is a candidate; the baseline is gray: a dashed line, or an arrow to it."
    said = f"{about} {workflow_stages.tried(results, steps)}"
    drawn = [Picture(file, "The score of every stage with its interval", said) for file in pictures.get("stages", ())]
    return section("Baseline against models", [*drawn, workflow_stages.scores_table(results, steps)])


def plain_scores(folder: Path, results: run_reader.Lines, config: dict[str, Any]) -> list[Section]:
    """The scores of a run that is no workflow, and which of its fits have none because an error ended them."""
    cut = [Text(f"{name} has no result: {why}.", "loud") for name, why in run_reader.cut(folder, results).items()]
    return section("Results", [*cut, *summaries(results, config)] or [Text("No result was written.")])


def rates(history: run_reader.Lines) -> list[Section]:
    """The learning rates at the end of the epochs, of each fit: where they began, were highest, and ended."""
    found: dict[str, list[float]] = {}
    for row in history:
        for name, rate in (row.get("rates") or {}).items():
            found.setdefault(row["job"] if name == "lr" else f"{row['job']}, {name}", []).append(rate)
    said = {name: " → ".join(f"{rate:.3g}" for rate in changing(each)) for name, each in found.items()}
    return section("Learning rate", [Pairs(tuple(said.items()))] if said else [])


def changing(rates: list[float]) -> list[float]:
    """The first, highest and last of some numbers, without repetitions; one where they are all the same."""
    kept = [rates[0], max(rates), rates[-1]]
    return [each for place, each in enumerate(kept) if place == 0 or each != kept[place - 1]]


def curves(pictures: dict[str, list[Path]]) -> list[Section]:
    """What happened during training: curves, the overfit ladder, the regularisation study."""
    told = (
        ("Learning curves", "curves", CURVES),
        ("The overfit ladder", "ladder", LADDER),
        ("The regularisation study", "study", STUDY),
    )
    found: list[Section] = []
    for title, name, about in told:
        found += section(title, [Picture(file, about, about) for file in pictures.get(name, ())])
    return found


def answers(pictures: dict[str, list[Path]]) -> list[Section]:
    """What was answered against what is true."""
    drawn = [Picture(file, file.stem.replace("-", " ")) for file in pictures.get("answers", ())]
    ahead = [Picture(file, file.stem.replace("-", " "), forecast_plot.CAPTION) for file in pictures.get("forecast", ())]
    return [*section("Forecast vs actual", ahead), *section("Predicted vs actual", drawn)]


CURVES = f"Each measure by epoch: training dotted, validation solid; {RING}"
LADDER = (
    "Validation loss solid, training loss dotted. The ring is the epoch where the validation loss was best, noise "
    "aside, over folds their median; where there is a dashed line, the network overfits from there on."
)
STUDY = (
    "Validation loss by epoch of the network that overfits (dashed) and of each variant of it (solid), all on one "
    "scale; the ring is the variant's lowest. Over folds: their mean, as far as every fold goes."
)
