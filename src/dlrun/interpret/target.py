"""Which of a network's answers is asked about: a class by its name, or the one that it gives."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torch import Tensor

from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Field, Spec

MAX_LISTED_CLASSES = 40  # names in a message


@dataclass(frozen=True)
class AttributionTarget:
    """One number among a target's raw outputs. sign: -1 for the first of two classes, which share one output.

    share: what the network says of it: a probability, or the number itself.
    """

    target: str
    index: int
    sign: int
    label: str
    probability: float

    def score(self, outputs: dict[str, Tensor]) -> Tensor:
        """The raw output, before the last layer, that is asked about; for a batch of one row a single number."""
        return self.sign * outputs[self.target].reshape(-1)[self.index]


def find_target(spec: Spec, name: str) -> str:
    """The target of this name, the first one without a name. Raises UserError."""
    if name and name not in spec.targets:
        raise UserError(f"no target '{name}'. There are: {format_names(spec.targets, name)}")
    return name or next(iter(spec.targets))


def get_output_names(field: Field) -> tuple[str, ...]:
    """What the answers of a target are called."""
    count = 2 if field.kind == "binary" else field.num_outputs
    return field.labels if len(field.labels) == count else tuple(map(str, range(count)))


def check_class(spec: Spec, target: str, name: str) -> None:
    """Refuse a class that the target does not have."""
    there = get_output_names(spec.targets[target])
    if name and name not in there:
        close = difflib.get_close_matches(name, there, 1)
        guess = f": did you mean '{close[0]}'?" if close else "."
        more = f", … ({len(there)} in all)" if len(there) > MAX_LISTED_CLASSES else ""
        raise UserError(
            f"no class '{name}' of target {target}{guess} There are: {', '.join(there[:MAX_LISTED_CLASSES])}{more}"
        )


def select_output(
    spec: Spec, outputs: dict[str, Tensor], target: str, name: str = ""
) -> AttributionTarget:
    """The question of a class by name, or of the likeliest one for these outputs of one row."""
    field = spec.targets[target]
    answer = field.apply_activation(outputs[target].detach().float()).reshape(-1).cpu()
    there = get_output_names(field)
    if field.kind == "binary":
        place = there.index(name) if name else int(answer[0] > 0.5)
        return AttributionTarget(
            target,
            0,
            1 if place else -1,
            there[place],
            float(answer[0] if place else 1 - answer[0]),
        )
    place = there.index(name) if name else int(answer.argmax())
    return AttributionTarget(target, place, 1, there[place], float(answer[place]))
