"""What a person sees of a raw row, and of what preparation makes of it."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from laboratory import BAG
from test_largest_errors import DATASETS, load

from dlrun.core.dataset import Dataset, Ragged
from dlrun.data.audit.preprocessing_preview import build_preprocessing_examples
from dlrun.data.cache import RemoteFile, find_local_file
from dlrun.data.datasets import imdb_reuters
from dlrun.data.display import (
    describe_array,
    describe_raw_row,
    format_value,
    to_display_image,
    truncate_words,
)
from dlrun.data.preprocessing.pipeline import prepare

real = pytest.mark.skipif(
    not Path(os.environ.get("DLRUN_DATA", "none"), "imdb", "imdb_word_index.json").exists(),
    reason="needs the official files: set DLRUN_DATA to a folder that has them",
)


@real
def test_the_first_review_reads_as_it_is_known():
    raw = imdb_reuters.imdb(source="official", words=10000, pool=False, **BAG)
    text = describe_raw_row(raw, raw.dev, 0)["text"]
    assert text.startswith(
        "this film was just brilliant casting location scenery story direction everyone's really"
    )
    assert " robert ▯ is an amazing actor " in text and text.endswith(" shared with us all")
    assert len(text.split()) == 121 and text.split()[80] == "…"
    few = imdb_reuters.imdb(source="official", words=50, pool=False, **BAG)
    assert describe_raw_row(few, few.dev, 0)["text"].startswith(
        "this film was just ▯ ▯ ▯ ▯ ▯ ▯ ▯ ▯ ▯ the"
    )


@real
def test_the_first_newswire_reads_as_it_is_known():
    raw = imdb_reuters.reuters(source="official", words=10000, **BAG)
    assert describe_raw_row(raw, raw.dev, 0)["text"].startswith(
        "▯ ▯ said as a result of its december acquisition of space co it"
    )


def test_samples_say_word_numbers_as_keras_counts_them():
    raw = imdb_reuters.imdb(source="sample", words=30, pool=False, **BAG)
    raw.dev["review"] = Ragged(np.array([1, 4, 5, 2, 29, 0, 0], np.int32), np.array([0, 7]))
    assert describe_raw_row(raw, raw.dev, 0) == {"kind": "text", "text": "word1 word2 ▯ word26"}
    assert len(raw.read_vocabulary()) == 30


def test_without_the_list_of_words_there_are_numbers_and_a_remark(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path))
    monkeypatch.setattr(
        imdb_reuters,
        "_read_rows",
        lambda *_: (Ragged(np.array([7, 9]), np.array([0, 2])), np.array([1])),
    )
    raw = imdb_reuters.imdb(source="official", words=100, pool=False, **BAG)
    assert (
        describe_raw_row(raw, raw.dev, 0)["text"]
        == "[word numbers: there is no list of their words] 1 10 12"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", imdb_reuters.WORD_INDEX_FILES)
def test_a_list_of_words_is_read_from_its_file_alone(task, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path))
    path = tmp_path / task / f"{task}_word_index.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"the": 1, "rare": 9, "of": 2}))
    assert (
        imdb_reuters._load_word_names(task, 6, "official") == ()
        and "is not the official" in caplog.text
    )
    official = RemoteFile(task, path.name, hashlib.sha256(path.read_bytes()).hexdigest(), ())
    monkeypatch.setitem(imdb_reuters.WORD_INDEX_FILES, task, official)
    assert imdb_reuters._load_word_names(task, 6, "official") == ("", "", "▯", "▯", "the", "of")
    assert find_local_file(official) == path
    path.unlink()
    assert find_local_file(official) is None


def test_every_kind_of_input_is_seen_beside_the_others():
    random = np.random.RandomState(0)
    dev = {
        "pixels": random.randint(0, 256, (2, 3, 4, 5)).astype(np.uint8),
        "said": Ragged(np.array([1, 2, 1]), np.array([0, 2, 3])),
        "more": Ragged(np.array([0, 2]), np.array([0, 1, 2])),
        "numbers": np.array([[1.0, np.nan], [0.125, 1e6]]),
        "town": np.array(["", "Rome"], object),
        "age": np.array([np.nan, 40.0]),
        "power": np.arange(24.0).reshape(2, 4, 3),
    }
    kinds = dict(
        zip(dev, ("image", "bag", "bag", "number", "category", "category", "series"), strict=True)
    )
    raw = Dataset(
        dev,
        kinds,
        {},
        {},
        read_vocabulary=lambda: ("zero", "one", "two"),
        labels={"numbers": ("height",)},
    )
    found = describe_raw_row(raw, dev, 0)
    assert found["kind"] == "row" and found["text"] == "one two"
    assert (found["image"] == dev["pixels"][0].transpose(1, 2, 0)).all()
    missing = dict.fromkeys(("numbers 2", "town", "age"), "(missing)")
    assert found["cells"] == {
        "more": "zero",
        "numbers 1": "1",
        "power": "4 × 3, 0 to 11",
        **missing,
    }
    cells = describe_raw_row(raw, dev, 1)["cells"]
    assert [cells[name] for name in ("numbers 1", "numbers 2", "town", "age")] == [
        "0.125",
        "1000000",
        "Rome",
        "40",
    ]


def test_small_things():
    assert [format_value(value) for value in (0.0, -3.0, 1.23456, 1234.56, 2e20, float("inf"))] == (
        ["0", "-3", "1.235", "1234.6", "2e+20", "inf"]
    )
    assert (
        truncate_words(["a"] * 120) == " ".join("a" * 120)
        and truncate_words(["a"] * 121).count("a") == 120
    )
    grey = to_display_image(np.array([[[0.5, 1.0]], [[0.0, 1.0]]]))
    assert grey.dtype == np.uint8 and grey.tolist() == [[64, 255]]
    assert to_display_image(np.zeros((3, 2, 2))).shape == (2, 2, 3)


@pytest.mark.parametrize("name", DATASETS)
def test_before_is_raw_and_after_is_what_a_model_is_given(name, tmp_path):
    raw = load(name, tmp_path)
    train = np.random.RandomState(1).permutation(len(raw))[: len(raw) // 2]
    data = prepare(raw, train, None)
    found = build_preprocessing_examples(raw, data, raw.dev, train)
    (table,) = found["tables"]
    plain = [
        table["title"],
        *table["columns"],
        *found["evidence"],
        *(text for row in table["rows"] for text in row),
    ]
    assert all(isinstance(text, str) for text in plain) and found["evidence"]
    assert 3 <= len(table["columns"]) <= 8 and {len(row) for row in table["rows"]} == {
        len(table["columns"])
    }
    numbers = [int(row[0].split()[1].rstrip(",")) for row in table["rows"]]
    assert (
        len(numbers) == 6 and numbers[::2] == numbers[1::2] and set(numbers) <= set(train.tolist())
    )
    prepared = next(data.train.batches(len(train)))
    for position, column in enumerate(table["columns"]):
        names = raw.labels.get("features", ())
        if column in names:
            for before, after in zip(table["rows"][::2], table["rows"][1::2], strict=True):
                row = int(before[0].split()[1].rstrip(","))
                place = names.index(column)
                assert before[position] == format_value(raw.dev["features"][row, place])
                assert after[position] == format_value(
                    prepared["features"][list(train).index(row), place].item()
                )
        elif raw.inputs.get(column) == "bag":
            row = list(train).index(numbers[0])
            count = int((prepared[column].to_dense()[row] != 0).sum())
            assert table["rows"][1][position].startswith(f"{count} different words of ")
        elif raw.inputs.get(column) == "image":
            row = list(train).index(numbers[0])
            assert table["rows"][0][position] == describe_array(raw.dev[column][numbers[0]])
            assert table["rows"][1][position] == describe_array(prepared[column][row].numpy())


def test_what_is_learnt_is_told_with_its_values(tmp_path):
    raw = load("csv", tmp_path, indicator=True, features={"age": {"bins": ["rooms", 3]}})
    train = np.arange(5, 80)
    found = build_preprocessing_examples(raw, prepare(raw, train, None), raw.dev, train)
    gaps = np.isnan(raw.dev["features"][train, 0])
    fill = format_value(np.median(raw.dev["features"][train, 0][~gaps]))
    assert (
        f"median of the training rows: size {fill} ({gaps.sum()} of 75 rows); 1 columns added"
        in found["evidence"][0]
    )
    towns = f"town: levels 0 = any other, 1 = missing ({(raw.dev['town'][train] == '').sum()} of 75 rows)"
    assert f"{towns}, learned: 2 = a, 3 = c" in found["evidence"]
    assert "age: bins numbered from 1, 0 = missing; edges between them: 1, 2" in found["evidence"]
    assert found["evidence"][-1] == "kind: classes 0 = flat, 1 = house"


def test_a_row_with_a_gap_is_shown_and_its_column_has_room(tmp_path):
    raw = load("california_housing", tmp_path)
    bedrooms = raw.labels["features"].index("total_bedrooms")
    whole = np.flatnonzero(~np.isnan(raw.dev["features"][:, bedrooms]))
    train = np.concatenate([whole, np.flatnonzero(np.isnan(raw.dev["features"][:, bedrooms]))])
    data = prepare(raw, train, None)
    (table,) = build_preprocessing_examples(raw, data, raw.dev, train, count=2)["tables"]
    last = [row[table["columns"].index("total_bedrooms")] for row in table["rows"]][2:]
    fill, mean, scale = (
        data.preprocessors["features"][0].fill,
        data.preprocessors["features"][1].mean,
        data.preprocessors["features"][1].scale,
    )
    assert last == ["(missing)", format_value(float(np.float32((fill - mean) / scale)[bedrooms]))]
    assert table["rows"][2][0] == f"row {train[len(whole)]}, before" and len(table["rows"]) == 4
