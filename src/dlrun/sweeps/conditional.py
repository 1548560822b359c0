"""Which keys of a sweep belong to which of its choices, and which take whole numbers: told by the parts themselves.

`optimizer=adam,sgd optimizer.momentum=0,0.9`: Adam has no momentum, so its jobs are not given any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dlrun.config.literal_overrides import get_argument
from dlrun.config.signatures import describe_type_mismatch
from dlrun.core.errors import UserError
from dlrun.sweeps.space import SweepOverrides
from dlrun.sweeps.study import Axis

Compose = Callable[
    [list[str]], "dict[str, Any] | None"
]  # words → their config; None where one is wrong
INTEGER_KEYS = ("seed", "repeat")  # of the root's keys


def resolve_conditions(given: SweepOverrides, compose: Compose) -> list[str]:
    """Tell a sweep's words which choices they belong to and which are whole; answers with what is to be said of it."""
    known = [compose(given.fixed)]
    told = []
    for choice in list(given.axes):
        inner = [key for key in given.given if key.startswith(f"{get_config_key(choice)}.")]
        if not choice.values or not inner:
            continue
        alone = [word for word in given.fixed if word.partition("=")[0] not in inner]
        configs = {value: compose([*alone, choice.to_override(value)]) for value in choice.values}
        known += configs.values()
        for key in inner:
            having = tuple(
                value
                for value, config in configs.items()
                if config is None or has_config_key(config, key)
            )
            if 0 < len(having) < len(configs):
                given.restrict_axis(key, choice.key, having)
                told.append(
                    f"{key}: in jobs of {choice.key}={','.join(having)}; the others have no such setting"
                )
    given.axes = [
        to_integer_interval(axis, [config for config in known if config]) for axis in given.axes
    ]
    return told


def get_config_key(axis: Axis) -> str:
    """Where in the config what an axis chooses stands: 'model.reader' of reader@model.reader."""
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
    """An interval of whole numbers, where its key takes no others. Raises UserError where there is none in it."""
    if not axis.is_interval or axis.whole:
        return axis
    arguments = filter(None, (get_argument(config, axis.key) for config in configs))
    argument = next(arguments, None)
    only = axis.key in INTEGER_KEYS or (
        argument is not None
        and bool(describe_type_mismatch(2.5, argument))
        and not describe_type_mismatch(2, argument)
    )
    if not only:
        return axis
    low, high = math.ceil(axis.low), math.floor(axis.high)
    if low > high:
        raise UserError(
            f"{axis.key}=interval({axis.low},{axis.high}): it takes whole numbers, and none lies there"
        )
    return replace(axis, low=low, high=high, whole=True)
