"""Two runs on the same rows: when they can be paired, what is said of the difference, and what a run must keep."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from laboratory import SPEC, table, trainer
from rich.console import Console

import dlrun
from dlrun.cli.compare import build_comparison, format_pairwise_differences
from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import FitJob, Result, Score, Step
from dlrun.evaluation import metrics, predictions
from dlrun.evaluation.split_metrics import SplitMetric
from dlrun.training.meter import Meter, scores_with_intervals

N = 600
METRIC = {
    name: {"_target_": f"dlrun.evaluation.metrics.{name}"} for name in ("accuracy", "roc_auc")
}
HERE = os.environ | {"PYTHONPATH": str(Path(dlrun.__file__).parents[1])}


def shuffled(seed=0, n=N):
    return np.random.default_rng(seed).permutation(n)


def truth_of(rows):
    return (np.random.default_rng(7).random(5000)[rows] < 0.5).astype(float)[:, None]


def answers_of(rows, skill, seed=0):
    """Probabilities, which are functions of the row: better with more skill, the same for the same seed."""
    quirk = np.random.default_rng(seed).normal(size=5000)[rows][:, None]
    return 1 / (1 + np.exp(-skill * (2 * truth_of(rows) - 1) - quirk))


def write_run(
    folder, skill=1.0, seed=0, jobs=None, mark="same", metric=None, kind="binary", truth=None
):
    """A run folder with jobs: each with its validation rows; written by the code that writes them."""
    metric = METRIC if metric is None else metric
    run, jobs = RunFolder(folder), jobs or [(FitJob(), np.arange(N))]
    run.folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"metric": metric, "model": {"_target_": "m", "skill": skill}})
    )
    run.write_json("data.json", {"fingerprint": mark, "rows": 5000, "note": ""})
    run.write_json("fields.json", {"targets": {"y": {"kind": kind}}})
    for job, rows in jobs:
        target = truth_of(rows) if truth is None else truth[rows]
        answer = answers_of(rows, skill, seed + 100 * job.repeat)
        right = ((answer > 0.5) == (target > 0.5)).astype(float).ravel()
        each = (
            {"accuracy": right} if kind == "binary" else {"rmse": ((answer - target) ** 2).ravel()}
        )
        scores = {
            "loss": Score(1.0),
            **{name: Score(float(value.mean())) for name, value in each.items()},
        }
        if kind == "binary":
            scores["roc_auc"] = Score(SplitMetric("roc_auc", "binary")(answer, target))
        else:
            scores["rmse"] = Score(float(each["rmse"].mean()) ** 0.5)
        run.write_predictions(job, "val", {"y": (answer, target)}, rows, each)
        run.add_results([Result(job, "val", scores)])
    return folder


def stage(folder):
    return predictions.combine_stage_predictions(folder, "fit", "val")


def folds_of(count):
    return [(FitJob(fold=fold, folds=count), shuffled()[fold::count]) for fold in range(count)]


def test_a_better_run_is_called_better_and_the_first_measure_that_is_no_loss_is_told(tmp_path):
    a, b = write_run(tmp_path / "a", 0.5), write_run(tmp_path / "b", 2.0)
    (line,) = format_pairwise_differences([b, a])
    assert line.startswith("b − a: accuracy +") and f"on the same {N} validation rows" in line
    assert line.endswith("the difference is real (95 % interval excludes zero)")
    found = predictions.compute_difference(stage(a), stage(b), "accuracy")
    scores = [
        run.scores["accuracy"].value
        for folder in (b, a)
        for run in RunFolder(folder).read_results()
    ]
    assert (
        found.value == pytest.approx(scores[0] - scores[1])
        and f"+{found.value:.4f} [{found.low:.4f}, " in line
    )


def test_a_difference_of_luck_may_be_chance_and_none_is_said_to_be_none(tmp_path):
    a, b, same = (
        write_run(tmp_path / name, 1.0, seed) for name, seed in (("a", 0), ("b", 1), ("c", 0))
    )
    lines = format_pairwise_differences([a, b, same])
    assert "it may be chance (95 % interval includes zero)" in lines[0]
    assert "accuracy 0.0000 [0.0000, 0.0000]" in lines[1] and lines[1].endswith(
        "the two are equal on every row"
    )
    assert lines[2].startswith("2 differences were looked at")


def test_less_is_better_where_it_is(tmp_path):
    metric = {"rmse": {"_target_": "dlrun.evaluation.metrics.rmse"}}
    a, b = (
        write_run(tmp_path / name, skill, metric=metric, kind="number")
        for name, skill in (("a", 0.5), ("b", 2))
    )
    (line,) = format_pairwise_differences([b, a])
    assert "rmse (less is better) -" in line and "is real" in line
    mean = predictions.compute_metric_interval(stage(a), "rmse")
    assert mean.low < mean.value < mean.high
    assert mean.value == pytest.approx(RunFolder(a).read_results()[0].scores["rmse"].value)


@pytest.mark.parametrize("measure", ["accuracy", "roc_auc"])
def test_folds_are_laid_together_and_paired_whatever_their_number_and_order(tmp_path, measure):
    plain = [write_run(tmp_path / f"plain {skill}", skill) for skill in (1.0, 2.0)]
    folded = [write_run(tmp_path / f"{n}", s, jobs=folds_of(n)) for s, n in ((1.0, 4), (2.0, 6))]
    one = predictions.compute_difference(*map(stage, plain), measure)
    other = predictions.compute_difference(*map(stage, folded), measure)
    assert (other.value, other.low, other.high) == pytest.approx(
        (one.value, one.low, one.high)
    ) and other.n == N
    assert predictions.compute_metric_interval(stage(folded[0]), measure).value == pytest.approx(
        predictions.compute_metric_interval(stage(plain[0]), measure).value
    )


def test_a_row_that_is_validated_in_every_repeat_is_one_row(tmp_path):
    once = write_run(tmp_path / "once", 2.0, jobs=folds_of(4))
    again = [
        (replace(job, repeat=repeat), rows) for repeat in range(3) for job, rows in folds_of(4)
    ]
    thrice = stage(write_run(tmp_path / "thrice", 1.0, jobs=again))
    assert len(thrice.rows) == 3 * N
    for measure in ("accuracy", "roc_auc"):
        assert predictions.compute_metric_interval(thrice, measure).n == N
    found = predictions.compute_difference(thrice, stage(once), "accuracy")
    assert (
        found.n == N
        and found.is_nonzero
        and found.value
        == pytest.approx(stage(once).values["accuracy"].mean() - thrice.values["accuracy"].mean())
    )
    with pytest.raises(
        UserError, match="roc_auc is one number for all rows, and they do not come equally often"
    ):
        predictions.compute_difference(thrice, stage(once), "roc_auc")


def damage(folder, change):
    """Rewrite one prediction file."""
    file = folder / "predictions" / "fit-val.npz"
    with np.load(file) as found:
        arrays = change(dict(found))
    np.savez(file, **arrays)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"mark": "other"}, "not scored on the same data"),
        (
            {"jobs": [(FitJob(), np.arange(100, N + 100))]},
            "different rows of the same data: 600 and 600, 500 of them shared",
        ),
        ({"truth": 1 - truth_of(np.arange(5000))}, "truth of 'y' is not the same"),
        (
            {"metric": {"accuracy": {**METRIC["accuracy"], "threshold": 0.4}}},
            "not measured in the same way: .*threshold",
        ),
    ],
)
def test_what_cannot_be_paired_is_told_with_the_reason(tmp_path, other, why):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", 2.0, **other)
    with pytest.raises(UserError, match=why):
        predictions.compute_difference(stage(a), stage(b), "accuracy")
    (line,) = format_pairwise_differences([a, b])
    assert "cannot be compared row by row: " in line and "differences were looked at" not in line


def test_runs_of_older_versions_and_answers_of_other_weights_are_named_with_the_way_out(tmp_path):
    old, stale = write_run(tmp_path / "old"), write_run(tmp_path / "stale")
    damage(old, lambda arrays: {name: array for name, array in arrays.items() if name != "row"})
    with pytest.raises(
        UserError,
        match=f"an older dlrun wrote it; dlrun evaluate {old} writes its predictions again",
    ):
        stage(old)
    damage(stale, lambda arrays: arrays | {"value/accuracy": 1 - arrays["value/accuracy"]})
    with pytest.raises(UserError, match=f"they are from other weights; dlrun evaluate {stale}"):
        predictions.compute_metric_interval(stage(stale), "accuracy")
    with pytest.raises(
        UserError, match="has no measure 'f1' for each row; it has accuracy, roc_auc"
    ):
        predictions.compute_metric_interval(stage(write_run(tmp_path / "a")), "f1")
    with pytest.raises(UserError, match="has no fit that was scored on test rows"):
        predictions.combine_stage_predictions(tmp_path / "a", "fit", "test")
    (tmp_path / "a" / "predictions" / "fit-val.npz").unlink()
    assert (
        "a has no predictions/fit-val.npz"
        in format_pairwise_differences([tmp_path / "a", stale])[0]
    )
    assert "older dlrun" in format_pairwise_differences([stale, old])[0]


def test_a_measure_that_was_not_asked_for_is_the_one_asked_for(tmp_path):
    asked = {"accuracy": {**METRIC["accuracy"], "threshold": 0.5}}
    a, b = write_run(tmp_path / "a", 1.0, metric={}), write_run(tmp_path / "b", 2.0, metric=asked)
    assert predictions.compute_difference(stage(a), stage(b), "accuracy").is_nonzero


def test_the_lines_stand_below_the_table_and_nothing_imports_torch(tmp_path):
    runs = [write_run(tmp_path / "a", 0.5), write_run(tmp_path / "b", 2.0)]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(build_comparison(runs))
    text = console.export_text()
    assert text.index("model.skill") < text.index("b − a: accuracy")
    code = f"""import sys; from pathlib import Path; from dlrun.cli.compare import build_comparison as comparison
