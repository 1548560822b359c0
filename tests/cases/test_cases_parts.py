"""What strangers' folders may not do: case 41. Every command, every key of a config, and what lies beside it."""

import ast
import functools
import importlib
import json
import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from made_up import trained_run

import dlrun
from dlrun.cli.main import main

SRC = Path(dlrun.__file__).parent
EVIL = (
    {"_target_": "os.system", "command": "touch PWNED"},
    {"_target_": "torch.nn.attention._fa3._fa3_import_module", "module_path": "evil"},
    {
        "_target_": "dlrun.models.pretrained.earlier_run.load_run_model",
        "folder": {"_target_": "dlrun.data.shards.npz_dataset.check_shard_folder", "path": "other"},
        "plugins": ["os", "posix"],
    },
    {"_target_": "dlrun.core.environment._run_git", "words": ["status"]},
    {"_target_": "dlrun.data.images.archives.fetch", "path": "PWNED"},
    {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "evil", "source": "local"},
    {"_target_": "evil.run"},
    {"_target_": {"_target_": "os.system", "command": "touch PWNED"}},
)
COMMANDS = (
    *(
        "resume RUN",
        "rerun RUN",
        "evaluate RUN",
        "predict RUN shown.png",
        "generate RUN",
        "visualize RUN",
    ),
    *("neighbors RUN word", "final RUN", "report RUN", "compare RUN RUN"),
)
RUNS = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "socket.bind",
)
watched: dict[str, object] = {"on": False}


def hook(event, arguments):
    """What no folder may bring about: it is noted while `watching`, and does not happen."""
    if not watched["on"]:
        return
    git = (
        event == "subprocess.Popen" and arguments[0] == "git"
    )  # environment.json says at which commit a run began
    bad = (event in RUNS and not git) or (
        event == "import" and arguments[0].partition(".")[0] == "evil"
    )
    if (
        event == "open"
        and isinstance(arguments[0], str)
        and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ):
        place = os.path.abspath(arguments[0])
        bad = not place.startswith((*watched["may"], os.environ["XDG_CACHE_HOME"], "/dev/"))
    if bad:
        watched["seen"].append((event, arguments))
        raise RuntimeError(f"{event} {arguments}")


sys.addaudithook(hook)


@contextmanager
def watching(*may):
    """Inside, nothing runs, and nothing is written but in these folders and the cache; afterwards that is held."""
    watched.update(on=True, may=[str(place) + os.sep for place in may], seen=[])
    try:
        yield
    finally:
        watched["on"] = False
    assert watched["seen"] == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, which lies in a folder with a module `evil`."""
    place = tmp_path_factory.mktemp("stranger")
    run = trained_run(place, "callback=none")
    (place / "evil.py").write_text(
        "open('PWNED', 'w').write('evil')\ndef run(*_, **__): return 1e-3\n"
    )
    return run


@pytest.fixture
def run(finished, monkeypatch):
    """The same, from its own folder, as it was when it was finished."""
    monkeypatch.chdir(finished.parent)
    monkeypatch.setattr(sys, "path", [str(finished.parent), *sys.path])
    kept = {
        name: (finished / name).read_bytes()
        for name in ("config.yaml", "command.txt", "results.jsonl")
    }
    yield finished
    for name, content in kept.items():
        (finished / name).unlink(missing_ok=True)
        (finished / name).write_bytes(content)
    assert not (finished.parent / "PWNED").exists()


def every_key(node, prefix=()):
    """Every key of a config, outer ones first."""
    for key, value in node.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from every_key(value, (*prefix, key))


def put(config, keys, value):
    """A copy of a config with one value set."""
    copy = yaml.safe_load(yaml.safe_dump(config))
    node = copy
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return copy


def one_line(capsys):
    """What was refused: one line a fault, and no traceback."""
    seen = capsys.readouterr()
    assert seen.err.startswith("dlrun: ") and all(
        line.startswith("dlrun: ") for line in seen.err.splitlines()
    )
    assert "Traceback" not in seen.err + seen.out
    return seen.err


def test_row_41_no_key_of_a_config_runs_anything(run, capsys):
    config = yaml.safe_load((run / "config.yaml").read_text())
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    keys = list(every_key(config))
    assert len(keys) > 80
    for number, key in enumerate(keys):
        evil, command = EVIL[number % len(EVIL)], COMMANDS[number % 8]
        (run / "config.yaml").write_text(yaml.dump(put(config, key, evil), Dumper=dumper))
        with watching():
            assert main([word.replace("RUN", str(run)) for word in command.split()]) == 2, (
                key,
                command,
                evil,
            )
        one_line(capsys)


def test_row_41_no_command_runs_anything(run, capsys):
    config = yaml.safe_load((run / "config.yaml").read_text())
    places = (("model",), ("model", "activation"), ("metric", "x"))
    for number, command in enumerate(COMMANDS * len(places)):
        key, evil = places[number // len(COMMANDS)], EVIL[number % len(EVIL)]
        (run / "config.yaml").write_text(yaml.safe_dump(put(config, key, evil)))
        with watching(run):
            code = main([word.replace("RUN", str(run)) for word in command.split()])
        assert code == 2 or command.split()[0] in ("report", "compare"), (key, command, evil)
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("evil", EVIL, ids=str)
def test_row_41_nor_does_a_patch_of_a_fit(run, capsys, evil):
    text = (run / "results.jsonl").read_text()
    line = json.loads(text.splitlines()[0])
    line["job"]["patch"] = {"model.activation": evil}
    (run / "results.jsonl").write_text(json.dumps(line) + "\n")
    with watching(run):
        assert main(["predict", str(run), "shown.png"]) == 2
    one_line(capsys)


def test_row_41_a_run_that_another_stands_on_runs_nothing(run, capsys, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(put(config, ("model", "activation"), EVIL[0])))
    members = [
        "task=digits",
        "preset=smoke",
        "model=ensemble",
        f"model.members=[{run}]",
        f"output={tmp_path}",
    ]
    base = [
        "task=digits",
        "preset=smoke",
        "model=pretrained",
        f"model.weights={run}",
        f"output={tmp_path}",
    ]
    for words in (members, base):
        with watching(tmp_path):
            assert main(words) == 2
        one_line(capsys)


def kinds():
    """Each kind of part with dlrun's own parts of it."""
    from dlrun.config import parts

    return {kind: parts.list_builtin_parts(kind) for kind in parts.PART_KINDS}


