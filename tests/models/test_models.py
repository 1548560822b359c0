"""Every model on every kind of field that it accepts, and the sparse layer against the dense one."""

from __future__ import annotations

import math

import pytest
import torch
from laboratory import node

from dlrun.config.compatibility import (
    ACCEPTS,
    NEEDS,
    PROBLEM_TYPES,
    SINGLE_OUTPUT_KINDS,
    can_predict_targets,
    get_model_error,
)
from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError
from dlrun.core.types import Field, Spec
from dlrun.data.loading.table import SparseCounts
from dlrun.evaluation.metrics import get_default_metrics
from dlrun.models.layers import InputProjection, SparseLinear
from dlrun.objectives.losses import auto
from dlrun.objectives.supervised import Supervised

ROWS = 6
UNTRAINED = ("constant", "linear_solved", "bigram")
INPUTS = {
    "number": Field("number", (4,)),
    "fraction": Field("fraction", (1,)),
    "binary": Field("binary", (1,)),
    "category": Field("category", (), 5),
    "multilabel": Field("multilabel", (3,), 3),
    "bag": Field("bag", (20,), 20),
    "image": Field("image", (2, 12, 12)),
    "tokens": Field("tokens", (7,), 30),
    "series": Field("series", (9, 2)),
}
TARGETS = {
    "number": Field("number", (2,), prior=torch.tensor([1.0, 2.0])),
    "fraction": Field("fraction", (1,), prior=torch.tensor([0.3])),
    "binary": Field("binary", (1,), prior=torch.tensor([0.4])),
    "category": Field("category", (), 4, prior=torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "tokens": Field(
        "tokens", (7,), 30, prior=torch.ones(30) / 30
    ),  # what comes next at each place of the input
    "multilabel": Field("multilabel", (3,), 3, prior=torch.tensor([0.1, 0.5, 0.9])),
}
SHORT = {  # for sequences of a few steps
    "conv1d": {"filters": [3, 4], "kernel": 2, "pool": [2, 1]},
    "conv_gru": {"filters": [3, 4], "kernel": 2, "pool": [2, 1]},
    "transformer": {"embedding": 8},
}
CHANGES = {
    "combined": {"encoder": node("encoder", "gru")},  # its own reads words only
    **{name: {"encoder": node("encoder", name, **settings)} for name, settings in SHORT.items()},
    "pretrained": {  # a small base without weights, all of which learns
        "architecture": "shufflenet_v2_x0_5",
        "weights": None,
        "preprocess": "normalize",
        "unfreeze": "all",
    },
}
PICTURES = {"pretrained": Field("image", (1, 12, 12))}  # of as many channels as it can read


def a_bag(rows=ROWS, width=20, each=3):
    torch.manual_seed(2)
    columns = torch.cat([torch.randperm(width)[:each].sort().values for _ in range(rows)]).int()
    return SparseCounts(
        torch.arange(0, rows * each + 1, each).int(), columns, torch.rand(rows * each) + 0.5, width
    )


def values(field):
    if field.kind in ("category", "tokens"):
        return torch.randint(0, field.size, (ROWS, *field.shape))
    if field.kind == "bag":
        return next(a_bag().batches(slice(None), ROWS))
    drawn = torch.rand(ROWS, *field.shape)
    return drawn.round() if field.kind in ("binary", "multilabel") else drawn


CASES = [
    (model, kind, target)
    for model in sorted(ACCEPTS)
    for kind in ACCEPTS[model]
    for target in TARGETS
    if can_predict_targets(model, [target])
    and (model != "bigram" or target == "tokens")  # whose classes are those of its input
]


def test_every_problem_and_field_is_in_the_table():
    assert set(TARGETS) == set(PROBLEM_TYPES) and len(CASES) >= 120


@pytest.mark.parametrize(("model", "kind", "target"), CASES)
def test_every_model_reads_and_answers_every_kind_it_accepts(model, kind, target):
    inputs = {"x": INPUTS[kind]}
    if kind not in NEEDS.get(model, (kind,)):
        inputs["other"] = INPUTS[NEEDS[model][0]]
    inputs = {
        name: PICTURES.get(model, field) if field.kind == "image" else field
        for name, field in inputs.items()
    }
    spec = Spec(inputs, {"y": TARGETS[target]})
    for init in ("torch", "keras") if model not in UNTRAINED else ("",):
        torch.manual_seed(0)
        changes = {"init": init} if init else {}
        built = build_part(node("model", model, **changes, **CHANGES.get(model, {})), spec)
        batch = {name: values(field) for name, field in {**spec.inputs, **spec.targets}.items()}
        objective = Supervised(built, {"y": auto(spec.targets["y"])})
        (step,) = objective.steps(batch)
        assert step.outputs["y"].shape == (ROWS, *spec.targets["y"].output_shape)
        assert math.isfinite(float(step.loss.detach()))
        if model not in UNTRAINED:
            step.loss.backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
        for metric in get_default_metrics(spec.targets["y"]).values():
            assert metric.per_row(step.outputs["y"].detach(), batch["y"]).shape == (ROWS,)


def test_a_model_answers_several_targets_from_several_inputs():
    spec = Spec(
        {k: INPUTS[k] for k in ("number", "category", "bag", "image")},
        {k: TARGETS[k] for k in SINGLE_OUTPUT_KINDS},
    )
    batch = {name: values(field) for name, field in spec.inputs.items()}
    for model in ("dense", "linear", "convnet", "residual", "inception", "separable"):
        for category in ("onehot", "embedding") if model not in NEEDS else ("",):
            built = build_part(
                node("model", model, **({"category": category} if category else {})), spec
            )
            outputs = built(batch)
            assert {name: tuple(raw.shape) for name, raw in outputs.items()} == {
                name: (ROWS, field.num_outputs) for name, field in spec.targets.items()
            }


def test_columns_may_be_called_what_torch_takes_for_something_else():
    names = ("a.b", "type", "keys", "training")
    kinds = ("number", "category", "bag", "category")
    for model in ("constant", "dense", "linear", "linear_solved", "combined"):
        extra = {"x.y": INPUTS["tokens"]} if model == "combined" else {}
        inputs = {name: INPUTS[kind] for name, kind in zip(names, kinds, strict=True)} | extra
        spec = Spec(inputs, {"half": TARGETS["number"], "c.d": TARGETS["category"]})
        built = build_part(node("model", model), spec)
        outputs = built({name: values(field) for name, field in inputs.items()})
        assert list(outputs) == ["half", "c.d"] and outputs["c.d"].shape == (ROWS, 4)
        built.load_state_dict(built.state_dict())


def test_what_a_model_cannot_read_is_refused_by_name():
    assert get_model_error("dense", {"x": "number"}) is None
    for model in ("dense", "linear", "convnet"):
        fault = get_model_error(model, {"story": "tokens"})
        assert model in fault and "'story'" in fault and "constant" in fault
    assert "image" in get_model_error("convnet", {"x": "number"})


def test_the_sparse_layer_is_the_dense_layer():
    bag = next(a_bag().batches(slice(None), ROWS))
    sparse = InputProjection({"words": Field("bag", (20,), 20), "x": Field("number", (4,))}, 7)
    sparse.initialize("keras")
    x = torch.randn(ROWS, 4)
    dense = torch.nn.Linear(24, 7)
    with torch.no_grad():
        dense.weight.copy_(torch.cat([sparse.rows["words"].T, sparse.linear.weight], 1))
        dense.bias.copy_(sparse.linear.bias)
    one, other = sparse({"words": bag, "x": x}), dense(torch.cat([bag.to_dense(), x], 1))
    assert torch.allclose(one, other, atol=1e-6)
    one.square().sum().backward(), other.square().sum().backward()
    gradient = torch.cat([sparse.rows["words"].grad.T, sparse.linear.weight.grad], 1)
    assert torch.allclose(gradient, dense.weight.grad, atol=1e-5)


def test_the_sparse_product_has_the_right_gradient():
    bag = next(a_bag().batches(slice(None), ROWS))
    bag = torch.sparse_csr_tensor(
        bag.crow_indices(), bag.col_indices(), bag.values(), bag.shape, check_invariants=True
    )
    weight = torch.randn(20, 3, requires_grad=True)
    wanted = torch.autograd.grad((bag.to_dense() @ weight).cos().sum(), weight)[0]
    found = torch.autograd.grad(
        SparseLinear.apply(bag, weight, torch.zeros(3)).cos().sum(), weight
    )[0]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_bags_in_chunks_are_the_rows():
    bag = a_bag(rows=11)
    whole = next(bag.batches(slice(None), 11)).to_dense()
    rows = torch.tensor([4, 4, 0, 10, 7])
    parts = torch.cat([part.to_dense() for part in bag.batches(rows, 2)])
    assert torch.equal(parts, whole[rows])


def test_keras_starting_weights():
    model = build_part(
        node("model", "dense", units=[300], init="keras"),
        Spec({"x": Field("number", (500,))}, {"y": TARGETS["binary"]}),
    )
    first = model.hidden[0].linear.requires_grad_(False)
    bound = math.sqrt(6 / 800)
    assert float(first.weight.abs().max()) <= bound and float(first.weight.std()) == pytest.approx(
        bound / math.sqrt(3), rel=0.02
    )
    assert not first.bias.any() and not model.heads["y"].bias.any()


def test_penalties_are_those_of_keras():
    spec = Spec({"x": Field("number", (4,))}, {"y": TARGETS["binary"]})
    model = build_part(node("model", "dense", units=[3, 2], l1=0.01, l2=0.1), spec)
    kernels = [model.hidden[0].linear.weight, model.hidden[2].weight]
    wanted = sum(0.01 * k.abs().sum() + 0.1 * k.square().sum() for k in kernels)
    assert torch.allclose(model.penalty(), wanted)


def test_an_image_too_small_is_refused_with_its_size():
    spec = Spec({"x": Field("image", (1, 8, 8))}, {"y": TARGETS["category"]})
    with pytest.raises(UserError, match="1×8×8 is too small"):
        build_part(node("model", "convnet", filters=[8, 8, 8], padding="valid"), spec)


def test_the_book_convnet_has_its_93322_weights():
    spec = Spec({"x": Field("image", (1, 28, 28))}, {"y": Field("category", (), 10)})
    settings = {"filters": [32, 64, 64], "pool": [2, 2, 1], "padding": "valid", "dense": [64]}
    model = build_part(node("model", "convnet", **settings), spec)
    assert sum(p.numel() for p in model.parameters()) == 93322
