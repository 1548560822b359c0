"""Audits the training + validation rows before anything is trained on them, worst first."""

from __future__ import annotations

import numpy as np

from dlrun.core.dataset import Dataset, RawColumn
from dlrun.core.errors import UserError
from dlrun.data.audit import columns, duplicates, images, leakage, ordering, targets
from dlrun.data.audit.finding import Finding, Severity

__all__ = ["Finding", "audit"]

SEVERITY_ORDER: tuple[Severity, ...] = ("leak", "warning", "note")


def audit(dataset: Dataset, train: np.ndarray, val: np.ndarray | None, seed: int) -> list[Finding]:
    """Return what is remarkable in the training + validation rows, worst first.

    The test rows are never read.

    Args:
        dataset: The dataset.
        train: Indices of the training rows of the split that scores will come from.
        val: Indices of its validation rows, None without any.
        seed: Which rows are sampled to try single columns, and to look at images.

    Raises:
        UserError: The dataset is read file by file, from shards.
    """
    columns_in_files = (c for c in dataset.dev.values() if isinstance(c, RawColumn))
    if any(column.reads_files for column in columns_in_files):
        raise UserError(
            "the audit of dlrun workflow compares every row with all others, and data=shards are "
            "too many to be in memory together: say dlrun task=shards … for a run without it"
        )
    train = np.asarray(train)
    val = None if val is None else np.asarray(val)
    # Two audits need them, and comparing all rows is the expensive part.
    rows = duplicates.compute_row_ids(dataset, dataset.inputs)
    findings = [
        *duplicates.iter_duplicate_findings(dataset, rows, train, val),
        *ordering.iter_order_findings(dataset, train, val),
        *leakage.iter_leakage_findings(dataset, rows, seed),
        *targets.iter_target_findings(dataset, train, val),
        *columns.iter_column_findings(dataset, train),
        *images.iter_image_findings(dataset, train, seed),
        *ordering.iter_series_findings(dataset, train),
    ]
    # Stable: findings of one severity keep the order of the audits.
    return sorted(findings, key=lambda finding: SEVERITY_ORDER.index(finding.severity))
