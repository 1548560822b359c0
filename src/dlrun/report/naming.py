"""What runs, models and tasks are called in reports."""

from __future__ import annotations

from typing import Any

from dlrun.config.compatibility import name_of


def name_of_model(config: dict[str, Any]) -> str:
    """'dense' from a model node whose _target_ is 'dlrun.models.dense.dense'."""
    node = config.get("model")
    return name_of(node if isinstance(node, dict) else {"_target_": str(node or "")})


def name_of_task(config: dict[str, Any]) -> str:
    """The name of the task."""
    node = config.get("task")
    return str(node.get("name", "")) if isinstance(node, dict) else str(node or "")


def called(config: dict[str, Any]) -> str:
    """'imdb · dense', or 'mnist · variational · vae' where the objective is not the usual one."""
    node = config.get("objective")
    objective = str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""
    names = (name_of_task(config), "" if objective == "supervised" else objective, name_of_model(config))
    return " · ".join(filter(None, names))
