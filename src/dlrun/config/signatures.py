"""The arguments of a class or function read from its source, so that a config is checked without importing it."""

from __future__ import annotations

import ast
import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dlrun.config.constraints import PARTS, RANGES
from dlrun.config.custom_contract import (
    CONTEXT_ARGUMENTS,
    NUM_CALL_ARGUMENTS,
    is_context_argument,
    is_custom,
    is_direct_function,
)

PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "dict": (dict,),
    "list": (list,),
    "tuple": (list,),
}

DIRECTION_ANNOTATION = ast.parse("Literal['min', 'max']", mode="eval").body


@dataclass(frozen=True)
class Argument:
    """One argument: its annotation as a syntax tree of `module`, and whether it must be given.

    ordered: it can be given by its place, too.
    """

    name: str
    annotation: ast.expr | None
    required: bool
    module: Path
    ordered: bool = True

    @property
    def get_type_names(self) -> list[str]:
        """The names that its annotation is made of."""
        found = ast.walk(self.annotation) if self.annotation else ()
        return [node.id for node in found if isinstance(node, ast.Name)]


@dataclass(frozen=True)
class Signature:
    """What can be set. open: any other key is accepted too. context: how many arguments the caller gives in order."""

    arguments: dict[str, Argument]
    open: bool


def get_signature(target: str, context: int = 0) -> Signature | None:
    """The arguments of a target by name, less the first `context`; None when its source cannot be read."""
    return (
        _read_signature(target, context)
        if is_custom(target)
        else _get_cached_signature(target, context)
    )


@lru_cache(maxsize=1024)
def _get_cached_signature(target: str, context: int) -> Signature | None:
    """Of dlrun's own parts, which do not change while a process runs."""
    return _read_signature(target, context)


def _read_signature(target: str, context: int) -> Signature | None:
    found = find_symbol(target)
    if found is None:
        return None
    node, module = found
    if isinstance(node, ast.ClassDef):
        if any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
            return _read_dataclass(node, module)
        init = [
            part
            for part in node.body
            if isinstance(part, ast.FunctionDef) and part.name == "__init__"
        ]
        return _read_function(init[0].args, module, context + 1) if init else None
    return _read_function(node.args, module, context)


def get_configurable_arguments(target: str, kind: str, context: int = 0) -> Signature | None:
    """The settings of a part: the arguments of its target, less those that dlrun gives to a part of this kind."""
    if not is_custom(target) or kind not in CONTEXT_ARGUMENTS:
        return get_signature(target, context)
    found, whole = find_symbol(target), get_signature(target)
    if found is None or whole is None:
        return None
    named = {
        name: ast.unparse(each.annotation) if each.annotation else ""
        for name, each in whole.arguments.items()
    }
    ordered = [(name, named[name]) for name, each in whole.arguments.items() if each.ordered]
    if isinstance(found[0], ast.FunctionDef) and is_direct_function(kind, ordered):
        given = {name for name, _ in ordered[: NUM_CALL_ARGUMENTS[kind]]}
    elif isinstance(found[0], ast.FunctionDef) and kind == "loss" and len(ordered) == 1:
        given = {ordered[0][0]}
    else:
        given = {name for name, note in named.items() if is_context_argument(kind, name, note)}
    left = {name: each for name, each in whole.arguments.items() if name not in given}
    if kind == "metric":
        left["goal"] = Argument("goal", DIRECTION_ANNOTATION, False, found[1])
    return Signature(left, whole.open)


def _read_dataclass(node: ast.ClassDef, module: Path) -> Signature:
    fields = [
        part
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    ]
    made = [
        Argument(part.target.id, part.annotation, part.value is None, module)  # type: ignore[union-attr]
        for part in fields
    ]
    return Signature({argument.name: argument for argument in made}, False)


