"""Word lists: no pickle is loaded but the official one, and the rows are those of Keras' `load_data`."""

import hashlib
import io
import os
import pickle
import re
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from laboratory import BAG

from dlrun.core.dataset import Ragged
from dlrun.core.errors import UserError
from dlrun.data import cache
from dlrun.data.cache import RemoteFile
from dlrun.data.datasets import housing, imdb_reuters, mnist
from dlrun.data.legacy_pickle import read_lists, read_mappings
from dlrun.data.preprocessing.padding import MultiHot
from dlrun.data.preprocessing.pipeline import prepare, transform_rows

real = pytest.mark.skipif(
    not Path(os.environ.get("DLRUN_DATA", "none"), "imdb", "imdb.npz").exists(),
    reason="needs the official files: set DLRUN_DATA to a folder that has them",
)


def npz(folder, content, shape="(2,)"):
    """An official .npz whose member x is an object array with this pickle, as it is to be found."""
    head = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    magic = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little")
    path = folder / "task" / "x.npz"
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", magic + head.encode() + content)
    return RemoteFile("task", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), ())


class Evil:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return Path.write_text, (self.made, "the pickle was run")


def lists(*rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data root of its own."""
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path))
    return tmp_path


def test_lists_of_numbers_are_read(place):
    for protocol in (2, 4):
        file = npz(place, pickle.dumps(lists([1, 2, 300000], []), protocol))
        found = read_lists(file, "x")
        assert found.values.tolist() == [1, 2, 300000]
        assert found.offsets.tolist() == [0, 3, 3]


@pytest.mark.parametrize("read", [read_lists, read_mappings])
@pytest.mark.parametrize("known", ["0" * 64, ""])
def test_a_pickle_without_the_official_checksum_is_not_loaded(place, read, known):
    path = place / "task" / "x.npz"
    file = replace(npz(place, pickle.dumps(lists([1], [Evil(place / "made")]))), sha256=known)
    if read is read_mappings:
        content = pickle.dumps(Evil(place / "made"))
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("folder/x")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    reason = "is not the official" if known else "a checksum of the official file is not known"
    with pytest.raises(UserError, match=reason) as refused:
        read(file, "x")
    assert "\n" not in str(refused.value) and not (place / "made").exists()
    # The trap would have sprung.
    real = replace(file, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with suppress(TypeError):
        read(real, "x")
    assert (place / "made").exists()


def test_a_file_exchanged_after_it_was_verified_is_not_loaded(place, monkeypatch):
    file = npz(place, pickle.dumps(lists([1, 2], [3])))
    verify = cache._check_digest

    def verify_then_exchange(*args):
        verify(*args)
        npz(place, pickle.dumps(lists([1], [Evil(place / "made")])))

    monkeypatch.setattr(cache, "_check_digest", verify_then_exchange)
    assert read_lists(file, "x").values.tolist() == [1, 2, 3]
    assert not (place / "made").exists()


def test_no_other_module_loads_pickles():
    source = Path(cache.__file__).parents[1]
    loads = re.compile(
        r"allow_pickle=True|weights_only=False"
        r"|^\s*(import|from) (pickle|_pickle|marshal|shelve|dill|joblib|cloudpickle)\b"
        r"|read_pickle\(|torch\.load\((?!.*weights_only=True)",
        re.MULTILINE,
    )
    found = [path.name for path in source.rglob("*.py") if loads.search(path.read_text())]
    assert found == ["legacy_pickle.py"]


def test_multi_hot_is_the_set_of_words_of_each_row():
    random = np.random.RandomState(0)
    lengths = random.randint(0, 9, 1200)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    column = Ragged(random.randint(0, 50, offsets[-1]).astype(np.int32), offsets)
    bag = MultiHot(50)(column)
    assert len(bag) == 1200 and bag.width == 50
    for row in range(1200):
        expected = sorted(set(column.values[offsets[row] : offsets[row + 1]].tolist()))
        assert bag.columns[bag.starts[row] : bag.starts[row + 1]].tolist() == expected
    assert len(MultiHot(50)(Ragged(np.empty(0, np.int32), np.zeros(1, np.int64)))) == 0


def test_numbering_is_that_of_keras():
    found = imdb_reuters._offset_word_numbers(
        Ragged(np.array([1, 6, 7, 9000], np.int32), np.array([0, 1, 1, 4])), 10
    )
    assert found.values.tolist() == [1, 4, 1, 1, 9, 2, 2]
    assert found.offsets.tolist() == [0, 2, 3, 7]
    with pytest.raises(UserError, match="4 or more"):
        imdb_reuters.imdb(source="sample", words=3, pool=False, **BAG)


def test_pool_puts_test_rows_behind_training_rows():
    apart = imdb_reuters.imdb(source="sample", words=500, pool=False, **BAG)
    pooled = imdb_reuters.imdb(source="sample", words=500, pool=True, **BAG)
    assert pooled.test is None
    rows = apart.test()
    assert len(pooled) == len(apart) + len(rows["sentiment"])
    assert (
        pooled.dev["sentiment"] == np.concatenate([apart.dev["sentiment"], rows["sentiment"]])
    ).all()
    last = pooled.dev["review"][np.array([len(pooled) - 1])].values
    assert (last == rows["review"][np.array([len(rows["review"]) - 1])].values).all()


@real
def test_imdb_is_kerass():
    raw = imdb_reuters.imdb(source="official", words=10000, pool=False, **BAG)
    first = raw.dev["review"][np.array([0])].values
    assert len(raw) == 25000 and raw.dev["sentiment"].sum() == 12500
    assert (
        first[:10].tolist() == [1, 14, 22, 16, 43, 530, 973, 1622, 1385, 65] and len(first) == 218
    )
    assert raw.dev["sentiment"][:5].tolist() == [1, 0, 0, 1, 0]
    test = raw.test()
    assert test["review"][np.array([0])].values[:8].tolist() == [1, 591, 202, 14, 31, 6, 717, 10]
    assert test["sentiment"][:5].tolist() == [0, 1, 1, 0, 1]
    data = prepare(raw, np.arange(10000, 25000), np.arange(10000))
    assert (
        data.spec.inputs["review"].shape == (10000,)
        and len(data.train) == 15000
        and len(data.val) == 10000
    )
    assert len(transform_rows(raw, data, test)) == 25000


@real
def test_reuters_is_kerass():
    raw = imdb_reuters.reuters(source="official", words=10000, **BAG)
    assert len(raw) == 8982 and raw.dev["topic"][:5].tolist() == [3, 4, 3, 4, 4]
    assert raw.dev["newswire"][np.array([0])].values[:8].tolist() == [1, 2, 2, 8, 43, 10, 447, 5]
    test = raw.test()
    assert len(test["topic"]) == 2246 and test["topic"][:3].tolist() == [3, 10, 1]
    both = np.bincount(np.concatenate([raw.dev["topic"], test["topic"]]))
    assert len(both) == 46 and both[3] == 3972 and both[4] == 2423


@real
def test_boston_is_kerass():
    raw = housing.boston_housing(source="official")
    assert len(raw) == 404 and len(raw.test()["price"]) == 102
    assert raw.dev["features"][0, 0] == pytest.approx(1.23247) and raw.dev["price"][0] == 15.2
    assert raw.dev["features"][:, 0].mean() == pytest.approx(3.74511057)


@real
def test_california_has_its_rows_and_its_gaps():
    raw = housing.california_housing(source="official", test=0.2)
    test = raw.test()
    assert len(raw) == 16512 and len(test["features"]) == 4128
    assert np.isnan(raw.dev["features"]).sum() + np.isnan(test["features"]).sum() == 207
    data = prepare(raw, np.arange(100, 16512), np.arange(100))
    assert data.spec.inputs["ocean_proximity"].labels[2:] == (
        "<1H OCEAN",
        "INLAND",
        "ISLAND",
        "NEAR BAY",
        "NEAR OCEAN",
    )


@real
@pytest.mark.parametrize("load, target", [(mnist.mnist, "digit"), (mnist.fashion_mnist, "garment")])
def test_images_are_the_official_ones(load, target):
    raw = load(source="official", pool=False)
    assert raw.dev["image"].shape == (60000, 1, 28, 28) and raw.test()["image"].shape == (
        10000,
        1,
        28,
        28,
    )
    if target == "digit":
        assert raw.dev["digit"][:5].tolist() == [5, 0, 4, 1, 9]
        assert raw.dev["image"].mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    else:
        assert np.bincount(raw.dev["garment"]).tolist() == [6000] * 10


def test_a_damaged_idx_file_is_refused(tmp_path):
    import gzip

    path = tmp_path / "x.gz"
    good = b"\0\0\x08\x01\0\0\0\x02ab"
    path.write_bytes(gzip.compress(good))
    assert mnist.read_idx(path).tolist() == [97, 98]
    for bad, why in [(good[:-1], "announces"), (b"\0\0\x0d\x01", "IDX"), (b"", "IDX")]:
        path.write_bytes(gzip.compress(bad))
        with pytest.raises(UserError, match=why):
            mnist.read_idx(path)
    path.write_bytes(gzip.compress(good)[:-3])
    with pytest.raises(UserError, match="gzip"):
        mnist.read_idx(path)
