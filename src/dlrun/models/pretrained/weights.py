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

from dlrun.core.errors import Refused
from dlrun.core.paths import data_root
from dlrun.data.downloads import downloader, reason

log = logging.getLogger("dlrun")

_needed = ContextVar("needed", default=True)


@contextmanager
def unneeded() -> Iterator[None]:
    """Inside, no file of weights is read: the models built there are given theirs by a checkpoint."""
    token = _needed.set(False)
    try:
        yield
    finally:
        _needed.reset(token)


def needed() -> bool:
    """Whether a new base needs its weights."""
    return _needed.get()


def folders() -> list[Path]:
    """Where files of weights are looked for: $DLRUN_DATA/pretrained, then the folder that torch downloads to."""
    return [data_root() / "pretrained", Path(torch.hub.get_dir()) / "checkpoints"]


def find(architecture: str, entry: Any) -> Path:
    """The file of a member of one of torchvision's weights enums: official, of that architecture, or downloaded.

    Raises Refused when the official file has another hash than its name says, when there are several others, and when
    it can neither be found nor downloaded.
    """
    name = file_name(entry)
    if found := next((folder / name for folder in folders() if (folder / name).is_file()), None):
        log.info("weights: %s", found)
        return checked(found)
    others = stand_ins(architecture, {file_name(other) for other in type(entry)})
    if len(others) > 1:
        there = ", ".join(map(str, others))
        raise Refused(f"{name} is not there, but several files for {architecture} are: {there}; say model.weights=FILE")
    if others:
        log.warning("weights: %s, which is not the official %s (%s): its hash is unknown", others[0], name, entry)
        return others[0]
    return download(architecture, entry)


def file_name(entry: Any) -> str:
    """The official name of the file: squeezenet1_1-b8a52dc0.pth."""
    return str(entry.url.rpartition("/")[2])


def stand_ins(architecture: str, official: set[str]) -> list[Path]:
    """Files in $DLRUN_DATA/pretrained that are named after the architecture, without the official ones."""
    ours = re.compile(rf"{re.escape(architecture)}([-.].*)?\.pth")
    found = sorted(folders()[0].glob(f"{architecture}*.pth"))
    return [path for path in found if ours.fullmatch(path.name) and path.name not in official]


def checked(path: Path) -> Path:
    """The path, if the file's sha256 begins with the hash in its name. Raises Refused."""
    try:
        found = digest(path)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    if not found.startswith(prefix(path.name)):
        raise Refused(
            f"{path} is not the official file: its sha256 begins with {found[:8]}. Delete it to have it downloaded "
            "again; if it is meant to be other weights, give it another name"
        )
    return path


def digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prefix(name: str) -> str:
    """The beginning of the sha256 that torchvision writes into a file's name; '' where it does not."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    return match[1] if match else ""


def download(architecture: str, entry: Any) -> Path:
    """Bring an official file into the first folder that can be written to. Raises Refused."""
    name, failures = file_name(entry), []
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", delete=False) as fresh:
                target = Path(fresh.name)
        except OSError as error:
            failures.append(f"{folder} cannot be written to ({error.strerror})")
            continue
        if reason := bring(entry.url, target, folder / name):
            failures.append(reason)
            break  # the other folder would not bring it nearer
        return folder / name
    raise Refused(
        f"the weights {entry} of {architecture} are not there, and cannot be downloaded: {'; '.join(failures)}. Put "
        f"{name} (from {entry.url}) into {folders()[0]}{also_there(entry)}; or begin with random weights: "
        "model.weights=null model.unfreeze=all"
    )


def bring(url: str, fresh: Path, path: Path) -> str:
    """Download a file to `fresh`, and move it to `path` when its hash is right. Answers with what went wrong, or ''."""
    log.info("downloading %s to %s", url, path)
    try:
        downloader(path.name)(url, str(fresh), None)
        if not digest(fresh).startswith(prefix(path.name)):
            return f"{url} gave a file with another hash"
        os.replace(fresh, path)
    except OSError as error:  # requests' own errors are such
        return f"{url} ({reason(error)})"
    finally:
        fresh.unlink(missing_ok=True)
    return ""


def also_there(entry: Any) -> str:
    """Which other official weights of the same architecture are in the folders, in words."""
    found = [
        f"weights={other.name} ({file_name(other)})"
        for other in type(entry)
        if other is not entry and any((folder / file_name(other)).is_file() for folder in folders())
    ]
    return f"; there is: {', '.join(found)}" if found else ""


def load(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights, name → tensor. Raises Refused."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler trips over
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Refused(f"{path} is no file of weights that can be read: {reason}") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise Refused(f"{path} holds no weights by name: save model.state_dict()")
    return state
