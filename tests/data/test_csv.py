"""Your own table: what is found out, what is made of it, and a message that helps for whatever is wrong."""

import logging

import numpy as np
import pytest

from dlrun.core.errors import UserError
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.data.tabular.csv_dataset import csv
from dlrun.data.tabular.csv_file import read_csv

SETTINGS = {
    "target": "price",
    "test_path": None,
    "kind": "auto",
    "test": 0.0,
    "drop": [],
    "group": None,
    "order": None,
    "features": None,
    "scale": "standardize",
    "impute": "median",
    "indicator": False,
    "separator": None,
    "header": None,
    "encoding": "utf-8",
    "texts": [],
    "text": None,
    "share_words": False,
    "check_test": True,
}
HOUSES = "area,town,sold,price\n" + "".join(
    f"{50 + 7 * row},{'abc'[row % 3]},{'yes' if row % 2 else 'no'},{100.5 + 3 * row}\n"
    for row in range(30)
)


@pytest.fixture
def load(tmp_path):
    def loader(text, **settings):
        path = tmp_path / "table.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return csv(path=str(path), **(SETTINGS | settings))

    return loader


def everything(raw):
    return prepare(raw, np.arange(len(raw)), None)


def test_numbers_become_one_input_and_each_text_column_another(load, caplog):
    caplog.set_level(logging.INFO, "dlrun")
    raw = load(HOUSES)
    assert raw.inputs == {"features": "number", "town": "category", "sold": "category"}
    assert raw.targets == {"price": "number"}
    assert "price is a number (30 different numbers); say data.kind=… to change it" in caplog.text
    data = everything(raw)
    assert data.spec.inputs["features"].shape == (1,) and data.spec.inputs["features"].labels == (
        "area",
    )
    assert data.spec.inputs["town"].labels == ("(unknown)", "(missing)", "a", "b", "c")
    assert data.spec.targets["price"].prior.tolist() == pytest.approx([100.5 + 3 * 14.5])
    batch = next(data.train.batches(30))
    assert batch["features"].mean().item() == pytest.approx(0, abs=1e-6)
    assert batch["town"][:3].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    "column, cells, kind, names",
    [
        ("sold", ["yes", "no"], "binary", ("no", "yes")),
        ("sold", ["1", "0"], "binary", ("0", "1")),
        ("sold", ["x", "y", "z"], "category", ("x", "y", "z")),
        ("sold", ["10", "9", "2"], "category", ("2", "9", "10")),
        ("sold", [str(number) for number in range(30)], "number", None),
        ("sold", ["0.5", "1.5", "2.5"], "number", None),
    ],
)
def test_kinds_are_found_out(load, column, cells, kind, names):
    rows = "".join(f"{row * 1.5},{cells[row % len(cells)]}\n" for row in range(30))
    raw = load(f"area,{column}\n" + rows, target=column)
    assert raw.targets == {column: kind} and raw.labels.get(column) == names
    field = everything(raw).spec.targets[column]
    assert field.kind == kind and field.num_outputs == (3 if kind == "category" else 1)
    if kind == "binary":
        assert field.shape == (1,) and field.prior.tolist() == [0.5]
    if kind == "category":
        assert field.shape == () and field.prior.tolist() == pytest.approx([1 / 3] * 3)


def test_several_targets_are_several_outputs(load):
    raw = load(HOUSES, target=["price", "sold"])
    assert raw.targets == {"price": "number", "sold": "binary"} and "sold" not in raw.inputs


def test_multilabel_is_one_target_of_several_columns(load):
    text = "x,red,green\n" + "".join(f"{row},{row % 2},{row // 5 % 2}\n" for row in range(20))
    raw = load(text, target=["red", "green"], kind="multilabel")
    field = everything(raw).spec.targets["labels"]
    assert (field.kind, field.shape, field.size, field.labels) == (
        "multilabel",
        (2,),
        2,
        ("red", "green"),
    )
    with pytest.raises(UserError, match="several columns"):
        load(text, target="red", kind="multilabel")
    with pytest.raises(UserError, match=r"not 0 or 1 in 18 rows \(lines 4, 5"):
        load(text, target=["red", "x"], kind="multilabel")


def test_missing_numbers_are_filled_and_flagged(load):
    text = "a,b,y\n1,5,1.5\n,5,2.5\n3,?,3.5\n8,NaN,4.25\n"
    raw = load(text, target="y", scale="none", indicator=True)
    assert next(everything(raw).train.batches(9))["features"].tolist() == [
        [1, 5, 0, 0],
        [3, 5, 1, 0],
        [3, 5, 0, 1],
        [8, 5, 0, 1],
    ]
    raw = load(text, target="y", scale="unit", impute="mean")
    assert next(everything(raw).train.batches(9))["features"][:, 0].tolist() == pytest.approx(
        [0, 3 / 7, 2 / 7, 1]
    )


