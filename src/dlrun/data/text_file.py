"""Your own text, of which a language model learns how it goes on."""

from __future__ import annotations

from pathlib import Path

from dlrun.config.constraints import Count, NonNegative
from dlrun.core.dataset import Raw
from dlrun.core.errors import Refused
from dlrun.data.encodings import decoded
from dlrun.data.language import Cut, Predict, dataset
from dlrun.data.language_steps import Unit


def text_file(
    *,
    path: str | None,
    encoding: str,
    predict: Predict,
    unit: Unit,
    length: Count,
    step: Count | None,
    lower: bool,
    vocabulary: Count | None,
    test: NonNegative,
) -> Raw:
    """A text file as one text; without one, the chapters of Python's manual that come with Python itself.

    These are those of the Python that runs this. See `language.dataset`. Raises Refused for a file that cannot be read.
    """
    text = manual() if path is None else read(Path(path).expanduser(), encoding)
    return dataset(text, Cut(predict, unit, length, step, lower, vocabulary), test)


def read(path: Path, encoding: str) -> str:
    """The text of a file, with line ends as Python has them."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f"data.path={path} cannot be read: {error.strerror or error}") from error
    text = decoded(content, encoding, str(path)).replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise Refused(f"data.path={path}: there is no text in it")
    return text


def manual() -> str:
    """What Python's own `help` tells of the language, one topic after the other by their names."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
