"""A function of tensors as machine code, by torch's AOTInductor.

Compiled once a run, then one call from Python.
"""

from __future__ import annotations

import logging
import math
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Step
from dlrun.models.layers import to_export_value
from dlrun.training.fast.tape import MAPPINGS, RecordedStep, collect_step_tensors
from dlrun.training.optimizers import match_strides

log = logging.getLogger(__name__)
TensorFunction = Callable[..., Sequence[Tensor]]
OPTIONS = {"fallback_random": True}  # chance is drawn as torch draws it elsewhere
ROUNDING_TOLERANCE = 1e-5
TOLERANCES = {"fp32": ROUNDING_TOLERANCE, "bf16": 0.1}  # of a compiled step, which rounds elsewhere
DISABLE_HINT = "say engine.compile=false"
CompiledFunction = Callable[[list[Any]], list[Tensor]]
COMPILED_FUNCTIONS: dict[
    Any, CompiledFunction
] = {}  # the same function of another fold, or of a sweep's next job, is compiled already


class FunctionModule(nn.Module):
    """A function as the module that torch.export wants."""

    def __init__(self, function: TensorFunction) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.function(*inputs))


def compile_function(
    function: TensorFunction, inputs: Sequence[Tensor], description: str
) -> CompiledFunction:
    """The same function of a list of tensors with the shapes and strides of these; it may change
    them in place.

    what: names it in what is told of the seconds that this took.

    Raises:
        UserError: if it cannot be compiled.
    """
    start = time.monotonic()
    try:
        # Ctrl-C would end the C++ compiler and look like an error of it.
        with torch.no_grad(), block_interrupt():
            exported = torch.export.export(FunctionModule(function), tuple(inputs), strict=False)
            constants = [
                f"{name} {value.tolist()}"
                for name, value in exported.constants.items()
                if isinstance(value, Tensor)
            ]
            layouts = [(tensor.dtype, tensor.shape, tensor.stride()) for tensor in inputs]
            # What determines the machine code: the calls, constants, and layout of the inputs.
            key = (exported.graph_module.code, *constants, *layouts)
            if key not in COMPILED_FUNCTIONS:
                COMPILED_FUNCTIONS[key] = _compile_program(exported)
                log.info(
                    "engine.compile=step: %s took %.1f s to compile",
                    description,
                    time.monotonic() - start,
                )
    except (
        Exception
    ) as error:  # torch raises of all kinds here; whoever reads on wants the first line
        lines = str(error).strip().splitlines() or [type(error).__name__]
        first_error = next(
            (line for line in lines if ": error: " in line or ": fatal error: " in line), lines[0]
        )
        raise UserError(
            f"engine.compile=step: {description} cannot be compiled here ({first_error[:300]}); "
            f"{DISABLE_HINT}"
        ) from error
    return COMPILED_FUNCTIONS[key]


def verify_compiled(
    function: TensorFunction, run: CompiledFunction, inputs: list[Tensor]
) -> CompiledFunction:
    """What is compiled, once it was run on these and changed them as the function does.

    Raises:
        UserError: see the message.
    """
    expected = [tensor.clone() for tensor in inputs]
    function(*expected)
    run(inputs)
    return run if is_close(expected, inputs, ROUNDING_TOLERANCE) else raise_compiler_error()


def raise_compiler_error() -> NoReturn:
    """Raise UserError: the compiler errs."""
    raise UserError(
        "engine.compile=step: what was compiled comes to other numbers than torch does; "
        f"{DISABLE_HINT}"
    )


def is_close(tensors: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> bool:
    """Whether tensors are the same but for rounding, relative to the size of each and of all."""
    sizes = [float(tensor.double().norm()) for tensor in tensors]
    # Relative to all tensors, too: tiny ones are rounding noise of the others.
    total = math.hypot(*sizes)
    errors = [float((a - b).double().norm()) for a, b in zip(tensors, expected, strict=True)]
    return all(
        error <= tolerance * (size + total) for error, size in zip(errors, sizes, strict=True)
    )


@contextmanager
def block_interrupt() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM do not reach the compilers that are started.

    This process is told afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    signal_mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask)


def _compile_program(exported: Any) -> CompiledFunction:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    logging.getLogger("torch.utils.cpp_extension").setLevel(
        logging.ERROR
    )  # it misses CUDA, which nothing here needs
    with tempfile.TemporaryDirectory(prefix="dlrun-compiled-") as folder:
        package_path = str(Path(folder) / "step.pt2")
        aoti_compile_and_package(
            exported, package_path=package_path, inductor_configs=dict(OPTIONS)
        )
        loader: Any = aoti_load_package(package_path).loader
    run: CompiledFunction = loader.run  # without what checks and unpacks arguments by name
    return run


def compile_recorded_step(
    step: Step, play: RecordedStep, batch: Batch, tolerance: float
) -> RecordedStep:
    """What is played, compiled.

    Args:
        step: What it comes to for this batch.
        tolerance: How large a difference may be, relative to the size of a tensor.

    Raises:
        UserError: if this comes to another.
    """
    code, scope = cast(FunctionType, play).__code__, cast(FunctionType, play).__globals__
    # Weights and buffers become inputs: they change between calls.
    names = [name for name, value in scope.items() if isinstance(value, Tensor)]
    constants, example_columns = [scope[name] for name in names], list(batch.values())
    calls = {name: to_export_value(value) for name, value in scope.items()}

    def run_recorded(*inputs: Tensor) -> list[Tensor]:
        columns, weights = inputs[: len(batch)], inputs[len(batch) :]
        named = calls | dict(zip(names, weights, strict=True))
        return collect_step_tensors(FunctionType(code, named)(*columns))

    run = compile_function(run_recorded, [*example_columns, *constants], "the training step")

    def play_fast(*columns: Tensor) -> Step:
        results = iter(run([*map(match_strides, columns, example_columns), *constants]))
        loss = next(results)
        mappings = {key: {name: next(results) for name in getattr(step, key)} for key in MAPPINGS}
        return Step(step.group, loss, gradient=list(results), **mappings)

    played = collect_step_tensors(play_fast(*batch.values()))
    return (
        play_fast
        if is_close(collect_step_tensors(step), played, tolerance)
        else (raise_compiler_error())
    )
