"""Measures as strangers met them: which way one is better, what has no value, and what an interval is of."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import dlrun
from dlrun.cli.main import main
from dlrun.config import parts
from dlrun.config.compatibility import PROBLEM_TYPES, get_metric_names, read_metric_kinds
from dlrun.config.instantiate import build_part
from dlrun.core import files as json_text
from dlrun.core.formatting import KNOWN_DIRECTIONS
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import Field, FitJob, Result, Step
from dlrun.evaluation import metrics
from dlrun.evaluation.metrics import compute_mean_score
from dlrun.training.meter import Meter, scores_with_intervals

BRIER = """
from dlrun.evaluation.metrics import Metric

def brier(field):
    return Metric("min", lambda raw, target: (field.apply_activation(raw) - field.to_probabilities(target)).square().mean(1))
"""
TINY = ["engine.max_steps=2", "model.units=[4]"]


def sorted_table(file, rows=48):
    """A table whose second class stands in its first rows alone."""
    lines = [
        f"{row % 7},{row * 5 % 11},{'yes' if row < 10 and row % 2 else 'no'}" for row in range(rows)
    ]
    file.write_text("\n".join(["a,b,k", *lines]) + "\n")
    return file


def strict(file):
    """The JSON lines, or the JSON, of a file; NaN is none."""

    def refused(word):
        raise ValueError(f"{word} in {file}")

    texts = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    return [json.loads(text, parse_constant=refused) for text in texts]


def run(folder, *words):
    """Run a command that must go well; answers with the newest run folder."""
    assert main([*words, f"output={folder}"]) == 0
    return max(
        (file.parent for file in folder.rglob("results.jsonl")),
        key=lambda each: each.stat().st_mtime_ns,
    )


@pytest.fixture
def brier(elsewhere):
    (elsewhere / "my_brier.py").write_text(BRIER)
    (elsewhere / "conf" / "metric").mkdir(parents=True)
    (elsewhere / "conf" / "metric" / "brier.yaml").write_text(
        "# Mine.\nbrier: {_target_: my_brier.brier}\n"
    )
    return ["metric=[brier]", "plugins=[my_brier]"]


def test_row_18_a_metric_of_ones_own_decides_as_it_declares(brier, tmp_path, capsys):
    learns = ["optimizer=adam", "optimizer.lr=0.05", "engine.epochs=6"]
    assert (
        main(["-m", "task=wine", *brier, "model=constant,dense", *learns, f"output={tmp_path}"])
        == 0
    )
    (file,) = tmp_path.rglob("sweep.csv")
    first, second = csv.DictReader(file.open())
    assert (first["model"], second["model"]) == ("dense", "constant") and float(
        first["brier"]
    ) < float(second["brier"])
    out = capsys.readouterr().out
    assert (
        re.search(r"best: .*model=dense", out)
        and "brier, lowest first" in (file.parent / "sweep.md").read_text()
    )
    runs = [str(file.parent / row["folder"]) for row in (first, second)]
    history = [
        row["values"]["brier"]
        for row in strict(Path(runs[0]) / "history.jsonl")
        if row["split"] == "val"
    ]
    assert len(set(history)) > 1
    assert main(["compare", *runs]) == 0 and "brier (less is better)" in capsys.readouterr().out
    assert main(["report", runs[0]]) == 0


def test_a_metric_is_declared_once_and_read_from_its_source_without_torch():
    """Kinds and direction stand in `declare_metric` alone; the order of both views is the same."""
    declared = {name: metric.kinds for name, metric in metrics.METRICS.items()}
    assert len(declared) >= 16 and list(read_metric_kinds().items()) == list(declared.items())
    for name, metric in metrics.METRICS.items():
        assert set(metric.default_for) <= set(metric.kinds) <= set(PROBLEM_TYPES)
        assert KNOWN_DIRECTIONS.get(name, metric.goal) == metric.goal  # of runs that do not say it
    code = (
        "import sys; from dlrun.evaluation.metrics import METRICS;"
        "from dlrun.config.compatibility import get_metric_error;"
        "assert METRICS['mae'].goal == 'min' and get_metric_error('mae', 'binary');"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in PROBLEM_TYPES for name in get_metric_names(kind)],
)
def test_row_18_what_is_registered_says_its_direction_in_each_score(kind, name):
    metric, meter = measured(kind, name, torch.arange(24) % 2)
    assert metric.goal in ("min", "max")
    assert scores_with_intervals(meter, seed=0)[name].goal == metric.goal


KINDS = {
    "binary": ((1,), 0, 1), "category": ((), 3, 3), "tokens": ((2,), 3, 6), "multilabel": ((3,), 3, 3),
    "number": ((1,), 0, 1), "fraction": ((1,), 0, 1),
}  # fmt: skip  # kind → shape and size of the field, and how many numbers are answered


def measured(kind, name, classes, raw=None):
    """A registered metric, and a meter that has seen rows of these classes."""
    shape, size, outputs = KINDS[kind]
    field = Field(kind, shape, size, tuple("abc"[:size]))
    (node,) = yaml.safe_load(
        (parts.get_builtin_conf() / "metric" / f"{name}.yaml").read_text()
    ).values()
    metric = build_part(node, field)
    rows = len(classes)
    target = (
        classes
        if kind == "category"
        else classes.float()[:, None].expand(rows, max(1, math.prod(shape)))
    )
    target = classes[:, None].expand(rows, 2) if kind == "tokens" else target
    raw = (
        torch.linspace(-1, 1, rows * outputs).reshape(rows, outputs)
        if raw is None
        else raw.expand(rows, outputs)
    )
    raw = raw.reshape(rows, 2, 3) if kind == "tokens" else raw
    meter = Meter({name: ("y", metric)}, {"y": field}, torch.device("cpu"), keep=True)
    meter.add(Step("model", torch.tensor(1.0), {"y": raw}), {"y": target}, rows)
    return metric, meter


SPLITS = {
    "one row": (torch.tensor([1]), None),
    "one class": (torch.ones(24, dtype=torch.long), None),
    "an empty class": (torch.arange(24) % 2, None),
    "no positive row": (torch.zeros(24, dtype=torch.long), None),
    "answers that are no numbers": (torch.arange(24) % 2, torch.tensor([[math.nan]])),
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in PROBLEM_TYPES for name in get_metric_names(kind)],
)
def test_row_17_no_measure_fails_on_a_split_that_it_is_not_defined_on(kind, name, split, tmp_path):
    score = scores_with_intervals(measured(kind, name, *SPLITS[split])[1], seed=0)[name]
    RunFolder(tmp_path).add_results([Result(FitJob(), "val", {name: score})])
    (line,) = strict(tmp_path / "results.jsonl")
    written = line["scores"][name]
    assert written["n"] == len(SPLITS[split][0]) and (
        written["value"] is not None or written["why"]
    )
    (read,) = RunFolder(tmp_path).read_results()
    assert read.scores[name].value == score.value or math.isnan(read.scores[name].value)
    if score.n < 20:
        assert score.low is None and score.high is None


def test_row_17_in_folds_those_with_a_value_are_averaged_and_counted(tmp_path, capsys):
    table = sorted_table(tmp_path / "t.csv")
    words = [
        "task=csv",
        f"data.path={table}",
        "data.target=k",
        "data.test=0",
        "metric=[roc_auc]",
        *TINY,
    ]
    folder = run(tmp_path / "out", *words, "protocol=kfold", "protocol.by=random")
    lines = strict(folder / "results.jsonl")
    values = [line["scores"]["roc_auc"]["value"] for line in lines]
    folder = run(
        tmp_path / "last", *words, "protocol=kfold", "protocol.by=random", "protocol.shuffle=false"
    )
    values = [line["scores"]["roc_auc"]["value"] for line in strict(folder / "results.jsonl")]
    assert values.count(None) == 3 and strict(folder / "history.jsonl")
    out = capsys.readouterr().out
    flat = " ".join(out.split())
    assert "of one class" in flat and "nan" not in flat and "of 4 fits" in flat
    page = (folder / "report.md").read_text()
    assert "mean of 1 of 4 fits" in page and "nan ±" not in page


def test_row_17_the_best_epoch_and_early_stopping_know_what_is_not_defined(tmp_path, capsys):
    table = sorted_table(tmp_path / "t.csv")
    words = [
        "task=csv",
        f"data.path={table}",
        "data.target=k",
        "data.test=0",
        "metric=[roc_auc]",
        "protocol.by=last",
    ]
    watched = ["callback=[keep_best,early_stopping]", *(f"callback.{name}.monitor=val/roc_auc" for name in
               ("keep_best", "early_stopping")), "callback.early_stopping.patience=1"]  # fmt: skip
    folder = run(tmp_path / "out", *words, *watched, "engine.epochs=3", "model.units=[4]")
    (line,) = strict(folder / "results.jsonl")
    assert line["epochs"] == 3 and "all 10 rows are of one class" in line["note"]
    told = capsys.readouterr()
    assert (told.out + told.err).count(
        "was not defined in any epoch, so that the last one is kept"
    ) == 1


def test_row_17_a_sweep_ranks_what_is_not_defined_last_and_says_so(tmp_path, capsys):
    table = sorted_table(tmp_path / "t.csv")
    words = [
        "task=csv",
        f"data.path={table}",
        "data.target=k",
        "data.test=0",
        "metric=[roc_auc]",
        *TINY,
    ]
    assert main(["-m", *words, "protocol.by=last,stratified", f"output={tmp_path}"]) == 0
    (file,) = tmp_path.rglob("sweep.csv")
    first, second = csv.DictReader(file.open())
    assert first["protocol.by"] == "stratified" and second["roc_auc"] == ""
    assert "roc_auc is not defined" in (file.parent / "sweep.md").read_text()
    assert "best: " in capsys.readouterr().out
    assert (
        main(
            ["-m", *words, "protocol.by=last", "model.units=[4],[8]", f"output={tmp_path / 'none'}"]
        )
        == 0
    )
    assert "no job is the best: roc_auc has no value in any" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [1, 3])
def test_row_27_labelled_rows_of_one_class_are_answered(rows, tmp_path, capsys):
    table = sorted_table(tmp_path / "t.csv")
    words = [
        "task=csv",
        f"data.path={table}",
        "data.target=k",
        "data.test=0",
        "metric=[roc_auc,accuracy]",
        *TINY,
    ]
    folder = run(tmp_path / "out", *words)
    new, to = tmp_path / "new.csv", tmp_path / "answers.json"
    new.write_text("a,b,k\n" + "1,2,no\n" * rows)
    assert main(["predict", str(folder), str(new), f"to={to}"]) == 0
    (answers,) = strict(to)
    assert len(answers["rows"]) == rows and answers["scores"]["roc_auc"] is None
    out = capsys.readouterr().out
    assert "roc_auc is not defined on these rows" in out
    assert (
        "accuracy" in out and "[" not in out.partition("accuracy")[2].partition("\n")[0]
    )  # row 39


def test_row_17_runs_of_before_hold_nan_and_are_read(tmp_path):
    table = sorted_table(tmp_path / "t.csv")
    words = [
        "task=csv",
        f"data.path={table}",
        "data.target=k",
        "data.test=0",
        "metric=[roc_auc]",
        *TINY,
    ]
    folder = run(tmp_path / "out", *words, "protocol.by=last")
    for name in ("results.jsonl", "history.jsonl"):
        text = (folder / name).read_text()
        assert '"roc_auc": null' in text or '"value": null' in text
        text = re.sub(
            r', "goal": "m..", "why": "[^"]*"', "", text.replace('null, "low"', 'NaN, "low"')
        )
        (folder / name).write_text(text.replace('"roc_auc": null', '"roc_auc": NaN'))
    assert "NaN" in (folder / "results.jsonl").read_text()
    for words in (["report"], ["compare"], ["evaluate"]):
        assert main([*words, str(folder)]) == 0


def test_row_17_one_place_writes_json():
    source = Path(dlrun.__file__).parent
    writers = {
        file.name
        for file in source.rglob("*.py")
        if re.search(r"\bjson\.dumps?\(", file.read_text())
    }
    assert writers == {Path(json_text.__file__).name}


@pytest.mark.parametrize("rows", [1, 2, 3, 19])
def test_row_39_few_rows_have_no_interval(rows):
    score = compute_mean_score(1.0, 1.0, rows)
    assert (score.low, score.high) == (None, None) and f"{rows} row" in score.why


def test_row_39_a_run_of_few_rows_is_shown_without_intervals(tmp_path, capsys):
    folder = run(tmp_path, "task=wine", "protocol.validation=3", *TINY)
    assert all(
        score["low"] is None for score in strict(folder / "results.jsonl")[0]["scores"].values()
    )
    out = capsys.readouterr().out
    assert (
        "95 % interval" not in out
        and "95 % interval" not in (folder / "report.md").read_text().partition("\n## ")[2]
    )


def test_row_39_the_baseline_is_not_behind_itself(tmp_path, capsys):
    run(tmp_path, "task=wine", "model=constant", "protocol=kfold", "engine.epochs=1")
    assert "not below the baseline" not in capsys.readouterr().out


def test_row_39_large_numbers_are_written_alike():
    from dlrun.report import result_tables

    score = {"value": 109123.4, "low": 99950.2, "high": 116001.0}
    assert result_tables.format_score(score) == "109123 [99950, 116001]"


# which fit of a run answers


def lettered(file, rows=60):
    """A table of 60 rows with one of 26 letters, so that no training part of four folds knows them all."""
    lines = [
        f"{chr(97 + (row * 7) % 26)},{row % 5},{row % 3 + (row * 7) % 26 / 10}"
        for row in range(rows)
    ]
    file.write_text("\n".join(["c,x,y", *lines]) + "\n")
    new = file.with_name("new.csv")
    new.write_text("c,x\na,1\nq,2\nz,3\n")
    return new


def answers_of(folder, new, to, *words):
    """What predict writes for new rows: (answers, the whole JSON)."""
    assert main(["predict", str(folder), str(new), f"to={to}", *words]) == 0
    (found,) = strict(to)
    return [row["answer"] for row in found["rows"]], found


def test_row_26_of_folds_the_mean_answers_or_the_one_that_is_named(tmp_path, capsys):
    new, to = lettered(tmp_path / "t.csv"), tmp_path / "answers.json"
    words = [
        "task=csv",
        f"data.path={tmp_path / 't.csv'}",
        "data.target=y",
        "data.test=0",
        "model.units=[4]",
    ]
    folder = run(tmp_path / "out", *words, "protocol=kfold", "protocol.folds=2", "engine.epochs=2")
    capsys.readouterr()
    mean, found = answers_of(folder, new, to)
    assert "the mean of what 2 folds predict" in capsys.readouterr().out and len(found["fits"]) == 2
    each = [answers_of(folder, new, to, f"fit=fold-{number}")[0] for number in (1, 2)]
    assert mean == pytest.approx([sum(column) / 2 for column in zip(*each, strict=True)], rel=1e-5)
    assert each[0] != each[1]
    assert main(["predict", str(folder), str(new), "fit=fold-9"]) == 2
    assert "there are: fold-1, fold-2" in capsys.readouterr().err
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("c,x,y\na,1,0.5\nq,2,1.5\nz,3,2\n")
    _, found = answers_of(folder, labelled, to)
    errors = [abs(answer - truth) for answer, truth in zip(mean, (0.5, 1.5, 2), strict=True)]
    assert found["scores"]["mae"] == pytest.approx(sum(errors) / 3, rel=1e-4)


def test_row_26_folds_of_before_have_the_fields_of_the_last_one(tmp_path):
    new, to = lettered(tmp_path / "t.csv"), tmp_path / "answers.json"
    words = [
        "task=csv",
        f"data.path={tmp_path / 't.csv'}",
        "data.target=y",
        "data.test=0",
        "model.units=[4]",
    ]
    folder = run(tmp_path / "out", *words, "protocol=kfold", "engine.epochs=2")
    now = answers_of(folder, new, to)[0]
    for file in (folder / "fields").iterdir():
        file.unlink()
    assert answers_of(folder, new, to)[0] == pytest.approx(now)


def test_row_26_a_walk_forward_answers_with_its_last_fold(tmp_path, capsys):
    new, to = lettered(tmp_path / "t.csv"), tmp_path / "answers.json"
    words = [
        "task=csv",
        f"data.path={tmp_path / 't.csv'}",
        "data.target=y",
        "data.test=0",
        "model.units=[4]",
    ]
    folder = run(
        tmp_path / "out", *words, "protocol=walk_forward", "data.order=x", "engine.epochs=2"
    )
    new.write_text("c,x\na,1\n")
    capsys.readouterr()
    assert answers_of(folder, new, to)[0] == answers_of(folder, new, to, "fit=fold-4")[0]
    assert "of 4 folds the last, fold-4, predicts" in capsys.readouterr().out


@pytest.mark.parametrize(("step", "stage"), [({"step": 7, "verdict": "", "winner": "linear"}, "linear"),
                                             ({"step": 5, "verdict": "", "stopped": True}, "constant")])  # fmt: skip
def test_row_26_a_workflow_answers_with_its_winner_or_with_what_nothing_beat(
    step, stage, tmp_path, capsys
):
    new, to = lettered(tmp_path / "t.csv"), tmp_path / "answers.json"
    words = [
        "task=csv",
        f"data.path={tmp_path / 't.csv'}",
        "data.target=y",
        "data.test=0",
        "workflow.budget=1",
    ]
    assert main(["workflow", *words, "protocol=holdout", "workflow.protocol=task", "engine.epochs=2",
                 f"output={tmp_path / 'out'}"]) == 0  # fmt: skip
    folder = next((tmp_path / "out").rglob("workflow.json")).parent
    steps = [one for one in strict(folder / "workflow.json")[0] if one["step"] < 5]
    (folder / "workflow.json").write_text(json.dumps([*steps, step]))
    capsys.readouterr()
    found, about = answers_of(folder, new, to)
    assert about["fits"] == [stage] and f"{stage} predicts" in capsys.readouterr().out
    assert len(set(found)) == (1 if stage == "constant" else 3)


def test_row_26_a_workflow_of_folds_says_whose_answers_they_are_and_takes_the_name_of_a_candidate(
    tmp_path, capsys
):
    new, to = lettered(tmp_path / "t.csv"), tmp_path / "answers.json"
    words = [
        "task=csv",
        f"data.path={tmp_path / 't.csv'}",
        "data.target=y",
        "data.test=0",
        "workflow.budget=1",
    ]
    assert main(["workflow", *words, "protocol=kfold", "protocol.folds=2", "workflow.protocol=task",
                 "engine.epochs=1", f"output={tmp_path / 'out'}"]) == 0  # fmt: skip
    folder = next((tmp_path / "out").rglob("workflow.json")).parent
    capsys.readouterr()
    answers_of(folder, new, to)
    said = capsys.readouterr().out
    assert "workflow" in said and "the mean of what 2 folds predict" in said
    assert answers_of(folder, new, to, "fit=linear")[1]["fits"] == [
        "linear-fold-1",
        "linear-fold-2",
    ]
    assert main(["predict", str(folder), str(new), "fit=linea"]) == 2
    said = capsys.readouterr().err
    assert "there are: " in said and "linear" in said and len(said) < 1000


def test_row_26_what_is_looked_into_says_which_fold_it_is(tmp_path, caplog):
    words = ["task=digits", "model=convnet", "protocol=kfold", "protocol.folds=2", "preset=smoke"]
    folder = run(tmp_path / "out", *words, "engine.max_steps=2")
    assert main(["visualize", str(folder), "kind=weights"]) == 0
    assert (
        "of 2 folds fold-1 is looked into" in caplog.text
        and "fit=fold-2 names another" in caplog.text
    )
    caplog.clear()
    assert main(["visualize", str(folder), "kind=weights", "fit=fold-2"]) == 0
    assert "fold-2" in caplog.text and "fold-1" not in caplog.text


# the same rows for several seeds


def rows_of(folder):
    import numpy as np

    return [np.load(file)["row"].tolist() for file in sorted(folder.rglob("predictions/*-val.npz"))]


def test_row_32_a_seed_of_the_protocol_holds_the_same_rows_out_for_every_seed(tmp_path, capsys):
    assert (
        main(
            [
                "-m",
                "task=wine",
                *TINY,
                "seed=1,2,3",
                "protocol.seed=0",
                f"output={tmp_path / 'own'}",
            ]
        )
        == 0
    )
    first, *others = rows_of(tmp_path / "own")
    assert len(others) == 2 and all(rows == first for rows in others)
    out = capsys.readouterr().out
    assert (
        "over seeds, mean ± sd" in out
        and "over 3 seeds, of which this job is the middle one" in out
    )
    assert "## Over seeds" in next((tmp_path / "own").rglob("sweep.md")).read_text()
    assert main(["-m", "task=wine", *TINY, "seed=1,2", f"output={tmp_path / 'one'}"]) == 0
    one, other = rows_of(tmp_path / "one")
    assert one != other
    (zero,) = rows_of(run(tmp_path / "zero", "task=wine", *TINY, "seed=0"))
    assert first == zero  # null is as ever: the rows of the one seed
    runs = [str(file.parent) for file in (tmp_path / "own").rglob("results.jsonl")]
    assert main(["compare", *runs[:2]]) == 0 and "on the same 28 validation rows" in " ".join(
        capsys.readouterr().out.split()
    )


def test_row_32_a_run_of_before_has_no_seed_of_the_protocol(tmp_path):
    folder = run(tmp_path, "task=wine", *TINY, "seed=3")
    before = rows_of(folder)
    file = folder / "config.yaml"
    file.write_text(
        "".join(line for line in file.read_text().splitlines(True) if line != "  seed: null\n")
    )
    assert "seed: null" not in file.read_text()
    assert main(["evaluate", str(folder)]) == 0 and rows_of(folder) == before


# which rows are the same


def measured_table(file, rows=120, seed=0):
    """A table of three inputs and a number to predict."""
    import numpy as np

    values = np.random.default_rng(seed).normal(size=(rows, 3)).round(3)
    lines = [f"{a},{b},{c},{2 * a - b + c / 5:.3f}" for a, b, c in values.tolist()]
    file.write_text("\n".join(["a,b,c,y", *lines]) + "\n")
    return file


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path):
    file = measured_table(tmp_path / "t.csv")
    return ["task=csv", f"data.path={file}", "data.target=y", *TINY, f"output={tmp_path / 'out'}"]


def test_row_31_other_inputs_do_not_make_other_test_rows(ledger, table, capsys):
    assert main([*table, "data.drop=[a]", "test=true"]) == 0
    for drop in ("[b]", "[c]", "[]"):
        assert main([*table, f"data.drop={drop}", "test=true"]) == 2
        assert "evaluated 1 time before" in capsys.readouterr().err
    assert main([*table, "data.drop=[b]", "test=true", "reason=another column"]) == 0
    assert main(["ledger"]) == 0
    told = capsys.readouterr().out
    assert "csv: 2 evaluations" in told and "datasets" not in told


def test_row_14_other_test_rows_of_one_file_need_a_reason(ledger, table, tmp_path, capsys):
    usual = run(tmp_path / "usual", *table[:-1], "seed=1")
    other, again = (run(tmp_path / name, *table[:-1], "data.seed=5", f"seed={seed}")
                    for seed, name in enumerate(("other", "again")))  # fmt: skip
    marks = [json.loads((one / "data.json").read_text())["test"] for one in (usual, other, again)]
    assert marks[0] != marks[1] == marks[2]
    capsys.readouterr()
    assert main([*table, "data.seed=5", "test=true"]) == 2
    assert "data.seed draws other test rows" in capsys.readouterr().err
    assert main([*table, "data.seed=5", "test=true", "reason=the usual ones are of one week"]) == 0


def test_row_14_another_test_file_is_another_test_set(ledger, table, tmp_path, capsys):
    files = [measured_table(tmp_path / f"test{number}.csv", 40, number) for number in (1, 2)]
    for file in files:
        assert main([*table, f"data.test_path={file}", "test=true"]) == 0
    assert main([*table, f"data.test_path={files[0]}", "test=true"]) == 2
    assert "evaluated 1 time before" in capsys.readouterr().err


def test_row_31_entries_of_before_count_by_their_fingerprint(ledger, table, tmp_path, capsys):
    assert main([*table, "test=true"]) == 0
    (book,) = (tmp_path / "cache").rglob("ledger.jsonl")
    entries = [
        {key: value for key, value in line.items() if key != "test"} for line in strict(book)
    ]
    book.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert main([*table, "test=true"]) == 2 and "evaluated 1 time before" in capsys.readouterr().err


def test_row_32_runs_with_other_inputs_are_compared_on_the_same_rows(table, tmp_path, capsys):
    runs = [run(tmp_path / name, *table, f"data.drop={drop}", "data.test=0")
            for name, drop in (("all", "[]"), ("less", "[a]"))]  # fmt: skip
    capsys.readouterr()
    assert main(["compare", *map(str, runs)]) == 0
    assert "on the same 24 validation rows" in " ".join(capsys.readouterr().out.split())
    other = run(tmp_path / "other", *table[:1], f"data.path={measured_table(tmp_path / 'o.csv', seed=5)}",
                *table[2:-1], "data.test=0")  # fmt: skip
    capsys.readouterr()
    assert main(["compare", str(runs[0]), str(other)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "not scored on the same data" in out and " − " not in out


# runs side by side


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """Five runs, a sweep of two jobs among them, and folders that are none."""
    folder = tmp_path_factory.mktemp("five")
    for rate in (0.001, 0.01, 0.1):
        run(folder / "outputs", "task=wine", "engine.epochs=3", f"optimizer.lr={rate}")
    assert (
        main(
            [
                "-m",
                "task=wine",
                "engine.epochs=3",
                "model.units=[4],[8]",
                f"output={folder / 'outputs'}",
            ]
        )
        == 0
    )
    (folder / "outputs" / "wine" / "lr" / "1").mkdir(parents=True)
    return folder


def test_row_19_a_relative_and_an_absolute_folder_are_compared(five, monkeypatch, capsys):
    first, second, _ = sorted((five / "outputs" / "wine" / "dense").iterdir())
    monkeypatch.chdir(five)
    assert main(["compare", str(first.relative_to(five)), str(second)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "best: " in out
        and "by val accuracy (more is better)" in out
        and "on the same 28 validation rows" in out
    )


def test_row_19_what_is_no_run_is_left_out_and_a_sweep_stands_for_its_jobs(
    five, monkeypatch, capsys
):
    monkeypatch.chdir(five)
    folders = [str(path) for path in sorted(Path().glob("outputs/*/*/*"))]
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    assert main(["compare", *folders]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "left out: outputs/wine/lr/1" in out.replace(
        "\n", ""
    )
    assert out.count(" − ") == 4 and "4 differences were looked at" in out
    assert re.search(r"optimizer\.lr", out) and re.search(r"^ +5 ", out, re.M)


def test_row_19_without_runs_the_pattern_that_finds_them_is_named(five, monkeypatch, capsys):
    monkeypatch.chdir(five)
    assert main(["compare"]) == 2
    pattern = re.search(r"such as (outputs/\S+?);", capsys.readouterr().err)[1]
    assert any((path / "results.jsonl").is_file() for path in Path().glob(pattern))


def test_row_19_one_row_without_a_measure_in_common_is_no_traceback(five, tmp_path, capsys):
    other = run(tmp_path, "task=diabetes", "engine.epochs=1")
    first = next((five / "outputs" / "wine" / "dense").iterdir())
    capsys.readouterr()
    assert main(["compare", str(first), str(other)]) == 0
    assert "best:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "said"), [(1000, "resamples, not 1,000"), (3000, "takes too long")]
)
def test_row_25_what_would_take_long_is_resampled_less_or_not_at_all_and_says_so(
    rows, said, monkeypatch
):
    import numpy as np

    from dlrun.evaluation.split_metrics import SplitMetric

    classes, taken = 500, []

    def of(self, answers, targets):
        return lambda chosen: taken.append(len(chosen)) or float(np.mean(chosen))

    monkeypatch.setattr(SplitMetric, "make_row_metric", of)
    field = Field("category", (), classes)
    meter = Meter(
        {"roc_auc": ("y", metrics.roc_auc(field))}, {"y": field}, torch.device("cpu"), keep=True
    )
    target = torch.arange(rows) % classes
    meter.add(
        Step("model", torch.tensor(1.0), {"y": torch.nn.functional.one_hot(target).float()}),
        {"y": target},
        rows,
    )
    score = scores_with_intervals(meter, seed=0)["roc_auc"]
    assert (
        sum(taken) * classes <= 2.1e8
        and said in score.why
        and (score.low is None) == (rows == 3000)
    )
