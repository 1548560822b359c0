"""Laws of protocols that keep time or owners whole: nothing later teaches, nobody stands on both sides."""

from __future__ import annotations

import json

import numpy as np
import pytest
from laboratory import node
from sklearn.model_selection import TimeSeriesSplit

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.core.types import FitJob, Result
from dlrun.evaluation.protocols.splits import split_validation
from dlrun.evaluation.protocols.two_stages import make_protocol

ROWS = 97


def timed(times):
    return Dataset(
        {"x": np.zeros(len(times)), "when": np.asarray(times, float)}, {}, {}, {}, order="when"
    )


def shuffled(seed=0, rows=ROWS):
    return np.random.default_rng(seed).permutation(rows)


def tied(seed=0, rows=ROWS):
    """Moments that several rows share."""
    return np.random.default_rng(seed).integers(0, 30, rows)


def fits(plan, raw, seed=0):
    """(job, training rows, validation rows) of everything that the plan asks for."""
    results, found = [], []
    while (job := plan(results)) is not None:
        found.append((job, *plan.split_rows(raw, job, seed)))
        results.append(Result(job, "val", {}))
    return found


def walk(raw, **changes):
    return fits(make_protocol(node("protocol", "walk_forward", **changes)), raw)


@pytest.mark.parametrize("gap", [0, 1, 7])
@pytest.mark.parametrize("size", [None, 9])
@pytest.mark.parametrize("count", [2, 5])
def test_without_ties_the_windows_are_those_of_scikit_learn(gap, size, count):
    times = shuffled()
    in_time = np.argsort(times)
    wanted = list(TimeSeriesSplit(count, gap=gap, test_size=size).split(in_time))
    found = walk(timed(times), folds=count, gap=gap, size=size)
    assert len(found) == count and len({job.name for job, _, _ in found}) == count
    for (_, train, val), (before, after) in zip(found, wanted, strict=True):
        assert np.array_equal(train, in_time[before]) and np.array_equal(val, in_time[after])


@pytest.mark.parametrize("times", [shuffled, tied])
@pytest.mark.parametrize("gap", [0, 5])
def test_walking_forward_only_the_past_teaches(times, gap):
    for seed in range(10):
        when = times(seed)
        found = walk(timed(when), folds=4, gap=gap)
        rank = np.empty(ROWS, int)
        rank[np.argsort(when, kind="stable")] = np.arange(ROWS)
        for _, train, val in found:
            assert when[train].max() < when[val].min()
            assert rank[val].min() - rank[train].max() == gap + 1
        for (_, before, held), (_, after, later) in zip(found, found[1:], strict=False):
            assert set(before) < set(after) and not set(held) & set(later)
            assert when[held].max() < when[later].min()
        assert rank[found[-1][2]].max() == ROWS - 1


def test_every_row_after_the_first_window_is_validated_once():
    for times in (shuffled(1), tied(1)):
        found = walk(timed(times), folds=4, gap=3)
        held = np.concatenate([val for _, _, val in found])
        assert len(set(held)) == len(held) == ROWS - len(found[0][1]) - 3


def test_an_edge_amid_one_moment_moves_to_its_first_row():
    when = [0, 1, 2, 3, 4, 5, 6, 6, 6, 9]
    ((_, train, val),) = walk(timed(when), folds=1, size=2)
    assert train.tolist() == [0, 1, 2, 3, 4, 5] and val.tolist() == [6, 7, 8, 9]
    train, val = split_validation(timed(when), 2, "time", 0)
    assert train.tolist() == [0, 1, 2, 3, 4, 5] and val.tolist() == [6, 7, 8, 9]


def test_the_latest_are_held_out_with_all_rows_of_their_moment():
    for seed in range(10):
        when = tied(seed)
        train, val = split_validation(timed(when), 0.2, "time", 0)
        assert when[train].max() < when[val].min() and len(val) >= round(0.2 * ROWS)
        assert sorted([*train, *val]) == list(range(ROWS))
        exact = split_validation(timed(shuffled(seed)), 0.2, "time", 0)[1]
        assert len(exact) == round(0.2 * ROWS)


@pytest.mark.parametrize(
    ("raw", "changes", "says"),
    [
        (Dataset({"x": np.zeros(9)}, {}, {}, {}), {}, "walk_forward needs data.order=COLUMN"),
        (timed(range(20)), {"folds": 4, "size": 5}, "leave 0 of 20 rows"),
        (timed(range(20)), {"folds": 4, "gap": 4}, "a gap of 4 leave 0 of 20 rows"),
        (timed(range(3)), {"folds": 4}, "4 folds of 0 rows"),
        (timed([1] * 20), {"folds": 2}, "1 moments in 20 rows are too few for 2 windows"),
        (timed([1] * 5 + [2] * 15), {"folds": 2}, "2 moments in 20 rows are too few"),
    ],
)
def test_too_few_rows_are_refused_with_their_number(raw, changes, says):
    with pytest.raises(UserError, match=says):
        walk(raw, **changes)


