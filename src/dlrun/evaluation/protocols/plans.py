"""Evaluation plans: which fits a protocol asks for, and of which rows: hold-out, folds, repeats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dlrun.config.constraints import Count, Natural, Positive
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.core.types import FitJob, Result
from dlrun.evaluation.protocols.splits import (
    By,
    sample_split,
    split_folds,
    split_forward_in_time,
    split_validation,
)
from dlrun.evaluation.protocols.stratification import Rare

RowSplit = tuple[np.ndarray, np.ndarray | None]


class EvaluationPlan(Protocol):
    """What the runner asks: which job is next, and on which rows."""

    def __call__(self, results: list[Result]) -> FitJob | None: ...

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit: ...


MAX_FITS = 100_000  # fits of one run


@dataclass(frozen=True)
class HoldOutPlan:
    """One fit; part of the development rows is held out for validation (book §4.2)."""

    validation: float
    by: By
    rare: Rare = "stratify_none"

    def __call__(self, results: list[Result]) -> FitJob | None:
        return None if results else FitJob()

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return split_validation(dataset, self.validation, self.by, seed, self.rare)


@dataclass(frozen=True)
class SmallSamplePlan:
    """One fit on a few rows, validated on others; the rest takes no part (book §6.1.3)."""

    train: int
    validation: int

    def __call__(self, results: list[Result]) -> FitJob | None:
        return None if results else FitJob()

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return sample_split(dataset, self.train, self.validation, seed)


@dataclass(frozen=True)
class AllRowsPlan:
    """One fit on every development row; nothing is held out. For the last fit, before the test (book §3.5, §3.7)."""

    def __call__(self, results: list[Result]) -> FitJob | None:
        return None if results else FitJob()

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return np.arange(len(dataset)), None


@dataclass(frozen=True)
class KFoldPlan:
    """A fit for each fold, held out in turn; `repeats` times over, each with its own shuffle (book §4.2)."""

    folds: int
    repeats: int
    by: By
    shuffle: bool
    rare: Rare = "stratify_none"

    def __call__(self, results: list[Result]) -> FitJob | None:
        done = len(results)
        if done >= self.folds * self.repeats:
            return None
        return FitJob(fold=done % self.folds, folds=self.folds, repeat=done // self.folds)

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        first = job.fold == job.repeat == 0
        return split_folds(
            dataset, self.folds, self.by, self.shuffle, seed + job.repeat, self.rare, tell=first
        )[job.fold]


@dataclass(frozen=True)
class WalkForwardPlan:
    """A fit for each window of time: trained on what lies before it, validated in it; the training rows grow."""

    folds: int
    gap: int
    size: int | None

    def __call__(self, results: list[Result]) -> FitJob | None:
        done = len(results)
        return FitJob(fold=done, folds=self.folds) if done < self.folds else None

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return split_forward_in_time(dataset, self.folds, self.gap, self.size)[job.fold]


def holdout(*, validation: Positive, by: By, rare: Rare = "stratify_none") -> HoldOutPlan:
    """Hold out a share, or a number, of the rows. rare: as dlrun 0.1.0 did, see `get_class_groups`."""
    return HoldOutPlan(validation, by, rare)


def few(*, train: Count, validation: Count) -> SmallSamplePlan:
    """Train on so many rows drawn at random, and validate on so many others, or on all of them where they are fewer."""
    return SmallSamplePlan(train, validation)


def whole() -> AllRowsPlan:
    """Train on every development row."""
    return AllRowsPlan()


def kfold(*, folds: Count, by: By, shuffle: bool, rare: Rare = "stratify_none") -> KFoldPlan:
    """K-fold validation. rare: see `holdout`."""
    return iterated_kfold(folds=folds, repeats=1, by=by, shuffle=shuffle, rare=rare)


def iterated_kfold(
    *, folds: Count, repeats: Count, by: By, shuffle: bool, rare: Rare = "stratify_none"
) -> KFoldPlan:
    """K-fold validation, again and again with new shuffles. rare: see `holdout`."""
    if folds * repeats > MAX_FITS:
        raise ValueError(
            f"{folds:,} folds, {repeats:,} times: each is a fit, and more than {MAX_FITS:,} are none of a run"
        )
    if folds < 2:
        raise ValueError("folds=1 holds nothing out: use 2 or more, or protocol=whole")
    if repeats > 1 and not shuffle:
        raise ValueError("repeats without shuffle=true would repeat the same folds")
    return KFoldPlan(folds, repeats, by, shuffle, rare)


def walk_forward(*, folds: Count, gap: Natural, size: Count | None) -> WalkForwardPlan:
    """Validation on one window of time after another, each after `gap` rows that nobody sees."""
    return WalkForwardPlan(folds, gap, size)


@dataclass(frozen=True)
class RepeatedPlan:
    """A plan of one fit, done `times` times on the same rows; weights, order of batches and noise differ."""

    plan: EvaluationPlan
    times: int

    def __call__(self, results: list[Result]) -> FitJob | None:
        first = self.plan([])
        return replace(first, repeat=len(results)) if first and len(results) < self.times else None

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return self.plan.split_rows(dataset, replace(job, repeat=0), seed)


def repeated(plan: EvaluationPlan, times: int) -> EvaluationPlan:
    """The plan itself, or with times > 1 each of its fits so often. Raises UserError for a plan of folds."""
    if times == 1:
        return plan
    first = plan([])
    if first is None or first.folds > 1 or first.stage != FitJob().stage:
        raise UserError(
            f"repeat={times} repeats one fit, but this protocol makes several: use protocol=iterated_kfold"
        )
    return RepeatedPlan(plan, times)
