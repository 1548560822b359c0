"""Images of 28 × 28 pixels in ten classes: MNIST digits and Fashion-MNIST garments."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.errors import UserError
from dlrun.data.cache import RemoteFile, fetch
from dlrun.data.datasets import synthetic

DIGITS = tuple("0123456789")
GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion_mnist": (
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
}
# sha256 of each file.
FILE_HASHES = {
    "mnist": {
        "train-images": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "fashion_mnist": {
        "train-images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}


def mnist(*, source: Literal["official", "sample"], pool: bool) -> Dataset:
    """Handwritten digits (LeCun et al. 1998; book §2.1): 60,000 rows, and 10,000 test rows.

    Input `image` uint8 (N, 1, 28, 28), target `digit` of ten classes.

    Args:
        source: `official`, or `sample` for synthetic images.
        pool: Official train and test rows together, in this order, become training + validation
            rows, and no test rows remain: the book's §8.4 validates on the test set.

    Raises:
        UserError: The files are not available.
    """
    return _build_dataset("mnist", "digit", DIGITS, source, pool)


def fashion_mnist(*, source: Literal["official", "sample"], pool: bool) -> Dataset:
    """Images of garments (Xiao et al. 2017): 60,000 rows, and 10,000 test rows.

    Input `image` uint8 (N, 1, 28, 28), target `garment` of ten classes.

    Args:
        source: `official`, or `sample` for synthetic images.
        pool: As for `mnist`.

    Raises:
        UserError: The files are not available.
    """
    return _build_dataset("fashion_mnist", "garment", GARMENTS, source, pool)


def _build_dataset(
    task: str, target: str, names: tuple[str, ...], source: str, pool: bool
) -> Dataset:
    def read(split: str) -> RawColumns:
        return (
            synthetic.generate_images(task, target, split)
            if source == "sample"
            else _load_split(task, target, split)
        )

    return Dataset(
        dev=concat_rows(read("train"), read("t10k")) if pool else read("train"),
        test=None if pool else lambda: read("t10k"),
        inputs={"image": "image"},
        targets={target: "category"},
        preprocessors={},
        labels={target: names},
        note=synthetic.sample_note(task) if source == "sample" else "",
        synthetic=source == "sample",
    )


def concat_rows(first: RawColumns, second: RawColumns) -> RawColumns:
    """Return the rows of both, one after the other."""
    return {name: np.concatenate([column, second[name]]) for name, column in first.items()}


def _load_split(task: str, target: str, split: str) -> RawColumns:
    images = read_idx(fetch(find_mnist_file(task, f"{split}-images", 3)))
    labels = read_idx(fetch(find_mnist_file(task, f"{split}-labels", 1)))
    if len(images) != len(labels):
        raise UserError(
            f"{task}: {len(images)} images but {len(labels)} labels in the {split} files"
        )
    # Images get an axis of channels, of which there is one.
    return {"image": images[:, None], target: labels.astype(np.int64)}


def find_mnist_file(task: str, file: str, axes: int) -> RemoteFile:
    """Return a file of a dataset.

    Args:
        task: `mnist` or `fashion_mnist`.
        file: Which one, such as 'train-images'.
        axes: Number of axes of the array in it, which is part of its name.
    """
    name = f"{file}-idx{axes}-ubyte.gz"
    return RemoteFile(
        task, name, FILE_HASHES[task][file], tuple(mirror + name for mirror in MIRRORS[task])
    )


def read_idx(path: Path) -> np.ndarray:
    """Read the uint8 array in a gzipped IDX file.

    The format: two zero bytes, type, number of axes, big-endian sizes, values.

    Raises:
        UserError: It is not such a file.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise UserError(f"{path} is not an IDX file of bytes")
    start = 4 + 4 * content[3]
    # The fourth byte is the number of axes; a big-endian size of four bytes follows for each.
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if len(content) - start != int(np.prod(shape)):
        raise UserError(f"{path}: {len(content) - start} values where its head announces {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
