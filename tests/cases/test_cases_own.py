"""Parts of the user's own: what a newcomer writes works at the first try, or is answered with what to write."""

from __future__ import annotations

import json
import re
import shlex
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from dlrun.cli.main import main

ROOT = Path(__file__).parents[2]
QUICK = ("engine.epochs=1", "engine.device=cpu", "engine.batch_size=64")
pytestmark = pytest.mark.usefixtures("elsewhere")

PACKAGE = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from dlrun.core.dataset import Dataset as Raw


class Net(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.first, self.last = nn.Linear(64, hidden), nn.Linear(hidden, 10)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())


class Keyword(Net):
    def __init__(self, *, hidden):
        super().__init__(hidden)


class WithSpec(Net):
    def __init__(self, spec, hidden=16):
        assert list(spec.targets) == ["digit"]
        super().__init__(hidden)


class Annotated(Net):
    def __init__(self, hidden: int = 16, *, about: "Spec"):
        assert list(about.inputs) == ["image"]
        super().__init__(hidden)


class All(Net):
    def forward(self, batch):
        assert list(batch) == ["image"]
        return {"digit": super().forward(batch["image"])}


class Reads(Net):
    def forward(self, batch):
        return batch["digit"]


class Narrow(Net):
    def forward(self, x):
        return self.first(x.flatten(1))


class Pair(Net):
    def forward(self, x):
        return super().forward(x), x


class Clash(Net):
    def forward(self, x):
        return self.first(x)


class Sigmoid(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(30, 1)

    def forward(self, x):
        return torch.sigmoid(self.layer(x)).squeeze(-1)


class Softmax(Net):
    def forward(self, x):
        return super().forward(x).softmax(-1)


class NoSuper(nn.Module):
    def __init__(self):
        self.layer = nn.Linear(64, 10)


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(64, 10)]

    def forward(self, x):
        return self.layers[0](x.flatten(1))


class TwoInputs(Net):
    def forward(self, x, y):
        return x


def sequential():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def nothing():
    pass


def squeezed():
    return nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))


def points(rows=80):
    x = torch.rand(rows, 2)
    return x, (x.sum(1) > 1).long()


def names():
    x, y = points()
    return x.numpy(), np.array(["no", "yes"])[y]


def gone():
    raise FileNotFoundError("photos/1.png")


class Gone(Dataset):
    def __len__(self):
        return 9

    def __getitem__(self, row):
        raise FileNotFoundError("photos/1.png")


def tensors():
    x, y = points()
    test = dict(zip("xy", points(40)))
    return Raw(dev={"x": x, "y": y}, inputs={"x": "number"}, targets={"y": "category"}, test=lambda: test)


def dataset():
    return TensorDataset(*points()), TensorDataset(*points(40))


class Images(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, row):
        return {"image": np.full((1, 8, 8), row % 3, np.float32), "label": row % 3}


def raw(**changes):
    x, y = points()
    whole = {"dev": {"x": x, "y": y}, "inputs": {"x": "number"}, "targets": {"y": "category"}}
    return Raw(**{**whole, **changes})


def kind():
    return raw(inputs={"x": "numbers"})


def column():
    return raw(inputs={"z": "number"})


def lengths():
    return raw(dev={"x": torch.rand(9, 2), "y": torch.ones(8).long()})


def test_rows():
    return raw(test={"x": torch.rand(9, 2)})


def squared(prediction, target, power=2.0):
    return nn.functional.cross_entropy(prediction, target) ** power


class Weighted(nn.Module):
    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight

    def forward(self, prediction, target):
        return self.weight * nn.functional.cross_entropy(prediction, target)


def of_rows(prediction, target):
    return nn.functional.cross_entropy(prediction, target, reduction="none")


def plain_number(prediction, target):
    return nn.functional.cross_entropy(prediction, target).item()


def no_loss(prediction, target):
    return nn.functional.cross_entropy(target, prediction)


def hits(prediction, target, shift=0):
    return (prediction.argmax(1) + shift) == target


