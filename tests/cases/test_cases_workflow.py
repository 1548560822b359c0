"""The workflow's judgement on strangers' data: what it calls a leak, how it reads curves, and what it recommends."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from dlrun.cli.main import main
from dlrun.core.errors import UserError
from dlrun.core.formatting import format_number
from dlrun.data.audit.finding import Finding
from dlrun.data.audit.run import audit
from dlrun.evaluation import test_ledger

SHORT = [
    "protocol=holdout",
    "engine.epochs=1",
    "engine.batch_size=256",
    "workflow.budget=1",
    "workflow.ladder={}",
]


@pytest.fixture(autouse=True)
def undrawn(tmp_path, monkeypatch):
    """In a folder of its own, and without reports, which take as long as the fits; undone where they are wanted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.MonkeyPatch.context() as drawing:
        drawing.setattr("dlrun.report.build.write_report", lambda folder: [folder / "report.html"])
        yield drawing


def folder():
    (found,) = [
        path for path in os.scandir("outputs") for path in os.scandir(path.path + "/workflow")
    ]
    return found.path


def read(name):
    with open(f"{folder()}/{name}") as file:
        return json.load(file)


def lines(name, run=None):
    with open(f"{run or folder()}/{name}") as file:
        return [json.loads(line) for line in file]


def customers(seed=0, rows=2500):
    """Contracts of customers: months, plan and price are bound up, so that new customers look alike."""
    random = np.random.default_rng(seed)
    plan = random.choice(["basic", "fast", "both"], rows, p=[0.5, 0.3, 0.2])
    months = random.geometric(0.04, rows)
    price = (
        np.select([plan == "basic", plan == "fast"], [20, 55], 90)
        + random.integers(-8, 9, rows) / 4
    )
    paid = np.where(random.random(rows) < 0.3, random.choice(["card", "check"], rows), "transfer")
    left = np.where(random.random(rows) < 0.2 + 0.3 * (plan == "fast"), "yes", "no")
    total = np.where(months == 1, price, np.round(months * price + random.normal(0, 9, rows), 1))
    return {
        "plan": plan,
        "months": months,
        "price": price,
        "paid": paid,
        "total": total,
        "left": left,
    }


def write(columns, order=None):
    order = np.arange(len(columns["left"])) if order is None else order
    rows = zip(*(column[order] for column in columns.values()), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    with open("table.csv", "w") as file:
        file.write("\n".join(lines) + "\n")
    return ["task=csv", "data.path=table.csv", "data.target=left"]


@pytest.fixture
def audited(monkeypatch):
    """The findings of a workflow that ends after its audit, by what they are."""
    found = []

    def enough(*arguments):
        found.extend(audit(*arguments))
        raise UserError("the audit is enough")

    def findings(words):
        monkeypatch.setattr("dlrun.workflow.workflow.audit", enough)
        assert main(["workflow", *words, *SHORT]) == 2 and found
        return {finding.what: finding for finding in found}

    return findings


def test_row_28_look_alikes_among_coarse_columns_are_no_leak(audited):
    found = audited(write(customers()))
    across = found["duplicates across splits"]
    assert across.severity == "note" and "independent rows" in across.text
    assert found["duplicates"].severity == "note"


def test_row_28_equal_rows_with_other_identifiers_are_no_copies(audited):
    columns = customers()
    names = np.array(
        [f"C-{n:05d}" for n in np.random.default_rng(1).permutation(len(columns["left"]))]
    )
    across = audited(write({"customer": names} | columns))["duplicates across splits"]
    assert across.severity == "note"


def test_row_28_copies_are_a_leak_also_among_look_alikes(audited):
    columns, random = customers(), np.random.default_rng(2)
    order = np.arange(len(columns["left"]))
    order[random.choice(len(order), 400, False)] = random.choice(len(order), 400)
    across = audited(write(columns, order))["duplicates across splits"]
    assert across.severity == "leak" and "at most" in across.effect


def test_row_28_many_equal_rows_under_new_names_are_a_warning(audited):
    columns, random = customers(), np.random.default_rng(2)
    order = np.arange(len(columns["left"]))
    order[random.choice(len(order), 400, False)] = random.choice(len(order), 400)
    columns = {name: values[order] for name, values in columns.items()}
    columns["record"] = np.array([f"R{n}x" for n in range(len(order))])
    across = audited(write(columns))["duplicates across splits"]
    assert across.severity == "warning" and "record: look-alikes, not copies" in across.text


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(
            lambda r: r.choice([3, 4, 5, 6, 7, 8], 400, p=[0.02, 0.08, 0.4, 0.4, 0.08, 0.02]),
            id="ratings",
        ),
        pytest.param(
            lambda r: np.where(r.random(400) < 0.4, 0, r.gamma(2, 5, 400).round(2)), id="zeros"
        ),
    ],
)
def test_row_28_ratings_and_zeros_are_no_faults_of_a_target(target, audited):
    random = np.random.default_rng(0)
    columns = {
        "a": random.normal(size=400).round(3),
        "b": random.normal(size=400).round(3),
        "left": target(random),
    }
    words = [*write(columns), "data.kind=number"]
    assert {f.severity for f in audited(words).values()} == {"note"}


