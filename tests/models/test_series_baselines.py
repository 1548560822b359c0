"""Naive answers to series by hand, what rests on them, and what a run foretells after the end of a file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from laboratory import node
from test_series import DELAY, LOOKBACK, STEP, text, values

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError
from dlrun.core.types import Field, ForecastHorizon, Spec
from dlrun.data.preprocessing.pipeline import prepare
from dlrun.experiment.inference_series import predict_series
from dlrun.models.baselines import SeriesBaseline, build_baseline, compute_window_steps
from dlrun.models.constant_model import ConstantModel
from dlrun.workflow import decisions


@pytest.fixture
def prepared(tmp_path):
    def make(**changes):
        path = tmp_path / "s.csv"
        path.write_text(text(values()) + "\n")
        usual = {
            "path": str(path),
            "time": "when",
            "target": "T (degC)",
            "lookback": LOOKBACK,
            "delay": DELAY + STEP,
        }
        raw = build_part(node("data", "series", **{**usual, "step": STEP, "test": 0, **changes}))
        return raw, prepare(raw, np.arange(150), np.arange(260, 300))

    return make


def test_the_same_answer_is_not_tried_twice(prepared):
    daily = ForecastHorizon("T (degC)", (0,), LOOKBACK, 1, 86400.0, True)
    raw, _ = prepared()
    assert decisions.get_series_baselines(raw) == ("last_value", "same_time_before")
    assert decisions.get_series_baselines(replace(raw, forecast={"T": daily})) == ("last_value",)


def answered(model, data):
    (batch,) = data.val.batches(100)
    return {
        name: data.spec.targets[name].to_original_units(raw).numpy()
        for name, raw in model(batch).items()
    }


@pytest.mark.parametrize("scale", ["standardize", "none"])
def test_the_last_value_is_the_last_that_the_window_holds(prepared, scale):
    _, data = prepared(
        target=["max. wv (m/s)", "T (degC)"], delay=[1 + STEP, DELAY + STEP], scale=scale
    )
    found = answered(build_part(node("model", "last_value"), data.spec), data)
    last = values()[
        260 + LOOKBACK - STEP : 300 + LOOKBACK - STEP
    ]  # one step before now, as the book's
    np.testing.assert_allclose(found["T"], last[:, :1].repeat(2, 1), atol=1e-4)
    np.testing.assert_allclose(found["max_wv"], last[:, 2:].repeat(2, 1), atol=1e-4)


def test_the_same_time_before_is_whole_days_before_what_is_foretold(prepared):
    _, data = prepared(lookback=48, step=1, delay=[6, 25, 31])
    found = answered(build_part(node("model", "same_time_before"), data.spec), data)["T"]
    for row in (0, 39):
        now = 260 + row + 48
        wanted = [
            values()[now + 5 - 24, 0],
            values()[now - 24, 0],
            values()[now + 30 - 48, 0],
        ]  # now - 0 is not seen
        np.testing.assert_allclose(found[row], wanted, atol=1e-4)


def test_where_the_same_time_before_is_looked_for():
    jena = ForecastHorizon("T (degC)", (144,), 1440, 6, 600.0, True)
    assert compute_window_steps(jena, None) == [
        216
    ]  # 144 rows before now: the window ends 6 before it
    assert compute_window_steps(jena, 150) == [239]  # 6 rows before now: the last step
    with pytest.raises(UserError, match="144 rows before now, and the window begins 72 before"):
        compute_window_steps(ForecastHorizon("T", (144,), 72, 6, 600.0, True), None)
    with pytest.raises(UserError, match="say model.period=ROWS"):
        compute_window_steps(ForecastHorizon("T", (1,), 12, 1, 1.0, False), None)


def test_what_needs_the_targets_own_column_says_so(prepared):
    _, data = prepared(inputs=["p (mbar)"])
    for model in ("last_value", "same_time_before"):
        with pytest.raises(UserError, match=f"model={model}.*there are none of T"):
            build_part(node("model", model), data.spec)
    assert isinstance(build_baseline(data.spec), ConstantModel)
    with pytest.raises(UserError, match="needs a series"):
        build_part(
            node("model", "last_value"),
            Spec({"x": Field("number", (2,))}, {"y": Field("number", (1,))}),
        )


def test_a_forecast_is_measured_against_the_last_value(prepared):
    _, data = prepared()
    bar = build_baseline(data.spec)
    assert (
        isinstance(bar, SeriesBaseline)
        and bar.note == "baseline: the last value of T (degC) in the window"
    )
    last = build_part(node("model", "last_value"), data.spec)
    (batch,) = data.val.batches(100)
    assert torch.equal(bar(batch)["T"], last(batch)["T"]) and not list(bar.parameters())


def run(tmp_path, *words):
    path = tmp_path / "s.csv"
    path.write_text(text(values()) + "\n")
    about = [
        f"data.path={path}",
        "data.time=when",
        "data.target='T (degC)'",
        "data.lookback=24",
        "data.delay=[6,12]",
    ]
    begin = [words[0]] if words[0] == "workflow" else []
    rest = [word for word in words if word != "workflow"]
    code = main(
        [*begin, "task=series", *about, "engine.device=cpu", f"output={tmp_path}/out", *rest]
    )
    return code, next((tmp_path / "out").rglob("config.yaml")).parent


def test_a_run_draws_its_forecast(tmp_path):
    code, folder = run(tmp_path, "engine.epochs=2", "protocol=walk_forward", "protocol.folds=2")
    assert code == 0
    kept = json.loads((folder / "forecast/fold-2-val.json").read_text())["T"]
    assert len(kept["error"]) == 2 == len(kept["answer"][0]) and len(kept["now"]) == len(
        kept["truth"]
    )
    assert kept["last_error"][0] == pytest.approx(
        np.abs(np.subtract(kept["last"], kept["truth"])).mean(0)[0], rel=1e-3
    )
    assert (folder / "forecast-T-folds-val.png").stat().st_size > 20_000
    assert "Forecast vs actual" in (folder / "report.html").read_text()
    assert "in °C" in (folder / "report.md").read_text()


def test_what_comes_after_the_last_row(tmp_path):
    code, folder = run(tmp_path, "model=last_value")
    assert code == 0
    new = values(60, seed=5)
    (tmp_path / "new.csv").write_text(text(new, hours=1000 + np.arange(60)))
    found = predict_series(folder, tmp_path / "new.csv")
    assert found.last == "2020-04-14 03:00:00" and found.rows == 24
    assert [(one.when, one.ahead, one.unit) for one in found.values] == [
        ("2020-04-14 09:00:00", "6 h", "°C"), ("2020-04-14 15:00:00", "12 h", "°C"),
    ]  # fmt: skip
    assert [one.value for one in found.values] == pytest.approx([new[-1, 0]] * 2, rel=1e-5)
    (tmp_path / "few.csv").write_text(text(new[:10]))
    with pytest.raises(UserError, match="has 10 rows, and a window needs 24"):
        predict_series(folder, tmp_path / "few.csv")
    (tmp_path / "other.csv").write_text(text(new, names=("T (degC)", "p (mbar)", "x")))
    with pytest.raises(UserError, match="'max. wv \\(m/s\\)' is no column of"):
        predict_series(folder, tmp_path / "other.csv")


def test_the_workflow_has_to_beat_the_best_answer_that_costs_nothing(tmp_path, capsys):
    code, folder = run(
        tmp_path, "workflow", "workflow.budget=1", "engine.epochs=1", "workflow.protocol=task"
    )
    assert code == 0
    steps = {step["step"]: step for step in json.loads((folder / "workflow.json").read_text())}
    told = "\n".join(steps[5]["evidence"])
    assert "the constant baseline has mae" in told and "the last value has mae" in told
    assert "the value at the same time of an earlier day has mae" in told
    stages = dict.fromkeys(
        json.loads(line)["job"]["stage"] for line in (folder / "results.jsonl").open()
    )
    assert list(stages)[:4] == ["constant", "last_value", "same_time_before", "linear"]
    bars = (
        "the constant baseline",
        "the last value",
        "the value at the same time of an earlier day",
    )
    assert any(bar in steps[5]["verdict"].lower() for bar in bars)
