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
from dlrun.core.files import data_root
from dlrun.core.types import Field
from dlrun.models.model import get_named_children

log = logging.getLogger("dlrun")

ONE_HOT = "one_hot"


class WordVectors(nn.Embedding):
    """A vector for each word number.

    Attributes:
        published: Whether they are from a file, so that no starting weights are drawn for them.
        note: How many words of the vocabulary the file has.
    """

    def __init__(self, words: int, width: int, published: bool = False) -> None:
        super().__init__(words, width)
        self.published, self.note = published, ""


class OneHot(nn.Module):
    """A vector for each word that is 1 at its number, else 0; that of padding is 0 (book §6.1.1).

    Attributes:
        embedding_dim: Number of words.
    """

    note = ""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding_dim = words

    def forward(self, words: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(words, self.embedding_dim).float()
        # padding is 0 everywhere
        return one_hot * (words != 0).unsqueeze(-1)


def build_word_vectors(
    field: Field, width: int, file: str | None, freeze: bool
) -> WordVectors | OneHot:
    """Return a vector for each word of a tokens field, learned or those of a file.

    A model that gets its weights from a checkpoint needs no file: the name tells the width
    (glove.6B.100d.txt), or else `width` does.

    Args:
        field: The text.
        width: Of learned vectors.
        file: A path, the name of a file under $DLRUN_DATA, or one_hot (for few words, as letters
            are). Words that the file does not have get the vector 0 (book §6.1.3).
        freeze: Whether vectors of a file are kept as they are.

    Raises:
        UserError: The field has no words, or the file cannot be found or does not fit.
    """
    if field.kind != "tokens":
        raise UserError(
            f"this encoder reads words, and this is of kind {field.kind}; "
            "gru, conv1d and others read series as well"
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
    from dlrun.models.pretrained import weights

    if weights.needs_weights():
        load_word_vectors(layer, field.labels, file)
    layer.weight.requires_grad_(not freeze)
    return layer


def parse_vector_width(file: str) -> int | None:
    """Return the width in a file's name: 100 for glove.6B.100d.txt."""
    match = re.search(r"\.(\d+)d(?:\.|$)", Path(file).name)
    return int(match[1]) if match else None


def load_word_vectors(layer: WordVectors, labels: tuple[str, ...], file: str) -> None:
    """Fill the rows of words that a file has, set all others to 0, and note how many there are.

    Args:
        layer: The vectors.
        labels: The word of each number; '' for none.
        file: Path or name of the file.

    Raises:
        UserError: It cannot be found, or does not fit.
    """
    if not any(labels):
        raise UserError(
            f"vectors={file} needs the word of each number, and these data have no word list: put "
            "it beside them (the word index that belongs to them, under $DLRUN_DATA), "
            "or say vectors=null"
        )
    path = find_vector_file(file)
    vectors, width = read_word_vectors(path, labels)
    if width != layer.embedding_dim:
        raise UserError(
            f"{path} has vectors of {width} numbers, not {layer.embedding_dim}: "
            f"say embedding={width}"
        )
    words = sum(map(bool, labels))
    if not vectors:
        raise UserError(
            f"{path} knows none of the {words:,} words of these data: is it of another language?"
        )
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[torch.tensor(list(vectors))] = torch.stack(list(vectors.values()))
    share = f"{len(vectors) / words:.0%}"
    layer.note = f"{path.name} has vectors for {len(vectors):,} of {words:,} words ({share})"
    log.info("%s; all others are zero", layer.note)


def find_vector_file(file: str) -> Path | zipfile.Path:
    """Return the file of this path or name, under $DLRUN_DATA also within its official archive.

    Raises:
        UserError: There is none.
    """
    folders = (data_root() / "glove", data_root())
    for path in (Path(file).expanduser(), *(folder / file for folder in folders)):
        if path.is_file():
            return path
    archives = [path for folder in folders for path in sorted(folder.glob("glove*.zip"))]
    for archive in archives:
        if (member := zipfile.Path(archive, file)).is_file():
            return member
    names = sorted(path.name for folder in folders for path in folder.glob("glove.*.txt"))
    names += [archive.name for archive in archives]
    raise UserError(
        f"no word vectors {file}: it is no path, and neither in {folders[0]} nor in {folders[1]}; "
        f"there is: {format_names(names, file) or 'nothing of the kind (glove.*.txt)'}"
    )


def read_word_vectors(
    path: Path | zipfile.Path, labels: tuple[str, ...]
) -> tuple[dict[int, Tensor], int]:
    """Read the vectors of the words that are needed. A line is a word and its numbers.

    Args:
        path: The file.
        labels: The word of each number; '' for none.

    Returns:
        Word number → vector, and the width of all vectors.

    Raises:
        UserError: A line is something else; the message names it.
    """
    numbers = {word: number for number, word in enumerate(labels) if word}
    vectors: dict[int, Tensor] = {}
    width = 0
    for count, line in enumerate(_iter_lines(path), 1):
        width = width or line.count(" ")
        word = line[: line.find(" ")]
        # the first line is read in any case, as it tells the width
        if count > 1 and word not in numbers:
            continue
        cells = line.rstrip("\n").split(" ")
        if len(cells) > width + 1:
            continue  # a "word" with a space in it: glove.840B has some
        vector = _parse_vector(cells[1:])
        if not width or len(vector) != width:
            raise UserError(
                f"{path}, line {count}: not a word and {width or 'its'} numbers, "
                "with one space between"
            )
        if word in numbers:
            # a word that stands twice in a file has its first vector
            vectors.setdefault(numbers[word], vector)
    return vectors, width


def _parse_vector(cells: list[str]) -> Tensor:
    """Return the numbers of a line; none where a cell is not a number, which the caller refuses."""
    try:
        return torch.from_numpy(np.array(cells, np.float32))
    except ValueError:
        return torch.empty(0)


def _iter_lines(path: Path | zipfile.Path) -> Iterator[str]:
    try:
        with path.open("r", encoding="utf-8", newline="\n") as file:
            yield from file  # type: ignore[misc]
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def find_word_embeddings(model: nn.Module, inputs: Mapping[str, Field]) -> dict[str, Tensor]:
    """Return the word vectors of a model.

    Args:
        model: One without `readers` is searched as a whole.
        inputs: Its inputs.

    Returns:
        Input of words → (size, width), the first embedding of so many rows in the input's encoder.
        Inputs that have none are left out.
    """
    readers = get_named_children(model, "readers")
    embeddings: dict[str, Tensor] = {}
    for name, field in inputs.items():
        if field.kind == "tokens":
            encoder = readers.get(name, model)
            tables = [
                module.weight for module in encoder.modules() if isinstance(module, nn.Embedding)
            ]
            matching = [weight.detach() for weight in tables if len(weight) == field.size]
            embeddings |= {name: matching[0]} if matching else {}
    return embeddings
