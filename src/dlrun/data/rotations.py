"""Labels made from the inputs: pictures of another dataset, turned, and the question by how much."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dlrun.config.constraints import DataPart
from dlrun.core.dataset import Raw, Rows
from dlrun.core.errors import Refused
from dlrun.data import aside
from dlrun.data.turned import QUARTERS, turned_column

TURNS = tuple(f"{90 * quarters}°" for quarters in range(QUARTERS))
OWNER = "original"
CHOOSE = "choose a dataset of pictures, such as data@data.of=mnist"


def rotations(*, of: DataPart, turns: Literal["one", "all"]) -> Raw:
    """The pictures of `of`, turned to the left by 0°, 90°, 180° or 270° (Gidaris, Singh & Komodakis 2018).

    turns: one, drawn for each picture, always the same; or all, of which a split by group, as by=auto makes it, has
    every picture on one side only. The input keeps its name; target `rotation`. What the pictures were labelled with is
    not there. Raises Refused where the input of `of` is not one column of square pictures.
    """
    if not isinstance(of, Raw):
        raise Refused(f"data.of={of!r} is no dataset: {CHOOSE}")
    if list(of.inputs.values()) != ["image"]:
        found = ", ".join(f"{kind} '{name}'" for name, kind in of.inputs.items())
        raise Refused(f"data.of gives {found}, and only pictures can be turned: {CHOOSE}")
    (name,), every = of.inputs, turns == "all"
    refuse_oblong(*of.dev[name].shape[2:])
    sealed = of.test
    return Raw(
        dev=rows(of, of.dev, name, every, aside.SEED),
        test=None if sealed is None else lambda: rows(of, sealed(), name, every, aside.SEED + 1),
        inputs={name: "image"},
        targets={"rotation": "category"},
        learn={},
        group=of.group or (OWNER if every else None),
        labels={"rotation": TURNS},
        note=of.note,
    )


def rows(of: Raw, found: Rows, name: str, every: bool, seed: int) -> Rows:
    """The rows of a split, turned: each once, as the seed has it, as often by every turn; or each by all turns."""
    count = len(found[name])
    drawn = np.random.RandomState(seed).permutation(np.arange(count) % QUARTERS)
    which = np.repeat(np.arange(count), QUARTERS) if every else np.arange(count)
    quarters = np.tile(np.arange(QUARTERS), count) if every else drawn
    columns: Rows = {name: turned_column(found[name], which, quarters), "rotation": quarters}
    if every or of.group:
        columns[of.group or OWNER] = found[of.group][which] if of.group in found else which
    return columns


def refuse_oblong(height: int, width: int) -> None:
    """Raise Refused for pictures that a quarter's turn would give another shape."""
    if height != width:
        side = min(height, width)
        raise Refused(
            f"pictures of {height} × {width} have another shape after a quarter's turn: make them square, "
            f"data.of.size=[{side},{side}] where the data have such a setting"
        )
