"""Nobody sets an attribute of an experiment or its builder from outside: they take arguments."""

import ast

import pytest

from dlrun.core.files import PACKAGE

# Names under which an experiment, or what builds its fits, is known.
OWNERS = {"experiment", "experiments", "builder"}
# The builder's own copies of itself, with another plan or other settings.
EXCEPTIONS = {"experiment/builder.py"}


def find_overwritten(source: str) -> list[str]:
    """The assignments to an attribute of an experiment or a builder, as text."""
    overwritten = []
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            continue
        for target in targets:
            for part in ast.walk(target):
                is_set = isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
                if is_set and OWNERS & _names(part.value):
                    overwritten.append(ast.unparse(part))
    return overwritten


def _names(node: ast.AST) -> set[str]:
    parts = list(ast.walk(node))
    return {part.id for part in parts if isinstance(part, ast.Name)} | {
        part.attr for part in parts if isinstance(part, ast.Attribute)
    }


@pytest.mark.parametrize(
    ("source", "overwritten"),
    [
        ("self.experiment.builder.plan = plan", ["self.experiment.builder.plan"]),
        ("experiments[0].latest_fit = fit", ["experiments[0].latest_fit"]),
        ("a, builder.config = 1, {}", ["builder.config"]),
        ("self.experiment = Experiment(config, folder); self.builder = builder", []),
    ],
)
def test_an_overwritten_attribute_is_seen(source, overwritten):
    assert find_overwritten(source) == overwritten


def test_no_module_overwrites_the_inside_of_an_experiment():
    modules = {str(module.relative_to(PACKAGE)): module for module in PACKAGE.rglob("*.py")}
    assert len(modules) > 100
    overwritten = {
        (name, text)
        for name, module in modules.items()
        if name not in EXCEPTIONS
        for text in find_overwritten(module.read_text(encoding="utf-8"))
    }
    assert not overwritten
