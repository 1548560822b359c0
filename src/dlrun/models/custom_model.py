"""A model of one's own: what its `forward` is given, and what its output is taken for.

The contract. `_target_` names a class or a function that returns an `nn.Module`. Its arguments are
settings (`model.hidden=64`); one called `spec`, or annotated `Spec`, receives the description of the data.

`forward` takes one of:

- one tensor, where the data have one input: `forward(self, x)`. Words as a set come as counts (rows, words);
- inputs by name: `forward(self, title, body)`;
- all inputs as a mapping: `forward(self, batch)` (also called `inputs`, or annotated `dict`).

Targets are never among them; an objective of one's own that wants one there names it otherwise. It returns raw outputs,
without a last softmax or sigmoid: one tensor (rows, outputs) where there is one target, else a mapping of target names
to such tensors.

Example:
    class Net(nn.Module):
        def __init__(self, hidden=32):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

        def forward(self, x):
            return self.layers(x)
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from dlrun.config.custom_contract import describe_custom_error, get_callable_parameters, is_custom
from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, Spec
from dlrun.models.model import Model, as_model

log = logging.getLogger("dlrun")
BATCH_ARGUMENTS = ("batch", "inputs")  # names of an argument that takes all inputs
MAPPING_TYPES = ("batch", "dict", "mapping")  # what its annotation begins with otherwise
SHAPE_OPERATIONS = (
    "squeeze",
    "unsqueeze",
    "view",
    "reshapealias",
    "slice",
    "select",
    "unsafeview",
    "alias",
)
TORCHVISION_PREFIX = "torchvision.models."


def build_model(
    node: dict[str, Any],
    spec: Spec,
    plugins: tuple[str, ...] | None,
    tell: Callable[[str], None] = log.warning,
) -> Model:
    """The model that a node describes; one that is not dlrun's keeps to the contract above, or is refused."""
    target = node["_target_"]
    if not is_custom(target):
        return as_model(build_part(node, spec, kind="model", plugins=plugins))
    with_torchvision = target.startswith(TORCHVISION_PREFIX)
    if with_torchvision and len(spec.targets) == 1:
        node = {"num_classes": next(iter(spec.targets.values())).num_outputs, **node}
    model = build_part(node, spec, kind="model", plugins=plugins)
    if not isinstance(model, nn.Module):
        raise UserError(f"{target} returns {type(model).__name__}; expected a torch.nn.Module")
    if isinstance(model, LazyModuleMixin):  # its own hook would be given the mapping
        model = nn.Sequential(model)
    model.forward = ForwardAdapter(model.forward, spec, target, tell, with_torchvision)  # type: ignore[method-assign]
    _materialize_lazy(model, spec)
    if not any(True for _ in model.parameters()):
        tell(f"{target} has no parameters, so nothing is learned: layers must be attributes of the module, or in an "
             "nn.ModuleList or nn.ModuleDict")  # fmt: skip
    return as_model(model)


