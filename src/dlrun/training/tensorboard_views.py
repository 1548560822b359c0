"""What there is to see of a trainer between two epochs.

Activations, weights, the network's graph, words, images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dlrun.core import device
from dlrun.core.errors import UserError
from dlrun.core.types import Batch
from dlrun.data.display import to_display_image
from dlrun.models.sequence.embeddings import find_word_embeddings
from dlrun.training.module_trace import (
    ModuleCall,
    iter_named_tensors,
    iter_tensors,
    trace_module_calls,
)
from dlrun.training.trainer import Trainer

MODEL_PREFIX = (
    "model."  # where an objective has its one model: left out of names, as `dlrun explain` does
)
GraphNode = tuple[str, str, tuple[str, ...]]  # name, kind, and the nodes that it reads


@contextmanager
def validation_mode(trainer: Trainer) -> Iterator[None]:
    """Inside, the network is as its validation sees it.

    Afterwards modes and torch's generators are as before.
    """
    modes = {module: module.training for module in trainer.objective.modules()}
    random = device.get_random_state(trainer.device)
    try:
        trainer.objective.eval()
        with torch.no_grad(), trainer.optimization.ema_weights():
            yield
    finally:
        device.restore_random_state(random, trainer.device)
        for module, mode in modes.items():
            # One by one: frozen layers differ from the rest.
            module.training = mode


def get_first_rows(trainer: Trainer, rows: int) -> Batch:
    """The first validation rows; where none are held out, the first training rows."""
    source = trainer.data.train if trainer.data.val is None else trainer.data.val
    return next(iter(source.batches(rows)))


def trace_first_rows(trainer: Trainer, rows: int) -> tuple[list[ModuleCall], Batch, dict[str, Any]]:
    """The calls of all modules for the first rows, these rows, and target → answer."""
    if trainer.settings.compile is True:
        raise UserError(
            "engine.compile=true: nobody can look inside a compiled network; say "
            "engine.compile=false"
        )
    batch = get_first_rows(trainer, rows)
    with validation_mode(trainer):
        calls, steps = trace_module_calls(
            trainer.objective, lambda: list(trainer.runner.steps(batch)), batch
        )
    return calls, batch, {name: output for step in steps for name, output in step.outputs.items()}


def compute_layer_outputs(trainer: Trainer, rows: int) -> dict[str, np.ndarray]:
    """The outputs of all layers for the first rows, float32.

    Args:
        trainer: Between two epochs.
        rows: How many.

    Returns:
        Layer → (rows, …), or as the layer lays it out. A layer with several outputs has several
        entries ('rnn.0', 'rnn.1.0'), one that is called again too ('reader_2'). A module that
        returns the very output of one inside it is left out.
    """
    outputs: dict[str, np.ndarray] = {}
    known_tensors: set[int] = set()
    calls, _, _ = trace_first_rows(trainer, rows)
    for call in calls:
        call_tensors = {id(tensor) for tensor in iter_tensors(call.output)}
        # A container that returns its last layer's output would only repeat it.
        if not call.inner or not call_tensors <= known_tensors:
            for suffix, tensor in iter_named_tensors(call.output):
                outputs[call.name.removeprefix(MODEL_PREFIX) + suffix] = (
                    tensor.float().cpu().numpy()
                )
        known_tensors |= call_tensors
    return outputs


def build_module_graph(trainer: Trainer) -> list[GraphNode]:
    """The network as nodes: the columns that it reads, every module that computes by itself, and
    its answers.
    """
    calls, batch, outputs = trace_first_rows(trainer, 1)
    layers = [(call.name, call.kind, call.reads) for call in calls if call.own or not call.inner]
    fields = trainer.data.spec.inputs
    column_names = dict.fromkeys(name for _, _, reads in layers for name in reads if name in batch)
    columns = [
        (name, fields[name].kind if name in fields else "column", ()) for name in column_names
    ]
    layer_names = {name for name, _, _ in layers}
    producers = {
        id(tensor): call.name
        for call in calls
        if call.name in layer_names
        for tensor in iter_tensors(call.output)
    }
    output_nodes = [
        (f"answer/{name}", "Answer", (producers[id(output)],) if id(output) in producers else ())
        for name, output in outputs.items()
    ]
    return [*columns, *layers, *output_nodes]


def collect_weights(trainer: Trainer) -> dict[str, np.ndarray]:
    """'layer/weight' → all numbers of a parameter, float32."""
    named = trainer.objective.named_parameters()
    values = {
        name.removeprefix(MODEL_PREFIX): parameter.detach().float().cpu().numpy()
        for name, parameter in named
    }
    return {"/".join(name.rsplit(".", 1)): value.reshape(-1) for name, value in values.items()}


def collect_word_vectors(trainer: Trainer) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Input of words → their vectors (size, width), and the words.

    Raises:
        UserError: if the model has none.
    """
    inputs = trainer.data.spec.inputs
    objective = trainer.objective
    model = objective if objective.model is None else objective.model
    embeddings = find_word_embeddings(model, inputs)
    if not embeddings:
        kinds = ", ".join(f"{field.kind} '{name}'" for name, field in inputs.items())
        raise UserError(
            f"callback.tensorboard.embeddings=true: the model has no word vectors for {kinds}"
        )
    return {
        name: (vectors.float().cpu().numpy(), inputs[name].labels)
        for name, vectors in embeddings.items()
    }


def get_training_images(trainer: Trainer, count: int) -> dict[str, np.ndarray]:
    """The first images of the first training batch, not augmented.

    Args:
        trainer: Its data have an image input.
        count: Images of each input.

    Returns:
        'image/0' → uint8 (H, W) or (H, W, 3).

    Raises:
        UserError: if no input is an image.
    """
    names = [name for name, field in trainer.data.spec.inputs.items() if field.kind == "image"]
    batch = next(iter(trainer.data.train.batches(count, seed=trainer.seed)))
    names = [name for name in names if name in batch]
    if not names:
        kinds = ", ".join(
            f"{field.kind} '{name}'" for name, field in trainer.data.spec.inputs.items()
        )
        raise UserError(f"callback.tensorboard.images={count}: there are no images among {kinds}")
    return {
        f"{name}/{index}": to_visible_image(image)
        for name in names
        for index, image in enumerate(batch[name].cpu().numpy())
    }


def to_visible_image(values: np.ndarray) -> np.ndarray:
    """An image (C, H, W) to look at: values from 0 to 1 as they are, others stretched."""
    in_unit_range = values.min() >= 0 and values.max() <= 1
    return to_display_image((values * 255).round().astype(np.uint8) if in_unit_range else values)
