"""Word embeddings, learned or read from a file of vectors such as GloVe."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dlrun.core.errors import UserError, format_names
from dlrun.core.paths import data_root
from dlrun.core.types import Field
from dlrun.models.model import get_named_children
from dlrun.models.pretrained import weights

log = logging.getLogger("dlrun")

ONE_HOT = "one_hot"


class WordVectors(nn.Embedding):
    """A vector for each word number. published: they are from a file, so that no starting weights are drawn for them.

    note: how many words of the vocabulary the file knows.
    """

    def __init__(self, words: int, width: int, published: bool = False) -> None:
        super().__init__(words, width)
        self.published, self.note = published, ""


class OneHot(nn.Module):
    """For each word a vector that is 1 at its number and 0 elsewhere (book §6.1.1); that of padding is 0 everywhere."""

    note = ""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding_dim = words

    def forward(self, words: Tensor) -> Tensor:
        found = nn.functional.one_hot(words, self.embedding_dim).float()
        return found * (words != 0).unsqueeze(-1)


def build_word_vectors(
    field: Field, width: int, file: str | None, freeze: bool
) -> WordVectors | OneHot:
    """A vector for each word of a tokens field: learnt, `width` wide, or those of a file, as wide as they are there.

    file: a path, or the name of a file under $DLRUN_DATA. Words that it does not know have the vector 0 (book §6.1.3).
    Or `one_hot`, which reads no file and is for few words, as letters are.
    A model that gets its weights from a checkpoint needs no file: the name tells the width (glove.6B.100d.txt), or else
    `width` does. Raises UserError for a field that has no words, and where the file cannot be found or does not fit.
    """
    if field.kind != "tokens":
        raise UserError(
            f"this reader reads words, and this is of kind {field.kind}; gru, conv1d and others read series as well"
        )
    if file is None:
        if freeze:
            raise UserError(
                "freeze=true would keep word vectors that are drawn at random: say vectors=FILE"
            )
        return WordVectors(field.size, width)
    if file == ONE_HOT:
        return OneHot(field.size)
    layer = WordVectors(field.size, parse_vector_width(file) or width, published=True)
    if weights.needs_weights():
        load_word_vectors(layer, field.labels, file)
    layer.weight.requires_grad_(not freeze)
    return layer


def parse_vector_width(file: str) -> int | None:
    """How wide the vectors are, as the file's name says: 100 for glove.6B.100d.txt."""
    found = re.search(r"\.(\d+)d(?:\.|$)", Path(file).name)
    return int(found[1]) if found else None


def load_word_vectors(layer: WordVectors, labels: tuple[str, ...], file: str) -> None:
    """Put the vectors of a file into the rows of the words that it knows, 0 into all others, and say how many."""
    if not any(labels):
        raise UserError(
            f"vectors={file} needs the word of each number, and these data have no word list: put it beside them (the "
            "word index that belongs to them, under $DLRUN_DATA), or say vectors=null"
        )
    place = find_vector_file(file)
    found, width = read_word_vectors(place, labels)
    if width != layer.embedding_dim:
        raise UserError(
            f"{place} has vectors of {width} numbers, not {layer.embedding_dim}: say embedding={width}"
        )
    words = sum(map(bool, labels))
    if not found:
        raise UserError(
            f"{place} knows none of the {words:,} words of these data: is it of another language?"
        )
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[torch.tensor(list(found))] = torch.stack(list(found.values()))
    layer.note = (
        f"{place.name} has vectors for {len(found):,} of {words:,} words ({len(found) / words:.0%})"
    )
    log.info("%s; all others are zero", layer.note)


def find_vector_file(file: str) -> Path | zipfile.Path:
    """The file of this path or name, under $DLRUN_DATA also in its official archive. Raises UserError."""
    folders = (data_root() / "glove", data_root())
    for path in (Path(file).expanduser(), *(folder / file for folder in folders)):
        if path.is_file():
            return path
    archives = [path for folder in folders for path in sorted(folder.glob("glove*.zip"))]
    for archive in archives:
        if (inside := zipfile.Path(archive, file)).is_file():
            return inside
    there = sorted(path.name for folder in folders for path in folder.glob("glove.*.txt"))
    there += [archive.name for archive in archives]
    raise UserError(
        f"no word vectors {file}: it is no path, and neither in {folders[0]} nor in {folders[1]}; there is: "
        f"{format_names(there, file) or 'nothing of the kind (glove.*.txt)'}"
    )


def read_word_vectors(
    place: Path | zipfile.Path, labels: tuple[str, ...]
) -> tuple[dict[int, Tensor], int]:
    """Word number → vector for the words that a file knows, and its width. A line is a word and its numbers.

    Raises UserError, naming the line, where it is something else.
    """
    numbers = {word: number for number, word in enumerate(labels) if word}
    found: dict[int, Tensor] = {}
    width = 0
    for count, line in enumerate(_iter_lines(place), 1):
        width = width or line.count(" ")
        word = line[: line.find(" ")]
        if count > 1 and word not in numbers:
            continue
        cells = line.rstrip("\n").split(" ")
        if len(cells) > width + 1:
            continue  # a "word" with a space in it, of which glove.840B has some
        try:
            vector = torch.from_numpy(np.array(cells[1:], np.float32))
        except ValueError:
            vector = torch.empty(0)
        if not width or len(vector) != width:
            raise UserError(
                f"{place}, line {count}: not a word and {width or 'its'} numbers, with one space between"
            )
        if word in numbers:
            found.setdefault(numbers[word], vector)
    return found, width


def _iter_lines(place: Path | zipfile.Path) -> Iterator[str]:
    try:
        with place.open("r", encoding="utf-8", newline="\n") as file:
            yield from file  # type: ignore[misc]
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise UserError(f"{place} cannot be read: {error}") from error


def find_word_embeddings(model: nn.Module, inputs: Mapping[str, Field]) -> dict[str, Tensor]:
    """Input of words → their vectors (size, width): the first embedding of that many rows in the input's reader.

    A model without `readers` is searched as a whole. Inputs that have none are left out.
    """
    readers = get_named_children(model, "readers")
    found: dict[str, Tensor] = {}
    for name, field in inputs.items():
        if field.kind == "tokens":
            part = readers.get(name, model)
            tables = [
                module.weight for module in part.modules() if isinstance(module, nn.Embedding)
            ]
            fitting = [weight.detach() for weight in tables if len(weight) == field.size]
            found |= {name: fitting[0]} if fitting else {}
    return found
