"""Weather at Jena, every ten minutes: the temperature a day ahead (book §6.3)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dlrun.config.constraints import Count, NonNegative
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError, format_names
from dlrun.core.paths import data_root as root
from dlrun.data.downloads import RemoteFile, fetch
from dlrun.data.series import series_dataset, series_file
from dlrun.data.series.imputation import MissingValuePolicy
from dlrun.data.series.readings import TimeSeries
from dlrun.data.series.series_dataset import SeriesSchema
from dlrun.data.series.timestamps import Gaps

TIME_COLUMN = "Date Time"
COLUMNS = (
    "p (mbar)", "T (degC)", "Tpot (K)", "Tdew (degC)", "rh (%)", "VPmax (mbar)", "VPact (mbar)", "VPdef (mbar)",
    "sh (g/kg)", "H2OC (mmol/mol)", "rho (g/m**3)", "wv (m/s)", "max. wv (m/s)", "wd (deg)",
)  # fmt: skip
JENA = RemoteFile(
    "jena_climate",
    "jena_climate_2009_2016.csv.zip",
    "",  # nobody publishes one: the file is known by its columns and by how many rows it has
    (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/jena_climate_2009_2016.csv.zip",
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
    scale: Literal["standardise", "none"],
    look_ahead: bool = True,
) -> Dataset:
    """14 measures of the weather station of the Max Planck Institute for Biogeochemistry in Jena, 2009 to 2016.

    file: the official one, or another of the same columns in the folder jena_climate of the data root. No checksum of
    the official file is published; it is known by its columns and its 420,451 rows. See `series` for the rest.
    Raises UserError when the file cannot be had, or is another.
    """
    readings = generate_jena_sample() if source == "sample" else load_jena_file(file)
    wanted = [target] if isinstance(target, str) else list(target)
    series_file.check_series_columns(readings, (*wanted, *(inputs or ())))
    ahead = series_dataset.build_target_forecast(
        readings, wanted, series_dataset.parse_delay(delay), lookback, step
    )
    plan = SeriesSchema(
        tuple(inputs or readings.names), ahead, gaps, impute, scale == "standardise", look_ahead
    )
    note = f"{file}: not the book's file, {len(readings):,} rows" if file != JENA.name else ""
    note = (
        "SYNTHETIC sample, not the real jena_climate: its figures say nothing about it"
        if source == "sample"
        else note
    )

    def read(path: str, encoding: str | None) -> TimeSeries:
        return series_file.read_series(
            path,
            TIME_COLUMN,
            plan.inputs,
            series_file.SeriesReadOptions(encoding=encoding or "utf-8"),
        )

    return series_dataset.build_series_dataset(readings, plan, test, read, note)


def load_jena_file(file: str) -> TimeSeries:
    """The series in a file of the official kind. Raises UserError where it is not there, or has other columns."""
    place = root() / JENA.task / file
    if file == JENA.name:
        place = fetch(JENA)
    elif not place.is_file():
        there = (
            sorted(path.name for path in place.parent.glob("*.csv*"))
            if place.parent.is_dir()
            else []
        )
        raise UserError(
            f"data.file={file} is not in {place.parent}; there are: {format_names(there, file) or 'none'}"
        )
    readings = series_file.read_series(str(place), TIME_COLUMN, COLUMNS)
    if readings.names != COLUMNS or (file == JENA.name and len(readings) not in ROW_COUNTS):
        raise UserError(
            f"{place} is not the official file: it has {len(readings):,} rows of {len(readings.names)} number columns, "
            f"expected {ROW_COUNTS[0]:,} of {', '.join(COLUMNS)}"
        )
    return readings


def generate_jena_sample() -> TimeSeries:
    """SYNTHETIC: daily and yearly waves with noise that lasts for hours, in the official columns."""
    random = np.random.RandomState(SEED)
    moments = 1_230_768_600.0 + 600 * np.arange(SAMPLE_ROWS)
    year = 2 * np.pi * (moments - 1_230_768_600) / (365.25 * 86_400)
    day = 2 * np.pi * (moments % 86_400) / 86_400
    front, wet, still = (_generate_smooth_noise(random, hours) for hours in (60, 30, 8))
    degrees = (
        9
        - 9 * np.cos(year)
        - 4 * np.cos(day - 0.5)
        + 3.5 * front
        + 0.3 * random.normal(size=SAMPLE_ROWS)
    )
    pressure = 989 - 7 * front + 4 * wet
    dew = degrees - 4 - 2.5 * np.abs(wet) + np.cos(day)
    most, vapour = (6.11 * np.exp(17.27 * t / (t + 237.3)) for t in (degrees, dew))
    wind = np.abs(2 + 1.3 * still)
    columns = (
        pressure, degrees, degrees + 273.15 + 0.08 * (1000 - pressure), dew, 100 * vapour / most, most, vapour,
        most - vapour, 622 * vapour / pressure, 1000 * vapour / pressure, 100 * pressure / (0.287 * (degrees + 273.15)),
        wind, wind * 1.7, (180 + 90 * wet) % 360,
    )  # fmt: skip
    values = np.round(np.stack(columns, 1), 2)
    return TimeSeries(
        "the synthetic sample",
        TIME_COLUMN,
        moments,
        True,
        COLUMNS,
        values,
        np.arange(2, SAMPLE_ROWS + 2),
    )


def _generate_smooth_noise(random: np.random.RandomState, hours: float) -> np.ndarray:
    """Noise of variance 1 whose values hang together over so many hours."""
    keep = np.exp(-1 / (6 * hours))
    found, drawn = np.empty(SAMPLE_ROWS), random.normal(size=SAMPLE_ROWS)
    found[0] = drawn[0]
    for row in range(1, SAMPLE_ROWS):
        found[row] = keep * found[row - 1] + np.sqrt(1 - keep * keep) * drawn[row]
    return found
