"""Four real datasets that come with scikit-learn, so that nothing needs to be downloaded."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from dlrun.config.constraints import Probability
from dlrun.core.dataset import Raw, Rows
from dlrun.core.types import Kind
from dlrun.data.preprocessing.numeric import Standardise
from dlrun.data.tabular import holdout, schema


def digits(*, test: Probability) -> Raw:
    """1,797 handwritten digits (Alpaydin & Kaynak 1998, UCI): a share `test` of each class is set aside as test rows.

    Input `image` uint8 (N, 1, 8, 8), the UCI's 0..16 scaled to 0..255; target `digit` of ten classes.
    """
    found = _load("load_digits")
    images = np.round(found.images * 255 / 16).astype(np.uint8)[:, None]
    columns: Rows = {"image": images, "digit": found.target.astype(np.int64)}
    return _raw(columns, {"image": "image"}, {"digit": "category"}, tuple("0123456789"), test)


def breast_cancer(*, test: Probability) -> Raw:
    """569 tumours (Street, Wolberg & Mangasarian 1993): benign or malignant, from 30 measures of their cells' nuclei.

    Input `features` (N, 30), target `diagnosis`, 1 = benign. A share `test` of each class is set aside as test rows.
    """
    return _table("load_breast_cancer", "diagnosis", "binary", test)


def wine(*, test: Probability) -> Raw:
    """178 wines of three growers (Aeberhard & Forina 1991), from 13 chemical measures.

    Input `features` (N, 13), target `grower`. A share `test` of each class is set aside as test rows.
    """
    return _table("load_wine", "grower", "category", test)


def diabetes(*, test: Probability) -> Raw:
    """442 patients (Efron et al. 2004): how far diabetes went in a year, from ten measures, in their own units.

    Input `features` (N, 10), target `progression`, a number. A share `test` of the rows is set aside as test rows.
    """
    return _table("load_diabetes", "progression", "number", test, scaled=False)


@lru_cache(maxsize=8)
def _load(name: str, **options: Any) -> Any:
    """What scikit-learn reads from its files; jobs of a sweep share it, so that nothing may be written into it."""
    from sklearn import datasets

    return getattr(datasets, name)(**options)


def _table(loader: str, target: str, kind: Kind, test: float, **options: Any) -> Raw:
    found = _load(loader, **options)
    answers = found.target.astype(np.float64 if kind == "number" else np.int64)
    columns: Rows = {"features": found.data.astype(np.float64), target: answers}
    classes = () if kind == "number" else tuple(str(name) for name in found.target_names)
    raw = _raw(columns, {"features": "number"}, {target: kind}, classes, test)
    raw.learn["features"] = (Standardise(),)
    raw.labels["features"] = names = tuple(str(name) for name in found.feature_names)
    return replace(raw, further=schema.columns_only(names, target, kind, classes))


def _raw(
    columns: Rows, inputs: dict[str, Kind], targets: dict[str, Kind], classes: tuple[str, ...], test: float
) -> Raw:
    (target,) = targets
    answers = columns[target]
    dev, sealed = holdout.stratified(answers, test) if classes else holdout.random(len(answers), test)
    return Raw(
        dev={name: column[dev] for name, column in columns.items()},
        test=(lambda: {name: column[sealed] for name, column in columns.items()}) if test else None,
        inputs=inputs,
        targets=targets,
        learn={},
        labels={target: classes} if classes else {},
    )
