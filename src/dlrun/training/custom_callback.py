"""A callback of the user's own, a function of the trainer; its contract stands below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dlrun.config.custom_contract import (
    Plugins,
    describe_custom_error,
    get_callable_parameters,
    is_custom,
)
from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError


def build_callback(node: Mapping[str, Any], plugins: Plugins) -> Any:
    """The callback that a node describes.

    The contract of a callback of one's own: a function `(trainer)`, called after each epoch, once its training and
    validation are done. `trainer.run_epoch` counts from 1; `trainer.read_history` has a row for each epoch and split, with
    `epoch`, `split` and `values`; `trainer.folder` is where the job's checkpoints are. To end the fit it sets
    `trainer.leave_group` to the reason; `trainer.keep("best")` keeps the weights of now. It keeps no state: a run that is
    resumed has nothing but the history. Further arguments are settings; a class is made with its settings and then
    called, and may have a `begin(trainer)`, called when a fit begins or goes on.

    Example:
        def patient(trainer, most=0.01):
            losses = [row.values["loss"] for row in trainer.history if row.split == "val"]
            if losses and losses[-1] < most:
                trainer.stop = f"the validation loss is below {most}"
    """
    made = build_part(node, kind="callback", plugins=plugins)
    if not callable(made):
        raise UserError(f"callback {node['_target_']} returns a {type(made).__name__}; expected a function (trainer), "
                      "or a class with __call__(self, trainer)")  # fmt: skip
    if is_custom(node["_target_"]) and not get_callable_parameters(made):
        raise UserError(f"callback {node['_target_']} takes no argument; write (trainer)")
    return CustomCallback(made, node["_target_"]) if isinstance(made, partial) else made


@dataclass(frozen=True)
class CustomCallback:
    """A function of the user's own after each epoch; what fails in it is said in one line."""

    function: Callable[[Any], Any]
    name: str

    def __call__(self, trainer: Any) -> None:
        """Call it."""
        try:
            self.function(trainer)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise UserError(describe_custom_error(f"callback {self.name}", error)) from error
