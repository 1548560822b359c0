"""Whatever is wrong on a command line is refused: exit code 2, one message that helps, and nothing left behind."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import yaml

from dlrun.cli.main import main
from dlrun.core.files import PACKAGE
from dlrun.data import cache

HERE = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
TABLE = "area,town,price\n" + "".join(
    f"{50 + 7 * n},{'abc'[n % 3]},{100.5 + 3 * n}\n" for n in range(30)
)
CSV = "task=csv data.path=t.csv data.target=price"
RESULT = '{"name": "fit", "split": "val", "job": {"stage": "fit"}, "scores": {}}\n'
MNIST = "cache/mnist/train-images-idx3-ubyte.gz"


@dataclass(frozen=True)
class Wrong:
    """words: as typed, in a folder with these files. says: patterns that the message must match, all of them."""

    words: str
    says: tuple[str, ...]
    files: dict[str, str | bytes] = field(default_factory=dict)


def wrong(words, *says, **named):
    """A case. named: file contents, `t` for t.csv."""
    names = {"t": "t.csv"}
    return Wrong(words, says, {names.get(name, name): text for name, text in named.items()})


def within(words, files, *says):
    """A case in a folder with these files."""
    return Wrong(words, says, files)


def run_with(change, **more):
    """The files of a run that never trained, its config changed."""
    return {"run/config.yaml": ("made", change), "run/command.txt": "dlrun task=digits\n", **more}


def node(target, place="model", **values):
    """A user's conf folder with one model (or other part) of this target."""
    lines = "".join(f"{key}: {value}\n" for key, value in values.items())
    return {f"mine/{place}/own.yaml": f"_target_: {target}\n{lines}"}


