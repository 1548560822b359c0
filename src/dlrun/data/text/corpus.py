"""Texts that a language model is trained on, as windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.config.annotations import Count, NonNegative
from dlrun.core.dataset import ColumnLike, Dataset, RawColumns, SlidingWindows
from dlrun.core.errors import UserError
from dlrun.core.types import Kind
from dlrun.data.cache import RemoteFile, fetch
from dlrun.data.datasets import synthetic
from dlrun.data.preprocessing.language import TokenEncoder, TokenUnit, index_tokens
from dlrun.data.tabular.text_encoding import decode_text

Predict = Literal["every", "next"]
INPUT, TARGET, PLACE = "text", "next", "place"
# Where only the token after a window is predicted, the next window begins after a twentieth of it:
# 3 of the book's 60.
STEPS_PER_WINDOW = 20
NUM_SYNTHETIC_TEXTS = 200

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
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
            "input.txt",
        ),
    ),
}


@dataclass(frozen=True)
class WindowConfig:
    """How a text is cut into windows.

    Attributes:
        predict: The token after each token of a window ("every"), or only the one after the window
            ("next", as in the book).
        unit: What a token is.
        length: The number of tokens of a window.
        step: The distance between the first tokens of two windows; None for the whole length with
            "every", else for a twentieth of it.
        lower: Whether texts are lowercased.
        vocabulary: The size of the vocabulary, see `TokenEncoder`.
    """

    predict: Predict
    unit: TokenUnit
    length: int
    step: int | None
    lower: bool
    vocabulary: int | None

    @property
    def stride(self) -> int:
        """The distance between the first tokens of two windows."""
        if self.step:
            return self.step
        if self.predict == "every":
            return self.length
        return max(1, self.length // STEPS_PER_WINDOW)


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

    Args:
        name: "nietzsche" is Beyond Good and Evil, translated by Zimmern, 600,893 characters (book
            §8.1); "shakespeare" scenes from the plays, 1,115,394 characters (Karpathy's char-rnn,
            2015).
        source: "sample" is a synthetic text, without a download.
        predict: See `WindowConfig`, as for all of these: unit, length, step, lower, vocabulary.
        unit: What a token is.
        length: The number of tokens of a window.
        step: The distance between two windows.
        lower: Whether the text is lowercased.
        vocabulary: The size of the vocabulary.
        test: The share, or number, of tokens at the end that is held out.
    """
    config = WindowConfig(predict, unit, length, step, lower, vocabulary)
    sample_of = name if source == "sample" else ""
    return build_corpus_dataset(_load_text(BOOKS[name], source), config, test, sample_of)


def _load_text(file: RemoteFile, source: str) -> str:
    """An official text, or SYNTHETIC sentences in its place."""
    if source == "sample":
        return "\n".join(synthetic.generate_texts("train")[0][:NUM_SYNTHETIC_TEXTS])
    path = fetch(file)
    return decode_text(path.read_bytes(), "utf-8", str(path))


def build_corpus_dataset(
    text: str, config: WindowConfig, test: float, sample_of: str = ""
) -> Dataset:
    """Windows onto a text; its end is held out, and no window reaches across that border.

    Args:
        text: The text.
        config: How it is cut into windows.
        test: The share, or number, of tokens at the end that is held out.
        sample_of: The text that synthetic sentences stand in for.

    Raises:
        UserError: The text is too short for two windows.
    """
    values, names = index_tokens(text.lower() if config.lower else text, config.unit)
    num_test = round(test * len(values)) if test < 1 else int(test)
    cutoff = max(0, len(values) - num_test)
    dev_title = "what is left of the text for development" if num_test else "the text"
    dev = build_token_windows(values[:cutoff], config, dev_title)
    test_rows: RawColumns | None = None
    if num_test:  # windows are views: cutting them now costs nothing, and finds what is too short
        test_title = f"the end of the text that data.test={test:g} sets aside"
        test_rows = build_token_windows(values[cutoff:], config, test_title)
    target: Kind = "tokens" if config.predict == "every" else "category"
    encoder = TokenEncoder(config.unit, config.lower, names, config.vocabulary)
    return Dataset(
        dev=dev,
        test=None if test_rows is None else lambda: test_rows,
        inputs={INPUT: "tokens"},
        targets={TARGET: target},
        preprocessors={
            # The target has the vocabulary of the input: max_tokens applies once.
            INPUT: (encoder,),
            TARGET: (replace(encoder, max_tokens=None, input=INPUT),),
        },
        order=PLACE,
        note=synthetic.sample_note(sample_of) if sample_of else "",
        synthetic=bool(sample_of),
        read_vocabulary=lambda: names,
        overlap_gap=config.length // config.stride,
    )


def build_token_windows(values: np.ndarray, config: WindowConfig, title: str) -> RawColumns:
    """The windows that lie, with the token after them, wholly within these tokens; not copied.

    Args:
        values: Token ids (T,).
        config: How they are cut into windows.
        title: What the tokens are called in a message.
    """
    length, stride = config.length, config.stride
    # The last window leaves one token, which it predicts.
    first = np.arange(0, len(values) - length, stride, dtype=np.int64)
    # One window cannot be split into training and validation.
    if len(first) < 2:
        raise UserError(
            f"{title} has {len(values):,} {config.unit}s, and {length + stride + 1:,} make two "
            "windows with what comes after them: use a longer text, or a smaller data.length"
        )
    offsets = np.arange(length, dtype=np.int64)
    if config.predict == "every":
        targets: ColumnLike = SlidingWindows(values, first + 1, offsets)
    else:
        targets = values[first + length]
    return {INPUT: SlidingWindows(values, first, offsets), TARGET: targets, PLACE: first}


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
    """A text file as one text; see `build_corpus_dataset`.

    Args:
        path: The file; None takes the manual's chapters that come with Python, of the version that
            runs this.
        encoding: The file's encoding.
        predict: See `WindowConfig`, as for all of these: unit, length, step, lower, vocabulary.
        unit: What a token is.
        length: The number of tokens of a window.
        step: The distance between two windows.
        lower: Whether the text is lowercased.
        vocabulary: The size of the vocabulary.
        test: The share, or number, of tokens at the end that is held out.

    Raises:
        UserError: The file cannot be read.
    """
    text = python_manual() if path is None else read_corpus_file(Path(path).expanduser(), encoding)
    config = WindowConfig(predict, unit, length, step, lower, vocabulary)
    return build_corpus_dataset(text, config, test)


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
    """The topics of Python's own `help`, one after the other by their names."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
