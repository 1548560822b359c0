"""Whether finished runs may answer together for a new run's rows, told from their files alone. Needs no torch."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import stored_files
from dlrun.core.errors import UserError, format_names
from dlrun.evaluation.predictions import same_rows

if TYPE_CHECKING:
    import numpy as np


COMPARED_KEYS = (
    "kind",
    "shape",
    "size",
    "labels",
)  # of a column; its prior follows from the training rows


def check_member(member: Path, job: str, run: Path, own: str, rows: np.ndarray | None) -> None:
    """Raise UserError, naming the member and what differs, unless its fit `job` may answer for the fit `own` of a run.

    rows: this run's validation rows, which the member must not have been trained on; None where it has none.
    """
    _check_same_data(member, run)
    _check_same_fields(member, run)
    if rows is not None:
        _check_validation_rows(member, job, rows)
    _check_same_preprocessing(member, job, run, own)


def _check_same_data(member: Path, run: Path) -> None:
    theirs, ours = (stored_files.load_json(folder / "data.json") for folder in (member, run))
    if theirs["fingerprint"] != ours["fingerprint"]:
        raise UserError(
            f"{member} cannot be a member: it was trained on other data ({theirs['rows']:,} development rows, here "
            f"{ours['rows']:,}; the fingerprints in data.json differ)"
        )


def _check_same_fields(member: Path, run: Path) -> None:
    theirs, ours = (_read_fields(folder) for folder in (member, run))
    for part in ("inputs", "targets"):
        if list(theirs[part]) != list(ours[part]):
            there, here = (format_names(fields[part]) for fields in (theirs, ours))
            raise UserError(f"{member} cannot be a member: its {part} are {there}, here {here}")
        for name, key in product(ours[part], COMPARED_KEYS):
            there, here = (fields[part][name].get(key) for fields in (theirs, ours))
            if there != here:
                raise UserError(
                    f"{member} cannot be a member: {key} of '{name}' is {there}, here {here}"
                )


def _read_fields(folder: Path) -> Any:
    """What a run's model was told of its data. Raises UserError where the file is damaged."""
    return stored_files.load_json(folder / "fields.json", {"inputs": stored_files.FIELDS})


def check_backbone_run(base: Path, job: str, run: Path, rows: np.ndarray | None) -> None:
    """Raise UserError where a run that another stands on was trained on that one's validation rows."""
    theirs, ours = (stored_files.load_json(folder / "data.json") for folder in (base, run))
    if (
        rows is not None
        and same_rows(theirs, ours)
        and (fault := _describe_row_overlap(base, job, rows))
    ):
        raise UserError(f"weights={base}: {fault}")


def _check_validation_rows(member: Path, job: str, rows: np.ndarray) -> None:
    """Refuse a member that may have been trained on some of these rows."""
    if fault := _describe_row_overlap(member, job, rows):
        raise UserError(f"{member} cannot be a member: {fault}")


def _describe_row_overlap(member: Path, job: str, rows: np.ndarray) -> str:
    """Why a fit may have been trained on some of these rows; '' where it was not."""
    import numpy as np

    file = member / "predictions" / f"{job}-val.npz"
    if not file.is_file():
        return (
            f"it has no {file.relative_to(member)}, so nothing says that it was not "
            f"trained on this run's {len(rows):,} validation rows (with protocol=whole it was)"
        )
    if "row" not in (arrays := stored_files.load_arrays(file)):
        raise UserError(
            f"{file} does not say which row is which: dlrun evaluate {member} writes it again"
        )
    seen = np.setdiff1d(rows, arrays["row"])
    if not len(seen):
        return ""
    return (
        f"it was trained on {len(seen):,} of this run's {len(rows):,} validation "
        "rows, so its answers there say nothing; the same protocol, seed and sizes give the same rows"
    )


def _check_same_preprocessing(member: Path, job: str, run: Path, own: str) -> None:
    theirs, ours = (
        stored_files.load_json(folder / "preparation" / f"{name}.json")
        for folder, name in ((member, job), (run, own))
    )
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if differing:
        raise UserError(
            f"{member} cannot be a member: its preparation of {', '.join(differing)} is another: see "
            f"preparation/{job}.json"
        )
