"""What the config folders hold: groups, options, and the closed table of parts that they name.

The table is closed: dlrun's own parts are those that its conf folder names, beside the classes
of torch.nn, torch.optim and torchvision under their public names. Packages of the user's own
widen it, and only the command line or the Python caller can name them: no config, no stored
command and no argument of a part can, since naming a package runs its code.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from dlrun.config.annotations import PARTS
from dlrun.config.signatures import get_signature
from dlrun.core.errors import UserError, format_names
from dlrun.core.files import PACKAGE
from dlrun.core.renamed_parts import CURRENT_GROUPS, CURRENT_NAMES
from dlrun.core.stored_files import MAX_DEPTH

HIDDEN_GROUPS = ("hydra",)


def get_builtin_conf() -> Path:
    """The built-in conf folder: in the package of a wheel, <repository>/conf in a checkout."""
    candidates = (PACKAGE / "conf", PACKAGE.parents[1] / "conf")
    for folder in candidates:
        if folder.is_dir():
            return folder
    searched = " and ".join(map(str, candidates))
    raise UserError(f"the conf folder is missing; looked for {searched}: reinstall dlrun")


def list_groups(conf: Path) -> dict[str, list[str]]:
    """Group → its options in one conf folder, without Hydra's own group and empty ones."""
    names = sorted(entry.name for entry in os.scandir(conf) if entry.is_dir())
    options = {
        name: list_group_options(conf, name)
        for name in names
        # Not .ipynb_checkpoints, __pycache__ and the like.
        if name not in HIDDEN_GROUPS and name[0] not in "._"
    }
    return {name: choices for name, choices in options.items() if choices}


def list_group_options(conf: Path, group: str) -> list[str]:
    """The options of a group in one conf folder.

    Returns:
        Sorted file names without .yaml; files in a subfolder as 'folder/name'.
    """
    top = conf / group
    options = []
    for folder, _, files in os.walk(top):
        prefix = os.path.relpath(folder, top).replace(os.sep, "/") + "/"
        prefix = "" if prefix == "./" else prefix
        options += [
            prefix + name[:-5] for name in files if name.endswith(".yaml") and name[0] not in "._"
        ]
    return sorted(options)


def get_conf_folders(folders: Iterable[Path] = ()) -> list[Path]:
    """The user's conf folders, strongest first, then the built-in one."""
    return [*folders, get_builtin_conf()]


