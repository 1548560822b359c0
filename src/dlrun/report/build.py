"""Builds the report of a run folder, and writes its page as HTML."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dlrun.core import run_folder, run_reader
from dlrun.core.files import write_text
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report import blocks, learning_curves, plotting, run_report
from dlrun.report.blocks import (
    Block,
    BulletList,
    Code,
    ErrorRow,
    Gallery,
    ImageBlock,
    Pairs,
    Section,
    Text,
)
from dlrun.report.result_tables import STAR, TextTable

STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 52rem; margin: 1.5rem auto;
  padding: 0 1rem }
h1 { font-size: 1.6rem; margin: 0 0 .4rem } h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem }
h1, h2, h3, p, li, td, th { overflow-wrap: anywhere }
nav { font-size: .85rem; line-height: 1.9; border-bottom: 1px solid #ddd; padding-bottom: .5rem }
a { color: #00588a }
p { margin: .4rem 0 } ul { margin: .3rem 0; padding-left: 1.3rem }
.small, figcaption { color: #595959; font-size: .85rem }
.strong { font-weight: 600 }
.loud { color: #b00020; font-weight: 700; border-left: .3rem solid #b00020; padding-left: .6rem }
.scroll { overflow-x: auto; width: min-content; min-width: 100%; max-width: calc(100vw - 3rem);
  position: relative; left: 50%; transform: translateX(-50%) }
table { border-collapse: collapse; margin: .6rem 0; font-size: .9rem }
.caption { font-weight: 600; font-size: .9rem; margin-top: 1rem }
.caption + .scroll table { margin-top: 0 }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .9rem .2rem 0; text-align: left;
  vertical-align: top; overflow-wrap: normal }
th { font-weight: 600 } .pairs th { font-weight: 400; color: #595959 }
.pairs th { white-space: nowrap } .pairs td { overflow-wrap: anywhere; min-width: 11rem }
td:first-child { white-space: nowrap }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.wide .number { white-space: normal }
.won td { font-weight: 700; background: #fdf0e6 }
figure { margin: .8rem 0 1.2rem } img { max-width: 100%; height: auto }
figure img { width: min(100%, 40rem); border: 1px solid #eee }
code, pre { font-family: ui-monospace, monospace; font-size: .85rem }
pre { background: #f5f5f5; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere }
summary { cursor: pointer }
.gallery { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)) }
.mistake { border: 1px solid #ddd; padding: .5rem .7rem; min-width: 0; font-size: .9rem }
.mistake img { image-rendering: pixelated; max-height: 12rem }
.mistake b, .cells i { font-weight: 400; font-style: normal; color: #595959 }
.cells { font-size: .85rem } .cells span { display: inline-block; margin-right: .8rem }
blockquote { margin: .4rem 0; padding-left: .6rem; border-left: .2rem solid #ddd; max-height: 16rem;
  overflow-y: auto; overflow-wrap: anywhere }
@media screen and (max-width: 60rem) {
  td:first-child, .number, .pairs th { white-space: normal } td { overflow-wrap: anywhere }
}
@media screen and (max-width: 40rem) {
  .scroll { width: auto; max-width: 100%; position: static; transform: none }
  .pairs th { overflow-wrap: anywhere; min-width: 6rem }
  .wide thead { display: none } .wide, .wide tbody, .wide tr { display: block }
  .wide tr { border-bottom: 1px solid #ddd; padding: .4rem 0 }
  .wide td { display: grid; grid-template-columns: 2fr 3fr; gap: .6rem; border: 0; padding: 0;
    text-align: left }
  .wide td::before { content: attr(data-column); color: #595959 }
  .wide td:first-child { display: block; font-weight: 600 }
  .wide td:first-child::before, .wide td:empty { display: none }
}
@page { margin: 15mm }
@media print {
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0 }
  nav { display: none }
  h2, h3, .caption { break-after: avoid }
  figure, img, tr, .mistake, .loud { break-inside: avoid }
  figure img { width: auto; max-width: 130mm; max-height: 220mm }
  .scroll, pre, blockquote { overflow: visible; max-height: none }
  .scroll { width: auto; max-width: 100%; position: static; transform: none }
  pre { white-space: pre-wrap; overflow-wrap: anywhere }
  table, .caption { font-size: 8pt } td:first-child, .number, .pairs th { white-space: normal }
  .gallery { grid-template-columns: repeat(3, 1fr); gap: 2mm }
  .mistake { font-size: 8pt; padding: 1.5mm }
  .cells, .small { font-size: 7.5pt }
}
"""

# The page loads nothing: a name from the data that got past `escape` could not call home.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

# Columns that fit beside each other on a phone; a wider table shows each cell on a line there,
# behind the name of its column.
MAX_UNBROKEN_COLUMNS = 3
UNBROKEN_TEXT = re.compile(r"\[[^\[\]]{,30}\]|± ")  # an interval, or a spread
CLASSES = {"": "", "small": ' class="small"', "strong": ' class="strong"', "loud": ' class="loud"'}


