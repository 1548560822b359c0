"""Types of settings: what an annotation allows, checked and described."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from dlrun.config.signatures import Argument, find_source_file, parse_source_file


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

# Annotation → types of a value in a config: YAML has no tuples, and integers are floats too.
PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "dict": (dict,),
    "list": (list,),
    "tuple": (list,),
}


# Annotation → what is expected, in words.
TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
}


def describe_type_mismatch(value: Any, argument: Argument) -> str | None:
    """What an argument expects, where a value is not it.

    Returns:
        None where it fits, or where that cannot be judged.
    """
    if (
        argument.annotation is None
        or _matches_annotation(value, argument.annotation, argument.module) is not False
    ):
        return None
    endless = isinstance(value, float) and not math.isfinite(value)
    return describe_annotation(argument.annotation, argument.module) + (
        ", and not without end" if endless else ""
    )


def _matches_annotation(value: Any, annotation: ast.expr, module: Path) -> bool | None:
    """True or False; None when the annotation is beyond this check."""
    if isinstance(value, dict) and "_target_" in value:
        return None
    if isinstance(annotation, ast.Constant):
        return value is None if annotation.value is None else None
    if isinstance(annotation, ast.BinOp):
        left = _matches_annotation(value, annotation.left, module)
        # Not needlessly: the right side may be an alias, whose file has to be parsed.
        right = None if left else _matches_annotation(value, annotation.right, module)
        return left or right or (False if False in (left, right) else None)
    if isinstance(annotation, ast.Name):
        return _matches_name(value, annotation.id, module)
    if isinstance(annotation, ast.Subscript):
        return _matches_generic(value, annotation, module)
    return None


def _matches_name(value: Any, name: str, module: Path) -> bool | None:
    if name in RANGES:
        return RANGES[name].contains(value)
    if name in PARTS:
        return None if value is None else False
    if name in PLAIN:
        endless = isinstance(value, float) and not math.isfinite(value)
        return (
            isinstance(value, PLAIN[name])
            and (name == "bool" or not isinstance(value, bool))
            and not endless
        )
    alias = _resolve_alias(name, module)
    return None if alias is None else _matches_annotation(value, *alias)


def _matches_generic(value: Any, annotation: ast.Subscript, module: Path) -> bool | None:
    head = ast.unparse(annotation.value).rpartition(".")[2]
    inner = _get_items(annotation)
    if head == "Literal":
        return value in [option.value for option in inner if isinstance(option, ast.Constant)]
    if head == "Optional":
        return value is None or _matches_annotation(value, inner[0], module)
    if head == "list":
        return isinstance(value, list) and all(
            _matches_annotation(item, inner[0], module) is not False for item in value
        )
    if head == "tuple":
        if not isinstance(value, list) or _has_any_length(inner):
            return isinstance(value, list)
        return len(value) == len(inner) and all(
            _matches_annotation(item, item_annotation, module) is not False
            for item, item_annotation in zip(value, inner, strict=True)
        )
    if head == "dict":
        return isinstance(value, dict) and all(
            _matches_annotation(item, inner[1], module) is not False for item in value.values()
        )
    return None


def _has_any_length(inner: list[ast.expr]) -> bool:
    """Whether a tuple is of any length."""
    return isinstance(inner[-1], ast.Constant) and inner[-1].value is ...


def _resolve_alias(name: str, module: Path) -> tuple[ast.expr, Path] | None:
    """What a type alias stands for, in this module or where it is imported from."""
    for node in parse_source_file(module).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(assigned, ast.Name) and assigned.id == name for assigned in node.targets
        ):
            return node.value, module
        if isinstance(node, ast.ImportFrom) and any(
            (alias.asname or alias.name) == name for alias in node.names
        ):
            path = find_source_file(node.module or "") if not node.level else None
            return _resolve_alias(name, path) if path and path != module else None
    return None


def convert_integers(value: Any, argument: Argument) -> Any:
    """A value with floats for integers where only floats are meant.

    torch makes integer tensors of [1, 2, 3].
    """
    if argument.annotation is None:
        return value
    return _convert_by_annotation(value, argument.annotation, argument.module)


def _convert_by_annotation(value: Any, annotation: ast.expr, module: Path) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | list):
        return value
    if isinstance(annotation, ast.Name):
        if annotation.id in (*PLAIN, *RANGES):
            only_float = annotation.id == "float" or (
                annotation.id in RANGES and RANGES[annotation.id].type is float
            )
            return float(value) if only_float and isinstance(value, int) else value
        alias = _resolve_alias(annotation.id, module)
        return value if alias is None else _convert_by_annotation(value, *alias)
    if isinstance(annotation, ast.BinOp):
        return _convert_by_choice(value, _get_choices(annotation), module)
    if not isinstance(annotation, ast.Subscript):
        return value
    inner = _get_items(annotation)
    head = ast.unparse(annotation.value).rpartition(".")[2]
    if head in ("Union", "Optional"):
        return _convert_by_choice(value, inner, module)
    if head not in ("list", "tuple") or not isinstance(value, list):
        return value
    annotations = inner if len(inner) == len(value) else [inner[0]] * len(value)
    return [
        _convert_by_annotation(item, item_annotation, module)
        for item, item_annotation in zip(value, annotations, strict=True)
    ]


def _get_choices(annotation: ast.expr) -> list[ast.expr]:
    if not isinstance(annotation, ast.BinOp):
        return [annotation]
    return [*_get_choices(annotation.left), *_get_choices(annotation.right)]


def _convert_by_choice(value: Any, annotations: list[ast.expr], module: Path) -> Any:
    """Converted by the first choice that changes it; unchanged where a choice is int."""
    names = [annotation.id for annotation in annotations if isinstance(annotation, ast.Name)]
    if isinstance(value, int) and any(
        name == "int" or (name in RANGES and RANGES[name].type is int) for name in names
    ):
        return value
    conversions = [_convert_by_annotation(value, annotation, module) for annotation in annotations]
    # repr: 1 == 1.0 in Python, and the difference is what is asked for.
    return next((converted for converted in conversions if repr(converted) != repr(value)), value)


def _get_items(annotation: ast.Subscript) -> list[ast.expr]:
    """Everything between the brackets: [int, str] of tuple[int, str]."""
    items = annotation.slice
    return items.elts if isinstance(items, ast.Tuple) else [items]


def describe_annotation(annotation: ast.expr, module: Path) -> str:
    """An annotation in words."""
    if isinstance(annotation, ast.BinOp):
        sides = (annotation.left, annotation.right)
        choices = [choice for choice in sides if ast.unparse(choice) != "Tensor"]  # never in YAML
        return " or ".join(describe_annotation(choice, module) for choice in choices)
    if isinstance(annotation, ast.Constant):
        return "null"
    if isinstance(annotation, ast.Name):
        return _describe_name(annotation.id, module)
    if isinstance(annotation, ast.Subscript):
        return _describe_generic(annotation, module)
    return ast.unparse(annotation)


def _describe_name(name: str, module: Path) -> str:
    if name in RANGES:
        return RANGES[name].text
    if name in PARTS:
        return f"a part of the kind {PARTS[name].rpartition('.')[2]}"
    if name in TYPE_NAMES:
        return TYPE_NAMES[name]
    alias = None if name in PLAIN else _resolve_alias(name, module)
    return describe_annotation(*alias) if alias else name


def _describe_generic(annotation: ast.Subscript, module: Path) -> str:
    items, head = _get_items(annotation), ast.unparse(annotation.value)
    if head.endswith("Literal"):
        options = [str(option.value) for option in items if isinstance(option, ast.Constant)]
        return ("one of " if len(items) > 1 else "") + ", ".join(options)
    if head == "list":
        return f"a list, each item {describe_annotation(items[0], module)}"
    if head == "tuple" and not _has_any_length(items):
        described = ", ".join(describe_annotation(item, module) for item in items)
        return f"a list of {len(items)}: {described}"
    return ast.unparse(annotation)
