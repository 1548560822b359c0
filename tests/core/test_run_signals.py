"""What a result signals stands in fields; of runs from before 0.1.1 they come from the note."""

import json

import pytest

from dlrun.core import run_reader
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import FitJob, Result, result_to_dict
from dlrun.launch.run_config import compare_with_reference

NOTES = {
    "3 rows left out; SYNTHETIC sample, not the real mnist": (
        "SYNTHETIC sample, not the real mnist",
        "",
        0,
    ),
    "x.csv: not the book's file, 9 rows; T in °C": ("", "x.csv: not the book's file, 9 rows", 0),
    "overfit check FAILED: the loss is 2": ("", "", 1),
    "T in °C": ("", "", 0),
}


def write_result(folder, result, *without):
    line = {key: value for key, value in result_to_dict(result).items() if key not in without}
    RunFolder(folder).path(RunFile.RESULTS).write_text(json.dumps(line) + "\n")


@pytest.mark.parametrize(("note", "signals"), NOTES.items())
def test_the_note_of_an_earlier_version_becomes_fields(tmp_path, note, signals):
    fields = ("synthetic", "book_difference", "exit_code")
    write_result(tmp_path, Result(FitJob(), "val", {}, note=note), *fields)
    (result,) = RunFolder(tmp_path).read_results()
    (line,) = run_reader.read_results(tmp_path)
    assert (result.synthetic, result.book_difference, result.exit_code) == signals
    assert tuple(line[name] for name in fields) == signals


def test_words_of_a_note_signal_nothing_where_there_are_fields(tmp_path):
    result = Result(FitJob(), "val", {}, note="SYNTHETIC_2 is not the book's; it FAILED")
    write_result(tmp_path, result)
    assert RunFolder(tmp_path).read_results() == [result]
    assert run_reader.get_data_warning(run_reader.read_results(tmp_path)) == ""


@pytest.mark.parametrize("recorded", [{}, {"synthetic": "SYNTHETIC rows"}])
def test_data_of_an_earlier_version_are_synthetic_by_their_note(tmp_path, recorded):
    data = {"fingerprint": "a", "rows": 1, "note": "SYNTHETIC rows"} | recorded
    RunFolder(tmp_path).write_json(RunFile.DATA, data)
    assert RunFolder(tmp_path).read_data()["synthetic"] == "SYNTHETIC rows"


def test_scores_on_other_data_are_not_compared_with_the_book():
    book = {"section": "4.1", "measure": "val/loss", "figure": 1, "low": 0, "high": 1}
    for field in ("synthetic", "book_difference"):
        result = Result(FitJob(), "val", {}, **{field: "other rows"})
        (text,) = compare_with_reference({"book": book}, [result])
        assert "nothing here to compare" in text
