"""Names of metrics, their better direction, and which one decides. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

COST_NAMES = ("parameters", "seconds")  # what a job can be judged by besides its measures
# Runs from before 0.1.1 do not record the direction; these are all metrics that dlrun had then.
KNOWN_DIRECTIONS = {
    **dict.fromkeys(
        ("loss", "mae", "mse", "rmse", "mae_unit", "rmse_unit", "perplexity", "bits"), "min"
    ),
    **dict.fromkeys(("negative_elbo", "remaining", "answer_made", "frechet_pixels"), "min"),
    **dict.fromkeys(("mse_undamaged", "mse_pca", "bits_bigram"), "min"),
    **dict.fromkeys(("accuracy", "exact_match", "top_k", "precision", "recall", "f1"), "max"),
    **dict.fromkeys(("roc_auc", "pr_auc", "r2", "reward", "length", "diversity"), "max"),
    **dict.fromkeys(("excitement", "answer_real"), "max"),
}


def get_direction(metric: str, recorded: Mapping[str, str]) -> str:
    """The better direction of a metric.

    Args:
        metric: Its name.
        recorded: Metric → direction, as the run has recorded it.

    Returns:
        'min' or 'max'. Where nothing is recorded, dlrun's own metrics are known by name, and 'max'
        is assumed of any other; `describe_unknown_direction` has a warning for that.
    """
    return (
        recorded.get(metric)
        or ("min" if metric in COST_NAMES else get_known_direction(metric))
        or "max"
    )


def get_known_direction(metric: str) -> str:
    """The direction of a metric that dlrun has or had of its own; "" of any other.

    A metric's name comes last, after its target's: 'error_accuracy' is the accuracy of 'error'.
    """
    name = metric.rpartition("/")[2]
    matches = [
        candidate
        for candidate in KNOWN_DIRECTIONS
        if name == candidate or name.endswith(f"_{candidate}")
    ]
    if matches:
        return KNOWN_DIRECTIONS[max(matches, key=len)]
    return "min" if name.startswith(("loss_", "frechet_", "negative_bound_of_")) else ""


def describe_unknown_direction(metric: str, recorded: Mapping[str, str]) -> str:
    """The warning where a metric's direction is unknown; "" where it is known."""
    if not metric or metric in (*recorded, *COST_NAMES) or get_known_direction(metric):
        return ""
    return (
        f"which way {metric} is better was not written down by the dlrun that ran this: "
        "more is taken as better"
    )


def make_direction_map(scores: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Metric → direction, of scores that record it.

    Args:
        scores: For each result, metric → score as plain values.
    """
    return {
        name: score["goal"]
        for result in scores
        for name, score in result.items()
        if isinstance(score, dict) and score.get("goal")
    }


def choose_metric(scores: Iterable[str], requested: str | None = None) -> str:
    """The metric by which several runs are compared.

    Args:
        scores: Metric names.
        requested: The one that was asked for.

    Returns:
        The requested one, else the first that is no loss, else the first.
    """
    names = list(scores)
    return requested or next((name for name in names if not is_loss(name)), next(iter(names), ""))


def is_loss(metric: str) -> bool:
    """Whether a name is a loss's: 'loss', or 'loss_<target>' and 'loss_<group>' of several."""
    return metric == "loss" or metric.startswith("loss_")


def direction_sign(metric: str, recorded: Mapping[str, str]) -> int:
    """1 where less of a metric is better, -1 where more is; see `get_direction`."""
    return 1 if get_direction(metric, recorded) == "min" else -1
