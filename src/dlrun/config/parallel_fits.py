"""Which fits can be trained as one, as far as their configs tell. Needs no torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from dlrun.config.settings import parallel_fits_mode
from dlrun.core import files

STACKABLE_MODELS = ("dlrun.models.dense.dense", "dlrun.models.dense.linear")
STACKABLE_OPTIMIZERS = (
    "torch.optim.SGD",
    "torch.optim.RMSprop",
    "dlrun.training.optimizers.RMSprop",
    "torch.optim.Adam",
    "torch.optim.AdamW",
)
# Settings in which the fits of one stack may differ.
PER_FIT_KEYS = (
    "optimizer.lr",
    "optimizer.weight_decay",
    "optimizer.momentum",
    "model.dropout",
    "loss_weights",
    "seed",
    "output",
    "reason",
)
# Losses that are plain means over rows.
MEAN_LOSSES = ("auto", "bce", "mse", "mae", "huber", "focal", "cross_entropy")


def incompatibility(config: Mapping[str, Any]) -> str | None:
    """Why fits of this config cannot be trained as one; None where nothing is against it."""
    engine, model = config["engine"], str(config["model"].get("_target_"))
    if model not in STACKABLE_MODELS:
        name = model.rpartition(".")[2]
        return f"model {name} has layers that cannot be stacked (dense and linear can)"
    objective = config.get("objective", {}).get("_target_", ".supervised")
    if objective.rpartition(".")[2] != "supervised":
        return "objective is not supervised"
    if config.get("augment"):
        return "augment changes the batches"
    if str(config["optimizer"].get("_target_")) not in STACKABLE_OPTIMIZERS:
        names = dict.fromkeys(name.rpartition(".")[2] for name in STACKABLE_OPTIMIZERS)
        return f"optimizer is none of {', '.join(names)}"
    if "monitor" in (config.get("scheduler") or {}):
        return "scheduler=plateau watches each fit by itself"
    return _find_engine_incompatibility(engine)


def _find_engine_incompatibility(engine: Mapping[str, Any]) -> str | None:
    reasons = {
        "engine.clip_norm bounds the gradient of one model": engine.get("clip_norm") is not None,
        "engine.accumulate is above 1": engine.get("accumulate", 1) != 1,
        "engine.precision=fp16 scales the loss of one model": engine.get("precision") == "fp16",
        "engine.compile is on": bool(engine.get("compile")),
        "engine.devices shares each fit among processes": engine.get("devices") is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def is_mean_loss(node: Mapping[str, Any]) -> bool:
    """Whether a loss, as the config names it, is a plain mean over rows."""
    module, _, name = str(node.get("_target_")).rpartition(".")
    return (
        module == "dlrun.objectives.losses"
        and name in MEAN_LOSSES
        and not node.get("class_weights")
    )


def group_compatible(configs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Group configs that differ only in `PER_FIT_KEYS`.

    A config with protocol.stacked=false, or one that cannot be stacked, is a group of its own.

    Returns:
        Groups of the configs' numbers; both groups and members keep their order.
    """
    groups: dict[str, list[int]] = {}
    for number, config in enumerate(configs):
        alone = (
            not parallel_fits_mode(config)
            or bool(config.get("test"))
            # A workflow decides itself which fits it makes.
            or "workflow" in config
            or incompatibility(config) is not None
        )
        groups.setdefault(
            f"alone {number}" if alone else serialize_shared_settings(config), []
        ).append(number)
    return list(groups.values())


def serialize_shared_settings(config: Mapping[str, Any]) -> str:
    """All settings that the members of a stack have in common, as text."""
    # Keys are removed from it below.
    common = copy.deepcopy(dict(config))
    for key in PER_FIT_KEYS:
        *outer, last = key.split(".")
        node = common
        for name in outer:
            node = node.get(name) or {}
        node.pop(last, None)
    return files.to_canonical_json(common)
