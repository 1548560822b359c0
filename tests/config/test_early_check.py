"""The light composition says what Hydra says or nothing, and a config error is refused before Hydra is imported."""

import json
import os
import subprocess
import sys
from itertools import cycle, islice

import pytest
import yaml

from dlrun.config import compose as configure
from dlrun.config import groups as places
from dlrun.config.compose import compose_config
from dlrun.config.early_check import compose_without_hydra
from dlrun.core.errors import UserError
from dlrun.core.paths import PACKAGE

CONF = places.get_builtin_conf()
TAKEN = {
    key
    for line in yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    if line != "_self_"
    for key in line
}
GROUPS = {group: options for group, options in places.list_groups(CONF).items() if group in TAKEN}
CHOOSERS = ("task", "experiment", "preset")
KEYS = [
    "output",
    "seed",
    "test",
    "source",
    "loss_weights",
    "plugins",
    "model.units",
    "engine.epochs",
    "optimizer.lr",
]
KEYS += ["callback.keep_best.monitor", "data._target_", "scheduler.warmup", "task.name"]
PLAIN = """
1 -1 +5 0 1e-3 1E5 1. .5 -.5e3 1.e2 1e03 1e+05 true TRUE null inf nan yes abc a/b ./x ../x /abs/x.csv a-b a.b x1e-3
true/x a.nan a.5 a.. a- _x ./inf val/loss [] [1] [1,2] [64,64] [1,a,true,null,1e-3] [1,.5] [.9,0.999]
"""
VALUES = [*PLAIN.split(), "", "[ 1 , 2 ]", "[ ]"]
ODD = """
00 007 1_000 -inf [[1]] [1,] [1,,2] 'q' "q" a,b ${seed} $x ??? a:b {a:1} 2020-01-01 1:30 3abc x+y ~ ~/x .. . / .5_0 -a é
range(3) glob(*) choice(1,2) a=b a@b 1,2
"""
BEYOND = [*ODD.split(), " 3", "3 ", "a b", "['a',b]"]


def said(config):
    """A config as text in which 1, 1.0 and true differ, and the order of keys counts."""
    return json.dumps(config)


def zipped(*groups):
    """Words that name every option of these groups at least once, one option of each group at a time."""
    count = max(len(GROUPS[group]) for group in groups)
    columns = [islice(cycle(GROUPS[group]), count) for group in groups]
    several = ("metric", "callback")
    for names in zip(*columns, strict=True):
        yield [
            f"{g}=[{n}]" if g in several else f"{g}={n}" for g, n in zip(groups, names, strict=True)
        ]


def values():
    """Words that set many keys at once, to every value in turn."""
    for start in range(0, len(VALUES), len(KEYS)):
        yield [f"{key}={value}" for key, value in zip(KEYS, VALUES[start:], strict=False)]


CASES = {
    "nothing": [[]],
    "options": list(zipped(*(group for group in GROUPS if group not in CHOOSERS))),
    "lists": [
        ["metric=[accuracy,f1,top_k]", "callback=[tensorboard,early_stopping]", "metric.top_k.k=2"],
        ["metric=accuracy", "callback=none"],
    ],
    "tasks": [[f"task={name}"] for name in GROUPS["task"]],
    "experiments": [[f"experiment={name}"] for name in GROUPS["experiment"]],
    "presets": [
        ["preset=smoke"],
        ["task=imdb", "preset=overfit", "model=linear", "seed=7"],
        [
            "experiment=reuters_dense",
            "preset=smoke",
            "callback=[early_stopping]",
            "callback.early_stopping.patience=2",
        ],
        ["experiment=boston_kfold", "task=wine", "engine=small", "data.test=0.5"],
        ["preset=overfit", "data=mnist", "source=sample", "data.source=official"],
    ],
    "values": list(values()),
}


@pytest.mark.parametrize("kind", CASES)
def test_it_says_what_hydra_says(kind):
    for words in CASES[kind]:
        found = compose_without_hydra(words, [])
        assert found is not None, words
        assert found[1] == [] and said(found[0]) == said(compose_config(words, [])), words


def test_what_was_compared_is_all_there_is():
    named = {word for words in CASES["options"] for word in words}
    assert (
        len(named)
        == sum(len(options) for group, options in GROUPS.items() if group not in CHOOSERS)
        >= 50
    )
    assert len(CASES["tasks"]) >= 11 and len(CASES["experiments"]) >= 14 and len(VALUES) >= 40
    assert sum(map(len, CASES["values"])) == len(VALUES)
    assert set(GROUPS["preset"]) <= {
        w.partition("=")[2] for words in CASES["presets"] for w in words
    }


@pytest.mark.parametrize("value", BEYOND)
def test_a_value_that_is_not_plain_is_left_to_hydra(value):
    assert compose_without_hydra([f"output={value}"], []) is None


