"""The large product of a linear layer is the same layer, whichever library computes it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlrun.models import layers
from dlrun.models.layers import Linear

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this torch has no oneDNN",
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inputs", [True, False])  # whether what is before it learns, too
def test_a_large_product_is_that_of_torchs_own_layer(bias, inputs, monkeypatch):
    monkeypatch.setattr(layers, "is_onednn_faster", lambda: True)
    torch.manual_seed(0)
    ours, theirs = Linear(600, 300, bias=bias), nn.Linear(600, 300, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x, gradient = torch.randn(64, 600), torch.randn(64, 300)
    found = []
    for layer in (ours, theirs):
        own = x.clone().requires_grad_(inputs)
        layer(own).backward(gradient)
        found.append([layer(own), own.grad, *(parameter.grad for parameter in layer.parameters())])
    assert "OneDnnLinear" in type(ours(x).grad_fn).__name__
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "how"), [(4, "few"), (64, "double"), (64, "autocast"), (64, "series")]
)
def test_all_else_is_torchs_own(rows, how, monkeypatch):
    monkeypatch.setattr(layers, "is_onednn_faster", lambda: True)
    x = torch.randn(*((rows, 2, 600) if how == "series" else (rows, 600)))
    layer = Linear(600, 300)
    layer, x = (layer.double(), x.double()) if how == "double" else (layer, x)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        answer = layer(x)
        assert "OneDnnLinear" not in type(answer.grad_fn).__name__
        assert torch.equal(answer, nn.functional.linear(x, layer.weight, layer.bias))
