"""What a finished run foretells of a series: the values that come after the last row of a file."""

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
    """One value to come. column: of the target in the file. when: its moment, ahead: how far after the last row that
    is. value: in the column's own unit ('' where it names none)."""

    target: str
    column: str
    when: str
    ahead: str
    value: float
    unit: str


@dataclass(frozen=True)
class SeriesForecast:
    """last: the moment of the file's last row. rows: how many the run looked at. values: by target and horizon. told:
    whose answers these are, where that needs a word."""

    last: str
    rows: int
    values: list[ForecastValue]
    note: str = ""


def predict_series(
    folder: Path, file: Path, plugins: tuple[str, ...] = (), fit: str = "", **reading: str
) -> SeriesForecast:
    """What a run foretells after the last row of a CSV file with its columns; the file needs no target beyond them.

    The window ends with that last row, as in training. reading: its encoding, where that is another. Raises
    UserError where the run reads no series, where its data have changed since, and where the file lacks columns or rows.
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