def test_one_moment_cannot_be_held_out_in_time():
    with pytest.raises(UserError, match="1 moments"):
        split_validation(timed([3] * 20), 0.2, "time", 0)


def owned(tmp_path, rows=120, owners=11):
    """A CSV table whose rows have owners of different sizes."""
    random = np.random.default_rng(0)
    lines = [
        f"p{int(owner)},{row % 17},{(row * 7) % 5}"
        for row, owner in enumerate(owners * random.random(rows) ** 2)
    ]
    (tmp_path / "owned.csv").write_text("\n".join(["patient,x,y", *lines]))
    return tmp_path / "owned.csv"


def rows_with_owners(tmp_path):
    table = node("data", "csv", path=str(owned(tmp_path)), target="y", kind="number")
    return build_part({**table, "group": "patient"})


@pytest.mark.parametrize(("protocol", "fits_wanted"), [("kfold", 4), ("iterated_kfold", 12)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_no_owner_stands_on_both_sides(tmp_path, protocol, fits_wanted, shuffle):
    raw = rows_with_owners(tmp_path)
    changes = {"by": "group", "shuffle": shuffle}
    if protocol == "iterated_kfold" and not shuffle:
        changes["repeats"], fits_wanted = 1, 4
    found = fits(make_protocol(node("protocol", protocol, **changes)), raw)
    assert len(found) == fits_wanted
    owner = np.asarray(raw.dev["patient"])
    for _, train, val in found:
        assert len(train) and len(val) and not set(owner[train]) & set(owner[val])
        assert sorted([*train, *val]) == list(range(len(raw)))
    for start in range(0, fits_wanted, 4):
        held = np.concatenate([val for _, _, val in found[start : start + 4]])
        assert sorted(held) == list(range(len(raw)))


def test_each_repeat_divides_the_owners_otherwise(tmp_path):
    raw = rows_with_owners(tmp_path)
    found = fits(make_protocol(node("protocol", "iterated_kfold", by="group")), raw)
    repeats = [
        frozenset(frozenset(val.tolist()) for job, _, val in found if job.repeat == r)
        for r in range(3)
    ]
    assert len(set(repeats)) == 3


@pytest.mark.parametrize(
    "words",
    [
        ["data.group=patient", "protocol=kfold", "protocol.by=group"],
        [
            "data.group=patient",
            "protocol=iterated_kfold",
            "protocol.by=group",
            "protocol.repeats=2",
        ],
        ["data.order=x", "protocol=walk_forward", "protocol.folds=3", "protocol.gap=2"],
    ],
    ids=["kfold", "iterated", "walk"],
)
def test_from_words_to_results(tmp_path, words):
    table = [f"data.path={owned(tmp_path)}", "data.target=y", "data.kind=number"]
    assert (
        main(
            [
                "task=csv",
                *table,
                "model=linear",
                "engine.epochs=1",
                *words,
                f"output={tmp_path / 'out'}",
            ]
        )
        == 0
    )
    (file,) = (tmp_path / "out").rglob("results.jsonl")
    names = [json.loads(line)["name"] for line in file.read_text().splitlines()]
    assert (
        len(names)
        == len(set(names))
        == {"kfold": 4, "iterated_kfold": 8, "walk_forward": 3}[words[1][9:]]
    )


def test_walking_forward_without_an_order_is_refused(tmp_path, capsys):
    table = [f"data.path={owned(tmp_path)}", "data.target=y", "data.kind=number"]
    assert main(["task=csv", *table, "protocol=walk_forward", f"output={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr()
    assert "protocol=walk_forward needs data.order=COLUMN" in said.out + said.err


def test_a_few_rows_teach_others_are_validated_and_the_rest_takes_no_part():
    raw = timed(range(50))
    plan = make_protocol(node("protocol", "few_rows", train=6, validation=20))
    train, val = plan.split_rows(raw, FitJob(), 1)
    assert (len(train), len(val)) == (6, 20) and not set(train) & set(val)
    assert (
        train.tolist()
        == plan.split_rows(raw, FitJob(), 1)[0].tolist()
        != plan.split_rows(raw, FitJob(), 2)[0].tolist()
    )
    train, val = make_protocol(node("protocol", "few_rows", train=45, validation=20)).split_rows(
        raw, FitJob(), 1
    )
    assert sorted([*train, *val]) == list(range(50))
    with pytest.raises(UserError, match="leaves none of the 50 rows"):
        make_protocol(node("protocol", "few_rows", train=50, validation=1)).split_rows(
            raw, FitJob(), 1
        )
