"""Laws of rows that are read file by file: a table in memory has the same; what is resumed reads what it must."""

import json
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from laboratory import node, table, trainer, weights
from laboratory import same as equal_weights

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.dataset import Dataset
from dlrun.core.errors import TrainingInterrupted, UserError
from dlrun.data.cache import fingerprint
from dlrun.data.loading.streaming import prefetch
from dlrun.data.preprocessing.numeric import StandardScaler
from dlrun.data.preprocessing.pipeline import describe_preprocessing, prepare, transform_rows
from dlrun.data.shards import npz_files
from dlrun.data.shards.npz_column import StreamingLabelEncoder, StreamingScaler
from dlrun.data.shards.npz_files import ShardSet
from dlrun.evaluation.protocols.splits import split_validation

LENGTHS = (30, 17, 41, 1, 25, 36)  # rows of each file


def arrays(rows, seed=0):
    """Rows of which x[:, 0] is the number, so that each can be told from all others."""
    random = np.random.RandomState(seed)
    x = random.normal(3, 5, (rows, 4)).astype(np.float32)
    x[:, 0], x[:, 3] = np.arange(rows), 7.0  # the last one is constant
    return {"x": x, "level": random.randint(3, 7, rows), "y": np.arange(rows) % 3 * 10}


def write(folder, whole, lengths=LENGTHS):
    folder.mkdir(parents=True, exist_ok=True)
    edges = np.cumsum([0, *lengths])
    for number, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        np.savez(
            folder / f"{number:03}.npz",
            **{name: values[low:high] for name, values in whole.items()},
        )
    return folder


def read(folder, **changes):
    kinds = {"kinds": {"level": "category"}} if "kinds" not in changes else {}
    return build_part(
        node("data", "shards", source="official", path=str(folder), **kinds, **changes)
    )


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "own", arrays(sum(LENGTHS)))


def stacked(batches):
    """All batches as one."""
    found = list(batches)
    return {name: torch.cat([batch[name] for batch in found]) for name in found[0]}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_table_in_memory_has_the_same_rows_and_statistics(folder):
    raw, whole = read(folder), arrays(sum(LENGTHS))
    memory = Dataset(whole, raw.inputs, raw.targets, {"x": (StandardScaler(),)})
    train, val = split_validation(raw, 0.3, "auto", 1)
    data, other = prepare(raw, train, val), prepare(memory, train, val)
    for mine, theirs in ((data.train, other.train), (data.val, other.val)):
        here, there = stacked(mine.batches(16)), next(theirs.batches(len(theirs)))
        assert len(mine) == len(theirs) and torch.allclose(here["x"], there["x"], atol=1e-5)
        assert torch.equal(here["y"] * 10, there["y"])
    learnt, expected = data.preprocessors["x"][0], other.preprocessors["x"][0]
    assert np.allclose(learnt.mean, expected.mean, rtol=1e-12) and np.allclose(
        learnt.scale, expected.scale, rtol=1e-12
    )
    assert torch.equal(data.spec.targets["y"].prior, other.spec.targets["y"].prior[::10])
    assert data.spec.targets["y"].labels == ("0", "10", "20")
    seen = np.unique(whole["level"][train])
    assert data.spec.inputs["level"].labels == ("(unknown)", *map(str, seen))
    assert torch.equal(
        stacked(data.train.batches(9))["level"] - 1,
        torch.from_numpy(np.searchsorted(seen, whole["level"][train])),
    )


def test_statistics_never_see_held_out_rows(folder, tmp_path):
    raw = read(folder)
    train, val = split_validation(raw, 0.3, "auto", 1)
    poison = arrays(sum(LENGTHS))
    poison["x"][val], poison["level"][val] = 1e6, 99
    other = prepare(read(write(tmp_path / "poison", poison)), train, val)
    clean = prepare(raw, train, val)
    assert json.dumps(describe_preprocessing(clean.preprocessors)) == json.dumps(
        describe_preprocessing(other.preprocessors)
    )
    assert (stacked(other.val.batches(50))["level"] == 0).all()  # a level that no training row has


