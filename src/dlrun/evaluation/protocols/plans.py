"""Evaluation plans: the fits that a protocol asks for, and the rows of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dlrun.config.annotations import Count, Natural, Positive
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.core.types import FitJob, Result
from dlrun.evaluation.protocols.splits import (
    By,
    Rare,
    sample_split,
    split_folds,
    split_forward_in_time,
    split_validation,
)

RowSplit = tuple[np.ndarray, np.ndarray | None]


class EvaluationPlan(Protocol):
    """What the runner asks: which job is next, and on which rows it is fitted."""

    def __call__(self, results: list[Result]) -> FitJob | None: ...

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit: ...


MAX_FITS = 100_000  # fits of one run


@dataclass(frozen=True)
class HoldOutPlan:
    """One fit; part of the rows is held out for validation (book §4.2).

    Attributes:
        validation: A share below 1, or a number of rows.
        by: How the rows are chosen; see `splits.split_validation`.
        rare: See `stratification.get_class_groups`.
    """

    validation: float
    by: By
    rare: Rare = "stratify_none"

    def __call__(self, results: list[Result]) -> FitJob | None:
        return None if results else FitJob()

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return split_validation(dataset, self.validation, self.by, seed, self.rare)


@dataclass(frozen=True)
class SmallSamplePlan:
    """One fit on a few rows, validated on others; the rest is unused (book §6.1.3)."""

    train: int
    validation: int

    def __call__(self, results: list[Result]) -> FitJob | None:
        return None if results else FitJob()

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return sample_split(dataset, self.train, self.validation, seed)


@dataclass(frozen=True)
class AllRowsPlan:
    """One fit on every row but the test rows: the last before the test (book §3.5, §3.7)."""

    def __call__(self, results: list[Result]) -> FitJob | None:
        return None if results else FitJob()

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return np.arange(len(dataset)), None


@dataclass(frozen=True)
class KFoldPlan:
    """A fit for each fold, held out in turn (book §4.2).

    Attributes:
        folds: How many folds.
        repeats: How many times over, each with its own shuffle.
        by: How the rows are chosen; see `splits.split_folds`.
        shuffle: Whether the rows are shuffled first.
        rare: See `stratification.get_class_groups`.
    """

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
        # Every fold makes the same split again: its warnings are logged once.
        first = job.fold == job.repeat == 0
        return split_folds(
            dataset, self.folds, self.by, self.shuffle, seed + job.repeat, self.rare, tell=first
        )[job.fold]


@dataclass(frozen=True)
class WalkForwardPlan:
    """A fit for each window of time, trained on the rows before it; the training rows grow.

    Attributes:
        folds: How many windows.
        gap: Rows that are left out before each window.
        size: Rows of a window; None: rows / (folds + 1).
    """

    folds: int
    gap: int
    size: int | None

    def __call__(self, results: list[Result]) -> FitJob | None:
        done = len(results)
        return FitJob(fold=done, folds=self.folds) if done < self.folds else None

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return split_forward_in_time(dataset, self.folds, self.gap, self.size)[job.fold]


def holdout(*, validation: Positive, by: By, rare: Rare = "stratify_none") -> HoldOutPlan:
    """Hold out a share below 1, or a number, of the rows."""
    return HoldOutPlan(validation, by, rare)


def few(*, train: Count, validation: Count) -> SmallSamplePlan:
    """Train on so many rows drawn at random, and validate on at most so many others."""
    return SmallSamplePlan(train, validation)


def whole() -> AllRowsPlan:
    """Train on every row but the test rows."""
    return AllRowsPlan()


def kfold(*, folds: Count, by: By, shuffle: bool, rare: Rare = "stratify_none") -> KFoldPlan:
    """K-fold validation."""
    return iterated_kfold(folds=folds, repeats=1, by=by, shuffle=shuffle, rare=rare)


def iterated_kfold(
    *, folds: Count, repeats: Count, by: By, shuffle: bool, rare: Rare = "stratify_none"
) -> KFoldPlan:
    """K-fold validation, `repeats` times with new shuffles."""
    if folds * repeats > MAX_FITS:
        raise ValueError(
            f"{folds:,} folds, {repeats:,} times: each is a fit, and more than {MAX_FITS:,} are "
            "none of a run"
        )
    if folds < 2:
        raise ValueError("folds=1 holds nothing out: use 2 or more, or protocol=whole")
    if repeats > 1 and not shuffle:
        raise ValueError("repeats without shuffle=true would repeat the same folds")
    return KFoldPlan(folds, repeats, by, shuffle, rare)


def walk_forward(*, folds: Count, gap: Natural, size: Count | None) -> WalkForwardPlan:
    """Validation on one window of time after another, each after `gap` rows that are left out."""
    return WalkForwardPlan(folds, gap, size)


@dataclass(frozen=True)
class RepeatedPlan:
    """A plan of one fit, done `times` times on the same rows; weights, batches and noise differ."""

    plan: EvaluationPlan
    times: int

    def __call__(self, results: list[Result]) -> FitJob | None:
        first = self.plan([])
        return replace(first, repeat=len(results)) if first and len(results) < self.times else None

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        # Repeats differ in weights alone, so that their spread is that of the training.
        return self.plan.split_rows(dataset, replace(job, repeat=0), seed)


def repeated(plan: EvaluationPlan, times: int) -> EvaluationPlan:
    """The plan itself for times=1, else each of its fits so often.

    Raises:
        UserError: The plan has several fits already.
    """
    if times == 1:
        return plan
    first = plan([])
    if first is None or first.folds > 1 or first.stage != FitJob().stage:
        raise UserError(
            f"repeat={times} repeats one fit, but this protocol makes several: use "
            "protocol=iterated_kfold"
        )
    return RepeatedPlan(plan, times)
