"""A linear layer whose large products are computed by the faster of torch's two libraries for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

MIN_MULTIPLICATIONS = (
    1 << 22
)  # multiplications from which on the product itself is what takes the time


@cache
def is_onednn_faster() -> bool:
    """Whether this processor is one of AMD's, on which MKL, torch's choice, takes twice as long as oneDNN does."""
    about = Path("/proc/cpuinfo")
    amd = about.exists() and "AuthenticAMD" in about.read_text()
    return (
        amd
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, in) times weight (out, in) transposed, plus bias, by oneDNN."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


class LinearFunction(torch.autograd.Function):
    """`linear_forward` with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear_forward(x, weight, bias)

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        (gradient,) = gradients
        return (
            linear_forward(gradient, weight.t(), None) if of_x else None,
            linear_forward(gradient.t(), x.t(), None) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


class Linear(nn.Linear):
    """torch's linear layer; products of many single-precision numbers on an AMD processor are oneDNN's."""

    steady = True

    def forward(self, input: Tensor) -> Tensor:
        if (
            input.dim() == 2
            and input.numel() * self.out_features >= MIN_MULTIPLICATIONS
            and self._is_supported(input)
        ):
            return cast(Tensor, LinearFunction.apply(input, self.weight, self.bias))
        return super().forward(input)

    def _is_supported(self, x: Tensor) -> bool:
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        return plain and not torch.is_autocast_enabled("cpu") and is_onednn_faster()
