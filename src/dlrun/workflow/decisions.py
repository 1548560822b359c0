"""Steps 2 and 3: the metric of success and the protocol, chosen from the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlrun.config.compatibility import PROBLEM_TYPES, get_metric_error, get_metric_names
from dlrun.config.parts import load_builtin_option
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.data.audit.finding import interval_half_width
from dlrun.evaluation.metrics import METRICS, get_default_metric_names
from dlrun.models.baselines import compute_window_steps

# The share of the most frequent class above which accuracy is misleading.
IMBALANCE_THRESHOLD = 2 / 3
# The largest acceptable half-width of a 95 % interval of a proportion, on one hold-out set and on
# all rows together.
HOLDOUT_MARGIN = 0.025
KFOLD_MARGIN = 0.05
# The first one is the metric of success; the others are shown beside it.
DEFAULT_METRICS = {
    "binary": ("accuracy", "roc_auc"),
    "category": ("accuracy",),
    "multilabel": ("pr_auc", "accuracy"),
    "number": ("mae", "rmse"),
    "fraction": ("mae", "rmse"),
}
SERIES_REASON = (
    "one far miss does not rule the mean absolute error; mae_unit beside it is in the target's "
    "own unit"
)
# The same for targets above the threshold.
IMBALANCED_METRICS = {"binary": ("pr_auc", "f1", "accuracy"), "category": ("f1", "accuracy")}


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        name: The name of the choice.
        nodes: The nodes of the config that carry it out.
        reason: Why it was chosen.
        constant: Which constant prediction is the best by a metric.
    """

    name: str
    nodes: dict[str, Any]
    reason: str
    constant: str = "prior"


def select_metric(dataset: Dataset, requested: str) -> Choice:
    """Choose the metric of success for the first target, with others to be shown beside it.

    Args:
        dataset: The data.
        requested: "auto", or the name of a metric.

    Raises:
        UserError: Where no metric judges the target, or the requested one does not.
    """
    target, kind = next(iter(dataset.targets.items()))
    if kind not in DEFAULT_METRICS:
        raise UserError(
            f"a workflow judges one prediction a row, and target '{target}' is "
            f"{PROBLEM_TYPES[kind].text}; for a text say data.predict=next"
        )
    names, reason = _rank_metrics(dataset, target, kind, requested)
    # One metric for all targets, where it suits them all; else each has the usual one of its kind.
    fits_all = all(
        set(names) <= set(get_metric_names(target_kind)) for target_kind in dataset.targets.values()
    )
    nodes: dict[str, Any] = {}
    first = get_default_metric_names(kind, scaled=False)[0]
    if fits_all:
        first = names[0]
        for name in names:
            nodes |= load_builtin_option("metric", name)
    elif requested != "auto":
        kinds = ", ".join(f"{name} ({kind})" for name, kind in dataset.targets.items())
        raise UserError(f"workflow.measure={requested} cannot be taken of every target: {kinds}")
    else:
        reason = (
            "the targets are of different kinds, and each is judged by the usual measure of its own"
        )
    # With several targets, a score carries the name of its target.
    full_name = f"{target}_{first}" if len(dataset.targets) > 1 else first
    return Choice(full_name, nodes, reason, METRICS[first].get_best_constant(kind))


def _rank_metrics(
    dataset: Dataset, target: str, kind: str, requested: str
) -> tuple[tuple[str, ...], str]:
    """Return the metrics that suit the first target, the best suited first, and the reason."""
    share = get_top_class_fraction(dataset, target) if kind in IMBALANCED_METRICS else 0.0
    names = IMBALANCED_METRICS[kind] if share > IMBALANCE_THRESHOLD else DEFAULT_METRICS[kind]
    names = (*names, "mae_unit") if dataset.forecast else names
    if requested == "auto":
        return names, SERIES_REASON if dataset.forecast else _format_reason(kind, share)
    if fault := get_metric_error(requested, kind):
        raise UserError(f"workflow.{fault.replace('metric', 'measure', 1)}")
    return (requested, *(name for name in names if name != requested)), "it was asked for"


