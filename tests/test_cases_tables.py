"""Strangers' files: what stands in them is read as it stands, or it is said how it was taken and what changes that."""

from __future__ import annotations

import json
from pathlib import Path

import made_up_pictures as made
import numpy as np
import pytest

from dlrun.cli import main

CASES = Path(__file__).parent / "fixtures" / "cases"
QUICK = ("model=linear", "callback=none", "engine.epochs=1")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, caplog):
    """Runs a command in a folder of its own: the exit code, and all that was said."""
    monkeypatch.chdir(tmp_path)

    def runs(*words):
        caplog.clear()
        code = main([*words])
        said = capsys.readouterr()
        logged = "" if "run folder: " in said.out else caplog.text  # commands without a log say it on the terminal
        return code, " ".join((said.out + said.err + logged).split())

    return runs


@pytest.fixture
def train(run):
    """Trains a linear model for an epoch: the exit code, what was said, and the run's folder where there is one."""

    def trains(*words):
        code, said = run(*words, *QUICK)
        folders = sorted(Path("outputs").rglob("fields.json"), key=lambda path: path.stat().st_mtime_ns)
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
    assert "kept apart as they are written: 007 and 7" in said


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
    "thousands": ("a,b,y", [f'"{n + 1},234",{n % 7},{n / 3:.2f}' for n in range(60)], "1,234 is 1234"),
    "money": ("a,b,y", [f"${n},{n % 7},{n / 3:.2f}" for n in range(60)], "$0 is 0"),
    "percent": ("a,b,y", [f"{n % 9} %,{n % 7},{n / 3:.2f}" for n in range(60)], "0 % is 0"),
    "minus": ("a,b,y", [f"\u2212{n % 9 + 1},{n % 7},{n / 3:.2f}" for n in range(60)], "\u22121 is -1"),
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
    code, said, folder = train("task=csv", table("t.csv", head, rows), "data.target=y", "data.kind=number")
    assert code == 0 and says in said and numbers_of(folder) == ["a", "b"]


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


def test_row_10_a_stratification_that_is_given_up_is_said(train):
    rows = [f"{n},{n // 2},{'abc'[n % 3]}" for n in range(60)]
    words = ("task=csv", table("t.csv", "a,owner,y", rows), "data.target=y")
    for more in (("data.group=owner",), ("data.group=owner", "protocol=kfold"), ("protocol=few_rows",)):
        assert "'y' is not stratified" in train(*words, *more)[1]
    rare = table("u.csv", "a,y", [f"{n},{'abc'[n % 3] if n else 'd'}" for n in range(60)])
    code, said, _ = train("task=csv", rare, "data.target=y", "protocol=kfold")
    assert code == 0 and said.count("the other classes are stratified") == 1


def test_row_11_a_test_file_with_a_new_class_is_told_before_training_and_scored(train):
    words = ("task=csv", table("t.csv", "a,y", [f"{n},{['no', 'yes'][n % 2]}" for n in range(40)]), "data.target=y")
    table("test.csv", "a,y", ["1,yes", "2,perhaps", "3,no", "4,perhaps"])
    code, said, folder = train(*words, "data.test_path=test.csv", "test=true")
    assert code == 0 and said.index("2 rows (lines 3, 5) (perhaps)") < said.index("run folder")
    answers = kept(folder, "test")
    right = answers["output/y"].argmax(1) == answers["target/y"].ravel()
    assert len(right) == 4 and not right[[1, 3]].any()


def test_row_11_a_fault_of_a_test_file_is_found_before_training_and_spends_no_opening(train):
    words = ("task=csv", table("t.csv", "a,y", [f"{n},{['no', 'yes'][n % 2]}" for n in range(45)]), "data.target=y")
    words = (*words, "data.test_path=test.csv", "test=true")
    for row in ("x,yes", "1,", "1e5,yes,3"):
        table("test.csv", "a,y", ["1,yes", row])
        code, said, folder = train(*words)
        assert code == 2 and "test.csv" in said and "line 3" in said
        assert "epoch" not in said and folder is None
    table("test.csv", "a,y", ["1,yes", "2,no"])
    assert train(*words)[0] == 0  # as the first opening: no reason is needed


def test_row_11_predict_answers_rows_of_a_class_that_training_has_not(train, run):
    words = ("task=csv", table("t.csv", "a,y", [f"{n},{['no', 'yes'][n % 2]}" for n in range(40)]), "data.target=y")
    folder = train(*words)[2]
    table("new.csv", "a,y", ["1,yes", "2,perhaps"])
    code, said = run("predict", str(folder), "new.csv", "to=answers.csv")
    assert code == 0 and "1 row (line 3)" in said and "'perhaps'" in said and "no score" in said
    assert len(Path("answers.csv").read_text().splitlines()) == 3


def test_row_11_a_number_that_is_none_in_a_target_costs_the_score_not_the_answers(train, run):
    folder = train("task=csv", table("t.csv", "a,y", [f"{n},{n / 3:.2f}" for n in range(40)]), "data.target=y")[2]
    table("new.csv", "a,y", ["1,2", "2,soon"])
    code, said = run("predict", str(folder), "new.csv", "to=answers.csv")
    assert code == 0 and "line 3" in said and "no score" in said
    assert len(Path("answers.csv").read_text().splitlines()) == 3


def test_row_05_a_folder_validation_is_validated_on_and_its_new_classes_are_told(train):
    made.folder(Path("photos/train"), {"ant": 6, "bee": 6})
    made.folder(Path("photos/val"), {"bee": 3, "cow": 3})
    words = ("task=images", "data.path=photos", "data.size=[8,8]", "data.test=0")
    code, said, folder = train(*words)
    assert code == 0 and "no training row is of class cow" in said and "3 validation rows of it count as wrong" in said
    assert kept(folder)["target/label"].ravel().tolist() == [1, 1, 1, 2, 2, 2]
    code, said, folder = train(*words, "protocol.by=stratified")
    assert code == 0 and len(kept(folder)["row"]) != 6


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
    words = ("task=csv", table("t.csv", "a,y", [f"{n},{n / 3 if n % 9 else ''}" for n in range(60)]), "data.target=y")
    code, said, _ = train(*words)
    assert code == 2 and "7 rows (lines 2, 11" in said and "data.missing_target=drop" in said
    code, said, folder = train(*words, "data.missing_target=drop")
    assert code == 0 and "left out, for the target is missing: 7 rows (lines 2, 11" in said
    assert json.loads((folder / "data.json").read_text())["rows"] == 42  # of 53, a fifth set aside


def test_row_23_lines_are_those_where_a_row_begins(train, run):
    Path("t.csv").write_text('a,b,y\n"two\nlines",1,0\n"three\n\nlines",x,1\nfour,2,0\n' + "five,3,1\n" * 20)
    code, said, _ = train("task=csv", "data.path=t.csv", "data.target=b", "data.kind=number")
    assert code == 2 and "line 4: column 'b' has 'x'" in said


def test_row_23_every_row_has_an_answer_also_an_empty_one(train, run):
    rows = [f"word{n} {'good' if n % 2 else 'bad'},{n % 2}" for n in range(40)]
    folder = train("task=texts", table("t.csv", "body,y", rows), "data.text=body", "data.target=y")[2]
    Path("new.csv").write_text('body\ngood\n""\nbad\n')
    code, _ = run("predict", str(folder), "new.csv", "to=answers.csv")
    lines = Path("answers.csv").read_text().splitlines()
    assert code == 0 and [line.partition(",")[0] for line in lines] == ["line", "2", "3", "4"]
