"""Building blocks that models share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dlrun.core.types import Batch, Field
from dlrun.models.onednn_linear import Linear


def escape_name(name: str) -> str:
    """A name that torch takes for a part of a module: the name itself, if it does."""
    taken = hasattr(nn.ModuleDict, name) or hasattr(nn.ParameterDict, name) or name == "training"
    return f"of_{name.replace('.', '·')}" if taken or "." in name or not name else name


class SafeModuleDict(nn.ModuleDict):
    """Modules by name, for any names; in a checkpoint they go by those that torch takes."""

    steady = True

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({escape_name(name): module for name, module in modules.items()})
        self.names = tuple(modules)

    def __getitem__(self, name: str) -> nn.Module:
        return super().__getitem__(escape_name(name))

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def keys(self) -> Any:
        return self.names

    def items(self) -> Any:
        return [(name, self[name]) for name in self.names]


Init = Literal["torch", "keras"]
Activation = Literal["relu", "tanh", "gelu", "elu", "selu", "sigmoid", "leaky_relu", "none"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "none": nn.Identity,
}


class SparseLinear(torch.autograd.Function):
    """bias + bag (B, V) sparse CSR times weight (V, units), with a gradient that never makes the bag dense."""

    @staticmethod
    def forward(ctx: Any, bag: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(bag)
        ctx.rows = bias.dim() == 2
        kind = (
            weight.device.type
        )  # entering autocast costs as much as a small product: only where there is one to leave
        with (
            torch.autocast(kind, enabled=False)
            if torch.is_autocast_enabled(kind)
            else nullcontext()
        ):
            return torch.addmm(bias.float(), bag, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        (bag,) = ctx.saved_tensors
        gradient = gradients[0].float()
        return None, transposed_matmul(bag, gradient), gradient if ctx.rows else gradient.sum(0)


def transposed_matmul(bag: Tensor, gradient: Tensor) -> Tensor:
    """bagᵀ (V, B) times gradient (B, units): rows of the gradient added up by word."""
    starts, columns, values = bag.crow_indices(), bag.col_indices(), bag.values()
    if (
        bag.device.type == "cpu"
    ):  # scipy adds rows as it reads them; torch would copy one row a word first (2x slower)
        from scipy.sparse._sparsetools import (
            csc_matvecs,
        )  # a csc_array around it takes as long as it does

        found = gradient.new_zeros(
            bag.shape[1], gradient.shape[1]
        )  # rows of the bag are columns of its transpose
        parts = (
            starts.numpy(),
            columns.numpy(),
            values.numpy(),
            gradient.contiguous().numpy().ravel(),
        )
        csc_matvecs(bag.shape[1], *gradient.shape, *parts, found.numpy().ravel())
        return found
    rows = torch.repeat_interleave(torch.arange(len(starts) - 1, device=bag.device), starts.diff())
    weighted = gradient.index_select(0, rows) * values[:, None]
    return gradient.new_zeros(bag.shape[1], gradient.shape[1]).index_add_(0, columns, weighted)


class InputProjection(nn.Module):
    """One linear layer over several inputs side by side: what each contributes, added up, plus one bias.

    Numbers and images are flattened and concatenated; a bag is multiplied sparsely; a category is one-hot, which is a
    look-up of weight rows, or, with `embedding` > 0, a learnt vector of that width. Answers (B, units).
    """

    steady = True

    def __init__(self, inputs: dict[str, Field], units: int, *, embedding: int = 0) -> None:
        super().__init__()
        names = [name for name, field in inputs.items() if field.kind != "bag"]
        learnt = [name for name in names if inputs[name].kind == "category" and embedding]
        self.lookups = [name for name in names if inputs[name].kind == "category" and not embedding]
        self.bags = [name for name, field in inputs.items() if field.kind == "bag"]
        self.flat = [name for name in names if inputs[name].kind != "category"]
        self.embeddings = SafeModuleDict(
            {name: nn.Embedding(inputs[name].size, embedding) for name in learnt}
        )
        width = sum(inputs[name].num_outputs for name in self.flat) + embedding * len(learnt)
        sparse = {
            name: inputs[name].size or inputs[name].num_outputs
            for name in (*self.bags, *self.lookups)
        }
        self.fan_in = width + sum(sparse.values())
        self.linear = Linear(width, units) if width else None
        rows = {
            escape_name(name): nn.Parameter(torch.empty(size, units))
            for name, size in sparse.items()
        }
        self.rows = nn.ParameterDict(rows)
        self.bias = None if width else nn.Parameter(torch.zeros(units))

    @property
    def kernels(self) -> list[Tensor]:
        """The weights, without biases and embeddings."""
        return [*([self.linear.weight] if self.linear is not None else []), *self.rows.values()]

    def initialize(self, init: Init) -> None:
        """Starting weights as if it were one layer over all inputs."""
        units = self.kernels[0].shape[0] if self.linear is not None else self.kernels[0].shape[1]
        fan = self.fan_in + units if init == "keras" else 2 * self.fan_in
        bound = math.sqrt(6 / fan) if init == "keras" else 1 / math.sqrt(self.fan_in)
        for kernel in self.kernels:
            nn.init.uniform_(kernel, -bound, bound)
        for embedding in self.embeddings.values():
            if init == "keras":
                nn.init.uniform_(cast(nn.Embedding, embedding).weight, -0.05, 0.05)
        bias = self.linear.bias if self.linear is not None else self.bias
        assert bias is not None
        nn.init.zeros_(bias) if init == "keras" else nn.init.uniform_(bias, -bound, bound)

    def forward(self, batch: Batch) -> Tensor:
        if self.linear is not None and not self.rows:
            return cast(Tensor, self.linear(self._concat_inputs(batch)))
        total: Any = self.bias if self.linear is None else self.linear(self._concat_inputs(batch))
        for name in self.bags:
            total = SparseLinear.apply(batch[name], self.rows[escape_name(name)], total)
        for name in self.lookups:
            total = total + nn.functional.embedding(batch[name], self.rows[escape_name(name)])
        return cast(Tensor, total)

    def _concat_inputs(self, batch: Batch) -> Tensor:
        parts = [
            batch[name] if batch[name].dim() == 2 else batch[name].flatten(1) for name in self.flat
        ]
        parts += [layer(batch[name]) for name, layer in self.embeddings.items()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def build_convolution(
    channels: int, filters: int, kernel: int, activation: str, batch_norm: bool, stride: int = 1
) -> list[nn.Module]:
    """One convolution that keeps the size (a side of n becomes ⌈n / stride⌉), its batch norm and its activation."""
    first = build_stride(stride) if kernel == 1 else []
    layer = nn.Conv2d(
        channels, filters, kernel, 1 if first else stride, kernel // 2, bias=not batch_norm
    )
    return [
        *first,
        layer,
        *([nn.BatchNorm2d(filters)] if batch_norm else []),
        ACTIVATIONS[activation](),
    ]


def build_stride(stride: int) -> list[nn.Module]:
    """Every `stride`-th place, to be followed by a 1×1 convolution: the same as that convolution with this stride.

    torch 2.14 writes beyond its memory in the backward pass of the latter, channels last, for 2 to 7 input channels.
    """
    return [nn.AvgPool2d(1, stride)] if stride > 1 else []


def initialize_weights(module: nn.Module, init: Init) -> None:
    """Starting weights: torch's own, or Keras' (glorot-uniform kernels, zero biases; BOOK §0), with its norms.

    The kernel of a depthwise convolution has the same bound in both, as only the sum of its two fans counts. Published
    word vectors stay as they are.
    """
    for part in module.modules():
        if isinstance(part, InputProjection):
            part.initialize(init)
    inside = {
        id(inner)
        for part in module.modules()
        if isinstance(part, InputProjection)
        for inner in part.modules()
    }
    for part in module.modules():
        if init == "keras" and id(part) not in inside:
            keras_init(part)


def keras_init(part: nn.Module) -> None:
    """The starting weights, and the constants of a norm, that Keras gives to a layer of this kind, if it is one."""
    if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        part.momentum, part.eps = 0.01, 1e-3  # Keras: momentum .99, which is the share that is kept
    if isinstance(part, nn.LayerNorm):
        part.eps = 1e-3
    if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv1d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(part.weight)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    if isinstance(part, nn.Embedding) and not getattr(part, "published", False):
        nn.init.uniform_(part.weight, -0.05, 0.05)
    if isinstance(part, nn.MultiheadAttention):
        for kernel in part.in_proj_weight.data.chunk(
            3
        ):  # queries, keys and values are three layers
            nn.init.xavier_uniform_(kernel)
    if isinstance(part, nn.RNNBase):
        keras_recurrent_init(part)


def keras_recurrent_init(part: nn.RNNBase) -> None:
    """Glorot for the inputs' kernels of all gates together, an orthogonal one for the state, forget gates open at 1."""
    for name, weight in part.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(weight)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(weight)
        else:
            nn.init.zeros_(weight)
        if isinstance(part, nn.LSTM) and name.startswith("bias_ih"):
            weight.data[part.hidden_size : 2 * part.hidden_size] = 1  # in one of torch's two biases


def compute_penalty(kernels: list[Tensor], l1: float, l2: float) -> Tensor:
    """l1 · Σ|w| + l2 · Σw² over these kernels, as Keras adds it to the loss (no ½)."""
    total = torch.zeros((), device=kernels[0].device)
    for kernel in kernels:
        if l1:
            total = total + l1 * kernel.abs().sum()
        if l2:
            total = total + l2 * kernel.square().sum()
    return total