def _read_function(args: ast.arguments, module: Path, skip: int) -> Signature:
    positional = [*args.posonlyargs, *args.args]
    required = len(positional) - len(args.defaults)
    made = [Argument(a.arg, a.annotation, i < required, module) for i, a in enumerate(positional)][
        skip:
    ]
    made += [
        Argument(a.arg, a.annotation, default is None, module, ordered=False)
        for a, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    return Signature({argument.name: argument for argument in made}, args.kwarg is not None)


def find_symbol(target: str, depth: int = 5) -> tuple[ast.FunctionDef | ast.ClassDef, Path] | None:
    """Where a dotted name is defined, followed through re-exports; None when it cannot be found."""
    module_name, _, name = target.rpartition(".")
    path = find_source_file(module_name)
    if path is None or depth == 0:
        return None
    try:
        body = parse_source_file(path).body
    except (SyntaxError, ValueError):  # whoever imports it says what is wrong
        return None
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node, path
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    package = (
                        module_name
                        if path.name == "__init__.py"
                        else module_name.rpartition(".")[0]
                    )
                    home = _get_absolute_module(node, package)
                    return find_symbol(f"{home}.{alias.name}", depth - 1)
    return None


def _get_absolute_module(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    base = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def find_source_file(module: str) -> Path | None:
    """The source file of a module, found without importing it or its parents."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    origin = Path(spec.origin)
    if not rest:
        return origin
    place = origin.parent.joinpath(*rest)
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=256)
def parse_source_file(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def describe_type_mismatch(value: Any, argument: Argument) -> str | None:
    """What the argument wants, when this value is not it; None when it fits or when that cannot be judged."""
    if (
        argument.annotation is None
        or _matches_annotation(value, argument.annotation, argument.module) is not False
    ):
        return None
    endless = isinstance(value, float) and not math.isfinite(value)
    return describe_annotation(argument.annotation, argument.module) + (
        ", and not without end" if endless else ""
    )


def _matches_annotation(value: Any, note: ast.expr, module: Path) -> bool | None:
    """True or False; None when the annotation is beyond this check."""
    if isinstance(value, dict) and "_target_" in value:
        return None
    if isinstance(note, ast.Constant):
        return value is None if note.value is None else None
    if isinstance(note, ast.BinOp):
        left = _matches_annotation(value, note.left, module)
        right = (
            None if left else _matches_annotation(value, note.right, module)
        )  # may be an alias, and its file a large one
        return left or right or (False if False in (left, right) else None)
    if isinstance(note, ast.Name):
        return _matches_name(value, note.id, module)
    if isinstance(note, ast.Subscript):
        return _matches_generic(value, note, module)
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


def _matches_generic(value: Any, note: ast.Subscript, module: Path) -> bool | None:
    head = ast.unparse(note.value).rpartition(".")[2]
    inner = note.slice.elts if isinstance(note.slice, ast.Tuple) else [note.slice]
    if head == "Literal":
        return value in [option.value for option in inner if isinstance(option, ast.Constant)]
    if head == "Optional":
        return value is None or _matches_annotation(value, inner[0], module)
    if head == "list":
        return isinstance(value, list) and all(
            _matches_annotation(item, inner[0], module) is not False for item in value
        )
    if head == "tuple":
        each = zip(value, inner, strict=False) if isinstance(value, list) else ()
        return isinstance(value, list) and (
            _has_any_length(inner)
            or (
                len(value) == len(inner)
                and all(_matches_annotation(*one, module) is not False for one in each)
            )
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
            isinstance(t, ast.Name) and t.id == name for t in node.targets
        ):
            return node.value, module
        if isinstance(node, ast.ImportFrom) and any(
            (a.asname or a.name) == name for a in node.names
        ):
            path = find_source_file(node.module or "") if not node.level else None
            return _resolve_alias(name, path) if path and path != module else None
    return None


def convert_integers(value: Any, argument: Argument) -> Any:
    """A value whose whole numbers are floats where only floats are meant: torch makes integers of [1, 2, 3]."""
    return (
        value
        if argument.annotation is None
        else _convert_by_annotation(value, argument.annotation, argument.module)
    )


def _convert_by_annotation(value: Any, note: ast.expr, module: Path) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | list):
        return value
    if isinstance(note, ast.Name):
        if note.id in (*PLAIN, *RANGES):
            only_float = note.id == "float" or (note.id in RANGES and RANGES[note.id].type is float)
            return float(value) if only_float and isinstance(value, int) else value
        alias = _resolve_alias(note.id, module)
        return value if alias is None else _convert_by_annotation(value, *alias)
    if isinstance(note, ast.BinOp):
        return _convert_by_choice(value, _get_choices(note), module)
    if not isinstance(note, ast.Subscript):
        return value
    inner = note.slice.elts if isinstance(note.slice, ast.Tuple) else [note.slice]
    head = ast.unparse(note.value).rpartition(".")[2]
    if head in ("Union", "Optional"):
        return _convert_by_choice(value, inner, module)
    if head not in ("list", "tuple") or not isinstance(value, list):
        return value
    notes = inner if len(inner) == len(value) else [inner[0]] * len(value)
    return [
        _convert_by_annotation(item, each, module) for item, each in zip(value, notes, strict=True)
    ]


def _get_choices(note: ast.expr) -> list[ast.expr]:
    return (
        [*_get_choices(note.left), *_get_choices(note.right)]
        if isinstance(note, ast.BinOp)
        else [note]
    )


def _convert_by_choice(value: Any, notes: list[ast.expr], module: Path) -> Any:
    """As the first choice means it that takes it otherwise; as it is where one of them is a whole number."""
    names = [note.id for note in notes if isinstance(note, ast.Name)]
    if isinstance(value, int) and any(
        n == "int" or (n in RANGES and RANGES[n].type is int) for n in names
    ):
        return value
    found = [_convert_by_annotation(value, note, module) for note in notes]
    return next((each for each in found if repr(each) != repr(value)), value)


def describe_annotation(note: ast.expr, module: Path) -> str:
    """An annotation in words."""
    if isinstance(note, ast.BinOp):
        parts = [
            each for each in (note.left, note.right) if ast.unparse(each) != "Tensor"
        ]  # no config has one
        return " or ".join(describe_annotation(each, module) for each in parts)
    if isinstance(note, ast.Constant):
        return "null"
    if isinstance(note, ast.Name):
        words = {
            "int": "a whole number",
            "float": "a number",
            "str": "text",
            "bool": "true or false",
        }
        if note.id in RANGES:
            return RANGES[note.id].text
        if note.id in PARTS:
            return f"a part of the kind {PARTS[note.id].rpartition('.')[2]}"
        alias = None if note.id in PLAIN else _resolve_alias(note.id, module)
        return words.get(note.id) or (describe_annotation(*alias) if alias else note.id)
    if isinstance(note, ast.Subscript):
        inner = note.slice.elts if isinstance(note.slice, ast.Tuple) else [note.slice]
        if ast.unparse(note.value).endswith("Literal"):
            return ("one of " if len(inner) > 1 else "") + ", ".join(
                str(option.value) for option in inner if isinstance(option, ast.Constant)
            )
        if ast.unparse(note.value) == "list":
            return f"a list, each item {describe_annotation(inner[0], module)}"
        if ast.unparse(note.value) == "tuple" and not _has_any_length(inner):
            return f"a list of {len(inner)}: {', '.join(describe_annotation(each, module) for each in inner)}"
    return ast.unparse(note)