def list_all_groups(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Group → options over several conf folders."""
    merged: dict[str, set[str]] = {}
    for folder in folders:
        for group, choices in list_groups(folder).items() if folder.is_dir() else ():
            # The user's own folder may be called as the group was in earlier versions.
            merged.setdefault(CURRENT_GROUPS.get(group, group), set()).update(choices)
    return {group: sorted(merged[group]) for group in sorted(merged)}


def list_group_names(group: str) -> list[str]:
    """The folders of a group: today's name, then those of earlier versions."""
    return [group, *(old for old, name in CURRENT_GROUPS.items() if name == group)]


def find_option_file(folders: Iterable[Path], group: str, option: str) -> Path | None:
    """The file of an option: the first folder that has it wins."""
    names = list_group_names(group)
    files = (folder / name / f"{option}.yaml" for folder in folders for name in names)
    return next((file for file in files if file.is_file()), None)


def load_builtin_option(group: str, option: str) -> dict[str, Any]:
    """The values in the file of an option that comes with dlrun, without what it inherits.

    Raises:
        UserError: There is no such option.
    """
    path = get_builtin_conf() / group / f"{option}.yaml"
    if not path.is_file():
        available = format_names(list_group_options(get_builtin_conf(), group), option)
        raise UserError(f"no {group} '{option}'. There are: {available}")
    # A copy, since callers change it and the cache keeps the original.
    return {key: value for key, value in copy.deepcopy(_parsed(path)).items() if key != "defaults"}


@cache
def _parsed(path: Path) -> dict[str, Any]:
    """Cached: a workflow reads the same built-in file hundreds of times."""
    import yaml

    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def read_first_comment(file: Path) -> str:
    """The first comment of a YAML file that is meant for people."""
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            text = line.strip()
            if text.startswith("#") and "@package" not in text and text.strip("# "):
                return text.lstrip("# ")
            if text and not text.startswith("#"):
                break
    return ""


def is_for_root(file: Path) -> bool:
    """Whether the values of an option's file belong to the root of the config."""
    with file.open(encoding="utf-8") as stream:
        return stream.readline().rstrip() == "# @package _global_"


Plugins = tuple[str, ...]  # packages of the user's own
ANY_KIND = "any"  # inside a user's own part, and for Python callers
SINGLE_PART_GROUPS = (
    "data",
    "text",
    "model",
    "encoder",
    "objective",
    "loss",
    "optimizer",
    "scheduler",
    "protocol",
)
SETTINGS_GROUPS = ("engine", "stages", "sweep", "workflow")
NAMED_PART_GROUPS = ("metric", "callback", "augment")  # any number of each, by name
PER_TARGET_KINDS = {"losses": "loss", "metrics": "metric"}  # of one target
INNER_KINDS = ("objective.judge", "objective.world")  # in another part's file
PART_KINDS = (*SINGLE_PART_GROUPS, *SETTINGS_GROUPS, *NAMED_PART_GROUPS, *INNER_KINDS)

LIBRARY_MODULES = {
    "model": ("torch.nn", "torchvision.models"),
    "loss": ("torch.nn",),
    "optimizer": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler",),
    "augment": ("torchvision.transforms.v2",),
}
# A layer of torch.nn may hold other layers, and a transform other transforms.
CONTAINER_KINDS = ("model", "augment")
# Module → the class that what it exports must derive from: modules also export helpers.
LIBRARY_CLASSES = {
    "torch.nn": "torch.nn.Module",
    "torch.optim": "torch.optim.Optimizer",
    "torch.optim.lr_scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "torchvision.transforms.v2": "torchvision.transforms.v2.Transform",
}
# Never plugins: with them the whole standard library could be called from a config.
RESERVED_PACKAGES = (
    *sys.stdlib_module_names,
    "dlrun",
    "hydra_plugins",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "sklearn",
)


def resolve_target(target: Any) -> str:
    """Today's full name for a `_target_`."""
    # Resolved before the check, so that an old name opens nothing that its new one does not.
    return CURRENT_NAMES.get(target, target) if isinstance(target, str) else truncate_value(target)


def check_target(target: str, kind: str, plugins: Iterable[str] = ()) -> None:
    """Refuse a target that is no part of this kind. Nothing is imported.

    Args:
        target: Full name.
        kind: The kind that belongs there.
        plugins: The user's packages.

    Raises:
        UserError: With the nearest allowed names.
    """
    # Before anything is looked up: a target may be any text of a stranger's file.
    if not re.fullmatch(r"\w+(\.\w+)+", target):
        raise UserError(f"_target_ {truncate_value(target)} is no full name of a class or function")
    if is_part(target, kind, plugins):
        return
    actual_kind = next((name for name in PART_KINDS if _is_allowed_target(target, name)), None)
    if actual_kind:
        reason = f"it is {_format_kind(actual_kind)}, not {_format_kind(kind)}"
    else:
        reason = f"it is not {_format_kind(kind)} that dlrun knows"
    hint = _suggest_targets(target, kind) + _suggest_plugin(target)
    raise UserError(f"_target_ '{target}' is not allowed: {reason}{hint}")


def is_part(target: str, kind: str, plugins: Iterable[str] = ()) -> bool:
    """Whether a target is a part of this kind, or of a package that the user has named."""
    return is_plugin(target, plugins) or _is_allowed_target(target, kind)


def is_plugin(target: str, plugins: Iterable[str]) -> bool:
    """Whether a target lies in a package that the user has named."""
    return any(target.startswith(package + ".") for package in plugins)


def get_argument_kind(target: str, kind: str, plugins: Iterable[str], key: str) -> str | None:
    """The kind of part that an argument of a part takes.

    Args:
        target: Full name of the part.
        kind: Its kind.
        plugins: The user's packages.
        key: The argument.

    Returns:
        None where a number, a text or the like belongs.
    """
    if is_plugin(target, plugins):
        return ANY_KIND
    # Arguments of other libraries are not annotated for us.
    if not target.startswith("dlrun."):
        return kind if kind in (*CONTAINER_KINDS, ANY_KIND) else None
    signature = get_signature(target)
    argument = signature.arguments.get(key) if signature else None
    if argument is None:
        return None
    return next(filter(None, map(PARTS.get, argument.get_type_names)), None)


def find_part_errors(config: Mapping[str, Any], plugins: Iterable[str] = ()) -> Iterator[str]:
    """Faults of the parts of a config: unknown ones, or of another kind. Nothing is imported."""
    for group, node in config.items():
        if group in NAMED_PART_GROUPS or group in PER_TARGET_KINDS:
            kind: str | None = PER_TARGET_KINDS.get(group, group)
        else:
            kind = group if group in (*SINGLE_PART_GROUPS, *SETTINGS_GROUPS) else None
        yield from find_nested_part_errors(node, group, kind, plugins)


def find_nested_part_errors(
    value: Any, location: str, kind: str | None, plugins: Iterable[str] = (), level: int = 0
) -> Iterator[str]:
    """Faults of the parts in one value.

    Args:
        value: A node, or a mapping or list of nodes.
        location: Its dotted key, for messages.
        kind: What belongs there; None: no part at all.
        plugins: The user's packages.
        level: Depth inside the config.
    """
    # The depth: a saved config of foreign origin may refer to itself.
    if not isinstance(value, Mapping | list | tuple) or level > MAX_DEPTH:
        return
    inside = lambda key: kind  # noqa: E731
    if isinstance(value, Mapping) and "_target_" in value:
        try:
            target = resolve_target(value["_target_"])
            if kind is None:
                text = truncate_value(target)
                raise UserError(f"no part belongs there, and it holds one: _target_ {text}")
            check_target(target, kind, plugins)
        except UserError as error:
            yield f"{location}: {error}"
            return
        inside = lambda key: get_argument_kind(target, kind, plugins, key)  # noqa: E731
    for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from find_nested_part_errors(
            inner, f"{location}.{key}", inside(key), plugins, level + 1
        )


def truncate_value(value: Any, most: int = 80) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} letters)"


