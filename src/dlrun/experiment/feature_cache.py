"""Features of frozen networks for all images of a table, computed once and cached on the disk."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import nn

from dlrun.core.dataset import Dataset, PreparedData, RawColumns
from dlrun.core.environment import ProcessGroup
from dlrun.core.errors import UserError
from dlrun.core.files import atomic_write, user_cache
from dlrun.core.objective import Objective
from dlrun.core.types import CACHED_FEATURES
from dlrun.data.cache import fingerprint
from dlrun.data.loading.table import DenseColumn, Table
from dlrun.data.preprocessing.pipeline import describe_preprocessing, transform_rows

log = logging.getLogger("dlrun")

CACHE_BATCH_ROWS = 64  # images that a network looks at together


def check_cacheable(objective: Objective, table: Table) -> None:
    """Check that a frozen network sees the same rows in every epoch, and that they are in memory.

    Raises:
        UserError: They are augmented, or read file by file.
    """
    if objective.augment is not None:
        raise UserError(
            "model.cache=true: a frozen base sees each image once, but augment changes "
            "the images every time; say model.cache=false"
        )
    if table.reads_files:
        raise UserError(
            "model.cache=true keeps a frozen base's features of all rows, and these are read "
            "file by file because they are many; say model.cache=false"
        )


def cache_split(
    table: Table,
    networks: dict[str, nn.Module],
    dataset: Dataset,
    data: PreparedData,
    raw: tuple[RawColumns, np.ndarray],
    processes: ProcessGroup,
) -> Table:
    """A split whose images are replaced by the features of frozen networks.

    Args:
        table: The rows of the split.
        networks: Column → frozen network.
        dataset: What the rows come from.
        data: Prepared for the fit.
        raw: All raw columns, and which of their rows (n,) are the table's.
        processes: The first of a machine computes, the others read what it has written.
    """
    rows, row_numbers = raw
    preprocessing = describe_preprocessing(data.preprocessors)
    content_digest = lambda name: f"{fingerprint({name: rows[name]})} {preprocessing[name]}"  # noqa: E731
    all_rows = transform_rows(dataset, data, rows)
    return processes.local_main_process_first(
        lambda: with_cached_features(table, all_rows, row_numbers, networks, content_digest)
    )


def with_cached_features(
    table: Table,
    all_rows: Table,
    rows: np.ndarray,
    networks: dict[str, nn.Module],
    content: Callable[[str], str],
) -> Table:
    """The table with a column `<name>.ahead` of features in the place of each image column.

    Args:
        table: The rows that are needed.
        all_rows: All rows of which `rows` are the table's: computed once for all splits and folds.
        rows: Numbers (n,) of the table's rows in all_rows.
        networks: Column → frozen network; it runs in evaluation mode and full precision.
        content: Column → a digest of all its rows, which names the cache file.
    """
    columns = dict(table.columns)
    for name, network in networks.items():
        device = columns.pop(name).device
        source, path = (
            Table({name: all_rows.columns[name]}).to(device),
            get_feature_path(network, content(name)),
        )
        features = load_cached_features(path, len(source))
        if features is None:
            features = compute_features(source, name, network, path)
        columns[name + CACHED_FEATURES] = DenseColumn(torch.from_numpy(features[rows])).to(device)
    return Table(columns)


def get_feature_path(network: nn.Module, content: str) -> Path:
    """The cache file of a network's features of this content: its name is a digest of both."""
    digest = hashlib.sha256(f"{content};{network!r};".encode())
    # Weights are part of the key: the same network, trained further, has other features.
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name};".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return user_cache() / "features" / f"{digest.hexdigest()[:32]}.npy"


def load_cached_features(path: Path, rows: int) -> np.ndarray | None:
    """Features of an earlier run, mapped from the disk; None where none can be read."""
    if not path.is_file():
        return None
    try:
        features: np.ndarray = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError) as error:
        log.warning("features are computed again: %s cannot be read (%s)", path, error)
        return None
    if len(features) != rows:
        return None
    log.info("the frozen base's features of %s images were found in %s", f"{rows:,}", path)
    return features


def compute_features(source: Table, name: str, network: nn.Module, path: Path) -> np.ndarray:
    """Features of all images, float32: written to `path`, or in memory where that fails."""
    start = time.monotonic()
    log.info("extracting the frozen base's features of %s images, once", f"{len(source):,}")
    try:
        with atomic_write(path) as fresh, fresh.open("wb") as file:
            write_array(file, len(source), iter_feature_batches(source, name, network))
        features: np.ndarray = np.load(path, mmap_mode="c")
        location = str(path)
    except OSError as error:
        log.warning("features are kept in memory: %s cannot be written (%s)", path, error)
        features, location = (
            np.concatenate(list(iter_feature_batches(source, name, network))),
            "memory",
        )
    log.info("computed in %.0f s, kept in %s", time.monotonic() - start, location)
    return features


def iter_feature_batches(source: Table, name: str, network: nn.Module) -> Iterator[np.ndarray]:
    """The network's answers, batch by batch."""
    network.eval()
    with torch.inference_mode():
        for batch in source.batches(CACHE_BATCH_ROWS):
            yield network(batch[name]).float().cpu().contiguous().numpy()


def write_array(file: BinaryIO, rows: int, chunks: Iterator[np.ndarray]) -> None:
    """The parts one after the other, behind the header of an array of so many rows."""
    for number, chunk in enumerate(chunks):
        # The header needs the shape of a row, which the first chunk shows.
        if not number:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, *chunk.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(chunk.astype("<f4", copy=False).tobytes())
