"""The names of runs, models and tasks in reports."""

from __future__ import annotations

from typing import Any

from dlrun.config.compatibility import get_model_part_name


def get_model_name(config: dict[str, Any]) -> str:
    """'dense' from a model node whose _target_ is 'dlrun.models.dense.dense'."""
    node = config.get("model")
    return get_model_part_name(node if isinstance(node, dict) else {"_target_": str(node or "")})


def get_task_name(config: dict[str, Any]) -> str:
    """The name of the task."""
    node = config.get("task")
    return str(node.get("name", "")) if isinstance(node, dict) else str(node or "")


def get_run_title(config: dict[str, Any]) -> str:
    """'imdb · dense', or 'mnist · variational · vae' where the objective is not the usual one."""
    node = config.get("objective")
    objective = str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""
    names = (
        get_task_name(config),
        "" if objective == "supervised" else objective,
        get_model_name(config),
    )
    return " · ".join(filter(None, names))
