"""A model of one's own: what its `forward` is given, and how its output is read.

The contract. `_target_` names a class or a function that returns an `nn.Module`. Its arguments are
settings (`model.hidden=64`); one called `spec`, or annotated `Spec`, receives the description of
the data.

`forward` takes one of:

- one tensor, where the data have one input: `forward(self, x)`. Words as a set come as counts
  (rows, words);
- inputs by name: `forward(self, title, body)`;
- all inputs as a mapping: `forward(self, batch)` (also called `inputs`, or annotated `dict`).

Targets are never among them; a custom objective that wants one there gives it another name. It
returns raw outputs, without a last softmax or sigmoid: one tensor (rows, outputs) where there is
one target, else a mapping of target names to such tensors. Optional hooks: see `Model`.

Example:
    class Net(nn.Module):
        def __init__(self, hidden=32):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)
            )

        def forward(self, x):
            return self.layers(x)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from dlrun.config.custom_contract import describe_custom_error, get_callable_parameters
from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, Spec

BATCH_ARGUMENTS = ("batch", "inputs")  # names of an argument that takes all inputs
MAPPING_TYPES = ("batch", "dict", "mapping")  # what its annotation begins with otherwise
# names of autograd nodes that change a shape and no value
SHAPE_OPERATIONS = frozenset(
    ("squeeze", "unsqueeze", "view", "reshapealias", "slice", "select", "unsafeview", "alias")
)
TORCHVISION_PREFIX = "torchvision.models."


def build_custom_model(
    node: dict[str, Any], spec: Spec, plugins: tuple[str, ...] | None, tell: Callable[[str], None]
) -> nn.Module:
    """Build the module that a config node names, with a `forward` that takes a batch.

    Args:
        node: `_target_` and its arguments.
        spec: Inputs and targets.
        plugins: The user's packages; None for those of the part that is being built.
        tell: Receives warnings.

    Raises:
        UserError: The module does not fit the contract.
    """
    target = node["_target_"]
    with_torchvision = target.startswith(TORCHVISION_PREFIX)
    # torchvision networks have 1000 classes where nothing is said
    if with_torchvision and len(spec.targets) == 1:
        node = {"num_classes": next(iter(spec.targets.values())).num_outputs, **node}
    model = build_part(node, spec, kind="model", plugins=plugins)
    if not isinstance(model, nn.Module):
        raise UserError(f"{target} returns {type(model).__name__}; expected a torch.nn.Module")
    if isinstance(model, LazyModuleMixin):
        # its own hook would be given the batch, and not what the adapter makes of it
        model = nn.Sequential(model)
    adapter = ForwardAdapter(model.forward, spec, target, tell, with_torchvision)
    # forward is replaced, not wrapped in a module: that would rename the weights in checkpoints
    model.forward = adapter  # type: ignore[method-assign]
    _materialize_lazy(model, spec)
    if not any(True for _ in model.parameters()):
        tell(
            f"{target} has no parameters, so nothing is learned: layers must be attributes of the "
            "module, or in an nn.ModuleList or nn.ModuleDict"
        )
    return model


class ForwardAdapter:
    """Calls a module's own `forward` with what it asks for, and checks what it returns.

    Attributes:
        forward: The module's own.
        spec: Inputs and targets.
        name: `_target_` of the module, for messages.
        tell: Receives warnings.
        to_color: Whether gray images are given as three equal channels.
        arguments: Inputs that are given in order; None for all of them as one mapping.
        called: Whether a call has succeeded; later errors are not about the contract.
        checked: Whether the last activation has been looked at.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        spec: Spec,
        name: str,
        tell: Callable[[str], None],
        to_color: bool,
    ) -> None:
        self.forward, self.spec, self.name = forward, spec, name
        self.tell, self.to_color = tell, to_color
        self.arguments = _match_arguments(forward, spec, name)
        self.called = self.checked = False

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardAdapter:
        """Return a copy for a copied module; `tell` is shared, as it belongs to an experiment."""
        copied = copy.copy(self)
        copied.forward = copy.deepcopy(self.forward, memo)
        return copied

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(batch, dict):  # a custom objective calls the model as it likes
            return self.forward(batch, *args, **kwargs)
        inputs = {name: column for name, column in batch.items() if name not in self.spec.targets}
        try:
            output = self.forward(*self._forward_arguments(inputs), *args, **kwargs)
        # only the first call is about the contract; later errors are the model's own
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            # memory has nothing to do with arguments
            if self.called or isinstance(error, torch.OutOfMemoryError | UserError):
                raise
            raise UserError(self._describe_error(error, inputs)) from error
        # a model without inputs can return any number of rows
        rows = len(next(iter(inputs.values()))) if inputs else None
        outputs = self._check_outputs(output, rows)
        self.called = True
        # without gradients there is no graph to look at
        if not self.checked and torch.is_grad_enabled():
            self.checked = True
            self._warn_about_activation(outputs)
        return outputs

    def _forward_arguments(self, inputs: Batch) -> list[Any]:
        if self.arguments is None:
            return [inputs]
        columns = [inputs[name] for name in self.arguments]
        # a bag is sparse, and most layers of torch take dense tensors
        dense = [x.to_dense() if x.layout is not torch.strided else x for x in columns]
        return [_to_rgb(x) for x in dense] if self.to_color else dense

    def _check_outputs(self, output: Any, rows: int | None) -> dict[str, Tensor]:
        targets = self.spec.targets
        if isinstance(output, Tensor) and len(targets) == 1:
            output = {next(iter(targets)): output}
        if not isinstance(output, dict):
            raise UserError(
                f"{self.name}: forward returns {_describe_value(output)}; "
                f"{self._describe_expected()}"
            )
        if missing := [name for name in targets if not isinstance(output.get(name), Tensor)]:
            names = ", ".join(map(repr, output)) or "nothing"
            raise UserError(
                f"{self.name}: forward returns {names}, without {missing[0]!r}; "
                f"{self._describe_expected()}"
            )
        return {**output, **{name: self._check_shape(output[name], name, rows) for name in targets}}

    def _check_shape(self, raw: Tensor, name: str, rows: int | None) -> Tensor:
        field = self.spec.targets[name]
        # (rows,) is a common way to write (rows, 1)
        if field.num_outputs == 1 and field.kind != "tokens" and raw.ndim == 1:
            raw = raw[:, None]
        shape, expected = tuple(raw.shape), field.output_shape
        fits = shape[-1:] == expected[-1:] if field.kind == "tokens" else shape[1:] == expected
        if not fits or (rows is not None and shape[0] != rows) or not raw.is_floating_point():
            got = f"{_dtype_name(raw)} {shape}" if raw.ndim else "one number"
            about = f" for {rows} rows" if rows is not None else ""
            raise UserError(
                f"{self.name}: forward returns {got}{about}; {self._describe_expected()}"
            )
        return raw

    def _describe_expected(self) -> str:
        shapes = [
            f"{name!r}: {_describe_expected(field)}" for name, field in self.spec.targets.items()
        ]
        or_tensor = ", or that tensor alone" if len(shapes) == 1 else ""
        return f"expected {{{', '.join(shapes)}}}{or_tensor}"

    def _describe_error(self, error: Exception, inputs: Batch) -> str:
        columns = ", ".join(f"{name} {_describe_value(column)}" for name, column in inputs.items())
        # a missing name is clearer than the KeyError of it
        if isinstance(error, KeyError) and error.args and error.args[0] not in inputs:
            return (
                f"{self.name}: forward asks for {error.args[0]!r}, which is not an input; "
                f"it is given {columns}"
            )
        return f"{describe_custom_error(f'{self.name}: forward', error)}; it was given {columns}"

    def _warn_about_activation(self, outputs: dict[str, Tensor]) -> None:
        """Warn once of a last softmax or sigmoid, after which a loss of logits learns badly."""
        for name, field in self.spec.targets.items():
            last = _last_operation(outputs[name])
            if last in ("softmax", "sigmoid") and field.kind not in ("number", "series"):
                self.tell(
                    f"{self.name}: the outputs for '{name}' end in a {last}, but losses expect "
                    f"logits: leave out the last {last}"
                )


