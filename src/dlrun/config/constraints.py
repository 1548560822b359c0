"""Types for the numbers and parts that settings take: a signature alone says what is valid.

Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """Numbers of one type between two ends.

    Attributes:
        type: int, or float, which takes integers too.
        low: Lower end.
        high: Upper end.
        text: The range in words, for messages.
        open_low: The lower end is excluded.
        open_high: The upper end is excluded.
    """

    type: type
    low: float
    high: float
    text: str
    open_low: bool = False
    open_high: bool = False

    def contains(self, value: object) -> bool:
        """Whether a value is of the type and in the range."""
        kinds: tuple[type, ...] = (int,) if self.type is int else (int, float)
        # bool is a subclass of int in Python, but `true` is no number in a config.
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        assert isinstance(value, int | float)
        if self.type is int and value > MAX_INTEGER:
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)


_INF = float("inf")
MAX_INTEGER = 2**62  # torch's sizes and seeds are signed 64-bit integers
COUNT = Range(int, 1, _INF, "a whole number from 1 up")
NATURAL = Range(int, 0, _INF, "a whole number from 0 up")
POSITIVE = Range(float, 0, _INF, "a number above 0", open_low=True, open_high=True)
NON_NEGATIVE = Range(float, 0, _INF, "a number from 0 up", open_high=True)
PROBABILITY = Range(float, 0, 1, "a number from 0 up to, but not including, 1", open_high=True)
FRACTION = Range(float, 0, 1, "a number from 0 to 1")

Count = Annotated[int, COUNT]
Natural = Annotated[int, NATURAL]
Positive = Annotated[float, POSITIVE]
NonNegative = Annotated[float, NON_NEGATIVE]
Probability = Annotated[float, PROBABILITY]
Fraction = Annotated[float, FRACTION]

RANGES = {
    "Count": COUNT,
    "Natural": NATURAL,
    "Positive": POSITIVE,
    "NonNegative": NON_NEGATIVE,
    "Probability": PROBABILITY,
    "Fraction": FRACTION,
}

TextPart = Annotated[Any, "how texts become numbers"]
EncoderPart = Annotated[Any, "what reads a text, a series or an image"]
DataPart = Annotated[Any, "other data"]
JudgePart = Annotated[Any, "what judges images"]
WorldPart = Annotated[Any, "what is acted in"]

# Annotation → the kind of part that belongs there, see parts.py.
PARTS = {
    "TextPart": "text",
    "EncoderPart": "encoder",
    "DataPart": "data",
    "JudgePart": "objective.judge",
    "WorldPart": "objective.world",
}
