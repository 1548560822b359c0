"""Which prediction of a network is explained: a class by its name, or the most likely one."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torch import Tensor

from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Field, Spec

MAX_LISTED_CLASSES = 40  # names in a message


@dataclass(frozen=True)
class AttributionTarget:
    """One number among a target's raw outputs.

    Attributes:
        target: Name of the target.
        index: Which of its raw outputs.
        sign: -1 for the first of two classes, which share one output, else 1.
        label: Name of the class.
        probability: What the network predicts: a probability, or the number itself.
    """

    target: str
    index: int
    sign: int
    label: str
    probability: float

    def score(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return the raw output (before softmax or sigmoid) for a batch of one row, a scalar."""
        return self.sign * outputs[self.target].reshape(-1)[self.index]


def find_target(spec: Spec, name: str) -> str:
    """Return the target of a name, or the first one for ''.

    Args:
        spec: The targets.
        name: Name of the target.

    Raises:
        UserError: There is no such target.
    """
    if name and name not in spec.targets:
        raise UserError(f"no target '{name}'. There are: {format_names(spec.targets, name)}")
    return name or next(iter(spec.targets))


def get_output_names(field: Field) -> tuple[str, ...]:
    """Return the names of the classes or outputs of a target; numbers where it has none."""
    count = 2 if field.kind == "binary" else field.num_outputs
    return field.labels if len(field.labels) == count else tuple(map(str, range(count)))


def check_class(spec: Spec, target: str, name: str) -> None:
    """Check that a target has a class; '' is accepted.

    Args:
        spec: The targets.
        target: Name of the target.
        name: Name of the class.

    Raises:
        UserError: It has not; the message names similar ones.
    """
    labels = get_output_names(spec.targets[target])
    if name and name not in labels:
        close = difflib.get_close_matches(name, labels, 1)
        guess = f": did you mean '{close[0]}'?" if close else "."
        listed = ", ".join(labels[:MAX_LISTED_CLASSES])
        more = f", … ({len(labels)} in all)" if len(labels) > MAX_LISTED_CLASSES else ""
        raise UserError(f"no class '{name}' of target {target}{guess} There are: {listed}{more}")


def select_output(
    spec: Spec, outputs: dict[str, Tensor], target: str, name: str = ""
) -> AttributionTarget:
    """Return the prediction to explain.

    Args:
        spec: The targets.
        outputs: Raw outputs of one row.
        target: Name of the target.
        name: Name of the class; '' for the most likely one.
    """
    field = spec.targets[target]
    prediction = field.apply_activation(outputs[target].detach().float()).reshape(-1).cpu()
    labels = get_output_names(field)
    if field.kind == "binary":
        index = labels.index(name) if name else int(prediction[0] > 0.5)
        # two classes share one logit, that of the second
        sign, probability = (1, prediction[0]) if index else (-1, 1 - prediction[0])
        return AttributionTarget(target, 0, sign, labels[index], float(probability))
    index = labels.index(name) if name else int(prediction.argmax())
    return AttributionTarget(target, index, 1, labels[index], float(prediction[index]))
