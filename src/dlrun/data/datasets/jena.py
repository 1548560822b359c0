"""Weather at Jena, every ten minutes: the temperature a day ahead (book §6.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from dlrun.config.annotations import Count, NonNegative
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError, format_names
from dlrun.core.files import data_root as root
from dlrun.data.cache import RemoteFile, fetch
from dlrun.data.series import series_dataset, series_file
from dlrun.data.series.series_windows import MissingValuePolicy, SeriesSchema
from dlrun.data.series.timestamps import Gaps, TimeSeries

TIME_COLUMN = "Date Time"
COLUMNS = (
    *("p (mbar)", "T (degC)", "Tpot (K)", "Tdew (degC)", "rh (%)"),
    *("VPmax (mbar)", "VPact (mbar)", "VPdef (mbar)", "sh (g/kg)", "H2OC (mmol/mol)"),
    *("rho (g/m**3)", "wv (m/s)", "max. wv (m/s)", "wd (deg)"),
)
JENA = RemoteFile(
    "jena_climate",
    "jena_climate_2009_2016.csv.zip",
    "",  # no checksum is published: the file is recognized by its columns and number of rows
    (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
        "jena_climate_2009_2016.csv.zip",
        "https://s3.amazonaws.com/keras-datasets/jena_climate_2009_2016.csv.zip",
    ),
)
ROW_COUNTS = (420_451, 420_551)  # in today's file, and as the book's notebook prints it
SEED, SAMPLE_ROWS = 113, 10_000


def jena_climate(
    *,
    source: Literal["official", "sample"],
    file: str,
    target: str | list[str],
    lookback: Count,
    delay: Count | list[Count],
    step: Count,
    inputs: list[str] | None,
    test: NonNegative,
    gaps: Gaps,
    impute: MissingValuePolicy,
    scale: Literal["standardize", "none"],
    look_ahead: bool = True,
) -> Dataset:
    """14 measurements of the weather station of the MPI for Biogeochemistry in Jena, 2009 to 2016.

    Args:
        source: `official`, or `sample` for a synthetic series.
        file: The official file, or another one of the same columns in the folder jena_climate
            of the data root.
        target: Column or columns to forecast.
        lookback: Rows that a window looks back.
        delay: Rows from now to the target; several are several horizons. A window ends one step
            before now, as in the book's generator.
        step: Distance in rows between the rows of a window.
        inputs: Input columns; None: all.
        test: Share, or number, of rows at the end that become test rows.
        gaps: What to do with missing rows.
        impute: What to do with missing values.
        scale: `standardize` learns mean and standard deviation from training rows.
        look_ahead: With impute=interpolate: whether a window that ends in a gap may draw on the
            value after it.

    Raises:
        UserError: The file is not available, or is another.
    """
    readings = generate_jena_sample() if source == "sample" else load_jena_file(file)
    targets = [target] if isinstance(target, str) else list(target)
    series_file.check_series_columns(readings, (*targets, *(inputs or ())))
    forecasts = series_dataset.build_target_forecast(
        readings, targets, series_dataset.parse_delay(delay), lookback, step
    )
    series_schema = SeriesSchema(
        tuple(inputs or readings.names), forecasts, gaps, impute, scale == "standardize", look_ahead
    )
    note = ""
    if source == "sample":
        note = "SYNTHETIC sample, not the real jena_climate: its figures say nothing about it"
    elif file != JENA.name:
        note = f"{file}: not the book's file, {len(readings):,} rows"

    def read(path: str, encoding: str | None) -> TimeSeries:
        return series_file.read_series(
            path,
            TIME_COLUMN,
            series_schema.inputs,
            series_file.SeriesReadOptions(encoding=encoding or "utf-8"),
        )

    dataset = series_dataset.build_series_dataset(readings, series_schema, test, read, note)
    is_sample = source == "sample"
    return replace(dataset, synthetic=is_sample, differs_from_book=bool(note) and not is_sample)


def load_jena_file(file: str) -> TimeSeries:
    """Read a file of the official kind.

    Args:
        file: Name of the file in the folder jena_climate of the data root.

    Raises:
        UserError: The file is not there, or has other columns.
    """
    path = root() / JENA.task / file
    if file == JENA.name:
        path = fetch(JENA)
    elif not path.is_file():
        # Empty where the folder does not exist.
        available = sorted(csv_path.name for csv_path in path.parent.glob("*.csv*"))
        raise UserError(
            f"data.file={file} is not in {path.parent}; "
            f"there are: {format_names(available, file) or 'none'}"
        )
    # Without a checksum, columns and number of rows tell whether it is the official file.
    readings = series_file.read_series(str(path), TIME_COLUMN, COLUMNS)
    if readings.names != COLUMNS or (file == JENA.name and len(readings) not in ROW_COUNTS):
        raise UserError(
            f"{path} is not the official file: it has {len(readings):,} rows of "
            f"{len(readings.names)} number columns, expected {ROW_COUNTS[0]:,} of "
            f"{', '.join(COLUMNS)}"
        )
    return readings


def generate_jena_sample() -> TimeSeries:
    """SYNTHETIC: daily and yearly waves with noise that lasts for hours; the official columns."""
    random = np.random.RandomState(SEED)
    # From 2009-01-01 00:10 on, as in the official file, in seconds.
    times = 1_230_768_600.0 + 600 * np.arange(SAMPLE_ROWS)
    year = 2 * np.pi * (times - 1_230_768_600) / (365.25 * 86_400)
    day = 2 * np.pi * (times % 86_400) / 86_400
    front_noise, humidity_noise, wind_noise = (
        _generate_smooth_noise(random, hours) for hours in (60, 30, 8)
    )
    temperature = (
        9
        - 9 * np.cos(year)
        - 4 * np.cos(day - 0.5)
        + 3.5 * front_noise
        + 0.3 * random.normal(size=SAMPLE_ROWS)
    )
    pressure = 989 - 7 * front_noise + 4 * humidity_noise
    dew = temperature - 4 - 2.5 * np.abs(humidity_noise) + np.cos(day)
    wind = np.abs(2 + 1.3 * wind_noise)
    direction = (180 + 90 * humidity_noise) % 360
    columns = _derive_columns(pressure, temperature, dew, wind, direction)
    values = np.round(np.stack(columns, 1), 2)
    return TimeSeries(
        "the synthetic sample",
        TIME_COLUMN,
        times,
        True,
        COLUMNS,
        values,
        # Line numbers, as in a file whose first line is the header.
        np.arange(2, SAMPLE_ROWS + 2),
    )


def _derive_columns(
    pressure: np.ndarray,
    temperature: np.ndarray,
    dew: np.ndarray,
    wind: np.ndarray,
    direction: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Return all measurements in the order of COLUMNS, most of which follow from a few."""
    # Magnus' formula: the saturation pressure of water vapor in mbar at a temperature in °C.
    saturation_pressure, vapor_pressure = (
        6.11 * np.exp(17.27 * celsius / (celsius + 237.3)) for celsius in (temperature, dew)
    )
    kelvin = temperature + 273.15
    return (
        pressure,
        temperature,
        kelvin + 0.08 * (1000 - pressure),
        dew,
        100 * vapor_pressure / saturation_pressure,
        saturation_pressure,
        vapor_pressure,
        saturation_pressure - vapor_pressure,
        622 * vapor_pressure / pressure,
        1000 * vapor_pressure / pressure,
        100 * pressure / (0.287 * kelvin),
        wind,
        wind * 1.7,
        direction,
    )


def _generate_smooth_noise(random: np.random.RandomState, hours: float) -> np.ndarray:
    """Return autoregressive noise of variance 1 whose correlation lasts for so many hours."""
    correlation = np.exp(-1 / (6 * hours))
    # Autoregressive of order 1, at six rows an hour; scaled so that the variance stays 1.
    noise, shocks = np.empty(SAMPLE_ROWS), random.normal(size=SAMPLE_ROWS)
    noise[0] = shocks[0]
    for row in range(1, SAMPLE_ROWS):
        noise[row] = (
            correlation * noise[row - 1] + np.sqrt(1 - correlation * correlation) * shocks[row]
        )
    return noise
