"""Strangers' files: what stands in them is read as it stands, or it is said how it was taken and what changes that."""

from __future__ import annotations

import bz2
import gzip
import json
import zipfile
from pathlib import Path

import made_up_pictures as made
import numpy as np
import pytest
from laboratory import node

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part

CASES = Path(__file__).parents[1] / "fixtures" / "cases"
QUICK = ("model=linear", "callback=none", "engine.epochs=1")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, caplog):
    """Runs a command in a folder of its own: the exit code, and all that was said."""
    monkeypatch.chdir(tmp_path)

    def runs(*words):
        caplog.clear()
        code = main([*words])
        said = capsys.readouterr()
        logged = (
            "" if "run folder: " in said.out else caplog.text
        )  # commands without a log say it on the terminal
        return code, " ".join((said.out + said.err + logged).split())

    return runs


@pytest.fixture
def train(run):
    """Trains a linear model for an epoch: the exit code, what was said, and the run's folder where there is one."""

    def trains(*words):
        code, said = run(*words, *QUICK)
        folders = sorted(
            Path("outputs").rglob("fields.json"), key=lambda path: path.stat().st_mtime_ns
        )
        return code, said, folders[-1].parent if folders else None

    return trains


def table(path, head, rows):
    Path(path).write_text("\n".join([head, *rows, ""]), encoding="utf-8")
    return f"data.path={path}"


def fields(folder):
    return json.loads((folder / "fields.json").read_text(encoding="utf-8"))


def classes_of(folder):
    (target,) = fields(folder)["targets"].values()
    return target["labels"]


def numbers_of(folder):
    return fields(folder)["inputs"]["features"]["labels"]


def kept(folder, split="val"):
    with np.load(folder / "predictions" / f"fit-{split}.npz") as arrays:
        return dict(arrays)


def test_row_08_classes_are_the_texts_that_stand_in_the_file(train):
    code, _, folder = train("task=csv", f"data.path={CASES / 'part.csv'}", "data.target=y")
    assert code == 0 and classes_of(folder) == ["01", "02", "X"]
    names = ["7", "007", "00501", "9007199254740992", "9007199254740993"]
    code, said, folder = train("task=csv", table("a.csv", "a,y", [f"{n},{names[n % 5]}" for n in range(60)]),
                               "data.target=y", "data.kind=category")  # fmt: skip
    assert code == 0 and sorted(classes_of(folder)) == sorted(names)
    assert "kept apart as they are written: 007 and 7;" in said
    code, said, folder = train(
        "task=csv", "data.path=a.csv", "data.target=y", "data.classes=numbers"
    )
    assert code == 0 and classes_of(folder) == ["7", "501", "9007199254740992", "9007199254740993"]


def test_row_08_folders_of_texts_are_classes_by_their_names(train):
    for name in ("01", "1"):
        for n in range(10):
            (Path("mails") / name).mkdir(parents=True, exist_ok=True)
            (Path("mails") / name / f"{n}.txt").write_text(f"word{n} other{name}")
    code, _, folder = train("task=texts", "data.path=mails")
    assert code == 0 and classes_of(folder) == ["01", "1"]


ROWS = [f"{n % 10 + 0.5},{n % 7},{n / 3:.2f}" for n in range(60)]
WRITTEN = {
    "comma": ("a;b;y", [row.replace(",", ";").replace(".", ",") for row in ROWS], "0,5 is 0.5"),
    "thousands": (
        "a,b,y",
        [f'"{n + 1},234",{n % 7},{n / 3:.2f}' for n in range(60)],
        "1,234 is 1234",
    ),
    "money": ("a,b,y", [f"${n},{n % 7},{n / 3:.2f}" for n in range(60)], "$0 is 0"),
    "percent": ("a,b,y", [f"{n % 9} %,{n % 7},{n / 3:.2f}" for n in range(60)], "0 % is 0"),
    "minus": (
        "a,b,y",
        [f"\u2212{n % 9 + 1},{n % 7},{n / 3:.2f}" for n in range(60)],
        "\u22121 is -1",
    ),
    "german": ("a;b;y", [f"{n % 9 + 1}.{n:03};0,{n % 7};{n}" for n in range(60)], "1.000 is 1000"),
    "blanks": (
        "a,b,y",
        [f"{n % 9 if n % 5 else 'unknown'},{n % 7},{n / 3:.2f}" for n in range(60)],
        "unknown: 12 rows",
    ),
}


