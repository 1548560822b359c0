"""What a finished run forecasts: the values that come after the last row of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFolder
from dlrun.data.preprocessing.pipeline import transform_rows
from dlrun.experiment.inference import load_fits, predict_rows
from dlrun.experiment.inference_folds import FitPrediction, average_predictions
from dlrun.models.pretrained.earlier_run import get_prediction_jobs, read_spec


@dataclass(frozen=True)
class ForecastValue:
    """One value to come.

    Attributes:
        target: Of the run.
        column: Of the target in the file.
        when: Its time.
        ahead: How far after the last row that is.
        value: In the column's unit.
        unit: Of the column; '' where it names none.
    """

    target: str
    column: str
    when: str
    ahead: str
    value: float
    unit: str


@dataclass(frozen=True)
class SeriesForecast:
    """The forecast of a run.

    Attributes:
        last: Time of the file's last row.
        rows: How many the run has looked at.
        values: By target and horizon.
        note: A remark on whose predictions these are.
    """

    last: str
    rows: int
    values: list[ForecastValue]
    note: str = ""


def predict_series(
    folder: Path, file: Path, plugins: tuple[str, ...] = (), fit: str = "", **reading: str
) -> SeriesForecast:
    """Forecast the values after the last row of a CSV file; it needs no target columns beyond that
    row.

    Args:
        folder: Of the run.
        file: With the run's columns; the window ends with its last row, as in training.
        plugins: Packages whose parts may be named.
        fit: Name of the fit; '' for the one (or the mean of those) that stands for the run.
        **reading: Encoding of the file, where it is not the run's.

    Raises:
        UserError: if the run reads no series, its data have changed since, or the file lacks
            columns or rows.
    """
    jobs, note = get_prediction_jobs(folder, fit)
    targets = read_spec(RunFolder(folder), jobs[0].name).targets
    if not targets or any(field.outlook is None for field in targets.values()):
        raise UserError(f"{folder} foretells no series")
    predictions = list[FitPrediction]()
    for builder, built in load_fits(folder, jobs, plugins):
        assert builder.dataset.read_new_rows is not None and builder.dataset.order is not None
        rows, _ = builder.dataset.read_new_rows(str(file), **reading)
        table = transform_rows(builder.dataset, built.data, rows)
        predictions.append(FitPrediction(built, table, predict_rows(built, table)))
    outputs = average_predictions(predictions)
    assert builder.dataset.order is not None
    # The time column says when the forecast begins.
    last = float(rows[builder.dataset.order][-1])
    values: list[ForecastValue] = []
    for target, horizon in builder.dataset.forecast.items():
        for index, rows_ahead in enumerate(horizon.horizon_rows):
            when = horizon.format_time(last + rows_ahead * horizon.every)
            value = float(outputs[target][0, index])
            values.append(
                ForecastValue(
                    target,
                    horizon.column,
                    when,
                    horizon.rows_to_time(rows_ahead),
                    value,
                    horizon.unit,
                )
            )
    first_horizon = next(iter(builder.dataset.forecast.values()))
    return SeriesForecast(
        first_horizon.format_time(last),
        first_horizon.lookback - first_horizon.step + 1,
        values,
        note,
    )
