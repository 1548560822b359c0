"""Reads what the fits of a stage answered, row by row, and says how sure a score or a difference is. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compatibility import get_target_part
from dlrun.core import stored_files
from dlrun.core.errors import UserError, format_names
from dlrun.evaluation.metrics import METRICS, get_default_metric_names

if TYPE_CHECKING:
    import numpy as np

    from dlrun.evaluation.bootstrap import Interval
    from dlrun.evaluation.split_metrics import SplitMetric


SEED = 0  # of the resamples: the same question has the same answer
METRICS_MODULE = "dlrun.evaluation.metrics."


@dataclass(frozen=True)
class CombinedPredictions:
    """What several fits answered on one split, laid one after the other; a row may come several times.

    answers: target → (n, outputs), probabilities or numbers. targets: target → (n, …). rows (n,): which development, or
    test, row each is. values: measure → its value for each row (n,), before the mean. lengths: job → how many rows.
    """

    folder: Path
    split: str
    lengths: dict[str, int]
    answers: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    rows: np.ndarray
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class MetricSpec:
    """How a measure is taken: from which target, of which kind, by which function with which arguments."""

    target: str
    kind: str
    function: str
    arguments: dict[str, Any]

    @property
    def finish(self) -> Any:
        """What is done to the mean of its rows."""
        declaration = METRICS.get(self.function.removeprefix(METRICS_MODULE))
        return declaration.finish if declaration else float


def combine_predictions(folder: Path, jobs: Sequence[str], split: str) -> CombinedPredictions:
    """The predictions of these jobs. Raises UserError for files that are not there or do not say which row is which."""
    import numpy as np

    loaded = [
        _load_predictions(folder / "predictions" / f"{job}-{split}.npz", folder) for job in jobs
    ]
    if not loaded:
        raise UserError(f"{folder} has no fit that was scored on {split} rows")
    shared = [name for name in loaded[0] if all(name in arrays for arrays in loaded)]
    combined = {name: np.concatenate([arrays[name] for arrays in loaded]) for name in shared}
    groups = {group: {name.partition("/")[2]: combined[name] for name in shared if name.startswith(f"{group}/")} for group in
             ("output", "target", "value")}  # fmt: skip
    lengths = {job: len(arrays["row"]) for job, arrays in zip(jobs, loaded, strict=True)}
    return CombinedPredictions(
        folder, split, lengths, groups["output"], groups["target"], combined["row"], groups["value"]
    )


def combine_stage_predictions(folder: Path, stage: str, split: str) -> CombinedPredictions:
    """The predictions of all folds and repeats of a stage that have a result."""
    lines = [
        line
        for line in stored_files.load_json_lines(folder / "results.jsonl")
        if line["split"] == split
    ]
    jobs = dict.fromkeys(line["name"] for line in lines if line["job"]["stage"] == stage)
    return combine_predictions(folder, list(jobs), split)


def compute_metric_interval(predictions: CombinedPredictions, measure: str) -> Interval:
    """A measure over all the rows with its 95 % interval; a row that comes several times is drawn as one.

    Of several folds it is the measure of all rows together: for measures of a whole split, such as an area under a
    curve, near the mean over folds, not equal to it. Raises UserError for what was not measured.
    """
    from dlrun.evaluation import bootstrap

    definition = _check_metric_spec(predictions, measure)
    if measure in predictions.values:
        return bootstrap.compute_mean_interval(
            predictions.values[measure], predictions.rows, finish=definition.finish, seed=SEED
        )
    metric, answers, targets = _make_split_metric(predictions, definition, measure)
    options = {
        "telling": metric.count_small_class(targets),
        "seed": SEED,
        "work": metric.get_cost(answers),
    }
    return bootstrap.compute_interval(
        metric.make_row_metric(answers, targets), predictions.rows, **options
    )


def compute_difference(
    first: CombinedPredictions, second: CombinedPredictions, measure: str
) -> Interval:
    """Second minus first with its 95 % interval, by the same resamples of the same rows.

    Of repeated fits the mean for each row is compared. Raises UserError, saying why, where the two cannot be paired.
    """
    import numpy as np

    from dlrun.evaluation import bootstrap

    definition = _check_metric_spec(first, measure)
    if (second_definition := _check_metric_spec(second, measure)) != definition:
        raise UserError(
            f"{measure} is not measured in the same way: {_describe_metric(definition)}, and {_describe_metric(second_definition)}"
        )
    _check_rows(first, second, definition.target)
    if measure in first.values and measure in second.values:
        ids = np.unique(first.rows)
        first_values, second_values = (
            _mean_by_row(predictions.rows, predictions.values[measure])
            for predictions in (first, second)
        )
        return bootstrap.compute_paired_interval(
            first_values, second_values, ids, finish=definition.finish, seed=SEED
        )
    return _split_metric_difference(first, second, definition, measure)


def _split_metric_difference(
    first: CombinedPredictions, second: CombinedPredictions, definition: MetricSpec, measure: str
) -> Interval:
    import numpy as np

    from dlrun.evaluation import bootstrap

    orders = [np.argsort(predictions.rows, kind="stable") for predictions in (first, second)]
    rows = first.rows[orders[0]]
    if not np.array_equal(rows, second.rows[orders[1]]):
        raise UserError(
            f"{measure} is one number for all rows, and they do not come equally often: repeat both alike"
        )
    statistics, labels = [], []
    for predictions, order in zip((first, second), orders, strict=True):
        metric, answers, targets = _make_split_metric(predictions, definition, measure)
        statistics.append(metric.make_row_metric(answers[order], targets[order]))
        labels.append(metric.to_labels(answers[order]).reshape(len(rows), -1))
    num_different = len(np.unique(rows[(labels[0] != labels[1]).any(1)]))
    telling = min(num_different, max(1, metric.count_small_class(targets)))
    work = 2 * metric.get_cost(first.answers[definition.target])
    return bootstrap.compute_paired_interval(
        statistics[0], statistics[1], rows, telling=telling, seed=SEED, work=work
    )


def _make_split_metric(
    predictions: CombinedPredictions, definition: MetricSpec, measure: str
) -> tuple[SplitMetric, np.ndarray, np.ndarray]:
    from dlrun.evaluation.split_metrics import SplitMetric

    if not definition.function.startswith(METRICS_MODULE):
        raise UserError(
            f"{measure} is {definition.function}, which is not one of dlrun's own: it cannot be taken again"
        )
    name = definition.function.removeprefix(METRICS_MODULE)
    if name not in METRICS or not METRICS[name].over_split:
        raise UserError(
            f"{predictions.folder}: the predictions on {predictions.split} rows hold no value/{measure}; {_format_rerun_hint(predictions.folder)}"
        )
    metric = SplitMetric(name, definition.kind, definition.arguments.get("average", ""))
    return metric, predictions.answers[definition.target], predictions.targets[definition.target]


def _check_metric_spec(predictions: CombinedPredictions, measure: str) -> MetricSpec:
    """How a measure is taken, once its predictions have been found to be those of the recorded scores."""
    definition = _find_metric_spec(predictions.folder, measure)
    lines = {
        line["name"]: line
        for line in stored_files.load_json_lines(predictions.folder / "results.jsonl")
        if line["split"] == predictions.split
    }
    end = 0
    for job, length in predictions.lengths.items():
        start, end = end, end + length
        recorded = lines.get(job, {}).get("scores", {}).get(measure, {}).get("value")
        value = _compute_value(predictions, definition, measure, slice(start, end))
        if (
            recorded is not None
            and math.isfinite(recorded)
            and not math.isclose(value, recorded, rel_tol=1e-4)
        ):
            raise UserError(
                f"{predictions.folder}: the predictions of {job} on {predictions.split} rows give {measure} {value:.6g}, its result is "
                f"{recorded:.6g}: they are from other weights; {_format_rerun_hint(predictions.folder)}"
            )
    return definition


def _compute_value(
    predictions: CombinedPredictions, definition: MetricSpec, measure: str, rows: slice
) -> float:
    if measure in predictions.values:
        return float(definition.finish(float(predictions.values[measure][rows].mean())))
    metric, answers, targets = _make_split_metric(predictions, definition, measure)
    return metric(answers[rows], targets[rows])


def same_rows(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two data.json are of the same development rows and targets, whichever inputs are read from them.

    Runs of before 0.1.1 say it of their inputs as well, and are told by that.
    """
    marks = [record.get("development") for record in (first, second)]
    return marks[0] == marks[1] if all(marks) else first["fingerprint"] == second["fingerprint"]


