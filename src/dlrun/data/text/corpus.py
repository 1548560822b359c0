"""Texts that a language model learns from, and windows onto them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlrun.config.constraints import Count, NonNegative
from dlrun.core.dataset import Dataset, RawColumns, SlidingWindows
from dlrun.core.errors import UserError
from dlrun.core.types import Kind
from dlrun.data.datasets import synthetic
from dlrun.data.downloads import RemoteFile, fetch
from dlrun.data.preprocessing.language import TokenEncoder, TokenUnit, index_tokens
from dlrun.data.tabular.text_encoding import decode_text

Predict = Literal["every", "next"]
INPUT, TARGET, PLACE = "text", "next", "place"
STEPS_PER_WINDOW = 20  # of a window, after which the next one begins where it answers for its end alone: 3 of the book's 60
NUM_SYNTHETIC_TEXTS = 200  # texts that make up a sample

BOOKS = {
    "nietzsche": RemoteFile(
        "nietzsche",
        "nietzsche.txt",
        "23cf69874ab69d3d256099ab530ea4be24d47d9675b673bcc67cbcd6298ec647",
        ("https://s3.amazonaws.com/text-datasets/nietzsche.txt",),
    ),
    "shakespeare": RemoteFile(
        "tinyshakespeare",
        "input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        (
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        ),
    ),
}


@dataclass(frozen=True)
class WindowConfig:
    """How a text is cut into windows of `length` tokens, of which one begins every `step` tokens.

    predict: what comes after each token of a window (`every`), or after the window (`next`, as in the book). step: None
    for the whole window where each place answers, else for a twentieth of it. vocabulary: see `Tokens`.
    """

    predict: Predict
    unit: TokenUnit
    length: int
    step: int | None
    lower: bool
    vocabulary: int | None

    @property
    def stride(self) -> int:
        """From where one window begins to where the next one does."""
        return self.step or (
            self.length if self.predict == "every" else max(1, self.length // STEPS_PER_WINDOW)
        )


def text_corpus(
    *,
    name: Literal["nietzsche", "shakespeare"],
    source: Literal["official", "sample"],
    predict: Predict,
    unit: TokenUnit,
    length: Count,
    step: Count | None,
    lower: bool,
    vocabulary: Count | None,
    test: NonNegative,
) -> Dataset:
    """A published text; see `build_corpus_dataset`.

    nietzsche: Beyond Good and Evil, translated by Zimmern, 600,893 characters (book §8.1). shakespeare: scenes from the
    plays, 1,115,394 characters (Karpathy's char-rnn, 2015).
    """
    how = WindowConfig(predict, unit, length, step, lower, vocabulary)
    return build_corpus_dataset(
        _load_text(BOOKS[name], source), how, test, name if source == "sample" else ""
    )


def _load_text(file: RemoteFile, source: str) -> str:
    """An official text, or SYNTHETIC sentences in its place."""
    if source == "sample":
        return "\n".join(synthetic.generate_texts("train")[0][:NUM_SYNTHETIC_TEXTS])
    path = fetch(file)
    return decode_text(path.read_bytes(), "utf-8", str(path))


def build_corpus_dataset(text: str, how: WindowConfig, test: float, invented: str = "") -> Dataset:
    """Windows onto a text; its end is set aside, and no window of either part reaches into the other.

    test: the share, or number, of tokens at the end that is set aside. invented: which text made-up sentences stand
    for. Raises UserError where the text is too short for the windows.
    """
    values, names = index_tokens(text.lower() if how.lower else text, how.unit)
    count = round(test * len(values)) if test < 1 else int(test)
    cutoff = max(0, len(values) - count)
    dev = build_token_windows(
        values[:cutoff],
        how,
        "the text" if not count else "what is left of the text for development",
    )
    sealed = (
        build_token_windows(
            values[cutoff:], how, f"the end of the text that data.test={test:g} sets aside"
        )
        if count
        else None
    )
    target: Kind = "tokens" if how.predict == "every" else "category"
    known: dict[str, Any] = {"unit": how.unit, "lower": how.lower, "names": names}
    return Dataset(
        dev=dev,
        test=None if sealed is None else lambda: sealed,
        inputs={INPUT: "tokens"},
        targets={TARGET: target},
        preprocessors={
            INPUT: (TokenEncoder(**known, max_tokens=how.vocabulary),),
            TARGET: (TokenEncoder(**known, max_tokens=None, input=INPUT),),
        },
        order=PLACE,
        note=synthetic.sample_note(invented) if invented else "",
        read_vocabulary=lambda: names,
        overlap_gap=how.length // how.stride,
    )


def build_token_windows(values: np.ndarray, how: WindowConfig, what: str) -> RawColumns:
    """The windows that lie, with what comes after them, wholly within these tokens; none of them is copied."""
    first = np.arange(0, len(values) - how.length, how.stride, dtype=np.int64)
    if len(first) < 2:
        raise UserError(
            f"{what} has {len(values):,} {how.unit}s, and {how.length + how.stride + 1:,} make two windows with what "
            "comes after them: use a longer text, or a smaller data.length"
        )
    places = np.arange(how.length, dtype=np.int64)
    answers = (
        SlidingWindows(values, first + 1, places)
        if how.predict == "every"
        else values[first + how.length]
    )
    return {INPUT: SlidingWindows(values, first, places), TARGET: answers, PLACE: first}


def text_file(
    *,
    path: str | None,
    encoding: str,
    predict: Predict,
    unit: TokenUnit,
    length: Count,
    step: Count | None,
    lower: bool,
    vocabulary: Count | None,
    test: NonNegative,
) -> Dataset:
    """A text file as one text; without one, the chapters of Python's manual that come with Python itself.

    These are those of the Python that runs this. See `language.build_corpus_dataset`. Raises UserError for a file that cannot be read.
    """
    text = python_manual() if path is None else read_corpus_file(Path(path).expanduser(), encoding)
    return build_corpus_dataset(
        text, WindowConfig(predict, unit, length, step, lower, vocabulary), test
    )


def read_corpus_file(path: Path, encoding: str) -> str:
    """The text of a file, with line ends as Python has them."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"data.path={path} cannot be read: {error.strerror or error}") from error
    text = decode_text(content, encoding, str(path)).replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise UserError(f"data.path={path}: there is no text in it")
    return text


def python_manual() -> str:
    """What Python's own `help` tells of the language, one topic after the other by their names."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
