"""What the trainer never names, and what no test does."""

import ast
from pathlib import Path

from dlrun.training import meter, optimization, trainer


def test_the_engine_names_no_problem():
    words = (
        *("supervised", "binary", "category", "classif", "regress", "baseline"),
        *(
            "vae",
            "variational",
            "autoencod",
            "latent",
            "gan",
            "generator",
            "discriminator",
            "critic",
            "adversar",
        ),
        *(
            "language",
            "token",
            "prompt",
            "temperature",
            "dream",
            "octave",
            "style",
            "canvas",
            "policy",
            "reward",
        ),
    )
    for module in (trainer, optimization, meter):
        text = Path(module.__file__).read_text().lower()
        assert not [
            word for word in words if word in text.replace("organ", "").replace("began", "")
        ], module


CLOCKS = {
    "monotonic",
    "perf_counter",
    "process_time",
    "thread_time",
    "getrusage",
    "wait4",
    "timeit",
    "tracemalloc",
}


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
    tests = sorted(Path(__file__).parents[1].rglob("*.py"))
    assert len(tests) > 60 and not [place for path in tests for place in clocks(path)]


def test_a_test_that_looks_at_a_clock_is_found(tmp_path):
    for line in (
        "time.sleep(1)",
        "start = time.time()",
        "perf_counter()",
        "resource.getrusage(0)",
        "run(timeout=60)",
    ):
        (tmp_path / "test_some.py").write_text(line)
        assert list(clocks(tmp_path / "test_some.py")), line
    (tmp_path / "test_some.py").write_text(
        "run(timeout=LIMIT)\nlock.acquire(timeout=0)\nhistory.time()\n"
    )
    assert not list(clocks(tmp_path / "test_some.py"))
