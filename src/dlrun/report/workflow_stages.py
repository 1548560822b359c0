"""The stages of a workflow run: what each changes and scores, and which one won."""

from __future__ import annotations

from typing import Any

from dlrun.core import formatting, run_folder, run_reader
from dlrun.core.formatting import choose_metric
from dlrun.report import result_tables
from dlrun.report.result_tables import STAR, TextTable

CONSTANT_STAGE, CONFIGURED_STAGE = "constant", "configured"
FINAL_STAGE = "final"
TUNE_STEP = 7  # the step that compares all candidates
SCORE_STEP = 2  # the column of its table with their scores
BASELINE_STEP = 5  # the step that decides whether there is anything to go on with


def find_best_stage(steps: run_folder.JsonLines) -> str:
    """The stage that step 7 selected, or ''."""
    return next((str(step["winner"]) for step in steps if step.get("winner")), "")


def select_display_stages(steps: run_folder.JsonLines) -> set[str]:
    """The stages in every figure of a workflow: the winner and the final one."""
    return {find_best_stage(steps), FINAL_STAGE} - {""}


def group_by_stage(results: run_folder.JsonLines) -> dict[str, run_folder.JsonLines]:
    """Stage → its results on validation rows, in the order of the fits."""
    stages: dict[str, run_folder.JsonLines] = {}
    for line in results:
        if line["split"] == "val":
            stages.setdefault(run_reader.get_family(line["name"]), []).append(line)
    return stages


def get_capacity_stages(config: dict[str, Any]) -> list[str]:
    """The stages of growing capacity, from the configured network on."""
    return [CONFIGURED_STAGE, *((config.get("workflow") or {}).get("ladder") or {})]


def get_regularization_stages(config: dict[str, Any]) -> list[str]:
    """The stages that regularize the largest network, or train it at another rate."""
    return list((config.get("workflow") or {}).get("study") or {})


def get_main_metric(steps: run_folder.JsonLines, results: run_folder.JsonLines) -> str:
    """The metric that step 2 names, or else the first that is no loss."""
    names = list(dict.fromkeys(name for line in results for name in line.get("scores") or {}))
    chosen = [str(step["measure"]) for step in steps if step.get("measure") in names]
    return choose_metric(names, next(iter(chosen), None))


def get_stage_changes(lines: run_folder.JsonLines) -> dict[str, Any]:
    """Flat config key → value: what a stage changes, its callbacks aside."""
    changes = (lines[0]["job"].get("patch") or {}) if lines else {}
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        flat |= run_reader.flatten_config(value, key)
    return {key: value for key, value in flat.items() if not key.startswith("callback")}


def get_score_range(
    scores: list[result_tables.Scores], measure: str
) -> tuple[float | None, float | None, float | None]:
    """A score with its 95 % interval; over several fits the mean with mean - sd and mean + sd."""
    if len(scores) == 1:
        score = scores[0].get(measure) or {}
        return score.get("value"), score.get("low"), score.get("high")
    mean, deviation = result_tables.mean_and_std(result_tables.get_metric_values(scores, measure))
    # One of several fits may be undefined: without a deviation there is no whisker.
    if mean is None or deviation is None:
        return mean, None, None
    return mean, mean - deviation, mean + deviation


def get_baseline_score(results: run_folder.JsonLines, measure: str) -> float | None:
    """The baseline's score on the validation rows, over folds their mean."""
    baselines = [line.get("baseline") or {} for line in results if line["split"] == "val"]
    return result_tables.mean_and_std(result_tables.get_metric_values(baselines, measure))[0]