assert 'numpy' not in sys.modules
comparison([Path({str(runs[0])!r}), Path({str(runs[1])!r})])
assert not {{'torch', 'sklearn', 'scipy', 'hydra'}} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True, env=HERE)


def test_arrays_of_different_lengths_are_never_written(tmp_path):
    with pytest.raises(ValueError, match="different lengths"):
        RunFolder(tmp_path).write_predictions(
            FitJob(), "val", {"y": (np.ones((3, 1)), np.ones((3, 1)))}, np.arange(2), {}
        )
    assert not list(tmp_path.rglob("*.npz"))


def measured(batch_size, keep, **measures):
    """A meter that has seen 50 rows of random answers."""
    field, rows = SPEC.targets["y"], table()
    chosen = {
        name: ("y", metric)
        for name, metric in (
            measures or {"accuracy": metrics.accuracy(field, threshold=0.5)}
        ).items()
    }
    meter = Meter(chosen, {"y": field}, torch.device("cpu"), keep=keep)
    raw = torch.randn(50, 3, generator=torch.Generator().manual_seed(3))
    for start, batch in enumerate(rows.batches(batch_size)):
        part = raw[start * batch_size : (start + 1) * batch_size]
        meter.add(Step("model", torch.tensor(1.0), {"y": part}), batch, len(part))
    return meter


