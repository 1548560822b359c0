"""House prices from numbers about the district: Boston (1978) and California (1990)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from dlrun.config.annotations import Probability
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.data.cache import RemoteFile, fetch
from dlrun.data.datasets import synthetic
from dlrun.data.preprocessing.numeric import StandardScaler
from dlrun.data.tabular import csv_file, holdout, schema
from dlrun.data.tabular.targets import Target

# Keras' load_data shuffles with this seed and splits here: the rows are the book's.
SEED = 113
BOSTON_DEV = 0.8
BOSTON_COLUMNS = (
    *("CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE"),
    *("DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT"),
)
BOSTON = RemoteFile(
    "boston_housing",
    "boston_housing.npz",
    "f553886a1f8d56431e820c5b82552d9d95cfcb96d1e678153f8839538947dff5",
    (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/boston_housing.npz",
        "https://s3.amazonaws.com/keras-datasets/boston_housing.npz",
    ),
)
CALIFORNIA_COLUMNS = (
    *("longitude", "latitude", "housing_median_age", "total_rooms", "total_bedrooms"),
    *("population", "households", "median_income", "median_house_value", "ocean_proximity"),
)
CALIFORNIA = RemoteFile(
    "california_housing",
    "housing.csv",
    "8a3727f4cf54ac1a327f69b1d5b4db54c5834ea81c6e4efc0d163300022a685e",
    (
        "https://raw.githubusercontent.com/ageron/handson-ml2/master/datasets/housing/housing.csv",
        "https://github.com/ageron/handson-ml2/raw/master/datasets/housing/housing.csv",
    ),
    alternate_paths=("tabular/california_housing/housing.csv",),
)


def boston_housing(*, source: Literal["official", "sample"]) -> Dataset:
    """Median prices in k$ (Harrison & Rubinfeld 1978; book §3.6): 404 rows, and 102 test rows.

    Input `features` (N, 13), target `price`. The column B is made from the share of Black
    inhabitants on a racist assumption; it has been disowned, and scikit-learn has withdrawn the
    dataset. It is here to repeat the book's run.

    Args:
        source: `official`, or `sample` for synthetic rows.

    Raises:
        UserError: The file is not available.
    """

    def read(test: bool) -> RawColumns:
        features, prices = synthetic.generate_boston() if source == "sample" else _load_boston()
        # Keras shuffles all rows, and splits them then.
        order = np.arange(len(prices))
        np.random.RandomState(SEED).shuffle(order)
        first = int(len(prices) * BOSTON_DEV)
        order = order[first:] if test else order[:first]
        return {"features": features[order], "price": prices[order]}

    return Dataset(
        dev=read(False),
        test=lambda: read(True),
        inputs={"features": "number"},
        targets={"price": "number"},
        preprocessors={"features": (StandardScaler(),)},
        labels={"features": BOSTON_COLUMNS},
        note=synthetic.sample_note("boston_housing") if source == "sample" else "",
        synthetic=source == "sample",
        read_new_rows=schema.make_row_reader(BOSTON_COLUMNS, "price", "number"),
    )


def california_housing(
    *, source: Literal["official", "sample"], test: Probability, standardize_target: bool = False
) -> Dataset:
    """Median prices in $ (Pace & Barry 1997, as in Géron's handson-ml2): 20,640 rows.

    Inputs `features` (N, 8), with missing numbers, and `ocean_proximity`, a category; target
    `median_house_value`. There are no official test rows; they are the same ones in every run.

    Args:
        source: `official`, or `sample` for synthetic rows.
        test: Share of the rows that becomes test rows.
        standardize_target: Train on the target in standard deviations.

    Raises:
        UserError: The file is not available.
    """
    sample = source == "sample"
    table = synthetic.generate_california(CALIFORNIA_COLUMNS) if sample else _load_california()
    target, category = CALIFORNIA_COLUMNS[-2:]
    table_schema = schema.TableSchema(
        CALIFORNIA_COLUMNS[:-2], (category,), (), (Target(target, "number", (target,)),)
    )
    # The same rows in every run: they are drawn with a seed of their own.
    dev, sealed = holdout.random_holdout(len(table), test)
    dataset = schema.build_table_dataset(
        table_schema,
        table.take(dev),
        (lambda: table.take(sealed)) if test else None,
        scale="standardize",
        impute="median",
        indicator=False,
        standardize_target=standardize_target,
        note=synthetic.sample_note("california_housing") if sample else "",
    )
    return replace(dataset, synthetic=sample)


def _load_boston() -> tuple[np.ndarray, np.ndarray]:
    with np.load(fetch(BOSTON), allow_pickle=False) as archive:
        return archive["x"], archive["y"]


def _load_california() -> csv_file.CsvTable:
    return csv_file.read_csv(str(fetch(CALIFORNIA)), separator=",", header=None)
