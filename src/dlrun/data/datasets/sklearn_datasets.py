"""Four real datasets that come with scikit-learn, so that nothing needs to be downloaded."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from dlrun.config.annotations import Probability
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.types import Kind
from dlrun.data.preprocessing.numeric import StandardScaler
from dlrun.data.tabular import holdout, schema


def digits(*, test: Probability) -> Dataset:
    """1,797 handwritten digits (Alpaydin & Kaynak 1998, UCI).

    Input `image` uint8 (N, 1, 8, 8), the UCI's 0..16 scaled to 0..255; target `digit` of ten
    classes.

    Args:
        test: Share of each class that becomes test rows.
    """
    bunch = _load_sklearn("load_digits")
    # To 0..255, because uint8 images are divided by 255 when they are used.
    images = np.round(bunch.images * 255 / 16).astype(np.uint8)[:, None]
    columns: RawColumns = {"image": images, "digit": bunch.target.astype(np.int64)}
    return _build_dataset(
        columns, {"image": "image"}, {"digit": "category"}, tuple("0123456789"), test
    )


def breast_cancer(*, test: Probability) -> Dataset:
    """569 tumors (Street, Wolberg & Mangasarian 1993): benign or malignant.

    Input `features` (N, 30), measurements of the cells' nuclei; target `diagnosis`, 1 = benign.

    Args:
        test: Share of each class that becomes test rows.
    """
    return _load_table("load_breast_cancer", "diagnosis", "binary", test)


def wine(*, test: Probability) -> Dataset:
    """178 wines of three growers (Aeberhard & Forina 1991), from 13 chemical measurements.

    Input `features` (N, 13), target `grower`.

    Args:
        test: Share of each class that becomes test rows.
    """
    return _load_table("load_wine", "grower", "category", test)


def diabetes(*, test: Probability) -> Dataset:
    """442 patients (Efron et al. 2004): progression of diabetes in a year, from ten measurements.

    Input `features` (N, 10) in their own units, target `progression`, a number.

    Args:
        test: Share of the rows that becomes test rows.
    """
    # Unscaled: scikit-learn scales these columns with all rows, test rows among them.
    return _load_table("load_diabetes", "progression", "number", test, scaled=False)


@lru_cache(maxsize=8)
def _load_sklearn(name: str, **options: Any) -> Any:
    """Return what scikit-learn reads from its files; nothing may be written into it."""
    # The result is shared by all jobs of a sweep that run in this process.
    from sklearn import datasets

    return getattr(datasets, name)(**options)


def _load_table(loader: str, target: str, kind: Kind, test: float, **options: Any) -> Dataset:
    bunch = _load_sklearn(loader, **options)
    values = bunch.target.astype(np.float64 if kind == "number" else np.int64)
    columns: RawColumns = {"features": bunch.data.astype(np.float64), target: values}
    classes = () if kind == "number" else tuple(str(name) for name in bunch.target_names)
    dataset = _build_dataset(columns, {"features": "number"}, {target: kind}, classes, test)
    dataset.preprocessors["features"] = (StandardScaler(),)
    dataset.labels["features"] = names = tuple(str(name) for name in bunch.feature_names)
    return replace(dataset, read_new_rows=schema.make_row_reader(names, target, kind, classes))


def _build_dataset(
    columns: RawColumns,
    inputs: dict[str, Kind],
    targets: dict[str, Kind],
    classes: tuple[str, ...],
    test: float,
) -> Dataset:
    (target,) = targets
    values = columns[target]
    dev, sealed = (
        holdout.stratified_holdout(values, test)
        if classes
        else holdout.random_holdout(len(values), test)
    )
    return Dataset(
        dev={name: column[dev] for name, column in columns.items()},
        test=(lambda: {name: column[sealed] for name, column in columns.items()}) if test else None,
        inputs=inputs,
        targets=targets,
        preprocessors={},
        labels={target: classes} if classes else {},
    )
