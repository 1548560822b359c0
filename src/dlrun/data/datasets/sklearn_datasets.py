"""Four real datasets that come with scikit-learn, so that nothing needs to be downloaded."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from dlrun.config.constraints import Probability
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.types import Kind
from dlrun.data.preprocessing.numeric import StandardScaler
from dlrun.data.tabular import holdout, schema


def digits(*, test: Probability) -> Dataset:
    """1,797 handwritten digits (Alpaydin & Kaynak 1998, UCI): a share `test` of each class is set aside as test rows.

    Input `image` uint8 (N, 1, 8, 8), the UCI's 0..16 scaled to 0..255; target `digit` of ten classes.
    """
    found = _load_sklearn("load_digits")
    images = np.round(found.images * 255 / 16).astype(np.uint8)[:, None]
    columns: RawColumns = {"image": images, "digit": found.target.astype(np.int64)}
    return _build_dataset(
        columns, {"image": "image"}, {"digit": "category"}, tuple("0123456789"), test
    )


def breast_cancer(*, test: Probability) -> Dataset:
    """569 tumours (Street, Wolberg & Mangasarian 1993): benign or malignant, from 30 measures of their cells' nuclei.

    Input `count_features` (N, 30), target `diagnosis`, 1 = benign. A share `test` of each class is set aside as test rows.
    """
    return _load_table("load_breast_cancer", "diagnosis", "binary", test)


def wine(*, test: Probability) -> Dataset:
    """178 wines of three growers (Aeberhard & Forina 1991), from 13 chemical measures.

    Input `count_features` (N, 13), target `grower`. A share `test` of each class is set aside as test rows.
    """
    return _load_table("load_wine", "grower", "category", test)


def diabetes(*, test: Probability) -> Dataset:
    """442 patients (Efron et al. 2004): how far diabetes went in a year, from ten measures, in their own units.

    Input `count_features` (N, 10), target `progression`, a number. A share `test` of the rows is set aside as test rows.
    """
    return _load_table("load_diabetes", "progression", "number", test, scaled=False)


@lru_cache(maxsize=8)
def _load_sklearn(name: str, **options: Any) -> Any:
    """What scikit-learn reads from its files; jobs of a sweep share it, so that nothing may be written into it."""
    from sklearn import datasets

    return getattr(datasets, name)(**options)


def _load_table(loader: str, target: str, kind: Kind, test: float, **options: Any) -> Dataset:
    found = _load_sklearn(loader, **options)
    answers = found.target.astype(np.float64 if kind == "number" else np.int64)
    columns: RawColumns = {"features": found.data.astype(np.float64), target: answers}
    classes = () if kind == "number" else tuple(str(name) for name in found.target_names)
    raw = _build_dataset(columns, {"features": "number"}, {target: kind}, classes, test)
    raw.preprocessors["features"] = (StandardScaler(),)
    raw.labels["features"] = names = tuple(str(name) for name in found.feature_names)
    return replace(raw, read_new_rows=schema.make_row_reader(names, target, kind, classes))


def _build_dataset(
    columns: RawColumns,
    inputs: dict[str, Kind],
    targets: dict[str, Kind],
    classes: tuple[str, ...],
    test: float,
) -> Dataset:
    (target,) = targets
    answers = columns[target]
    dev, sealed = (
        holdout.stratified_holdout(answers, test)
        if classes
        else holdout.random_holdout(len(answers), test)
    )
    return Dataset(
        dev={name: column[dev] for name, column in columns.items()},
        test=(lambda: {name: column[sealed] for name, column in columns.items()}) if test else None,
        inputs=inputs,
        targets=targets,
        preprocessors={},
        labels={target: classes} if classes else {},
    )