def test_unseen_and_missing_categories_have_places_of_their_own(load):
    raw = load("town,y\n" + "a,1.5\nb,2.5\n,3.5\nc,4.5\na,5\nb,6\nc,7\n", target="y")
    data = prepare(raw, np.arange(3), np.array([3, 2, 1]))
    assert next(data.val.batches(3))["town"].tolist() == [0, 1, 3]


def test_ids_and_empty_columns_are_left_out_with_a_word(load, caplog):
    text = "id,nothing,n,y\n" + "".join(f"row{row},,{row},{row * 1.1}\n" for row in range(20))
    raw = load(text, target="y")
    assert list(raw.inputs) == ["features"] and raw.labels["features"] == ("n",)
    assert "'id' is left out" in caplog.text and "'nothing' is left out" in caplog.text
    assert "'n' counts the rows" in caplog.text


def test_a_column_of_numbers_with_a_slip_is_told(load, caplog):
    rows = [f"{n},{n / 2},{n % 3}" for n in range(20)]
    raw = load("\n".join(["a,b,y", "x1,7,1", *rows, ""]), target="y")
    assert set(raw.dev) == {"features", "y"}
    assert "column 'a' is none of numbers, for 'x1' in 1 row (line 2) is no number" in caplog.text
    assert "column 'a' is left out" in caplog.text and "column 'b'" not in caplog.text


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_are_found_and_cells_may_be_quoted(load, separator):
    text = separator.join(["a", '"b, or ; so"', "y"]) + "\r\n"
    text += "".join(
        separator.join([str(row), f'"{row * 2}"', f"{row}.5"]) + "\r\n" for row in range(8)
    )
    raw = load("\ufeff" + text + "\r\n", target="y")
    assert raw.labels["features"] == ("a", "b, or ; so") and len(raw) == 8


def test_a_file_without_header_is_given_one(load):
    text = "".join(f"{row}, {row * 2}, {row}.5\n" for row in range(9))
    with pytest.raises(UserError, match=r"numbers only.*data.header="):
        load(text, target="y")
    raw = load(text, target="y", header=["a", "b", "y"])
    assert len(raw) == 9 and raw.labels["features"] == ("a", "b")


def test_a_column_without_a_name_is_left_out(load):
    assert load(",a,y\n0,5,1.5\n1,7,2.5\n2,8,3.5\n", target="y").labels["features"] == ("a",)


def test_test_rows_are_a_share_of_each_class(load):
    rows = "".join(f"{row},{'rare' if row % 10 == 0 else 'often'}\n" for row in range(100))
    raw = load("x,y\n" + rows, target="y", test=0.2)
    test = raw.test()
    assert (len(raw), len(test["y"])) == (80, 20) and (test["y"] == "rare").sum() == 2
    assert set(raw.dev["features"][:, 0]) | set(test["features"][:, 0]) == set(range(100))
    again = load("x,y\n" + rows, target="y", test=0.2)
    assert (again.dev["features"] == raw.dev["features"]).all()


def test_a_class_never_leaves_the_development_rows(load):
    rows = "".join(f"{row},{'abcde'[min(row, 4)]}\n" for row in range(40))
    raw = load("x,y\n" + rows, target="y", test=0.5)
    assert raw.labels["y"] == ("a", "b", "c", "d", "e")


def test_test_rows_are_the_last_in_time_or_whole_owners(load):
    rows = "".join(
        f"2024-01-{1 + (row * 7) % 30:02d},{row % 6}p,{row * 3 % 11},{row}.5\n" for row in range(30)
    )
    text = "when,who,x,y\n" + rows
    raw = load(text, target="y", test=0.2, order="when")
    assert raw.order == "when" and list(raw.inputs) == ["features", "who"]
    assert raw.dev["when"].max() < raw.test()["when"].min() and len(raw.test()["when"]) == 6
    raw = load(text, target="y", test=0.2, group="who", drop=["when"])
    assert not set(raw.dev["who"]) & set(raw.test()["who"])
    with pytest.raises(
        UserError, match="order column 'who' has neither number nor time in 30 rows"
    ):
        load(text, target="y", test=0.2, order="who")