@pytest.mark.parametrize("way", WRITTEN)
def test_row_09_numbers_written_otherwise_are_numbers_and_said(train, way):
    head, rows, says = WRITTEN[way]
    code, said, folder = train(
        "task=csv", table("t.csv", head, rows), "data.target=y", "data.kind=number"
    )
    assert code == 0 and says in said and numbers_of(folder) == ["a", "b"]


def test_row_09_rows_written_another_way_than_the_runs_are_told_which(train, run):
    head, rows, _ = WRITTEN["comma"]
    _, _, folder = train(
        "task=csv", table("t.csv", head, rows), "data.target=y", "data.kind=number"
    )
    table("new.csv", "a;b", ["0.5;1"])
    code, said = run("predict", str(folder), "new.csv")
    assert (
        code == 2 and "has '0.5', not a finite number with a decimal comma (data.numbers)" in said
    )


def test_row_09_what_could_be_numbers_is_told_with_the_setting_that_makes_it_so(train):
    rows = [f"{n % 9 if n % 5 else 'tbd'},{n % 7},{n / 3:.2f}" for n in range(60)]
    words = ("task=csv", table("t.csv", "a,b,y", rows), "data.target=y")
    code, said, folder = train(*words)
    assert code == 0 and "data.missing=[tbd]" in said and numbers_of(folder) == ["b"]
    code, _, folder = train(*words, "data.missing=[tbd]")
    assert code == 0 and numbers_of(folder) == ["a", "b"]


def test_row_10_one_rare_class_leaves_the_others_stratified(train):
    drawn = set()
    for seed in range(8):
        code, said, folder = train("task=csv", f"data.path={CASES / 'rare.csv'}", "data.target=y", f"seed={seed}",
                                   "protocol.validation=40", "data.test=0")  # fmt: skip
        assert code == 0 and "(C: 1) cannot be stratified; the other classes are stratified" in said
        counts = np.bincount(kept(folder)["target/y"].astype(int).ravel(), minlength=3)
        drawn.add(int(counts[1]))
        assert counts[2] == 0  # the only row of its class is trained on
    assert len(drawn) == 1


def test_row_10_a_class_that_cannot_be_stratified_is_named_where_that_is_refused(train):
    words = (
        "task=csv",
        f"data.path={CASES / 'rare.csv'}",
        "data.target=y",
        "protocol.by=stratified",
    )
    code, said, _ = train(*words)
    assert code == 2 and "(C: 1); protocol.by=auto stratifies the others" in said


def test_row_10_it_is_said_once_however_many_fits_there_are(train):
    words = ("task=csv", f"data.path={CASES / 'rare.csv'}", "data.target=y", "repeat=3")
    code, said, folder = train(*words)
    assert code == 0 and said.count("the other classes are stratified") == 1
    assert (folder / "log.txt").read_text().count("the other classes are stratified") == 1


def test_row_10_a_stratification_that_is_given_up_is_said(train):
    rows = [f"{n},{n // 2},{'abc'[n % 3]}" for n in range(60)]
    words = ("task=csv", table("t.csv", "a,owner,y", rows), "data.target=y")
    for more in (
        ("data.group=owner",),
        ("data.group=owner", "protocol=kfold"),
        ("protocol=few_rows",),
    ):
        assert "'y' is not stratified" in train(*words, *more)[1]
    rare = table("u.csv", "a,y", [f"{n},{'abc'[n % 3] if n else 'd'}" for n in range(60)])
    code, said, _ = train("task=csv", rare, "data.target=y", "protocol=kfold")
    assert code == 0 and said.count("the other classes are stratified") == 1


def test_row_11_a_test_file_with_a_new_class_is_told_before_training_and_scored(train):
    words = (
        "task=csv",
        table("t.csv", "a,y", [f"{n},{['no', 'yes'][n % 2]}" for n in range(40)]),
        "data.target=y",
    )
    table("test.csv", "a,y", ["1,yes", "2,perhaps", "3,no", "4,perhaps"])
    code, said, folder = train(*words, "data.test_path=test.csv", "test=true")
    assert code == 0 and said.index("2 rows (lines 3, 5) (perhaps)") < said.index("run folder")
    answers = kept(folder, "test")
    right = answers["output/y"].argmax(1) == answers["target/y"].ravel()
    assert len(right) == 4 and not right[[1, 3]].any()


