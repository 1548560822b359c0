"""Film reviews as they were written: the IMDB reviews of Maas et al. from the official archive."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.config.constraints import TextPart
from dlrun.core.dataset import Ragged, Raw, Rows
from dlrun.core.errors import Refused
from dlrun.core.paths import data_root as root
from dlrun.data.datasets import synthetic
from dlrun.data.datasets.imdb_reuters import SENTIMENTS
from dlrun.data.downloads import Official, fetch, present
from dlrun.data.images.archives import DAMAGE, bodies
from dlrun.data.parsed_cache import parsed
from dlrun.data.tabular import schema

SEED = 113  # a property of the dataset, not of the run
ARCHIVE = Official(
    "imdb",
    "aclImdb_v1.tar.gz",
    "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
    ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
)
LABELLED = Official(  # the same files without train/unsup, packed again: taken where the official archive is not there
    "imdb", "aclImdb_v1-labeled.tar.gz", "d342d95d1b4c06d1d2277722fbb1d09a1c5204e7394f009b90e84e88669cc86f", ()
)
FOLDERS = ("neg", "pos")
BREAK = b"<br />"


def imdb_text(*, source: Literal["official", "sample"], text: TextPart) -> Raw:
    """Film reviews (Maas et al. 2011): 25,000 development rows, 25,000 test rows, half of each positive.

    Rows are shuffled once and for all, so that the last ones are a fair sample too; line breaks of HTML are blanks.
    text: the step that prepares them. Input `review`, target `sentiment`. Raises Refused when the archive is not there.
    """

    def read(split: str) -> Rows:
        found, labels = synthetic.texts(split) if source == "sample" else _official(split)
        order = np.random.RandomState(SEED).permutation(len(labels))
        return {"review": found[order], "sentiment": labels[order]}

    return Raw(
        read("train"),
        {"review": text.kind},
        {"sentiment": "binary"},
        {"review": (text,)},
        lambda: read("test"),
        labels={"sentiment": SENTIMENTS},
        note=synthetic.note("imdb_text") if source == "sample" else "",
        further=schema.columns_only((), "sentiment", "binary", SENTIMENTS, texts=("review",)),
        of_texts=schema.of_texts({"review": text.kind}, ("review",)),
    )


def _official(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Texts (N,) and classes (N,) of a split, the negative ones first, in the order of their files' names."""
    file = LABELLED if not (root() / ARCHIVE.task / ARCHIVE.name).is_file() and present(LABELLED) else ARCHIVE
    path = fetch(file)
    both = cache(lambda: _read(path, split))  # one way through the archive for both classes
    halves = [parsed(file, f"{split}-{name}", lambda name=name: both()[name]) for name in FOLDERS]  # type: ignore[misc]
    texts = [text for half in halves for text in _texts(half)]
    return np.array(texts, object), np.repeat(np.arange(len(halves)), list(map(len, halves)))


def _read(path: Path, split: str) -> dict[str, Ragged]:
    """Folder → the bytes of its files, a row each. Raises Refused for a damaged archive."""
    found: dict[str, dict[str, bytes]] = {name: {} for name in FOLDERS}
    try:
        for name, body in bodies(path):
            _, *inner = name.split("/")
            if inner[:-1] in [[split, folder] for folder in FOLDERS] and name.endswith(".txt"):
                found[inner[1]][name] = body.replace(BREAK, b" ")
    except DAMAGE as error:
        raise Refused(f"{path} is no whole archive: {error}") from error
    return {folder: _ragged([files[name] for name in sorted(files)]) for folder, files in found.items()}


def _ragged(rows: list[bytes]) -> Ragged:
    return Ragged(np.frombuffer(b"".join(rows), np.uint8), np.cumsum([0, *map(len, rows)]))


def _texts(rows: Ragged) -> list[str]:
    whole, ends = rows.values.tobytes(), rows.offsets.tolist()
    return [whole[first:last].decode("utf-8") for first, last in zip(ends, ends[1:], strict=False)]
