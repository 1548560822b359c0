"""Reads stored predictions row by row, for intervals of scores and of differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compatibility import get_target_part
from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.evaluation.metrics import METRICS, get_default_metric_names

if TYPE_CHECKING:
    import numpy as np

    from dlrun.evaluation.bootstrap import Interval
    from dlrun.evaluation.split_metrics import SplitMetric


SEED = 0  # of the resamples: the same question has the same answer
METRICS_MODULE = "dlrun.evaluation.metrics."


@dataclass(frozen=True)
class CombinedPredictions:
    """The predictions of several fits on one split, one after the other; rows may recur.

    Attributes:
        folder: The run folder.
        split: 'val', 'test' or 'train'.
        lengths: Job → how many of the rows are its own, in order.
        answers: Target → (n, outputs) probabilities or numbers.
        targets: Target → (n, …) true values.
        rows: (n,) which row of the data each is.
        values: Metric → (n,) its value for each row, before the mean.
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
    """How a metric is computed.

    Attributes:
        target: The name of the target.
        kind: The kind of the target.
        function: The full name of the function, as `_target_` has it.
        arguments: Its settings.
    """

    target: str
    kind: str
    function: str
    arguments: dict[str, Any]

    @property
    def finish(self) -> Any:
        """Applied to the mean over rows."""
        declaration = METRICS.get(self.function.removeprefix(METRICS_MODULE))
        return declaration.finish if declaration else float


def combine_predictions(folder: Path, jobs: Sequence[str], split: str) -> CombinedPredictions:
    """Load the predictions of these jobs.

    Args:
        folder: The run folder.
        jobs: Names of fits.
        split: 'val', 'test' or 'train'.

    Raises:
        UserError: A file is missing, or does not say which row is which.
    """
    import numpy as np

    run = RunFolder(folder)
    loaded = [_load_predictions(run, job, split) for job in jobs]
    # A fit without a result is no member; a run without any has nothing to compare.
    if not loaded:
        raise UserError(f"{folder} has no fit that was scored on {split} rows")
    shared = [name for name in loaded[0] if all(name in arrays for arrays in loaded)]
    combined = {name: np.concatenate([arrays[name] for arrays in loaded]) for name in shared}
    return CombinedPredictions(
        folder,
        split,
        lengths={job: len(arrays["row"]) for job, arrays in zip(jobs, loaded, strict=True)},
        answers=_select_group(combined, "output"),
        targets=_select_group(combined, "target"),
        rows=combined["row"],
        values=_select_group(combined, "value"),
    )


def _select_group(arrays: dict[str, np.ndarray], group: str) -> dict[str, np.ndarray]:
    """The arrays of a file that are named `<group>/<name>`, by name."""
    heads = {name: name.partition("/") for name in arrays}
    return {tail: arrays[name] for name, (head, _, tail) in heads.items() if head == group}


def combine_stage_predictions(folder: Path, stage: str, split: str) -> CombinedPredictions:
    """The predictions of all folds and repeats of a stage that have a result."""
    lines = [line for line in RunFolder(folder).read_result_lines() if line["split"] == split]
    jobs = dict.fromkeys(line["name"] for line in lines if line["job"]["stage"] == stage)
    return combine_predictions(folder, list(jobs), split)


def compute_metric_interval(predictions: CombinedPredictions, measure: str) -> Interval:
    """A metric over all the rows with its 95 % interval; repeated rows are drawn together.

    Of several folds it is the metric of all rows together: for metrics of a whole split, such as an
    area under a curve, near the mean over folds, not equal to it.

    Raises:
        UserError: The metric was not measured.
    """
    from dlrun.evaluation import bootstrap

    definition = _check_metric_spec(predictions, measure)
    if measure in predictions.values:
        return bootstrap.compute_mean_interval(
            predictions.values[measure], predictions.rows, finish=definition.finish, seed=SEED
        )
    metric, answers, targets = _make_split_metric(predictions, definition, measure)
    return bootstrap.compute_interval(
        metric.make_row_metric(answers, targets),
        predictions.rows,
        telling=metric.count_small_class(targets),
        seed=SEED,
        work=metric.get_cost(answers),
    )


def compute_difference(
    first: CombinedPredictions, second: CombinedPredictions, measure: str
) -> Interval:
    """Second minus first with its 95 % interval, by the same resamples of the same rows.

    Of repeated fits the mean for each row is compared.

    Raises:
        UserError: The two cannot be paired; the message says why.
    """
    import numpy as np

    from dlrun.evaluation import bootstrap

    # Both are checked before any resampling, which takes seconds.
    definition = _check_metric_spec(first, measure)
    if (second_definition := _check_metric_spec(second, measure)) != definition:
        raise UserError(
            f"{measure} is not measured in the same way: {_describe_metric(definition)}, and "
            f"{_describe_metric(second_definition)}"
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

    # Folds are stored in their own order: sort both by row, so that resamples are the same rows.
    orders = [np.argsort(predictions.rows, kind="stable") for predictions in (first, second)]
    rows = first.rows[orders[0]]
    if not np.array_equal(rows, second.rows[orders[1]]):
        raise UserError(
            f"{measure} is one number for all rows, and they do not come equally often: repeat "
            "both alike"
        )
    statistics, labels = [], []
    for predictions, order in zip((first, second), orders, strict=True):
        metric, answers, targets = _make_split_metric(predictions, definition, measure)
        statistics.append(metric.make_row_metric(answers[order], targets[order]))
        labels.append(metric.to_labels(answers[order]).reshape(len(rows), -1))
    num_different = len(np.unique(rows[(labels[0] != labels[1]).any(1)]))
    telling = min(num_different, max(1, metric.count_small_class(targets)))
    # Two statistics for each resample.
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
            f"{measure} is {definition.function}, which is not one of dlrun's own: it cannot be "
            "taken again"
        )
    name = definition.function.removeprefix(METRICS_MODULE)
    if name not in METRICS or not METRICS[name].over_split:
        raise UserError(
            f"{predictions.folder}: the predictions on {predictions.split} rows hold no "
            f"value/{measure}; {_format_rerun_hint(predictions.folder)}"
        )
    metric = SplitMetric(name, definition.kind, definition.arguments.get("average", ""))
    return metric, predictions.answers[definition.target], predictions.targets[definition.target]