def test_row_11_a_fault_of_a_test_file_is_found_before_training_and_spends_no_opening(train):
    words = (
        "task=csv",
        table("t.csv", "a,y", [f"{n},{['no', 'yes'][n % 2]}" for n in range(45)]),
        "data.target=y",
    )
    words = (*words, "data.test_path=test.csv", "test=true")
    for row in ("x,yes", "1,", "1e5,yes,3"):
        table("test.csv", "a,y", ["1,yes", row])
        code, said, folder = train(*words)
        assert code == 2 and "test.csv" in said and "line 3" in said
        assert "epoch" not in said and folder is None
    table("test.csv", "a,y", ["1,yes", "2,no"])
    assert train(*words)[0] == 0  # as the first opening: no reason is needed


def test_row_11_predict_answers_rows_of_a_class_that_training_has_not(train, run):
    words = (
        "task=csv",
        table("t.csv", "a,y", [f"{n},{['no', 'yes'][n % 2]}" for n in range(40)]),
        "data.target=y",
    )
    folder = train(*words)[2]
    table("new.csv", "a,y", ["1,yes", "2,perhaps"])
    code, said = run("predict", str(folder), "new.csv", "to=predictions.csv")
    assert code == 0 and "1 row (line 3)" in said and "'perhaps'" in said and "no score" in said
    assert len(Path("predictions.csv").read_text().splitlines()) == 3


def test_row_11_a_number_that_is_none_in_a_target_costs_the_score_not_the_answers(train, run):
    folder = train(
        "task=csv", table("t.csv", "a,y", [f"{n},{n / 3:.2f}" for n in range(40)]), "data.target=y"
    )[2]
    table("new.csv", "a,y", ["1,2", "2,soon"])
    code, said = run("predict", str(folder), "new.csv", "to=predictions.csv")
    assert code == 0 and "line 3" in said and "no score" in said
    assert len(Path("predictions.csv").read_text().splitlines()) == 3


def test_row_05_a_folder_validation_is_validated_on_and_its_new_classes_are_told(train):
    made.folder(Path("photos/train"), {"ant": 6, "bee": 6})
    made.folder(Path("photos/val"), {"bee": 3, "cow": 3})
    words = ("task=images", "data.path=photos", "data.size=[8,8]", "data.test=0")
    code, said, folder = train(*words)
    assert (
        code == 0
        and "no training row is of class cow" in said
        and "3 validation rows of it count as wrong" in said
    )
    assert kept(folder)["target/label"].ravel().tolist() == [1, 1, 1, 2, 2, 2]
    assert "validated on: the 6 rows of the folder validation" in said
    code, said, folder = train(*words, "protocol.by=stratified")
    assert code == 0 and len(kept(folder)["row"]) != 6 and "validated on" not in said
    code, said, folder = train(*words, "protocol=last_rows")
    assert code == 0 and "validated on" not in said
    assert "protocol.by=last mixes the 6 rows of the folder validation with the others" in said
    code, said, folder = train(*words, "protocol=kfold", "protocol.folds=2")
    assert code == 0 and "folds mix the 6 rows of the folder validation with the others" in said
    assert "validated on" not in said


def test_row_05_texts_too(train):
    for part, names in (("train", "ant bee"), ("valid", "bee cow"), ("test", "ant dog")):
        for name in names.split():
            (Path("mails") / part / name).mkdir(parents=True, exist_ok=True)
            for n in range(4):
                (Path("mails") / part / name / f"{n}.txt").write_text(f"a {name} of {n}")
    code, said, folder = train("task=texts", "data.path=mails", "test=true")
    assert code == 0 and "no training row is of class cow, dog" in said
    assert kept(folder)["target/label"].ravel().tolist() == [1] * 4 + [2] * 4
    assert sorted(kept(folder, "test")["target/label"].ravel().tolist()) == [0] * 4 + [3] * 4


def test_row_37_rows_without_a_target_are_left_out_where_that_is_asked_for(train):
    words = (
        "task=csv",
        table("t.csv", "a,y", [f"{n},{n / 3 if n % 9 else ''}" for n in range(60)]),
        "data.target=y",
    )
    code, said, _ = train(*words)
    assert code == 2 and "7 rows (lines 2, 11" in said and "data.missing_target=drop" in said
    code, said, folder = train(*words, "data.missing_target=drop")
    assert code == 0 and "left out, for the target is missing: 7 rows (lines 2, 11" in said
    assert json.loads((folder / "data.json").read_text())["rows"] == 42  # of 53, a fifth set aside


