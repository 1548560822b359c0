"""Series: windows are views and the book's, statistics and splits never see what comes later, own units come back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratory import node

from dlrun.config.compose import configure
from dlrun.config.instantiate import build_part
from dlrun.core.dataset import SlidingWindows
from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import FitJob, ForecastHorizon, horizon_from_dict
from dlrun.data.audit.run import audit
from dlrun.data.cache import fingerprint
from dlrun.data.datasets import jena
from dlrun.data.display import describe_raw_row
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.data.series import series_file
from dlrun.data.series.series_dataset import parse_unit, strip_unit
from dlrun.evaluation.forecast_file import get_last_values
from dlrun.evaluation.metrics import get_default_metrics, rmse_unit
from dlrun.evaluation.protocols.plans import holdout, walk_forward
from dlrun.evaluation.protocols.splits import split_folds
from dlrun.models.pretrained.earlier_run import read_spec

LOOKBACK, STEP, DELAY, ROWS = 24, 3, 6, 400
START = np.datetime64("2020-03-01T00:00:00")


def values(rows=ROWS, seed=0):
    """Three columns of different scales, that differ at every row."""
    random = np.random.default_rng(seed)
    waves = 10 + 5 * np.sin(np.arange(rows) * 2 * np.pi / 24)
    return np.stack(
        [
            waves + random.normal(size=rows),
            1000 + random.normal(size=rows),
            random.normal(size=rows),
        ],
        1,
    )


def text(table, hours=None, names=("T (degC)", "p (mbar)", "max. wv (m/s)"), clock="when"):
    """A CSV file of hourly rows."""
    hours = np.arange(len(table)) if hours is None else hours
    times = [str(START + np.timedelta64(int(hour), "h")).replace("T", " ") for hour in hours]
    cells = [["" if np.isnan(cell) else f"{cell:.6f}" for cell in row] for row in table]
    return "\n".join(
        [
            ",".join([clock, *names]),
            *(",".join([t, *row]) for t, row in zip(times, cells, strict=True)),
        ]
    )


@pytest.fixture
def raw_of(tmp_path):
    def make(table=None, **changes):
        path = tmp_path / "s.csv"
        path.write_text(
            text(values() if table is None else table, changes.pop("hours", None)) + "\n"
        )
        usual = {
            "path": str(path),
            "time": "when",
            "target": "T (degC)",
            "lookback": LOOKBACK,
            "delay": DELAY + STEP,
        }
        return build_part(node("data", "series", **{**usual, "step": STEP, **changes}))

    return make


def book(data, lookback, delay, low, high, size, step):
    """The samples and targets of the book's generator (§6.3), unshuffled, of the first target column."""
    high = len(data) - delay - 1 if high is None else high
    found = []
    for row in range(low + lookback, high):
        indices = range(row - lookback, row, step)
        found.append((data[list(indices)][: lookback // step], data[row + delay][0]))
    samples, targets = zip(*found, strict=True)
    return np.array(samples[:size]), np.array(targets[:size])


def test_windows_are_the_books(raw_of):
    raw = raw_of(test=0)
    samples, targets = book(values(), LOOKBACK, DELAY, 0, None, 1000, STEP)
    windows = raw.dev["series"]
    ours = windows.values[windows.first[:, None] + windows.offsets]
    assert len(ours) == len(samples) + 1  # the book leaves the last one out
    np.testing.assert_allclose(ours[:-1], samples, atol=1e-6)
    np.testing.assert_allclose(raw.dev["T"][:-1, 0], targets, atol=1e-6)


def test_batches_are_the_same_windows_standardized(raw_of):
    raw = raw_of(test=0)
    train, val = np.arange(100), np.arange(200, 260)
    data = prepare(raw, train, val)
    touched = values()[: 99 + LOOKBACK - STEP + 1]
    mean, deviation = touched.mean(0), touched.std(0)
    (batch,) = data.val.batches(100)
    samples, targets = book(values(), LOOKBACK, DELAY, 0, None, 1000, STEP)
    np.testing.assert_allclose(batch["series"], (samples[val] - mean) / deviation, atol=1e-4)
    np.testing.assert_allclose(batch["T"][:, 0], (targets[val] - mean[0]) / deviation[0], atol=1e-4)
    field = data.spec.targets["T"]
    np.testing.assert_allclose(field.to_original_units(batch["T"])[:, 0], targets[val], atol=1e-4)
    assert data.spec.inputs["series"].labels == ("T (degC)", "p (mbar)", "max. wv (m/s)")
    assert data.spec.inputs["series"].shape == (LOOKBACK // STEP, 3)


def test_windows_are_views_at_every_stage(raw_of):
    raw = raw_of(values(5000), lookback=1200, step=1, test=0)
    windows, all_copied = raw.dev["series"], 3700 * 1200 * 3 * 4
    assert windows[np.arange(10)].values is windows.values
    column = prepare(raw, np.arange(1000), None).train.columns["series"]
    held = sum(
        tensor.numel() * tensor.element_size()
        for tensor in (column.values, column.first, column.offsets)
    )
    assert held < all_copied / 100
    batch = next(column.batches(slice(0, 4), 4))
    assert batch.shape == (4, 1200, 3)


def test_nothing_that_is_learnt_depends_on_later_rows(raw_of):
    """Every value after the last moment that training may know is poisoned: not a bit of training changes."""
    raw = raw_of(test=0.2)
    train, val = holdout(validation=0.3, by="time").split_rows(raw, FitJob(), 0)
    knows = train[-1] + LOOKBACK + DELAY  # the last row that a training window foretells
    first_seen = raw.dev["series"].first[val[0]]
    assert knows < first_seen == knows + 1
    poisoned = values()
    poisoned[knows + 1 :] = 1e6
    other = raw_of(poisoned, test=0.2)
    clean, dirty = prepare(raw, train, None), prepare(other, train, None)
    for mine, theirs in zip(clean.train.batches(64), dirty.train.batches(64), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert clean.preprocessors["series"][0].state() == dirty.preprocessors["series"][0].state()
    assert torch.equal(clean.spec.targets["T"].prior, dirty.spec.targets["T"].prior)


def test_no_window_reaches_into_the_test_rows_or_back(raw_of):
    raw = raw_of(test=0.25)
    test = raw.test()
    cut = ROWS - 100
    assert raw.dev["series"].values.shape[0] == cut and test["series"].values.shape[0] == 100
    np.testing.assert_allclose(raw.dev["T"][-1, 0], values()[cut - 1, 0], atol=1e-6)
    np.testing.assert_allclose(test["T"][0, 0], values()[cut + LOOKBACK + DELAY, 0], atol=1e-6)
    counted = raw_of(test=100)
    assert fingerprint(counted.dev) == fingerprint(raw.dev)
    data = prepare(raw, np.arange(50), None)
    assert next(transform_rows(raw, data, test).batches(8))["series"].shape == (8, 8, 3)


def test_walk_forward_keeps_a_gap_of_what_a_window_spans(raw_of):
    raw = raw_of(test=0)
    for gap, wanted in ((0, LOOKBACK + DELAY), (50, 50)):
        plan = walk_forward(folds=3, gap=gap, size=60)
        for fold in range(3):
            train, val = plan.split_rows(raw, FitJob(fold=fold, folds=3), 0)
            assert val[0] - train[-1] == wanted + 1 and len(val) == 60
            ends = raw.dev["series"].first[train[-1]] + LOOKBACK + DELAY
            assert ends < raw.dev["series"].first[val[0]]


@pytest.mark.parametrize("by", ["random", "stratified", "first", "last", "group"])
def test_other_splits_of_a_series_are_refused(raw_of, by):
    raw = raw_of(test=0)
    with pytest.raises(UserError, match="share their values.*last_in_time.*walk_forward"):
        holdout(validation=0.3, by=by).split_rows(raw, FitJob(), 0)
    with pytest.raises(UserError, match="share their values"):
        split_folds(raw, 4, "auto", True, 0)


def test_several_targets_and_horizons(raw_of):
    raw = raw_of(
        target=["T (degC)", "max. wv (m/s)"],
        delay=[1, 6, 24],
        inputs=["T (degC)", "p (mbar)"],
        test=0,
    )
    assert list(raw.targets) == ["T", "max_wv"] and raw.labels["T"] == (
        "in 1 h",
        "in 6 h",
        "in 24 h",
    )
    row = 17
    for place, column in ((0, "T"), (2, "max_wv")):
        wanted = [values()[row + LOOKBACK - STEP + delay, place] for delay in (1, 6, 24)]
        np.testing.assert_allclose(raw.dev[column][row], wanted, atol=1e-6)
    assert raw.forecast["max_wv"].unit == "m/s" and raw.forecast["T"].span == LOOKBACK - STEP + 24
    spec = prepare(raw, np.arange(200), None).spec
    assert spec.targets["T"].shape == (3,) and spec.inputs["series"].shape == (8, 2)
    own = raw.dev["max_wv"][
        :200
    ]  # no input has this column: standardized as its own training values are
    np.testing.assert_allclose(spec.targets["max_wv"].shift, [own.mean()], rtol=1e-5)
    np.testing.assert_allclose(spec.targets["max_wv"].scale, [own.std()], rtol=1e-5)


def test_no_window_crosses_a_gap_when_it_is_split(raw_of):
    hours = np.arange(ROWS)
    hours[150:] += 30  # 30 hours are missing before row 150
    hours[300:] -= 1  # row 300 has the time of row 299
    with pytest.raises(
        UserError,
        match=r"stands still at 1 row \(line 302\), leaves a gap at 1 row \(line 152\).*1 h",
    ):
        raw_of(hours=hours)
    ignored, split = (raw_of(hours=hours, gaps=gaps, test=0) for gaps in ("ignore", "split"))
    assert len(ignored) == ROWS - LOOKBACK - DELAY
    first = split.dev["series"].first
    assert len(split) == ROWS - 3 * (LOOKBACK + DELAY)
    for edge in (150, 300):
        assert not ((first < edge) & (first + LOOKBACK + DELAY >= edge)).any()


def test_missing_numbers(raw_of):
    holes = values()
    holes[100:103, 1] = np.nan
    with pytest.raises(
        UserError,
        match=r"misses numbers in 'p \(mbar\)' at 3 rows \(lines 102, 103, 104\).*impute=forward",
    ):
        raw_of(holes)
    forward = raw_of(holes, impute="forward", test=0).dev["series"].values
    np.testing.assert_allclose(forward[100:103, 1], holes[99, 1].repeat(3), atol=1e-6)
    line = raw_of(holes, impute="interpolate", test=0).dev["series"].values
    np.testing.assert_allclose(line[101, 1], (holes[99, 1] + holes[103, 1]) / 2, atol=1e-6)
    holes[200, 0] = np.nan  # a target that is not known is never made up
    known = raw_of(holes, impute="forward", test=0)
    assert len(known) == ROWS - LOOKBACK - DELAY - 1 and np.isfinite(known.dev["T"]).all()
    holes[0, 1] = np.nan
    with pytest.raises(UserError, match="nothing comes before line 2"):
        raw_of(holes, impute="forward")


def test_a_column_without_standard_deviations_of_its_own(raw_of):
    raw = raw_of(scale="none", test=0)
    field = prepare(raw, np.arange(100), None).spec.targets["T"]
    assert field.scale is None and list(get_default_metrics(field)) == ["mae", "rmse"]


def test_measures_in_the_own_unit(raw_of):
    field = prepare(raw_of(test=0), np.arange(100), None).spec.targets["T"]
    raw, truth = torch.randn(7, 1), torch.randn(7, 1)
    found = {
        name: metric.per_row(raw, truth) for name, metric in get_default_metrics(field).items()
    }
    assert list(found) == ["mae", "rmse", "mae_unit"]
    torch.testing.assert_close(found["mae_unit"], found["mae"] * field.scale)
    torch.testing.assert_close(rmse_unit(field).per_row(raw, truth), found["rmse"] * field.scale**2)


def test_a_run_says_its_own_unit_everywhere(tmp_path, raw_of):
    raw_of()
    words = ["task=series", f"data.path={tmp_path}/s.csv", "data.time=when", "data.target=T (degC)"]
    words += [
        "data.lookback=24",
        "data.delay=[6,12]",
        "engine.epochs=1",
        "model=last_value",
        "callback=none",
    ]
    from dlrun.experiment.runner import Experiment

    config = configure(
        [*(word if " " not in word else f"data.target='{word[12:]}'" for word in words)], []
    )
    experiment = Experiment(config, tmp_path / "run")
    (result,) = experiment.results()
    assert "T in °C" in result.note and "baseline: the last value of T (degC)" in result.note
    kept = np.load(tmp_path / "run/predictions/fit-val.npz")
    raw, rows = experiment.builder.dataset, kept["row"]
    np.testing.assert_allclose(kept["target/T"], raw.dev["T"][rows], rtol=1e-4)
    last = get_last_values(raw, raw.dev, raw.forecast["T"])[rows].repeat(2, 1)
    np.testing.assert_allclose(kept["output/T"], last, rtol=1e-4)
    wanted = np.abs(last - raw.dev["T"][rows]).mean()
    assert result.scores["mae_unit"].value == pytest.approx(wanted, rel=1e-5)
    assert result.baseline["mae_unit"].value == pytest.approx(wanted, rel=1e-5)
    field = read_spec(RunFolder(tmp_path / "run")).targets["T"]
    assert field.outlook == raw.forecast["T"] and field.scale is not None
    assert result.scores["mae_unit"].value == pytest.approx(
        result.scores["mae"].value * float(field.scale), rel=1e-5
    )


def test_names_and_units():
    assert [strip_unit(c) for c in ("T (degC)", "max. wv (m/s)", "rho (g/m**3)", "sold", "(m)")] == [
        "T", "max_wv", "rho", "sold", "m",
    ]  # fmt: skip
    assert [parse_unit(c) for c in ("T (degC)", "p [mbar]", "sold")] == ["°C", "mbar", ""]
    ahead = ForecastHorizon("T", (6, 144), 1440, 6, 600.0, True, "°C")
    assert (
        ahead.horizon_labels == ("in 2 h", "in 25 h")
        and ahead.rows_per_day == 144
        and ahead.window_length == 240
    )
    assert (
        ahead.rows_to_time(1008) == "7 d"
        and replace(ahead, dated=False).rows_to_time(6) == "6 rows"
    )
    assert (
        horizon_from_dict(ahead.to_dict()) == ahead
        and ahead.format_time(0.0) == "1970-01-01 00:00:00"
    )


@pytest.mark.parametrize(
    "form",
    [
        "{d:02}.{m:02}.{y} {h:02}:00:00",
        "{y}-{m:02}-{d:02}T{h:02}:00",
        "{d:02}.{m:02}.{y} {h:02}:00",
    ],
)
def test_times_are_read_as_they_are_written(tmp_path, form):
    lines = [
        form.format(y=2020, m=1 + day // 28, d=1 + day % 28, h=hour)
        for day in range(40)
        for hour in (0, 12)
    ]
    (tmp_path / "t.csv").write_text(
        "t;x\n" + "".join(f"{when};{row}\n" for row, when in enumerate(lines))
    )
    found = series_file.read_series(str(tmp_path / "t.csv"), "t", ("x",))
    assert found.has_dates and found.times[1] - found.times[0] == 43200
    assert str(np.datetime64(int(found.times[57]), "s")) == "2020-02-01T12:00:00"


def test_the_quick_and_the_careful_reader_agree(tmp_path):
    plain = text(values(60))
    (tmp_path / "a.csv").write_text(plain)
    (tmp_path / "b.csv").write_text(
        "\n".join('"' + line.replace(",", '","') + '"' for line in plain.splitlines())
    )
    first, second = (
        series_file.read_series(str(tmp_path / f"{name}.csv"), "when", ()) for name in "ab"
    )
    assert first.names == second.names and np.array_equal(first.values, second.values)
    assert np.array_equal(first.times, second.times) and np.array_equal(first.lines, second.lines)


def test_columns_of_texts_are_left_out_unless_asked_for(tmp_path):
    (tmp_path / "t.csv").write_text("t,x,word\n1,2.5,a\n2,3.5,b\n3,,c\n")
    found = series_file.read_series(str(tmp_path / "t.csv"), "t", ())
    assert found.names == ("x",) and np.isnan(found.values[2, 0]) and not found.has_dates
    with pytest.raises(UserError, match="line 2: column 'word' has 'a', not a finite number"):
        series_file.read_series(str(tmp_path / "t.csv"), "t", ("word",))


def test_the_audit_names_marks_for_missing_values(raw_of):
    marked = values()
    marked[50, 2] = -9999
    marked[:, 1] = 7
    raw = raw_of(marked, test=0)
    train, val = holdout(validation=0.3, by="time").split_rows(raw, FitJob(), 0)
    told = {finding.what: finding for finding in audit(raw, train, val, 0)}
    assert (
        told["marks for missing"].columns == ("max. wv (m/s)",)
        and "-9999" in told["marks for missing"].text
    )
    assert told["constant columns"].columns == ("p (mbar)",)
    clean = {finding.what for finding in audit(raw_of(test=0), train, val, 0)}
    assert not clean & {
        "marks for missing",
        "constant columns",
        "duplicates",
        "duplicates across splits",
    }


def test_a_window_is_shown_by_what_it_sees_last(raw_of):
    raw = raw_of(test=0)
    view = describe_raw_row(raw, raw.dev, 5)
    seen = values()[5 + LOOKBACK - STEP]
    assert float(view["cells"]["T (degC)"]) == pytest.approx(seen[0], rel=1e-3)


def test_the_sample_is_made_up_and_even():
    found = jena.generate_jena_sample()
    assert (
        set(np.diff(found.times)) == {600.0}
        and found.names == jena.COLUMNS
        and np.isfinite(found.values).all()
    )
    daily = found.values[:, 1] - np.convolve(found.values[:, 1], np.ones(144) / 144, "same")
    assert np.corrcoef(daily[200:-344], daily[344:-200])[0, 1] > 0.5  # a day later it is alike


HERE = Path(os.environ.get("DLRUN_DATA") or "no data here") / "jena_climate"


def test_the_true_head_of_the_official_file_is_read():
    head = HERE / "jena_climate_2009_2016_head.csv"
    if not head.is_file():
        pytest.skip("the head of the official Jena file is not here (DLRUN_DATA)")
    found = series_file.read_series(str(head), jena.CLOCK, jena.COLUMNS)
    assert found.names == jena.COLUMNS and len(found) == 19 and set(np.diff(found.times)) == {600.0}
    assert str(np.datetime64(int(found.times[0]), "s")) == "2009-01-01T00:10:00"
    np.testing.assert_array_equal(
        found.values[0],
        [
            996.52,
            -8.02,
            265.4,
            -8.9,
            93.3,
            3.33,
            3.11,
            0.22,
            1.94,
            3.12,
            1307.75,
            1.03,
            1.75,
            152.3,
        ],
    )
    assert all(
        jena.unit
        for jena in [
            ForecastHorizon("T", (1,), 1, 1, 600, True, parse_unit(name)) for name in found.names
        ]
    )


def test_the_real_year_has_its_mark_its_gap_and_its_repeat():
    if not (HERE / "jena_climate_2020.csv.zip").is_file():
        pytest.skip("the year 2020 of the Jena weather is not here (DLRUN_DATA)")
    found = jena.load_jena_file("jena_climate_2020.csv.zip")
    steps = np.diff(found.times)
    assert len(found) == 52_696 and (steps == 0).sum() == 1 and (steps == 6000).sum() == 1
    assert (found.values[:, jena.COLUMNS.index("wv (m/s)")] == -9999).sum() == 1


def test_another_official_file_is_refused_by_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path))
    place = tmp_path / "jena_climate"
    place.mkdir()
    names = ",".join(f'"{name}"' for name in (jena.TIME_COLUMN, *jena.COLUMNS))
    (place / jena.JENA.name).write_text(names + "\n01.01.2009 00:10:00" + ",1.0" * 14 + "\n")
    with pytest.raises(
        UserError,
        match="is not the official file: it has 1 rows of 14 number columns, expected 420,451",
    ):
        jena.load_jena_file(jena.JENA.name)
    with pytest.raises(
        UserError,
        match=r"data.file=other.zip is not in .*; there are: jena_climate_2009_2016.csv.zip",
    ):
        jena.load_jena_file("other.zip")


def test_windows_of_a_column_say_which_rows_they_touch():
    column = SlidingWindows(np.arange(20.0)[:, None], np.array([2, 3, 12]), np.array([0, 2]))
    assert column.unique_rows()[:, 0].tolist() == [2, 3, 4, 5, 12, 13, 14]


def test_a_number_that_the_first_test_row_lacks_is_carried_from_the_row_before(raw_of):
    table = values(100)
    table[75, 0] = np.nan
    raw = raw_of(table, test=0.25, impute="forward", lookback=6, step=1, delay=1)
    assert raw.test()["series"].values[0, 0] == pytest.approx(table[74, 0], abs=1e-6)


def test_the_next_row_is_one_row_ahead(raw_of):
    raw = raw_of(lookback=5, step=1, delay=1, test=0)
    assert raw.forecast["T"].horizon_rows == (1,)
    window = raw.dev["series"]
    last = window.first + window.offsets[-1]
    np.testing.assert_allclose(raw.dev["T"][:, 0], values()[last + 1, 0], atol=1e-6)
