"""The calls of a network's modules while something runs: their outputs, and what they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class ModuleCall:
    """One call.

    Attributes:
        name: The module's; of a later call of the same one with its number behind it ('reader_2').
        reads: The calls, or columns, whose answers it has used by itself.
        inner: How many calls it has made.
        own: Whether the module has parameters of its own, outside of the modules in it.
    """

    name: str
    kind: str
    output: Any
    reads: tuple[str, ...]
    inner: int
    own: bool


def trace_module_calls(
    root: nn.Module, run: Callable[[], Any], columns: Mapping[str, Tensor]
) -> tuple[list[ModuleCall], Any]:
    """The calls of the modules in `root` while `run` runs, those inside another before it, and what
    `run` answers.

    Args:
        columns: Name → a tensor that `run` begins with. Modules are left without a hook.
    """
    names = {module: name for name, module in root.named_modules()}
    recorder = ModuleCallRecorder(names)
    for name, column in columns.items():
        recorder.flow.mark(column, (name,))
    # Modules, not functions: what a model computes inline belongs to the module around it.
    hooks = [module.register_forward_pre_hook(recorder.enter) for module in names]
    hooks += [module.register_forward_hook(recorder.leave) for module in names]
    try:
        with recorder.flow:
            result = run()
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.done, result


class TensorSourceTracker(TorchFunctionMode):
    """Inside, every tensor is known by what it was made of, through whatever functions it came.

    used: what the tensors were made of that functions took, for each call that is under way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.used: list[dict[str, None]] = [{}]
        self.made: dict[int, tuple[str, ...]] = {}
        self.held: list[Tensor] = []  # as long as they are, no other tensor has their identity

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        changed = args[0] if func is Tensor.__setitem__ else result
        sources = self.sources((args, kwargs))
        if (
            sources and next(iter_tensors(changed), None) is not None
        ):  # to ask for a shape is no use of it
            self.used[-1].update(dict.fromkeys(sources))
            self.mark(changed, sources)
        return result

    def sources(self, value: Any) -> tuple[str, ...]:
        """What the tensors in a value are made of."""
        return tuple(
            dict.fromkeys(
                name for tensor in iter_tensors(value) for name in self.made.get(id(tensor), ())
            )
        )

    def mark(self, value: Any, names: tuple[str, ...]) -> None:
        """Say of the tensors in a value what they are made of."""
        for tensor in iter_tensors(value):
            self.made[id(tensor)] = names
            # Identities are only unique among objects that are alive.
            self.held.append(tensor)


@dataclass
class ModuleCallRecorder:
    """Notes calls as hooks tell of them."""

    names: dict[nn.Module, str]
    flow: TensorSourceTracker = field(default_factory=TensorSourceTracker)
    done: list[ModuleCall] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)

    def enter(self, module: nn.Module, args: Any) -> None:
        self.open.append(len(self.done))
        self.flow.used.append({})

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        inner_calls, used = len(self.done) - self.open.pop(), self.flow.used.pop()
        containers = [
            child
            for child in module.children()
            if isinstance(child, nn.ParameterDict | nn.ParameterList)
        ]
        has_parameters = any(
            list(container.parameters(recurse=False)) for container in (module, *containers)
        )
        name = self.names[module]
        # A module that is called again gets a number: its outputs differ.
        self.times[name] += 1
        name += f"_{self.times[name]}" if self.times[name] > 1 else ""
        reads = tuple(used) or self.flow.sources(
            args
        )  # one that only passes on what it is given uses no function
        self.done.append(
            ModuleCall(name, type(module).__name__, output, reads, inner_calls, has_parameters)
        )
        if has_parameters or not inner_calls:
            self.flow.mark(output, (name,))


def iter_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module is given or answers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from iter_tensors(item)


def iter_named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in a value, each with its place in it: '' for one alone, else '.key' or '.0'.

    Sequences unpacked.
    """
    if isinstance(value, PackedSequence):
        value = pad_packed_sequence(value, batch_first=True)[0]
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from iter_named_tensors(item, f"{name}.{key}")
