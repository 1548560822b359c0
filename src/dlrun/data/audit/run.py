"""Looks at the development rows before anything is trained on them: what would make scores lie, worst first."""

from __future__ import annotations

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.data.audit import columns, duplicates, images, leakage, ordering, targets
from dlrun.data.audit import ordering as series_audit
from dlrun.data.audit.finding import Finding, Severity
from dlrun.data.shards.npz_column import ShardedArray

__all__ = ["Finding", "audit"]

SEVERITY_ORDER: tuple[Severity, ...] = ("leak", "warning", "note")


def audit(raw: Dataset, train: np.ndarray, val: np.ndarray | None, seed: int) -> list[Finding]:
    """What is remarkable in the development rows, worst first; the test rows are never read.

    train, val: row indices of the split that scores will come from. seed: of the held-out parts on which single
    columns are tried. leak: validation scores cannot be believed. warning: something to look into. note: good to know.
    Raises UserError for rows that are read file by file.
    """
    if any(isinstance(column, ShardedArray) for column in raw.dev.values()):
        raise UserError(
            "the audit of dlrun workflow compares every row with all others, and data=shards are too many to be in "
            "memory together: say dlrun task=shards … for a run without it"
        )
    train = np.asarray(train)
    val = None if val is None else np.asarray(val)
    rows = duplicates.compute_row_ids(raw, raw.inputs)
    found = [
        *duplicates.iter_duplicate_findings(raw, rows, train, val),
        *ordering.iter_order_findings(raw, train, val),
        *leakage.iter_leakage_findings(raw, rows, seed),
        *targets.iter_target_findings(raw, train, val),
        *columns.iter_column_findings(raw, train),
        *images.iter_image_findings(raw, train, seed),
        *series_audit.iter_series_findings(raw, train),
    ]
    return sorted(found, key=lambda finding: SEVERITY_ORDER.index(finding.severity))
