"""Your own arrays in many files, more of them than fit in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from dlrun.config.constraints import Count
from dlrun.core.dataset import Raw, Rows
from dlrun.core.errors import Refused, in_short
from dlrun.core.files import whole
from dlrun.core.paths import user_cache
from dlrun.core.types import Kind
from dlrun.data.datasets.synthetic import note
from dlrun.data.shards.npz_column import Counted, Mean, Sharded, Spread, Yes
from dlrun.data.shards.npz_files import Shelf, shelf

log = logging.getLogger("dlrun")

OWNER = ".shard"  # a column with the number of each row's file
OF_INPUTS, OF_TARGET = ("number", "category", "image"), ("number", "category", "binary")
MADE = {"": 6, "test": 2}  # folder → files of the sample
EACH = 60  # rows of each of them


def shards(
    *,
    source: Literal["official", "sample"],
    path: str | None,
    inputs: list[str] | None,
    target: str,
    kinds: dict[str, Any],
    labels: list[str] | None,
    hold_out: Literal["shards", "rows"],
    scale: Literal["standardise", "none"],
    window: Count,
) -> Raw:
    """A folder of .npz files with the same arrays in each, as `numpy.savez("photos/000.npz", x=…, y=…)` writes them.

    Row i of all arrays of a file belongs together; inputs (N, …) are numbers, uint8 pictures (N, C, H, W), or whole
    numbers that stand for levels; the target is numbers (N,) or (N, k), or whole numbers (N,) for classes. Files of a
    folder `test` inside are the test rows, sealed as elsewhere. Files may differ in length. In memory are the row
    numbers (8 bytes a row) and the rows of `window` files at a time; a row is mixed with those of so many files.

    inputs: names of arrays; None: all but the target. kinds: array → number, category, image or binary, where that is
    not what its type says: floats are numbers, a target of whole numbers is classes, uint8 with 1 or 3 channels is
    pictures. labels: names of the classes 0, 1, 2, … hold_out: validation rows are whole files, or any rows. source:
    with sample and no path, small made-up files in the user's cache. Raises Refused for whatever is wrong with a file.
    """
    folder = sample() if path is None and source == "sample" else named(path)
    found = shelf(folder, None if inputs is None else [*inputs, target])
    chosen = kinds_of(found, target, kinds)
    kind = chosen.pop(target)
    if not chosen:
        raise Refused(f"{found.paths[0]} has no array besides the target '{target}'")
    names = tuple(labels or ())
    learn: dict[str, Any] = {name: of_input(name, chosen[name], scale) for name in chosen}
    learn[target] = of_target(target, kind, names)
    dev = rows_of(found, window)
    group = OWNER if hold_out == "shards" and len(found.paths) > 1 else None
    dev |= {OWNER: np.repeat(np.arange(len(found.paths), dtype=np.int32), np.diff(found.edges))} if group else {}
    made = note("shards") if path is None else ""
    return Raw(dev, chosen, {target: kind}, learn, sealed(folder, found, window), None, group,
               {target: names} if names else {}, made)  # fmt: skip


def named(path: str | None) -> Path:
    """The folder that was named. Raises Refused."""
    if path is None:
        raise Refused("say where the files are: data.path=FOLDER, with files that numpy.savez(file, x=…, y=…) wrote")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise Refused(f"data.path={path}: there is no such folder")
    return folder


def rows_of(found: Shelf, window: int) -> Rows:
    """One column for each array."""
    rows = np.arange(len(found))
    return {name: Sharded(found, name, rows, window) for name in found.heads}


def sealed(folder: Path, found: Shelf, window: int) -> Callable[[], Rows] | None:
    """What reads the test rows; None where there are none."""
    if not (folder / "test").is_dir():
        return None

    def read() -> Rows:
        test = shelf(folder / "test", found.heads)
        wrong = [name for name in found.heads if test.heads[name] != found.heads[name]]
        if wrong:
            here, there = (f"{one.heads[wrong[0]][1]} {one.heads[wrong[0]][0]}" for one in (test, found))
            raise Refused(f"'{wrong[0]}' is {here} a row in {folder / 'test'}, and {there} in {folder}")
        return rows_of(test, window)

    return read


def kinds_of(found: Shelf, target: str, kinds: dict[str, Any]) -> dict[str, Kind]:
    """The kind of every array, said in the log. Raises Refused."""
    if target not in found.heads:
        raise Refused(f"data.target={target}: there is no such array; there are: {in_short(found.heads, target)}")
    chosen = {name: kind_of(found, name, name == target, kinds) for name in found.heads}
    strangers = [name for name in kinds if name not in chosen]
    if strangers:
        raise Refused(f"data.kinds names '{strangers[0]}'; there are: {in_short(chosen, strangers[0])}")
    told = in_short(f"'{name}' is {kind}" for name, kind in chosen.items())
    log.info("%s rows in %d files: %s (else say data.kinds=…)", f"{len(found):,}", len(found.paths), told)
    return chosen


def kind_of(found: Shelf, name: str, answer: bool, kinds: dict[str, Any]) -> Kind:
    """The kind of an array: as it is told, or as its type says. Raises Refused."""
    shape, dtype = found.heads[name]
    allowed = OF_TARGET if answer else OF_INPUTS
    picture = dtype == np.uint8 and len(shape) == 3 and shape[0] in (1, 3)
    whole_numbers = dtype.kind in "iub" and not shape
    guessed = "category" if answer and whole_numbers else "image" if picture else "number"
    kind = kinds.get(name, "binary" if answer and dtype.kind == "b" else guessed)
    if kind not in allowed:
        what = "a target" if answer else "an input"
        raise Refused(f"data.kinds: '{name}' is {kind}; {what} may be {', '.join(allowed)}")
    unfit = dtype.kind not in "iubf" or (kind in ("category", "binary") and not whole_numbers)
    if unfit or (kind == "image" and not picture):
        needs = {"image": "uint8 of shape (1 or 3, H, W) a row", "number": "numbers"}.get(
            kind, "one whole number a row"
        )
        raise Refused(f"'{name}' in {found.paths[0]} is {dtype} of shape {shape} a row; kind {kind} needs {needs}")
    return cast(Kind, kind)


def of_input(name: str, kind: Kind, scale: str) -> tuple[Any, ...]:
    """What is learnt of an input."""
    if kind == "category":
        return (Counted(name, level=True),)
    return (Spread(),) if kind == "number" and scale == "standardise" else ()


def of_target(name: str, kind: Kind, names: tuple[str, ...]) -> tuple[Any, ...]:
    """What is learnt of the target."""
    if kind == "number":
        return (Mean(),)
    classes = Counted(name, names)
    return (classes, Yes()) if kind == "binary" else (classes,)


def sample() -> Path:
    """Small files in the user's cache: eight numbers a row, and three classes that follow from them."""
    folder = user_cache() / "samples" / "shards-1"
    direction = np.random.RandomState(0).normal(size=(8, 3))
    for place, count in MADE.items():
        for number in range(count):
            path = folder / place / f"{number:03}.npz"
            if path.exists():
                continue
            random = np.random.RandomState(100 * len(place) + number + 1)
            x = random.normal(size=(EACH, 8)).astype(np.float32)
            y = (x @ direction + random.normal(0, 0.3, (EACH, 3))).argmax(1)
            with whole(path) as fresh, fresh.open("wb") as handle:
                np.savez(handle, x=x * np.float32(3) + np.float32(1), y=y)
    return folder