CASES = {
    # words
    "misspelt group": wrong("modle=dense", "no setting 'modle': did you mean 'model'"),
    "misspelt option": wrong(
        "model=dnse",
        "no model 'dnse': did you mean 'dense'.*There are: .*combined, constant, conv1d, .*dense",
    ),
    "misspelt command": wrong(
        "resum run", "'resum' is neither a command nor a setting.*did you mean dlrun resume"
    ),
    "misspelt task": wrong("task=minst", "no task 'minst': did you mean 'mnist'"),
    "misspelt experiment": wrong(
        "experiment=mnist_dens", "no experiment 'mnist_dens': did you mean 'mnist_dense'"
    ),
    "misspelt preset": wrong(
        "preset=smok", "no preset 'smok': did you mean 'smoke'.*There are: overfit, smoke"
    ),
    "misspelt key": wrong("sed=1", "no setting 'sed': did you mean 'seed'"),
    "misspelt nested key": wrong(
        "model.unit=[3]", r"no setting 'model.unit': did you mean 'model.units'.*activation"
    ),
    "key of another option": wrong(
        "model=linear model.units=[3]", "no setting 'model.units'.*embedding"
    ),
    "key added that the part lacks": wrong(
        "+model.width=3", "no setting 'model.width' for dense.*There are: units"
    ),
    "numbers of a tuple": wrong(
        "optimizer=adam optimizer.betas=[0.9]",
        r"betas=\[0.9\]: it must be a list of 2: a number, a number$",
    ),
    "texts in a tuple of numbers": wrong(
        "optimizer=adam optimizer.betas=[a,b]", "it must be a list of 2: a number"
    ),
    "Hydra's own setting": wrong(
        "hydra.run.dir=x", "one run takes no settings of Hydra's own; output=FOLDER"
    ),
    "key of nothing": wrong("frobnicate.deep=3", "no setting 'frobnicate.deep'.*There are: .*seed"),
    "key taken out that is not there": wrong("~modle", "no setting 'modle': did you mean 'model'"),
    "several faults at once": wrong(
        "modle=dense model.unit=3 engine.epochs=0 optimizer=adm",
        "no setting 'modle': did you mean 'model'",
        "no setting 'model.unit': did you mean 'model.units'",
        "engine.epochs=0: it must be",
        "no optimizer 'adm': did you mean 'adam'",
    ),
    "several faults of keys and values at once": wrong(
        "sed=1 model.unit=3 engine.epochs=0 model.dropout=2 test=perhaps",
        "'sed'",
        "'model.unit'",
        "engine.epochs=0",
        "model.dropout=2",
        "test='perhaps'",
    ),
    "unknown flag": wrong("--fast", "no flag --fast: see dlrun --help"),
    "a word that is no setting": wrong(
        "mnist", "'mnist' is neither a command nor a setting.*did you mean task=mnist"
    ),
    "a word that cannot be read": wrong("model.units=[3,", "model.units"),
    "several values without -m": wrong("model=dense,linear", "several values make a sweep: add -m"),
    "several values of a key without -m": wrong("optimizer.lr=0.1,0.2", "optimizer.lr.*add -m"),
    "no config folder": wrong("--config-dir nowhere", "no config folder .*nowhere"),
    "config-dir without a folder": wrong("--config-dir", "--config-dir needs a folder"),
    "a config file that is no YAML": within(
        "--config-dir mine model=own",
        {"mine/model/own.yaml": "a: [1"},
        "a config file is no YAML: .*own.yaml.*line 1",
    ),
    "every job of a sweep wrong": wrong(
        "-m model=dense,linear engine.epochs=0", "engine.epochs=0: it must be"
    ),
    "a sweep over misspelt options": wrong(
        "-m model=dnse,liner", "no model 'dnse'", "no model 'liner'"
    ),
    "cfg of something wrong": wrong("--cfg job model=dnse", "no model 'dnse'"),
    "a part taken out": wrong("~model", "every run has a model"),
    "a part that is null": wrong("model=null", "choose a model by name"),
    "a whole part as a value": wrong("model={a:1}", "choose a model by name"),
    # types and ranges
    "type: word for a number": wrong(
        "engine.epochs=many", "engine.epochs='many': it must be a whole number from 1 up"
    ),
    "type: fraction for a whole number": wrong(
        "engine.batch_size=0.5", "engine.batch_size=0.5: it must be a whole"
    ),
    "type: number for a list": wrong("model.units=64", "model.units=64: it must be a list"),
    "type: word in a list": wrong(
        "model.units=[64,big]", "model.units=.*it must be a list, each item a whole number"
    ),
    "type: word for true": wrong(
        "engine.compile=perhaps", "engine.compile='perhaps': it must be true or false or step"
    ),
    "type: seed": wrong("seed=now", "seed='now': it must be a whole number"),
    "type: null": wrong(
        "engine.epochs=null", "engine.epochs=None: it must be a whole number from 1 up"
    ),
    "type: output": wrong("output=3", "output=3: it must be a folder"),
    "range: epochs": wrong(
        "engine.epochs=0", "engine.epochs=0: it must be a whole number from 1 up"
    ),
    "range: dropout": wrong(
        "model.dropout=1.5", "model.dropout=1.5: it must be a number from 0 up to"
    ),
    "range: rate": wrong("optimizer.lr=-1", "optimizer.lr=-1|[Ii]nvalid learning rate: -1"),
    "range: not a number": wrong("optimizer.lr=nan", "lr.*nan"),
    "range: warmup": wrong(
        "scheduler=cosine scheduler.warmup=2", "scheduler.warmup=2: it must be a number from 0 up"
    ),
    "range: precision": wrong(
        "engine.precision=fp8", "engine.precision='fp8': it must be one of fp32, bf16, fp16"
    ),
    "range: source": wrong("source=net", "source='net': it must be official or sample"),
    "range: a missing value": wrong(
        "task=csv data.kind=text", "data.kind='text': it must be one of auto, binary"
    ),
    "range: activation": wrong("model.activation=rleu", "model.activation.*relu"),
    "one fold": wrong(
        "protocol=kfold protocol.folds=1",
        "folds=1 holds nothing out: use 2 or more, or protocol=whole",
    ),
    "more folds than rows": wrong(
        "task=wine protocol=kfold protocol.folds=1000", "folds=1000, but .* only 142 rows"
    ),
    "validation larger than the data": wrong(
        "protocol.validation=5000", "validation=5000 holds out 5000 of 1438 rows"
    ),
    "validation of fewer rows than classes": wrong(
        "protocol.validation=3 protocol.by=stratified",
        "by=stratified: 3 of 1438 rows are too few for 10 classes",
    ),
    "one group": wrong(
        CSV + " data.group=town data.test=0 protocol.by=group",
        "all rows have the same 'town'",
        t=re.sub(",[abc],", ",a,", TABLE),
    ),
    "validation of nothing": wrong(
        "protocol.validation=0", "protocol.validation=0: it must be a number above 0"
    ),
    "a step of nothing": wrong(
        "scheduler=step scheduler.every=0", "every=0: say after which share"
    ),
    "nesterov without momentum": wrong(
        "optimizer=sgd optimizer.nesterov=true", "(?i)nesterov.*momentum"
    ),
    "unknown device": wrong("engine.device=tpu", "no device 'tpu' here: there are .*cpu"),
    # parts that contradict each other
    "model and data": wrong(
        "task=wine model=convnet", "model=convnet needs an image input.*can read it: .*dense"
    ),
    "loss and target": wrong(
        "task=digits loss=bce", "loss=bce on a category target: .*there are: cross_entropy"
    ),
    "softmax over one logit": wrong(
        "task=breast_cancer loss=cross_entropy", "a softmax over one logit is always 1"
    ),
    "metric and target": wrong(
        "task=diabetes metric=[accuracy]", "metric=accuracy on a number target.*there are: mae"
    ),
    "unknown metric": wrong(
        "metric=[acuracy]", "no metric 'acuracy': did you mean 'accuracy'.*There are: accuracy"
    ),
    "unknown callback": wrong(
        "callback=[keep_bets]", "no callback 'keep_bets': did you mean 'keep_best'"
    ),
    "early stopping on what is not measured": wrong(
        "callback=[early_stopping] callback.early_stopping.monitor=val/f1",
        "callback.early_stopping.monitor=val/f1 is not measured; there are: .*val/accuracy",
    ),
    "plateau on what is not measured": wrong(
        "scheduler=plateau scheduler.monitor=val/lss",
        "scheduler.monitor=val/lss is not measured; there are: .*val/loss",
    ),
    "keep_best on what is not measured": wrong(
        "callback.keep_best.monitor=val/acc",
        "callback.keep_best.monitor=val/acc is not measured.*val/accuracy",
    ),
    "early stopping on rows that nobody holds out": wrong(
        "protocol=whole callback=[early_stopping]",
        "early_stopping.monitor=val/loss is not measured; .*train/loss",
    ),
    "test of folds": wrong(
        "task=wine protocol=kfold test=true",
        "test=true needs one model to test: use protocol=whole",
    ),
    "test without test rows": wrong(
        "data.test=0 test=true", "test=true, but these data have no test rows"
    ),
    "weights that name no target": wrong(
        "loss_weights={price:1}", "loss_weights names price; the targets are digit"
    ),
    "weights that are no numbers": wrong(
        "loss_weights={digit:much}", "loss_weights=.*a number from 0 up"
    ),
    "top k of too few classes": wrong(
        "task=wine metric=[top_k] metric.top_k.k=4", "k=4, but there are only 3 classes"
    ),
    "class weights of the wrong number": wrong(
        "task=wine loss=cross_entropy loss.class_weights=[1,2]", "2 class weights for 3 classes"
    ),
    "too many blocks for the image": wrong(
        "model=convnet model.filters=[8,8,8,8,8,8]", "filters.*8.?[x×].?8|convnet: .*pool"
    ),
    "stratified numbers": wrong(
        "task=diabetes protocol.by=stratified",
        "by=stratified needs a target of classes: use by=auto or by=random",
    ),
    "stratified with a class of one row": wrong(
        "task=csv data.path=t.csv data.target=town data.test=0 protocol.by=stratified",
        r"'town' has classes of fewer than 2 rows \(z: 1\); protocol.by=auto stratifies the others",
        t=TABLE.replace("50,a", "50,z"),
    ),
    "by group without a column": wrong(
        "protocol.by=group", "protocol.by=group needs data.group=COLUMN"
    ),
    "by time without a column": wrong(
        "protocol.by=time", "protocol.by=time needs data.order=COLUMN"
    ),
    "folds in time": wrong(
        "protocol=kfold protocol.by=time", "protocol.by=time makes no folds: use by=auto"
    ),
    "more examples by heart than there are": wrong(
        "task=wine engine.overfit=0", "engine.overfit=0: it must be a whole"
    ),
    # official files
    "no file and no network": wrong(
        "task=mnist", "train-images.*could not be downloaded. Put train-images.* at", "preset=smoke"
    ),
    "a damaged archive": within(
        "task=mnist",
        {MNIST: b"broken"},
        f"is not the official .*{hashlib.sha256(b'broken').hexdigest()}, expected 440",
    ),
    "a cache that is a file": within(
        "task=mnist", {"cache": "in the way"}, "cannot be written to.*DLRUN_DATA"
    ),
    # tables
    "csv: no path": wrong("task=csv", "say which table: data.path=FILE.csv data.target=COLUMN"),
    "csv: no such file": wrong(
        "task=csv data.path=gone.csv data.target=a", "gone.csv does not exist .looked at /"
    ),
    "csv: a folder": within(CSV, {"t.csv/x": ""}, "t.csv is a folder"),
    "csv: empty": wrong(CSV, "t.csv is empty", t=""),
    "csv: header only": wrong(CSV, "t.csv has a header but no rows", t="area,town,price\n"),
    "csv: no target": wrong(
        "task=csv data.path=t.csv", "data.target=COLUMN. There are: area, town, price", t=TABLE
    ),
    "csv: target no column": wrong(
        CSV, "'price' is no column of t.csv: did you mean 'prize'", t=TABLE.replace("ice", "ize")
    ),
    "csv: text as a number": wrong(
        "task=csv data.path=t.csv data.target=town data.kind=number",
        "'town' has 'a', not a finite number",
        t=TABLE,
    ),
    "csv: one class only": wrong(
        "task=csv data.path=t.csv data.target=town",
        "target 'town' is 'a' in all 30 rows: there is nothing to learn",
        t=re.sub(",[abc],", ",a,", TABLE),
    ),
    "csv: target missing": wrong(
        CSV, r"target 'price' is missing in 1 row \(line 2\)", t=TABLE.replace("100.5", "NaN")
    ),
    "csv: target never there": wrong(CSV, "target 'price'", t=re.sub(r",[\d.]+\n", ",\n", TABLE)),
    "csv: infinite target": wrong(
        CSV + " data.kind=number",
        "line 2: column 'price' has 'inf'",
        t=TABLE.replace("100.5", "inf"),
    ),
    "csv: ragged rows": wrong(
        CSV, "t.csv, line 2: 4 cells where the header has 3", t=TABLE.replace("50,a", "50,a,a")
    ),
    "csv: columns of one name": wrong(
        CSV, "more than one column is called area", t=TABLE.replace("town", "area", 1)
    ),
    "csv: not utf-8": wrong(
        CSV, r"t.csv is not UTF-8 text \(byte 19\)", t=TABLE.encode().replace(b"a,100", b"\xe4,100")
    ),
    "csv: no inputs": wrong(
        CSV, "input|column", t="price\n" + "".join(f"{n}.5\n" for n in range(30))
    ),
    "csv: one row": wrong(CSV, "rows?", t="area,price\n1,2.5\n"),
    "csv: group no column": wrong(
        CSV + " data.group=owner", "'owner' is no column of t.csv", t=TABLE
    ),
    "csv: dropped target": wrong(
        CSV + " data.drop=[price]", "'price' is the target and cannot be dropped", t=TABLE
    ),
    "csv: open quote": wrong(CSV, "t.csv, line", t=TABLE.replace("50,a", '50,"a')),
    # output
    "output is a file": within(
        "output=taken", {"taken": "a file"}, "cannot make the run folder .*taken"
    ),
    "a file in the way of the run": within(
        "output=o", {"o/digits": "a file"}, "cannot make the run folder .*o/digits"
    ),
    # what may be called
    **{
        f"target {target}": within(
            "--config-dir mine model=own",
            node(target),
            f"model: _target_ '{target}' is not allowed: it is not a model that dlrun knows",
        )
        for target in (
            "os.system",
            "subprocess.run",
            "torch.load",
            "builtins.eval",
            "shutil.rmtree",
            "dlrunner.x",
        )
    },
    **{
        f"target {target}": within(
            "--config-dir mine model=own", node(target), f"{re.escape(target)}"
        )
        for target in (
            "dlrun.config.instantiate.importlib.import_module",
            "dlrun.core.environment.subprocess.run",
            "dlrun.cli.main.os.system",
            "dlrun.report.build.Path",
            "torch.nn.modules.module.torch.load",
            "torchvision.models.os.system",
            "dlrun.models.dense.nothing_there",
        )
    },
    "a command as a part": within(
        "--config-dir mine data=own",
        {
            "mine/data/own.yaml": "_target_: dlrun.cli.main.main\nwords: ['plugins=[os]', data._target_=os.system]\n"
        },
        "data: _target_ 'dlrun.cli.main.main' is not allowed",
    ),
    "a download as a part": within(
        "--config-dir mine data=own",
        {
            "mine/data/own.yaml": "_target_: dlrun.data.datasets.mnist.fetch\nfile: {_target_: dlrun.data.cache.RemoteFile}\n"
        },
        "data: _target_ 'dlrun.data.datasets.mnist.fetch' is not allowed",
    ),
    "a download by another name": within(
        "--config-dir mine data=own",
        {"mine/data/own.yaml": "_target_: dlrun.data.datasets.mnist.fetch\nfile: x\n"},
        "data: _target_ 'dlrun.data.datasets.mnist.fetch' is not allowed",
    ),
    "an evil part inside a part": within(
        "--config-dir mine model=own",
        {
            "mine/model/own.yaml": "_target_: dlrun.models.dense.linear\ninit: {_target_: os.system, command: ls}\n"
        },
        "model.init: no part belongs there, and it holds one: _target_ 'os.system'",
    ),
    "an evil part in a list": within(
        "--config-dir mine model=own",
        {"mine/model/own.yaml": "defaults: [dense]\nunits: [{_target_: os.system, command: ls}]\n"},
        "model.units.0: no part belongs there, and it holds one: _target_ 'os.system'",
    ),
    "an evil metric": within(
        "--config-dir mine metric=[own]",
        {"mine/metric/own.yaml": "own: {_target_: os.system, command: ls}\n"},
        "metric.own: _target_ 'os.system' is not allowed",
    ),
    "a package named in the folder of a run": within(
        "resume run",
        run_with({"plugins": ["os"], "model": {"_target_": "os.system", "command": "touch evil"}}),
        "model: _target_ 'os.system' is not allowed",
    ),
    "a package named in the words of a run": within(
        "rerun run",
        run_with(
            {"model": {"_target_": "os.system"}},
            **{"run/command.txt": "dlrun plugins=[os] model=dense\n"},
        ),
        "'os.system' is not allowed",
    ),
    "a package named in a conf folder": within(
        "--config-dir mine model=own experiment=own",
        node("os.system") | {"mine/experiment/own.yaml": "# @package _global_\nplugins: [os]\n"},
        "'os.system' is not allowed",
    ),
    "a model of one's own with a wrong argument": within(
        "--config-dir mine model=own plugins=[oddpkg]",
        node("oddpkg.Net", unit=3)
        | {"oddpkg.py": "class Net:\n    def __init__(self, spec, units: int): ...\n"},
        "no setting 'model.unit' for Net: did you mean 'units'",
        "Net needs a value for 'units'",
    ),
    "a model of one's own of a wrong type": within(
        "--config-dir mine model=own plugins=[oddpkg]",
        node("oddpkg.Net", units="many")
        | {"oddpkg.py": "class Net:\n    def __init__(self, spec, units: int): ...\n"},
        "model.units='many': it must be a whole number",
    ),
    "a package that is not there": within(
        "--config-dir mine model=own plugins=[gone]",
        node("gone.Net"),
        "gone.Net' cannot be found: .*gone",
    ),
    # runs that are there
    **{
        f"{command} of nothing": wrong(f"{command} nowhere", "nowhere")
        for command in ("resume", "rerun", "evaluate", "compare")
    },
    **{
        f"{command} without a run": wrong(command, "run|RUN")
        for command in ("resume", "rerun", "evaluate", "compare")
    },
    **{
        f"{command} of a folder that is no run": within(
            f"{command} run", {"run/x": ""}, "run.*has no config.yaml"
        )
        for command in ("resume", "rerun", "evaluate", "compare")
    },
    **{
        f"{command} of a run with a damaged config ({kind})": within(
            f"{command} run",
            {"run/config.yaml": text, "run/results.jsonl": RESULT, "run/command.txt": "dlrun\n"},
            "config.yaml",
        )
        for command in ("resume", "rerun", "evaluate", "compare")
        for kind, text in (
            ("no YAML", "a: [1"),
            ("no bytes of text", b"\xff\xfe\x00"),
            ("a list", "[1, 2]"),
        )
    },
    **{
        f"{command} of half a config": within(
            f"{command} run",
            run_with({"seed": ..., "model": ..., "metric": None}),
            "the config has no 'model'",
            "the config has no 'seed'",
            "metric=None: it must be a mapping",
        )
        for command in ("resume", "rerun", "evaluate")
    },
    "evaluate of a run that never trained": within(
        "evaluate run", run_with({}), "nothing to evaluate: no fit has finish"
    ),
    "evaluate with a wrong checkpoint": within(
        "evaluate run checkpoint=worst", run_with({}), "it must be best or last"
    ),
    "evaluate with a misspelt key": within(
        "evaluate run tes=true", run_with({}), "no setting 'tes': did you mean 'test'"
    ),
    "resume with another model": within("resume run model=linear", run_with({}), "use dlrun rerun"),
    "resume with a wrong value": within(
        "resume run engine.epochs=0", run_with({}), "engine.epochs=0: it must be a whole"
    ),
    "rerun with a wrong word": within(
        "rerun run model=dnse", run_with({}), "no model 'dnse': did you mean 'dense'"
    ),
    "rerun of a run whose words are damaged": within(
        "rerun run seed=1", run_with({}, **{"run/command.txt": "not a command"}), "command.txt"
    ),
    "rerun of a run without words": within(
        "rerun run seed=1", run_with({}, **{"run/command.txt": None}), "command.txt"
    ),
    "compare of a run with damaged results": within(
        "compare run",
        run_with({}, **{"run/results.jsonl": "{"}),
        "run.*results.jsonl|no finished run",
    ),
    # other commands
    "ls of nothing": wrong("ls modle", "no group 'modle': did you mean 'model'"),
    "completion of nothing": wrong(
        "completion csh", "no completion for 'csh'. There are: bash, zsh, fish"
    ),
}


