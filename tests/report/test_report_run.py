"""A finished run folder becomes images, a table and one HTML file."""

import json

import numpy as np
import pytest
from made_up import classes_run, folds_run, history, result, run_folder, write_lines
from rich.console import Console

from dlrun.core import formatting, run_reader, stored_files
from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFolder
from dlrun.report import learning_curves, plotting
from dlrun.report.build import write_report
from dlrun.report.result_tables import load_result_tables, make_score_tables


def shown(tables, width=110):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables:
        console.print(table)
    return console.export_text(clear=False), console.export_html()


def test_a_half_written_last_line_is_left_out_and_one_in_the_middle_is_refused(tmp_path):
    file, row = (
        tmp_path / "history.jsonl",
        '{"job": "fit", "epoch": 1, "split": "val", "values": {}}',
    )
    file.write_text(row + '\n{"job": "fi')
    assert [line["job"] for line in stored_files.load_json_lines(file)] == ["fit"]
    file.write_text('{"job": "fi\n' + row + "\n")
    with pytest.raises(UserError, match="line 1 is no JSON"):
        stored_files.load_json_lines(file)


def test_an_epoch_that_was_trained_anew_counts_once(tmp_path):
    rows = [
        {"job": "fit", "epoch": 1, "split": "val", "values": {"loss": value}}
        for value in (2.0, 1.0)
    ]
    write_lines(tmp_path / "history.jsonl", rows)
    assert [row["values"]["loss"] for row in run_reader.read_history(tmp_path)] == [1.0]


def test_write_makes_every_file_and_says_so(tmp_path):
    files = write_report(classes_run(tmp_path / "run", note="SYNTHETIC: made up"))
    assert [file.name for file in files] == [
        "learning-curves.png",
        "confusion-digit-fit-val.png",
        "report.md",
        "report.html",
    ]
    assert all(file.stat().st_size > 5000 for file in files if file.suffix != ".md")
    assert files[0].read_bytes()[:4] == b"\x89PNG"


def test_the_page_is_whole_in_itself_and_escapes_what_it_shows(tmp_path):
    page = write_report(classes_run(tmp_path / "run", note="SYNTHETIC: made up"))[-1].read_text()
    assert page.count("data:image/png;base64,") == 2 and 'src="http' not in page
    for text in (
        "Which digit is it? &lt;0-9&gt;",
        "SYNTHETIC: made up",
        "0.8890 [0.8690, 0.9080]",
        "3.11.7",
    ):
        assert text in page
    assert "dlrun task=mnist optimizer.lr=0.001" in page and "<th>optimizer.lr</th>" in page


def test_folds_share_one_picture_and_one_table_with_mean_and_deviation(tmp_path):
    folder = folds_run(tmp_path / "run")
    assert [file.name for file in write_report(folder)][1] == "residuals-price-folds-val.png"
    (summary,) = make_score_tables(run_reader.read_results(folder), RunFolder(folder).read_config())
    row = dict(zip(summary.columns, summary.rows[1], strict=True))
    assert row["measure"] == "mae" and row["val (mean ± sd)"] == "2.5500 ± 0.1291"
    assert [row[f"fold-{fold}"] for fold in (1, 2, 3, 4)] == [
        "2.4000",
        "2.5000",
        "2.6000",
        "2.7000",
    ]
    arrays = plotting.load_by_family(folder)["folds", "val"]
    assert arrays["target/price"].shape == (400, 1)


def test_the_table_fits_a_terminal_for_many_folds(tmp_path):
    text, _ = shown(load_result_tables(folds_run(tmp_path / "run", folds=12)), width=80)
    assert "each of 12" in text and "3.5000" in text and max(map(len, text.splitlines())) <= 80