def test_row_41_each_key_takes_parts_of_its_own_kind_alone():
    from dlrun.config import parts
    from dlrun.core.errors import UserError

    table = kinds()
    assert all(table.values())
    for kind, mine in table.items():
        for target in set().union(*table.values()):
            if target in mine:
                parts.check_target(target, kind)
            else:
                with pytest.raises(UserError, match="is not allowed"):
                    parts.check_target(target, kind)


def test_row_41_nothing_else_of_dlrun_can_be_named():
    from dlrun.config import parts

    known = set().union(*kinds().values())
    defined = {
        f"dlrun.{'.'.join(path.relative_to(SRC).with_suffix('').parts)}.{name.name}"
        for path in SRC.rglob("*.py")
        for name in ast.parse(path.read_text()).body
        if isinstance(name, ast.FunctionDef | ast.ClassDef)
    }
    assert len(defined) > 1500
    assert [name for name in defined - known if parts.is_part(name, parts.ANY_KIND)] == []


def test_row_41_no_part_takes_plugins_imports_by_name_or_executes():
    from dlrun.config.signatures import find_symbol

    for target in set().union(*kinds().values()):
        if target.startswith("dlrun."):
            part, path = find_symbol(target)
            of_all = [
                each.args + each.kwonlyargs
                for each in ast.walk(part)
                if isinstance(each, ast.arguments)
            ]
            assert "plugins" not in {argument.arg for each in of_all for argument in each}, target
            assert not called(path) & {
                "exec",
                "eval",
                "__import__",
                ".import_module",
                ".system",
                ".Popen",
            }, target


