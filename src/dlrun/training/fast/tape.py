"""A training step recorded once as its torch calls, gradients included, and replayed from then on.

Autograd, modules and torch's own dispatch cost a small network several times what its numbers do.
What is replayed are the same kernels in the same order on the same memory, so the same bits come
out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dlrun.core.types import Batch, Step

MAX_CALLS = 400  # a longer step is not one of small calls
ALIAS_CALLS = ("detach", "alias", "lift_fresh")  # what is the tensor itself, without its history
TORCH_NAMESPACES = (
    torch._C._VariableFunctions,
    torch._C.TensorBase,
    torch._C._nn,
)  # where torch is called with least ado
RecordedStep = Callable[..., Step]  # the columns of a batch → its step


class NotRecordable(Exception):
    """This step cannot be noted down. Its text says why."""


class TraceRecorder(TorchDispatchMode):
    """Notes the torch calls made inside it, as lines of Python. known.

    The tensors that it works on at every step.
    """

    def __init__(self, constants: list[Tensor], batch: Batch) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {}  # what the lines are about, besides their own results
        self.names: dict[int, str] = {}
        self.held: list[Tensor] = []  # so that no address is used twice while we listen
        self.turned: dict[str, str] = {}  # a transposed tensor → that which it was
        self.columns = [
            self._name(f"x{number}", tensor) for number, tensor in enumerate(batch.values())
        ]
        for tensor in constants:
            self._hold_constant(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Or torch imports its compiler, 0.8 s of CPU, to have it overlook what is never compiled.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        # No new data: another name for the same tensor.
        if name in ALIAS_CALLS:
            self._name(self.text(args[0]), result)
        elif name == "t" and (original := self.turned.get(self.text(args[0]))):
            self._name(original, result)
        # Views of weights, and constants, are the same at every step: they are not called again.
        elif name == "ones_like" or (is_view_call(func) and self._is_persistent(args)):
            self._hold_constant(result)
        else:
            self._write_line(func, args, kwargs or {}, result)
        if name == "t":
            self.turned.setdefault(self.text(result), self.text(args[0]))
        return result

    def _write_line(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        if len(self.lines) >= MAX_CALLS:
            raise NotRecordable(f"it takes more than {MAX_CALLS} calls")
        call = f"f{len(self.lines)}"
        self.scope[call] = fastest_callable(func)
        arguments = [
            self.text(value) for value in (*args, *get_default_arguments(func, len(args)))
        ] + [f"{key}={self.text(value)}" for key, value in kwargs.items()]
        several = isinstance(result, tuple | list)
        names = [
            self._result(value, number)
            for number, value in enumerate(result if several else (result,))
        ]
        self.lines.append(
            f"{', '.join(names)}{',' if several else ''} = {call}({', '.join(arguments)})"
        )

    def _result(self, value: Any, number: int) -> str:
        if not isinstance(value, Tensor):
            raise NotRecordable("it looks at a number, and what it does may hang on that")
        if id(value) in self.names:  # it was changed in place
            return "_"
        return self._name(f"v{len(self.lines)}_{number}", value)

    def _name(self, name: str, tensor: Tensor) -> str:
        self.names[id(tensor)] = name
        self.held.append(tensor)
        return name

    def _hold_constant(self, tensor: Tensor) -> None:
        """Let a tensor be the same, in the same place, at each step."""
        self.scope[self._name(f"k{len(self.scope)}", tensor)] = tensor.detach()

    def _is_persistent(self, args: Any) -> bool:
        return all(
            self.text(argument) in self.scope for argument in args if isinstance(argument, Tensor)
        )

    def text(self, value: Any) -> str:
        """A value as Python.

        Raises:
            NotRecordable: for a tensor that came from elsewhere.
        """
        if isinstance(value, Tensor):
            if id(value) not in self.names:
                raise NotRecordable(
                    "it works on a tensor that is neither a weight nor of the batch, as "
                    "class_weights of a loss are"
                )
            return self.names[id(value)]
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self.text, value))}]"
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        self.scope[name := f"k{len(self.scope)}"] = value
        return name

    def build_step(self, step: Step) -> RecordedStep:
        """A function that makes such a step of the columns of another batch of the same shapes."""
        tensor_names = {
            key: {name: self.names[id(value)] for name, value in getattr(step, key).items()}
            for key in MAPPINGS
        }
        mappings = [
            f"{{{', '.join(f'{name!r}: {value}' for name, value in tensor_names[key].items())}}}"
            for key in MAPPINGS
        ]
        gradient = ", ".join(map(self.text, step.gradient or ()))
        return_line = (
            f"return Step({step.group!r}, {self.text(step.loss)}, {', '.join(mappings)}, "
            f"[{gradient}])"
        )
        lines = "\n    ".join(
            [
                f"def play({', '.join(self.columns)}):",
                *eliminate_dead_code(self.lines, return_line),
                return_line,
            ]
        )
        scope = {**self.scope, "Step": Step}
        exec(lines, scope)  # our own lines, of the calls above
        play: RecordedStep = scope["play"]
        return play


MAPPINGS = ("outputs", "parts", "measured")


def eliminate_dead_code(lines: list[str], end: str) -> list[str]:
    """The lines that come to something, which let go of each result after its last use."""
    used_later, kept_lines = set(re.findall(r"\bv\w+", end)), []
    # Backwards: what is used later is known by then.
    for line in reversed(lines):
        used_here, assigned = set(re.findall(r"\bv\w+", line)), line.partition(" = ")[0]
        if "_" not in assigned.split(", ") and not used_later & set(
            re.findall(r"\bv\w+", assigned)
        ):
            continue
        kept_lines.append(
            line
            if used_here <= used_later
            else f"{line}; del {', '.join(sorted(used_here - used_later))}"
        )
        used_later |= used_here
    return kept_lines[::-1]


def get_default_arguments(func: Any, num_given: int) -> list[Any]:
    """What the arguments that were not given are by default.

    Torch's own functions have others here and there.
    """
    return [
        argument.default_value
        for argument in func._schema.arguments[num_given:]
        if not argument.kwarg_only
    ]


def is_view_call(func: Any) -> bool:
    """Whether a call answers with its argument's memory, seen in another shape."""
    aliases = [result.alias_info for result in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def fastest_callable(func: Any) -> Any:
    """The same call by its shortest way from Python."""
    name = func._schema.name.partition("::")[2]
    return next(
        (
            function
            for namespace in TORCH_NAMESPACES
            if (function := getattr(namespace, name, None)) is not None
        ),
        func,
    )


def record_step(
    take_steps: Callable[[Batch], Any], batch: Batch, group: list[Tensor], constants: list[Tensor]
) -> tuple[Step, RecordedStep]:
    """Take a step with its gradient, and record it.

    Args:
        take_steps: Batch → its steps.
        batch: Column → values.
        group: The weights that the step is for.
        constants: All tensors that it may read besides the batch.

    Returns:
        The step, and a function that replays it for other batches of the same shapes.

    Raises:
        NotRecordable: if the step is more than the same calls for every batch.
    """
    with TraceRecorder(constants, batch) as tape:
        step = with_gradient(next(take_steps(batch)), group)
        return step, tape.build_step(step)


def with_gradient(step: Step, group: list[Tensor]) -> Step:
    """A step with its gradient in it, and no history."""
    detached = {
        key: {name: tensor.detach() for name, tensor in getattr(step, key).items()}
        for key in MAPPINGS
    }
    gradient = torch.autograd.grad(step.loss, group, allow_unused=True)
    if any(tensor is None for tensor in gradient):
        raise NotRecordable("not every weight is used")
    return Step(step.group, step.loss.detach(), gradient=list(gradient), **detached)


def collect_step_tensors(step: Step) -> list[Tensor]:
    """All that is in a step, its gradient last."""
    return [
        step.loss,
        *(tensor for name in MAPPINGS for tensor in getattr(step, name).values()),
        *(step.gradient or ()),
    ]
