"""Whether finished runs may answer together for a new run's rows, told from their files alone. Needs no torch."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import stored_files
from dlrun.core.errors import Refused, in_short
from dlrun.evaluation.predictions import same_rows

if TYPE_CHECKING:
    import numpy as np


ALIKE = ("kind", "shape", "size", "labels")  # of a column; its prior follows from the training rows


def admit(member: Path, job: str, run: Path, own: str, rows: np.ndarray | None) -> None:
    """Raise Refused, naming the member and what differs, unless its fit `job` may answer for the fit `own` of a run.

    rows: this run's validation rows, which the member must not have been trained on; None where it has none.
    """
    _same_data(member, run)
    _same_fields(member, run)
    if rows is not None:
        _unseen(member, job, rows)
    _same_preparation(member, job, run, own)


def _same_data(member: Path, run: Path) -> None:
    theirs, ours = (stored_files.value(folder / "data.json") for folder in (member, run))
    if theirs["fingerprint"] != ours["fingerprint"]:
        raise Refused(
            f"{member} cannot be a member: it was trained on other data ({theirs['rows']:,} development rows, here "
            f"{ours['rows']:,}; the fingerprints in data.json differ)"
        )


def _same_fields(member: Path, run: Path) -> None:
    theirs, ours = (_fields(folder) for folder in (member, run))
    for part in ("inputs", "targets"):
        if list(theirs[part]) != list(ours[part]):
            there, here = (in_short(fields[part]) for fields in (theirs, ours))
            raise Refused(f"{member} cannot be a member: its {part} are {there}, here {here}")
        for name, key in product(ours[part], ALIKE):
            there, here = (fields[part][name].get(key) for fields in (theirs, ours))
            if there != here:
                raise Refused(f"{member} cannot be a member: {key} of '{name}' is {there}, here {here}")


def _fields(folder: Path) -> Any:
    """What a run's model was told of its data. Raises Refused where the file is damaged."""
    return stored_files.value(folder / "fields.json", {"inputs": stored_files.FIELDS})


def admit_base(base: Path, job: str, run: Path, rows: np.ndarray | None) -> None:
    """Raise Refused where a run that another stands on was trained on that one's validation rows."""
    theirs, ours = (stored_files.value(folder / "data.json") for folder in (base, run))
    if rows is not None and same_rows(theirs, ours) and (fault := _seen(base, job, rows)):
        raise Refused(f"weights={base}: {fault}")


def _unseen(member: Path, job: str, rows: np.ndarray) -> None:
    """Refuse a member that may have been trained on some of these rows."""
    if fault := _seen(member, job, rows):
        raise Refused(f"{member} cannot be a member: {fault}")


def _seen(member: Path, job: str, rows: np.ndarray) -> str:
    """Why a fit may have been trained on some of these rows; '' where it was not."""
    import numpy as np

    file = member / "predictions" / f"{job}-val.npz"
    if not file.is_file():
        return (
            f"it has no {file.relative_to(member)}, so nothing says that it was not "
            f"trained on this run's {len(rows):,} validation rows (with protocol=whole it was)"
        )
    if "row" not in (arrays := stored_files.arrays(file)):
        raise Refused(f"{file} does not say which row is which: dlrun evaluate {member} writes it again")
    seen = np.setdiff1d(rows, arrays["row"])
    if not len(seen):
        return ""
    return (
        f"it was trained on {len(seen):,} of this run's {len(rows):,} validation "
        "rows, so its answers there say nothing; the same protocol, seed and sizes give the same rows"
    )


def _same_preparation(member: Path, job: str, run: Path, own: str) -> None:
    theirs, ours = (
        stored_files.value(folder / "preparation" / f"{name}.json") for folder, name in ((member, job), (run, own))
    )
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if differing:
        raise Refused(
            f"{member} cannot be a member: its preparation of {', '.join(differing)} is another: see "
            f"preparation/{job}.json"
        )
