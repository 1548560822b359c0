"""The book's table as data (§4.5): what kind of problem asks for which last layer, loss and measure. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from dlrun.core.errors import in_short


@dataclass(frozen=True)
class Problem:
    """One line of the table. losses and metrics: what makes sense; the first loss is the default."""

    text: str
    last_layer: str
    losses: tuple[str, ...]
    metrics: tuple[str, ...]
    default_metrics: tuple[str, ...]


PROBLEMS = {
    "binary": Problem(
        "one of two classes",
        "sigmoid",
        ("bce", "focal", "mse", "mae", "huber"),
        ("accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc"),
        ("accuracy",),
    ),
    "category": Problem(
        "one of several classes",
        "softmax",
        ("cross_entropy", "focal", "mse", "mae"),
        ("accuracy", "top_k", "precision", "recall", "f1", "roc_auc", "perplexity", "bits"),
        ("accuracy",),
    ),
    "tokens": Problem(
        "at each place of a text, the token that comes next",
        "softmax",
        ("cross_entropy",),
        ("perplexity", "bits", "accuracy", "top_k"),
        ("perplexity", "bits"),
    ),
    "multilabel": Problem(
        "any of several labels",
        "sigmoid",
        ("bce", "focal", "mse"),
        ("accuracy", "exact_match", "precision", "recall", "f1", "roc_auc", "pr_auc"),
        ("accuracy",),
    ),
    "number": Problem(
        "a number",
        "none",
        ("mse", "mae", "huber"),
        ("mae", "mse", "rmse", "r2", "mae_unit", "rmse_unit"),
        ("mae", "rmse"),
    ),
    "fraction": Problem(
        "a number in [0, 1]", "sigmoid", ("mse", "bce", "mae", "huber"), ("mae", "mse", "rmse", "r2"), ("mae", "rmse")
    ),
}

OWN = {"loss": "losses", "metric": "metrics"}  # where a target has its own
CHOOSE = {"losses": "+loss@losses.{}=NAME", "metrics": "'+metric@metrics.{}=[NAME]'"}
CONTRADICTIONS = {
    ("cross_entropy", "binary"): "a binary target has one logit, and a softmax over one logit is always 1",
    ("cross_entropy", "multilabel"): "a softmax makes the labels exclude each other, but a row may have several",
    ("cross_entropy", "number"): "a number is no class",
    ("cross_entropy", "fraction"): "a number is no class",
    ("bce", "category"): "the classes exclude each other, but a sigmoid for each of them does not know that",
    ("bce", "tokens"): "one token excludes the others, but a sigmoid for each of them does not know that",
    ("bce", "number"): "the target is not confined to [0, 1]",
    ("focal", "number"): "a number is no class",
    ("focal", "fraction"): "a number is no class",
}


def usual_metrics(kind: str, scaled: bool) -> tuple[str, ...]:
    """The measures that nobody asked for. scaled: a number is measured in another unit than its own."""
    return PROBLEMS[kind].default_metrics + (("mae_unit",) if scaled else ())


def best_constant(metric: str, kind: str) -> Literal["prior", "median", "yes"]:
    """Of the answers that are the same for every row, the one that is best by a metric.

    prior: class frequencies, of which the largest is the answer, or the mean. It is best by cross-entropy, accuracy and
    squared errors, and ranks as well as any. yes: for binary targets and labels, which precision, recall and F1 favor.
    """
    if kind in ("number", "fraction"):
        return "median" if metric in ("mae", "mae_unit") else "prior"
    return "yes" if kind in ("binary", "multilabel") and metric in ("precision", "recall", "f1") else "prior"


def loss_fault(loss: str, kind: str) -> str | None:
    """Why this loss makes no sense for this kind of target, with what does; None if it makes sense."""
    problem = PROBLEMS[kind]
    if loss == "auto" or loss in problem.losses:
        return None
    reason = CONTRADICTIONS.get((loss, kind), "it is not defined for it")
    return f"loss={loss} on a {kind} target: {reason}; there are: {', '.join(problem.losses)}"


def metric_fault(metric: str, kind: str) -> str | None:
    """Why this metric makes no sense for this kind of target, with what does; None if it makes sense."""
    problem = PROBLEMS[kind]
    if metric in problem.metrics:
        return None
    return f"metric={metric} on a {kind} target is not defined; there are: {', '.join(problem.metrics)}"


def for_one(fault: str, group: str, target: str) -> str:
    """A fault of what all targets have, with how the target that it is about gets its own."""
    return f"{fault}; that is target '{target}', which gets its own by {CHOOSE[OWN[group]].format(target)}"


def of_target(config: dict[str, Any], group: str, target: str) -> Any:
    """The loss (`loss`), or the measures (`metric`), of a target: its own, where it has some, or those of all."""
    return (config.get(OWN[group]) or {}).get(target) or config.get(group)


def targets_fault(config: dict[str, Any], targets: Iterable[str]) -> str | None:
    """Which of the settings by target name one that is not there; None if all are."""
    for group in ("losses", "metrics", "loss_weights"):
        if unknown := sorted(set(config.get(group) or {}) - set(targets)):
            return f"{group} names {', '.join(unknown)}; the targets are {in_short(targets)}"
    return None
