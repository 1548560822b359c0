"""Prices of houses from numbers about their district: Boston (1978) and California (1990)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dlrun.config.constraints import Probability
from dlrun.core.dataset import Raw, Rows
from dlrun.data.datasets import synthetic
from dlrun.data.downloads import Official, fetch
from dlrun.data.legacy_pickle import read_numbers
from dlrun.data.preprocessing.numeric import Standardise
from dlrun.data.tabular import csv_file, holdout, schema
from dlrun.data.tabular.targets import Target

SEED = 113
BOSTON_DEV = 0.8
BOSTON_COLUMNS = ("CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT")
BOSTON = Official(
    "boston_housing",
    "boston_housing.npz",
    "f553886a1f8d56431e820c5b82552d9d95cfcb96d1e678153f8839538947dff5",
    (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/boston_housing.npz",
        "https://s3.amazonaws.com/keras-datasets/boston_housing.npz",
    ),
)
CALIFORNIA_COLUMNS = (
    "longitude", "latitude", "housing_median_age", "total_rooms", "total_bedrooms", "population", "households",
    "median_income", "median_house_value", "ocean_proximity",
)  # fmt: skip
CALIFORNIA = Official(
    "california_housing",
    "housing.csv",
    "8a3727f4cf54ac1a327f69b1d5b4db54c5834ea81c6e4efc0d163300022a685e",
    (
        "https://raw.githubusercontent.com/ageron/handson-ml2/master/datasets/housing/housing.csv",
        "https://github.com/ageron/handson-ml2/raw/master/datasets/housing/housing.csv",
    ),
    elsewhere=("tabular/california_housing/housing.csv",),
)


def boston_housing(*, source: Literal["official", "sample"]) -> Raw:
    """Median prices in k$ (Harrison & Rubinfeld 1978; book §3.6): 404 development rows, 102 test rows.

    Input `features` (N, 13), target `price`. The column B is made from the share of Black inhabitants on a racist
    assumption; it has been disowned, and scikit-learn has withdrawn the dataset. It is here to repeat the book's run.
    Raises Refused when the file cannot be had.
    """

    def read(test: bool) -> Rows:
        columns, prices = synthetic.boston() if source == "sample" else _boston()
        order = np.arange(len(prices))
        np.random.RandomState(SEED).shuffle(order)
        first = int(len(prices) * BOSTON_DEV)
        order = order[first:] if test else order[:first]
        return {"features": columns[order], "price": prices[order]}

    return Raw(
        dev=read(False),
        test=lambda: read(True),
        inputs={"features": "number"},
        targets={"price": "number"},
        learn={"features": (Standardise(),)},
        labels={"features": BOSTON_COLUMNS},
        note=synthetic.note("boston_housing") if source == "sample" else "",
        further=schema.columns_only(BOSTON_COLUMNS, "price", "number"),
    )


def california_housing(
    *, source: Literal["official", "sample"], test: Probability, standardize_target: bool = False
) -> Raw:
    """Median prices in $ (Pace & Barry 1997, as in Géron's handson-ml2): 20,640 rows.

    There are no official test rows: the loader sets a share `test` of the rows aside, the same ones for every run.
    Inputs `features` (N, 8), with missing numbers, and `ocean_proximity`, a category; target `median_house_value`.
    Raises Refused when the file cannot be had.
    """
    sample = source == "sample"
    whole = synthetic.california(CALIFORNIA_COLUMNS) if sample else _california()
    value, place = CALIFORNIA_COLUMNS[-2:]
    plan = schema.Plan(CALIFORNIA_COLUMNS[:-2], (place,), (), (Target(value, "number", (value,)),))
    dev, sealed = holdout.random(len(whole), test)
    return schema.dataset(
        plan,
        whole.take(dev),
        (lambda: whole.take(sealed)) if test else None,
        scale="standardise",
        impute="median",
        indicator=False,
        standardize_target=standardize_target,
        note=synthetic.note("california_housing") if sample else "",
    )


def _boston() -> tuple[np.ndarray, np.ndarray]:
    path = fetch(BOSTON)
    return read_numbers(path, "x"), read_numbers(path, "y")


def _california() -> csv_file.Cells:
    return csv_file.read(str(fetch(CALIFORNIA)), separator=",", header=None)