def get_series_baselines(dataset: Dataset) -> tuple[str, ...]:
    """Return the forecasts without a model that the windows of a series allow for every target."""
    columns = {
        name
        for series, kind in dataset.inputs.items()
        if kind == "series"
        for name in dataset.labels.get(series, ())
    }
    if not dataset.forecast or any(
        horizon.column not in columns for horizon in dataset.forecast.values()
    ):
        return ()
    try:
        steps = [
            step == horizon.window_length - 1
            for horizon in dataset.forecast.values()
            for step in compute_window_steps(horizon, None)
        ]
    except UserError:
        return ("last_value",)
    # Of daily rows, the last value is the one at the same time of the day before.
    return ("last_value",) if all(steps) else ("last_value", "same_time_before")


def get_top_class_fraction(dataset: Dataset, target: str) -> float:
    """Return the fraction of the most frequent class among training and validation rows."""
    counts = np.unique(np.asarray(dataset.dev[target]).astype(str), return_counts=True)[1]
    return float(counts.max() / counts.sum())


def _format_reason(kind: str, share: float) -> str:
    if kind == "multilabel":
        return (
            "mean average precision does not reward silence about rare labels, as the share of "
            "right labels would"
        )
    if kind in ("number", "fraction"):
        return (
            "the mean absolute error is in the target's own unit, and one far miss does not rule it"
        )
    classes = f"the commonest class has {share:.1%} of the rows"
    if share <= IMBALANCE_THRESHOLD:
        return f"{classes}, so the classes are balanced enough for accuracy"
    better = "average precision" if kind == "binary" else "the mean F1 over classes"
    return (
        f"{classes}: always predicting it would look good, so {better} is used, which does not "
        "reward that"
    )


def select_protocol(dataset: Dataset, requested: str, configured: dict[str, Any]) -> Choice:
    """Choose how the metric is estimated.

    Which rows are held out is decided by the config's protocol.seed either way.

    Args:
        dataset: The data.
        requested: "auto", or "task" for the node that the config holds already.
        configured: That node.
    """
    choice = _build_protocol(dataset, requested, configured)
    if configured.get("seed") is None:
        return choice
    return replace(choice, nodes={**choice.nodes, "seed": configured["seed"]})


def _build_protocol(dataset: Dataset, requested: str, configured: dict[str, Any]) -> Choice:
    rows = len(dataset)
    if requested == "task":
        return Choice(
            configured["_target_"].rpartition(".")[2],
            configured,
            "the task, or the command line, says so",
        )
    if dataset.forecast:
        reason = (
            "the windows of a series overlap: every fold trains on the past and is measured after "
            "a gap of one window"
        )
        return Choice("walk_forward", load_builtin_option("protocol", "walk_forward"), reason)
    if dataset.order:
        reason = (
            f"'{dataset.order}' puts the rows in time: every fold trains on the past and is "
            "measured on what came after"
        )
        reason += f"; owners ('{dataset.group}') are then on both sides" if dataset.group else ""
        return Choice("walk_forward", load_builtin_option("protocol", "walk_forward"), reason)
    name, reason = _select_by_size(rows)
    node = load_builtin_option("protocol", name)
    if dataset.group:
        owners = len(np.unique(np.asarray(dataset.dev[dataset.group]).astype(str)))
        reason += f"; each of the {owners:,} owners of rows ('{dataset.group}') is on one side only"
        # Rows of one owner on both sides would leak from training to validation.
        node |= {"by": "group"}
    return Choice(name, node, reason)


def _select_by_size(rows: int) -> tuple[str, str]:
    num_held_out = rows // 5
    # The widest interval of a proportion, at 50 %, is the criterion for every kind of target.
    holdout_margin, kfold_margin = interval_half_width(num_held_out), interval_half_width(rows)
    holdout_points = f"± {100 * holdout_margin:.1f} points"
    if holdout_margin <= HOLDOUT_MARGIN:
        reason = (
            f"on a fifth of {rows:,} rows a 95 % interval is at most {holdout_points}, "
            "so one hold-out will do"
        )
        return "holdout", reason
    problem = f"on a hold-out of {num_held_out:,} rows a 95 % interval would be {holdout_points}"
    kfold_points = f"± {100 * kfold_margin:.1f}"
    if kfold_margin <= KFOLD_MARGIN:
        reason = f"{problem}; with k folds all {rows:,} rows take part: {kfold_points} points"
        return "kfold", reason
    reason = (
        f"{problem}, and even on all {rows:,} rows {kfold_points}: k folds, several times shuffled"
    )
    return "iterated_kfold", reason
