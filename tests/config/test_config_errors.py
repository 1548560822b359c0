"""What is said of a config that makes no sense: all faults at once, each in words of its own, and without torch."""

import json
import os
import subprocess
import sys

import pytest

from dlrun.config.compose import ConfigComposer, compose_config, configure
from dlrun.config.override_errors import InvalidOverride
from dlrun.core.errors import UserError
from dlrun.core.files import PACKAGE

ROOT = (
    "metric, callback, augment, seed, source, repeat, test, reason, losses, metrics, loss_weights"
)
NO_UNITS = "no setting 'model.unit': did you mean 'model.units'? There are: units, activation,"
NO_SEED = f"no setting 'sed': did you mean 'seed'? There are: {ROOT}"
EPOCHS = "engine.epochs={}: it must be a whole number from 1 up"
UNITS = "model.units={}: it must be a list, each item a whole number from 1 up"
WRONG = {  # words → how each line of the message begins, in order
    "model.unitz=[3]": [NO_UNITS.replace("unit'", "unitz'")],
    "model.units=abc": [UNITS.format("'abc'")],
    "model.units=64": [UNITS.format(64)],
    "engine.epochs=-1": [EPOCHS.format(-1)],
    "engine.epochs=": [EPOCHS.format("''")],
    "engine.epochs=1e3 model.dropout=nan test=1 output=3": [
        "test=1: it must be true or false",
        "output=3: it must be a folder",
        "model.dropout=nan: it must be a number from 0 up to, but not including, 1, and not without",
        EPOCHS.format(1000.0),
    ],
    "task=imdb loss=cross_entropy": [
        "loss=cross_entropy on a binary target: a binary target has one logit, and a softmax over"
    ],
    "task=wine model=convnet": [
        "model=convnet needs an image input, but task=wine gives number 'features'; models that"
    ],
    "task=diabetes metric=[accuracy,mae]": [
        "metric=accuracy on a number target is not defined; there are: mae, mse, rmse, r2"
    ],
    "sed=1 model.unit=3 engine.epochs=0 model.dropout=2 test=perhaps": [
        NO_SEED,
        NO_UNITS,
        "test='perhaps': it must be true or false",
        "model.dropout=2: it must be a number from 0 up to, but not including, 1",
        EPOCHS.format(0),
    ],
    "modle=dense model.unit=3 engine.epochs=0 optimizer=adm": [
        "no optimizer 'adm': did you mean 'adam'? There are: adagrad, adam,",
        f"no setting 'modle': did you mean 'model'? There are: {ROOT}",
        NO_UNITS,
        EPOCHS.format(0),
    ],
    "sed=1 sed=2 sed=1": [NO_SEED] * 3,
    "frobnicate.deep=3 model.deep.er=[1,2]": [
        f"no setting 'frobnicate.deep'. There are: {ROOT}",
        f"no setting 'model.deep.er'. There are: {ROOT}",
    ],
    "model=linear model.units=[3]": ["no setting 'model.units': did you mean 'model.init'?"],
    "experiment=mnist_dense preset=smoke model=convnet model.units=[3] engine.precision=fp8": [
        "no setting 'model.units' for convnet: did you mean 'init'? There are: filters, kernel,",
        "engine.precision='fp8': it must be one of fp32, bf16, fp16",
    ],
    "task=csv data.kind=text": ["data.kind='text': it must be one of auto, binary, category,"],
    "optimizer.lr=many": ["optimizer.lr='many': it must be a number"],
    "scheduler.warmpu=1 callback.early_stopping.patience=3": [
        "no setting 'scheduler.warmpu': did you mean 'scheduler.warmup'? There are: warmup",
        "no setting 'callback.early_stopping.patience': callback has keep_best, tensorboard, "
        "samples; to add one: +callback=early_stopping",
    ],
    "seed.x=1 a-b=1": [  # what fails halfway leaves nothing behind: seed is no mapping after it
        "no setting 'seed.x': did you mean 'seed'?",
        f"no setting 'a-b'. There are: {ROOT}",
    ],
    "book.figure=3": ["no setting 'book.figure'. There are:"],
    "model.units=1,2 seed=choice(3,4) ~nothing": [
        "model.units=1,2: several values make a sweep: add -m",
        "seed=choice(3,4): several values make a sweep: add -m",
        f"no setting 'nothing'. There are: {ROOT}",
    ],
    "model..units=1 sed=1": ["cannot read 'model..units=1': text with other characters", NO_SEED],
    "+seed=1": ["Could not append to config. An item is already at 'seed'."],
    "~seed": ["the config has no 'seed'"],
    "model@x=dense": ["'model' has units, activation,"],
    "callback.keep_best=3": ["callback.keep_best=3: it is not a part; choose one by name"],
    "preset=true": ["no preset 'true'. There are: overfit, smoke"],
    "hydra.verbose=true": ["hydra.verbose=true: one run takes no settings of Hydra's own"],
}


def faults(words, folders=()):
    """The lines of a refusal."""
    with pytest.raises(UserError) as refused:
        configure(words, list(folders))
    return str(refused.value).splitlines()


@pytest.mark.parametrize("words", WRONG)
def test_all_faults_are_told_at_once_and_no_other(words):
    found = faults(words.split())
    assert len(found) == len(WRONG[words])
    for line, start in zip(found, WRONG[words], strict=True):
        assert line.startswith(start)


