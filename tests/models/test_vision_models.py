"""Image models: the book's parameter counts, shapes over the registry, and weights that go through a run folder."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from laboratory import node
from torch import nn

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError
from dlrun.core.types import Field, Spec
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.models.layers import build_stride
from dlrun.models.pretrained.earlier_run import load_run_model
from dlrun.models.vision.inception import InceptionBlock
from dlrun.models.vision.residual import build_shortcut, residual_block
from dlrun.models.vision.separable import separable_convolution

NETS = ("convnet", "residual", "inception", "separable")
PLAIN = ("relu", False)
ONE = {"y": Field("binary", (1,))}


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def conv(kernel, channels, filters):
    return kernel * kernel * channels * filters + filters


def net(model, shape, targets=None, **changes):
    return build_part(
        node("model", model, **changes), Spec({"image": Field("image", shape)}, targets or ONE)
    )


def test_the_residual_blocks_of_the_book():
    identity, linear = residual_block(128, 128, 3, 1, PLAIN), residual_block(64, 128, 2, 2, PLAIN)
    assert count(identity) == 3 * conv(3, 128, 128) == 442_752
    assert count(linear) == conv(3, 64, 128) + conv(3, 128, 128) + conv(1, 64, 128) == 229_760
    x = torch.randn(2, 128, 9, 7)
    with torch.no_grad():
        assert torch.equal(identity(x), identity.body(x) + x)
        assert linear(torch.randn(2, 64, 9, 8)).shape == (2, 128, 5, 4)


@pytest.mark.parametrize("side", [1, 2, 7, 8])
def test_a_shortcut_is_the_strided_convolution_of_the_book(side):
    path, x = build_shortcut(16, 32, 2), torch.randn(3, 16, side, side)
    wanted = nn.functional.conv2d(x, path[-1].weight, path[-1].bias, stride=2)
    assert torch.allclose(path(x), wanted, atol=1e-6)
    assert build_stride(1) == [] and isinstance(build_shortcut(8, 8, 1), nn.Identity)


def test_the_inception_module_of_the_book():
    module = InceptionBlock(64, 128, 2, PLAIN)
    branches = [
        conv(1, 64, 128),
        conv(1, 64, 128) + conv(3, 128, 128),
        conv(3, 64, 128),
        conv(1, 64, 128) + 2 * conv(3, 128, 128),
    ]
    assert [count(branch) for branch in module.branches] == branches and count(module) == sum(
        branches
    ) == 541_568
    for side in (1, 7, 8):
        assert module(torch.randn(2, 64, side, side)).shape == (
            2,
            512,
            math.ceil(side / 2),
            math.ceil(side / 2),
        )


@pytest.mark.parametrize(
    ("channels", "filters", "bias"), [(3, 32, True), (64, 128, False), (1, 7, True)]
)
def test_a_separable_convolution_has_the_weights_of_the_formula(channels, filters, bias):
    layer = separable_convolution(channels, filters, 3, "same", bias)
    assert count(layer) == 9 * channels + channels * filters + (filters if bias else 0)
    x = torch.randn(2, channels, 6, 5)
    each = [
        nn.functional.conv2d(x[:, c : c + 1], layer[0].weight[c : c + 1], padding=1)
        for c in range(channels)
    ]
    assert torch.allclose(layer(x), layer[1](torch.cat(each, 1)), atol=1e-5)


def test_the_separable_net_of_the_book():
    widths = [3, 32, 64, 64, 128, 64, 128]
    wanted = sum(9 * a + a * b + b for a, b in pairwise(widths)) + 128 * 32 + 32 + 32 * 10 + 10
    model = net("separable_book", (3, 64, 64), {"y": Field("category", (), 10)})
    assert count(model) == wanted == 38_949
    with pytest.raises(UserError, match="3×20×20 is too small"):
        net("separable_book", (3, 20, 20))


def test_the_convnet_of_the_book_for_photographs():
    assert count(net("convnet_150", (3, 150, 150))) == 3_453_121


@pytest.mark.parametrize("model", NETS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 33, 20)])
def test_every_net_reads_small_grey_and_oblong_pictures(model, shape):
    torch.manual_seed(0)
    built = net(model, shape, {"y": Field("category", (), 4), "z": Field("number", (2,))}).train()
    answers = built({"image": torch.rand(5, *shape)})
    assert answers["y"].shape == (5, 4) and answers["z"].shape == (5, 2)
    (answers["y"].logsumexp(1).sum() + answers["z"].square().sum()).backward()
    assert all(
        weight.grad is not None and weight.grad.isfinite().all() for weight in built.parameters()
    )


@pytest.mark.parametrize("model", ["residual", "separable"])
def test_keras_starting_weights_and_batch_norms(model):
    built = net(model, (3, 16, 16), batch_norm=True, init="keras")
    norms = [part for part in built.modules() if isinstance(part, nn.BatchNorm2d)]
    convolutions = [part for part in built.modules() if isinstance(part, nn.Conv2d)]
    assert norms and all((part.momentum, part.eps) == (0.01, 1e-3) for part in norms)
    for part in convolutions:
        area = part.kernel_size[0] * part.kernel_size[1]
        inside = (
            part.groups if part.groups > 1 else part.in_channels
        )  # Keras: (k, k, C, 1) for a depthwise kernel
        outside = 1 if part.groups > 1 else part.out_channels
        bound = math.sqrt(6 / (area * (inside + outside)))
        assert 0.8 * bound < float(part.weight.detach().abs().max()) <= bound
        assert part.bias is None or not part.bias.any()


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="padding=same"):
        net("separable", (3, 40, 40), padding="valid")
    with pytest.raises(UserError, match="3 blocks but 2 pools"):
        net("residual", (3, 16, 16), pool=[2, 2])
    with pytest.raises(UserError, match="a convolution at least"):
        net("separable", (3, 16, 16), filters=[[8], []], pool=1)


@pytest.mark.parametrize("model", NETS[1:])
def test_weights_come_back_from_a_run_folder(tmp_path, model):
    small = {
        "residual": "filters=[4,8,8]",
        "inception": "filters=[4,4]",
        "separable": "filters=[[8],[8],[8,8]]",
    }
    words = [
        "task=digits",
        f"model={model}",
        f"model.{small[model]}",
        "engine.epochs=1",
        "engine.device=cpu",
    ]
    assert main([*words, "callback=keep_best", f"output={tmp_path}"]) == 0
    (folder,) = [path.parent for path in tmp_path.rglob("results.jsonl")]
    found = load_run_model(folder)
    assert set(found.model.towers) == {"image"} and not found.model.training
    (result,) = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    kept = np.load(next((folder / "predictions").glob("*-val.npz")))
    raw = build_part(node("data", "digits"))
    pictures = next(
        transform_rows(
            raw, prepare(raw, np.arange(len(raw)), None), {"image": raw.dev["image"][kept["row"]]}
        ).batches(len(kept["row"]))
    )
    with torch.no_grad():
        answers = found.model(pictures)["digit"].softmax(1).numpy()
    assert result["split"] == "val" and np.allclose(answers, kept["output/digit"], atol=1e-4)
