"""Names of measures, which way of each is better, and which of them decides. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

COST_NAMES = ("parameters", "seconds")  # what a job can be judged by besides its measures
KNOWN_DIRECTIONS = {  # runs of before 0.1.1 do not say it of their measures; all that dlrun had of its own
    **dict.fromkeys(
        ("loss", "mae", "mse", "rmse", "mae_unit", "rmse_unit", "perplexity", "bits"), "min"
    ),
    **dict.fromkeys(("negative_elbo", "remaining", "answer_made", "frechet_pixels"), "min"),
    **dict.fromkeys(("mse_undamaged", "mse_pca", "bits_bigram"), "min"),
    **dict.fromkeys(("accuracy", "exact_match", "top_k", "precision", "recall", "f1"), "max"),
    **dict.fromkeys(("roc_auc", "pr_auc", "r2", "reward", "length", "diversity"), "max"),
    **dict.fromkeys(("excitement", "answer_real"), "max"),
}


def get_direction(measure: str, said: Mapping[str, str]) -> str:
    """'min' where less of this measure is better, else 'max'. said: what the run has written down of its measures.

    Where it says nothing, dlrun's own measures are known by name; of any other more is taken to be better, and
    `describe_unknown_direction` has a line for that.
    """
    return (
        said.get(measure)
        or ("min" if measure in COST_NAMES else get_known_direction(measure))
        or "max"
    )


def get_known_direction(measure: str) -> str:
    """The direction of a measure that dlrun has, or had, of its own; '' of any other.

    A measure's name comes last, behind that of its target: 'error_accuracy' is the accuracy of the target 'error'.
    """
    name = measure.rpartition("/")[2]
    known = [own for own in KNOWN_DIRECTIONS if name == own or name.endswith(f"_{own}")]
    if known:
        return KNOWN_DIRECTIONS[max(known, key=len)]
    return "min" if name.startswith(("loss_", "frechet_", "negative_bound_of_")) else ""


def describe_unknown_direction(measure: str, said: Mapping[str, str]) -> str:
    """What is to be said where nobody knows which way a measure is better; '' where it is known."""
    if not measure or measure in (*said, *COST_NAMES) or get_known_direction(measure):
        return ""
    return f"which way {measure} is better was not written down by the dlrun that ran this: more is taken as better"


def make_direction_map(scores: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Measure → its direction, as scores (measure → plain score) say it; without those that do not."""
    return {
        name: s["goal"]
        for each in scores
        for name, s in each.items()
        if isinstance(s, dict) and s.get("goal")
    }


def choose_metric(scores: Iterable[str], wanted: str | None = None) -> str:
    """The measure that several runs are told apart by: the one asked for, else the first no loss, else the first."""
    names = list(scores)
    return wanted or next(
        (name for name in names if not name.startswith("loss")), names[0] if names else ""
    )


def direction_sign(measure: str, said: Mapping[str, str]) -> int:
    """1 where less of a measure is better, -1 where more is, see `get_direction`."""
    return 1 if get_direction(measure, said) == "min" else -1
