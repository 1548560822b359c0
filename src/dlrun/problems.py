"""The book's table as data (§4.5): what kind of problem asks for which last layer, loss and measure. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


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
        ("accuracy", "top_k", "precision", "recall", "f1", "roc_auc"),
        ("accuracy",),
    ),
    "multilabel": Problem(
        "any of several labels",
        "sigmoid",
        ("bce", "focal", "mse"),
        ("accuracy", "exact_match", "precision", "recall", "f1", "roc_auc", "pr_auc"),
        ("accuracy",),
    ),
    "number": Problem("a number", "none", ("mse", "mae", "huber"), ("mae", "mse", "rmse", "r2"), ("mae", "rmse")),
    "fraction": Problem(
        "a number in [0, 1]", "sigmoid", ("mse", "bce", "mae", "huber"), ("mae", "mse", "rmse", "r2"), ("mae", "rmse")
    ),
}

CONTRADICTIONS = {
    ("cross_entropy", "binary"): "a binary target has one logit, and a softmax over one logit is always 1",
    ("cross_entropy", "multilabel"): "a softmax makes the labels exclude each other, but a row may have several",
    ("cross_entropy", "number"): "a number is no class",
    ("cross_entropy", "fraction"): "a number is no class",
    ("bce", "category"): "the classes exclude each other, but a sigmoid for each of them does not know that",
    ("bce", "number"): "the target is not confined to [0, 1]",
    ("focal", "number"): "a number is no class",
    ("focal", "fraction"): "a number is no class",
}


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