def test_a_meter_keeps_the_values_of_rows_in_order_only_when_asked():
    kept, other, plain = measured(8, True), measured(50, True), measured(8, False)
    assert [meter.scores() for meter in (kept, other)] == [plain.scores()] * 2
    assert (
        kept.values()["accuracy"].dtype == np.float64
        and plain.values() == {} == plain.predictions()
    )
    assert np.array_equal(kept.values()["accuracy"], other.values()["accuracy"])
    answers, truth = kept.predictions()["y"]
    assert np.array_equal(kept.values()["accuracy"], answers.argmax(1) == truth)


def test_kept_values_survive_a_cut_and_older_checkpoints_can_be_read():
    whole, cut = measured(8, True), measured(8, True)
    cut.flush()
    fresh = Meter(cut.metrics, cut.fields, cut.device, keep=True)
    fresh.restore(cut.state())
    whole.flush()
    assert (
        np.array_equal(fresh.values()["accuracy"], whole.values()["accuracy"])
        and fresh.scores() == whole.scores()
    )
    older = {name: part for name, part in measured(8, False).state().items() if name != "each"}
    fresh = Meter(cut.metrics, cut.fields, cut.device)
    fresh.restore(older)
    assert fresh.scores() == whole.scores()


def test_whole_split_measures_get_an_interval_and_the_others_keep_theirs():
    field = SPEC.targets["y"]
    own = metrics.Metric(
        "max", over_split=lambda answers, targets: float(answers[:, 0].mean() - targets.mean())
    )
    meter = measured(
        8,
        True,
        accuracy=metrics.accuracy(field, threshold=0.5),
        f1=metrics.f1(field, average="macro"),
        own=own,
    )
    plain, found = meter.scores(), scores_with_intervals(meter, seed=0)
    assert (
        list(found) == list(plain)
        and found["accuracy"] == plain["accuracy"]
        and found["loss"] == plain["loss"]
    )
    for name in ("f1", "own"):
        assert (
            plain[name].low is None
            and found[name].low < found[name].value == plain[name].value < found[name].high
        )
    assert found == scores_with_intervals(meter, seed=0) != scores_with_intervals(meter, seed=1)


def test_a_sweep_of_the_engine_keeps_what_a_run_writes(tmp_path):
    t = trainer(tmp_path)
    meter = t.run_epoch("val", t.data.val, keep=True)
    assert (
        meter.values()["accuracy"].mean() == meter.scores()["accuracy"].value
        and len(meter.values()["accuracy"]) == 20
    )
    RunFolder(tmp_path).write_predictions(
        FitJob(), "val", meter.predictions(), np.arange(20), meter.values()
    )
    with np.load(tmp_path / "predictions" / "fit-val.npz", allow_pickle=False) as arrays:
        assert (
            set(arrays) == {"row", "output/y", "target/y", "value/accuracy"}
            and arrays["row"].dtype == np.int64
        )