def check_plugin_names(names: Iterable[str]) -> tuple[str, ...]:
    """The packages of `plugins=[…]`.

    Raises:
        UserError: One is no package of the user's own.
    """
    packages = tuple(name.strip() for name in names if name.strip())
    for name in packages:
        if (
            not re.fullmatch(r"[^\W\d]\w*(\.\w+)*", name)
            or name.partition(".")[0] in RESERVED_PACKAGES
        ):
            raise UserError(
                f"plugins=[{name}]: it names packages of your own, and their code is run; "
                f"{name} is none"
            )
    return packages


def _is_allowed_target(target: str, kind: str) -> bool:
    if kind == ANY_KIND:
        return any(_is_allowed_target(target, part_kind) for part_kind in PART_KINDS)
    module, _, name = target.rpartition(".")
    if module in LIBRARY_MODULES.get(kind, ()):
        # Functions in lower case are models in torchvision, and helpers in torch.nn.
        return not name.startswith("_") and (module == "torchvision.models" or name[0].isupper())
    return target in list_builtin_parts(kind, target)


@lru_cache(maxsize=512)
def list_builtin_parts(kind: str, holding: str = "") -> frozenset[str]:
    """The full names of dlrun's parts of a kind, as the built-in conf folder has them.

    Args:
        kind: The kind.
        holding: Only files that contain this text are parsed.
    """
    import yaml

    # The loader in C is several times as fast, and not in every build of PyYAML.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    group, _, inner = kind.partition(".")
    nodes = [yaml.load(text, Loader=loader) for text in _read_part_files(group) if holding in text]
    return frozenset(target for node in nodes for target in _iter_targets(node, group, inner))


@lru_cache(maxsize=64)
def _read_part_files(group: str) -> list[str]:
    """The texts of a group's files that name parts."""
    texts = (
        path.read_text(encoding="utf-8")
        for path in sorted((get_builtin_conf() / group).glob("*.yaml"))
    )
    return [text for text in texts if "_target_" in text]


def _iter_targets(node: Any, group: str, inner: str) -> Iterator[str]:
    """The full names in one file: its part's, those under it, or the one inside it."""
    if inner:
        nodes = [node.get(inner)]
    else:
        nodes = list(node.values()) if group in NAMED_PART_GROUPS else [node]
    for part_node in nodes:
        if isinstance(part_node, dict) and "_target_" in part_node:
            yield part_node["_target_"]


def _suggest_targets(target: str, kind: str) -> str:
    if kind == ANY_KIND or kind in SETTINGS_GROUPS:
        return ""
    targets = sorted(list_builtin_parts(kind))
    name = target.rpartition(".")[2]
    close = difflib.get_close_matches(
        name, [candidate.rpartition(".")[2] for candidate in targets], 1
    )
    guess = next(
        (candidate for candidate in targets if close and candidate.endswith(f".{close[0]}")), ""
    )
    choose = f"; dlrun ls {kind} lists them" if "." not in kind else ""
    return f"; did you mean {guess}?" if guess and guess != target else choose


def _suggest_plugin(target: str) -> str:
    package = target.partition(".")[0]
    if package in RESERVED_PACKAGES:
        return ""
    return (
        "; to use a package of your own, whose code is then run, "
        f"name it on the command line: plugins=[{package}]"
    )


def _format_kind(kind: str | None) -> str:
    name = str(kind).rpartition(".")[2]
    if kind in ("data", "text", "augment", "engine", "stages", "sweep", "workflow", ANY_KIND):
        return f"a part for '{name}'" if kind != ANY_KIND else "a part"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