def test_a_test_file_is_read_when_asked(load, tmp_path):
    other = tmp_path / "test.csv"
    with pytest.raises(UserError, match="test.csv does not exist"):
        load(HOUSES, test_path=str(other))
    other.write_text("area,town,price\n1,a,2\n")
    with pytest.raises(UserError, match="'sold' is no column of .*test.csv"):
        load(HOUSES, test_path=str(other))
    other.write_text("area,town,sold,price\nmany,a,yes,2\n")
    with pytest.raises(
        UserError, match="test.csv, line 2: column 'area' has 'many'"
    ):  # before anything is trained
        load(HOUSES, test_path=str(other), test=0.2)
    other.write_text("price,extra,area,town,sold\n2,0,50,zz,yes\n")
    raw = load(HOUSES, test_path=str(other), test=0.2)
    assert len(raw) == 30
    data = everything(raw)
    assert next(transform_rows(raw, data, raw.test()).batches(1))["town"].tolist() == [0]


def test_a_class_that_only_test_rows_have_is_told_and_keeps_its_place(load, tmp_path, caplog):
    other = tmp_path / "test.csv"
    other.write_text("area,town,sold,price\n1,a,maybe,2\n2,a,yes,2\n")
    raw = load(HOUSES, target="sold", test_path=str(other))
    assert "the class of 1 row (line 2) (maybe) is that of no other row" in caplog.text
    data = everything(raw)
    assert next(transform_rows(raw, data, raw.test()).batches(2))["sold"].tolist() == [0, 2]


def test_a_run_of_0_1_0_reads_its_test_file_as_it_did(load, tmp_path):
    other = tmp_path / "test.csv"
    other.write_text("area,town,sold,price\n1,a,maybe,2\n2,a,yes,2\n")
    raw = load(HOUSES, target="sold", test_path=str(other), check_test=False)
    data = everything(raw)
    with pytest.raises(
        UserError, match="1 held-out rows are of a class.*'maybe'.*Classes known: no, yes"
    ):
        transform_rows(raw, data, raw.test())


def test_a_class_without_training_rows_keeps_its_place(load, caplog):
    rows = "".join(f"{row},{'abc'[row // 10]}\n" for row in range(30))
    raw = load("x,y\n" + rows, target="y")
    data = prepare(raw, np.arange(20), np.arange(20, 30))
    assert data.spec.targets["y"].size == 3 and data.spec.targets["y"].prior.tolist() == [
        0.5,
        0.5,
        0,
    ]
    assert next(data.val.batches(10))["y"].tolist() == [2] * 10
    assert "no training row is of class c" in caplog.text


