"""Laws of preparation: what is learned comes from training rows alone, for every dataset there is."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from laboratory import BAG, node

from dlrun.config.instantiate import build_part
from dlrun.core.dataset import Dataset, Ragged, RawColumn, Source, StoredColumn
from dlrun.core.errors import UserError
from dlrun.data.cache import fingerprint
from dlrun.data.datasets import housing, imdb_reuters, mnist, sklearn_datasets
from dlrun.data.preprocessing.numeric import (
    KBinsDiscretizer,
    LabelEncoder,
    MinMaxScaler,
    OrdinalEncoder,
    SimpleImputer,
    StandardScaler,
)
from dlrun.data.preprocessing.pipeline import describe_preprocessing, prepare, transform_rows
from dlrun.data.tabular.csv_dataset import csv

# torch announces once a process that sparse CSR is young, and whose checks are off
pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")

CONF = Path(__file__).parents[2] / "conf" / "data"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    random = np.random.RandomState(0)
    lines = ["size,age,town,when,kind"]
    for row in range(120):
        size = "" if row % 11 == 0 else f"{random.lognormal():.3f}"
        lines.append(
            f"{size},{random.randint(90)},{'abcd'[random.randint(4)]},2024-01-01 {row % 24}:00,{'xyz'[row % 3]}"
        )
    path = tmp_path_factory.mktemp("csv") / "own.csv"
    path.write_text("\n".join(lines).replace(" 0:", " 00:"))
    settings = yaml.safe_load((CONF / "csv.yaml").read_text())
    settings |= {"path": str(path), "target": "kind", "indicator": True, "drop": ["when"]}
    settings["features"] = {"age_group": {"bins": ["age", 3]}}
    return csv(**{name: value for name, value in settings.items() if name != "_target_"})


DATASETS = {
    "digits": lambda: sklearn_datasets.digits(test=0.2),
    "breast_cancer": lambda: sklearn_datasets.breast_cancer(test=0.2),
    "wine": lambda: sklearn_datasets.wine(test=0.2),
    "diabetes": lambda: sklearn_datasets.diabetes(test=0.2),
    "mnist": lambda: mnist.mnist(source="sample", pool=False),
    "fashion_mnist": lambda: mnist.fashion_mnist(source="sample", pool=False),
    "imdb": lambda: imdb_reuters.imdb(source="sample", words=1000, pool=False, **BAG),
    "reuters": lambda: imdb_reuters.reuters(source="sample", words=1000, **BAG),
    "boston_housing": lambda: housing.boston_housing(source="sample"),
    "california_housing": lambda: housing.california_housing(source="sample", test=0.2),
    "imdb_text": lambda: build_part(node("data", "imdb_text", source="sample")),
    "imdb_sequences": lambda: build_part(node("data", "imdb_sequences", source="sample")),
    "rotations": lambda: build_part(node("data", "rotations")),
    "cartpole": lambda: build_part(node("data", "cartpole")),
    "frogs": lambda: build_part(node("data", "frogs", source="sample")),
    "csv": None,
}


@pytest.fixture(params=DATASETS)
def raw(request):
    return (
        DATASETS[request.param]() if DATASETS[request.param] else request.getfixturevalue("table")
    )


def poisoned(raw, rows):
    """The same dataset with rows that are wildly different, but of the same type."""
    dev = {}
    for name, column in raw.dev.items():
        if isinstance(column, Ragged):
            values = column.values.copy()
            for row in rows:
                values[column.offsets[row] : column.offsets[row + 1]] = 7
            dev[name] = Ragged(values, column.offsets)
            continue
        dev[name] = column.copy()
        if name in raw.targets and raw.targets[name] in ("binary", "category"):
            dev[name][rows] = column[0]
        else:
            dev[name][rows] = {"f": 1e6, "u": 255, "i": 3, "O": "poison"}[column.dtype.kind]
    return dataclasses.replace(raw, dev=dev)


def equal(one, other):
    if one is None or other is None:
        return one is other
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if one.layout == torch.sparse_csr:
        return torch.equal(one.to_dense(), other.to_dense())
    return torch.equal(one, other)


def test_every_loader_has_its_yaml():
    files = sorted(path.stem for path in CONF.glob("*.yaml"))
    assert set(DATASETS) <= set(files)


def test_statistics_never_see_held_out_rows(raw):
    order = np.random.RandomState(1).permutation(len(raw))
    train, val = order[: 2 * len(raw) // 3], order[2 * len(raw) // 3 :]
    clean, other = prepare(raw, train, val), prepare(poisoned(raw, val), train, val)
    assert json.dumps(describe_preprocessing(clean.preprocessors)) == json.dumps(
        describe_preprocessing(other.preprocessors)
    )
    for name, field in (clean.spec.inputs | clean.spec.targets).items():
        poison = (other.spec.inputs | other.spec.targets)[name]
        assert dataclasses.replace(field, prior=None) == dataclasses.replace(poison, prior=None)
        assert equal(field.prior, poison.prior)
    size = len(raw)
    assert equal(next(clean.train.batches(size)), next(other.train.batches(size)))
    assert not equal(next(clean.val.batches(size)), next(other.val.batches(size)))


def test_batches_are_what_the_spec_says(raw):
    data = prepare(raw, np.arange(len(raw)), None)
    batch = next(data.train.batches(5))
    for name, field in (data.spec.inputs | data.spec.targets).items():
        assert tuple(batch[name].shape) == (5, *field.shape)
        if field.kind == "category":
            assert (
                batch[name].dtype == torch.int64
                and batch[name].min() >= 0
                and batch[name].max() < field.size
            )
        else:
            assert batch[name].dtype == (torch.int64 if field.kind == "tokens" else torch.float32)
        assert (field.prior is not None) == (name in data.spec.targets)
        if field.prior is not None:
            assert len(field.prior) == field.num_outputs
        if field.size and field.labels:
            assert len(field.labels) == field.size


def test_test_rows_are_prepared_with_what_was_learnt(raw):
    data = prepare(raw, np.arange(len(raw)), None)
    rows = raw.test()
    table = transform_rows(raw, data, rows)
    assert len(table) >= 24 and set(table.columns) == set(raw.inputs | raw.targets)
    again = transform_rows(raw, data, raw.test())
    assert equal(next(table.batches(len(table))), next(again.batches(len(table))))
    without = transform_rows(raw, data, {name: rows[name] for name in raw.inputs})
    assert set(without.columns) == set(raw.inputs)
    with pytest.raises(UserError, match="lack the input column"):
        transform_rows(raw, data, {name: rows[name] for name in raw.targets})


def test_test_rows_are_not_read_before_they_are_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(mnist, "_load_split", lambda task, target, split: asked.append(split))
    raw = mnist.mnist(source="official", pool=False)
    assert asked == ["train"]
    raw.test()
    assert asked == ["train", "t10k"]
    asked.clear()

    def split(task, source, name):
        asked.append(name)
        return Ragged(np.array([5], np.int32), np.array([0, 1])), np.array([1])

    monkeypatch.setattr(imdb_reuters, "_read_rows", split)
    raw = imdb_reuters.imdb(source="official", words=10, pool=False, **BAG)
    assert asked == ["train"] and len(raw.test()["sentiment"]) == 1
    assert asked == ["train", "test"]


def test_samples_say_that_they_are_synthetic():
    for name in (
        "mnist",
        "fashion_mnist",
        "imdb",
        "reuters",
        "boston_housing",
        "california_housing",
    ):
        dataset = DATASETS[name]()
        assert dataset.note.startswith(f"SYNTHETIC sample, not the real {name}")
        assert dataset.synthetic and not dataset.differs_from_book
    assert DATASETS["wine"]().note == "" and not DATASETS["wine"]().synthetic


def test_samples_can_be_learnt():
    """Nearest class means beat the most frequent class by far."""
    for name in ("mnist", "fashion_mnist", "imdb", "reuters"):
        raw = DATASETS[name]()
        data = prepare(raw, np.arange(len(raw)), None)
        (inputs,), (target,) = raw.inputs, raw.targets
        seen, new = (
            next(data.train.batches(9999)),
            next(transform_rows(raw, data, raw.test()).batches(9999)),
        )
        x, y = (batch[inputs].to_dense().flatten(1) for batch in (seen, new))
        truth = seen[target].flatten().long()
        means = torch.stack([x[truth == one].mean(0) for one in truth.unique()])
        found = truth.unique()[torch.cdist(y, means).argmin(1)]
        right = (found == new[target].flatten().long()).float().mean()
        assert right > 1.3 * data.spec.targets[target].prior.max() and right > 0.4, (name, right)


def test_fingerprint_is_a_function_of_names_types_shapes_and_values():
    rows = {
        "a": np.arange(6.0),
        "b": Ragged(np.arange(3), np.array([0, 1, 3])),
        "c": np.array(["x", ""], object),
    }
    same = {name: rows[name] for name in "cba"}
    assert fingerprint(rows) == fingerprint(same)
    others = [
        {**rows, "a": np.arange(6.0)[::-1]},
        {**rows, "a": np.arange(6.0).reshape(2, 3)},
        {**rows, "a": np.arange(6)},
        {**rows, "b": Ragged(np.arange(3), np.array([0, 2, 3]))},
        {**rows, "c": np.array(["", "x"], object)},
        {"z": rows["a"], "b": rows["b"], "c": rows["c"]},
    ]
    assert len({fingerprint(other) for other in [rows, *others]}) == 7


def test_standardize_is_numpys_and_leaves_constants():
    column = np.array([[1.0, 0.1], [2.0, 0.1], [6.0, 0.1]])
    out = StandardScaler().fit(column)(column)
    assert np.allclose(out[:, 0], (column[:, 0] - 3) / np.std([1, 2, 6])) and np.allclose(
        out[:, 1], 0
    )
    assert np.allclose(MinMaxScaler().fit(column)(column), [[0, 0], [0.2, 0], [1, 0]])


def test_impute_fills_a_column_that_training_rows_do_not_know():
    column = np.array([[np.nan, 1.0], [np.nan, 3.0]])
    step = SimpleImputer("mean", constant=-1.0).fit(column)
    assert step(np.array([[np.nan, np.nan], [5.0, 4.0]])).tolist() == [[-1, 2], [5, 4]]
    assert SimpleImputer("constant", constant=9.0).fit(column)(column)[:, 0].tolist() == [9, 9]


def test_small_steps():
    assert LabelEncoder("y").fit(np.array([3, 1, 3])).labels == ("1", "3")
    with pytest.raises(UserError, match="y: 1 held-out rows.*'2'.*Classes known: 1, 3"):
        LabelEncoder("y").fit(np.array([3, 1]))(np.array([1, 2]))
    assert OrdinalEncoder().fit(np.array(["b", "", "a"], object))(
        np.array(["a", "", "c"], object)
    ).tolist() == [
        2,
        1,
        0,
    ]
    assert KBinsDiscretizer(3).fit(np.zeros(5))(np.array([-1.0, 0, 1, np.nan])).tolist() == [
        1,
        1,
        2,
        0,
    ]


def test_rows_that_cannot_be_trained_on_are_refused():
    raw = Dataset(
        {"x": np.zeros((4, 1)), "y": np.array([1.0, np.nan, 2.0, np.inf])},
        {"x": "number"},
        {"y": "number"},
        {},
    )
    with pytest.raises(UserError, match=r"'y' is missing in 2 rows \(number 2, 4\)"):
        prepare(raw, np.arange(2), None)
    raw = dataclasses.replace(raw, dev={**raw.dev, "y": np.ones(4)}, targets={"y": "binary"})
    with pytest.raises(UserError, match="one class only"):
        prepare(raw, np.arange(2), None)
    raw = dataclasses.replace(raw, targets={"y": "number"})
    for train, val in ((np.arange(0), None), (np.arange(4), np.arange(0))):
        with pytest.raises(UserError, match="too few"):
            prepare(raw, train, val)


def test_columns_and_sources_write_every_hook_without_a_default():
    import dlrun.data.images.rotation_pretext
    import dlrun.data.loading.images
    import dlrun.data.loading.sequences
    import dlrun.data.shards.npz_column
    import dlrun.experiment.parallel_fits.batches  # noqa: F401

    required = {
        RawColumn: ("__len__", "__getitem__"),
        StoredColumn: ("__len__", "shape", "device", "to", "batches"),
        Source: ("__len__", "batches"),
    }
    for contract, hooks in required.items():
        kinds = [kind for kind in contract.__subclasses__() if kind.__module__[:6] == "dlrun."]
        assert len(kinds) >= 4
        for kind in kinds:
            assert all(getattr(kind, hook) is not getattr(contract, hook) for hook in hooks), kind
            if contract is RawColumn:
                assert kind.arrays is not contract.arrays or kind.digest is not contract.digest


def test_word_lists_are_prepared_without_the_modules_of_other_data():
    code = (
        "import sys, numpy as np\n"
        "from dlrun.data.datasets.imdb_reuters import imdb\n"
        "from dlrun.data.preprocessing.pipeline import prepare\n"
        f"data = prepare(imdb(source='sample', words=99, pool=False, **{BAG!r}), np.arange(9), None)\n"
        "next(data.train.batches(4, seed=0))\n"
        "print(*(name for name in sys.modules if name.startswith('dlrun.data.')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    rooms = ("images", "shards", "series", "tabular", "augmentation", "text", "legacy_pickle")
    rooms += ("loading.images", "loading.sequences", "loading.streaming", "preprocessing.numeric")
    assert not [name for name in loaded.stdout.split() if name[11:].startswith(rooms)]
