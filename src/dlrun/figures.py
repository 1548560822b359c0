"""How a measure is written for people, and which way it is better. Needs nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

LOWER = {
    *("loss", "mae", "mse", "rmse", "perplexity", "bits", "error", "frechet"),
    *("negative", "remaining", "made"),  # negative_elbo, remaining, answer_made
}
HIGHER = {"accuracy", "match", "k", "precision", "recall", "f1", "auc", "r2"}  # last words of measures


def lower_is_better(measure: str) -> bool:
    """Whether less of this measure is better: losses and errors ('loss', 'loss_generator', 'price_mae').

    A measure's name comes last, behind that of its target: 'error_accuracy' is the accuracy of the target 'error'.
    """
    words = re.split(r"[^a-z0-9]+", measure.lower())
    return words[-1] not in HIGHER and not LOWER.isdisjoint(words)


def deciding(scores: Iterable[str], wanted: str | None = None) -> str:
    """The measure that several runs are told apart by: the one asked for, else the first no loss, else the first."""
    names = list(scores)
    return wanted or next((name for name in names if not name.startswith("loss")), names[0] if names else "")


def sign(measure: str) -> int:
    """1 where less of a measure is better, -1 where more is; 'parameters' and 'seconds' are costs."""
    return 1 if lower_is_better(measure) or measure in ("parameters", "seconds") else -1


def number(value: float | None) -> str:
    """Four significant figures at least, and no needless exponent: 0.8891, 12.35, 5.2e-05."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 100000 or 0 < size < 0.0001:
        return f"{value:.3g}"
    return f"{value:.4f}" if size < 10 else f"{value:.{max(0, 6 - len(str(int(size))) - 1)}f}"