# What an override may hold.
VALUES = """1 -1 +5 0 1e-3 1E5 1. .5 -.5e3 1e03 true null inf yes abc a/b ./x /abs/x.csv x1e-3
a.nan a- [] [1,a,true,null,1e-3] 00 007 1_000 -inf [[1]] 'q' "q" $x a:b {a:1} 2020-01-01 1:30 3abc
x+y ~ ~/x .. . / .5_0 -a é a=b a@b"""


@pytest.mark.parametrize("value", [*VALUES.split(), "", "[ 1 , 2 ]", " 3", "a b", "['a',b]"])
def test_a_value_of_any_kind_is_taken_or_refused_in_one_line(value):
    try:
        output = configure([f"output={value}"], [])["output"]
        assert isinstance(output, str)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and "output=" in str(error)


def test_a_wrong_override_leaves_the_config_of_the_others():
    """Whatever fails, before or after the others, halfway or at once: the rest is as without it."""
    right = ["task=wine", "model=dense", "model.units=[5]", "optimizer=adam", "++extra={a: 1}"]
    wrong = ["seed.x=1", "book.figure=3", "model.units.0.a=1", "sed=1", "modle=dense", "a..b=1"]
    expected = json.dumps(compose_config(right, []))
    for words in (right + wrong, wrong + right, [*wrong[:3], *right, *wrong[3:]]):
        config, refused = ConfigComposer([]).compose(words)
        assert sorted(invalid.word for invalid in refused) == sorted(wrong)
        assert json.dumps(config) == expected
        with pytest.raises(InvalidOverride):
            compose_config(words, [])


OWN = "_target_: dlrun.models.dense.dense\nunits: [3]\n"
ODD_FILES = {
    "a package": ("model/own", "# @package model.inner\n" + OWN),
    "a package further down": ("model/own", "# Mine.\n# @package _global_\n" + OWN),
    "no self": ("model/own", "defaults: [dense]\nunits: [3]\n"),
    "self first": ("model/own", "defaults: [_self_, dense]\nunits: [3]\n"),
    "an option of another group": (
        "model/own",
        "defaults:\n  - /data: wine\n  - _self_\nunits: [3]\n",
    ),
    "a resolver": ("model/own", OWN + "a: ${oc.env:HOME}\n"),
    "a reference inside": ("model/own", OWN + "a: x${seed}\n"),
    "a reference that is relative": ("model/own", OWN + "a: ${.units}\n"),
    "a reference to nothing": ("model/own", OWN + "a: ${nothing}\n"),
    "a missing value": ("model/own", OWN + "a: ???\n"),
    "a date": ("model/own", OWN + "a: 2020-01-01\n"),
    "a date that is none": ("model/own", OWN + "a: 2020-13-45\n"),
    "a key twice": ("model/own", OWN + "units: [4]\n"),
    "a key that is a number": ("model/own", OWN + "a: {1: 2}\n"),
    "no YAML": ("model/own", "a: [1"),
    "no bytes of text": ("model/own", b"\xff\xfe\x00"),
    "a list": ("model/own", "[1, 2]"),
    "nothing": ("model/own", ""),
    "itself": ("model/own", "defaults: [own, _self_]\n"),
    "an override too late": (
        "task/own",
        "# @package _global_\ndefaults: [override /preset: smoke]\ntask: {name: own}\n",
    ),
    "a setting of hydra's": ("preset/own", "# @package _global_\nhydra: {verbose: true}\n"),
    "a value where a part was": ("preset/own", "# @package _global_\nmodel: 3\n"),
    "a part where a value was": ("preset/own", "# @package _global_\nseed: {a: 1}\n"),
    "a package over its own below": (
        "preset/own",
        "# @package _global_\ndefaults: [smoke, _self_]\nseed: 1\n",
    ),
}


def chosen(folder, path, content):
    """The words that choose this file, written below a folder of the user's."""
    group, name = path.split("/")
    (folder / group).mkdir()
    (folder / f"{path}.yaml").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    return [f"{group}=[{name}]" if group == "metric" else f"{group}={name}"]


@pytest.mark.parametrize("name", ODD_FILES)
def test_files_of_ones_own_end_in_a_config_or_in_a_message(tmp_path, name):
    try:
        assert configure(chosen(tmp_path, *ODD_FILES[name]), [tmp_path])["model"]
    except UserError as error:
        assert str(error).strip()


QUICK = [
    "model.unitz=[3]",
    "engine.epochs=-1",
    "task=wine model=convnet",
    "modle=dense",
    "model=dnse",
]


# Modules that a config without faults and parts of the user's own does not need.
RARE = ("custom_contract", "custom_settings", "override_errors", "parallel_fits", "command_names")


def test_a_config_error_is_refused_without_a_heavy_import(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = f"""
import sys
from dlrun.cli.main import main
from dlrun.config.compose import configure
configure(["task=imdb", "engine.epochs=1"], [])
rare = {{f'dlrun.config.{{name}}' for name in {RARE!r}}} & set(sys.modules)
assert not rare, rare
for line in {QUICK!r}:
    assert main(line.split()) == 2, line
    heavy = {{'torch', 'numpy', 'sklearn', 'rich'}} & set(sys.modules)
    assert not heavy, (line, heavy)
"""
    here = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code], env=here, check=True)
