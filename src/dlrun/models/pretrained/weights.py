"""Files of published weights: found, checked by the hash in their name, or downloaded."""

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
from dlrun.core.files import data_root
from dlrun.data.cache import describe_failure, make_fetch_function

log = logging.getLogger("dlrun")

# a context variable, so that threads do not disturb each other
_needs_weights = ContextVar("needed", default=True)


@contextmanager
def skip_weights() -> Iterator[None]:
    """Read no file of weights inside the block: these models get theirs from a checkpoint."""
    token = _needs_weights.set(False)
    try:
        yield
    finally:
        _needs_weights.reset(token)


def needs_weights() -> bool:
    """Return whether a new base needs its weights."""
    return _needs_weights.get()


def weight_folders() -> list[Path]:
    """Return the folders to search: $DLRUN_DATA/pretrained, then torch's download folder."""
    return [data_root() / "pretrained", Path(torch.hub.get_dir()) / "checkpoints"]


def find_weights(architecture: str, entry: Any) -> Path:
    """Return the official file of weights, another one of that architecture, or download it.

    Args:
        architecture: Name of the network.
        entry: Member of its weights enum in torchvision.

    Raises:
        UserError: The official file has another hash than its name says, there are several others,
            or it can neither be found nor downloaded.
    """
    name = weight_file_name(entry)
    for path in (folder / name for folder in weight_folders()):
        if path.is_file():
            log.info("weights: %s", path)
            return verify_hash(path)
    candidates = find_other_files(
        architecture, {weight_file_name(member) for member in type(entry)}
    )
    if len(candidates) > 1:
        listed = ", ".join(map(str, candidates))
        raise UserError(
            f"{name} is not there, but several files for {architecture} are: {listed}; "
            "say model.weights=FILE"
        )
    if candidates:
        log.warning(
            "weights: %s, which is not the official %s (%s): its hash is unknown",
            candidates[0],
            name,
            entry,
        )
        return candidates[0]
    return download_weights(architecture, entry)


def weight_file_name(entry: Any) -> str:
    """Return the official name of the file: squeezenet1_1-b8a52dc0.pth."""
    return str(entry.url.rpartition("/")[2])


def find_other_files(architecture: str, official: set[str]) -> list[Path]:
    """Return files in $DLRUN_DATA/pretrained that are named after a network and not official."""
    pattern = re.compile(rf"{re.escape(architecture)}([-.].*)?\.pth")
    paths = sorted(weight_folders()[0].glob(f"{architecture}*.pth"))
    return [path for path in paths if pattern.fullmatch(path.name) and path.name not in official]


def verify_hash(path: Path) -> Path:
    """Return a path if the file's sha256 begins with the hash in its name.

    Raises:
        UserError: It does not, or the file cannot be read.
    """
    try:
        digest = compute_file_hash(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not digest.startswith(hash_prefix(path.name)):
        raise UserError(
            f"{path} is not the official file: its sha256 begins with {digest[:8]}. Delete it to "
            "have it downloaded again; if it is meant to be other weights, give it another name"
        )
    return path


def compute_file_hash(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_prefix(name: str) -> str:
    """Return the hash that torchvision writes into a file's name; '' where it does not."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    return match[1] if match else ""


def download_weights(architecture: str, entry: Any) -> Path:
    """Download an official file into the first folder that can be written to, and return its path.

    Raises:
        UserError: There is no such folder, or the download fails.
    """
    name, failures = weight_file_name(entry), []
    for folder in weight_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # beside its place, so that it can be moved there in one step
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", delete=False) as fresh:
                target = Path(fresh.name)
        except OSError as error:
            failures.append(f"{folder} cannot be written to ({error.strerror})")
            continue
        if reason := download_file(entry.url, target, folder / name):
            failures.append(reason)
            break  # a download into the other folder would fail as well
        return folder / name
    raise UserError(
        f"the weights {entry} of {architecture} are not there, and cannot be downloaded: "
        f"{'; '.join(failures)}. Put {name} (from {entry.url}) into "
        f"{weight_folders()[0]}{describe_other_weights(entry)}; or begin with random weights: "
        "model.weights=null model.unfreeze=all"
    )


def download_file(url: str, fresh: Path, path: Path) -> str:
    """Download a file and move it to its place when its hash is right.

    Args:
        url: Of the file.
        fresh: Temporary path, removed in any case.
        path: Where the file goes.

    Returns:
        What went wrong; '' where nothing did.
    """
    log.info("downloading %s to %s", url, path)
    try:
        make_fetch_function(path.name)(url, str(fresh), None)
        if not compute_file_hash(fresh).startswith(hash_prefix(path.name)):
            return f"{url} gave a file with another hash"
        os.replace(fresh, path)
    except OSError as error:  # the base of requests' own errors
        return f"{url} ({describe_failure(error)})"
    finally:
        fresh.unlink(missing_ok=True)
    return ""


def describe_other_weights(entry: Any) -> str:
    """Return which other official weights of the same network are in the folders, as text."""
    names = [
        f"weights={member.name} ({weight_file_name(member)})"
        for member in type(entry)
        if member is not entry
        and any((folder / weight_file_name(member)).is_file() for folder in weight_folders())
    ]
    return f"; there is: {', '.join(names)}" if names else ""


def load_weight_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file of weights by name.

    Raises:
        UserError: It cannot be read, or holds something else.
    """
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