def make_html_page(heading: str, sections: Sequence[Section]) -> str:
    """The whole page as text, with images inside. Everything shown is escaped."""
    numbered = [(f"part-{number}", section) for number, section in enumerate(sections, 1)]
    # The first section has no title and needs no link.
    links = " · ".join(
        f'<a href="#{name}">{escape(section.title)}</a>'
        for name, section in numbered
        if section.title
    )
    fragments = [
        f"<h1>{escape(heading)}</h1>",
        f"<nav>{links}</nav>",
        *(_section(*entry) for entry in numbered),
    ]
    # the introduction, which has no heading, comes before the list of contents
    if sections and not sections[0].title:
        fragments[1], fragments[2] = fragments[2], fragments[1]
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(heading)}</title>",
        f"<style>{STYLE}</style>",
    ]
    body = "\n".join(fragments)
    opening = f'<!doctype html>\n<html lang="en"><head>\n{"".join(head)}</head>'
    return f"{opening}<body>\n{body}\n</body></html>\n"


def _section(name: str, section: Section) -> str:
    title = f"<h2>{escape(section.title)}</h2>" if section.title else ""
    blocks = "\n".join(WRITERS[type(block)](block) for block in section.blocks)
    return f'<section id="{name}">{title}\n{blocks}\n</section>'


def _text(block: Text) -> str:
    if block.tone == "heading":
        return f"<h3>{escape(block.text)}</h3>"
    return f"<p{CLASSES[block.tone]}>{escape(block.text)}</p>"


def _points(block: BulletList) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in block.lines) + "</ul>"


def _code(block: Code) -> str:
    text = f"<pre>{escape(block.text)}</pre>"
    return (
        f"<details><summary>{escape(block.title)}</summary>{text}</details>"
        if block.title
        else text
    )


def _pairs(block: Pairs) -> str:
    rows = (
        f"<tr><th>{escape(name)}</th><td><code>{escape(value)}</code></td></tr>"
        for name, value in block.rows
    )
    return f'<div class="scroll"><table class="pairs">{"".join(rows)}</table></div>'


def _table(block: TextTable) -> str:
    # A phone shows wide tables cell by cell, and needs the name of the column at each.
    wide = len(block.columns) > MAX_UNBROKEN_COLUMNS

    def cell(text: str, index: int) -> str:
        attribute = (
            f' data-column="{escape(block.columns[index])}"'
            if wide and index < len(block.columns)
            else ""
        )
        return f"<td{_format_aligned(block, index)}{attribute}>{_format_cell(text)}</td>"

    head = "".join(
        f"<th{_format_aligned(block, index)}>{escape(column)}</th>"
        for index, column in enumerate(block.columns)
    )
    lines = ""
    for row in block.rows:
        # By its star, so that any table may mark its winner.
        won = " class=won" if row and row[0].endswith(STAR) else ""
        lines += f"<tr{won}>{''.join(cell(text, index) for index, text in enumerate(row))}</tr>"
    title = f'<p class="caption">{escape(block.title)}</p>' if block.title else ""
    small = f'<p class="small">{escape(block.caption)}</p>' if block.caption else ""
    opening = '<table class="wide">' if wide else "<table>"
    table = f"{opening}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f'{title}<div class="scroll">{table}</div>{small}'


def _format_aligned(block: TextTable, index: int) -> str:
    return " class=number" if index in block.right else ""


def _format_cell(text: str) -> str:
    """The text of a cell, which may wrap within a path and not within an interval."""
    # Escaped before <wbr> is put in: only our own tags survive.
    return escape(UNBROKEN_TEXT.sub(lambda match: match[0].replace(" ", "\xa0"), text)).replace(
        "/", "/<wbr>"
    )


def _image_block(block: ImageBlock) -> str:
    caption = f"<figcaption>{escape(block.caption)}</figcaption>" if block.caption else ""
    return f"<figure>{embed_image(block.file, block.about)}{caption}</figure>"


def embed_image(file: Path, about: str) -> str:
    """An image with its bytes inside the page."""
    # By its suffix: samples may be animations.
    kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif"}.get(file.suffix.lower(), "png")
    # One file that can be mailed; it loads nothing.
    code = base64.b64encode(file.read_bytes()).decode("ascii")
    return f'<img alt="{escape(about)}" src="data:image/{kind};base64,{code}">'


def _gallery(block: Gallery) -> str:
    return '<div class="gallery">' + "".join(map(_error_row, block.errors)) + "</div>"


def _error_row(error: ErrorRow) -> str:
    verdict = (
        f"<p><b>true</b> {escape(error.truth)} <b>predicted</b> {escape(error.prediction)}</p>"
    )
    image = embed_image(error.image, f"row {error.row}") if error.image else ""
    text = f"<blockquote>{escape(error.text)}</blockquote>" if error.text else ""
    spans = (f"<span><i>{escape(name)}</i> {escape(value)}</span>" for name, value in error.cells)
    cells = f'<p class="cells">{" ".join(spans)}</p>' if error.cells else ""
    small = f'<p class="small">row {escape(error.row)}, loss {escape(error.loss)}</p>'
    return f'<div class="mistake">{verdict}{image}{text}{cells}{small}</div>'