def test_the_table_shows_interval_baseline_checkpoint_and_a_red_note(tmp_path):
    text, page = shown(load_result_tables(classes_run(tmp_path / "run", note="SYNTHETIC: made up")))
    for piece in (
        "0.8890 [0.8690, 0.9080]",
        "0.5100 [0.4900, 0.5300]",
        "best (epoch 7)",
        "SYNTHETIC: made up",
    ):
        assert piece in text
    assert "color: #800000" in page
    assert (
        "color: #800000"
        not in shown(load_result_tables(classes_run(tmp_path / "verdict", note="better by .1")))[1]
    )
    assert "SYNTHETIC" not in shown(load_result_tables(classes_run(tmp_path / "other")))[0]


def test_val_and_test_have_a_table_each(tmp_path):
    folder = classes_run(tmp_path / "run")
    write_lines(folder / "results.jsonl", [result("fit"), result("fit", split="test", value=0.7)])
    assert [
        summary.title
        for summary in make_score_tables(
            run_reader.read_results(folder), RunFolder(folder).read_config()
        )
    ] == [
        "mnist · dense: fit, val",
        "mnist · dense: fit, test",
    ]


def test_the_matrix_counts_what_was_answered():
    output = np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1]])
    assert plotting.count_confusion(np.array([0, 1, 2]), output, "category").tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 0],
    ]
    truth, probability = np.array([[0.0], [1.0], [1.0]]), np.array([[0.2], [0.4], [0.9]])
    assert plotting.count_confusion(truth, probability, "binary").tolist() == [
        [1, 0],
        [1, 1],
    ]


def test_the_mean_curve_goes_as_far_as_every_fold_and_best_knows_the_direction():
    assert learning_curves.compute_mean_curve([{1: 1.0, 2: 3.0}, {1: 3.0}]) == {1: 2.0}
    curve = {1: 0.3, 2: float("nan"), 3: 0.9}
    assert (
        learning_curves.find_curve_best(curve, "min") == 1
        and learning_curves.find_curve_best(curve, "max") == 3
    )
    assert learning_curves.find_curve_best({1: float("nan")}, "min") is None


@pytest.mark.parametrize("name", ["loss", "loss_generator", "val/mae", "price_rmse", "mse"])
def test_less_is_better_for_losses_and_errors(name):
    assert (
        formatting.get_direction(name, {}) == "min"
        and formatting.get_direction(name, {name: "max"}) == "max"
    )


@pytest.mark.parametrize("name", ["accuracy", "r2", "roc_auc", "top_k", "maestro"])
def test_more_is_better_for_the_rest(name):
    assert (
        formatting.get_direction(name, {}) == "max"
        and formatting.get_direction(name, {name: "min"}) == "min"
    )


def test_numbers_are_short_and_lose_nothing_that_matters():
    numbers = {
        0.88914: "0.8891",
        12.3456: "12.346",
        45678.912: "45679",
        0.0000521: "5.21e-05",
        0: "0.0000",
    }
    assert {value: formatting.format_number(value) for value in numbers} == numbers
    assert (
        formatting.format_number(float("nan")) == "undefined"
        and formatting.format_number(None) == ""
    )


def test_a_run_with_neither_validation_nor_predictions_still_has_a_report(tmp_path):
    folder = run_folder(tmp_path / "run")
    rows = [row for row in history(["octave-1", "octave-2"], epochs=1) if row["split"] == "train"]
    write_lines(folder / "history.jsonl", rows)
    assert [file.name for file in write_report(folder)] == [
        "learning-curves.png",
        "report.md",
        "report.html",
    ]


def test_scores_that_are_no_numbers_do_not_stop_the_report(tmp_path):
    folder = classes_run(tmp_path / "run")
    lines = [result("fit")]
    lines[0]["scores"]["accuracy"] = {"value": float("nan"), "low": None, "high": None, "n": 0}
    lines[0]["scores"]["f1"] = {"value": None}
    (folder / "results.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert "nan" in write_report(folder)[-1].read_text()


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no config.yaml"):
        write_report(tmp_path)
