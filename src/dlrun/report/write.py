"""Makes everything that there is to look at from a finished run folder."""

from __future__ import annotations

import os
from pathlib import Path

from dlrun.report import confusion, curves, html, read


def write(folder: Path) -> list[Path]:
    """Write the pictures and report.html into the folder, and say which files these are.

    learning-curves.png · confusion-<target>-<job>-<split>.png or residuals-…, where <job> is 'folds' for several folds
    together · report.html, which has them all inside, and what lies in samples/. Raises Refused where there is no run.
    """
    config, history, results = read.config(folder), read.history(folder), read.results(folder)
    drawn = curves.draw(history, results, config, folder / "learning-curves.png")
    files = [drawn] if drawn else []
    files += confusion.draw_all(folder, results, config)
    samples = sorted(file for file in (folder / "samples").glob("*") if file.suffix in (".png", ".jpg"))
    page = folder / "report.html"
    replace(page, html.page(folder, files + samples))
    return [*files, page]


def replace(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, file)
