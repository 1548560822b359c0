"""The linear model that scikit-learn solves: its activated answers are scikit-learn's own predictions."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from laboratory import node
from scipy.sparse import csr_array, issparse
from sklearn.linear_model import LogisticRegression, Ridge

from dlrun.config.instantiate import build_part
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.core.types import Field, Spec
from dlrun.data.loading.images import ImageColumn
from dlrun.data.loading.sequences import SequenceColumn
from dlrun.data.loading.table import DenseColumn, SparseCounts, Table
from dlrun.data.preprocessing.pipeline import prepare
from dlrun.models.closed_form import LOGIT_EPSILON, build_matrix
from dlrun.objectives.losses import auto
from dlrun.objectives.supervised import Supervised

C, ROWS = 0.7, 90
INPUTS = {
    "number": Field("number", (4,)),
    "category": Field("category", (), 5),
    "bag": Field("bag", (12,), 12),
    "image": Field("image", (2, 3, 3)),
    "multilabel": Field("multilabel", (3,), 3),
    "tokens": Field("tokens", (), 9),
}
TARGETS = {
    "binary": Field("binary", (1,)),
    "category": Field("category", (), 4),
    "multilabel": Field("multilabel", (3,), 3),
    "number": Field("number", (2,)),
    "fraction": Field("fraction", (1,)),
}


def columns(seed=0):
    """Columns of every kind of input, and the dense matrix that scikit-learn sees."""
    random = np.random.default_rng(seed)
    number, level = random.normal(size=(ROWS, 4)).astype("float32"), random.integers(0, 5, ROWS)
    words = (random.random((ROWS, 12)) < 0.3) * random.integers(1, 4, (ROWS, 12))
    pixels = random.integers(0, 256, (ROWS, 2, 3, 3), dtype=np.uint8)
    several = (random.random((ROWS, 3)) < 0.5).astype("float32")
    starts = np.concatenate([[0], np.cumsum((words > 0).sum(1))])
    bag = SparseCounts(
        torch.tensor(starts, dtype=torch.int32), torch.tensor(words.nonzero()[1], dtype=torch.int32),
        torch.tensor(words[words > 0], dtype=torch.float32), 12,
    )  # fmt: skip
    texts = [random.integers(1, 9, random.integers(0, 7)) for _ in range(ROWS)]
    ends = torch.tensor(np.cumsum([0, *map(len, texts)]), dtype=torch.int64)
    tokens = SequenceColumn(
        torch.tensor(np.concatenate(texts), dtype=torch.int32), ends, 9, 7, "front", False
    )
    found = {
        "number": DenseColumn(torch.tensor(number)),
        "tokens": tokens,
        "category": DenseColumn(torch.tensor(level)),
        "bag": bag,
        "image": ImageColumn(torch.tensor(pixels)),
        "multilabel": DenseColumn(torch.tensor(several)),
    }
    dense = {
        "number": number,
        "category": np.eye(5)[level],
        "bag": words,
        "image": pixels.reshape(ROWS, -1) / 255,
        "multilabel": several,
        "tokens": np.stack([np.bincount(text, minlength=9) for text in texts]),
    }
    return found, dense


def answers(x, kind, seed=1):
    """A target of this kind that the inputs have to do with."""
    random = np.random.default_rng(seed)
    y = x @ random.normal(size=(x.shape[1], 4)) / 2 + random.normal(size=(ROWS, 4))
    if kind == "category":
        return y.argmax(1)
    if kind == "fraction":
        return (1 / (1 + np.exp(-y[:, :1]))).round(1).astype("float32")  # with zeros and ones
    return {"binary": y[:, :1] > 0, "multilabel": y[:, :3] > 0, "number": y[:, :2] * 3 + 5}[
        kind
    ].astype("float32")


def wanted(x, y, kind):
    """What scikit-learn predicts."""
    ask = {"C": C, "max_iter": 5000}
    if kind == "category":
        return LogisticRegression(**ask).fit(x, y).predict_proba(x)
    if kind in ("binary", "multilabel"):
        return np.stack(
            [LogisticRegression(**ask).fit(x, one).predict_proba(x)[:, 1] for one in y.T], 1
        )
    x = x.toarray() if issparse(x) else x  # an exact answer for ridge
    if kind == "fraction":
        inside = y.clip(LOGIT_EPSILON, 1 - LOGIT_EPSILON)
        return 1 / (
            1
            + np.exp(
                -Ridge(alpha=1 / C).fit(x, np.log(inside / (1 - inside))).predict(x).reshape(-1, 1)
            )
        )
    return Ridge(alpha=1 / C).fit(x, y).predict(x)


def solved(inputs, targets, table, **changes):
    model = build_part(
        node("model", "linear_solved", c=C, iterations=5000, **changes), Spec(inputs, targets)
    )
    model.solve(table)
    return model


@pytest.mark.parametrize("kind", list(TARGETS))
@pytest.mark.parametrize(
    "names", [["number"], ["image"], ["bag"], ["category"], ["tokens"], list(INPUTS)], ids="+".join
)
def test_activated_answers_are_those_of_scikit_learn(names, kind):
    found, dense = columns()
    x = np.concatenate([dense[name] for name in names], 1)
    y = answers(x, kind)
    table = Table({**{name: found[name] for name in names}, "y": DenseColumn(torch.as_tensor(y))})
    field = TARGETS[kind]
    model = solved({name: INPUTS[name] for name in names}, {"y": field}, table)
    (batch,) = table.batches(ROWS)
    x = csr_array(x) if {"bag", "category", "tokens"} & {*names} else x
    assert np.abs(
        field.apply_activation(model(batch)["y"]).numpy() - wanted(x, y, kind)
    ).max() < 1e-4 * max(1, np.abs(y).max())
    again = build_part(node("model", "linear_solved"), model.spec)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(batch)["y"], model(batch)["y"])


def test_it_has_nothing_to_train_and_answers_zero_until_solved():
    spec = Spec(INPUTS, TARGETS)
    model = build_part(node("model", "linear_solved"), spec)
    (batch,) = Table(columns()[0]).batches(ROWS)
    assert (
        not list(model.parameters())
        and not Supervised(model, {"number": auto(TARGETS["number"])}).groups
    )
    assert all(
        raw.shape == (ROWS, TARGETS[name].num_outputs) and not raw.any()
        for name, raw in model(batch).items()
    )


def test_bags_and_categories_never_become_dense():
    found, dense = columns()
    table = Table(found)
    for name, sparse in {
        "number": False,
        "image": False,
        "bag": True,
        "category": True,
        "tokens": True,
    }.items():
        assert issparse(build_matrix({name: INPUTS[name]}, table)) == sparse
    together = build_matrix(INPUTS, table)
    assert issparse(together) and np.allclose(
        together.toarray(), np.concatenate(list(dense.values()), 1)
    )


@pytest.mark.parametrize("present", [[1], [0, 3], [0, 2, 3]])
def test_classes_without_a_training_row_get_next_to_nothing(present):
    found, dense = columns()
    y = np.asarray(present)[np.arange(ROWS) % len(present)]
    model = solved(
        {"number": INPUTS["number"]},
        {"y": TARGETS["category"]},
        table := Table(found | {"y": DenseColumn(torch.tensor(y))}),
    )
    (batch,) = table.batches(ROWS)
    shares = TARGETS["category"].apply_activation(model(batch)["y"]).numpy()
    absent = sorted({0, 1, 2, 3} - set(present))
    assert (shares[:, absent] <= 1e-7 * 1.001).all() and (shares[:, absent] > 0).all()
    if len(present) > 1:
        scikit = (
            LogisticRegression(C=C, max_iter=5000)
            .fit(dense["number"], y)
            .predict_proba(dense["number"])
        )
        assert np.abs(shares[:, present] - scikit).max() < 1e-4


def test_labels_that_all_rows_or_none_have_are_answered_so():
    found, _ = columns()
    y = torch.tensor([[1.0, 0.0, float(row % 2)] for row in range(ROWS)])
    table = Table(found | {"y": DenseColumn(y)})
    model = solved({"number": INPUTS["number"]}, {"y": TARGETS["multilabel"]}, table)
    (batch,) = table.batches(ROWS)
    shares = torch.sigmoid(model(batch)["y"])
    assert (shares[:, 0] > 0.999999).all() and (shares[:, 1] < 1e-6).all()
    assert 0.2 < float(shares[:, 2].mean()) < 0.8


def test_running_out_of_iterations_is_one_line_in_the_log(caplog):
    found, dense = columns()
    table = Table(found | {"y": DenseColumn(torch.tensor(answers(dense["number"], "multilabel")))})
    model = build_part(
        node("model", "linear_solved", iterations=1),
        Spec({"number": INPUTS["number"]}, {"y": TARGETS["multilabel"]}),
    )
    with caplog.at_level(logging.INFO, "dlrun"), warnings.catch_warnings():
        warnings.simplefilter("error")
        model.solve(table)
    assert [record.getMessage()[:17] for record in caplog.records] == ["linear_solved: 'y"]


def test_missing_numbers_are_refused_by_name():
    found, _ = columns()
    number = found["number"].values.clone()
    number[3, 1] = torch.nan
    table = Table({"number": DenseColumn(number), "y": DenseColumn(torch.rand(ROWS, 2))})
    model = build_part(
        node("model", "linear_solved"), Spec({"number": INPUTS["number"]}, {"y": TARGETS["number"]})
    )
    with pytest.raises(UserError, match="input 'number'"):
        model.solve(table)


def test_ten_thousand_words_are_solved_without_a_dense_matrix(monkeypatch):
    """Which would take gigabytes, and minutes, of as many rows as people have."""
    for dense in (
        "scipy.sparse.csr_array.toarray",
        "scipy.sparse.csr_array.todense",
        "torch.Tensor.to_dense",
    ):
        monkeypatch.setattr(dense, None)
    random = np.random.default_rng(0)
    rows, each, width = 4_000, 20, 10_000
    words = np.sort(
        random.integers(0, width // each, (rows, each)) + np.arange(each) * (width // each), 1
    )
    bag = SparseCounts(
        torch.arange(0, rows * each + 1, each, dtype=torch.int32), torch.tensor(words.reshape(-1), dtype=torch.int32),
        torch.ones(rows * each), width,
    )  # fmt: skip
    y = torch.tensor((words[:, :5] % 2).mean(1) > 0.5).float()[:, None]
    model = solved(
        {"bag": Field("bag", (width,), width)},
        {"y": TARGETS["binary"]},
        table := Table({"bag": bag, "y": DenseColumn(y)}),
    )
    (batch,) = table.batches(rows)
    assert (((model(batch)["y"] > 0) == (y > 0.5)).float().mean()) > 0.95


def test_it_is_solved_on_prepared_training_rows():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3)).astype("float32")
    y = x @ [1.0, 2.0, 3.0] + 4
    raw = Dataset({"x": x, "y": y.astype("float32")}, {"x": "number"}, {"y": "number"}, {})
    data = prepare(raw, np.arange(40), np.arange(40, 60))
    model = build_part(node("model", "linear_solved", c=1e6), data.spec)
    model.solve(data.train)
    (batch,) = data.val.batches(20)
    assert torch.allclose(model(batch)["y"], batch["y"], atol=1e-3)
