"""A sweep's folder becomes one table, the best job first."""

import csv

import pytest
from made_up import classes_run, folds_run, result, write_lines
from rich.console import Console

from dlrun.core.errors import UserError
from dlrun.report.sweep_table import write_sweep_table


def sweep(folder, entries):
    jobs = []
    for job, (words, value, error) in enumerate(entries):
        name = f"{job:03}"
        if error:
            (folder / name).mkdir(parents=True)
        else:
            run = classes_run(folder / name)
            line = result("fit", value=value)
            line["scores"] = {"accuracy": line["scores"]["accuracy"]}
            write_lines(run / "results.jsonl", [line])
        status = "failed" if error else "done"
        jobs.append({"job": job, "words": words, "status": status, "error": error, "folder": name})
    write_lines(folder / "sweep.jsonl", jobs)
    return folder


def rows(folder):
    with (folder / "sweep.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_best_first_failed_last_and_only_the_words_that_vary(tmp_path):
    entries = [
        (["task=mnist", "optimizer.lr=1"], 0, "the loss is nan | at\nstep 3"),
        (["task=mnist", "optimizer.lr=0.1"], 0.7, ""),
        (["task=mnist", "optimizer.lr=0.01"], 0.9, ""),
    ]
    table = write_sweep_table(sweep(tmp_path, entries))
    assert [row["job"] for row in rows(tmp_path)] == ["2", "1", "0"]
    assert [row["accuracy"] for row in rows(tmp_path)] == ["0.9", "0.7", ""]
    assert rows(tmp_path)[0]["optimizer.lr"] == "0.01" and "task" not in rows(tmp_path)[0]
    assert rows(tmp_path)[2]["error"] == "the loss is nan | at step 3"
    text = (tmp_path / "sweep.md").read_text()
    assert (
        text.index("0.9000")
        < text.index("0.7000")
        < text.index("failed: the loss is nan \\| at step 3")
    )
    assert "Sorted by accuracy, highest first." in text
    console = Console(width=120, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    console.print(table)
    assert "failed: the loss is nan" in console.export_text()
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_errors_sort_upwards_and_folds_become_mean_and_deviation(tmp_path):
    for name, shift in (("000", 5), ("001", 0)):
        run = folds_run(tmp_path / name)
        lines = [
            result(f"fold-{fold + 1}", fold=fold + shift, folds=4, classes=False)
            for fold in range(4)
        ]
        for line in lines:
            line["scores"].pop("loss")
        write_lines(run / "results.jsonl", lines)
    jobs = [
        {"job": job, "words": [f"seed={job}"], "status": "done", "folder": f"{job:03}"}
        for job in (0, 1)
    ]
    write_lines(tmp_path / "sweep.jsonl", jobs)
    write_sweep_table(tmp_path)
    assert [row["job"] for row in rows(tmp_path)] == ["1", "0"]
    assert float(rows(tmp_path)[0]["mae"]) == pytest.approx(2.55)
    assert "2.5500 ± 0.1291" in (tmp_path / "sweep.md").read_text()


def test_a_job_that_was_tried_again_counts_once(tmp_path):
    sweep(tmp_path, [(["seed=1"], 0.8, ""), (["seed=2"], 0.9, "")])
    with (tmp_path / "sweep.jsonl").open("a") as stream:
        stream.write(
            '{"job": 0, "words": ["seed=1"], "status": "failed", "error": "disk full", "folder": "000"}\n{"jo'
        )
    write_sweep_table(tmp_path)
    assert [(row["job"], row["status"]) for row in rows(tmp_path)] == [
        ("1", "done"),
        ("0", "failed"),
    ]


def test_what_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(UserError, match="no sweep.jsonl"):
        write_sweep_table(tmp_path)
