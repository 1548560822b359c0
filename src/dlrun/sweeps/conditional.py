"""Which keys of a sweep apply to which of its choices, and which take integers.

`optimizer=adam,sgd optimizer.momentum=0,0.9`: Adam has no momentum, so its jobs get none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dlrun.config.annotations import describe_type_mismatch
from dlrun.config.overrides import get_argument
from dlrun.core.errors import UserError
from dlrun.sweeps.space import SweepOverrides
from dlrun.sweeps.study import Axis

# Overrides → their config; None where one of them is wrong.
Compose = Callable[[list[str]], "dict[str, Any] | None"]
INTEGER_KEYS = ("seed", "repeat")  # keys of the root, which have no signature to read


def resolve_conditions(overrides: SweepOverrides, compose: Compose) -> list[str]:
    """Restrict the axes of a sweep to the choices that have their key, and to integers.

    Args:
        overrides: The sweep's overrides; its axes are changed.
        compose: Makes a config of overrides.

    Returns:
        Messages for the user, one for each restricted key.
    """
    # One config for each value of each choice shows which keys exist, without all combinations.
    sample_configs = [compose(overrides.fixed)]
    messages = []
    for choice in list(overrides.axes):
        inner_keys = [
            key for key in overrides.given if key.startswith(f"{get_config_key(choice)}.")
        ]
        if not choice.values or not inner_keys:
            continue
        common = [word for word in overrides.fixed if word.partition("=")[0] not in inner_keys]
        configs = {value: compose([*common, choice.to_override(value)]) for value in choice.values}
        sample_configs += configs.values()
        for key in inner_keys:
            # A faulty config counts as one that has the key: its job will say what is wrong.
            values_with_key = tuple(
                value
                for value, config in configs.items()
                if config is None or has_config_key(config, key)
            )
            if 0 < len(values_with_key) < len(configs):
                overrides.restrict_axis(key, choice.key, values_with_key)
                messages.append(
                    f"{key}: in jobs of {choice.key}={','.join(values_with_key)}; "
                    "the others have no such setting"
                )
    overrides.axes = [
        to_integer_interval(axis, [config for config in sample_configs if config])
        for axis in overrides.axes
    ]
    return messages


def get_config_key(axis: Axis) -> str:
    """The config key that an axis sets: 'model.encoder' of encoder@model.encoder."""
    return axis.key.partition("@")[2] or axis.key


def has_config_key(config: dict[str, Any], key: str) -> bool:
    """Whether a config has a dotted key."""
    node: Any = config
    for step in key.split("."):
        if not isinstance(node, dict) or step not in node:
            return False
        node = node[step]
    return True


def to_integer_interval(axis: Axis, configs: list[dict[str, Any]]) -> Axis:
    """The axis with integer ends, where its interval is of a key that takes integers alone.

    Args:
        axis: Any axis; others are returned as they are.
        configs: Configs in which the key's argument is looked up.

    Raises:
        UserError: The interval holds no integer.
    """
    if not axis.is_interval or axis.whole:
        return axis
    # The key may exist in some configs only: the first that has it decides.
    arguments = filter(None, (get_argument(config, axis.key) for config in configs))
    argument = next(arguments, None)
    takes_integers = axis.key in INTEGER_KEYS or (
        argument is not None
        and bool(describe_type_mismatch(2.5, argument))
        and not describe_type_mismatch(2, argument)
    )
    if not takes_integers:
        return axis
    low, high = math.ceil(axis.low), math.floor(axis.high)
    if low > high:
        raise UserError(
            f"{axis.key}=interval({axis.low},{axis.high}): "
            "it takes whole numbers, and none lies there"
        )
    return replace(axis, low=low, high=high, whole=True)
