"""Building blocks that models share: named module dicts, linear layers, starting weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dlrun.core.types import Batch, Field

MIN_MULTIPLICATIONS = 1 << 22  # smaller products take less time than the call itself


# the processor does not change, and reading its description takes time
@cache
def is_onednn_faster() -> bool:
    """Return if oneDNN beats MKL, torch's choice, which takes twice as long on AMD."""
    cpu_info = Path("/proc/cpuinfo")
    is_amd = cpu_info.exists() and "AuthenticAMD" in cpu_info.read_text()
    return (
        is_amd
        and torch.backends.mkldnn.is_available()
        # a private operator, which some builds of torch lack
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x (B, in) times weight (out, in) transposed, plus bias, computed by oneDNN."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


class OneDnnLinear(torch.autograd.Function):
    """`linear_forward` with its gradients, and where it pays."""

    @staticmethod
    def is_faster(x: Tensor, weight: Tensor) -> bool:
        """Return if x times weight (out, in) transposed is a product for oneDNN."""
        return (
            x.dim() == 2
            and x.numel() * weight.shape[0] >= MIN_MULTIPLICATIONS
            and x.device.type == "cpu"
            and x.dtype == weight.dtype == torch.float32
            # under autocast the product is to be in half precision
            and not torch.is_autocast_enabled("cpu")
            and is_onednn_faster()
        )

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear_forward(x, weight, bias)

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        (gradient,) = gradients
        return (
            # a gradient that nobody needs is not computed
            linear_forward(gradient, weight.t(), None) if needs_x else None,
            linear_forward(gradient.t(), x.t(), None) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


@cache
def build_opaque_linear() -> Callable[..., Tensor]:
    """Return oneDNN's product as a call that torch's compiler leaves alone.

    Its own takes only weights that never change.
    """
    linear = torch.ops.mkldnn._linear_pointwise

    @torch.library.custom_op("dlrun::linear", mutates_args=(), device_types="cpu")
    def opaque_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return cast(Tensor, linear(x, weight, bias, "none", [], ""))

    opaque_linear.register_fake(lambda x, weight, bias: x.new_empty(len(x), len(weight)))
    return lambda x, weight, bias, *plain: opaque_linear(x, weight, bias)


def to_export_value(value: Any) -> Any:
    """Return a torch call, or any other value, as it can be compiled."""
    name = value.name() if isinstance(value, torch._ops.OpOverload) else ""
    return build_opaque_linear() if name == "mkldnn::_linear_pointwise" else value


def escape_name(name: str) -> str:
    """Return the name under which torch accepts a submodule: the same one where it can."""
    # torch refuses a child with the name of an attribute, such as keys
    is_reserved = (
        hasattr(nn.ModuleDict, name) or hasattr(nn.ParameterDict, name) or name == "training"
    )
    return f"of_{name.replace('.', '·')}" if is_reserved or "." in name or not name else name


class SafeModuleDict(nn.ModuleDict):
    """Modules by any names; in a checkpoint they have names that torch accepts.

    Attributes:
        names: The names, in order.
    """

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


class Linear(nn.Linear):
    """torch's linear layer; large products are computed by the faster of torch's libraries."""

    steady = True

    def forward(self, input: Tensor) -> Tensor:
        if OneDnnLinear.is_faster(input, self.weight):
            return cast(Tensor, OneDnnLinear.apply(input, self.weight, self.bias))
        return super().forward(input)


class SparseLinear(torch.autograd.Function):
    """A product of a bag and a weight whose gradient never makes the bag dense.

    bias + bag (B, V) sparse CSR times weight (V, units).
    """

    @staticmethod
    def forward(ctx: Any, bag: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(bag)
        # a bias (units,) is shared by the rows, one of (B, units) has a gradient a row
        ctx.rows = bias.dim() == 2
        kind = weight.device.type
        # entering an autocast context costs as much as a small product: only to leave another one
        leave = torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False) if leave else nullcontext():
            return torch.addmm(bias.float(), bag, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        (bag,) = ctx.saved_tensors
        # under autocast it may arrive in half precision
        gradient = gradients[0].float()
        return None, transposed_matmul(bag, gradient), gradient if ctx.rows else gradient.sum(0)


def transposed_matmul(bag: Tensor, gradient: Tensor) -> Tensor:
    """Return bagᵀ times gradient (V, units): rows of the gradient added up by word.

    Args:
        bag: (B, V), sparse CSR.
        gradient: (B, units).
    """
    starts, columns, values = bag.crow_indices(), bag.col_indices(), bag.values()
    if bag.device.type == "cpu":
        # scipy adds rows as it reads them; torch would copy one row a word first (twice as slow).
        # Its own function is called, as making a csc_array takes as long as the product.
        from scipy.sparse._sparsetools import csc_matvecs

        product = gradient.new_zeros(bag.shape[1], gradient.shape[1])
        # the rows of the bag are the columns of its transpose
        csc_matvecs(
            bag.shape[1],
            *gradient.shape,
            starts.numpy(),
            columns.numpy(),
            values.numpy(),
            gradient.contiguous().numpy().ravel(),
            product.numpy().ravel(),
        )
        return product
    # row number of each stored value
    rows = torch.repeat_interleave(torch.arange(len(starts) - 1, device=bag.device), starts.diff())
    weighted = gradient.index_select(0, rows) * values[:, None]
    return gradient.new_zeros(bag.shape[1], gradient.shape[1]).index_add_(0, columns, weighted)


class InputProjection(nn.Module):
    """One linear layer over several inputs: the contribution of each, added up, plus one bias.

    Numbers and images are flattened and concatenated; a bag is multiplied sparsely; a category is
    one-hot, which is a look-up of weight rows, or a learned vector. Returns (B, units).

    Attributes:
        lookups: Inputs that are categories, one-hot.
        bags: Inputs that are bags.
        flat: All other inputs.
        embeddings: Category → its learned vectors.
        fan_in: Width of all inputs together.
        linear: The layer over numbers and vectors; None where there are none.
        rows: Input → weight rows (size, units) of a bag or category.
        bias: Where there is no `linear` to have it.
    """

    steady = True

    def __init__(self, inputs: dict[str, Field], units: int, *, embedding: int = 0) -> None:
        super().__init__()
        names = [name for name, field in inputs.items() if field.kind != "bag"]
        embedded = [name for name in names if inputs[name].kind == "category" and embedding]
        self.lookups = [name for name in names if inputs[name].kind == "category" and not embedding]
        self.bags = [name for name, field in inputs.items() if field.kind == "bag"]
        self.flat = [name for name in names if inputs[name].kind != "category"]
        self.embeddings = SafeModuleDict(
            {name: nn.Embedding(inputs[name].size, embedding) for name in embedded}
        )
        width = sum(inputs[name].num_outputs for name in self.flat) + embedding * len(embedded)
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
        # one row of weights a word or class: looked up, never multiplied
        self.rows = nn.ParameterDict(rows)
        self.bias = None if width else nn.Parameter(torch.zeros(units))

    @property
    def kernels(self) -> list[Tensor]:
        """The weights, without biases and embeddings."""
        return [*([self.linear.weight] if self.linear is not None else []), *self.rows.values()]

    def initialize(self, init: Init) -> None:
        """Draw starting weights as if it were one layer over all inputs."""
        units = self.kernels[0].shape[0] if self.linear is not None else self.kernels[0].shape[1]
        # Glorot for Keras; torch draws linear layers from ±1/√fan_in
        fan = self.fan_in + units if init == "keras" else 2 * self.fan_in
        bound = math.sqrt(6 / fan) if init == "keras" else 1 / math.sqrt(self.fan_in)
        for kernel in self.kernels:
            nn.init.uniform_(kernel, -bound, bound)
        for embedding in self.embeddings.values():
            if init == "keras":
                nn.init.uniform_(cast(nn.Embedding, embedding).weight, -0.05, 0.05)
        bias = self.linear.bias if self.linear is not None else self.bias
        assert bias is not None
        if init == "keras":
            nn.init.zeros_(bias)
        else:
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, batch: Batch) -> Tensor:
        # the common case, without looking for sparse inputs
        if self.linear is not None and not self.rows:
            return cast(Tensor, self.linear(self._concat_inputs(batch)))
        total: Any = self.bias if self.linear is None else self.linear(self._concat_inputs(batch))
        for name in self.bags:
            total = SparseLinear.apply(batch[name], self.rows[escape_name(name)], total)
        for name in self.lookups:
            total = total + nn.functional.embedding(batch[name], self.rows[escape_name(name)])
        return cast(Tensor, total)

    def _concat_inputs(self, batch: Batch) -> Tensor:
        columns = [
            batch[name] if batch[name].dim() == 2 else batch[name].flatten(1) for name in self.flat
        ]
        columns += [layer(batch[name]) for name, layer in self.embeddings.items()]
        # concatenating a single tensor would copy it
        return columns[0] if len(columns) == 1 else torch.cat(columns, 1)


def build_convolution(
    channels: int, filters: int, kernel: int, activation: str, batch_norm: bool, stride: int = 1
) -> list[nn.Module]:
    """Return a convolution that keeps the size, with its batch norm and activation.

    Args:
        channels: Of the input.
        filters: Channels of the output.
        kernel: Side of the kernel, odd.
        activation: Name of it.
        batch_norm: Whether there is one.
        stride: A side of n becomes ⌈n / stride⌉.
    """
    # see `build_stride` for the reason
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
    """Return a layer that takes every `stride`-th pixel, to be followed by a 1×1 convolution.

    The two equal that convolution with this stride, whose backward pass in torch 2.14 writes beyond
    its memory for 2 to 7 input channels in the channels-last format.
    """
    return [nn.AvgPool2d(1, stride)] if stride > 1 else []


def initialize_weights(module: nn.Module, init: Init) -> None:
    """Draw starting weights.

    The kernel of a depthwise convolution has the same bound in both frameworks, as only the sum of
    its two fans counts. Published word vectors stay as they are.

    Args:
        module: A model or a part of one.
        init: torch (its own) or keras (Glorot-uniform kernels, zero biases, its norms; BOOK §0).
    """
    projections = [layer for layer in module.modules() if isinstance(layer, InputProjection)]
    for projection in projections:
        projection.initialize(init)
    initialized = {id(child) for projection in projections for child in projection.modules()}
    for layer in module.modules():
        if init == "keras" and id(layer) not in initialized:
            keras_init(layer)


def keras_init(layer: nn.Module) -> None:
    """Draw the starting weights that Keras gives to a layer of this kind, and set its constants."""
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        # Keras calls .99 the momentum: the share of the old statistics that is kept
        layer.momentum, layer.eps = 0.01, 1e-3
    if isinstance(layer, nn.LayerNorm):
        # Keras' default, torch has 1e-5
        layer.eps = 1e-3
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv1d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    # vectors from a file must not be drawn anew
    if isinstance(layer, nn.Embedding) and not getattr(layer, "published", False):
        nn.init.uniform_(layer.weight, -0.05, 0.05)
    if isinstance(layer, nn.MultiheadAttention):
        # queries, keys and values are three layers in Keras
        for kernel in layer.in_proj_weight.data.chunk(3):
            nn.init.xavier_uniform_(kernel)
    if isinstance(layer, nn.RNNBase):
        keras_recurrent_init(layer)


def keras_recurrent_init(layer: nn.RNNBase) -> None:
    """Draw Keras' starting weights of a recurrent layer.

    Glorot-uniform for the input kernels of all gates together, orthogonal for the state's, and a
    bias of 1 for forget gates.
    """
    for name, weight in layer.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(weight)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(weight)
        else:
            nn.init.zeros_(weight)
        if isinstance(layer, nn.LSTM) and name.startswith("bias_ih"):
            # in one of torch's two biases, which are added
            weight.data[layer.hidden_size : 2 * layer.hidden_size] = 1


def compute_penalty(kernels: list[Tensor], l1: float, l2: float) -> Tensor:
    """Return l1 · Σ|w| + l2 · Σw², as Keras adds it to the loss (no ½).

    Args:
        kernels: The weights w; at least one.
        l1: Strength of the L1 penalty.
        l2: Strength of the L2 penalty.
    """
    total = torch.zeros((), device=kernels[0].device)
    for kernel in kernels:
        if l1:
            total = total + l1 * kernel.abs().sum()
        if l2:
            total = total + l2 * kernel.square().sum()
    return total
