"""Run folders of earlier versions, tests/fixtures/runs: what a command answers to one, in a form that can be stored."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "fixtures" / "runs"
NUMBER = re.compile(
    r"(?<![\w.,:/-])[-−]?\d[\d,]*\.\d\d+(?![\w.]| s\b)"
)  # 0.2535, -12.50; no version, no time
RELATIVE, ABSOLUTE = 2e-3, 2e-3  # other processors round otherwise, and training takes that further
TRAINING = ("resume", "final", "-m")  # these say how long it took
# Words of refusals that are the field's now. An answer that was stored is compared as it would be told today.
TOLD_NOW = {
    "answers no target, it makes something:": "predicts no target, it generates:",
    "is a picture (PNG)": "is an image (PNG)",
    "no picture in a format": "no image in a format",
    "predicts and makes nothing: dlrun predict answers for new rows": (
        "predicts and generates nothing: dlrun predict takes new rows"
    ),
}
LEARNED = ("name", "split", "epochs", "checkpoint")

Answer = dict[str, Any]


def observed(words: list[str]) -> Answer:
    """Give dlrun these words in the working folder; answers with what must stay so in later versions.

    code: of the exit. refused: why, where that is 2. said: the numbers on the terminal. made: what was written.
    """
    from dlrun.cli.main import main

    before, out, err = generated(words), StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(words))
    if code:
        return {"words": words, "code": code, "refused": refusal(err.getvalue())}
    found = {
        "words": words,
        "code": code,
        "made": dict(made(words, sorted(generated(words) - before))),
    }
    return found if words[0] in TRAINING else found | {"said": numbers(out.getvalue())}


def generated(words: list[str]) -> set[Path]:
    """All that `generate_command` has made below the working folder; of other commands it is not asked."""
    return set(Path().rglob("generated/**/*.*")) if words[0] == "generate" else set()


def refusal(text: str) -> str:
    """Why dlrun refuses, without line breaks, and without the place of the working folder."""
    lines = [line for line in text.splitlines() if line.startswith("dlrun:")]
    return " ".join(" ".join(lines).replace(f"{Path.cwd()}/", "").split())


def numbers(text: str) -> list[float]:
    """The decimal numbers in a text, in their order."""
    return [float(found.replace(",", "").replace("−", "-")) for found in NUMBER.findall(text)]


def made(words: list[str], fresh: list[Path]) -> Iterator[tuple[str, Any]]:
    """Name and content of what a command has written: answers, texts, images, a report's scores, a run's results."""
    folder = Path(words[1])
    if words[0] == "predict":
        (answers,) = (Path(word[3:]) for word in words if word.startswith("to="))
        yield "answers", json.loads(answers.read_text()) | {"run": ""}
    if words[0] == "generate":
        for path in fresh:
            if path.suffix in (".txt", ".png", ".gif"):
                yield path.name, path.read_text() if path.suffix == ".txt" else shades(path)
    if words[0] == "report":
        yield "whole", (folder / "report.html").read_text().rstrip().endswith("</html>")
        yield "scores", numbers(scores((folder / "report.md").read_text()))
    if words[0] in TRAINING:
        place = (
            folder
            if words[0] != "-m"
            else Path(next(word[7:] for word in words if word.startswith("output=")))
        )
        found = sorted(place.rglob("results.jsonl"))
        yield "runs", len(found)  # a sweep does nothing a second time
        for path in found:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            yield str(path), [result(line) for line in lines]
            rows = [
                json.loads(line)
                for line in path.with_name("history.jsonl").read_text().splitlines()
            ]
            yield str(path.with_name("history.jsonl")), [len(rows), rows[-1]]


def result(line: dict[str, Any]) -> dict[str, Any]:
    """What must stay of a result: whose it is, and its scores."""
    values = {name: score["value"] for name, score in line["scores"].items()}
    return {key: line[key] for key in LEARNED} | {"scores": values}


def scores(page: str) -> str:
    """The tables of a page in Markdown."""
    return "\n".join(line for line in page.splitlines() if line.startswith("|"))


def shades(path: Path) -> list[float]:
    """Of an image its size, and the mean of each color."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), np.float64)
    return [*map(float, pixels.shape[:2]), *(pixels.mean((0, 1)) / 255).tolist()]


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """Where an answer is not the stored one. What is new beside it is no difference; of lists of numbers on a
    terminal or a page (`said`, `scores`) the order is not held, for their layout may change."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            if key not in found:
                yield f"{where}/{key} is missing"
            else:
                yield from differences(value, found[key], f"{where}/{key}")
    elif (
        isinstance(expected, list)
        and isinstance(found, list)
        and where.endswith(("/said", "/scores"))
    ):
        lost = [one for one in expected if not any(close(one, other) for other in found)]
        if lost:
            yield f"{where}: {lost} not among {found}"
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, other, f"{where}/{number}")
    elif where.endswith(("/refused", "/reason")) and isinstance(expected, str):
        for old, now in TOLD_NOW.items():
            expected = expected.replace(old, now)
        if expected != found:
            yield f"{where}: {expected!r} was stored, {found!r} came"
    elif not close(expected, found):
        yield f"{where}: {expected!r} was stored, {found!r} came"


def close(one: Any, other: Any) -> bool:
    """Whether two values are the same but for rounding."""
    if all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)
    ):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return bool(one == other)
