"""Which fits can be trained together as one, as far as their configs say. Needs no torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from dlrun.core import json_text

STACKABLE_MODELS = ("dlrun.models.dense.dense", "dlrun.models.dense.linear")
STACKABLE_OPTIMIZERS = (
    "torch.optim.SGD",
    "torch.optim.RMSprop",
    "dlrun.training.optimizers.RMSprop",
    "torch.optim.Adam",
    "torch.optim.AdamW",
)
PER_FIT_KEYS = (  # what members may have for themselves
    *("optimizer.lr", "optimizer.weight_decay", "optimizer.momentum", "model.dropout"),
    *("loss_weights", "seed", "output", "reason"),
)
MEAN_LOSSES = (
    "auto",
    "bce",
    "mse",
    "mae",
    "huber",
    "focal",
    "cross_entropy",
)  # losses that are plain means over rows


def parallel_fits_mode(config: Mapping[str, Any]) -> bool | str:
    """protocol.stacked: true, false or auto; older runs say nothing of it, and trained one fit after the other."""
    found: bool | str = config["protocol"].get("stacked", False)
    return found


def remove_common_settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's node without what all of them have: how fits are trained, and the seed, which is handed over."""
    return {key: value for key, value in node.items() if key not in ("stacked", "seed")}


def get_split_seed(config: Mapping[str, Any]) -> int:
    """What decides which rows are held out: protocol.seed, else the seed of everything, as in older runs."""
    own: int | None = config["protocol"].get("seed")
    return int(config["seed"]) if own is None else own


def incompatibility(config: Mapping[str, Any]) -> str | None:
    """Why fits of this config cannot be trained as one; None where nothing is against it so far."""
    engine, model = config["engine"], str(config["model"].get("_target_"))
    against = {
        f"model {model.rpartition('.')[2]} has layers that cannot be stacked (dense and linear can)": model
        not in STACKABLE_MODELS,
        "objective is not supervised": config.get("objective", {}).get("_target_", ".supervised")
        .rpartition(".")[2] != "supervised",
        "augment changes the batches": bool(config.get("augment")),
        f"optimizer is none of {', '.join(dict.fromkeys(name.rpartition('.')[2] for name in STACKABLE_OPTIMIZERS))}": str(
            config["optimizer"].get("_target_")) not in STACKABLE_OPTIMIZERS,
        "scheduler=plateau watches each fit by itself": "monitor" in (config.get("scheduler") or {}),
        "engine.clip_norm bounds the gradient of one model": engine.get("clip_norm") is not None,
        "engine.accumulate is above 1": engine.get("accumulate", 1) != 1,
        "engine.precision=fp16 scales the loss of one model": engine.get("precision") == "fp16",
        "engine.compile is on": bool(engine.get("compile")),
        "engine.devices shares each fit among processes": engine.get("devices") is not None,
    }  # fmt: skip
    return next((reason for reason, holds in against.items() if holds), None)


def is_mean_loss(node: Mapping[str, Any]) -> bool:
    """Whether a loss, as the config names it, is a plain mean over rows."""
    module, _, name = str(node.get("_target_")).rpartition(".")
    return (
        module == "dlrun.objectives.losses"
        and name in MEAN_LOSSES
        and not node.get("class_weights")
    )


def group_compatible(configs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Numbers of configs, those together that differ only in what each fit may have for itself (OWN).

    A config that asks for protocol.stacked=false, or cannot be stacked, stands alone. Groups and members keep order.
    """
    groups: dict[str, list[int]] = {}
    for number, config in enumerate(configs):
        alone = (
            not parallel_fits_mode(config)
            or bool(config.get("test"))
            or "workflow" in config
            or incompatibility(config) is not None
        )
        groups.setdefault(
            f"alone {number}" if alone else serialize_shared_settings(config), []
        ).append(number)
    return list(groups.values())


def serialize_shared_settings(config: Mapping[str, Any]) -> str:
    """All that members of one stack have in common, as text."""
    common = copy.deepcopy(dict(config))
    for key in PER_FIT_KEYS:
        *outer, last = key.split(".")
        place = common
        for name in outer:
            place = place.get(name) or {}
        place.pop(last, None)
    return json_text.to_canonical_json(common)
