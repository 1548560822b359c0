"""Files of published weights: found where they are kept, checked by the hash in their name, else downloaded."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlrun.core.errors import UserError
from dlrun.core.paths import data_root
from dlrun.data.downloads import describe_failure, make_fetch_function

log = logging.getLogger("dlrun")

_needs_weights = ContextVar("needed", default=True)


@contextmanager
def skip_weights() -> Iterator[None]:
    """Inside, no file of weights is read: the models built there are given theirs by a checkpoint."""
    token = _needs_weights.set(False)
    try:
        yield
    finally:
        _needs_weights.reset(token)


def needs_weights() -> bool:
    """Whether a new base needs its weights."""
    return _needs_weights.get()


def weight_folders() -> list[Path]:
    """Where files of weights are looked for: $DLRUN_DATA/pretrained, then the folder that torch downloads to."""
    return [data_root() / "pretrained", Path(torch.hub.get_dir()) / "checkpoints"]


def find_weights(architecture: str, entry: Any) -> Path:
    """The file of a member of one of torchvision's weights enums: official, of that architecture, or downloaded.

    Raises UserError when the official file has another hash than its name says, when there are several others, and when
    it can neither be found nor downloaded.
    """
    name = weight_file_name(entry)
    if found := next(
        (folder / name for folder in weight_folders() if (folder / name).is_file()), None
    ):
        log.info("weights: %s", found)
        return verify_hash(found)
    others = find_other_files(architecture, {weight_file_name(other) for other in type(entry)})
    if len(others) > 1:
        there = ", ".join(map(str, others))
        raise UserError(
            f"{name} is not there, but several files for {architecture} are: {there}; say model.weights=FILE"
        )
    if others:
        log.warning(
            "weights: %s, which is not the official %s (%s): its hash is unknown",
            others[0],
            name,
            entry,
        )
        return others[0]
    return download_weights(architecture, entry)


def weight_file_name(entry: Any) -> str:
    """The official name of the file: squeezenet1_1-b8a52dc0.pth."""
    return str(entry.url.rpartition("/")[2])


def find_other_files(architecture: str, official: set[str]) -> list[Path]:
    """Files in $DLRUN_DATA/pretrained that are named after the architecture, without the official ones."""
    ours = re.compile(rf"{re.escape(architecture)}([-.].*)?\.pth")
    found = sorted(weight_folders()[0].glob(f"{architecture}*.pth"))
    return [path for path in found if ours.fullmatch(path.name) and path.name not in official]


def verify_hash(path: Path) -> Path:
    """The path, if the file's sha256 begins with the hash in its name. Raises UserError."""
    try:
        found = compute_file_hash(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not found.startswith(hash_prefix(path.name)):
        raise UserError(
            f"{path} is not the official file: its sha256 begins with {found[:8]}. Delete it to have it downloaded "
            "again; if it is meant to be other weights, give it another name"
        )
    return path


def compute_file_hash(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_prefix(name: str) -> str:
    """The beginning of the sha256 that torchvision writes into a file's name; '' where it does not."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    return match[1] if match else ""


def download_weights(architecture: str, entry: Any) -> Path:
    """Bring an official file into the first folder that can be written to. Raises UserError."""
    name, failures = weight_file_name(entry), []
    for folder in weight_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", delete=False) as fresh:
                target = Path(fresh.name)
        except OSError as error:
            failures.append(f"{folder} cannot be written to ({error.strerror})")
            continue
        if reason := download_file(entry.url, target, folder / name):
            failures.append(reason)
            break  # the other folder would not bring it nearer
        return folder / name
    raise UserError(
        f"the weights {entry} of {architecture} are not there, and cannot be downloaded: {'; '.join(failures)}. Put "
        f"{name} (from {entry.url}) into {weight_folders()[0]}{describe_other_weights(entry)}; or begin with random weights: "
        "model.weights=null model.unfreeze=all"
    )


def download_file(url: str, fresh: Path, path: Path) -> str:
    """Download a file to `fresh`, and move it to `path` when its hash is right. Answers with what went wrong, or ''."""
    log.info("downloading %s to %s", url, path)
    try:
        make_fetch_function(path.name)(url, str(fresh), None)
        if not compute_file_hash(fresh).startswith(hash_prefix(path.name)):
            return f"{url} gave a file with another hash"
        os.replace(fresh, path)
    except OSError as error:  # requests' own errors are such
        return f"{url} ({describe_failure(error)})"
    finally:
        fresh.unlink(missing_ok=True)
    return ""


def describe_other_weights(entry: Any) -> str:
    """Which other official weights of the same architecture are in the folders, in words."""
    found = [
        f"weights={other.name} ({weight_file_name(other)})"
        for other in type(entry)
        if other is not entry
        and any((folder / weight_file_name(other)).is_file() for folder in weight_folders())
    ]
    return f"; there is: {', '.join(found)}" if found else ""


def load_weight_file(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights, name → tensor. Raises UserError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler trips over
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is no file of weights that can be read: {reason}") from error
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise UserError(f"{path} holds no weights by name: save model.state_dict()")
    return state
