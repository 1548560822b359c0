"""The rooms of the house in their order: imports run down, lazy and type-only ones included, and in no circle."""

import ast
from collections.abc import Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import dlrun

SRC = Path(dlrun.__file__).parent
ROOMS = (  # from the top to the bottom; docs/ARCHITECTURE.md says what each is for
    *("cli", "launch", "workflow", "experiment", "interpret", "objectives", "training", "report"),
    *("models", "evaluation", "data", "sweeps", "config", "core"),
)
LOOSE = {"__init__.py", "__main__.py"}
FEWEST = {  # modules of each room: fewer have been found where a room was not looked into
    "cli": 25, "launch": 10, "workflow": 7, "experiment": 15, "interpret": 8, "objectives": 15, "training": 18,
    "report": 21, "models": 28, "evaluation": 14, "data": 70, "sweeps": 7, "config": 14, "core": 13,
}  # fmt: skip


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(("dlrun", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


def room_of(module: str) -> str:
    """The room that a module lies in; '' at the top."""
    return module.split(".")[1] if "." in module else ""


@lru_cache
def modules() -> dict[str, Path]:
    """Dotted name → file of every module."""
    return {name_of(path): path for path in SRC.rglob("*.py")}


def imports(text: str, known: set[str]) -> Iterator[str]:
    """The modules of dlrun that a text imports, wherever in it and for whatever."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import that is relative"
            if (node.module or "").split(".")[0] == "dlrun":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in known else str(node.module)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "dlrun")


@lru_cache
def graph() -> dict[str, set[str]]:
    """Module → the modules that it imports."""
    known = set(modules())
    return {
        name: set(imports(path.read_text(encoding="utf-8"), known)) - {"dlrun"}
        for name, path in modules().items()
    }


def faults(edges: dict[str, set[str]]) -> list[str]:
    """Imports from a room to one above it."""
    rank = {room: number for number, room in enumerate(ROOMS)}
    return [
        f"{name} imports {other}"
        for name, others in edges.items()
        for other in others
        if room_of(name) in rank and rank[room_of(other)] < rank[room_of(name)]
    ]


def test_nothing_is_loose_and_every_room_is_known():
    assert {path.name for path in SRC.glob("*.py")} == LOOSE
    assert {path.relative_to(SRC).parts[0] for path in SRC.rglob("*/*.py")} == set(ROOMS)


def test_every_module_is_looked_at():
    counts = {room: sum(room_of(name) == room for name in modules()) for room in ROOMS}
    assert sum(counts.values()) + len({"dlrun", "dlrun.__main__"}) == len(modules())
    assert not {room: count for room, count in counts.items() if count < FEWEST[room]}
    assert sum(map(len, graph().values())) > 1000


def test_imports_run_down():
    assert not faults(graph())


def test_imports_run_in_no_circle():
    try:
        order = list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")
    assert len(order) >= len(modules()) - 1


@pytest.mark.parametrize(
    "text",
    ["from dlrun.cli import main", "def f():\n    from dlrun.cli.main import main", "import dlrun.cli.main",
     "if TYPE_CHECKING:\n    from dlrun.cli.main import main"],
)  # fmt: skip
def test_an_import_upward_is_found_wherever_it_stands(text):
    found = {"dlrun.core.errors": set(imports(text, set(modules())))}
    assert faults(found)


def test_every_package_says_what_it_is_for():
    silent = [
        name
        for name, path in modules().items()
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert not silent


def test_objectives_and_the_trainer_do_not_know_each_other():
    """A problem is its losses; the loop knows none."""
    found = {
        other
        for name, others in graph().items()
        for other in others
        if room_of(name) == "objectives" and room_of(other) == "training"
    }
    assert not found
    assert not [
        name
        for name, others in graph().items()
        if room_of(name) == "training" and "objectives" in map(room_of, others)
    ]


def test_only_config_and_launchers_know_hydra():
    knows = {
        name
        for name, path in modules().items()
        if "import hydra" in (t := path.read_text("utf-8")) or "from hydra" in t
    }
    assert knows
    assert {room_of(name) for name in knows} <= {"config", "launch", "sweeps", "cli"}