BAD = "a,b,y\n1,2,3\n"
FAULTS = {
    "empty": ("", {}, "is empty"),
    "blank": ("\n\n", {}, "is empty"),
    "header only": ("a,b,y\n", {}, "has a header but no rows"),
    "no such target": (
        HOUSES,
        {"target": "pricee"},
        "'pricee' is no column.*did you mean 'price'.*area, town, sold",
    ),
    "no target": (HOUSES, {"target": None}, "data.target=COLUMN.*area, town, sold, price"),
    "target twice": (HOUSES, {"target": ["price", "price"]}, "named twice"),
    "text as number": (
        HOUSES,
        {"target": "sold", "kind": "number"},
        "line 2: column 'sold' has 'no', .*number",
    ),
    "not binary": (HOUSES, {"kind": "binary"}, "'price' has 30 different values"),
    "not in 0..1": (HOUSES, {"kind": "fraction"}, r"not from 0 to 1 in 30 rows \(lines 2, 3"),
    "one class": ("a,y\n1,x\n2,x\n", {"target": "y"}, "'x' in all 2 rows"),
    "ids as target": ("a,y\n1,x\n2,z\n3,w\n", {"target": "y"}, "differs in all 3 rows"),
    "missing target": (
        "a,y\n1,2.5\n2,\n3,nan\n",
        {"target": "y"},
        r"'y' is missing in 2 rows \(lines 3, 4\)",
    ),
    "ragged": ("a,b,y\n1,2,3\n1,2\n", {"target": "y"}, "line 3: 2 cells where the header has 3"),
    "no input left": ("id,y\nq,1.5\nr,2.5\n", {"target": "y"}, "no input column left"),
    "all dropped": (HOUSES, {"drop": ["area", "town", "sold"]}, "no input column left"),
    "twice": ("a,a,y\n1,2,3\n", {"target": "y"}, "more than one column is called a"),
    "latin-1": (
        "a,y\nMünchen,1\n".encode("latin-1"),
        {"target": "y"},
        r"not UTF-8 text \(byte 5\)",
    ),
    "utf-16": (HOUSES.encode("utf-16"), {}, "not UTF-8"),
    "open quote": ('a,y\n"1,2\n3,4\n', {"target": "y"}, "line 2: unexpected end of data"),
    "drop unknown": (
        HOUSES,
        {"drop": ["twon"]},
        "data.drop: 'twon' is no column.*did you mean 'town'",
    ),
    "order unknown": (HOUSES, {"order": "time"}, "data.order or data.group: 'time' is no column"),
    "drop the target": (HOUSES, {"drop": ["price"]}, "'price' is the target"),
    "wrong separator": (HOUSES, {"separator": ", "}, "one character"),
    "infinite": (
        "a,b,y\n1,inf,3\n",
        {"target": "b", "kind": "number"},
        "line 2: column 'b' has 'inf', not a finite number",
    ),
    "name taken": (
        "features,a,y\nu,1,2\nu,3,4\nv,5,6\n",
        {"target": "y"},
        "'features' would stand for two columns",
    ),
    "too few to set aside": (
        "a,y\n1,2.5\n3,4.5\n",
        {"target": "y", "test": 0.1},
        "sets no row aside",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said(load, fault):
    text, settings, message = FAULTS[fault]
    with pytest.raises(UserError, match=message):
        load(text, **settings)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="data.path=FILE.csv"):
        csv(path=None, **SETTINGS)
    with pytest.raises(UserError, match="does not exist"):
        csv(path=str(tmp_path / "none.csv"), **SETTINGS)
    with pytest.raises(UserError, match="is a folder"):
        csv(path=str(tmp_path), **SETTINGS)


def test_features_are_made_by_name(load):
    text = "area,rooms,when,age,price\n" + "".join(
        f"{row + 1},{row % 3},2024-03-0{1 + row % 9} {row % 24:02d}:30,{'' if row == 4 else row},{row}.5\n"
        for row in range(40)
    )
    made = {
        "area_log": {"log": "area"},
        "per_room": {"ratio": ["area", "rooms"]},
        "hour": {"hour": "when"},
        "weekday": {"weekday": "when"},
        "season": {"day": "when"},
        "age_group": {"bins": ["age", 4]},
    }
    raw = load(text, features=made, drop=["when"])
    names = raw.labels["features"]
    assert names[3:5] == ("area_log", "per_room") and names[-2:] == ("season_sin", "season_cos")
    column = dict(zip(names, raw.dev["features"].T, strict=True))
    assert np.allclose(column["area_log"], np.log(np.arange(1, 41)))
    assert np.isnan(column["per_room"][0]) and column["per_room"][1] == 2
    assert np.allclose(column["hour_sin"] ** 2 + column["hour_cos"] ** 2, 1)
    assert column["hour_sin"][6] == pytest.approx(np.sin(2 * np.pi * 6.5 / 24))
    data = prepare(raw, np.arange(20), np.arange(20, 40))
    edges = data.preprocessors["age_group"][0].state()["edges"]
    assert raw.inputs["age_group"] == "category" and edges == pytest.approx([5.5, 10, 14.5])
    bins = next(data.train.batches(20))["age_group"].tolist()
    assert bins[:8] == [1, 1, 1, 1, 0, 1, 2, 2] and bins[-1] == 4
    assert data.spec.inputs["age_group"].size == 5
    assert len(data.spec.inputs["age_group"].labels) == 5


@pytest.mark.parametrize(
    "spec, message",
    [
        ({"square": "area"}, "is none of {log: column}"),
        ("log area", "is none of"),
        ({"log": ["area", "price"]}, "log is written"),
        ({"ratio": ["area"]}, "ratio is written"),
        ({"bins": ["area", 1]}, "at least 2 bins"),
        ({"bins": "area"}, "bins is written"),
        ({"log": "aria"}, "'aria' is no column.*did you mean 'area'"),
        ({"log": "town"}, "line 2: column 'town' has 'a'"),
        ({"hour": "town"}, "line 2: 'a' in town is no time"),
        ({"log": "zero"}, "no logarithm of zero ≤ 0 in 1 row .line 2"),
        ({"log": "price"}, "given away"),
    ],
)
def test_a_feature_that_makes_no_sense_is_refused(load, spec, message):
    lines = HOUSES.splitlines()
    text = "\n".join([lines[0] + ",zero", *(f"{line},{row}" for row, line in enumerate(lines[1:]))])
    with pytest.raises(UserError, match=message):
        load(text, features={"made": spec})


def test_a_feature_needs_a_name_of_its_own(load):
    with pytest.raises(UserError, match="called like a column"):
        load(HOUSES, features={"area": {"log": "area"}})


def test_lines_are_those_of_the_file(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a,b\n\n"two\nlines",1\n3,4\n')
    assert read_csv(str(path), separator=None, header=None).lines == [3, 5]
