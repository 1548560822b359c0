"""Writes report.html: one file that says what was asked, how it was tried, what came of it, and on which machine."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

from dlrun.report import read
from dlrun.report.table import Summary, summaries

SHOWN = (
    "data",
    "model",
    "loss",
    "optimizer",
    "scheduler",
    "metric",
    "protocol",
    "engine",
    "callback",
    "seed",
    "source",
)
PICTURES = 24
PACKAGES = ("torch", "torchvision", "numpy", "dlrun", "hydra-core", "scikit-learn")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .6rem 0 } caption { text-align: left; font-weight: 600; padding: .2rem 0 }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
.scroll { overflow-x: auto } td.number { text-align: right; font-variant-numeric: tabular-nums }
.small { color: #666; font-size: .85rem } .warning { color: #b00020; font-weight: 700 }
img { max-width: 100%; border: 1px solid #eee } code, pre { background: #f5f5f5; padding: .1rem .3rem }
pre { overflow-x: auto; padding: .6rem; font-size: .85rem } td code { overflow-wrap: anywhere }
"""


def page(folder: Path, pictures: list[Path]) -> str:
    """The whole page as text; the pictures are inside."""
    config, results = read.config(folder), read.results(folder)
    heading = " · ".join(filter(None, (read.name_of_task(config), read.name_of_model(config)))) or folder.name
    parts = [
        f"<h1>{escape(heading)}</h1>",
        *(_note(note) for note in read.notes_of(results)),
        _question(config, read.text(folder / "command.txt")),
        "<h2>Results</h2>",
        *(_table(summary) for summary in summaries(results, config)),
        "" if results else "<p>No result was written.</p>",
        "<h2>Pictures</h2>" if pictures else "",
        *(_picture(file) for file in pictures[:PICTURES]),
        "<h2>Config</h2>",
        _config(config),
        _details("all of it", read.text(folder / "config.yaml")),
        "<h2>Environment</h2>",
        _environment(folder),
    ]
    head = f'<meta charset="utf-8"><title>{escape(heading)}</title><style>{STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n'
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _note(text: str) -> str:
    return f"<p{' class=warning' if 'SYNTHETIC' in text else ''}>{escape(text)}</p>"


def _question(config: dict[str, Any], command: str) -> str:
    node = config.get("task")
    task = node if isinstance(node, dict) else {}
    lines = [f"<p>{escape(str(task['question']))}</p>"] if task.get("question") else []
    columns = [
        f"{what}: {', '.join(f'{name} ({kind})' for name, kind in task[what].items())}"
        for what in ("inputs", "targets")
        if isinstance(task.get(what), dict)
    ]
    small = [*columns, *([f"book: {task['book']}"] if task.get("book") else [])]
    lines += [f'<p class="small">{escape(" · ".join(small))}</p>'] if small else []
    lines += [f"<pre>{escape(command)}</pre>"] if command else []
    return "\n".join(lines)


def _table(summary: Summary) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in summary.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(cell, place in summary.right) for place, cell in enumerate(row)) + "</tr>"
        for row in summary.rows
    )
    caption = f"<caption>{escape(summary.title)}</caption>"
    small = f'<p class="small">{escape(summary.caption)}</p>'
    return f'<div class="scroll"><table>{caption}<tr>{head}</tr>{rows}</table></div>{small}'


def _cell(text: str, number: bool) -> str:
    return f"<td{' class=number' if number else ''}>{escape(text)}</td>"


def _picture(file: Path) -> str:
    kind = "jpeg" if file.suffix.lower() in (".jpg", ".jpeg") else "png"
    code = base64.b64encode(file.read_bytes()).decode("ascii")
    return f'<p><img alt="{escape(file.stem)}" src="data:image/{kind};base64,{code}"></p>'


def _config(config: dict[str, Any]) -> str:
    rows = []
    for group in SHOWN:
        values = read.flat(config.get(group), group) if config.get(group) is not None else {}
        rows += [(key, value) for key, value in values.items() if value is not None]
    return _pairs(rows)


def _environment(folder: Path) -> str:
    import json

    text = read.text(folder / "environment.json")
    if not text:
        return "<p>not recorded</p>"
    values = read.flat(json.loads(text))
    short = [(key, value) for key, value in values.items() if not _long(key, value) and value not in (None, "")]
    return _pairs(short) + _details("all packages and changes", "\n".join(f"{key}: {values[key]}" for key in values))


def _long(key: str, value: Any) -> bool:
    return len(str(value)) > 200 or (key.startswith("packages.") and key.removeprefix("packages.") not in PACKAGES)


def _details(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _pairs(rows: list[tuple[str, Any]]) -> str:
    lines = (f"<tr><td>{escape(key)}</td><td><code>{escape(str(value))}</code></td></tr>" for key, value in rows)
    return f"<table>{''.join(lines)}</table>"