def _check_metric_spec(predictions: CombinedPredictions, measure: str) -> MetricSpec:
    """How a metric is computed; raises UserError when predictions and recorded scores differ."""
    definition = _find_metric_spec(predictions.folder, measure)
    lines = {
        line["name"]: line
        for line in RunFolder(predictions.folder).read_result_lines()
        if line["split"] == predictions.split
    }
    end = 0
    for job, length in predictions.lengths.items():
        start, end = end, end + length
        recorded = lines.get(job, {}).get("scores", {}).get(measure, {}).get("value")
        value = _compute_value(predictions, definition, measure, slice(start, end))
        if recorded is None or not math.isfinite(recorded):
            continue
        # Not exactly equal: the run may have summed on a device, in another order.
        if not math.isclose(value, recorded, rel_tol=1e-4):
            raise UserError(
                f"{predictions.folder}: the predictions of {job} on {predictions.split} rows give "
                f"{measure} {value:.6g}, its result is {recorded:.6g}: they are from other "
                f"weights; {_format_rerun_hint(predictions.folder)}"
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
    """Whether two data.json are of the same rows and targets, whichever inputs are read from them.

    Runs of before 0.1.1 have one fingerprint of inputs and rows together, which decides for them.
    """
    marks = [record.get("development") for record in (first, second)]
    return marks[0] == marks[1] if all(marks) else first["fingerprint"] == second["fingerprint"]


def _check_rows(first: CombinedPredictions, second: CombinedPredictions, target: str) -> None:
    """Refuse two that were not scored on the same rows of the same data with the same targets."""
    import numpy as np

    data = [
        RunFolder(predictions.folder).require_json(RunFile.DATA) for predictions in (first, second)
    ]
    if not same_rows(*data) or first.split != second.split:
        raise UserError(
            "they were not scored on the same data (the fingerprints in data.json differ)"
        )
    (ids, first_index), (second_ids, second_index) = (
        np.unique(predictions.rows, return_index=True) for predictions in (first, second)
    )
    # Row numbers alone prove nothing across data sets, hence the fingerprints above.
    if not np.array_equal(ids, second_ids):
        shared = len(np.intersect1d(ids, second_ids))
        raise UserError(
            f"they were scored on different rows of the same data: {len(ids):,} and "
            f"{len(second_ids):,}, {shared:,} of them shared; the same protocol, seed and sizes "
            "give the same rows"
        )
    truths = first.targets[target][first_index], second.targets[target][second_index]
    if truths[0].shape != truths[1].shape or not np.allclose(*truths, rtol=1e-5, equal_nan=True):
        raise UserError(
            f"the truth of '{target}' is not the same on the same rows: it was prepared in "
            "different ways"
        )


def _mean_by_row(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of the values of each row, in the order of their ids."""
    import numpy as np

    # Repeats of a row are no independent rows: their mean counts as one.
    _, owner, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return np.bincount(owner.ravel(), values) / counts


def _find_metric_spec(folder: Path, measure: str) -> MetricSpec:
    config = RunFolder(folder).read_config()
    fields, specs = RunFolder(folder).require_json(RunFile.FIELDS)["targets"], {}
    for target, field in fields.items():
        names = get_default_metric_names(
            field["kind"], bool(field.get("outlook") and field.get("scale"))
        )
        defaults = {
            name: {"_target_": METRICS_MODULE + name, **METRICS[name].default_settings}
            for name in names
        }
        # As `experiment.builder` names them.
        prefix = f"{target}_" if len(fields) > 1 else ""
        nodes = get_target_part(config, "metric", target)
        for name, node in (nodes or defaults).items():
            arguments = {key: value for key, value in node.items() if key != "_target_"}
            specs[prefix + name] = MetricSpec(target, field["kind"], node["_target_"], arguments)
    if measure not in specs:
        available = (
            f"it has {format_names(specs)}"
            if specs
            else "it predicts no target, so there are no rows to compare"
        )
        raise UserError(f"{folder} has no measure '{measure}' for each row; {available}")
    return specs[measure]


def _load_predictions(run: RunFolder, job: str, split: str) -> dict[str, np.ndarray]:
    arrays = run.read_predictions(job, split)
    if "row" not in arrays:
        file = run.path(RunFile.PREDICTIONS, job=job, split=split)
        raise UserError(
            f"{file} does not say which row is which: an older dlrun wrote it; "
            f"{_format_rerun_hint(run.folder)}"
        )
    return arrays


def _format_rerun_hint(folder: Path) -> str:
    return f"dlrun evaluate {folder} writes its predictions again"


def _describe_metric(definition: MetricSpec) -> str:
    arguments = ", ".join(f"{key}={value}" for key, value in definition.arguments.items())
    return f"{definition.function}({arguments}) of '{definition.target}'"