def test_row_23_lines_are_those_where_a_row_begins(train, run):
    Path("t.csv").write_text(
        'a,b,y\n"two\nlines",1,0\n"three\n\nlines",x,1\nfour,2,0\n' + "five,3,1\n" * 20
    )
    code, said, _ = train("task=csv", "data.path=t.csv", "data.target=b", "data.kind=number")
    assert code == 2 and "line 4: column 'b' has 'x'" in said


def test_row_23_every_row_has_an_answer_also_an_empty_one(train, run):
    rows = [f"word{n} {'good' if n % 2 else 'bad'},{n % 2}" for n in range(40)]
    folder = train("task=texts", table("t.csv", "body,y", rows), "data.text=body", "data.target=y")[
        2
    ]
    Path("new.csv").write_text('body\ngood\n""\nbad\n')
    code, _ = run("predict", str(folder), "new.csv", "to=predictions.csv")
    lines = Path("predictions.csv").read_text().splitlines()
    assert code == 0 and [line.partition(",")[0] for line in lines] == ["line", "2", "3", "4"]


def series_file(name, dates, values=None):
    values = values or [f"{n % 7 + 0.25}" for n in range(len(dates))]
    return table(
        name, "when,x", [f"{date},{value}" for date, value in zip(dates, values, strict=True)]
    )


def test_row_36_series_are_read_with_the_options_of_other_files(train):
    rows = "".join(f"{n};{n % 7 + 0.5};süß\n".replace(".", ",") for n in range(60))
    Path("s.csv").write_bytes(f"Tag;x;Größe\n{rows}".encode("latin-1"))
    words = ("task=series", "data.path=s.csv", "data.time=Tag", "data.target=x", "data.lookback=3")
    code, said, _ = train(*words)
    assert code == 2 and "data.encoding=latin-1" in said
    code, said, folder = train(*words, "data.encoding=latin-1")
    assert code == 0 and "0,5 is 0.5" in said
    Path("t.csv").write_text("".join(f"{n},{n % 7 if n % 11 else 'off'}\n" for n in range(60)))
    words = (
        "task=series",
        "data.path=t.csv",
        "data.header=[t,x]",
        "data.time=t",
        "data.target=x",
        "data.lookback=3",
    )
    code, said, _ = train(*words, "data.missing=[off]", "data.impute=forward", "data.inputs=[x]")
    assert code == 2 and "nothing comes before line 1" in said


ENCODINGS = (
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-32",
    "latin-1",
    "cp1252",
    "mac_roman",
)


@pytest.mark.parametrize("written", ENCODINGS)
def test_row_36_a_file_in_another_encoding_is_told_and_read(train, capsys, caplog, written):
    rows = "".join(f"{n},{n % 7}.5\n" for n in range(60))
    Path("s.csv").write_bytes(f"Tag,Größe\n{rows}".encode("latin-1"))
    words = (
        "task=series",
        "data.path=s.csv",
        "data.time=Tag",
        "data.target=Größe",
        "data.lookback=3",
    )
    code, _, folder = train(*words, "data.encoding=latin-1")
    assert code == 0
    Path("new.csv").write_bytes(f"Tag,Größe\n{rows}".encode(written))
    capsys.readouterr()
    assert main(["predict", str(folder), "new.csv", f"encoding={written}"]) == 0
    there = capsys.readouterr().out
    alike = written in ("latin-1", "cp1252")
    assert main(["predict", str(folder), "new.csv"]) == (0 if alike else 2)
    seen = capsys.readouterr()
    assert "\0" not in seen.err and (
        "Größe" in seen.out or "Größe" in seen.err or "data.encoding=utf" in seen.err
    )
    assert (seen.out.split() == there.split()) == alike
    if written == "utf-8":
        assert "reads as UTF-8" in caplog.text
    elif written.startswith("utf"):
        assert f"data.encoding={written.removesuffix('-sig')}" in seen.err


def packed(name, content):
    with zipfile.ZipFile(name, "w") as archive:
        for inner, text in content.items():
            archive.writestr(inner, text)