@functools.cache
def called(path):
    """What a module calls: functions by name, methods with a dot before theirs."""
    calls = [
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    return {
        f".{call.attr}" if isinstance(call, ast.Attribute) else getattr(call, "id", "")
        for call in calls
    }


def test_row_41_whoever_builds_says_of_which_kind():
    calls = [
        (path.name, call)
        for path in SRC.rglob("*.py")
        if " build" in path.read_text()
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "build_part"
    ]
    assert len(calls) > 8
    assert [
        name for name, call in calls if "kind" not in [each.arg for each in call.keywords]
    ] == []


def test_row_41_what_a_part_builds_has_the_packages_of_its_caller(tmp_path, monkeypatch):
    from dlrun.config.instantiate import build_part
    from dlrun.core.errors import UserError

    text = "from dlrun.config.instantiate import build_part as build\ndef inner(): return 7\n"
    (tmp_path / "minepkg.py").write_text(
        text + "def outer(): return build({'_target_': 'minepkg.inner'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert build_part({"_target_": "minepkg.outer"}, kind="model", plugins=("minepkg",)) == 7
    with pytest.raises(UserError, match="plugins=.minepkg."):
        build_part({"_target_": "minepkg.inner"}, kind="model")


@pytest.mark.parametrize(
    "module", ["torch.nn", "torch.optim", "torch.optim.lr_scheduler", "torchvision.transforms.v2"]
)
def test_row_41_of_a_library_only_its_classes_are_parts(module):
    from dlrun.config import parts
    from dlrun.config.instantiate import import_target
    from dlrun.core.errors import UserError

    kind = next(kind for kind, modules in parts.LIBRARY_MODULES.items() if module in modules)
    home, _, base = parts.LIBRARY_CLASSES[module].rpartition(".")
    wanted = getattr(importlib.import_module(home), base)
    taken = 0
    for name, found in vars(importlib.import_module(module)).items():
        try:
            import_target(f"{module}.{name}", kind, ())
        except UserError:
            continue
        taken += 1
        assert isinstance(found, type) and issubclass(found, wanted), name
    assert taken > 10


def test_row_41_packages_are_named_on_the_command_line_alone(run, capsys):
    (run / "command.txt").write_text(
        "dlrun task=digits preset=smoke plugins=[evil] model._target_=evil.run\n"
    )
    for words in (
        ["rerun", str(run), "seed=2"],
        ["task=digits", "plugins=[os]"],
        ["task=digits", "plugins=[torch]"],
    ):
        with watching():
            assert main(words) == 2
        one_line(capsys) if words[0] != "rerun" else capsys.readouterr()
    (run / "command.txt").write_text(
        "dlrun workflow task=digits plugins=[evil] model._target_=evil.run\n"
    )
    with watching():
        assert main(["rerun", str(run)]) == 2
    assert "evil.run' is not allowed" in capsys.readouterr().err


def test_row_41_a_run_is_not_done_again_where_its_folder_says(run, capsys, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key, value in (
        (("output",), str(tmp_path / "elsewhere")),
        (("task", "name"), "../../elsewhere"),
    ):
        (run / "config.yaml").write_text(yaml.safe_dump(put(config, key, value)))
        with watching():
            assert main(["rerun", str(run)]) == 2
        one_line(capsys)
    assert not (tmp_path / "elsewhere").exists()


LINKS = (
    "history.jsonl",
    "log.txt",
    "report.html",
    "checkpoints",
    "predictions",
    "checkpoints/fit/last.pt.new",
)


@pytest.mark.parametrize("name", LINKS)
def test_row_41_nothing_is_written_through_a_link(run, capsys, tmp_path, name):
    target, place = tmp_path / "bashrc", run / name
    target.write_text("mine\n")
    aside = tmp_path / "aside"
    if place.exists():
        place.rename(aside)
    place.symlink_to(tmp_path if place.suffix == "" else target)
    try:
        for command in ("resume", "evaluate", "report"):
            with watching(run):
                assert main([command, str(run)]) == 2
            assert "is a link out of the run folder" in one_line(capsys)
    finally:
        place.unlink()
        if aside.exists():
            aside.rename(place)
    assert target.read_text() == "mine\n" and sorted(os.listdir(tmp_path)) == ["bashrc"]


@pytest.mark.parametrize("name", ["../../../elsewhere", "/tmp/elsewhere", ".."])
def test_row_41_the_name_of_a_fit_leads_nowhere_else(run, capsys, name):
    text = (run / "results.jsonl").read_text()
    (run / "results.jsonl").write_text(text.replace('"stage": "fit"', f'"stage": "{name}"'))
    for command in ("evaluate RUN", "predict RUN shown.png", "report RUN"):
        with watching(run):
            code = main([word.replace("RUN", str(run)) for word in command.split()])
        assert code == 2 or command.startswith("report")
        assert "Traceback" not in capsys.readouterr().err


def test_row_41_nor_does_that_of_a_fit_that_was_cut(run, capsys):
    (run / "results.jsonl").write_text("")
    job = {"stage": "../../elsewhere"}
    cut = {"../../elsewhere": {"job": job, "why": "nan", "diverged": False}}
    (run / "unfinished.json").write_text(json.dumps(cut))
    try:
        for command in ("evaluate RUN", "predict RUN shown.png", "visualize RUN"):
            with watching(run):
                assert main([word.replace("RUN", str(run)) for word in command.split()]) == 2
            one_line(capsys)
    finally:
        (run / "unfinished.json").unlink()


ENDLESS = {
    "itself": "a: &a [*a]\n",
    "many times itself": "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip(
        "abcdefghijkl", "bcdefghijklm", strict=True)),
    "a tag": "a: !!python/object/apply:os.system ['touch PWNED']\n",
    "deep": "a: " + "[" * 900 + "]" * 900 + "\n",
}  # fmt: skip


@pytest.mark.parametrize("what", ENDLESS)
def test_row_41_a_config_without_end_is_refused(run, capsys, what):
    path = run / "config.yaml"
    path.write_text(
        path.read_text()
        + "extra:\n"
        + "".join(f"  {line}\n" for line in ENDLESS[what].splitlines())
    )
    for command in ("resume", "evaluate"):
        with watching():
            assert main([command, str(run)]) == 2
        one_line(capsys)


def test_row_41_modules_of_the_working_folder_are_not_looked_for(tmp_path):
    (tmp_path / "yaml.py").write_text("open('PWNED', 'w')\n")
    words = [sys.executable, "-m", "dlrun", "--version"]
    again = shlex.join([sys.executable, "-m", "dlrun", "task=digits", "--cfg", "job"])
    for line in (shlex.join(words), again):
        subprocess.run(line, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert not (tmp_path / "PWNED").exists()
