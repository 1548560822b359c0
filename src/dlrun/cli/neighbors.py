"""`dlrun neighbors RUN WORD…`: the nearest words by the cosine of their vectors."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.run_argument import parse_run_argument
from dlrun.config.annotations import COUNT
from dlrun.config.compatibility import get_model_part_name
from dlrun.config.compose import parse_override_value
from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFolder
from dlrun.evaluation.answering_fits import select_prediction_source
from dlrun.launch.run_config import load_plugin_packages

if TYPE_CHECKING:
    import numpy as np

    from dlrun.report.result_tables import TextTable


USAGE = "dlrun neighbors RUN word… [count=10] [input=NAME] [fit=NAME]"
SETTINGS = ("count", "input", "fit", "plugins")
DEFAULT_COUNT = 10
MAX_SUGGESTIONS = 5  # words in a message
PLACEHOLDERS = ("", "▯")  # padding, and what stands for words that have no number of their own


@dataclass(frozen=True)
class NeighborQuery:
    """What the words of the command ask for.

    Attributes:
        folder: The run folder.
        input: The input whose vocabulary is searched.
        labels: The word of each token number.
        words: The words whose neighbors are wanted.
        count: The number of neighbors of each.
        plugins: Packages that the config may instantiate.
        fit: Which of several fits; "" where there is one.
    """

    folder: Path
    input: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    count: int
    plugins: tuple[str, ...]
    fit: str


def neighbors_command(words: list[str]) -> int:
    """Print the nearest neighbors of words.

    Args:
        words: The run folder, words, and settings.

    Returns:
        The exit code.

    Raises:
        UserError: For unknown words and settings; where possible, before torch is imported.
    """
    query = parse_neighbor_query(words)
    from rich.console import Console

    from dlrun.report.result_tables import to_rich_table

    vectors = get_token_vectors(query)
    console = Console(highlight=False)
    tables = {word: build_neighbor_table(word, query, vectors) for word in query.words}
    for word, table in tables.items():
        console.print(f"nearest to {word}", style="bold", soft_wrap=True, markup=False)
        console.print(to_rich_table(table))
    num_words = len(get_token_indices(query.labels))
    width = vectors.shape[1]
    console.print(
        f"cosine, among the vectors of {num_words:,} words, {width:,} numbers each", soft_wrap=True
    )
    return 0


def parse_neighbor_query(words: list[str]) -> NeighborQuery:
    """Parse the words of the command.

    Raises:
        UserError: For unknown settings, or words that are not in the run's vocabulary.
    """
    folder, _, overrides = parse_run_argument(words, "neighbors")
    settings = {
        key: value
        for key, equals, value in (word.partition("=") for word in overrides)
        if equals and key in SETTINGS
    }
    # A word may hold a = itself; only known settings are taken for such.
    query_words = tuple(
        dict.fromkeys(word for word in overrides if word.partition("=")[0] not in SETTINGS)
    )
    if not query_words:
        raise UserError(f"neighbors of which words? {USAGE}")
    count: Any = (
        parse_override_value(f"count={settings['count']}") if "count" in settings else DEFAULT_COUNT
    )
    if not COUNT.contains(count):
        raise UserError(f"count={settings['count']}: it must be {COUNT.text}")
    fit = settings.get("fit", "")
    name, labels = find_token_input(folder, settings.get("input", ""), fit)
    for word in query_words:
        if word in PLACEHOLDERS or word not in labels:
            raise UserError(unknown_token_message(word, labels, folder))
    return NeighborQuery(
        folder, name, labels, query_words, count, load_plugin_packages(overrides), fit
    )


def find_token_input(folder: Path, name: str, fit: str) -> tuple[str, tuple[str, ...]]:
    """Find the input of words, and the word of each token number.

    Args:
        folder: The run folder.
        name: The name of the input; "" for the only one.
        fit: Which of several fits; "" where there is one.

    Raises:
        UserError: Where there is no such input, or more than one.
    """
    # fields.json holds the vocabulary, so a typing error costs no loading of the model.
    source = select_prediction_source(folder, fit)
    fit = source.single_fit if source else ""
    inputs = RunFolder(folder).require_inputs(fit)["inputs"]
    token_inputs = [
        input_name
        for input_name, field in inputs.items()
        if field["kind"] == "tokens" and field["labels"]
    ]
    if not token_inputs:
        described = ", ".join(
            f"{field['kind']} '{input_name}'" for input_name, field in inputs.items()
        )
        problem = (
            "does not know the words of its numbers"
            if "tokens '" in described
            else "has no word vectors"
        )
        raise UserError(f"{folder} {problem}: it reads {described}")
    if (name and name not in token_inputs) or (not name and len(token_inputs) > 1):
        problem = f"no input of words '{name}'" if name else "words of which input? say input=NAME"
        raise UserError(f"{problem}. There are: {format_names(token_inputs)}")
    name = name or token_inputs[0]
    return name, tuple(inputs[name]["labels"])


def unknown_token_message(word: str, labels: Sequence[str], folder: Path) -> str:
    """Format the message for an unknown word, with words that look like it."""
    vocabulary = [label for label in labels if label not in PLACEHOLDERS]
    close = difflib.get_close_matches(word, vocabulary, MAX_SUGGESTIONS)
    # The texts were probably lowercased when the vocabulary was built.
    if word.lower() in vocabulary:
        close = list(dict.fromkeys([word.lower(), *close]))
    hint = f"; close to it: {', '.join(close)}" if close else ""
    return f"'{word}' is none of the {len(vocabulary):,} words that {folder} knows{hint}"


def get_token_vectors(query: NeighborQuery) -> np.ndarray:
    """Load the run's word vectors, (size, width), float64.

    Raises:
        UserError: Where its model has none.
    """
    from dlrun.models.pretrained.earlier_run import load_run_model
    from dlrun.models.sequence.embeddings import find_word_embeddings

    net = load_run_model(query.folder, query.plugins, fit=query.fit, quiet=False)
    embeddings = find_word_embeddings(net.model, net.spec.inputs)
    if query.input not in embeddings:
        model = get_model_part_name(net.config["model"])
        raise UserError(
            f"{query.folder}: the model {model} has no vectors of the words of '{query.input}'"
        )
    return embeddings[query.input].double().cpu().numpy()


def find_nearest(
    row: int, vectors: np.ndarray, candidates: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest rows by cosine.

    The row itself is left out, and so are rows of zeros, which have no direction.

    Args:
        row: The row whose neighbors are wanted.
        vectors: (size, width).
        candidates: The rows that may be neighbors.
        count: The largest number of neighbors.

    Returns:
        The rows, best first, and their cosines.
    """
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1)
    candidates = candidates[(lengths[candidates] > 0) & (candidates != row)]
    cosines = vectors[candidates] @ vectors[row] / (lengths[candidates] * lengths[row])
    # Stable, so that ties come in the order of the vocabulary.
    order = np.argsort(-cosines, kind="stable")[:count]
    return candidates[order], cosines[order]


def build_neighbor_table(word: str, query: NeighborQuery, vectors: np.ndarray) -> TextTable:
    """Build the table of one word's neighbors.

    Raises:
        UserError: For a word whose vector is zero.
    """
    from dlrun.report.result_tables import TextTable

    word_row = query.labels.index(word)
    if not vectors[word_row].any():
        raise UserError(
            f"the vector of '{word}' is zero in {query.folder}: it has no direction, and so no "
            "neighbors"
        )
    rows, cosines = find_nearest(word_row, vectors, get_token_indices(query.labels), query.count)
    cells = [
        [query.labels[row], f"{cosine:.4f}"] for row, cosine in zip(rows, cosines, strict=True)
    ]
    return TextTable("", ["word", "cosine"], cells, right=frozenset({1}))


def get_token_indices(labels: Sequence[str]) -> np.ndarray:
    """Return the token numbers that stand for words."""
    import numpy as np

    return np.array([number for number, label in enumerate(labels) if label not in PLACEHOLDERS])
