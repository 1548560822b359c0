"""Answers for new images and rows: those that the run kept, in words, and what is refused or left out."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from dlrun.cli.main import main
from dlrun.cli.predict_inputs import get_input_kind, is_path_like
from dlrun.core.errors import UserError
from dlrun.core.stored_files import load_json_lines
from dlrun.core.types import Field
from dlrun.data.datasets.sklearn_datasets import digits
from dlrun.data.datasets.synthetic import generate_images
from dlrun.data.tabular import holdout
from dlrun.report import prediction_table

FIELDS = {
    "category": Field("category", (), 3, ("a", "b", "c")),
    "binary": Field("binary", (1,), 0, ("cat", "dog")),
    "multilabel": Field("multilabel", (3,), 3, ("x", "y", "z")),
    "number": Field("number", (1,)),
    "several": Field("number", (2,), 0, ("high", "low")),
    "fraction": Field("fraction", (1,)),
}
TABLE = "area,town,price,kind\n" + "".join(
    f"{area},{'abc'[area % 3]},{area * 2 + area % 3},{'yes' if area > 30 else 'no'}\n"
    for area in range(10, 70)
)


def run(output, *words):
    """A new run folder."""
    before = set(output.rglob("config.yaml"))
    assert main([*words, "callback=none", f"output={output}"]) == 0
    (file,) = set(output.rglob("config.yaml")) - before
    return file.parent


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A run on images, and a folder with its validation images as files, named by row."""
    folder = run(
        tmp_path_factory.mktemp("digits"), "task=digits", "model=convnet", "engine.epochs=1"
    )
    files, raw = tmp_path_factory.mktemp("files"), digits(test=0.2)
    for place, row in enumerate(kept(folder)["row"]):
        Image.fromarray(raw.dev["image"][row, 0]).save(files / f"{place:04}.png")
    return folder, files


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A run on a CSV file with a number and a class as its targets, and the file."""
    place = tmp_path_factory.mktemp("csv")
    (place / "t.csv").write_text(TABLE)
    words = (
        "task=csv",
        f"data.path={place / 't.csv'}",
        "data.target=[price,kind]",
        "engine.epochs=2",
    )
    return run(
        place, *words, "model.units=[4]", "data.features={size: {log: area}}"
    ), place / "t.csv"


def kept(folder):
    with np.load(folder / "predictions" / "fit-val.npz") as arrays:
        return dict(arrays)


def rows_of(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def some(file, rows, *columns):
    """Some rows of the table as text, with these columns."""
    with file.open(newline="") as handle:
        found = list(csv.DictReader(handle))
    return (
        "\n".join(
            [",".join(columns), *(",".join(found[row][name] for name in columns) for row in rows)]
        )
        + "\n"
    )


def test_pictures_of_the_validation_rows_get_the_answers_that_were_kept(pictures, tmp_path, capsys):
    folder, files = pictures
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in ("a.csv", "a.json"):
        assert main(["predict", str(folder), str(files), f"to={tmp_path / name}"]) == 0
    wanted = kept(folder)["output/digit"]
    table, whole = rows_of(tmp_path / "a.csv"), json.loads((tmp_path / "a.json").read_text())
    assert (
        list(table[0]) == ["file", "answer", *"0123456789"]
        and not whole["skipped"]
        and whole["note"] == ""
    )
    found = np.array([[float(row[digit]) for digit in "0123456789"] for row in table])
    assert np.array_equal(found.astype(np.float32), wanted)
    shares = [list(row["probabilities"].values()) for row in whole["rows"]]
    assert (
        np.array_equal(np.array(shares, np.float32), wanted) and not (found == wanted).all()
    )  # the shortest digits
    assert [row["answer"] for row in table] == [str(best) for best in wanted.argmax(1)]
    assert [row["file"] for row in whole["rows"]] == [str(path) for path in sorted(files.iterdir())]
    said = capsys.readouterr().out
    assert "248 more rows" in said and "left out" not in said
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_gives_no_picture_is_named_and_the_rest_is_answered(
    pictures, tmp_path, capsys, monkeypatch
):
    folder, files = pictures
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "ner").mkdir(parents=True)
    whole = Image.open(files / "0000.png")
    whole.convert("RGBA").resize((50, 30)).save(tmp_path / "in" / "ner" / "größer.png")
    (tmp_path / "in" / "empty.jpg").write_bytes(b"")
    (tmp_path / "in" / "cut.png").write_bytes((files / "0000.png").read_bytes()[:60])
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "0001.png").write_bytes((files / "0001.png").read_bytes())
    assert main(["predict", str(folder), "in", "0001.png"]) == 0
    said = capsys.readouterr().out
    assert "in/ner/größer.png" in said and "0001.png" in said and "2 predicted, 2 left out" in said
    assert "empty.jpg: empty: 0 bytes" in said and "left out: in/cut.png: " in said
    assert main(["predict", str(folder), str(tmp_path / "in" / "empty.jpg")]) == 2
    assert "none of 1 files" in capsys.readouterr().err


def test_made_up_data_are_said_to_be(tmp_path, capsys):
    folder = run(tmp_path, "task=mnist", "source=sample", "model=linear", "engine.epochs=1")
    Image.fromarray(generate_images("mnist", "digit", "train")["image"][0, 0]).save(
        tmp_path / "one.png"
    )
    capsys.readouterr()
    for name in ("a.csv", "a.json"):
        assert (
            main(["predict", str(folder), str(tmp_path / "one.png"), f"to={tmp_path / name}"]) == 0
        )
        assert (
            "SYNTHETIC" in capsys.readouterr().out and "SYNTHETIC" in (tmp_path / name).read_text()
        )


def test_rows_of_a_table_get_the_answers_that_were_kept_and_a_score(tables, tmp_path, capsys):
    folder, table = tables
    arrays = kept(folder)
    dev = [row for row in range(60) if row not in set_aside()]
    held_out = [dev[row] for row in arrays["row"]]
    (tmp_path / "new.csv").write_text(some(table, held_out, "town", "kind", "price", "area"))
    assert (
        main(["predict", str(folder), str(tmp_path / "new.csv"), f"to={tmp_path / 'a.json'}"]) == 0
    )
    found = json.loads((tmp_path / "a.json").read_text())
    assert [row["line"] for row in found["rows"]] == list(range(2, 2 + len(held_out)))
    targets = [row["targets"] for row in found["rows"]]
    assert np.array_equal(
        np.float32([t["price"]["answer"] for t in targets]), arrays["output/price"][:, 0]
    )
    shares = [t["kind"]["probabilities"]["yes"] for t in targets]
    assert np.array_equal(np.float32(shares), arrays["output/kind"][:, 0])
    assert np.array_equal(
        np.float32([t["price"]["truth"] for t in targets]), arrays["target/price"][:, 0]
    )
    assert [t["kind"]["truth"] == "yes" for t in targets] == arrays["target/kind"][:, 0].astype(
        bool
    ).tolist()
    (line,) = load_json_lines(folder / "results.jsonl")
    assert found["scores"] == {name: score["value"] for name, score in line["scores"].items()}
    assert "kind_accuracy" in capsys.readouterr().out


def set_aside():
    """The rows of the table that its run keeps sealed."""
    return set(holdout.random_holdout(60, 0.2)[1].tolist())


def test_rows_without_the_target_are_answered_the_same(tables, tmp_path, capsys):
    folder, table = tables
    for name, columns in (
        ("with.csv", ("area", "town", "price", "kind")),
        ("without.csv", ("town", "area")),
    ):
        (tmp_path / name).write_text(some(table, range(9), *columns))
        assert (
            main(["predict", str(folder), str(tmp_path / name), f"to={tmp_path / name}.json"]) == 0
        )
    whole, bare = (
        json.loads((tmp_path / f"{name}.csv.json").read_text()) for name in ("with", "without")
    )
    assert whole["scores"] and not bare["scores"] and "truth" not in str(bare["rows"])
    for one, other in zip(whole["rows"], bare["rows"], strict=True):
        assert one["targets"]["price"]["answer"] == other["targets"]["price"]["answer"]
        assert one["targets"]["kind"]["probabilities"] == other["targets"]["kind"]["probabilities"]


def test_the_rows_that_a_run_was_made_from_get_no_score(tables, tmp_path, capsys):
    folder, table = tables
    assert main(["predict", str(folder), str(table), f"to={tmp_path / 'a.csv'}"]) == 0
    assert "no score is taken" in capsys.readouterr().out
    assert (
        len(rows_of(tmp_path / "a.csv")) == 60
        and "price: truth" not in rows_of(tmp_path / "a.csv")[0]
    )


def wines(file):
    """The whole table of wines, with the names that its task gives the columns."""
    from sklearn.datasets import load_wine

    found = load_wine()
    rows = [
        ",".join([*map(str, row), found.target_names[kind]])
        for row, kind in zip(found.data, found.target, strict=True)
    ]
    file.write_text("\n".join([",".join([*found.feature_names, "grower"]), *rows]))
    return file


def test_the_final_model_of_a_workflow_answers_for_further_rows(tmp_path, capsys):
    words = [
        "workflow",
        "task=wine",
        "workflow=quick",
        "workflow.budget=1",
        "engine.epochs=5",
        f"output={tmp_path}",
    ]
    assert main(words) == 0
    (folder,) = [path.parent for path in tmp_path.rglob("workflow.json")]
    assert main(["final", str(folder), "reason=a test of predict"]) == 0
    assert (
        main(["predict", str(folder), str(wines(tmp_path / "w.csv")), f"to={tmp_path / 'a.csv'}"])
        == 0
    )
    assert len(rows_of(tmp_path / "a.csv")) == 178


def test_a_table_that_comes_with_a_package_is_answered_by_column_names(tmp_path, capsys):
    folder = run(tmp_path, "task=wine", "model=linear_solved")
    wines(tmp_path / "w.csv")
    assert main(["predict", str(folder), str(tmp_path / "w.csv"), f"to={tmp_path / 'a.csv'}"]) == 0
    answers = rows_of(tmp_path / "a.csv")
    assert (
        np.mean([row["answer"] == row["truth"] for row in answers]) > 0.95
        and "class_2" in answers[0]
    )
    (tmp_path / "gap.csv").write_text((tmp_path / "w.csv").read_text().replace("14.23", "", 1))
    assert main(["predict", str(folder), str(tmp_path / "gap.csv")]) == 2
    assert "misses numbers (line 2)" in capsys.readouterr().err


def test_what_makes_no_sense_is_refused(pictures, tables, tmp_path, capsys):
    (folder, files), (table_run, table) = pictures, tables
    (tmp_path / "less.csv").write_text(some(table, range(3), "price", "kind"))
    (tmp_path / "word.csv").write_text("area,town\nlarge,a\n")
    cases = {
        "needs a run folder": [],
        "is no run folder": [str(tmp_path), "x.png"],
        "predictions for which files": [str(folder)],
        "no file or folder gone.png": [str(folder), "gone.png", str(files)],
        "must end in .csv or .json": [str(folder), str(files), "to=a.txt"],
        "there is no folder": [str(folder), str(files), f"to={tmp_path / 'no' / 'a.csv'}"],
        "name one CSV file": [str(table_run), str(files)],
        "lacks area, town, which the run was trained on": [
            str(table_run),
            str(tmp_path / "less.csv"),
        ],
        "line 2: column 'area' has 'large'": [str(table_run), str(tmp_path / "word.csv")],
    }
    for told, words in cases.items():
        assert main(["predict", *words]) == 2
        assert told in capsys.readouterr().err
    before = table.read_text()
    table.write_text(before.replace("10,", "11,", 1))
    assert main(["predict", str(table_run), str(table)]) == 2
    assert "have changed since" in capsys.readouterr().err
    table.write_text(before)


MOODS = {"pleased": "wonderful superb lovely great", "cross": "awful dull boring poor"}


def moods(rows=60):
    """Texts of 3 to 9 words, and the mood of each."""
    random = np.random.RandomState(3)
    for row in range(rows):
        mood = list(MOODS)[row % 2]
        kinds = [
            MOODS[mood] if random.rand() < 0.6 else "the film was a story"
            for _ in range(3 + row % 7)
        ]
        yield " ".join(random.choice(kind.split()) for kind in kinds), mood


WAYS = {
    "sequence": ("text=sequence", "text.length=6", "model=embedding"),
    "bag": ("text=multi_hot", "model.units=[4]"),
    "bigrams": ("text=bigrams_tf_idf", "model=linear"),
}


@pytest.fixture(scope="module", params=WAYS)
def reading(request, tmp_path_factory):
    """A run on texts from a CSV file, and the texts of its validation rows."""
    place = tmp_path_factory.mktemp(request.param)
    rows = list(moods())
    (place / "t.csv").write_text("mood,text\n" + "".join(f"{mood},{text}\n" for text, mood in rows))
    words = (
        "task=texts",
        f"data.path={place / 't.csv'}",
        "data.text=text",
        "data.target=mood",
        "engine.epochs=3",
    )
    folder = run(place / "out", *words, *WAYS[request.param])
    dev = [row for row in range(60) if row not in _sealed(folder, rows)]
    return folder, [rows[dev[row]] for row in kept(folder)["row"]]


def _sealed(folder, rows):
    """The rows that the run has put aside as test rows."""
    labels = np.array([mood for _, mood in rows])
    return set(holdout.stratified_holdout(labels, 0.2)[1].tolist())


def written_answers(place, *words):
    assert main(["predict", *map(str, words), f"to={place / 'a.json'}"]) == 0
    return json.loads((place / "a.json").read_text())


def test_texts_are_answered_as_the_run_has_answered_them_in_every_way_of_giving_them(
    reading, tmp_path, capsys
):
    folder, rows = reading
    expected = kept(folder)["output/mood"][:, 0]
    (tmp_path / "texts").mkdir()
    for place, (text, _) in enumerate(rows):
        (tmp_path / "texts" / f"{place:03}.txt").write_text(text + "\n", encoding="utf-8")
    (tmp_path / "bare.csv").write_text("\n".join(["text", *(text for text, _ in rows)]))
    (tmp_path / "whole.csv").write_text("\n".join(["text,mood", *map(",".join, rows)]))
    given = {
        "text": [text for text, _ in rows],
        "files": [tmp_path / "texts"],
        "bare": [tmp_path / "bare.csv"],
        "whole": [tmp_path / "whole.csv"],
    }
    for name, words in given.items():
        found = written_answers(tmp_path, folder, *words)
        names = list(found["rows"][0]["probabilities"])
        assert np.allclose(
            [row["probabilities"][names[1]] for row in found["rows"]], expected, atol=1e-6
        ), name
        assert [row["answer"] for row in found["rows"]] == [
            names[int(share > 0.5)] for share in expected
        ]
    (line,) = load_json_lines(folder / "results.jsonl")
    assert found["scores"] == pytest.approx(
        {name: score["value"] for name, score in line["scores"].items()}
    )
    assert [
        row["text"] for row in written_answers(tmp_path, folder, *given["text"])["rows"]
    ] == given["text"]


def test_what_the_run_does_not_know_is_counted(reading, tmp_path, capsys):
    folder, _ = reading
    found = written_answers(tmp_path, folder, "Great! zebra, film", "quagga okapi")
    assert found["words"] == {"unknown": 3, "all": 5}
    said = " ".join(capsys.readouterr().out.split())
    assert "3 of 5 words (60%) are not among those that the run knows" in said
    assert "no word of 'quagga okapi' is known" in said and "'Great! zebra" not in said


def test_a_long_text_is_shown_without_its_middle_and_written_whole(
    reading, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "160")
    folder, _ = reading
    text = "great " * 40 + "film"
    (row,) = written_answers(tmp_path, folder, text)["rows"]
    assert row["text"] == text
    said = " ".join(capsys.readouterr().out.split())
    assert "great great … great film" in said and text not in said


def test_files_that_give_no_text_are_named_and_left_out(reading, tmp_path, capsys):
    folder, _ = reading
    (tmp_path / "latin.txt").write_bytes("größer and great".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "good.TXT").write_text("great")
    found = written_answers(tmp_path, folder, tmp_path)
    assert [row["text"] for row in found["rows"]] == [str(tmp_path / "good.TXT")]
    reasons = {one["file"].rpartition("/")[2]: one["reason"] for one in found["skipped"]}
    assert reasons["empty.txt"] == "is empty" and "encoding=latin-1" in reasons["latin.txt"]
    found = written_answers(tmp_path, folder, tmp_path / "latin.txt", "encoding=latin-1")
    assert len(found["rows"]) == 1 and found["words"]["all"] == 3


def test_what_is_no_text_is_refused(reading, tmp_path, capsys):
    folder, _ = reading
    (tmp_path / "none").mkdir()
    (tmp_path / "a.pdf").write_text("x")
    (tmp_path / "a.csv").write_text("words\ngreat\n")
    (tmp_path / "e.txt").write_text("")
    cases = {
        "no file or folder mistyped.txt": ["mistyped.txt"],
        "no file or folder some/where": ["some/where"],
        "no file or folder my own letter.txt": ["my own letter.txt"],
        "'  ' is an empty text": ["  "],
        "'' is an empty text": [""],
        "there is no .txt file in": [tmp_path / "none"],
        "a text is a .txt file": [tmp_path / "a.pdf"],
        "lacks text": [tmp_path / "a.csv"],
        "name one CSV file": [tmp_path / "a.csv", "great"],
        "none of 1 files could be read as a text": [tmp_path / "e.txt"],
        "no such encoding": [tmp_path / "e.txt", "encoding=klingon"],
    }
    for told, words in cases.items():
        assert main(["predict", str(folder), *map(str, words)]) == 2, told
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("great", False),
        ("great.", False),
        ("film/10", True),
        ("nine of 10/10 stars", False),
        ("see imdb.com for more", False),
        ("imdb.com", True),
        ("rows of a.CSV", True),
        ("...", False),
    ],
)
def test_a_mistyped_path_is_no_text(word, path):
    assert is_path_like(word) == path


def test_texts_of_a_numbered_dataset_get_its_numbers(tmp_path, capsys):
    folder = run(tmp_path, "task=imdb", "source=sample", "model=linear", "engine.epochs=1")
    found = written_answers(tmp_path, folder, "word5 Word700, elsewhere", "elsewhere")
    assert found["words"] == {"unknown": 2, "all": 4} and "SYNTHETIC" in found["note"]
    assert len(found["rows"]) == 2 and "no word of 'elsewhere' is known" in capsys.readouterr().out


def test_what_follows_a_series_is_told_with_its_moment_and_unit(tmp_path, capsys):
    moments = [f"2024-01-{1 + hour // 24:02} {hour % 24:02}:00" for hour in range(480)]
    lines_ = [f"{when},{10 + hour % 24:.1f}" for hour, when in enumerate(moments)]
    (tmp_path / "s.csv").write_text("\n".join(["when,temp (degC)", *lines_]))
    words = (
        "task=series",
        f"data.path={tmp_path / 's.csv'}",
        "data.time=when",
        "data.target='temp (degC)'",
    )
    folder = run(
        tmp_path / "out", *words, "data.lookback=24", "data.delay=[1,24]", "engine.epochs=1"
    )
    found = written_answers(tmp_path, folder, tmp_path / "s.csv")["values"]
    assert [(one["target"], one["column"], one["unit"]) for one in found] == [
        ("temp", "temp (degC)", "°C")
    ] * 2
    assert [one["when"][8:13] for one in found] == [
        "21 00",
        "21 23",
    ]  # the last row is at 23 o'clock, on the 20th
    assert main(["predict", str(folder), str(tmp_path / "s.csv"), f"to={tmp_path / 'a.csv'}"]) == 0
    assert [float(row["value"]) for row in rows_of(tmp_path / "a.csv")] == [
        one["value"] for one in found
    ]
    assert "2024-01-20 23:00:00" in capsys.readouterr().out
    assert main(["predict", str(folder), "a text"]) == 2
    assert "This run reads series: dlrun predict RUN series.csv" in capsys.readouterr().err


def test_a_text_beside_numbers_is_answered_from_rows_alone(tmp_path, capsys):
    rows = [f"{mood},{text},{len(text)}" for text, mood in moods()]
    (tmp_path / "t.csv").write_text("\n".join(["mood,text,size", *rows]))
    words = (
        "task=csv",
        f"data.path={tmp_path / 't.csv'}",
        "data.target=mood",
        "data.texts=[text]",
        "data.test=0",
    )
    folder = run(
        tmp_path / "out",
        *words,
        "text=sequence",
        "text.length=6",
        "model=combined",
        "engine.epochs=1",
    )
    arrays = kept(folder)
    held_out = [rows[row] for row in arrays["row"]]
    (tmp_path / "new.csv").write_text("\n".join(["mood,text,size", *held_out]))
    found = written_answers(tmp_path, folder, tmp_path / "new.csv")
    shares = [row["probabilities"]["pleased"] for row in found["rows"]]
    assert np.allclose(shares, arrays["output/mood"][:, 0], atol=1e-6) and found["scores"]
    assert main(["predict", str(folder), "a great film"]) == 2
    assert "This run reads a table: dlrun predict RUN rows.csv" in capsys.readouterr().err


def test_kinds_of_runs_by_what_they_read(tmp_path):
    def kind(inputs, outlook=None):
        plain = {"inputs": {f"{place}": {"kind": one} for place, one in enumerate(inputs)}}
        plain["targets"] = {"t": {"kind": "number", "outlook": outlook}}
        (tmp_path / "fields.json").write_text(json.dumps(plain))
        return get_input_kind(tmp_path)

    assert kind(["image"]) == "pictures" and kind(["tokens"]) == kind(["bag"]) == "texts"
    assert (
        kind(["number", "category"])
        == kind(["tokens", "number"])
        == kind(["bag", "bag"])
        == "table"
    )
    assert kind(["series"], {"rows": [1]}) == "series"
    for inputs in (["image", "number"], ["series"]):
        with pytest.raises(UserError, match="predict takes images, texts, series, and rows"):
            kind(inputs)


@pytest.mark.parametrize("name", FIELDS)
def test_answers_are_written_in_the_words_of_their_field(name):
    field = FIELDS[name]
    torch.manual_seed(3)
    outputs = {"t": field.apply_activation(torch.randn(5, field.num_outputs)).numpy()}
    names, text = (
        list("abcde"),
        prediction_table.predictions_to_csv(
            {"t": field}, list("abcde"), outputs, {}, first="file", note="so"
        ),
    )
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["file"] for row in rows] == names and {row["note"] for row in rows} == {"so"}
    told = prediction_table.get_output_names(field, "t")
    for row, output in zip(rows, outputs["t"], strict=True):
        if name in ("number", "fraction"):
            assert np.float32(row["answer"]) == output[0] and list(row) == [
                "file",
                "answer",
                "note",
            ]
            continue
        found = [float(row[one]) for one in told]
        assert np.array_equal(
            np.float32(found), [1 - output[0], output[0]] if name == "binary" else output
        )
        if name in ("category", "binary"):
            assert row["answer"] == told[int(np.argmax(found))] and sum(found) == pytest.approx(1)
        elif name == "multilabel":
            assert row["answer"] == (
                ", ".join(n for n, p in zip(told, found, strict=True) if p > 0.5) or "(none)"
            )
    table = prediction_table.make_prediction_table({"t": field}, names, outputs, {}, first="file")
    assert len(table.rows) == 5 and all(len(row) == len(table.columns) for row in table.rows)
    whole = prediction_table.predictions_to_json(
        {"t": field}, names, outputs, {}, first="file", about={}
    )
    assert len(json.loads(whole)["rows"]) == 5