def test_row_28_every_alarm_says_what_it_can_do_to_a_score():
    for severity in ("leak", "warning"):
        with pytest.raises(ValueError, match="does not say"):
            Finding(severity, "x", "y")
    assert (
        Finding("warning", "x", "evidence", effect="harm").description == "evidence; effect: harm"
    )


def weak(rows=600, columns=12):
    """A table of which one column says a little, so that a large network soon learns its training rows by heart."""
    random = np.random.default_rng(0)
    table = random.normal(size=(rows, columns)).round(3)
    left = np.where(table[:, 0] + 1.3 * random.normal(size=rows) > 0, "yes", "no")
    return write({f"x{n}": column for n, column in enumerate(table.T)} | {"left": left})


def test_row_29_a_rising_loss_of_three_epochs_is_called_so_and_ends_the_ladder():
    words = ["optimizer=adam", "optimizer.lr=0.03", "engine.batch_size=8", "model.units=[128]"]
    words += ["protocol=holdout", "engine.epochs=3", "workflow.budget=6"]
    assert main(["workflow", *weak(), *words]) == 0
    losses = {}
    for line in lines("history.jsonl"):
        if line["split"] == "val":
            losses.setdefault(line["job"], []).append(line["values"]["loss"])
    step, rungs = (
        read("workflow.json")[5],
        [name for name in ("configured", "wider", "deeper") if name in losses],
    )
    said = dict(zip(["small", *rungs], step["evidence"], strict=False))
    turned = [name for name in rungs if losses[name][-1] > 1.1 * min(losses[name])]
    assert turned == rungs[-1:], "the ladder ends with the first rung whose loss rises"
    for name in ("small", *rungs):
        assert "still falling" not in said[name] or losses[name] == sorted(
            losses[name], reverse=True
        ), said[name]
        assert "3 epochs say little" in said[name]
    assert (
        "rising: validation loss rose" in said[turned[0]]
        and "rising validation loss" in step["verdict"]
    )