class ForwardAdapter:
    """A module's own `forward` between what objectives give and what they expect.

    colored: gray images are given as three equal channels.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        spec: Spec,
        name: str,
        tell: Callable[[str], None],
        colored: bool,
    ) -> None:
        self.forward, self.spec, self.name = forward, spec, name
        self.tell, self.colored = tell, colored
        self.arguments = _match_arguments(forward, spec, name)
        self.called = self.looked = False

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardAdapter:
        """A copy for a copied module; who is told is not copied along."""
        made = copy.copy(self)
        made.forward = copy.deepcopy(self.forward, memo)
        return made

    def __call__(self, batch: Any, *rest: Any, **named: Any) -> Any:
        if not isinstance(batch, dict):  # an objective of the user's own has its own way
            return self.forward(batch, *rest, **named)
        inputs = {name: column for name, column in batch.items() if name not in self.spec.targets}
        try:
            answer = self.forward(*self._forward_arguments(inputs), *rest, **named)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            if self.called or isinstance(error, torch.OutOfMemoryError | UserError):
                raise
            raise UserError(self._describe_error(error, inputs)) from error
        rows = len(next(iter(inputs.values()))) if inputs else None
        found = self._check_outputs(answer, rows)
        self.called = True
        if not self.looked and torch.is_grad_enabled():
            self.looked = True
            self._warn_about_activation(found)
        return found

    def _forward_arguments(self, inputs: Batch) -> list[Any]:
        if self.arguments is None:
            return [inputs]
        found = [inputs[name] for name in self.arguments]
        found = [each.to_dense() if each.layout is not torch.strided else each for each in found]
        return [_to_rgb(each) for each in found] if self.colored else found

    def _check_outputs(self, answer: Any, rows: int | None) -> dict[str, Tensor]:
        targets = self.spec.targets
        if isinstance(answer, Tensor) and len(targets) == 1:
            answer = {next(iter(targets)): answer}
        if not isinstance(answer, dict):
            raise UserError(
                f"{self.name}: forward returns {_describe_value(answer)}; {self._describe_expected()}"
            )
        if lacking := [name for name in targets if not isinstance(answer.get(name), Tensor)]:
            there = ", ".join(map(repr, answer)) or "nothing"
            raise UserError(
                f"{self.name}: forward returns {there}, without {lacking[0]!r}; {self._describe_expected()}"
            )
        return {**answer, **{name: self._check_shape(answer[name], name, rows) for name in targets}}

    def _check_shape(self, raw: Tensor, name: str, rows: int | None) -> Tensor:
        field = self.spec.targets[name]
        if field.num_outputs == 1 and field.kind != "tokens" and raw.ndim == 1:
            raw = raw[:, None]
        shape, wanted = tuple(raw.shape), field.output_shape
        fits = shape[-1:] == wanted[-1:] if field.kind == "tokens" else shape[1:] == wanted
        if not fits or (rows is not None and shape[0] != rows) or not raw.is_floating_point():
            got = f"{_dtype_name(raw)} {shape}" if raw.ndim else "one number"
            about = f" for {rows} rows" if rows is not None else ""
            raise UserError(
                f"{self.name}: forward returns {got}{about}; {self._describe_expected()}"
            )
        return raw

    def _describe_expected(self) -> str:
        each = [
            f"{name!r}: {_describe_expected(field)}" for name, field in self.spec.targets.items()
        ]
        alone = ", or that tensor alone" if len(each) == 1 else ""
        return f"expected {{{', '.join(each)}}}{alone}"

    def _describe_error(self, error: Exception, inputs: Batch) -> str:
        given = ", ".join(f"{name} {_describe_value(column)}" for name, column in inputs.items())
        if isinstance(error, KeyError) and error.args and error.args[0] not in inputs:
            return f"{self.name}: forward asks for {error.args[0]!r}, which is not an input; it is given {given}"
        return f"{describe_custom_error(f'{self.name}: forward', error)}; it was given {given}"

    def _warn_about_activation(self, answers: dict[str, Tensor]) -> None:
        """Tell once of a last softmax or sigmoid, after which a loss of logits learns badly."""
        for name, field in self.spec.targets.items():
            last = _last_operation(answers[name])
            if last in ("softmax", "sigmoid") and field.kind not in ("number", "series"):
                said = f"{self.name}: the outputs for '{name}' end in a {last}, but losses expect logits"
                self.tell(f"{said}: leave out the last {last}")


def _last_operation(raw: Tensor) -> str:
    """What the answers last went through, if that was 'softmax' or 'sigmoid'; changes of shape do not count."""
    step = raw.grad_fn
    while step is not None:
        name = step.name().partition("Backward")[0].removeprefix("_").lower()
        if name not in SHAPE_OPERATIONS:
            return name
        step = step.next_functions[0][0]
    return ""


def _match_arguments(forward: Callable[..., Any], spec: Spec, name: str) -> list[str] | None:
    """The inputs that are given in order, by name; None for all of them as one mapping."""
    there = [
        p
        for p in get_callable_parameters(forward)
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    needed = [p.name for p in there if p.default is p.empty]
    note = str(getattr(there[0].annotation, "__name__", there[0].annotation)) if there else ""
    if there and (
        there[0].name in BATCH_ARGUMENTS
        or note.strip("'\"").lower().rpartition(".")[2].startswith(MAPPING_TYPES)
    ):
        return None
    if needed and set(needed) <= set(spec.inputs):
        return [p.name for p in there if p.name in spec.inputs]
    if len(spec.inputs) == 1 and len(needed) <= 1:
        return list(spec.inputs)
    inputs = ", ".join(spec.inputs)
    raise UserError(
        f"{name}: forward({', '.join(needed)}) does not fit the inputs, which are: {inputs}; write "
        f"forward(self, {inputs}), or forward(self, batch) for all of them by name: batch['{next(iter(spec.inputs))}']"
    )


def _materialize_lazy(model: nn.Module, spec: Spec) -> None:
    """Give lazy layers their shapes, which an optimizer needs."""
    if not any(nn.parameter.is_lazy(each) for each in model.parameters()):
        return
    with torch.no_grad():
        model.eval()({name: _build_example(field) for name, field in spec.inputs.items()})
    model.train().forward.called = False  # type: ignore[attr-defined]


def _build_example(field: Field) -> Tensor:
    shape = field.shape if field.shape or field.kind != "tokens" else (4,)
    return torch.zeros(
        2, *shape, dtype=torch.int64 if field.kind in ("category", "tokens") else torch.float32
    )


def _to_rgb(image: Tensor) -> Tensor:
    return image.expand(-1, 3, -1, -1) if image.ndim == 4 and image.shape[1] == 1 else image


def _describe_expected(field: Field) -> str:
    outputs = ", ".join(str(each) for each in ("rows", *field.output_shape))
    what = {"number": "numbers", "series": "numbers"}.get(field.kind, "logits")
    return f"{what} ({outputs})"


def _describe_value(value: Any) -> str:
    return (
        f"{_dtype_name(value)} {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else f"a {type(value).__name__}"
    )


def _dtype_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
