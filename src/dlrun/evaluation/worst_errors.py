"""Writes the worst errors of a fit as a person sees them: a JSON file, and a PNG for each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.files import atomic_write
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import Field
from dlrun.data.display import describe_array, describe_raw_row, format_value

# About the smallest difference from 1 that float32 has: keeps the logarithm finite.
MIN_PROBABILITY = 1e-7
IMAGE_SIZE = 140  # pixels, to which small images are enlarged
MAX_LISTED_NUMBERS = 6  # as many numbers of one answer


def write_largest_errors(
    folder: Path,
    job: str,
    split: str,
    dataset: Dataset,
    rows: RawColumns,
    indices: np.ndarray,
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]],
    targets: Mapping[str, Field],
    *,
    count: int = 12,
) -> Path | None:
    """Write the rows with the largest loss in the first target to `errors/<job>-<split>.json`.

    Worst first; each entry is that of `describe_row` with 'row', 'target', 'loss' and 'shown'.

    Args:
        folder: The run folder.
        job: The name of the fit.
        split: 'val', 'test' or 'train'.
        dataset: What the rows come from.
        rows: Its raw columns: `dataset.dev`, or the test rows.
        indices: (n,) the row of `rows` that each prediction is for.
        answers: Target → (activated predictions, truths), n of each.
        targets: Target → its field.
        count: How many rows.

    Returns:
        The JSON file. None where all targets are tokens: the next token at each position shows a
        person nothing.
    """
    target = next(
        (name for name in targets if name in answers and targets[name].kind != "tokens"), None
    )
    if target is None:
        return None
    answer, truth = answers[target]
    losses = compute_row_losses(targets[target], answer, truth)
    run, errors = RunFolder(folder), list[dict[str, Any]]()
    # Stable, so that equal losses come in the order of the rows and a report can be repeated.
    for index in np.argsort(-losses, kind="stable")[:count]:
        row = int(indices[index])
        description = describe_row(targets[target], answer[index], truth[index])
        view = describe_raw_row(dataset, rows, row)
        if "image" in view:
            view["image"] = _save_image(
                view["image"],
                run.path(RunFile.ERROR_FOLDER) / f"{job}-{split}-{len(errors) + 1}.png",
            )
        errors.append(
            {
                "row": row,
                "target": target,
                **description,
                "loss": float(losses[index]),
                "shown": view,
            }
        )
    run.write_json(RunFile.ERRORS, errors, job=job, split=split)
    return run.path(RunFile.ERRORS, job=job, split=split)


def compute_row_losses(field: Field, answer: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The loss of each row (n,): cross-entropy of classes or labels, else absolute error."""
    # In double: 1 - answer loses digits near 1.
    answer, rows = answer.astype(np.float64), len(answer)
    if field.kind == "category":
        return -np.log(
            answer[np.arange(rows), truth.reshape(rows).astype(np.int64)].clip(MIN_PROBABILITY)
        )
    answer, truth = answer.reshape(rows, -1), truth.reshape(rows, -1)
    if field.kind in ("binary", "multilabel"):
        return -np.log(np.where(truth > 0.5, answer, 1 - answer).clip(MIN_PROBABILITY)).mean(axis=1)
    return np.abs(answer - truth).mean(axis=1)


def describe_row(field: Field, answer: np.ndarray, truth: np.ndarray) -> dict[str, str]:
    """One row's 'truth' and 'answer' in words: class names with the probability, or numbers."""
    if field.kind == "category":
        best = int(answer.argmax())
        return {
            "truth": get_label_name(field, int(truth)),
            "answer": f"{get_label_name(field, best)} {answer[best]:.2f}",
        }
    answer, truth = answer.ravel(), truth.ravel()
    if field.kind == "binary":
        predicted = int(answer[0] > 0.5)
        probability = answer[0] if predicted else 1 - answer[0]
        return {
            "truth": get_label_name(field, int(truth[0])),
            "answer": f"{get_label_name(field, predicted)} {probability:.2f}",
        }
    if field.kind == "multilabel":
        true = [get_label_name(field, index) for index in np.flatnonzero(truth > 0.5).tolist()]
        predicted_labels = [
            f"{get_label_name(field, index)} {answer[index]:.2f}"
            for index in np.flatnonzero(answer > 0.5).tolist()
        ]
        return {
            "truth": ", ".join(true) or "(none)",
            "answer": ", ".join(predicted_labels) or "(none)",
        }
    return {"truth": _format_numbers(truth), "answer": _format_numbers(answer)}


def get_label_name(field: Field, index: int) -> str:
    """The name of a class or label, or its number."""
    return field.labels[index] if index < len(field.labels) else str(index)


def _format_numbers(values: np.ndarray) -> str:
    return (
        ", ".join(map(format_value, values.tolist()))
        if len(values) <= MAX_LISTED_NUMBERS
        else describe_array(values)
    )


def _save_image(pixels: np.ndarray, path: Path) -> str:
    """Write an image with every pixel of a small one as a square; returns the name of the file."""
    from PIL import Image

    scale = max(1, round(IMAGE_SIZE / max(pixels.shape[:2])))
    with atomic_write(path) as temporary:
        Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(temporary, format="PNG")
    return path.name