@pytest.mark.parametrize("size", [1, 7, 32, 1000])
def test_every_row_comes_once_an_epoch_in_an_order_of_seed_and_epoch(folder, size):
    data = prepare(read(folder, scale="none"), np.arange(sum(LENGTHS)), None)
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        batches = list(data.train.batches(size, seed=seed, epoch=epoch))
        assert [len(batch["y"]) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        orders[seed, epoch] = stacked(batches)["x"][:, 0].tolist()
        assert sorted(orders[seed, epoch]) == list(range(sum(LENGTHS)))
        assert same(stacked(batches), stacked(data.train.batches(size, seed=seed, epoch=epoch)))
    assert len(set(map(tuple, orders.values()))) == 3
    assert stacked(data.train.batches(size))["x"][:, 0].tolist() == list(range(sum(LENGTHS)))


def test_the_order_of_the_files_and_of_the_rows_within_them_both_differ_by_epoch(folder):
    data = prepare(read(folder, scale="none", window=1), np.arange(sum(LENGTHS)), None)
    files, within = set(), set()
    for epoch in range(3):
        rows = stacked(data.train.batches(8, seed=0, epoch=epoch))["x"][:, 0].int().numpy()
        owner = np.repeat(np.arange(len(LENGTHS)), LENGTHS)[rows]
        files.add(tuple(dict.fromkeys(owner.tolist())))
        within.add(tuple(rows[owner == 2].tolist()))
        assert (np.diff(owner) != 0).sum() == len(LENGTHS) - 1  # one file after the other
    assert len(files) == len(within) == 3
    alone = prepare(
        read(folder, scale="none"), np.arange(30), None
    ).train  # of one file the rows alone can differ
    assert not same(stacked(alone.batches(8, seed=0)), stacked(alone.batches(8, seed=0, epoch=1)))


def test_an_epoch_goes_on_from_any_batch_without_reading_what_lies_before(folder, monkeypatch):
    data = prepare(read(folder, window=2), np.delete(np.arange(sum(LENGTHS)), [3, 40, 41]), None)
    whole = {seed: list(data.train.batches(8, seed=seed, epoch=4)) for seed in (None, 5)}
    reads, ordinary = [], ShardSet.read_array
    monkeypatch.setattr(
        ShardSet,
        "read_array",
        lambda self, file, name: reads.append(file) or ordinary(self, file, name),
    )
    for seed, batches in whole.items():
        for start in range(len(batches) + 1):
            reads.clear()
            rest = list(data.train.batches(8, seed=seed, epoch=4, start=start))
            assert len(rest) == len(batches) - start and all(map(same, rest, batches[start:]))
            counts = np.unique(reads, return_counts=True)[1]
            assert (counts == 3).all()  # three arrays, each once
            if start in (0, len(batches)):
                assert len(counts) == (0 if start else len(LENGTHS))
        assert len(set(reads)) < len(LENGTHS)


@pytest.mark.parametrize("cut", [3, 8, 17])
def test_a_fit_that_is_cut_goes_on_as_if_it_had_not_been(tmp_path, cut):
    whole = next(table(50).batches(50))
    own = write(
        tmp_path / "own", {"x": whole["x"].numpy(), "y": whole["y"].numpy()}, (11, 20, 7, 12)
    )
    rows = prepare(read(own, kinds={}, window=2), np.arange(50), None).train

    def fitted(name, stop=0):
        found = trainer(tmp_path / name)
        found.data = replace(found.data, train=rows)
        take, taken = found.runner.steps, []

        def counted(batch):
            taken.append(1)
            found.interrupted = signal.SIGTERM if len(taken) == stop else 0
            return take(batch)

        found.runner.steps = counted
        return found

    straight, first, second = fitted("whole"), fitted("cut", cut), fitted("cut")
    straight.fit()
    with pytest.raises(TrainingInterrupted):
        first.fit()
    second.restore(checkpoint.load_latest_or_none(tmp_path / "cut" / "last.pt"))
    second.fit()
    assert equal_weights(weights(second), weights(straight)) and second.history == straight.history


def test_rows_keep_the_order_that_they_are_asked_for_in(folder):
    rows = np.random.RandomState(0).permutation(sum(LENGTHS))[:60]
    data = prepare(read(folder, scale="none"), rows, None)
    assert stacked(data.train.batches(7))["x"][:, 0].tolist() == rows.tolist()
    some = torch.tensor([5, 0, 59, 5])
    found = next(data.train.columns["x"].batches(some, 4))
    assert found[:, 0].tolist() == rows[some].tolist()
    assert sorted(stacked(data.train.batches(7, seed=1))["x"][:, 0].tolist()) == sorted(
        rows.tolist()
    )


def test_the_shares_of_several_processes_are_the_whole_batch(folder):
    data = prepare(read(folder), np.arange(sum(LENGTHS)), None)
    whole = list(data.train.batches(10, seed=3))
    ranks = [list(data.train.batches(10, seed=3, rank=rank, world=3)) for rank in range(3)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(batch["x"], torch.cat([part["x"] for part in parts]))


def test_validation_rows_are_whole_files_or_any_rows(folder):
    files = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    train, val = split_validation(read(folder), 0.3, "auto", 0)
    assert not set(files[train]) & set(files[val]) and len(train) + len(val) == len(files)
    raw = read(folder, hold_out="rows")
    train, val = split_validation(raw, 0.3, "auto", 0)
    assert raw.group is None and len(val) == 45 and set(files[train]) & set(files[val])


def test_test_rows_are_sealed_until_they_are_asked_for(folder, monkeypatch):
    write(folder / "test", arrays(20, seed=9), (12, 8))
    opened, ordinary = [], npz_files.read_array_headers
    monkeypatch.setattr(
        npz_files,
        "read_array_headers",
        lambda path: opened.append(path.parent.name) or ordinary(path),
    )
    raw = read(folder)
    data = prepare(raw, np.arange(sum(LENGTHS)), None)
    assert set(opened) == {"own"}
    table = transform_rows(raw, data, raw.test())
    assert "test" in opened and len(table) == 20 and len(stacked(table.batches(6))["y"]) == 20
    assert (
        raw.test is not None and read(write(folder.parent / "other", arrays(9), (9,))).test is None
    )


def test_pictures_and_other_kinds(tmp_path):
    random = np.random.RandomState(0)
    whole = {
        "x": random.randint(0, 256, (20, 3, 5, 4)).astype(np.uint8),
        "y": np.arange(20) % 4 == 0,
    }
    raw = read(write(tmp_path / "pictures", whole, (12, 8)), kinds={})
    data = prepare(raw, np.arange(12), np.arange(12, 20))
    assert raw.inputs == {"x": "image"} and raw.targets == {"y": "binary"}
    batch = next(data.train.batches(12))
    assert (
        torch.equal(batch["x"], torch.from_numpy(whole["x"][:12]) / 255)
        and batch["x"].dtype == torch.float32
    )
    assert batch["y"].shape == (12, 1) and data.spec.targets["y"].prior.tolist() == [0.25]
    assert data.spec.targets["y"].labels == ("False", "True")
    whole = {"x": random.normal(size=(20, 2)), "y": random.normal(size=20).astype(np.float32)}
    raw = read(write(tmp_path / "numbers", whole, (12, 8)), kinds={})
    data = prepare(raw, np.arange(20), None)
    assert raw.targets == {"y": "number"}
    assert torch.allclose(data.spec.targets["y"].prior, torch.tensor([whole["y"].mean()]))


def test_classes_can_be_stated_and_an_unknown_one_is_refused(tmp_path):
    whole = {"x": np.random.RandomState(0).normal(size=(30, 2)), "y": np.arange(30) // 10}
    own = write(tmp_path / "own", whole, (20, 10))
    with pytest.raises(
        UserError, match=r"class '2', which no training row has.*data.hold_out=rows"
    ):
        stacked(prepare(read(own, kinds={}), np.arange(20), np.arange(20, 30)).val.batches(5))
    data = prepare(read(own, kinds={}, labels=["a", "b", "c"]), np.arange(20), np.arange(20, 30))
    assert data.spec.targets["y"].labels == ("a", "b", "c") and data.spec.targets[
        "y"
    ].prior.tolist() == [0.5, 0.5, 0]
    assert (stacked(data.val.batches(5))["y"] == 2).all()
    with pytest.raises(UserError, match="one class only, '0'"):
        prepare(read(own, kinds={}), np.arange(10), None)


def test_merged_statistics_are_those_of_all_rows_however_they_lie(tmp_path):
    values = 1e6 + np.random.RandomState(0).normal(size=(117, 3)) * [1e-3, 1, 1e3]
    for lengths in ((117,), (1,) * 117, (100, 17)):
        place = tmp_path / str(len(lengths))
        raw = read(write(place, {"x": values, "y": np.arange(117.0)}, lengths), kinds={})
        found, expected = StreamingScaler().fit(raw.dev["x"]), StandardScaler().fit(values)
        assert np.allclose(found.mean, expected.mean, rtol=1e-12) and np.allclose(
            found.scale, expected.scale, rtol=1e-6
        )


WRONG = {
    "no file": (
        lambda folder: [path.unlink() for path in folder.glob("*.npz")],
        "no .npz file in .*numpy.savez",
    ),
    "no zip": (
        lambda folder: (folder / "002.npz").write_bytes(b"nothing"),
        r"002\.npz is no \.npz file",
    ),
    "an array too few": (
        lambda folder: np.savez(folder / "002.npz", x=np.zeros((3, 4), "f4")),
        r"002\.npz has no array",
    ),
    "another shape": (
        lambda folder: np.savez(folder / "002.npz", **arrays(5) | {"x": np.zeros((5, 3), "f4")}),
        r"002\.npz: 'x' is float32 of shape \(3,\) a row, in the first file float32 of \(4,\)",
    ),
    "another type": (
        lambda folder: np.savez(folder / "002.npz", **arrays(5) | {"y": np.zeros(5)}),
        r"002\.npz: 'y' is float64",
    ),
    "other lengths": (
        lambda folder: np.savez(folder / "002.npz", **arrays(5) | {"y": np.zeros(4, int)}),
        r"002\.npz has arrays of different lengths.*'y': 4",
    ),
    "objects": (
        lambda folder: np.savez(folder / "002.npz", **arrays(5) | {"y": np.array([None] * 5)}),
        r"002\.npz .*Python objects",
    ),
    "missing values": (
        lambda folder: np.savez(
            folder / "002.npz", **arrays(5) | {"x": np.full((5, 4), np.nan, "f4")}
        ),
        r"002\.npz: array 'x' has values that are missing",
    ),
    "half a file": (
        lambda folder: (folder / "002.npz").write_bytes((folder / "002.npz").read_bytes()[:300]),
        r"002\.npz",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_file_is_refused_by_its_name(folder, name):
    spoil, match = WRONG[name]
    spoil(folder)
    with pytest.raises(UserError, match=match):
        prepare(raw := read(folder), np.arange(len(raw)), None)


def test_a_file_that_changes_meanwhile_is_refused_by_its_name(folder):
    raw = read(folder)
    np.savez(folder / "001.npz", **arrays(3))
    with pytest.raises(UserError, match=r"001\.npz has changed"):
        prepare(raw, np.arange(len(raw)), None)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target": "z"}, r"000\.npz has no array 'z'|no such array; there are: x, level, y"),
        ({"kinds": {"z": "number"}}, "data.kinds names 'z'; there are: x, level, y"),
        ({"kinds": {"x": "image"}}, "float32 of shape .* kind image needs uint8"),
        ({"kinds": {"x": "category"}}, "kind category needs one whole number"),
        ({"kinds": {"y": "image"}}, "'y' is image; a target may be number, category, binary"),
        ({"inputs": [], "kinds": {}}, "no array besides the target"),
        ({"path": None}, "data.path=FOLDER"),
        ({"path": "/nowhere at all"}, "no such folder"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, changes, match):
    with pytest.raises(UserError, match=match):
        read(
            **{"folder": changes.pop("path", folder), **changes}
        ) if "path" not in changes else build_part(
            node("data", "shards", source="official", **changes)
        )


def test_a_fingerprint_is_a_function_of_what_the_files_hold(folder, tmp_path):
    raw = read(folder)
    again = read(write(tmp_path / "elsewhere", arrays(sum(LENGTHS))))
    other = read(write(tmp_path / "other", arrays(sum(LENGTHS), seed=1)))
    assert fingerprint(raw.dev) == fingerprint(again.dev) != fingerprint(other.dev)
    assert fingerprint(raw.dev) != fingerprint(
        {name: column[:5] for name, column in raw.dev.items()}
    )


def test_too_many_different_values_are_no_classes(monkeypatch, folder):
    monkeypatch.setattr("dlrun.data.shards.npz_column.MAX_CLASSES", 100)
    column = read(folder, kinds={"x": "number"}).dev["x"]
    with pytest.raises(UserError, match="more than 100 different values"):
        StreamingLabelEncoder("x").fit(replace(column, steps=(lambda values: values[:, 0],)))


def test_a_run_on_files_of_ones_own_and_a_model_that_wants_all_at_once(folder, tmp_path, capsys):
    write(folder / "test", arrays(20, seed=9), (12, 8))
    words = ["task=shards", f"data.path={folder}", "engine.epochs=2", "engine.device=cpu"]
    assert main([*words, "test=true", "reason=a test", f"output={tmp_path / 'out'}"]) == 0
    lines = [
        json.loads(line)
        for path in tmp_path.rglob("results.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert [line["split"] for line in lines] == ["val", "test"] and not any(
        line["note"] for line in lines
    )
    assert main([*words, "model=linear_solved", f"output={tmp_path / 'solved'}"]) == 2
    assert "read file by file" in capsys.readouterr().err


def test_no_more_files_are_held_than_two_windows_however_many_there_are(tmp_path, monkeypatch):
    count, each, window = 24, 10, 2
    own = write(tmp_path / "many", arrays(count * each), (each,) * count)
    data = prepare(read(own, window=window), np.arange(count * each), None)
    reads, ordinary = [], ShardSet.read_array
    monkeypatch.setattr(
        ShardSet,
        "read_array",
        lambda self, file, name: reads.append(file) or ordinary(self, file, name),
    )
    given, held = 0, []
    for batch in data.train.batches(5, seed=0):
        held.append(len(set(reads)) - given // each)  # read, and not used up yet
        given += len(batch["y"])
    assert given == count * each and len(set(reads)) == count
    assert max(held) <= 2 * window  # the one in use, and the one ahead


def test_the_workflow_says_that_it_needs_all_rows_at_once(folder, tmp_path, capsys):
    assert (
        main(
            [
                "workflow",
                "task=shards",
                f"data.path={folder}",
                "engine.device=cpu",
                f"output={tmp_path}",
            ]
        )
        == 2
    )
    assert "data=shards are too many" in capsys.readouterr().err


def test_the_next_files_are_read_while_these_are_used():
    """One ahead and no more; what goes wrong is told in its turn, and who stops early waits for no more than that."""
    made, go = [], threading.Event()

    def make(number):
        if number == 1:
            assert go.wait(20)  # for the user of what was made before
        if number == 3:
            raise UserError("the fourth is damaged")
        made.append(number)
        return number

    found = prefetch(make, ((number,) for number in range(9)))
    assert next(found) == 0
    go.set()
    assert [next(found), next(found)] == [1, 2] and made[:3] == [0, 1, 2]
    with pytest.raises(UserError, match="fourth"):
        next(found)
    assert set(made) <= {0, 1, 2, 4}
    early = prefetch(lambda number: number, ((number,) for number in range(5)))
    assert next(early) == 0
    early.close()
    assert list(prefetch(make, iter([]))) == []


def test_folds_of_files_are_trained_one_by_one(tmp_path, capsys):
    """They cannot be stacked: auto leaves them alone, true says why."""
    words = [
        "task=shards",
        "source=sample",
        "protocol=kfold",
        "engine.epochs=1",
        f"output={tmp_path}",
    ]
    assert main(words) == 0
    assert main([*words, "protocol.stacked=true"]) == 2
    assert "protocol.stacked=true: " in capsys.readouterr().err
