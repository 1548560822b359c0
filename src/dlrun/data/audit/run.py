"""Looks at the development rows before anything is trained on them: what would make scores lie, worst first."""

from __future__ import annotations

import numpy as np

from dlrun.core.dataset import Raw
from dlrun.core.errors import Refused
from dlrun.data.audit import columns, duplicates, images, leakage, ordering, targets
from dlrun.data.audit import ordering as series_audit
from dlrun.data.audit.finding import Finding, Severity
from dlrun.data.shards.npz_column import Sharded

__all__ = ["Finding", "audit"]

RANKS: tuple[Severity, ...] = ("leak", "warning", "note")


def audit(raw: Raw, train: np.ndarray, val: np.ndarray | None, seed: int) -> list[Finding]:
    """What is remarkable in the development rows, worst first; the test rows are never read.

    train, val: row indices of the split that scores will come from. seed: of the held-out parts on which single
    columns are tried. leak: validation scores cannot be believed. warning: something to look into. note: good to know.
    Raises Refused for rows that are read file by file.
    """
    if any(isinstance(column, Sharded) for column in raw.dev.values()):
        raise Refused(
            "the audit of dlrun workflow compares every row with all others, and data=shards are too many to be in "
            "memory together: say dlrun task=shards … for a run without it"
        )
    train = np.asarray(train)
    val = None if val is None else np.asarray(val)
    rows = duplicates.identities(raw, raw.inputs)
    found = [
        *duplicates.findings(raw, rows, train, val),
        *ordering.findings(raw, train, val),
        *leakage.findings(raw, rows, seed),
        *targets.findings(raw, train, val),
        *columns.findings(raw, train),
        *images.findings(raw, train, seed),
        *series_audit.series_findings(raw, train),
    ]
    return sorted(found, key=lambda finding: RANKS.index(finding.severity))
