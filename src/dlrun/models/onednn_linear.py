"""A linear layer whose large products are computed by the faster of torch's two libraries."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

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


class LinearFunction(torch.autograd.Function):
    """`linear_forward` with its gradients."""

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


class Linear(nn.Linear):
    """torch's linear layer; large single-precision products on an AMD processor are oneDNN's."""

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
        is_float32 = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        # under autocast the product is to be in half precision
        return is_float32 and not torch.is_autocast_enabled("cpu") and is_onednn_faster()
