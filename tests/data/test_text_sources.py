"""Where texts come from: the official archive, a folder for each class, a table, and word numbers in turn."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratory import BAG, node

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError
from dlrun.data.audit.run import audit
from dlrun.data.cache import RemoteFile
from dlrun.data.datasets import imdb_raw, imdb_reuters
from dlrun.data.display import describe_raw_row
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.data.tabular.text_encoding import decode_text

REVIEWS = "text,stars,town,verdict\n" + "".join(
    f'"{["A great, moving", "A dull and tedious"][row % 2]} film, number {row}.",{row % 5},{"ab"[row % 3 % 2]},'
    f"{['pleased', 'bored'][row % 2]}\n"
    for row in range(80)
)
MAILS = {f"{kind}/{number}.txt": f"{text} {number}" for kind, text in (("ham", "see you"), ("spam", "win money"))
         for number in range(20)}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, in which a command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def texts(path, **changes):
    return build_part(node("data", "texts", path=str(path), **changes))


# a folder


def test_a_folder_for_each_class(tmp_path):
    raw = texts(written(tmp_path / "mails", MAILS))
    assert raw.inputs == {"text": "bag"} and raw.targets == {"label": "binary"} and len(raw) == 32
    assert raw.labels["label"] == ("ham", "spam") and len(raw.test()["text"]) == 8
    assert all(
        ("win" in text) == (label == "spam") for text, label in zip(*raw.dev.values(), strict=True)
    )
    data = prepare(raw, np.arange(32), None)
    entries = data.spec.inputs["text"].labels
    assert set(entries[:4]) == {"money", "see", "win", "you"}
    bag = transform_rows(raw, data, raw.rows_from_texts(["money money new"])).columns["text"]
    assert [entries[column] for column in bag.columns] == ["money"]


def test_parts_and_archives_are_those_of_pictures(tmp_path):
    parts = {
        f"{part}/{name}": text
        for part in ("train", "validation", "test")
        for name, text in MAILS.items()
    }
    written(tmp_path / "mails", parts)
    with tarfile.open(tmp_path / "mails.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "mails", "mails")
    raws = [texts(tmp_path / name) for name in ("mails", "mails.tar.gz")]
    assert [len(raw) for raw in raws] == [80, 80] and [len(raw.test()["text"]) for raw in raws] == [
        40,
        40,
    ]
    assert all(map(np.array_equal, raws[0].dev.values(), raws[1].dev.values()))


def test_test_files_are_not_read_before_they_are_asked_for(tmp_path):
    parts = {f"{part}/{name}": text for part in ("train", "test") for name, text in MAILS.items()}
    raw = texts(written(tmp_path, parts | {"test/ham/1.txt": b"gr\xfc\xdfe"}))
    with pytest.raises(
        UserError, match=r"test/ham/1.txt is not UTF-8 text \(byte 2\).*data.encoding=latin-1"
    ):
        raw.test()


def test_new_rows_of_a_folders_run_come_from_a_table(tmp_path):
    raw = texts(written(tmp_path / "mails", MAILS))
    rows, lines = raw.read_new_rows(
        str(Path(written(tmp_path, {"new.csv": "text\nwin now\n\nsee\n"}), "new.csv"))
    )
    assert (
        rows["text"].tolist() == ["win now", "see"] and lines == [2, 4] and list(rows) == ["text"]
    )


# a table


def test_a_table_of_texts(tmp_path):
    written(tmp_path, {"t.csv": REVIEWS})
    raw = texts(tmp_path / "t.csv", text="text", target="verdict")
    assert raw.inputs == {"text": "bag"} and raw.targets == {"verdict": "binary"} and len(raw) == 64
    assert describe_raw_row(raw, raw.dev, 0) == {"kind": "text", "text": raw.dev["text"][0]}
    rows, _ = raw.read_new_rows(str(tmp_path / "t.csv"))
    assert set(rows) == {"text", "verdict"} and len(rows["text"]) == 80


def test_a_table_of_texts_numbers_and_categories(tmp_path):
    written(tmp_path, {"t.csv": REVIEWS})
    raw = build_part(node("data", "csv", path=str(tmp_path / "t.csv"), target="verdict", texts=["text"],
                     text=node("text", "sequence", length=4)))  # fmt: skip
    assert (
        raw.inputs == {"features": "number", "town": "category", "text": "tokens"}
        and raw.rows_from_texts is None
    )
    batch = next(prepare(raw, np.arange(60), None).train.batches(5))
    assert batch["text"].shape == (5, 4) and batch["text"].dtype == torch.int64
    view = describe_raw_row(raw, raw.dev, 3)
    assert (
        view["kind"] == "row"
        and view["text"].endswith(".")
        and set(view["cells"]) == {"stars", "town"}
    )


def test_numbers_can_be_foretold_from_texts(tmp_path):
    lines = "".join(f"{'good ' * (row % 7)}book,{row % 7 + 0.5}\n" for row in range(40))
    raw = texts(
        Path(written(tmp_path, {"t.csv": "text,stars\n" + lines}), "t.csv"),
        text="text",
        target="stars",
    )
    assert raw.targets == {"stars": "number"}


def test_texts_that_all_differ_are_told_how_to_be_read(tmp_path, caplog):
    caplog.set_level("WARNING", "dlrun")
    written(tmp_path, {"t.csv": REVIEWS})
    build_part(node("data", "csv", path=str(tmp_path / "t.csv"), target="verdict"))
    assert (
        "'text' is left out: its texts all differ, as names of rows do; data.texts=[text] reads it"
        in caplog.text
    )


def test_empty_texts_are_left_out_where_that_is_asked_for(tmp_path, caplog):
    caplog.set_level("WARNING", "dlrun")
    written(tmp_path, {"t.csv": REVIEWS + ",3,a,bored\n", "t2.csv": REVIEWS + ",3,a,bored\n"})
    table = {
        "text": "text",
        "target": "verdict",
        "empty": "skip",
        "test_path": str(tmp_path / "t2.csv"),
    }
    raw = texts(tmp_path / "t.csv", **table)
    assert len(raw) == 80 and "left out, for their text is empty: 1 row (line 82)" in caplog.text
    assert len(raw.test()["text"]) == 80
    folder = texts(written(tmp_path / "mails", MAILS | {"ham/20.txt": " \n"}), empty="skip", test=0)
    assert len(folder) == 40


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("utf-8", "naïve".encode()),
        ("utf-8", "\ufeffnaïve".encode()),
        ("utf-16", "naïve".encode("utf-16")),
        ("utf-16-le", "\ufeffnaïve".encode("utf-16-le")),
        ("latin-1", b"na\xefve"),
        ("cp1251", "кино".encode("cp1251")),
    ],
)
def test_any_encoding_can_be_read(encoding, content):
    assert decode_text(content, encoding, "x") in ("naïve", "кино")


# what is wrong

TABLE = "task=texts data.path=t.csv data.text=text data.target=verdict"
WRONG = {
    "no path": ("task=texts", {}, "say where the texts are: data.path=FOLDER"),
    "no such place": (TABLE, {}, "t.csv does not exist"),
    "no text column": (
        "task=texts data.path=t.csv data.target=verdict",
        {"t.csv": REVIEWS},
        "which column holds the texts: data.text=COLUMN. There are: text, stars, town, verdict",
    ),
    "misspelt text column": (
        TABLE.replace("text=text", "text=txt"),
        {"t.csv": REVIEWS},
        "text 'txt' is no column of t.csv: did you mean 'text'",
    ),
    "no target": (
        "task=texts data.path=t.csv data.text=text",
        {"t.csv": REVIEWS},
        "data.target=COLUMN. There are",
    ),
    "text and target in one": (TABLE + " data.target=text", {"t.csv": REVIEWS}, "text|twice"),
    "one class": (
        TABLE,
        {"t.csv": REVIEWS.replace("bored", "pleased")},
        "target 'verdict' is 'pleased' in all 80 rows: there is nothing to learn",
    ),
    "one folder": (
        "task=texts data.path=mails",
        {f"mails/{name}": text for name, text in MAILS.items() if "ham" in name},
        "has texts of one class only, 'ham': .*data.text=COLUMN",
    ),
    "no folders": (
        "task=texts data.path=mails",
        {"mails/a.txt": "x"},
        r"no folder for each class \(1 texts lie in none",
    ),
    "no texts": (
        "task=texts data.path=mails",
        {"mails/a/a.doc": "x"},
        "holds no text: no file there ends in .txt",
    ),
    "a column of a folder": (
        "task=texts data.path=mails data.text=body",
        {f"mails/{name}": text for name, text in MAILS.items()},
        "data.text is for a CSV file, but mails is none: its folders are the classes",
    ),
    "an empty file": (
        "task=texts data.path=mails data.test=0",
        {f"mails/{name}": text for name, text in MAILS.items()} | {"mails/ham/x.txt": ""},
        r"the text is empty in 1 files: ham/x.txt.*data.empty=skip leaves them out",
    ),
    "an empty cell": (
        TABLE,
        {"t.csv": REVIEWS + ",3,a,bored\n"},
        r"t.csv: the text is empty in 1 row \(line 82\)",
    ),
    "empty texts only": (
        TABLE + " data.empty=skip",
        {"t.csv": "text,verdict\n" + ",a\n,b\n" * 20},
        "t.csv: all 40 texts are empty",
    ),
    "not UTF-8": (
        "task=texts data.path=mails data.test=0",
        {f"mails/{name}": text for name, text in MAILS.items()}
        | {"mails/ham/x.txt": "Grüße".encode("latin-1")},
        r"mails/ham/x.txt is not UTF-8 text \(byte 2\): say what it is, such as data.encoding=latin-1",
    ),
    "utf-16": (
        TABLE,
        {"t.csv": REVIEWS.encode("utf-16")},
        "t.csv is not UTF-8 .*data.encoding=utf-16 by its first",
    ),
    "a csv not UTF-8": (
        "task=csv data.path=t.csv data.target=verdict data.texts=[text]",
        {"t.csv": REVIEWS.replace("tedious", "ermüdend").encode("cp1252")},
        "t.csv is not UTF-8 text .*data.encoding=",
    ),
    "an unknown encoding": (
        TABLE + " data.encoding=utf-9",
        {"t.csv": REVIEWS},
        "data.encoding=utf-9: no such encoding. Among others there are: utf-8, utf-16, latin-1",
    ),
    "no encoding of text": (
        TABLE + " data.encoding=base64",
        {"t.csv": REVIEWS},
        "base64 is no encoding of text",
    ),
    "misspelt texts": (
        "task=csv data.path=t.csv data.target=verdict data.texts=[txt]",
        {"t.csv": REVIEWS},
        "data.texts: 'txt' is no column of t.csv: did you mean 'text'",
    ),
    "target as a text": (
        "task=csv data.path=t.csv data.target=verdict data.texts=[verdict]",
        {"t.csv": REVIEWS},
        "column 'verdict' is the target and cannot be",
    ),
    "a dropped text": (
        "task=csv data.path=t.csv data.target=verdict data.texts=[text] data.drop=[text]",
        {"t.csv": REVIEWS},
        "column 'text' is a text in data.texts, and cannot be dropped",
    ),
    "texts without words": (
        TABLE,
        {"t.csv": "text,verdict\n" + "?!,a\n...,b\n" * 20},
        "none of the 26 training texts has words|none of the",
    ),
    "an option that is not there": (
        "task=imdb_text text=bigram",
        {},
        "no text 'bigram': did you mean 'bigrams'",
    ),
    "length 0": (
        "task=imdb_text text=sequence text.length=0",
        {},
        "text.length=0: it must be a whole number from 1",
    ),
    "pad left": (
        "task=imdb_text text=sequence text.pad=left",
        {},
        "text.pad='left': it must be one of front, back",
    ),
    "a setting of another option": (
        "task=imdb_text text.length=5",
        {},
        "no setting 'text.length'.*punctuation",
    ),
    "misspelt setting": (
        "task=imdb_text text.sice=5",
        {},
        "no setting 'text.sice': did you mean 'text.size'",
    ),
    "several in turn": (
        "task=imdb_text source=sample text=sequence text.ngrams=[1,2] model=embedding",
        {},
        "in a sequence one token follows another",
    ),
    "vectors for what is numbered": (
        "task=imdb text=bigrams",
        {},
        "text=bigrams: these data have no texts as they were written.*data.length=500",
    ),
    "words in turn of sets": (
        "task=imdb_text model=lstm",
        {},
        "model=lstm needs tokens.*text=sequence",
    ),
    "sets of words in turn": (
        "task=imdb_sequences model=dense",
        {},
        "model=dense cannot read tokens 'review'",
    ),
    "length of nothing": (
        "task=imdb data.length=0 model=lstm",
        {},
        "data.length=0: it must be a whole number from 1",
    ),
    "buckets of bags": (
        "task=imdb source=sample data.bucket=true",
        {},
        "bucket=true is for sequences.*length=500",
    ),
    "no archive": (
        "task=imdb_text",
        {},
        "aclImdb_v1.tar.gz is not there and could not be downloaded",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused(here, monkeypatch, capsys, name):
    command, files, message = WRONG[name]
    monkeypatch.setenv("DLRUN_DATA", str(here / "no data"))
    monkeypatch.setattr(imdb_raw, "ARCHIVE", RemoteFile("imdb", "aclImdb_v1.tar.gz", "0" * 64, ()))
    written(here, files)
    assert main(command.split()) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said), said
    assert "Traceback" not in said and not list(here.rglob("*.yaml"))


# the official archive


def archive(folder, files, **more):
    """A made archive of this name in a data root, and what is known of it."""
    place = folder / "imdb" / "aclImdb_v1.tar.gz"
    place.parent.mkdir(parents=True)
    with tarfile.open(place, "w:gz") as made:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(text), more.get(name, tarfile.REGTYPE)
            made.addfile(info, io.BytesIO(text))
    return RemoteFile("imdb", place.name, hashlib.sha256(place.read_bytes()).hexdigest(), ())


FILES = {
    f"aclImdb/{split}/{kind}/{number}_{number % 10}.txt": f"{split} {kind}<br /><br />{number} é".encode()
    for split in ("train", "test")
    for kind in ("neg", "pos", "unsup")
    for number in range(10)
} | {
    "aclImdb/README": b"read me",
    "aclImdb/train/urls_pos.txt": b"http",
    "aclImdb/train/pos/urls.html": b"x",
}


def made(monkeypatch, folder, files, **more):
    monkeypatch.setenv("DLRUN_DATA", str(folder))
    monkeypatch.setattr(imdb_raw, "ARCHIVE", archive(folder, files, **more))
    return lambda: build_part(node("data", "imdb_text", source="official"))


def test_the_archive_gives_labelled_reviews_and_nothing_else(tmp_path, monkeypatch):
    raw = made(monkeypatch, tmp_path, FILES)()
    found = set(zip(raw.dev["review"].tolist(), raw.dev["sentiment"].tolist(), strict=True))
    wanted = {
        (f"train {kind}  {number} é", label)
        for label, kind in enumerate(("neg", "pos"))
        for number in range(10)
    }
    assert found == wanted and len(raw) == 20 and raw.note == ""
    assert 2 < raw.dev["sentiment"][-10:].sum() < 8  # shuffled: the last rows are of both classes
    assert {text[:4] for text in raw.test()["review"]} == {"test"}


def test_the_archive_is_read_once(tmp_path, monkeypatch):
    load = made(monkeypatch, tmp_path, FILES)
    before = load()
    monkeypatch.setattr(imdb_raw, "iter_tar_files", None)
    assert np.array_equal(before.dev["review"], load().dev["review"])


@pytest.mark.parametrize(
    "name", ["aclImdb/../../evil.txt", "/evil.txt", "aclImdb/train/pos/link.txt"]
)
def test_an_archive_that_a_careful_person_would_not_unpack_is_refused(tmp_path, monkeypatch, name):
    load = made(
        monkeypatch,
        tmp_path,
        FILES | {name: b"x"},
        **{"aclImdb/train/pos/link.txt": tarfile.SYMTYPE},
    )
    with pytest.raises(UserError, match="leads out of the archive|is a link"):
        load()


def test_a_damaged_archive_is_refused(tmp_path, monkeypatch):
    load = made(monkeypatch, tmp_path, FILES)
    place = tmp_path / "imdb" / "aclImdb_v1.tar.gz"
    place.write_bytes(place.read_bytes()[:-200])
    with pytest.raises(UserError, match="is not the official aclImdb_v1.tar.gz"):
        load()
    cut = RemoteFile("imdb", place.name, hashlib.sha256(place.read_bytes()).hexdigest(), ())
    monkeypatch.setattr(imdb_raw, "ARCHIVE", cut)
    with pytest.raises(UserError, match="is no whole archive"):
        load()


LABELLED = Path(os.environ.get("DLRUN_DATA", "none"), "imdb", imdb_raw.LABEL_ARCHIVE.name)


@pytest.mark.slow
@pytest.mark.skipif(
    not LABELLED.exists(), reason="needs the reviews: set DLRUN_DATA to a folder that has them"
)
def test_the_real_reviews_are_all_there_and_the_audit_finds_copies():
    raw = build_part(node("data", "imdb_text", source="official"))
    rows, balance = raw.dev["review"], raw.dev["sentiment"]
    assert len(raw) == 25_000 and balance.sum() == 12_500 and 2300 < balance[-5000:].sum() < 2700
    assert any(text.startswith("Bromwell High is a cartoon comedy.") for text in rows)
    assert not any("<br />" in text for text in rows)
    found = audit(raw, np.arange(20_000), np.arange(20_000, 25_000), 0)
    assert any(finding.what == "duplicates" for finding in found)
    data = prepare(raw, np.arange(20_000), None)
    assert data.spec.inputs["review"].labels[:4] == ("the", "and", "a", "of")


# word numbers in turn


@pytest.mark.parametrize("cut", ["front", "back"])
@pytest.mark.parametrize("task", ["imdb", "reuters"])
def test_word_numbers_in_turn_are_those_of_the_bag(task, cut):
    some = {"source": "sample", "words": 300} | ({"pool": False} if task == "imdb" else {})
    load = getattr(imdb_reuters, task)
    plain, raw = load(**some, **BAG), load(**some, **BAG | {"length": 20, "cut": cut})
    (name,) = raw.inputs
    data = prepare(raw, np.arange(50), None)
    batch = next(data.train.batches(50))[name]
    lists = plain.dev[name]
    for row in range(50):
        numbers = lists.values[lists.offsets[row] : lists.offsets[row + 1]].tolist()
        kept = numbers[-20:] if cut == "front" else numbers[:20]
        assert batch[row].tolist() == [0] * (20 - len(kept)) + kept
    field = data.spec.inputs[name]
    assert (
        field.kind == "tokens"
        and field.size == len(field.labels) == 300
        and field.labels[:4] == ("", "", "▯", "▯")
    )


def test_new_texts_have_the_numbers_of_the_dataset():
    raw = imdb_reuters.imdb(source="sample", words=300, pool=False, **BAG | {"length": 6})
    rows = raw.rows_from_texts(["Word5, word7! nonsense word296 word297", "", "word1 " * 9])
    assert rows["review"][np.array([0])].values.tolist() == [1, 8, 10, 2, 299, 2]
    table = transform_rows(raw, prepare(raw, np.arange(50), None), rows)
    assert next(table.batches(3))["review"].tolist() == [
        [1, 8, 10, 2, 299, 2],
        [0] * 5 + [1],
        [4] * 6,
    ]


def test_new_texts_need_the_list_of_words(tmp_path, monkeypatch):
    raw = imdb_reuters.imdb(source="sample", words=300, pool=False, **BAG)
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path))
    with pytest.raises(UserError, match="no text has numbers without the list of words: put https"):
        imdb_reuters._encode_texts(
            "imdb", ["a film"], imdb_reuters._load_word_names("imdb", 300, "official"), 300
        )
    assert raw.rows_from_texts(["word5"])["review"].values.tolist() == [1, 8]


# from words to results


@pytest.mark.parametrize("text", ["bigrams_tf_idf", "hashing", "characters"])
def test_a_run_on_ones_own_texts(here, text, capsys):
    written(here / "mails", MAILS)
    model = "model=embedding" if text == "characters" else "model=dense"
    words = [
        "task=texts",
        "data.path=mails",
        f"text={text}",
        model,
        "engine.epochs=8",
        "output=o",
        "engine.device=cpu",
    ]
    assert main(words) == 0
    (run,) = here.glob("o/texts/*/*")
    errors = (run / "errors" / "fit-val.json").read_text()
    assert "win money" in errors and '"kind": "text"' in errors
    assert (run / "preparation" / "fit.json").is_file() and "0 = ham" in capsys.readouterr().out


def test_explain_and_show_cope_with_texts(here, capsys):
    assert main(["explain", "task=imdb_text", "source=sample"]) == 0
    assert "review" in capsys.readouterr().out
    assert main(["show", "task=imdb_text", "source=sample"]) == 2
    assert "no image input to show" in capsys.readouterr().err