FORMATS = {
    "t.parquet": (b"PAR1\x15\x04\x15\x00" + bytes(40) + b"PAR1", "a Parquet file", "read_parquet"),
    "t.feather": (b"ARROW1\0\0\xff\xff\xff\xff" + bytes(40), "Feather", "read_feather"),
    "t.csv.gz": (gzip.compress(b"a,y\n1,2\n"), "packed by gzip", "t.csv'"),
    "t.csv": (gzip.compress(b"a,y\n1,2\n"), "packed by gzip", "t.csv.csv'"),
    "t.bz2": (bz2.compress(b"a,y\n1,2\n"), "packed by bzip2", "bunzip2"),
    "t.sqlite": (b"SQLite format 3\0" + bytes(range(100)), "an SQLite database", "select"),
    "t.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(40), "old Office file", "CSV"),
    "t.pkl": (b"\x80\x04\x95" + bytes(40), "a Python pickle", "read_pickle"),
    "t.orc": (b"no magic\0\x01\x02\x03" * 9, "an ORC file", "read_orc"),
    "t.bin": (bytes(range(256)) * 4, "binary data", "CSV or text file"),
    "t.zip": ({"a.csv": "a,y\n1,2\n", "b.csv": ""}, "one CSV file", "holds 2"),
    "t.xlsx": ({"xl/workbook.xml": "", "[Content_Types].xml": ""}, "an Excel workbook", "CSV file"),
    "u.csv": ({"readme.txt": "no table"}, "a zip archive", "unzip"),
}


@pytest.mark.parametrize("task", ["csv", "texts", "series"])
def test_row_35_files_that_are_no_text_are_named_with_what_to_do(train, task):
    words = {
        "csv": ("data.target=y",),
        "texts": ("data.text=a", "data.target=y"),
        "series": ("data.time=a", "data.target=y", "data.lookback=3"),
    }
    for name, (content, what, how) in list(FORMATS.items())[:: 1 if task == "csv" else 3]:
        if task != "csv" and (isinstance(content, dict) or name.startswith("t.csv")):
            continue  # one reader for all; and archives are folders where texts are read
        packed(name, content) if isinstance(content, dict) else Path(name).write_bytes(content)
        code, said, _ = train(f"task={task}", f"data.path={name}", *words[task])
        assert code == 2 and what in said and how in said and "latin-1" not in said, name


def test_row_35_a_text_may_begin_like_another_format_and_a_zip_may_hold_a_table(train):
    code, _, folder = train(
        "task=csv",
        table("t.csv", "ORC,y", [f"{n % 9},{n / 3:.2f}" for n in range(40)]),
        "data.target=y",
    )
    assert code == 0 and numbers_of(folder) == ["ORC"]
    packed("t.zip", {"t.csv": Path("t.csv").read_text()})
    assert train("task=csv", "data.path=t.zip", "data.target=y")[0] == 0


def test_row_22_a_number_too_large_for_float32_is_told_and_kills_no_column(train, run):
    rows = [f"{n % 9 if n != 7 else '1e200'},{n / 3:.2f}" for n in range(60)]
    code, said, folder = train("task=csv", table("t.csv", "a,y", rows), "data.target=y")
    assert (
        code == 0
        and "'a' is beyond what float32 holds (3.4e+38) in 1 row (line 9) (1e+200)" in said
    )
    assert said.count("beyond what float32 holds") == 1
    learned = json.loads((folder / "preparation" / "fit.json").read_text())["features"]
    assert all(
        np.isfinite(step.get("scale", [1])).all() and max(step.get("scale", [1])) < 9
        for step in learned
    )
    table("new.csv", "a", ["1", "1e39"])
    code, said = run("predict", str(folder), "new.csv", "to=predictions.csv")
    assert code == 0 and "in 1 row (line 3) (1e+39)" in said
    assert np.isfinite(
        [float(line.split(",")[1]) for line in Path("predictions.csv").read_text().splitlines()[1:]]
    ).all()
    code, said, _ = train("task=csv", table("u.csv", "a,y", [f"{n % 9},{n if n != 7 else '1e200'}" for n in range(60)]),
                          "data.target=y")  # fmt: skip
    assert code == 2 and "'y' is not within" in said and "line 9" in said
    values = ["1e200" if n == 7 else "1" for n in range(60)]
    code, said, _ = train("task=series", series_file("s.csv", range(60), values),
                          "data.time=when", "data.target=x", "data.lookback=3")  # fmt: skip
    assert code == 2 and "beyond what float32 holds" in said and "line 9" in said


