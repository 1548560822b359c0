"""Two runs in one process see nothing of each other: what modules hold beyond a run is listed, each with its reason."""

import ast
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import dlrun
from dlrun.cli.main import main
from dlrun.config.compose import compose_config
from dlrun.config.override_errors import InvalidOverride
from dlrun.config.signatures import parse_source_file
from dlrun.core import files, stored_files
from dlrun.core.errors import FileWriteError
from dlrun.core.run_reader import _held, lock_folder
from dlrun.data import cache
from dlrun.data.images.archives import read_bytes

SRC = Path(dlrun.__file__).parent
OWN_SOURCE = "of dlrun's own files, which do not change while a process runs"
BY_FILE = "a message once a file: another run has other files"
# Module-level names that are written to, functions that remember, and values of the context.
HARMLESS = {
    "read_metric_kinds": OWN_SOURCE,
    "current": "set anew before each composition, see the test below",
    "registered": "one class, registered with Hydra once",
    "_parsed": OWN_SOURCE,
    "_advice_given": "a line on stderr once a process, which no run and no file of one sees",
    "_compile_keys": "a function of its argument alone",
    "_current_plugins": "put back when the part is built",
    "_read_part_files": OWN_SOURCE,
    "list_builtin_parts": OWN_SOURCE,
    "_get_cached_signature": OWN_SOURCE,
    "_parse_source_file": "time and size of the file are in the key, see below",
    "_get_dlrun_commit": OWN_SOURCE,
    "_reported_failures": BY_FILE,
    "_held": "empty outside the blocks, see the test below",
    "_warned_files": BY_FILE,
    "_held_datasets": "None outside a sweep's session, see the test below",
    "_load_sklearn": "files of scikit-learn; copied before use",
    "_open_archive": "the file's time is in the key, see the test below",
    "METRICS": "filled while the module is imported, and never after that",
    "get_cached_environment": "forgotten when a sweep begins",
    "build_opaque_linear": "an operator that torch takes once a process",
    "is_onednn_faster": "of the processor",
    "_needs_weights": "put back at the end of the block",
    "import_optuna": "a package",
    "COMPILED_FUNCTIONS": "the key is all that machine code depends on",
}
CHANGING = {
    *("append", "extend", "insert", "appendleft", "remove", "pop", "popleft", "clear", "add"),
    *("discard", "update", "setdefault", "popitem", "move_to_end", "sort", "reverse"),
}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def globals_of(tree: ast.Module) -> set[str]:
    """The variables of a module."""
    targets = [
        target
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return {
        name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
    }


def own_names(function: ast.AST) -> set[str]:
    """The arguments and local variables of a function, and of those inside it."""
    declared = {
        name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names
    }
    stored = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    arguments = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    return (stored | arguments) - declared


def owners(tree: ast.Module, module: str) -> dict[str, str]:
    """Name in this file → 'file variable' that it means, or 'file' for a module of dlrun."""
    found = {name: f"{module} {name}" for name in globals_of(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dlrun"):
            inside = (node.module or "").removeprefix("dlrun").strip(".").replace(".", "/")
            for alias in node.names:
                file = f"{inside}/{alias.name}.py".lstrip("/")
                is_module = (SRC / file).is_file()
                found[alias.asname or alias.name] = (
                    file if is_module else f"{inside}.py {alias.name}"
                )
    return found


def changed(node: ast.AST) -> Iterator[ast.expr]:
    """What a statement or call changes: `x` of x.append(1), x[0] = 1, x.y = 1, del x[0], x |= y."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in CHANGING:
            yield node.func.value
    elif isinstance(node, ast.Assign | ast.Delete):
        yield from node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        yield node.target


def variable(target: ast.expr, meaning: dict[str, str], local: set[str]) -> str:
    """The variable of a module that is changed there; '' where it is another thing."""
    path = [target]
    while isinstance(path[-1], ast.Subscript | ast.Attribute | ast.Starred):
        path.append(path[-1].value)
    root = path[-1]
    if not isinstance(root, ast.Name) or root.id in local:
        return ""
    meant = meaning.get(root.id, "")
    if meant.endswith(".py"):  # module.NAME
        inner = path[-2] if len(path) > 1 else None
        return f"{meant} {inner.attr}" if isinstance(inner, ast.Attribute) else ""
    return meant


def held_by_modules(module: str, text: str) -> Iterator[str]:
    """'file name' of all that a module holds beyond a call, as far as its own text shows."""
    tree = ast.parse(text)
    meaning = owners(tree, module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield from (f"{module} {name}" for name in node.names)
        if isinstance(node, FUNCTIONS):
            local = own_names(node)
            for inner in ast.walk(node):
                yield from filter(None, (variable(t, meaning, local) for t in changed(inner)))
        for decorator in getattr(node, "decorator_list", ()):
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(called).rpartition(".")[2] in ("cache", "lru_cache"):
                yield f"{module} {getattr(node, 'name', '')}"
    for node in tree.body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("ContextVar"):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            yield f"{module} {target.id}"


def test_all_that_modules_hold_is_listed_with_its_reason():
    paths = sorted(SRC.rglob("*.py"))
    assert len(paths) > 200
    places = {
        place
        for path in paths
        for place in held_by_modules(path.relative_to(SRC).as_posix(), path.read_text("utf-8"))
    }
    # By name alone, so that a file may be moved; each stands for one thing.
    found = {place.rpartition(" ")[2] for place in places}
    assert len(found) == len(places), sorted(places)
    assert found - set(HARMLESS) == set(), "held beyond a run, and no reason is given"
    assert set(HARMLESS) - found == set(), "no longer there"


@pytest.mark.parametrize(
    "text",
    ["X = None\ndef f():\n    global X\n    X = 1", "X = []\ndef f():\n    X.append(1)",
     "X = {}\ndef f(x):\n    X[x] = 1", "X = set()\nf = lambda x: X.add(x)",
     "X: dict = {}\ndef f():\n    def g():\n        del X[0]", "X = object()\ndef f():\n    X.y = 1",
     "@cache\ndef X(): pass", "@functools.lru_cache(maxsize=1)\ndef X(): pass",
     "X: ContextVar[int] = ContextVar('x')", "X = [0]\ndef f():\n    X[0] += 1"],
)  # fmt: skip
def test_a_thing_that_is_held_is_found(text):
    assert set(held_by_modules("a.py", text)) == {"a.py X"}


@pytest.mark.parametrize(
    "text",
    ["X = []\ndef f(X):\n    X.append(1)", "X = {}\ndef f():\n    X = {}\n    X[0] = 1",
     "X = {}\ndef f():\n    return {**X}", "X = {1: 2}\nX |= {3: 4}"],
)  # fmt: skip
def test_a_thing_of_ones_own_is_not(text):
    assert not list(held_by_modules("a.py", text))


def test_what_another_module_holds_is_found():
    texts = (
        "from dlrun.core import files\ndef f():\n    files.X.add(1)",
        "from dlrun.core.files import X\ndef f():\n    X.add(1)",
        "from dlrun.core import files\ndef f():\n    files.X = 1",
    )
    assert [list(held_by_modules("a.py", text)) for text in texts] == [["core/files.py X"]] * 3


def test_a_composition_sees_no_folder_of_an_earlier_one(tmp_path):
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset/mine.yaml").write_text("# @package _global_\nseed: 7\n")
    assert compose_config(["task=wine", "preset=mine"], [tmp_path])["seed"] == 7
    with pytest.raises(InvalidOverride, match="mine"):
        compose_config(["task=wine", "preset=mine"], [])


def test_a_source_or_archive_that_has_changed_is_read_anew(tmp_path):
    source, archive = tmp_path / "own.py", tmp_path / "images.zip"
    for number in (1, 2):
        source.write_text(f"x = {number}\n")
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr("a", str(number))
        for path in (source, archive):
            os.utime(path, (number, number))
        assert ast.unparse(parse_source_file(source)) == f"x = {number}"
        assert read_bytes(archive, "a") == str(number).encode()


def test_locks_and_data_are_held_inside_their_blocks_alone(tmp_path):
    with lock_folder(tmp_path):
        assert tmp_path.resolve() in _held
    assert tmp_path.resolve() not in _held
    assert cache._held_datasets is None


def test_a_failure_is_told_of_every_file(tmp_path, caplog):
    for name in ("one", "two", "one"):
        with files.optional_write("the plot", tmp_path / name):
            raise FileWriteError("no room")
    assert caplog.text.count("the plot left out") == 2


def outcome(folder: Path, *words: str) -> list[object]:
    """Everything that a run has written down of its training and its scores, without times."""
    assert main([*words, f"output={folder}"]) == 0
    (run,) = folder.glob("*/*/*")
    history = stored_files.load_json_lines(run / "history.jsonl")
    results = stored_files.load_json_lines(run / "results.jsonl")
    return [history, [(line["scores"], line["baseline"], line["note"]) for line in results]]


def test_a_run_between_two_others_changes_nothing(tmp_path):
    words = ("task=digits", "preset=smoke", "engine.device=cpu", "model.dropout=0.3")
    before = outcome(tmp_path / "before", *words)
    other = outcome(
        tmp_path / "between",
        *(*words[:3], "seed=5", "model.units=[9]", "model.dropout=0", "engine.precision=bf16"),
        *("engine.deterministic=true", "engine.accumulate=2", "engine.ema=0.5", "optimizer=sgd"),
        *("protocol=kfold", "metric=[accuracy,f1]", "data.test=0.3"),
    )
    assert outcome(tmp_path / "after", *words) == before != other
