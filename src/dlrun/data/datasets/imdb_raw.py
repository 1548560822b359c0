"""Film reviews as they were written: the IMDB reviews of Maas et al. from the official archive."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.config.annotations import TextPart
from dlrun.core.dataset import Dataset, Ragged, RawColumns
from dlrun.core.errors import UserError
from dlrun.core.files import data_root as root
from dlrun.data.cache import RemoteFile, fetch, find_local_file, load_or_parse
from dlrun.data.datasets import synthetic
from dlrun.data.datasets.imdb_reuters import SENTIMENTS
from dlrun.data.images.archives import ARCHIVE_ERRORS, iter_tar_files
from dlrun.data.tabular import schema

SEED = 113  # a property of the dataset, not of the run
ARCHIVE = RemoteFile(
    "imdb",
    "aclImdb_v1.tar.gz",
    "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
    ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
)
# The same files without train/unsup, packed again; used where the official archive is absent.
LABEL_ARCHIVE = RemoteFile(
    "imdb",
    "aclImdb_v1-labeled.tar.gz",
    "d342d95d1b4c06d1d2277722fbb1d09a1c5204e7394f009b90e84e88669cc86f",
    (),
)
FOLDERS = ("neg", "pos")
# Reviews hold line breaks of HTML, which are no words.
LINE_BREAK = b"<br />"


def imdb_text(*, source: Literal["official", "sample"], text: TextPart) -> Dataset:
    """Film reviews (Maas et al. 2011): 25,000 rows and 25,000 test rows, half of each positive.

    Input `review`, target `sentiment`. Line breaks of HTML become blanks.

    Args:
        source: `official`, or `sample` for synthetic texts.
        text: The preprocessing step of the texts.

    Raises:
        UserError: The archive is not available.
    """

    def read(split: str) -> RawColumns:
        texts, labels = (
            synthetic.generate_texts(split) if source == "sample" else _load_split(split)
        )
        # Files are sorted by class; shuffled once and for all, the last rows are a fair sample.
        order = np.random.RandomState(SEED).permutation(len(labels))
        return {"review": texts[order], "sentiment": labels[order]}

    return Dataset(
        read("train"),
        {"review": text.kind},
        {"sentiment": "binary"},
        {"review": (text,)},
        lambda: read("test"),
        labels={"sentiment": SENTIMENTS},
        note=synthetic.sample_note("imdb_text") if source == "sample" else "",
        synthetic=source == "sample",
        read_new_rows=schema.make_row_reader(
            (), "sentiment", "binary", SENTIMENTS, texts=("review",)
        ),
        rows_from_texts=schema.make_text_row_builder({"review": text.kind}, ("review",)),
    )


def _load_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return texts (N,) and classes (N,) of a split, sorted by class and file name."""
    official = (root() / ARCHIVE.task / ARCHIVE.name).is_file()
    archive = LABEL_ARCHIVE if not official and find_local_file(LABEL_ARCHIVE) else ARCHIVE
    path = fetch(archive)
    # Cached: one pass over the archive serves both classes.
    read_folders = cache(lambda: _read_archive(path, split))

    def load(folder: str) -> Ragged:
        return load_or_parse(archive, f"{split}-{folder}", lambda: read_folders()[folder])

    halves = [load(folder) for folder in FOLDERS]
    texts = [text for half in halves for text in _decode_texts(half)]
    return np.array(texts, object), np.repeat(np.arange(len(halves)), list(map(len, halves)))


def _read_archive(path: Path, split: str) -> dict[str, Ragged]:
    """Return folder → the bytes of its files, a row each; raise UserError if damaged."""
    folders: dict[str, dict[str, bytes]] = {name: {} for name in FOLDERS}
    try:
        for name, body in iter_tar_files(path):
            _, *inner_path = name.split("/")
            if inner_path[:-1] in [[split, folder] for folder in FOLDERS] and name.endswith(".txt"):
                folders[inner_path[1]][name] = body.replace(LINE_BREAK, b" ")
    except ARCHIVE_ERRORS as error:
        raise UserError(f"{path} is no whole archive: {error}") from error
    return {
        folder: _to_ragged([files[name] for name in sorted(files)])
        for folder, files in folders.items()
    }


def _to_ragged(rows: list[bytes]) -> Ragged:
    return Ragged(np.frombuffer(b"".join(rows), np.uint8), np.cumsum([0, *map(len, rows)]))


def _decode_texts(rows: Ragged) -> list[str]:
    content, offsets = rows.values.tobytes(), rows.offsets.tolist()
    return [
        content[first:last].decode("utf-8")
        for first, last in zip(offsets, offsets[1:], strict=False)
    ]