def put(folder, path, content):
    """Write a file of a case. ("made", change): the config of a run, with changes (...: left out); None: no file."""
    place = folder / path
    if isinstance(content, tuple):
        content = yaml.safe_dump(
            {k: v for k, v in (made_config() | content[1]).items() if v is not ...}
        )
    if content is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())


def made_config():
    """The config of `dlrun task=digits preset=smoke`."""
    from dlrun.config.compose import configure

    return configure(["task=digits", "preset=smoke"], [])


def found(folder):
    """Every file and every run folder below, but for the cache's locks and the log of the run that was asked for."""
    below = {
        str(path.relative_to(folder)): path for path in folder.rglob("*") if path.name != ".lock"
    }
    files = {
        name
        for name, path in below.items()
        if path.is_file() and path.suffix not in (".lock", ".pyc")
    }
    runs = {name for name, path in below.items() if re.match(r"\d{4}-\d\d-\d\d_", path.name)}
    return (files | runs) - {"run/log.txt", "run/data.json"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    def refuse(url, *_, **__):
        from requests import ConnectionError

        raise ConnectionError(url)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("DLRUN_CONFIG_PATH", raising=False)
    monkeypatch.setattr(cache, "_download_url", refuse)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_refused(folder, capfd, name):
    case = CASES[name]
    for path, content in case.files.items():
        put(folder, path, content)
    words = case.words.split()
    trains = not words or words[0] not in (
        "resume",
        "rerun",
        "evaluate",
        "compare",
        "ls",
        "completion",
    )
    if trains and "output=" not in case.words and words[-1] != "--config-dir":
        words.append("output=o")
    before = found(folder)
    code = main(words)
    seen = capfd.readouterr()
    assert code == 2, seen
    assert "Traceback" not in seen.err + seen.out and seen.err.startswith("dlrun: ")
    assert all(line.startswith("dlrun: ") for line in seen.err.splitlines()), seen.err
    for pattern in case.says:
        assert re.search(pattern, seen.err), seen.err
    assert found(folder) == before


def test_there_are_enough_wrong_inputs():
    assert len(CASES) >= 150


def test_faults_are_found_in_every_part_at_once(folder, capsys):
    words = [
        "modle=x",
        "optimizer=adm",
        "optimizer.lr=much",
        "model.unit=3",
        "seed=now",
        "engine.epochs=0",
        "task",
    ]
    assert main(words) == 2
    faults = capsys.readouterr().err.splitlines()
    assert len(faults) == 6 and not any(
        "much" in fault for fault in faults
    )  # nobody knows what adm takes


@pytest.mark.parametrize(
    "words",
    ["model=dnse", "model.unit=3 engine.epochs=0", "loss=bce task=digits", "resume nowhere"],
)
def test_a_fault_in_the_words_is_found_without_torch(tmp_path, words):
    code = f"import sys\nfrom dlrun.cli.main import main\nassert main({words.split()!r}) == 2\n"
    code += "assert not {'torch', 'sklearn', 'matplotlib', 'numpy'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=HERE
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_and_completion_import_nothing_heavy(tmp_path):
    code = "import sys\nfrom dlrun.cli.main import main\nassert main(['--help']) == 0 and main(['complete', 'task=']) == 0\n"
    code += "assert not {'torch', 'hydra', 'omegaconf', 'numpy', 'rich', 'matplotlib'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=HERE
    )
    assert done.returncode == 0 and "mnist" in done.stdout, done.stderr
