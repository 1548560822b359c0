"""Callbacks of the user's own: functions of the trainer, or classes.

Their contract stands below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dlrun.config.custom_contract import describe_custom_error, get_callable_parameters
from dlrun.config.signatures import is_custom
from dlrun.core.errors import UserError
from dlrun.training.callbacks import Callback
from dlrun.training.trainer import Trainer


def wrap_callback(callback: Any, target: str) -> Callback:
    """A callback of the user's own, as dlrun calls it.

    A callback of one's own is a function `(trainer)`, called after each epoch, once its training
    and validation are done. `trainer.epoch` counts from 1; `trainer.history` has a row for each
    epoch and split, with `epoch`, `split` and `values`; `trainer.folder` is where the job's
    checkpoints are. To end the fit it sets `trainer.stop` to the reason; `trainer.keep("best")`
    keeps the weights of now. It keeps no state: a run that is resumed has nothing but the history.
    Further arguments are settings; a class is built with its settings and then called, and may have
    a `begin(trainer)`, called when a fit begins or goes on.

    Args:
        callback: What its part was built to.
        target: `_target_` of the part.

    Returns:
        A callback whose errors become one line.

    Raises:
        UserError: if it cannot be called with a trainer.

    Example:
        def patient(trainer, most=0.01):
            losses = [row.values["loss"] for row in trainer.history if row.split == "val"]
            if losses and losses[-1] < most:
                trainer.stop = f"the validation loss is below {most}"
    """
    if not callable(callback):
        raise UserError(
            f"callback {target} returns a {type(callback).__name__}; expected a function "
            "(trainer), "
            "or a class with __call__(self, trainer)"
        )
    # dlrun's own are known to be right; their signatures are not read.
    if is_custom(target) and not get_callable_parameters(callback):
        raise UserError(f"callback {target} takes no argument; write (trainer)")
    # A plugin's class need not know ours: here, and nowhere else, it is asked what it has.
    return CustomCallback(callback, getattr(callback, "begin", None), target)


@dataclass(frozen=True)
class CustomCallback(Callback):
    """A callback of the user's own, whose errors become one line.

    Attributes:
        function: Called after each epoch.
        begin_function: Called when a fit begins or goes on; None for nothing.
        name: As the config names it.
    """

    function: Callable[[Any], Any]
    begin_function: Callable[[Any], Any] | None
    name: str

    def begin(self, trainer: Trainer) -> None:
        if self.begin_function is not None:
            self.begin_function(trainer)

    def __call__(self, trainer: Trainer) -> None:
        try:
            self.function(trainer)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise UserError(describe_custom_error(f"callback {self.name}", error)) from error