def crossed(rows=700):
    """A table whose classes no linear model can tell apart, and a network soon can."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, rows)).round(3)
    left = np.where(
        (a * b + 0.1 * random.normal(size=rows) > 0) ^ (random.random(rows) < 0.05), "yes", "no"
    )
    return [
        *write({"a": a, "b": b, "left": left}),
        "optimizer=adam",
        "optimizer.lr=0.02",
        "engine.batch_size=32",
    ]


@pytest.mark.parametrize("measure", ["accuracy", "f1"])  # the latter is one number for all rows
def test_row_38_winner_linear_model_and_baseline_are_tested_at_one_opening(measure):
    words = [
        *crossed(),
        "protocol=holdout",
        "engine.epochs=8",
        "workflow.budget=5",
        "workflow.seeds=2",
    ]
    words.append(f"workflow.measure={measure}")
    assert main(["workflow", *words]) == 0
    step = read("workflow.json")[6]
    assert step["winner"] not in ("linear", "constant")
    assert any("selected on these very validation rows" in line for line in step["evidence"])
    assert main(["final", folder()]) == 0
    tested = [line for line in lines("results.jsonl") if line["split"] == "test"]
    assert [line["name"] for line in tested] == ["final", "final-repeat-2", "final_linear"]
    assert all(line["baseline"] and line["scores"][measure]["n"] == 140 for line in tested)
    (entry,) = test_ledger.read_entries()[0]  # one opening, with the winner's scores
    own = [line["scores"][measure]["value"] for line in tested[:2]]
    assert entry.score[measure] == pytest.approx(sum(own) / 2)
    said = read("workflow.json")[7]["evidence"]
    beside = format_number(tested[2]["scores"][measure]["value"])
    assert any(beside in line and "better [" in line and "a linear model" in line for line in said)
    assert any("the constant baseline has" in line or "baseline" in line for line in said)
    assert (
        main(["final", folder()]) == 0 and len(test_ledger.read_entries()[0]) == 1
    )  # nothing left to do


def test_row_38_a_lead_over_the_linear_model_that_may_be_chance_recommends_the_linear_model():
    random = np.random.default_rng(4)
    x = random.normal(size=(400, 3)).round(3)
    score = x[:, 0] + x[:, 1] + 0.9 * (np.abs(x[:, 2]) - 0.8) + 0.3 * random.normal(size=400)
    left = np.where(score > 0, "yes", "no")
    words = write({f"x{n}": column for n, column in enumerate(x.T)} | {"left": left})
    words += [
        "optimizer=adam",
        "optimizer.lr=0.01",
        "protocol=holdout",
        "engine.epochs=8",
        "workflow.budget=5",
    ]
    assert main(["workflow", *words]) == 0
    step = read("workflow.json")[6]
    scores = {line["name"]: line["scores"]["accuracy"]["value"] for line in lines("results.jsonl")}
    assert max(scores, key=scores.get) != "linear", "the case must be one"
    assert step["winner"] == "linear" and "the simpler model is preferred" in step["verdict"]
    assert any(row[0] == "linear (recommended)" for row in step["tables"][0]["rows"])


def test_findings_a_budget_in_seconds_stops_fits_and_says_what_it_left_out():
    words = ["protocol=kfold", "protocol.folds=2", "engine.epochs=4", "workflow.budget=0.001s"]
    assert main(["workflow", *weak(rows=300, columns=3), *words]) == 0
    found = {line["name"]: line["epochs"] for line in lines("results.jsonl")}
    assert found["small-fold-1"] == found["configured-fold-2"] == 1 and not any(
        "wider" in name for name in found
    )
    steps = {step["step"]: step for step in read("workflow.json")}
    (cut,) = [line for line in steps[5]["evidence"] if "stopped by the budget" in line]
    assert "small after 1 of 4 epochs, configured after 1 of 4 epochs" in cut
    assert any("would go beyond the budget: smaller" in line for line in steps[7]["evidence"])
    before = lines("results.jsonl")
    assert main(["resume", folder()]) == 0 and lines("results.jsonl") == before


def test_findings_folds_of_a_stopped_stage_have_equally_many_epochs(monkeypatch):
    times = iter(range(0, 100_000, 5))  # each look at the clock is five seconds later
    monkeypatch.setattr("dlrun.workflow.evidence.clock", lambda: float(next(times)))
    words = ["protocol=kfold", "protocol.folds=3", "engine.epochs=4", "workflow.budget=90s"]
    assert main(["workflow", *weak(rows=300, columns=3), *words]) == 0
    epochs = {}
    for line in lines("results.jsonl"):
        epochs.setdefault(line["job"]["stage"], []).append(line["epochs"])
    assert all(len(set(each)) == 1 for each in epochs.values()) and 1 <= epochs["configured"][0] < 4


def test_findings_the_line_of_a_candidate_and_its_row_name_one_epoch_and_one_score(capsys):
    words = [*weak(rows=300, columns=6), "protocol=holdout", "engine.epochs=6", "workflow.budget=4"]
    assert main(["workflow", *words, "optimizer=adam", "optimizer.lr=0.03"]) == 0
    said = capsys.readouterr().out
    for row in read("workflow.json")[6]["tables"][0]["rows"]:
        name, score, epoch = row[0].partition(" (")[0], row[2].split()[0], row[4]
        assert not epoch or f"kept epoch {epoch} (best val/loss): val accuracy {score}" in said, (
            name
        )


def test_findings_reports_of_runs_begin_with_the_score_and_comparisons_with_a_verdict(
    capsys, undrawn
):
    undrawn.undo()
    words = [*crossed(), "protocol=holdout", "callback=keep_best"]
    assert main([*words, "model=dense", "engine.epochs=8", "output=a"]) == 0
    assert main([*words, "model=linear", "engine.epochs=4", "output=b"]) == 0
    runs = [str(run) for top in ("a", "b") for run in Path(top).glob("*/*/*")]
    for run in runs:
        (scores,) = [line["scores"] for line in lines("results.jsonl", run)]
        page = Path(run, "report.md").read_text()
        head = page.partition("\n## ")[0]
        assert (
            f"Validation accuracy: {format_number(scores['accuracy']['value'])} [" in head
            and "baseline 0." in head
        )
    capsys.readouterr()
    assert main(["report", *runs]) == 0
    (page,) = Path().glob("report-*.md")
    assert str(page) in capsys.readouterr().out and not list(Path("a").rglob("report-*"))
    head = " ".join(page.read_text().partition("\n## ")[0].split())
    assert "Best by validation accuracy: run 1" in head and "the difference is real" in head
    assert "the ring is the epoch that was kept" in page.read_text()


def test_findings_a_measure_that_one_fold_lacks_and_few_rows_are_told_as_such(capsys):
    few = {name: column[:60] for name, column in customers().items()} | {
        "left": np.where(np.arange(60) % 20, "n", "y")
    }
    words = ["protocol=kfold", "engine.epochs=1", "workflow.measure=roc_auc", "workflow.budget=1"]
    assert main(["workflow", *write(few), *words]) == 0
    step = read("workflow.json")[4]
    assert (
        step["stopped"]
        and "cannot be told: " in step["verdict"]
        and "not defined" in step["verdict"]
    )
    assert "not below the baseline" not in capsys.readouterr().out  # the verdicts say it


@pytest.mark.parametrize("rows", [1, 10])
def test_findings_one_column_one_epoch_and_one_validation_row_are_clear(rows):
    one = {name: customers()[name][:50] for name in ("price", "left")}
    words = [
        "protocol=holdout",
        f"protocol.validation={rows}",
        "engine.epochs=1",
        "workflow.budget=1",
    ]
    assert main(["workflow", *write(one), *words]) == 0
    step = read("workflow.json")[4]
    noun = "1 row is" if rows == 1 else "10 rows are"
    assert f"cannot be told: {noun} too few for an interval" in step["verdict"]


def test_findings_a_sweeps_table_has_test_scores_and_the_seconds_of_training(undrawn):
    words = [
        "-m",
        "task=digits",
        "model=linear,dense",
        "engine.epochs=1",
        "engine.batch_size=256",
        "test=true",
    ]
    assert main([*words, "output=out", "reason=table", "sweep.measure=[accuracy,seconds]"]) == 0
    (swept,) = {file.parent for file in Path("out").rglob("sweep.csv")}
    with open(swept / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        val, test = sorted(
            lines("results.jsonl", swept / row["folder"]), key=lambda line: line["split"] == "test"
        )
        assert float(row["test accuracy"]) == pytest.approx(test["scores"]["accuracy"]["value"])
        assert float(row["accuracy"]) == pytest.approx(val["scores"]["accuracy"]["value"])
        assert float(row["seconds"]) == pytest.approx(val["seconds"], abs=2e-3)
    assert "test accuracy" in (swept / "sweep.md").read_text()


def test_row_03_single_rows_under_batch_norm_are_refused_before_anything_is_trained(capsys):
    words = [*weak(), *SHORT, "engine.batch_size=1", "model.batch_norm=true"]
    assert main(["workflow", *words]) == 2
    assert "engine.batch_size is 1" in capsys.readouterr().err
    assert not list(Path().rglob("results.jsonl"))
