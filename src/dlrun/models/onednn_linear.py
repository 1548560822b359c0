"""Large products of linear layers, by the faster of torch's two libraries: all that knows of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

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
