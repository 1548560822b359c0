"""Steps 2 and 3: what success is and how it is measured, chosen from what is known of the development rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlrun.config.compatibility import PROBLEM_TYPES, get_metric_error, get_metric_names
from dlrun.config.groups import load_builtin_option
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.data.audit.finding import interval_half_width
from dlrun.evaluation.metrics import METRICS, get_default_metric_names
from dlrun.models.baselines import compute_window_steps

IMBALANCE_THRESHOLD = 2 / 3  # share of the commonest class from which accuracy flatters
HOLDOUT_MARGIN, KFOLD_MARGIN = (
    0.025,
    0.05,
)  # half a 95 % interval of a share: of one hold-out, of all rows together
DEFAULT_METRICS = {
    "binary": ("accuracy", "roc_auc"),
    "category": ("accuracy",),
    "multilabel": ("pr_auc", "accuracy"),
    "number": ("mae", "rmse"),
    "fraction": ("mae", "rmse"),
}
SERIES_REASON = "one far miss does not rule the mean absolute error; mae_unit beside it is in the target's own unit"
IMBALANCED_METRICS = {"binary": ("pr_auc", "f1", "accuracy"), "category": ("f1", "accuracy")}


@dataclass(frozen=True)
class Choice:
    """What was chosen, the nodes of the config that say so, and why. constant: the answer best by a measure."""

    name: str
    nodes: dict[str, Any]
    reason: str
    constant: str = "prior"


def select_metric(raw: Dataset, asked: str) -> Choice:
    """The measure of success of the first target, with those beside it. asked: auto, or a measure's name."""
    target, kind = next(iter(raw.targets.items()))
    if kind not in DEFAULT_METRICS:
        raise UserError(f"a workflow judges one answer a row, and target '{target}' is {PROBLEM_TYPES[kind].text}; "
                      "for a text say data.predict=next")  # fmt: skip
    share = get_top_class_fraction(raw, target) if kind in IMBALANCED_METRICS else 0.0
    names = IMBALANCED_METRICS[kind] if share > IMBALANCE_THRESHOLD else DEFAULT_METRICS[kind]
    names = (*names, "mae_unit") if raw.forecast else names
    reason = SERIES_REASON if raw.forecast else _format_reason(kind, share)
    if asked != "auto":
        if fault := get_metric_error(asked, kind):
            raise UserError(f"workflow.{fault.replace('metric', 'measure', 1)}")
        names, reason = (asked, *(name for name in names if name != asked)), "it was asked for"
    several = len(raw.targets) > 1
    fits = all(name in get_metric_names(other) for other in raw.targets.values() for name in names)
    nodes = (
        {key: node for name in names for key, node in load_builtin_option("metric", name).items()}
        if fits
        else {}
    )
    first = names[0] if fits else get_default_metric_names(kind, scaled=False)[0]
    if not fits and asked != "auto":
        kinds = ", ".join(f"{name} ({other})" for name, other in raw.targets.items())
        raise UserError(f"workflow.measure={asked} cannot be taken of every target: {kinds}")
    if not fits:
        reason = (
            "the targets are of different kinds, and each is judged by the usual measure of its own"
        )
    return Choice(
        f"{target}_{first}" if several else first,
        nodes,
        reason,
        METRICS[first].get_best_constant(kind),
    )


def get_series_baselines(raw: Dataset) -> tuple[str, ...]:
    """The answers that a series gives for nothing: those that its windows hold for every target."""
    columns = {
        name
        for series, kind in raw.inputs.items()
        if kind == "series"
        for name in raw.labels.get(series, ())
    }
    if not raw.forecast or any(ahead.column not in columns for ahead in raw.forecast.values()):
        return ()
    try:
        steps = [
            step == ahead.window_length - 1
            for ahead in raw.forecast.values()
            for step in compute_window_steps(ahead, None)
        ]
    except UserError:
        return ("last_value",)
    return (
        ("last_value",) if all(steps) else ("last_value", "same_time_before")
    )  # of daily rows they are the same


def get_top_class_fraction(raw: Dataset, target: str) -> float:
    """The share of the commonest class among the development rows."""
    counts = np.unique(np.asarray(raw.dev[target]).astype(str), return_counts=True)[1]
    return float(counts.max() / counts.sum())


def _format_reason(kind: str, share: float) -> str:
    if kind == "multilabel":
        return "mean average precision does not reward silence about rare labels, as the share of right labels would"
    if kind in ("number", "fraction"):
        return (
            "the mean absolute error is in the target's own unit, and one far miss does not rule it"
        )
    classes = f"the commonest class has {share:.1%} of the rows"
    if share <= IMBALANCE_THRESHOLD:
        return f"{classes}, so the classes are balanced enough for accuracy"
    better = "average precision" if kind == "binary" else "the mean F1 over classes"
    return f"{classes}: always predicting it would look good, so {better} is used, which does not reward that"


def select_protocol(raw: Dataset, asked: str, own: dict[str, Any]) -> Choice:
    """How the measure is taken. asked: auto, or task for the node that the config holds already.

    Which rows are held out is decided by the config's protocol.seed either way.
    """
    found = _build_protocol(raw, asked, own)
    return (
        replace(found, nodes={**found.nodes, "seed": own["seed"]})
        if own.get("seed") is not None
        else found
    )


def _build_protocol(raw: Dataset, asked: str, own: dict[str, Any]) -> Choice:
    rows = len(raw)
    if asked == "task":
        return Choice(
            own["_target_"].rpartition(".")[2], own, "the task, or the command line, says so"
        )
    if raw.forecast:
        reason = "the windows of a series overlap: every fold trains on the past and is measured after a gap of one window"
        return Choice("walk_forward", load_builtin_option("protocol", "walk_forward"), reason)
    if raw.order:
        reason = f"'{raw.order}' puts the rows in time: every fold trains on the past and is measured on what came after"
        reason += f"; owners ('{raw.group}') are then on both sides" if raw.group else ""
        return Choice("walk_forward", load_builtin_option("protocol", "walk_forward"), reason)
    name, reason = _select_by_size(rows)
    node = load_builtin_option("protocol", name)
    if raw.group:
        owners = len(np.unique(np.asarray(raw.dev[raw.group]).astype(str)))
        reason += f"; each of the {owners:,} owners of rows ('{raw.group}') is on one side only"
        node |= {"by": "group"}
    return Choice(name, node, reason)


def _select_by_size(rows: int) -> tuple[str, str]:
    held_out = rows // 5
    one, all_rows = interval_half_width(held_out), interval_half_width(rows)
    if one <= HOLDOUT_MARGIN:
        return (
            "holdout",
            f"on a fifth of {rows:,} rows a 95 % interval is at most ± {100 * one:.1f} points, so one hold-out will do",
        )
    wide = f"on a hold-out of {held_out:,} rows a 95 % interval would be ± {100 * one:.1f} points"
    if all_rows <= KFOLD_MARGIN:
        return (
            "kfold",
            f"{wide}; with k folds all {rows:,} rows take part: ± {100 * all_rows:.1f} points",
        )
    return (
        "iterated_kfold",
        f"{wide}, and even on all {rows:,} rows ± {100 * all_rows:.1f}: k folds, several times shuffled",
    )
