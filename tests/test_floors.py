"""Imports point down: a module imports only from lower floors, or from its own folder."""

import ast
from pathlib import Path

import dlrun

SRC = Path(dlrun.__file__).parent
FLOORS = [
    {
        *("errors", "ranges", "types", "build", "parts", "signatures", "problems", "places", "figures", "whole"),
        *("renamed_parts", "columns", "outlook", "alike", "stopping", "contracts", "as_json", "stored", "at_work"),
    },
    {
        *(
            "tables",
            "pixels",
            "runtime",
            "rundir",
            "changed",
            "settings",
            "events",
            "bootstrap",
            "scores",
            "predictions",
            "curve",
        ),
        *(
            "downloads",
            "diagnosis",
            "checkpoint",
            "sequences",
            "calls",
            "artifacts",
            "processes",
            "shares",
            "sharded",
            "stream",
            "abreast",
            "compiled",
            "fused",
        ),
    },
    {"data", "models", "losses", "metrics", "optim", "flat", "protocols", "augment"},
    {
        "objectives",
        "engine",
        "meter",
        "meters",
        "learner",
        "callbacks",
        "gallery",
        "ledger",
        "ahead",
        "foretold",
        "board",
        "making",
        "tape",
        "replay",
        "united",
        "pairs",
    },
    {
        *("assembly", "goals", "own", "experiment", "workflow", "inspect", "inference", "inference_folds"),
        *("forecasts", "stack", "lockstep", "together", "baseline", "notes"),
    },
    {"report"},
    {"cli", "commands", "sweeps", "__main__"},
]
FAMILIES = [
    {"engine", "meter", "meters", "learner", "callbacks", "board", "making", "tape", "replay", "united", "pairs"},
    {
        *("assembly", "goals", "own", "experiment", "workflow", "inference", "inference_folds", "forecasts", "stack"),
        *("lockstep", "together", "baseline", "notes"),
    },
    {"cli", "commands", "sweeps", "__main__"},
]


def floor(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dlrun":
            parts = node.module.split(".")[1:]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]


def modules():
    found = [path for path in SRC.rglob("*.py") if path.name != "__init__.py" or path.parent != SRC]
    assert len(found) > 40
    return found


def test_imports_point_down():
    wrong, seen = [], 0
    for path in modules():
        home = path.relative_to(SRC).with_suffix("").parts[0]
        for name in imports(path):
            if name == "__version__" or name == home:
                continue
            seen += 1
            family = floor(home) <= 1 or any({home, name} <= names for names in FAMILIES)
            if floor(name) > floor(home) or (floor(name) == floor(home) and not family):
                wrong.append(f"{path.relative_to(SRC)} imports {name}")
    assert seen > 100
    assert not wrong


def test_engine_and_objectives_never_meet():
    engine = [SRC / f"{name}.py" for name in FAMILIES[0]]
    assert not [path for path in engine if "objectives" in imports(path)]
    objectives = list((SRC / "objectives").glob("*.py"))
    assert len(objectives) >= 2
    assert not [path for path in objectives if FAMILIES[0] & set(imports(path))]


def test_data_models_and_protocols_meet_only_through_types():
    siblings = {"data", "models", "protocols"}
    for home in siblings:
        for path in (SRC / home).rglob("*.py"):
            assert not (siblings - {home}) & set(imports(path)), path


def test_only_the_door_knows_hydra():
    knows = [
        path.relative_to(SRC).as_posix()
        for path in modules()
        if "import hydra" in (t := path.read_text()) or "from hydra" in t
    ]
    assert knows and all(name.startswith("commands/") for name in knows), knows


def test_the_engine_names_no_problem():
    words = (
        *("supervised", "binary", "category", "classif", "regress", "baseline"),
        *("vae", "variational", "autoencod", "latent", "gan", "generator", "discriminator", "critic", "adversar"),
        *("language", "token", "prompt", "temperature", "dream", "octave", "style", "canvas", "policy", "reward"),
    )
    for name in ("engine", "learner", "meter"):
        text = (SRC / f"{name}.py").read_text().lower()
        assert not [word for word in words if word in text.replace("organ", "").replace("began", "")], name


CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time", "getrusage", "wait4", "timeit", "tracemalloc"}


def clocks(path):
    """Where a test looks at a clock or a meter, sleeps, or sets a limit of its own."""
    for node in ast.walk(ast.parse(path.read_text())):
        called = node.func if isinstance(node, ast.Call) else None
        name = getattr(called, "attr", getattr(called, "id", ""))
        if name in CLOCKS | {"sleep"} or (
            name == "time" and getattr(getattr(called, "value", None), "id", "") == "time"
        ):
            yield f"{path.name}:{node.lineno} {name}"
        for word in node.keywords if called else ():
            if word.arg == "timeout" and isinstance(word.value, ast.Constant) and word.value.value:
                yield f"{path.name}:{node.lineno} timeout={word.value.value}"


def test_no_test_asserts_seconds_or_waits_for_them():
    """Times are bars of scripts/bench; what a test waits for is an event, with the one limit of tests/beside.py."""
    tests = sorted(Path(__file__).parent.glob("*.py"))
    assert len(tests) > 60 and not [place for path in tests for place in clocks(path)]


def test_a_test_that_looks_at_a_clock_is_found(tmp_path):
    for line in ("time.sleep(1)", "start = time.time()", "perf_counter()", "resource.getrusage(0)", "run(timeout=60)"):
        (tmp_path / "test_some.py").write_text(line)
        assert list(clocks(tmp_path / "test_some.py")), line
    (tmp_path / "test_some.py").write_text("run(timeout=LIMIT)\nlock.acquire(timeout=0)\nhistory.time()\n")
    assert not list(clocks(tmp_path / "test_some.py"))
