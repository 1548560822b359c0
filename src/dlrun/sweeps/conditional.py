"""Which keys of a sweep belong to which of its choices, and which take whole numbers: told by the parts themselves.

`optimizer=adam,sgd optimizer.momentum=0,0.9`: Adam has no momentum, so its jobs are not given any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dlrun.config.literal_overrides import argument_of
from dlrun.config.signatures import misfit
from dlrun.core.errors import Refused
from dlrun.sweeps.space import Words
from dlrun.sweeps.study import Axis

Compose = Callable[[list[str]], "dict[str, Any] | None"]  # words → their config; None where one is wrong
WHOLE = ("seed", "repeat")  # of the root's keys


def settle(given: Words, compose: Compose) -> list[str]:
    """Tell a sweep's words which choices they belong to and which are whole; answers with what is to be said of it."""
    known = [compose(given.fixed)]
    told = []
    for choice in list(given.axes):
        inner = [key for key in given.given if key.startswith(f"{place(choice)}.")]
        if not choice.values or not inner:
            continue
        alone = [word for word in given.fixed if word.partition("=")[0] not in inner]
        configs = {value: compose([*alone, choice.word(value)]) for value in choice.values}
        known += configs.values()
        for key in inner:
            having = tuple(value for value, config in configs.items() if config is None or there(config, key))
            if 0 < len(having) < len(configs):
                given.limit(key, choice.key, having)
                told.append(f"{key}: in jobs of {choice.key}={','.join(having)}; the others have no such setting")
    given.axes = [whole(axis, [config for config in known if config]) for axis in given.axes]
    return told


def place(axis: Axis) -> str:
    """Where in the config what an axis chooses stands: 'model.reader' of reader@model.reader."""
    return axis.key.partition("@")[2] or axis.key


def there(config: dict[str, Any], key: str) -> bool:
    """Whether a config has a dotted key."""
    node: Any = config
    for step in key.split("."):
        if not isinstance(node, dict) or step not in node:
            return False
        node = node[step]
    return True


def whole(axis: Axis, configs: list[dict[str, Any]]) -> Axis:
    """An interval of whole numbers, where its key takes no others. Raises Refused where there is none in it."""
    if not axis.interval or axis.whole:
        return axis
    arguments = filter(None, (argument_of(config, axis.key) for config in configs))
    argument = next(arguments, None)
    only = axis.key in WHOLE or (argument is not None and bool(misfit(2.5, argument)) and not misfit(2, argument))
    if not only:
        return axis
    low, high = math.ceil(axis.low), math.floor(axis.high)
    if low > high:
        raise Refused(f"{axis.key}=interval({axis.low},{axis.high}): it takes whole numbers, and none lies there")
    return replace(axis, low=low, high=high, whole=True)