WRITERS: dict[type[Block], Callable[[Any], str]] = {
    Text: _text,
    BulletList: _points,
    Code: _code,
    Pairs: _pairs,
    ImageBlock: _image_block,
    Gallery: _gallery,
    TextTable: _table,
}

# So that a file name stays below the 255 bytes that file systems allow.
MAX_NAMED_RUNS, MAX_NAME_LENGTH = 3, 60
PlotFiles = dict[str, list[Path]]


def write_report(folder: Path) -> list[Path]:
    """Write the figures, report.md and report.html into a run folder.

    Figures: learning-curves.png; confusion-<target>-<stage>-<split>.png or residuals-…, where
    <stage> is 'folds' for all folds of a plain run; forecast-<target>-<stage>-<split>.png of a
    series; and of a workflow stages.png, ladder.png and study.png. report.html holds them all, with
    what lies in samples/, generated/ and errors/.

    Returns:
        The files that were written.

    Raises:
        UserError: The folder holds no run.
    """
    drawn = draw_figures(folder)
    # Drawn first: the pages hold the figures, and the HTML has their bytes inside.
    sections = run_report.make_run_sections(folder, drawn)
    heading = run_report.get_report_heading(folder)
    run = RunFolder(folder)
    text, page = run.path(RunFile.REPORT_TEXT), run.path(RunFile.REPORT_PAGE)
    write_text(text, blocks.make_markdown_page(heading, sections, folder))
    write_text(page, make_html_page(heading, sections))
    return [*(file for paths in drawn.values() for file in paths), text, page]


def write_comparison(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write report-A-B.md, .html and .png into a folder, A and B being names of run folders.

    The runs are only read.

    Returns:
        The files that were written.

    Raises:
        UserError: One of them is no run.
    """
    # Here, because the report of one run needs neither it nor what it compares with.
    from dlrun.report import comparison_report

    stem = make_comparison_name(runs)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = comparison_report.draw_comparison(runs, folder / f"{stem}.png")
    sections = comparison_report.make_comparison_sections(runs, drawn)
    heading = f"Comparison of {len(runs)} runs"
    write_text(folder / f"{stem}.md", blocks.make_markdown_page(heading, sections, folder))
    write_text(folder / f"{stem}.html", make_html_page(heading, sections))
    return [*([drawn] if drawn else []), folder / f"{stem}.md", folder / f"{stem}.html"]


def make_comparison_name(runs: Sequence[Path]) -> str:
    """'report-A-B', of more than three runs 'report-A-and-5-more', in safe letters."""
    names = [re.sub(r"[^\w.-]+", "_", run.resolve().name)[:MAX_NAME_LENGTH] for run in runs]
    return "-".join(
        [
            "report",
            *(
                names
                if len(names) <= MAX_NAMED_RUNS
                else (names[0], "and", str(len(names) - 1), "more")
            ),
        ]
    )


def draw_figures(folder: Path) -> PlotFiles:
    """Draw the figures there are data for; kind of figure → files."""
    config = RunFolder(folder).read_config()
    results = run_reader.read_results(folder)
    steps = run_reader.read_verdicts(folder)
    drawn = (
        _draw_workflow(folder, config, results, steps)
        if steps
        else {"curves": _draw_curves(folder, config, results, None)}
    )
    figures = {name: [file] for name, file in drawn.items() if file is not None}
    only = run_report.select_families(steps)
    if RunFolder(folder).list_files(RunFile.FORECAST):
        from dlrun.report import forecast_plot

        figures["forecast"] = forecast_plot.draw_forecasts(folder, results, config, only)
    figures["answers"] = plotting.draw_predictions(folder, results, config, only)
    return figures


def _draw_curves(
    folder: Path,
    config: dict[str, Any],
    results: run_folder.JsonLines,
    only: Collection[str] | None,
) -> Path | None:
    file, history = RunFolder(folder).path(RunFile.LEARNING_CURVES), run_reader.read_history(folder)
    return learning_curves.draw_learning_curves(history, results, config, file, only=only)


def _draw_workflow(
    folder: Path,
    config: dict[str, Any],
    results: run_folder.JsonLines,
    steps: run_folder.JsonLines,
) -> dict[str, Path | None]:
    """The figures of a workflow: curves of the configured stage and the winner, and all stages."""
    from dlrun.report import overfitting_plot, score_plot, workflow_stages

    only = {workflow_stages.CONFIGURED_STAGE, workflow_stages.find_best_stage(steps)}
    run = RunFolder(folder)
    stages = score_plot.draw_score_plot(results, steps, config, run.path(RunFile.STAGES_PLOT))
    drawn = {"curves": _draw_curves(folder, config, results, only), "stages": stages}
    # Where nothing beats the baseline, no larger network has been tried.
    if any(step["step"] > workflow_stages.BASELINE_STEP for step in steps):
        history = run_reader.read_history(folder)
        drawn["ladder"] = overfitting_plot.draw_capacity_curves(
            history, results, config, run.path(RunFile.LADDER_PLOT), steps
        )
        drawn["study"] = overfitting_plot.draw_regularization_curves(
            history, results, config, run.path(RunFile.STUDY_PLOT)
        )
    return drawn