def make_stage_table(results: run_folder.JsonLines, steps: run_folder.JsonLines) -> TextTable:
    """All stages with all their scores; the winner has a star."""
    stages, winner = group_by_stage(results), find_best_stage(steps)
    main = get_main_metric(steps, results)
    all_scores = [
        line["scores"] for lines in stages.values() for line in lines if line.get("scores")
    ]
    labels = result_tables.get_metric_labels(all_scores)
    # The metric that decides first, then those in the target's unit.
    names = sorted(labels, key=lambda name: (name != main, not name.endswith("_unit"), name))
    rows = []
    # Where the constant was fitted as a stage it has a row with all its scores.
    if CONSTANT_STAGE not in stages:
        baselines = [get_baseline_score(results, name) for name in names]
        rows.append([CONSTANT_STAGE, *map(formatting.format_number, baselines), "", ""])
    rows += [_make_stage_row(stage, lines, names, winner) for stage, lines in stages.items()]
    fits = max((len(lines) for lines in stages.values()), default=1)
    interval = (
        f"mean ± sd over {fits} fits"
        if fits > 1
        else result_tables.get_interval_heading(False, all_scores)
    )
    columns = ["candidate", *(labels[name] for name in names), "epochs", "seconds"]
    right = frozenset(range(1, len(columns)))
    title = f"Every candidate on its validation rows{f' ({interval})' if interval else ''}"
    cross_fold = get_cross_fold_scores(steps) if fits > 1 else {}
    if cross_fold:  # as the verdicts have it
        columns.insert(1, f"{main}, folds together [95 %]")
        rows = [[row[0], cross_fold.get(row[0].split("\u00a0")[0], ""), *row[1:]] for row in rows]
        right = frozenset(range(1, len(columns)))
    return TextTable(title, columns, rows, format_num_candidates(results, steps), right=right)


def _make_stage_row(
    stage: str, lines: run_folder.JsonLines, names: list[str], winner: str
) -> list[str]:
    scores = [line.get("scores") or {} for line in lines]
    label = stage if all(scores) else f"{stage} (failed)"
    if stage == winner:
        # A space that does not break: a star alone on a line would belong to nothing.
        label = f"{stage}\u00a0{STAR}"
    cells = [result_tables.format_over_folds(scores, name) for name in names]
    epochs = "/".join(dict.fromkeys(str(line.get("epochs") or 0) for line in lines))
    seconds = sum(float(line.get("seconds") or 0) for line in lines)
    return [label, *cells, epochs, f"{seconds:.1f}"]


def format_num_candidates(results: run_folder.JsonLines, steps: run_folder.JsonLines) -> str:
    """How many candidates the winner was selected from: the more, the luckier the best of them."""
    scored = [
        stage
        for stage, lines in group_by_stage(results).items()
        if all(line.get("scores") for line in lines)
    ]
    count = len([stage for stage in scored if stage != CONSTANT_STAGE])
    winner = find_best_stage(steps)
    text = f"{count} candidate{'s were' if count != 1 else ' was'} tried"
    biased = "its validation score is optimistically biased (selection bias)"
    return f"{STAR} {winner} was chosen. {text}: {biased}." if winner else f"{text}."


def get_cross_fold_scores(steps: run_folder.JsonLines) -> dict[str, str]:
    """Candidate → its score over the rows of all folds together, from the table of step 7."""
    tables = [
        table for step in steps if step["step"] == TUNE_STEP for table in step.get("tables") or ()
    ]
    rows = [row for table in tables for row in table["rows"] if len(row) > SCORE_STEP]
    return {str(row[0]).partition(" (")[0]: str(row[SCORE_STEP]) for row in rows}


def make_changes_table(results: run_folder.JsonLines, config: dict[str, Any]) -> TextTable | None:
    """What each stage changes in the config, before → after; None if nothing changes."""
    # Values that the config has already are no change.
    base = run_reader.flatten_config(config)
    tested = [line for line in results if line["split"] == "test"]
    rows = []
    for stage, lines in [
        *group_by_stage(results).items(),
        *([(FINAL_STAGE, tested)] if tested else []),
    ]:
        changes = {
            key: value for key, value in get_stage_changes(lines).items() if base.get(key) != value
        }
        rows += [[stage, key, str(base.get(key, "")), str(value)] for key, value in changes.items()]
    if not rows:
        return None
    caption = "Callbacks are left out."
    return TextTable(
        "What each stage changes in the config below",
        ["stage", "key", "config", "here"],
        rows,
        caption,
    )
