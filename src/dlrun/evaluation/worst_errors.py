"""The worst errors of a fit as a person sees them: errors/<job>-<split>.json, with a PNG beside it for each picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrun.core import json_text
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.files import atomic_write, write_text
from dlrun.core.types import Field
from dlrun.data.display import describe_array, describe_raw_row, format_value

MIN_PROBABILITY = (
    1e-7  # about what float32 can still tell from 0 beside 1: keeps the logarithm finite
)
IMAGE_SIZE = 140  # pixels, to which small pictures are enlarged
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
    """Write the `count` rows with the largest loss in the first target, worst first; answers with the JSON file.

    None where all targets are tokens: what came next at each place says nothing that a person could see.

    rows: raw columns (raw.dev, or what raw.test gave). indices: (n,) the row of `rows` that each answer is for.
    answers: target → (activated answers, truths), n of each. Entries: see `describe_row`; their 'target' names the target.
    """
    target = next(
        (name for name in targets if name in answers and targets[name].kind != "tokens"), None
    )
    if target is None:
        return None
    answer, truth = answers[target]
    losses = compute_row_losses(targets[target], answer, truth)
    errors: list[dict[str, Any]] = []
    for index in np.argsort(-losses, kind="stable")[:count]:
        row = int(indices[index])
        description = describe_row(targets[target], answer[index], truth[index])
        view = describe_raw_row(dataset, rows, row)
        if "image" in view:
            view["image"] = _save_image(
                view["image"], folder / "errors" / f"{job}-{split}-{len(errors) + 1}.png"
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
    path = folder / "errors" / f"{job}-{split}.json"
    write_text(path, json_text.to_json(errors, 1) + "\n")
    return path


def compute_row_losses(field: Field, answer: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The loss of each row (n,): cross-entropy for classes and labels (their mean), absolute error for numbers."""
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
    """One row's 'truth' and 'answer' in words: class names, the answer's with its probability, or numbers."""
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
    """Write a picture at once, small ones with every pixel as a square; answers with the file's name."""
    from PIL import Image

    scale = max(1, round(IMAGE_SIZE / max(pixels.shape[:2])))
    with atomic_write(path) as temporary:
        Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(temporary, format="PNG")
    return path.name
