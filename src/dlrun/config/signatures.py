"""Reads the arguments of classes and functions from their source.

So a config is checked without importing torch or running the user's code.
"""

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

DIRECTION_ANNOTATION = ast.parse("Literal['min', 'max']", mode="eval").body


@dataclass(frozen=True)
class Argument:
    """One argument.

    Attributes:
        name: Its name.
        annotation: Syntax tree of its annotation; None without one.
        required: It has no default.
        module: The file in which names of the annotation are looked up.
        ordered: It can be given by position, too.
    """

    name: str
    annotation: ast.expr | None
    required: bool
    module: Path
    ordered: bool = True

    @property
    def get_type_names(self) -> list[str]:
        """The names in its annotation."""
        nodes = ast.walk(self.annotation) if self.annotation else ()
        return [node.id for node in nodes if isinstance(node, ast.Name)]


@dataclass(frozen=True)
class Signature:
    """What can be set.

    Attributes:
        arguments: By name, in order.
        open: Any other key is accepted, too (**kwargs).
    """

    arguments: dict[str, Argument]
    open: bool


def get_signature(target: str, context: int = 0) -> Signature | None:
    """The arguments of a class or function.

    Args:
        target: Full name.
        context: How many leading arguments the caller passes; they are left out.

    Returns:
        None where the source cannot be read.
    """
    # The user's own files may change while a process runs, as in a notebook.
    if is_custom(target):
        return _read_signature(target, context)
    return _get_cached_signature(target, context)


@lru_cache(maxsize=1024)
def _get_cached_signature(target: str, context: int) -> Signature | None:
    """Of dlrun's own parts, whose files do not change while a process runs."""
    return _read_signature(target, context)


def _read_signature(target: str, context: int) -> Signature | None:
    symbol = find_symbol(target)
    if symbol is None:
        return None
    node, module = symbol
    if isinstance(node, ast.ClassDef):
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            return _read_dataclass(node, module)
        init = [
            statement
            for statement in node.body
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__"
        ]
        return _read_function(init[0].args, module, context + 1) if init else None
    return _read_function(node.args, module, context)


def get_configurable_arguments(target: str, kind: str, context: int = 0) -> Signature | None:
    """The settings of a part: its arguments without those that dlrun passes.

    Args:
        target: Full name.
        kind: The kind of part.
        context: How many leading arguments dlrun passes to a part of its own.

    Returns:
        None where the source cannot be read.
    """
    if not is_custom(target) or kind not in CONTEXT_ARGUMENTS:
        return get_signature(target, context)
    symbol, signature = find_symbol(target), get_signature(target)
    if symbol is None or signature is None:
        return None
    node, module = symbol
    annotations = {
        name: ast.unparse(argument.annotation) if argument.annotation else ""
        for name, argument in signature.arguments.items()
    }
    ordered = [
        (name, annotations[name])
        for name, argument in signature.arguments.items()
        if argument.ordered
    ]
    if isinstance(node, ast.FunctionDef) and is_direct_function(kind, ordered):
        passed = {name for name, _ in ordered[: NUM_CALL_ARGUMENTS[kind]]}
    elif isinstance(node, ast.FunctionDef) and kind == "loss" and len(ordered) == 1:
        passed = {ordered[0][0]}
    else:
        passed = {
            name for name, text in annotations.items() if is_context_argument(kind, name, text)
        }
    settings = {
        name: argument for name, argument in signature.arguments.items() if name not in passed
    }
    if kind == "metric":  # every metric's node may say which direction is better
        settings["goal"] = Argument("goal", DIRECTION_ANNOTATION, False, module)
    return Signature(settings, signature.open)


def _read_dataclass(node: ast.ClassDef, module: Path) -> Signature:
    fields = [
        statement
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    ]
    arguments = [
        Argument(
            statement.target.id,  # type: ignore[union-attr]
            statement.annotation,
            statement.value is None,
            module,
        )
        for statement in fields
    ]
    return Signature({argument.name: argument for argument in arguments}, False)


def _read_function(args: ast.arguments, module: Path, skip: int) -> Signature:
    positional = [*args.posonlyargs, *args.args]
    required = len(positional) - len(args.defaults)
    arguments = [
        Argument(arg.arg, arg.annotation, number < required, module)
        for number, arg in enumerate(positional)
    ][skip:]
    arguments += [
        Argument(arg.arg, arg.annotation, default is None, module, ordered=False)
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    return Signature({argument.name: argument for argument in arguments}, args.kwarg is not None)


def find_symbol(target: str, depth: int = 5) -> tuple[ast.FunctionDef | ast.ClassDef, Path] | None:
    """Where a full name is defined, followed through re-exports.

    Args:
        target: Full name.
        depth: The most re-exports that are followed: imports may go in a circle.

    Returns:
        The syntax tree and its file; None where it cannot be found.
    """
    module_name, _, name = target.rpartition(".")
    path = find_source_file(module_name)
    if path is None or depth == 0:
        return None
    try:
        body = parse_source_file(path).body
    except (SyntaxError, ValueError):  # reported where the file is imported
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
    top, *inner = module.split(".")
    # find_spec of a dotted name would import its parents, and so torch.
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    origin = Path(spec.origin)
    if not inner:
        return origin
    base = origin.parent.joinpath(*inner)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=256)
def parse_source_file(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


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
    inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
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
    inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
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
    return next((converted for converted in conversions if repr(converted) != repr(value)), value)


def describe_annotation(annotation: ast.expr, module: Path) -> str:
    """An annotation in words."""
    if isinstance(annotation, ast.BinOp):
        sides = (annotation.left, annotation.right)
        choices = [choice for choice in sides if ast.unparse(choice) != "Tensor"]  # never in YAML
        return " or ".join(describe_annotation(choice, module) for choice in choices)
    if isinstance(annotation, ast.Constant):
        return "null"
    if isinstance(annotation, ast.Name):
        words = {
            "int": "a whole number",
            "float": "a number",
            "str": "text",
            "bool": "true or false",
        }
        if annotation.id in RANGES:
            return RANGES[annotation.id].text
        if annotation.id in PARTS:
            return f"a part of the kind {PARTS[annotation.id].rpartition('.')[2]}"
        alias = None if annotation.id in PLAIN else _resolve_alias(annotation.id, module)
        return words.get(annotation.id) or (describe_annotation(*alias) if alias else annotation.id)
    if isinstance(annotation, ast.Subscript):
        inner = (
            annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        )
        if ast.unparse(annotation.value).endswith("Literal"):
            return ("one of " if len(inner) > 1 else "") + ", ".join(
                str(option.value) for option in inner if isinstance(option, ast.Constant)
            )
        if ast.unparse(annotation.value) == "list":
            return f"a list, each item {describe_annotation(inner[0], module)}"
        if ast.unparse(annotation.value) == "tuple" and not _has_any_length(inner):
            items = ", ".join(describe_annotation(item, module) for item in inner)
            return f"a list of {len(inner)}: {items}"
    return ast.unparse(annotation)
