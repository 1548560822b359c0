"""Whether finished runs may be members of an ensemble, judged by their files, without torch."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.evaluation.predictions import same_rows

if TYPE_CHECKING:
    import numpy as np


# what must be equal of a column; its prior depends on the training rows and may differ
COMPARED_KEYS = ("kind", "shape", "size", "labels")


def check_member(member: Path, job: str, run: Path, fit: str, rows: np.ndarray | None) -> None:
    """Check that a fit of a finished run may predict for a fit of another run.

    Args:
        member: Folder of the finished run.
        job: Name of its fit.
        run: Folder of the other run.
        fit: Name of the other fit.
        rows: Its validation rows, on which the member must not have been trained; None for none.

    Raises:
        UserError: Data, columns or preprocessing differ; the message names the member and the
            reason.
    """
    _check_same_data(member, run)
    _check_same_fields(member, run)
    if rows is not None:
        _check_validation_rows(member, job, rows)
    _check_same_preprocessing(member, job, run, fit)


def _check_same_data(member: Path, run: Path) -> None:
    theirs, ours = (RunFolder(folder).require_json(RunFile.DATA) for folder in (member, run))
    if theirs["fingerprint"] != ours["fingerprint"]:
        raise UserError(
            f"{member} cannot be a member: it was trained on other data ({theirs['rows']:,} "
            f"development rows, here {ours['rows']:,}; the fingerprints in data.json differ)"
        )


def _check_same_fields(member: Path, run: Path) -> None:
    # columns are compared, not configs: what matters is what the models read
    theirs, ours = (_read_fields(folder) for folder in (member, run))
    for group in ("inputs", "targets"):
        if list(theirs[group]) != list(ours[group]):
            theirs_value, ours_value = (format_names(fields[group]) for fields in (theirs, ours))
            raise UserError(
                f"{member} cannot be a member: its {group} are {theirs_value}, here {ours_value}"
            )
        for name, key in product(ours[group], COMPARED_KEYS):
            theirs_value, ours_value = (fields[group][name].get(key) for fields in (theirs, ours))
            if theirs_value != ours_value:
                raise UserError(
                    f"{member} cannot be a member: {key} of '{name}' is {theirs_value}, "
                    f"here {ours_value}"
                )


def _read_fields(folder: Path) -> Any:
    """Return the description of the data that a run's model was built for.

    Raises:
        UserError: The file is damaged.
    """
    return RunFolder(folder).require_inputs()


def check_backbone_run(base: Path, job: str, run: Path, rows: np.ndarray | None) -> None:
    """Check that a run was not trained on the validation rows of another that starts from it.

    Args:
        base: Folder of the earlier run.
        job: Name of its fit.
        run: Folder of the new run.
        rows: Validation rows of the new fit; None for none.

    Raises:
        UserError: It was, or nothing shows that it was not.
    """
    theirs, ours = (RunFolder(folder).require_json(RunFile.DATA) for folder in (base, run))
    if rows is None or not same_rows(theirs, ours):
        return
    if error := _describe_row_overlap(base, job, rows):
        raise UserError(f"weights={base}: {error}")


def _check_validation_rows(member: Path, job: str, rows: np.ndarray) -> None:
    """Refuse a member that may have been trained on some of these rows."""
    if error := _describe_row_overlap(member, job, rows):
        raise UserError(f"{member} cannot be a member: {error}")


def _describe_row_overlap(member: Path, job: str, rows: np.ndarray) -> str:
    """Return why a fit may have been trained on some of these rows; '' where it was not."""
    import numpy as np

    run = RunFolder(member)
    file = run.path(RunFile.PREDICTIONS, job=job, split="val")
    # the rows that a fit was validated on are those it was not trained on
    if not file.is_file():
        return (
            f"it has no {file.relative_to(member)}, so nothing says that it was not "
            f"trained on this run's {len(rows):,} validation rows (with protocol=whole it was)"
        )
    if "row" not in (arrays := run.read_predictions(job, "val")):
        raise UserError(
            f"{file} does not say which row is which: dlrun evaluate {member} writes it again"
        )
    trained_on = np.setdiff1d(rows, arrays["row"])
    if not len(trained_on):
        return ""
    return (
        f"it was trained on {len(trained_on):,} of this run's {len(rows):,} validation rows, so "
        "its predictions there say nothing; the same protocol, seed and sizes give the same rows"
    )


def _check_same_preprocessing(member: Path, job: str, run: Path, fit: str) -> None:
    theirs, ours = (
        RunFolder(folder).require_json(RunFile.PREPARATION, job=name)
        for folder, name in ((member, job), (run, fit))
    )
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if differing:
        raise UserError(
            f"{member} cannot be a member: its preparation of {', '.join(differing)} is another: "
            f"see preparation/{job}.json"
        )
