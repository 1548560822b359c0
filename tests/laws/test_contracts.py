"""Nobody asks an objective, a model or a callback whether it has a hook: the contract has them all."""

from __future__ import annotations

import ast
from pathlib import Path

import dlrun
from dlrun.core.objective import Objective
from dlrun.models.model import Model
from dlrun.training.callbacks import Callback

SOURCE = Path(dlrun.__file__).parent
HOOKS = {
    name
    for contract in (Objective, Model, Callback)
    for name in {*vars(contract), *contract.__annotations__}
    if not name.startswith("_")
} | {"model", "augment"}
# What is asked although its name is that of a hook, and why.
EXCEPTIONS = {
    ("training/step_runner.py", "steady"): "any torch module inside a model, of whatever origin",
    ("models/multi_input.py", "note"): "an encoder, which is a part of a model",
    ("objectives/supervised.py", "steady"): "a loss, which may be any function",
    ("training/custom_callback.py", "begin"): "a class of a plugin, before it is wrapped",
}


def test_no_hook_of_a_contract_is_looked_for():
    asked, calls = {}, 0
    for path in sorted(SOURCE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            if call.func.id not in ("hasattr", "getattr", "setattr"):
                continue
            calls += 1
            if isinstance(call.args[1], ast.Constant) and call.args[1].value in HOOKS:
                asked[path.relative_to(SOURCE).as_posix(), call.args[1].value] = call.lineno
    assert calls > 30 and {"steps", "penalty", "begin", "note"} <= HOOKS
    assert asked.keys() == EXCEPTIONS.keys()