def test_row_11_what_rows_bring_that_training_rows_have_not_is_counted(train, run):
    rows = [f"{n % 9},{'pq'[n % 2]},{n / 3:.2f}" for n in range(60)]
    folder = train("task=csv", table("t.csv", "a,kind,y", rows), "data.target=y")[2]
    table("new.csv", "a,kind", ["1,p", ",q", "900,r", "2,"])
    code, said = run("predict", str(folder), "new.csv", "to=predictions.csv")
    assert code == 0 and len(Path("predictions.csv").read_text().splitlines()) == 5
    for told in (
        "a is missing (1 row)",
        "a is far beyond 0 to 8 (1 row)",
        "kind is r (1 row)",
        "kind is missing",
    ):
        assert told in said


SLASHED = {
    "day_first": [f"{n % 28 + 1:02}/{n // 28 + 1:02}/2024" for n in range(84)],
    "month_first": [f"{n // 28 + 1}/{n % 28 + 1}/2024" for n in range(84)],
}


def foretold(run, folder, name):
    code, said = run("predict", str(folder), name, "to=next.csv")
    assert code == 0, said
    return Path("next.csv").read_text().splitlines()[1].split(",")[2]


def test_row_13_dates_of_a_series_that_can_be_read_in_two_ways_are_refused(train, run):
    words = (
        "task=series",
        "data.time=when",
        "data.target=x",
        "data.lookback=3",
        "data.test=0",
        "data.gaps=ignore",
    )
    some = [f"{day:02}/{month:02}/2024" for month in (1, 2, 3) for day in range(1, 13)]
    code, said, _ = train(*words, series_file("s.csv", some))
    assert code == 2 and "can be read in two ways" in said and "'02/01/2024' in line 3" in said
    assert "data.dates=day_first" in said
    code, _, folder = train(*words, series_file("s.csv", some), "data.dates=day_first")
    assert code == 0 and foretold(run, folder, "s.csv").startswith("2024-03-13")


@pytest.mark.parametrize("order", SLASHED)
def test_row_13_one_day_above_12_decides_for_the_whole_column_and_is_said(train, run, order):
    code, said, folder = train("task=series", "data.time=when", "data.target=x", "data.lookback=3", "data.test=0",
                               series_file("s.csv", SLASHED[order]), "data.gaps=ignore")  # fmt: skip
    first = {"day_first": "day, month, year", "month_first": "month, day, year"}[order]
    assert code == 0 and f"the dates of 'when' are {first}, by line 14" in said
    series_file("new.csv", SLASHED[order][28:33])  # by themselves they could be either
    assert foretold(run, folder, "new.csv").startswith("2024-02-06")


def test_row_13_dates_that_order_a_table_or_make_features(train):
    rows = [f"{n % 12 + 1:02}/{n // 12 + 1:02}/2024,{n % 9},{n / 3:.2f}" for n in range(60)]
    words = ("task=csv", table("t.csv", "when,a,y", rows), "data.target=y", "protocol=walk_forward")
    code, said, _ = train(*words, "data.order=when")
    assert code == 2 and "data.dates=month_first" in said
    code, said, _ = train(
        "task=csv", words[1], "data.target=y", "data.features={day: {weekday: when}}"
    )
    assert code == 2 and "data.dates=month_first" in said
    code, _, folder = train(*words, "data.order=when", "data.dates=day_first")
    assert code == 0
    mixed = table("u.csv", "when,a,y", [*rows, "31/01/2024,1,1", "01/31/2024,1,1"])
    code, said, _ = train(
        "task=csv", mixed, "data.target=y", "data.order=when", "protocol=walk_forward"
    )
    assert code == 2 and "the day first in line 62 (31/01/2024), and the month in line 63" in said


def test_row_34_a_column_of_nearly_unique_texts_is_left_out_and_said(train):
    rows = [f"{n % 9},street {n if n > 5 else 0},{n / 3:.2f}" for n in range(60)]
    words = ("task=csv", table("t.csv", "a,address,y", rows), "data.target=y")
    code, said, folder = train(*words)
    assert (
        code == 0
        and "'address' is left out: 55 of its 60 texts differ" in said
        and "data.texts=[address]" in said
    )
    assert list(fields(folder)["inputs"]) == ["features"]
    code, _, folder = train(*words, "data.unique=1")
    assert code == 0 and "address" in fields(folder)["inputs"]