def _check_rows(first: CombinedPredictions, second: CombinedPredictions, target: str) -> None:
    """Refuse two that were not scored on the same rows of the same data with the same truth."""
    import numpy as np

    data = [
        stored_files.load_json(predictions.folder / "data.json") for predictions in (first, second)
    ]
    if not same_rows(*data) or first.split != second.split:
        raise UserError(
            "they were not scored on the same data (the fingerprints in data.json differ)"
        )
    (ids, first_index), (second_ids, second_index) = (
        np.unique(predictions.rows, return_index=True) for predictions in (first, second)
    )
    if not np.array_equal(ids, second_ids):
        shared = len(np.intersect1d(ids, second_ids))
        raise UserError(
            f"they were scored on different rows of the same data: {len(ids):,} and {len(second_ids):,}, {shared:,} "
            "of them shared; the same protocol, seed and sizes give the same rows"
        )
    truths = first.targets[target][first_index], second.targets[target][second_index]
    if truths[0].shape != truths[1].shape or not np.allclose(*truths, rtol=1e-5, equal_nan=True):
        raise UserError(
            f"the truth of '{target}' is not the same on the same rows: it was prepared in different ways"
        )


def _mean_by_row(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of the values of each row, in the order of their ids."""
    import numpy as np

    _, owner, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return np.bincount(owner.ravel(), values) / counts


def _find_metric_spec(folder: Path, measure: str) -> MetricSpec:
    config = stored_files.load_run_config(folder)
    fields, specs = stored_files.load_json(folder / "fields.json")["targets"], {}
    for target, field in fields.items():
        names = get_default_metric_names(
            field["kind"], bool(field.get("outlook") and field.get("scale"))
        )
        defaults = {
            name: {"_target_": METRICS_MODULE + name, **METRICS[name].default_settings}
            for name in names
        }
        prefix = f"{target}_" if len(fields) > 1 else ""
        nodes = get_target_part(config, "metric", target)
        for name, node in (nodes or defaults).items():
            arguments = {key: value for key, value in node.items() if key != "_target_"}
            specs[prefix + name] = MetricSpec(target, field["kind"], node["_target_"], arguments)
    if measure not in specs:
        available = (
            f"it has {format_names(specs)}"
            if specs
            else "it answers no target, so there are no rows to compare"
        )
        raise UserError(f"{folder} has no measure '{measure}' for each row; {available}")
    return specs[measure]


def _load_predictions(file: Path, folder: Path) -> dict[str, np.ndarray]:
    arrays = stored_files.load_arrays(file)
    if "row" not in arrays:
        raise UserError(
            f"{file} does not say which row is which: an older dlrun wrote it; {_format_rerun_hint(folder)}"
        )
    return arrays


def _format_rerun_hint(folder: Path) -> str:
    return f"dlrun evaluate {folder} writes its predictions again"


def _describe_metric(definition: MetricSpec) -> str:
    arguments = ", ".join(f"{key}={value}" for key, value in definition.arguments.items())
    return f"{definition.function}({arguments}) of '{definition.target}'"