def _last_operation(raw: Tensor) -> str:
    """Return the last operation of a tensor, in lower case, but for changes of shape."""
    node = raw.grad_fn
    while node is not None:
        name = node.name().partition("Backward")[0].removeprefix("_").lower()
        if name not in SHAPE_OPERATIONS:
            return name
        node = node.next_functions[0][0]
    return ""


def _match_arguments(forward: Callable[..., Any], spec: Spec, name: str) -> list[str] | None:
    """Return the inputs that are given in order, by name; None for all of them as one mapping."""
    parameters = [
        p
        for p in get_callable_parameters(forward)
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    required = [p.name for p in parameters if p.default is p.empty]
    annotation = ""
    if parameters:
        # an annotation is a class, or a string where annotations are postponed
        first = parameters[0].annotation
        annotation = str(getattr(first, "__name__", first)).strip("'\"").lower().rpartition(".")[2]
    if parameters and (
        parameters[0].name in BATCH_ARGUMENTS or annotation.startswith(MAPPING_TYPES)
    ):
        return None
    if required and set(required) <= set(spec.inputs):
        return [p.name for p in parameters if p.name in spec.inputs]
    if len(spec.inputs) == 1 and len(required) <= 1:
        return list(spec.inputs)
    inputs = ", ".join(spec.inputs)
    raise UserError(
        f"{name}: forward({', '.join(required)}) does not fit the inputs, which are: {inputs}; "
        f"write forward(self, {inputs}), or forward(self, batch) for all of them by name: "
        f"batch['{next(iter(spec.inputs))}']"
    )


def _materialize_lazy(model: nn.Module, spec: Spec) -> None:
    """Give lazy layers their shapes by one call: an optimizer needs them."""
    if not any(map(nn.parameter.is_lazy, model.parameters())):
        return
    with torch.no_grad():
        model.eval()({name: _build_example(field) for name, field in spec.inputs.items()})
    # the example is no real batch: the first real call is checked again
    model.train().forward.called = False  # type: ignore[attr-defined]


def _build_example(field: Field) -> Tensor:
    # a text has no fixed length, any will do
    shape = field.shape if field.shape or field.kind != "tokens" else (4,)
    dtype = torch.int64 if field.kind in ("category", "tokens") else torch.float32
    return torch.zeros(2, *shape, dtype=dtype)


def _to_rgb(image: Tensor) -> Tensor:
    # a view: gray values are not copied
    return image.expand(-1, 3, -1, -1) if image.ndim == 4 and image.shape[1] == 1 else image


def _describe_expected(field: Field) -> str:
    outputs = ", ".join(str(size) for size in ("rows", *field.output_shape))
    values = {"number": "numbers", "series": "numbers"}.get(field.kind, "logits")
    return f"{values} ({outputs})"


def _describe_value(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{_dtype_name(value)} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _dtype_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
