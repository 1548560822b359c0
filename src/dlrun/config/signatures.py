"""Reads the arguments of classes and functions from their source.

So a config is checked without importing torch or running the user's code.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

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


def is_custom(target: Any) -> bool:
    """Whether a dotted name is not dlrun's: the user's, or another library's."""
    return isinstance(target, str) and not target.startswith("dlrun.")


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
    # From the source, not from imported objects: a config error is reported without torch.
    symbol = find_symbol(target)
    if symbol is None:
        return None
    node, module = symbol
    if isinstance(node, ast.ClassDef):
        # A dataclass has no __init__ in its source: its fields are the arguments.
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            return _read_dataclass(node, module)
        init = [
            statement
            for statement in node.body
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__"
        ]
        # One more for self.
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
    if not is_custom(target):
        return get_signature(target, context)
    return _get_custom_arguments(target, kind, context)


def _get_custom_arguments(target: str, kind: str, context: int) -> Signature | None:
    """The settings of a part of the user's own: what dlrun passes is known by name and type."""
    # Most runs have no such part.
    from dlrun.config.custom_contract import CONTEXT_ARGUMENTS, find_passed_arguments

    if kind not in CONTEXT_ARGUMENTS:
        return get_signature(target, context)
    symbol, signature = find_symbol(target), get_signature(target)
    if symbol is None or signature is None:
        return None
    node, module = symbol
    named = [
        (name, ast.unparse(argument.annotation) if argument.annotation else "", argument.ordered)
        for name, argument in signature.arguments.items()
    ]
    passed = find_passed_arguments(kind, named, isinstance(node, ast.FunctionDef))
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
    # Python keeps defaults of the last arguments only.
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
        # Cached: one config asks for the same file again and again.
        body = parse_source_file(path).body
    except (SyntaxError, ValueError):  # reported where the file is imported
        return None
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node, path
        # A package may export in __init__.py what a module of it defines.
        if isinstance(node, ast.ImportFrom) and (exported := _find_alias(node, name)):
            package = module_name if path.name == "__init__.py" else module_name.rpartition(".")[0]
            return find_symbol(f"{_get_absolute_module(node, package)}.{exported}", depth - 1)
    return None


def _find_alias(node: ast.ImportFrom, name: str) -> str:
    """What is imported under this name; "" where nothing is."""
    return next((alias.name for alias in node.names if (alias.asname or alias.name) == name), "")


def _get_absolute_module(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    # One dot is the package itself, each further one a parent.
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


def parse_source_file(path: Path) -> ast.Module:
    """The syntax tree of a file as it is now; nothing may be written into it."""
    stat = path.stat()
    return _parse_source_file(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _parse_source_file(path: Path, modified: int, size: int) -> ast.Module:
    # Time and size are part of the cache key: a user's own file changes between two runs.
    return ast.parse(path.read_text(encoding="utf-8"))