def test_row_13_a_column_of_dates_among_the_inputs_is_told(train):
    rows = [f"{n % 9},2024-01-{n % 5 + 1:02},{n / 3:.2f}" for n in range(60)]
    code, said, _ = train("task=csv", table("t.csv", "a,when,y", rows), "data.target=y")
    assert code == 0 and "'when' holds dates, and is taken as categories; data.order=when" in said


def test_row_34_categories_are_bounded_and_the_frequent_ones_are_kept(train):
    rows = [f"{n % 9},{'often' if n % 2 else f'level {n // 4}'},{n / 3:.2f}" for n in range(80)]
    code, said, folder = train(
        "task=csv", table("t.csv", "a,kind,y", rows), "data.target=y", "data.levels=5"
    )
    kind = fields(folder)["inputs"]["kind"]
    assert (
        code == 0
        and "'kind' has 21 different texts" in said
        and len(kind["labels"]) == 7
        and "often" in kind["labels"]
    )


@pytest.mark.parametrize("impute", ["forward", "interpolate"])
def test_law_nothing_in_a_window_depends_on_a_later_value(tmp_path, impute):
    """Whatever fills gaps: change all rows after a window's last one, and the window stays as it is."""
    values = np.where(np.arange(60) % 7 > 4, np.nan, np.arange(60.0) ** 1.5)
    drawn = lambda last: np.where(np.arange(60) > last, 1000.0 + np.arange(60), values)  # noqa: E731
    whole = windows_of(tmp_path, values, impute)
    for last, window in whole.items():
        assert np.array_equal(windows_of(tmp_path, drawn(last), impute)[last], window)
    assert len(whole) > 20


def windows_of(place, values, impute):
    """Last row of a window → the window, as a data part makes it."""
    rows = [f"{row},{'' if np.isnan(value) else value},{row}" for row, value in enumerate(values)]
    table(place / "s.csv", "t,x,y", rows)
    found = build_part(node("data", "series", path=str(place / "s.csv"), time="t", target="y", lookback=4, inputs=["x"],
                       test=0, impute=impute)).dev["series"]  # fmt: skip
    return {int(first) + 3: found.values[first : first + 4].copy() for first in found.first}


NAMES = [
    "p/q",
    "..",
    "A",
    "a",
    "con",
    "NUL.txt",
    "x.y",
    "a b",
    "-",
    "\\",
    "ü" * 100,
    "t" * 300,
    "t" * 301,
    "Ä",
    "ä",
]


def test_law_no_name_from_data_becomes_a_path(tmp_path):
    """One function makes file names: short, in one folder, different whatever a file system makes of large letters."""
    from dlrun.core.files import is_safe_name, make_file_names

    found = make_file_names([*NAMES, "nul\0x", "a/../b", ".hidden", "trailing.", "\udcff"])
    assert len({name.casefold() for name in found.values()}) == len(found)
    for name in found.values():
        assert (
            is_safe_name(name)
            and len(name.encode()) < 80
            and not name.startswith(".")
            and not name.endswith(".")
        )
        assert name.partition(".")[0].casefold() not in {"con", "nul"}
        (tmp_path / name).write_text("there")
    assert found["A"] == "A" and found["x.y"] == "x.y"  # what may stand as it is does


def test_row_07_targets_of_any_name_go_through_a_run_its_report_and_predict(run):
    names = ["p/q", "..", "A", "a", "con", "t" * 300]
    head = ",".join(["x", *names])
    rows = [
        ",".join([str(n % 9), *(f"{n % 9 + place + n / 50}" for place in range(len(names)))])
        for n in range(30)
    ]
    asked = ",".join(f'"{name}"' for name in names)
    code, said = run(
        "task=csv",
        table("t.csv", head, rows),
        f"data.target=[{asked}]",
        "engine.epochs=1",
        "model=linear",
    )
    assert code == 0 and "Traceback" not in said
    (folder,) = (path.parent for path in Path("outputs").rglob("fields.json"))
    assert len(list(folder.glob("residuals-*.png"))) == len(names)
    assert run("report", str(folder))[0] == 0 and run("predict", str(folder), "t.csv")[0] == 0