@pytest.mark.parametrize(
    "words",
    [
        "+seed=1",
        "++seed=1",
        "~seed",
        "seed",
        "model@x=dense",
        "model=dense model=dense",
        "model=[dense]",
        "preset=null",
    ]
    + [
        "hydra.verbose=true",
        "hydra/launcher=basic",
        "model=3",
        "seed.x=1",
        "book.figure=3",
        "model.units.0=1",
        "a-b=1",
    ]
    + [
        "callback.keep_best=3",
        "engine=3",
        "preset=true",
        "metric=[1]",
        "model=nothing_there",
        "=3",
        "model..units=1",
    ],
)
def test_words_that_are_not_plain_are_left_to_hydra(words):
    assert compose_without_hydra(words.split(), []) is None


OWN = "_target_: dlrun.models.dense.dense\nunits: [3]\n"
PLAIN_FILES = {
    "on another option": ("model/own", "defaults: [dense, _self_]\nunits: [3]\ndropout: 1e-3\n"),
    "on two": ("model/own", "defaults: [linear, dense, _self_]\nunits: [3]\n"),
    "our own name": ("model/dense", OWN),
    "mappings and aliases": ("model/own", OWN + "a: &a {b: [1, {c: 2}]}\nd: *a\n"),
    "every kind of scalar": (
        "model/own",
        OWN
        + "a: [1e-3, 1.5e3, .5, -.5, 1_0, 1_0e3, 0x1F, 010, 1:30, yes, Off, ~, '4.4', '1e3', .inf, 1., +1, a b]\n",
    ),
    "a reference": ("model/own", OWN + "a: ${seed}\n"),
    "empty": ("metric/own", "{}\n"),
    "several metrics": (
        "metric/own",
        "a: {_target_: dlrun.evaluation.metrics.mae}\nb: {_target_: dlrun.evaluation.metrics.mse}\n",
    ),
    "a task": (
        "task/own",
        "# @package _global_\ndefaults:\n  - override /data: wine\n  - override /metric: [f1, mae]\n"
        "task: {name: own, question: x}\nmodel: {units: [5], more: 1}\n",
    ),
    "an experiment": (
        "experiment/own",
        "# @package _global_\ndefaults:\n  - override /task: imdb\n  - override /model: convnet\n"
        "book: {figure: .5}\nseed: 3\nfresh: {a: 1}\n",
    ),
    "a preset over everything": (
        "preset/own",
        "# @package _global_\ndefaults:\n  - override /experiment: imdb_dense\n  - override /engine: small\nseed: 3\n",
    ),
}
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


@pytest.mark.parametrize("name", PLAIN_FILES)
def test_files_of_ones_own_say_what_hydra_says(tmp_path, name):
    words = chosen(tmp_path, *PLAIN_FILES[name])
    found = compose_without_hydra(words, [tmp_path])
    assert found is not None and found[1] == []
    assert said(found[0]) == said(compose_config(words, [tmp_path]))


@pytest.mark.parametrize("name", ODD_FILES)
def test_files_of_ones_own_that_are_not_plain_are_left_to_hydra(tmp_path, name):
    assert compose_without_hydra(chosen(tmp_path, *ODD_FILES[name]), [tmp_path]) is None


WRONG = [
    "model.unitz=[3]",
    "model.units=abc",
    "model.units=64",
    "engine.epochs=-1",
    "engine.epochs=",
    "engine.epochs=1e3 model.dropout=nan test=1 output=3",
    "task=imdb loss=cross_entropy",
    "task=wine model=convnet",
    "task=diabetes metric=[accuracy,mae]",
    "sed=1 model.unit=3 engine.epochs=0 model.dropout=2 test=perhaps",
    "modle=dense model.unit=3 engine.epochs=0 optimizer=adm",
    "sed=1 sed=2 sed=1",
    "frobnicate.deep=3 model.deep.er=[1,2]",
    "model=linear model.units=[3]",
    "experiment=mnist_dense preset=smoke model=convnet model.units=[3] engine.precision=fp8",
    "task=csv data.kind=text",
    "optimizer.lr=many",
    "scheduler.warmpu=1 callback.early_stopping.patience=3",
]


@pytest.mark.parametrize("words", WRONG)
def test_a_refusal_is_word_for_word_the_one_that_hydra_leads_to(monkeypatch, words):
    with monkeypatch.context() as patched, pytest.raises(UserError) as early:
        patched.setattr(configure, "compose_config", None)
        configure.configure(words.split(), [])
    with monkeypatch.context() as patched, pytest.raises(UserError) as late:
        patched.setattr(configure, "compose_without_hydra", lambda *_: None)
        configure.configure(words.split(), [])
    assert str(early.value) == str(late.value)


QUICK = [*WRONG[:5], *WRONG[6:10], "modle=dense", "model=dnse"]


def test_a_config_error_is_refused_without_a_heavy_import(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = f"""
import sys
from dlrun.cli.main import main
for line in {QUICK!r}:
    assert main(line.split()) == 2, line
    heavy = {{'torch', 'hydra', 'omegaconf', 'numpy', 'rich'}} & set(sys.modules)
    assert not heavy, (line, heavy)
"""
    here = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code], env=here, check=True)
