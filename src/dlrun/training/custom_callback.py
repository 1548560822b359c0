"""A callback of the user's own, a function of the trainer; its contract stands below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dlrun.config.custom_contract import Plugins, failed, own, parameters
from dlrun.config.instantiate import build
from dlrun.core.errors import Refused


def callback_of(node: Mapping[str, Any], plugins: Plugins) -> Any:
    """The callback that a node describes.

    The contract of a callback of one's own: a function `(trainer)`, called after each epoch, once its training and
    validation are done. `trainer.epoch` counts from 1; `trainer.history` has a row for each epoch and split, with
    `epoch`, `split` and `values`; `trainer.folder` is where the job's checkpoints are. To end the fit it sets
    `trainer.stop` to the reason; `trainer.keep("best")` keeps the weights of now. It keeps no state: a run that is
    resumed has nothing but the history. Further arguments are settings; a class is made with its settings and then
    called, and may have a `begin(trainer)`, called when a fit begins or goes on.

    Example:
        def patient(trainer, most=0.01):
            losses = [row.values["loss"] for row in trainer.history if row.split == "val"]
            if losses and losses[-1] < most:
                trainer.stop = f"the validation loss is below {most}"
    """
    made = build(node, kind="callback", plugins=plugins)
    if not callable(made):
        raise Refused(f"callback {node['_target_']} returns a {type(made).__name__}; expected a function (trainer), "
                      "or a class with __call__(self, trainer)")  # fmt: skip
    if own(node["_target_"]) and not parameters(made):
        raise Refused(f"callback {node['_target_']} takes no argument; write (trainer)")
    return OwnCallback(made, node["_target_"]) if isinstance(made, partial) else made


@dataclass(frozen=True)
class OwnCallback:
    """A function of the user's own after each epoch; what fails in it is said in one line."""

    function: Callable[[Any], Any]
    name: str

    def __call__(self, trainer: Any) -> None:
        """Call it."""
        try:
            self.function(trainer)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise Refused(failed(f"callback {self.name}", error)) from error
