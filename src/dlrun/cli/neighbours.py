"""`dlrun neighbours RUN word…`: the words whose vectors point in nearly the same direction."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.run_argument import opened
from dlrun.config.compatibility import name_of
from dlrun.config.compose import value_of
from dlrun.config.constraints import COUNT
from dlrun.core import stored_files
from dlrun.core.errors import Refused, in_short
from dlrun.evaluation.answering_fits import answering, fields_file
from dlrun.launch.run_config import named_plugins

if TYPE_CHECKING:
    import numpy as np

    from dlrun.report.result_tables import Summary


USAGE = "dlrun neighbours RUN word… [count=10] [input=NAME] [fit=NAME]"
SETTINGS = ("count", "input", "fit", "plugins")
COUNT_UNLESS_SAID = 10
CLOSE = 5  # words in a message
NONE = ("", "▯")  # padding, and what stands for words that have no number of their own


@dataclass(frozen=True)
class Asked:
    """Whose words (run, input), which of them, and how many neighbours of each. labels: the word of each number."""

    folder: Path
    input: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    count: int
    plugins: tuple[str, ...]
    fit: str


def neighbours(words: list[str]) -> int:
    """Print the nearest neighbours of words. Gives the exit code; raises Refused before torch is there if it can."""
    asked = read_words(words)
    from rich.console import Console

    from dlrun.report.result_tables import rich_table

    vectors, console = vectors_of(asked), Console(highlight=False)
    tables = {word: table(word, asked, vectors) for word in asked.words}
    for word, found in tables.items():
        console.print(f"nearest to {word}", style="bold", soft_wrap=True, markup=False)
        console.print(rich_table(found))
    among, width = len(known(asked.labels)), vectors.shape[1]
    console.print(f"cosine, among the vectors of {among:,} words, {width:,} numbers each", soft_wrap=True)
    return 0


def read_words(words: list[str]) -> Asked:
    """What the words ask for. Raises Refused for words that make no sense, or that the run does not know."""
    folder, _, rest = opened(words, "neighbours")
    settings = {
        key: value for key, equals, value in (word.partition("=") for word in rest) if equals and key in SETTINGS
    }
    these = tuple(dict.fromkeys(word for word in rest if word.partition("=")[0] not in SETTINGS))
    if not these:
        raise Refused(f"neighbours of which words? {USAGE}")
    count: Any = value_of(f"count={settings['count']}") if "count" in settings else COUNT_UNLESS_SAID
    if not COUNT.holds(count):
        raise Refused(f"count={settings['count']}: it must be {COUNT.text}")
    fit = settings.get("fit", "")
    name, labels = labelled(folder, settings.get("input", ""), fit)
    for word in these:
        if word in NONE or word not in labels:
            raise Refused(unknown(word, labels, folder))
    return Asked(folder, name, labels, these, count, named_plugins(rest), fit)


def labelled(folder: Path, name: str, fit: str) -> tuple[str, tuple[str, ...]]:
    """The input of words, and the word of each number. Raises Refused where there is none, or more than one."""
    found = answering(folder, fit)
    file = fields_file(folder, found.one if found else "")
    inputs = stored_files.value(file, {"inputs": stored_files.FIELDS})["inputs"]
    known = [one for one, about in inputs.items() if about["kind"] == "tokens" and about["labels"]]
    if not known:
        told = ", ".join(f"{about['kind']} '{one}'" for one, about in inputs.items())
        why = "does not know the words of its numbers" if "tokens '" in told else "has no word vectors"
        raise Refused(f"{folder} {why}: it reads {told}")
    if (name and name not in known) or (not name and len(known) > 1):
        asked = f"no input of words '{name}'" if name else "words of which input? say input=NAME"
        raise Refused(f"{asked}. There are: {in_short(known)}")
    name = name or known[0]
    return name, tuple(inputs[name]["labels"])


def unknown(word: str, labels: Sequence[str], folder: Path) -> str:
    """The message for a word that the run does not know, with words that look like it."""
    there = [label for label in labels if label not in NONE]
    close = difflib.get_close_matches(word, there, CLOSE)
    if word.lower() in there:
        close = list(dict.fromkeys([word.lower(), *close]))
    hint = f"; close to it: {', '.join(close)}" if close else ""
    return f"'{word}' is none of the {len(there):,} words that {folder} knows{hint}"


def vectors_of(asked: Asked) -> np.ndarray:
    """The run's word vectors (size, width), float64. Raises Refused where its model has none."""
    from dlrun.models.pretrained.earlier_run import trained
    from dlrun.models.sequence.embeddings import embedded_words

    net = trained(asked.folder, asked.plugins, fit=asked.fit, quiet=False)
    found = embedded_words(net.model, net.spec.inputs)
    if asked.input not in found:
        model = name_of(net.config["model"])
        raise Refused(f"{asked.folder}: the model {model} has no vectors of the words of '{asked.input}'")
    return found[asked.input].double().cpu().numpy()


def nearest(place: int, vectors: np.ndarray, among: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows `among` vectors (size, width) nearest to row `place` by cosine, best first, and their cosines.

    The row itself, and rows of zeros, which have no direction, are left out.
    """
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1)
    among = among[(lengths[among] > 0) & (among != place)]
    cosines = vectors[among] @ vectors[place] / (lengths[among] * lengths[place])
    order = np.argsort(-cosines, kind="stable")[:count]
    return among[order], cosines[order]


def table(word: str, asked: Asked, vectors: np.ndarray) -> Summary:
    """One word's neighbours. Raises Refused for a word whose vector is zero."""
    from dlrun.report.result_tables import Summary

    place = asked.labels.index(word)
    if not vectors[place].any():
        raise Refused(f"the vector of '{word}' is zero in {asked.folder}: it has no direction, and so no neighbours")
    rows, cosines = nearest(place, vectors, known(asked.labels), asked.count)
    cells = [[asked.labels[row], f"{cosine:.4f}"] for row, cosine in zip(rows, cosines, strict=True)]
    return Summary("", ["word", "cosine"], cells, right=frozenset({1}))


def known(labels: Sequence[str]) -> np.ndarray:
    """The numbers that stand for words."""
    import numpy as np

    return np.array([number for number, label in enumerate(labels) if label not in NONE])