def share(prediction, target):
    return float((prediction.argmax(1) == target).float().mean())


def halves(prediction, target):
    return prediction[: len(target) // 2, 0]


def first(trainer, most=1):
    trainer.stop = "that is enough" if trainer.epoch >= most else ""


def epoch(epoch):
    pass


def slip(trainer):
    trainer.nothing


class Watch:
    def __call__(self, trainer):
        assert trainer.history[-1].epoch == trainer.epoch


def no_callback(trainer):
    return 3



"""


def write(package, text):
    Path(package).mkdir(exist_ok=True)
    (Path(package) / "__init__.py").write_text(text)


@pytest.fixture
def package(elsewhere):
    """What a newcomer has: a package in the working folder."""
    write("my_package", PACKAGE)
    for file in (
        "metric/hits.yaml",
        "metric/share.yaml",
        "metric/halves.yaml",
        "callback/first.yaml",
    ):
        path = elsewhere / "conf" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        goal = ", goal: max" if path.stem == "share" else ""
        path.write_text(f"{path.stem}: {{_target_: my_package.{path.stem}{goal}}}\n")
    (elsewhere / "conf" / "model").mkdir()
    (elsewhere / "conf" / "model" / "mine.yaml").write_text("# Mine.\n_target_: my_package.Net\n")
    (elsewhere / "conf" / "model" / "nested.yaml").write_text(
        "model:\n  _target_: my_package.Net\n"
    )
    (elsewhere / "conf" / "metric" / "flat.yaml").write_text("_target_: my_package.hits\n")
    yield
    forget("my_package")


def forget(package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def run(tmp_path, *words):
    """The result of a run, as its folder has it."""
    assert main(["plugins=[my_package]", f"output={tmp_path / 'o'}", *unsaid(words), *words]) == 0
    (found,) = (tmp_path / "o").glob("*/*/*")
    return found, json.loads((found / "results.jsonl").read_text().splitlines()[0])


def unsaid(words):
    return [
        word for word in QUICK if not any(each.startswith(word.partition("=")[0]) for each in words)
    ]


def refused(capsys, *words):
    """The one line that a mistake is answered with."""
    capsys.readouterr()
    assert main(["plugins=[my_package]", *unsaid(words), *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dlrun: ")]
    assert len(lines) == 1
    return lines[0]


MODELS = ("Net", "Keyword", "WithSpec", "Annotated", "All", "sequential")


@pytest.mark.parametrize("name", MODELS)
def test_row_own_a_model_of_any_form_works_at_the_first_try(name, package, tmp_path):
    words = () if name == "sequential" else ("model.hidden=24",)
    folder, result = run(tmp_path, f"model._target_=my_package.{name}", *words)
    assert result["scores"]["accuracy"]["value"] > 0.1 and folder.parent.name == name
    if words:
        assert result["parameters"] == 65 * 24 + 25 * 10
    if name == "Net":
        assert main(["evaluate", str(folder), "plugins=[my_package]"]) == 0


def test_row_own_a_setting_with_a_default_is_set_though_the_yaml_has_none(
    package, tmp_path, capsys
):
    assert run(tmp_path, "model=mine", "model.hidden=8")[1]["parameters"] == 65 * 8 + 9 * 10
    assert "did you mean 'model.hidden'?" in refused(capsys, "model=mine", "model.hiden=8")
    assert "'model.units'" in refused(capsys, "model=mine", "model.units=8")


MISTAKES = {
    "model._target_=my_package.Reads": "forward asks for 'digit', which is not an input",
    "model._target_=my_package.Narrow": "(N, 32) for N rows; expected {'digit': logits (rows, 10)}",
    "model._target_=my_package.Pair": "forward returns a tuple; expected {'digit': logits (rows, 10)}",
    "model._target_=my_package.Clash": "return self.first(x)): RuntimeError: mat1 and mat2",
    "model._target_=my_package.NoSuper": "): AttributeError: cannot assign module before Module.__init__()",
    "model._target_=my_package.TwoInputs": "write forward(self, image), or forward(self, batch)",
    "model._target_=my_package.nothing": "expected a torch.nn.Module",
    "model._target_=my_package.Keyword": "Keyword needs a value for 'hidden': model.hidden=",
    "model._target_=my_package.Nope": "has no attribute 'Nope'",
    "data._target_=my_package.nothing": "expected a dlrun.core.dataset.Dataset, a torch.utils.data.Dataset, or two arrays",
    "data._target_=my_package.kind": "'x' is of kind 'numbers'; available: number,",
    "data._target_=my_package.column": "'z' is not among the columns of dev: x, y",
    "data._target_=my_package.lengths": "different numbers of rows: x 9, y 8",
    "data._target_=my_package.test_rows": "test is dict; expected a function",
    "loss._target_=my_package.of_rows": "returns (N,) numbers; expected a tensor of one number",
    "loss._target_=my_package.plain_number": "returns a float; expected a tensor of one number",
    "loss._target_=my_package.no_loss": "it was given prediction (N, 10) float32, target (N,) int64",
    "data._target_=my_package.gone": 'raise FileNotFoundError("photos/1.png")): FileNotFoundError: photos/1.png',
    "data._target_=my_package.Gone": "FileNotFoundError: photos/1.png",
    "model=nested": "expected in conf/model/NAME.yaml: _target_: my_package.NAME",
    "metric=[flat]": "expected in conf/metric/NAME.yaml: NAME: {_target_: my_package.NAME}",
    "+callback.c={_target_: my_package.epoch}": "(to be called after each epoch: (trainer, …))",
    "+callback.c={_target_: my_package.slip}": "trainer.nothing): AttributeError: 'Trainer' object has no attribute",
    "metric=[halves]": "numbers for 288 rows; expected one number, or one for each row",
}


@pytest.mark.parametrize("word", MISTAKES)
def test_row_own_a_mistake_is_answered_with_what_to_write(word, package, capsys):
    assert MISTAKES[word] in re.sub(r"\b(64|256)\b(?=,| rows)", "N", refused(capsys, word))


@pytest.mark.parametrize("name", ["points", "tensors", "dataset", "Images", "names"])
def test_row_own_data_of_any_form_work_at_the_first_try(name, package, tmp_path):
    test = ("test=true",) if name in ("tensors", "dataset") else ()
    folder, result = run(tmp_path, f"data._target_=my_package.{name}", *test)
    assert result["scores"]["accuracy"]["n"] in (16, 12) and folder.parts[-3] == name
    assert "ten digits" not in (folder / "report.html").read_text()


def test_row_own_one_number_a_row_is_taken_where_one_is_asked_for(package, tmp_path):
    words = (
        "data._target_=my_package.points",
        "data.rows=50",
        "model._target_=my_package.squeezed",
    )
    assert run(tmp_path, *words)[1]["scores"]["accuracy"]["n"] == 10


def test_row_own_losses_are_functions_or_modules(package, tmp_path):
    for number, (word, setting) in enumerate(
        (("squared", "loss.power=1"), ("Weighted", "loss.weight=2"))
    ):
        result = run(tmp_path / str(number), f"loss._target_=my_package.{word}", setting)[1]
        assert abs(result["baseline"]["loss"]["value"] - 2.3026 * (number + 1)) < 0.01


def test_row_own_metrics_are_plain_functions(package, tmp_path):
    folder, result = run(tmp_path, "metric=[hits,share,accuracy]", "metric.hits.shift=0")
    found = {name: result["scores"][name] for name in ("hits", "share", "accuracy")}
    values = [score["value"] for score in found.values()]
    assert max(values) - min(values) < 1e-6
    assert found["hits"]["low"] < found["hits"]["value"] < found["hits"]["high"]
    said = (folder / "log.txt").read_text()
    assert said.count("WARNING metric 'hits': larger is") == 1 and "metric.share.goal" not in said


def test_row_own_callbacks_are_functions_of_the_trainer(package, tmp_path, capsys):
    folder, result = run(tmp_path, "+callback=first", "callback.first.most=1", "engine.epochs=3")
    assert result["epochs"] == 1 and "that is enough" in (folder / "log.txt").read_text()
    assert (folder / "checkpoints" / "fit" / "best.pt").exists()  # the others are still there


def test_row_own_what_looks_wrong_is_told_once(package, tmp_path):
    folder, result = run(
        tmp_path / "a", "model._target_=my_package.Softmax", "protocol=kfold", "protocol.folds=2"
    )
    assert (folder / "log.txt").read_text().count("leave out the last softmax") == 1
    assert "leave out the last softmax" in result["note"]
    words = ("task=breast_cancer", "model._target_=my_package.Sigmoid")
    assert "leave out the last sigmoid" in run(tmp_path / "c", *words)[1]["note"]
    assert "has no parameters" in run(tmp_path / "b", "model._target_=my_package.Listed")[1]["note"]


def test_row_own_a_package_that_cannot_be_read_is_named_with_its_line(elsewhere, capsys):
    write("broken", "x = 1\ny = (\n")
    write("bad", "x = 1\nraise ValueError('not today')\n")
    for package, told in (("broken", "line 2: y = ()"), ("bad", "ValueError: not today")):
        assert main([f"model._target_={package}.Net", f"plugins=[{package}]"]) == 2
        assert told in capsys.readouterr().err
        forget(package)


def blocks(text):
    """(language, code) of each fenced block of a page."""
    return re.findall(r"```(\w*)\n(.*?)```", text, re.S)


def test_row_own_the_page_about_own_parts_is_true(elsewhere, tmp_path):
    found = blocks((ROOT / "docs" / "own_parts.md").read_text())
    write("my_package", "\n\n".join(code for language, code in found if language == "python"))
    for code in [code for language, code in found if language == "yaml"]:
        path = Path(code.split()[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    commands = [line for language, code in found if not language for line in code.splitlines()]
    try:
        assert len(commands) >= 8
        for number, line in enumerate(commands):
            less = ["data.test=0.95"] if "torchvision" in line else []
            assert (
                main([*shlex.split(line)[1:], *less, f"output={tmp_path / str(number)}", *QUICK])
                == 0
            ), line
    finally:
        forget("my_package")


def test_row_own_the_examples_in_docstrings_are_true(elsewhere, tmp_path):
    from dlrun.data import custom_dataset
    from dlrun.evaluation import custom_metric
    from dlrun.models import custom_model
    from dlrun.objectives import custom_loss
    from dlrun.training import custom_callback

    docs = [
        custom_model.__doc__,
        custom_dataset.__doc__,
        custom_loss.__doc__,
        custom_metric.__doc__,
        custom_callback.wrap_callback.__doc__,
    ]
    code = [textwrap.dedent(doc.partition("Example:\n")[2]) for doc in docs]
    write("shown", "import torch\nfrom torch import nn\n" + "\n\n".join(code))
    words = [
        ["model._target_=shown.Net", "model.hidden=8"],
        ["data._target_=shown.points", "data.rows=60"],
        ["task=diabetes", "loss._target_=shown.squared", "loss.weight=2"],
        ["task=diabetes", "+metric.within={_target_: shown.within, tolerance: 5, goal: max}"],
        ["+callback.patient={_target_: shown.patient, most: 9}"],
    ]
    try:
        for number, each in enumerate(words):
            assert (
                main([*each, "plugins=[shown]", f"output={tmp_path / str(number)}", *QUICK]) == 0
            ), each
    finally:
        forget("shown")


def test_row_00_the_license_is_in_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["license"] == "MIT"
    assert project["project"]["license-files"] == ["LICENSE"]
    assert "LICENSE" in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert (
        "MIT License" in (ROOT / "LICENSE").read_text()
        and "[LICENSE]" in (ROOT / "README.md").read_text()
    )
