"""How numbers, times and metrics are written and ranked for people. Needs no torch."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
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


# From here on numbers are written with an exponent: prices in full, and their intervals alike.
LONG = 1e9
MAX_LISTED_FILES = 5  # in a message


def counted(count: int, noun: str) -> str:
    """A count with its noun: '0 rows', '1 row', '1,234 rows'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_number(value: float | None) -> str:
    """At least four significant digits, and no needless exponent: 0.8891, 12.35, 109123, 5.2e-05.

    Returns:
        'undefined' for nan; "" for None.
    """
    if value is None:
        return ""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return str(value)
    size = abs(value)
    if size >= LONG or 0 < size < 0.0001:
        return f"{value:.3e}" if size >= LONG else f"{value:.3g}"
    return f"{value:.4f}" if size < 10 else f"{value:.{max(0, 6 - len(str(int(size))) - 1)}f}"


def format_duration(seconds: float) -> str:
    """A time in words: '8 s', '3:07 min', '2:05 h'."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60}:{rounded % 60:02} min"
    return f"{rounded // 3600}:{rounded // 60 % 60:02} h"


def format_file_list(names: list[str]) -> str:
    """Join the first names, and say how many more there are."""
    more = f" and {len(names) - MAX_LISTED_FILES:,} more" if len(names) > MAX_LISTED_FILES else ""
    return ", ".join(names[:MAX_LISTED_FILES]) + more


def wrap_text(head: str, text: str) -> list[str]:
    """A heading with a hanging text, as wide as the terminal; one line in a pipe."""
    if not sys.stdout.isatty():
        return [f"{head}{text}"]
    # 20 columns at least, however long the heading is.
    columns = max(shutil.get_terminal_size().columns, len(head) + 20)
    return textwrap.wrap(
        text,
        columns,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
