"""Law: a word of an earlier version means what today's does: typed, in the user's YAML, in saved runs."""

import contextlib
import io

import pytest
import yaml

from dlrun.cli.main import main
from dlrun.config import old_words
from dlrun.config.compose import configure
from dlrun.config.old_words import to_current_overrides
from dlrun.config.overrides import split_config_folders
from dlrun.config.parts import get_builtin_conf, list_all_groups
from dlrun.core.renamed_parts import (
    CURRENT_CHOICES,
    CURRENT_COMMANDS,
    CURRENT_GROUPS,
    CURRENT_KEYS,
    CURRENT_QUESTIONS,
    to_current_names,
    to_original_names,
    to_original_override,
)
from dlrun.evaluation.test_ledger import compute_config_hash
from dlrun.sweeps.job import compute_identity
from dlrun.sweeps.space import expand_search_space

# Old words → the same in today's; for each line of the table at least one.
LINES = {
    "task=similarity model.reader.units=8": "task=similarity model.encoder.units=8",
    "task=similarity +reader@model.readers.left=gru model.readers.left.units=8": (
        "task=similarity +encoder@model.encoders.left=gru model.encoders.left.units=8"
    ),
    "task=similarity reader@model.reader=gru": "task=similarity encoder@model.encoder=gru",
    "task=similarity ++model.reader.units=8": "task=similarity ++model.encoder.units=8",
    "task=similarity '~model.reader.mask'": "task=similarity '~model.encoder.mask'",
    "task=similarity model.dense=[8] seed=${model.reader.units}": (
        "task=similarity model.dense=[8] seed=${model.encoder.units}"
    ),
    "augment=[flip,colour] task=mnist": "augment=[flip,color] task=mnist",
    "augment=colour augment.colour.hue=0.2 task=mnist": (
        "augment=color augment.color.hue=0.2 task=mnist"
    ),
    "task=csv data.scale=standardise": "task=csv data.scale=standardize",
    "task=cartpole objective.baseline=normalise": "task=cartpole objective.baseline=normalize",
    "task=cats_dogs model=pretrained model.preprocess=normalise": (
        "task=cats_dogs model=pretrained model.preprocess=normalize"
    ),
    "task=deepdream optimizer=normalised": "task=deepdream optimizer=normalized",
    "task=style objective.keep_colours=true": "task=style objective.keep_colors=true",
    "task=imdb_text text=tf_idf text.normalise=true": (
        "task=imdb_text text=tf_idf text.normalize=true"
    ),
}
NAMES = (*CURRENT_KEYS, *CURRENT_CHOICES, *CURRENT_GROUPS)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """An empty working folder, and no advice given yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(old_words, "_advice_given", set())


def words_of(line):
    return [word.strip("'") for word in line.split()]


def composed(line):
    """The config of a command line, or what is wrong with it."""
    folders, words = split_config_folders(words_of(line))
    try:
        return configure(words, folders)
    except Exception as error:
        return str(error)


@pytest.mark.parametrize("old", LINES)
def test_an_old_word_composes_what_todays_does_and_says_so_once(old, capsys):
    new = LINES[old]
    expected = composed(new)
    assert capsys.readouterr().err == ""
    assert composed(old) == composed(old) == expected
    told = capsys.readouterr().err.splitlines()
    assert told and len(set(told)) == len(told)
    assert all(line.endswith("; this run takes it so") for line in told)
    words = [to_original_override(word) for word in words_of(new)]
    assert to_current_overrides(words, [], quiet=True) == words_of(new)


def test_every_question_is_one_of_a_task():
    texts = [file.read_text() for file in (get_builtin_conf() / "task").glob("*.yaml")]
    for old, new in CURRENT_QUESTIONS.items():
        assert any(f'question: "{new}"' in text for text in texts), old


def test_every_old_name_is_tried():
    for name in NAMES:
        key, _, choice = name.partition("=")
        assert any(key in line and choice in line for line in LINES), name


@pytest.mark.parametrize("new", LINES.values())
def test_a_saved_config_of_old_words_is_the_one_of_todays(new):
    config = composed(new)
    if isinstance(config, str):  # ~model.encoder.mask is refused, in both
        return
    saved = to_original_names(config)
    assert (
        CURRENT_QUESTIONS.get(saved["task"]["question"], config["task"]["question"])
        == (config["task"]["question"])
    )
    assert saved != config and to_current_names(saved) == config
    # The sweep's job and the ledger's entry are the same.
    assert compute_identity(saved) == compute_identity(config)
    assert compute_config_hash(saved) == compute_config_hash(config)
    # Values that changed during a run are kept by dotted keys.
    patch = {"job": {"patch": {"model.reader.units": 8, "data.scale": "standardise"}}}
    assert to_current_names(patch) == {
        "job": {"patch": {"model.encoder.units": 8, "data.scale": "standardize"}}
    }


def test_old_words_in_files_of_the_users_own(tmp_path, capsys):
    files = {
        "reader/mine.yaml": "defaults: [lstm, _self_]\nunits: 5\n",
        "model/mine.yaml": "defaults: [combined, override /reader@reader: mine, _self_]\n"
        "readers: {}\nreader: {mask: false}\n",
        "experiment/mine.yaml": "# @package _global_\ndefaults:\n"
        "  - override /task: similarity\n  - override /model: mine\n"
        "  - override /augment: [colour]\nmodel:\n  dense: ['${model.reader.units}']\n",
        "space/mine.yaml": "model.reader.units: [4, 8]\n",
    }
    for name, text in files.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(text)
    config = composed("experiment=mine")
    assert config["model"]["encoder"]["units"] == 5 and config["model"]["dense"] == [5]
    assert config["model"]["encoder"]["mask"] is False and "color" in config["augment"]
    assert "reader" not in str(sorted(config["model"]))
    told = capsys.readouterr().err
    assert f"{tmp_path / 'conf/model/mine.yaml'}: reader is now called encoder" in told
    assert f"{tmp_path / 'conf/experiment/mine.yaml'}: augment=colour is now called" in told
    assert composed("experiment=mine") == config and capsys.readouterr().err == ""
    assert "mine" in list_all_groups([tmp_path / "conf"])["encoder"]
    chosen = composed("task=similarity model=lstm reader@model.reader=mine")
    assert chosen["model"]["encoder"]["units"] == 5
    assert expand_search_space(["mine"], [tmp_path / "conf"]) == ["model.encoder.units=4,8"]


def test_the_users_own_settings_and_options_keep_their_names(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_words.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Linear):\n"
        "    def __init__(self, reader):\n        super().__init__(1, 1)\n"
    )
    for group in ("model", "augment", "experiment"):
        (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text("_target_: my_words.Net\nreader: 3\n")
    (tmp_path / "conf/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults: [override /model: mine]\n"
    )
    light = yaml.safe_load((get_builtin_conf() / "augment/light.yaml").read_text())
    (tmp_path / "conf/augment/colour.yaml").write_text(yaml.safe_dump({"shift": light["shift"]}))
    for choice in ("model=mine", "experiment=mine"):
        words = f"{choice} augment=colour model.reader=4 plugins=[my_words]"
        folders, overrides = split_config_folders(words.split())
        assert overrides == words.split()
        config = configure(overrides, folders, ("my_words",))
        assert config["model"]["reader"] == 4 and list(config["augment"]) == ["shift"]
    model = {"model": config["model"]}
    assert to_current_names(model) == to_original_names(model) == model
    assert "now called" not in capsys.readouterr().err


def test_an_old_command_is_taken(capsys):
    for old, new in CURRENT_COMMANDS.items():
        assert main([old]) == main([new]) == 2
        told = capsys.readouterr().err.splitlines()
        assert told[0] == f"dlrun: dlrun {old} is now called dlrun {new}; this run takes it so"
        assert told[1] == told[2]
    with contextlib.redirect_stdout(io.StringIO()) as listed:
        assert main(["ls", "readers"]) == main(["ls", "encoder"]) == 0
    assert listed.getvalue().count("conv_gru") == 2


@pytest.mark.parametrize("search", [[], ["sweep.method=random", "sweep.trials=3"]])
def test_a_sweep_of_old_words_goes_on_with_todays(tmp_path, capsys, search):
    rows = "".join(f"{number},{number % 7},{number % 2}\n" for number in range(40))
    (tmp_path / "rows.csv").write_text("a,b,y\n" + rows)
    words = ["-m", "task=csv", "data.path=rows.csv", "data.target=y", "preset=smoke", *search]
    assert main([*words, "data.scale=standardise,none"]) == 0
    (folder,) = tmp_path.glob("outputs/csv/sweep/*")
    if search:  # what was drawn is drawn again
        journal = (folder / "search.jsonl").read_text()
        assert "standardise" in journal and "standardize" not in journal
    # As an older dlrun has left it.
    for file in (folder / "sweep.yaml", folder / "sweep.jsonl", *folder.glob("*/config.yaml")):
        file.write_text(file.read_text().replace("standardize", "standardise"))
    left = (folder / "sweep.jsonl").read_text()
    capsys.readouterr()
    assert main([*words, "data.scale=standardize,none"]) == 0
    told = capsys.readouterr()
    assert "this sweep is there, with " in told.out and "an older dlrun" not in told.out
    assert (folder / "sweep.jsonl").read_text() == left and told.err == ""
    # An old run and one of today with the same settings differ in nothing.
    old = folder / "000" if "standardise" in (folder / "000/config.yaml").read_text() else None
    if old is not None:
        assert main(["rerun", str(old), "output=again"]) == 0
        (again,) = tmp_path.glob("again/csv/*/*")
        capsys.readouterr()
        assert main(["compare", str(old), str(again)]) == 0
        assert "scale" not in capsys.readouterr().out
