"""`dlrun neighbours RUN word…`: the words whose vectors point in nearly the same direction."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.run_argument import parse_run_argument
from dlrun.config.compatibility import get_model_part_name
from dlrun.config.compose import parse_override_value
from dlrun.config.constraints import COUNT
from dlrun.core import stored_files
from dlrun.core.errors import UserError, format_names
from dlrun.evaluation.answering_fits import get_fields_file, select_prediction_source
from dlrun.launch.run_config import load_plugin_packages

if TYPE_CHECKING:
    import numpy as np

    from dlrun.report.result_tables import TextTable


USAGE = "dlrun neighbours RUN word… [count=10] [input=NAME] [fit=NAME]"
SETTINGS = ("count", "input", "fit", "plugins")
DEFAULT_COUNT = 10
MAX_SUGGESTIONS = 5  # words in a message
PLACEHOLDERS = ("", "▯")  # padding, and what stands for words that have no number of their own


@dataclass(frozen=True)
class NeighborQuery:
    """Whose words (run, input), which of them, and how many neighbours of each. labels: the word of each number."""

    folder: Path
    input: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    count: int
    plugins: tuple[str, ...]
    fit: str


def neighbours_command(words: list[str]) -> int:
    """Print the nearest neighbours of words. Gives the exit code; raises UserError before torch is there if it can."""
    asked = parse_neighbor_query(words)
    from rich.console import Console

    from dlrun.report.result_tables import to_rich_table

    vectors, console = get_token_vectors(asked), Console(highlight=False)
    tables = {word: build_neighbor_table(word, asked, vectors) for word in asked.words}
    for word, found in tables.items():
        console.print(f"nearest to {word}", style="bold", soft_wrap=True, markup=False)
        console.print(to_rich_table(found))
    among, width = len(get_token_indices(asked.labels)), vectors.shape[1]
    console.print(
        f"cosine, among the vectors of {among:,} words, {width:,} numbers each", soft_wrap=True
    )
    return 0


def parse_neighbor_query(words: list[str]) -> NeighborQuery:
    """What the words ask for. Raises UserError for words that make no sense, or that the run does not know."""
    folder, _, rest = parse_run_argument(words, "neighbours")
    settings = {
        key: value
        for key, equals, value in (word.partition("=") for word in rest)
        if equals and key in SETTINGS
    }
    these = tuple(dict.fromkeys(word for word in rest if word.partition("=")[0] not in SETTINGS))
    if not these:
        raise UserError(f"neighbours of which words? {USAGE}")
    count: Any = (
        parse_override_value(f"count={settings['count']}") if "count" in settings else DEFAULT_COUNT
    )
    if not COUNT.contains(count):
        raise UserError(f"count={settings['count']}: it must be {COUNT.text}")
    fit = settings.get("fit", "")
    name, labels = find_token_input(folder, settings.get("input", ""), fit)
    for word in these:
        if word in PLACEHOLDERS or word not in labels:
            raise UserError(unknown_token_message(word, labels, folder))
    return NeighborQuery(folder, name, labels, these, count, load_plugin_packages(rest), fit)


def find_token_input(folder: Path, name: str, fit: str) -> tuple[str, tuple[str, ...]]:
    """The input of words, and the word of each number. Raises UserError where there is none, or more than one."""
    found = select_prediction_source(folder, fit)
    file = get_fields_file(folder, found.single_fit if found else "")
    inputs = stored_files.load_json(file, {"inputs": stored_files.FIELDS})["inputs"]
    known = [one for one, about in inputs.items() if about["kind"] == "tokens" and about["labels"]]
    if not known:
        told = ", ".join(f"{about['kind']} '{one}'" for one, about in inputs.items())
        why = (
            "does not know the words of its numbers"
            if "tokens '" in told
            else "has no word vectors"
        )
        raise UserError(f"{folder} {why}: it reads {told}")
    if (name and name not in known) or (not name and len(known) > 1):
        asked = f"no input of words '{name}'" if name else "words of which input? say input=NAME"
        raise UserError(f"{asked}. There are: {format_names(known)}")
    name = name or known[0]
    return name, tuple(inputs[name]["labels"])


def unknown_token_message(word: str, labels: Sequence[str], folder: Path) -> str:
    """The message for a word that the run does not know, with words that look like it."""
    there = [label for label in labels if label not in PLACEHOLDERS]
    close = difflib.get_close_matches(word, there, MAX_SUGGESTIONS)
    if word.lower() in there:
        close = list(dict.fromkeys([word.lower(), *close]))
    hint = f"; close to it: {', '.join(close)}" if close else ""
    return f"'{word}' is none of the {len(there):,} words that {folder} knows{hint}"


def get_token_vectors(asked: NeighborQuery) -> np.ndarray:
    """The run's word vectors (size, width), float64. Raises UserError where its model has none."""
    from dlrun.models.pretrained.earlier_run import load_run_model
    from dlrun.models.sequence.embeddings import find_word_embeddings

    net = load_run_model(asked.folder, asked.plugins, fit=asked.fit, quiet=False)
    found = find_word_embeddings(net.model, net.spec.inputs)
    if asked.input not in found:
        model = get_model_part_name(net.config["model"])
        raise UserError(
            f"{asked.folder}: the model {model} has no vectors of the words of '{asked.input}'"
        )
    return found[asked.input].double().cpu().numpy()


def find_nearest(
    place: int, vectors: np.ndarray, among: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows `among` vectors (size, width) nearest to row `place` by cosine, best first, and their cosines.

    The row itself, and rows of zeros, which have no direction, are left out.
    """
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1)
    among = among[(lengths[among] > 0) & (among != place)]
    cosines = vectors[among] @ vectors[place] / (lengths[among] * lengths[place])
    order = np.argsort(-cosines, kind="stable")[:count]
    return among[order], cosines[order]


def build_neighbor_table(word: str, asked: NeighborQuery, vectors: np.ndarray) -> TextTable:
    """One word's neighbours. Raises UserError for a word whose vector is zero."""
    from dlrun.report.result_tables import TextTable

    place = asked.labels.index(word)
    if not vectors[place].any():
        raise UserError(
            f"the vector of '{word}' is zero in {asked.folder}: it has no direction, and so no neighbours"
        )
    rows, cosines = find_nearest(place, vectors, get_token_indices(asked.labels), asked.count)
    cells = [
        [asked.labels[row], f"{cosine:.4f}"] for row, cosine in zip(rows, cosines, strict=True)
    ]
    return TextTable("", ["word", "cosine"], cells, right=frozenset({1}))


def get_token_indices(labels: Sequence[str]) -> np.ndarray:
    """The numbers that stand for words."""
    import numpy as np

    return np.array([number for number, label in enumerate(labels) if label not in PLACEHOLDERS])
