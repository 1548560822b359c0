"""`dlrun predict`: predictions of a finished run for images, texts, rows or a series."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.cli.predict_inputs import (
    TABLE_SUFFIXES,
    PredictRequest,
    get_single_table,
    list_image_files,
    parse_predict_request,
    read_input_texts,
)
from dlrun.cli.predict_output import print_predictions, write_output_file
from dlrun.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.experiment.inference_folds import Predictions


MAX_LISTED = 20  # skipped files that are named on the terminal


def predict_command(words: list[str]) -> int:
    """Predict, print the predictions, and with to=FILE.csv or FILE.json write all of them.

    Files that hold no image or text are named and left out.

    Args:
        words: The run folder, files or texts, and settings.

    Returns:
        The exit code.

    Raises:
        UserError: Where nothing could be predicted.
    """
    from rich.console import Console

    request = parse_predict_request(words)
    console = Console(highlight=False)
    if request.kind == "series":
        from dlrun.cli.predict_output import print_series_predictions

        text = print_series_predictions(
            request.folder,
            get_single_table(request.items),
            request.plugins,
            request.to,
            console,
            request.fit,
            **request.reading,
        )
    else:
        outputs, name_column = compute_predictions(request, console)
        text = print_predictions(request, outputs, name_column, console)
    if request.to is not None:
        write_output_file(request.to, text)
        console.print(f"written: {request.to}", soft_wrap=True, markup=False)
    return 0


def compute_predictions(request: PredictRequest, console: Console) -> tuple[Predictions, str]:
    """Compute the predictions.

    Returns:
        The predictions, and what names their rows: "file", "text" or "line".
    """
    if request.kind == "pictures":
        from dlrun.experiment.inference import predict_images

        outputs = predict_images(
            request.folder,
            list_image_files([Path(item) for item in request.items]),
            request.plugins,
            request.fit,
        )
        report_skipped(outputs.skipped, len(outputs.names), "an image", console)
        return outputs, "file"
    if request.kind == "texts" and not any(
        isinstance(item, Path) and item.suffix.lower() in TABLE_SUFFIXES for item in request.items
    ):
        from dlrun.experiment.inference import predict_texts

        texts, skipped = read_input_texts(request.items, request.config, request.encoding)
        report_skipped(skipped, len(texts), "a text", console)
        return replace(
            predict_texts(request.folder, texts, request.plugins, request.fit), skipped=skipped
        ), "text"
    from dlrun.experiment.inference import predict_table

    return predict_table(
        request.folder,
        get_single_table(request.items),
        request.plugins,
        request.fit,
        **request.reading,
    ), "line"


def report_skipped(
    skipped: dict[str, str], num_predicted: int, noun: str, console: Console
) -> None:
    """Name the files that could not be read.

    Args:
        skipped: File → reason.
        num_predicted: The number of files that could be read.
        noun: What a file should have held.
        console: Where the lines are printed.

    Raises:
        UserError: Where no file could be read.
    """
    lines = [f"left out: {name}: {reason}" for name, reason in list(skipped.items())[:MAX_LISTED]]
    lines += [f"left out: {len(skipped) - MAX_LISTED:,} more"] if len(skipped) > MAX_LISTED else []
    if not num_predicted:
        raise UserError(
            "\n".join([*lines, f"none of {len(skipped):,} files could be read as {noun}"])
        )
    if skipped:
        lines.append(f"{num_predicted:,} predicted, {len(skipped):,} left out")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