def test_row_07_the_same_for_a_workflow_and_a_sweep(run):
    words = (
        "task=csv",
        f"data.path={CASES / 'slash.csv'}",
        "data.target=p/q",
        "engine.epochs=1",
        "model=linear",
    )
    assert run("-m", *words, "optimizer.lr=0.1,0.01", "callback=none")[0] == 0
    assert run("workflow", *words, "workflow=quick", "workflow.budget=1")[0] == 0


TWENTY = [f"{n},{n % 2}" for n in range(20)]
ASKED = {
    "csv": ("data.target=y",),
    "series": ("data.time=a", "data.target=y", "data.lookback=2"),
    "texts": ("data.text=a", "data.target=y"),
}
EDGES = {  # task, file, further words → what is said, or None where it trains
    "empty": ("csv", "", (), "t.csv is empty"),
    "blank": ("csv", "\n\n", (), "t.csv is empty"),
    "a mark alone": ("csv", "\ufeff", (), "t.csv is empty"),
    "header only": ("csv", "a,y\n", (), "has a header but no rows"),
    "no line end": ("csv", "a,y", (), "has a header but no rows"),
    "one row": ("csv", "a,y\n1,2\n", (), "in the only row: there is nothing to learn"),
    "two rows": ("csv", "a,y\n1,2\n3,4\n", (), "sets no row aside"),
    "two rows for all": ("csv", "a,y\n1,2\n3,4\n", ("data.test=0",), "holds out 0 of 2 rows"),
    "one and one": ("csv", "a,y\n1,2\n3,4\n", ("data.test=0", "data.kind=number", "protocol.validation=1"), None),
    "one fold each": ("csv", "a,y\n1,2\n3,4\n",
                      ("data.test=0", "data.kind=number", "protocol=kfold", "protocol.folds=2"), None),
    "one class": ("csv", "a,y\n1,x\n2,x\n", (), "'x' in all 2 rows"),
    "one class till now": ("csv", "a,t,y\n" + "".join(f"{n},{n},{n > 17}\n" for n in range(20)), ("data.order=t",),
                           "one class only, 'False', in the development rows"),
    "one column": ("csv", "y\n1\n2\n3\n", (), "no input column left"),
    "one owner": ("csv", "a,g,y\n" + "".join(f"{n},me,{n % 2}\n" for n in range(20)), ("data.group=g",),
                  "all rows have the same owner, 'me'"),
    "one known number": ("csv", "a,b,y\n3,3,1\n" + "".join(f",{n},{n % 2}\n" for n in range(19)), (), None),
    "one label": ("csv", "\n".join(["a,y", *TWENTY]), ("data.kind=multilabel",), "needs several columns"),
    "no target at all": ("csv", "a,y\n1,\n2,\n", ("data.missing_target=drop",), "all 2 rows miss the target"),
    "one test row": ("csv", "\n".join(["a,y", *TWENTY]), ("data.test_path=one.csv", "test=true"), None),
    "an empty series": ("series", "", (), "t.csv is empty"),
    "a series of a header": ("series", "a,y\n", (), "has a header but no rows"),
    "a series of one row": ("series", "a,y\n1,1\n", (), "a window needs 3"),
    "one value to foretell": ("series", "a,y\n" + "".join(f"{n},{'' if n else 1}\n" for n in range(40)),
                              ("data.impute=forward",), "the value to foretell is missing for every window"),
    "no text": ("texts", "", (), "t.csv is empty"),
    "one word": ("texts", "a,y\n" + "".join(f"word,{n % 2}\n" for n in range(20)), (), None),
    "empty texts": ("texts", 'a,y\n"",1\n"",0\n', ("data.empty=skip",), "all 2 texts are empty"),
}  # fmt: skip


@pytest.mark.parametrize("edge", EDGES)
def test_law_the_edge_of_one_works_or_is_said(train, edge):
    task, text, words, says = EDGES[edge]
    Path("t.csv").write_text(text, encoding="utf-8")
    table("one.csv", "a,y", ["1,1"])
    code, said, _ = train(f"task={task}", "data.path=t.csv", *ASKED[task], *words)
    assert code == (2 if says else 0) and (says or "") in said and "Traceback" not in said
