"""One thread a test run: small steps gain nothing from more, and wait for each other where the machine is shared.
And a cache of its own: no test reads or writes the user's."""

import atexit
import gc
import logging
import os
import pickle
import shutil
import sys
import tempfile
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg as CANVAS
from matplotlib.figure import Figure as FIGURE

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XDG_CACHE_HOME"] = cache = tempfile.mkdtemp(prefix="dlrun-tests-")
atexit.register(shutil.rmtree, cache, ignore_errors=True)

gc.disable()  # until all is imported: see pytest_collection_finish
ROOT = Path(__file__).parents[1]
SEEN = {  # tests that look at what is drawn; elsewhere a dot stands for it, for to draw is half of a small run
    *(
        "test_autoencoder",
        "test_light_commands",
        "test_deep_dream",
        "test_explain",
        "test_largest_errors",
    ),
    *(
        "test_lr_finder",
        "test_generation",
        "test_images",
        "test_policy_gradient",
        "test_report_browser",
        "test_tensorboard",
    ),
    *(
        "test_report_run",
        "test_report_sweep",
        "test_report_workflow",
        "test_rotations",
        "test_show",
        "test_display",
    ),
    *("test_series_baselines", "test_vae", "test_visualize"),
}
DOT = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)


class Blank:
    """What is drawn on where nobody looks: takes all that is done to it, and answers what panels answer."""

    def __getattr__(self, name):
        if name.startswith("__"):  # numpy asks whether it is an array
            raise AttributeError(name)
        known = {
            "get_xlim": (0.0, 1.0),
            "get_ylim": (0.0, 1.0),
            "get_legend_handles_labels": ([], []),
            "plot": [self],
            "get_yticklabels": [self] * 1000,
            "get_xticklabels": [self] * 1000,
        }
        return (lambda *_, **__: known[name]) if name in known else self

    def __call__(self, *_, **__):
        return self

    def __getitem__(self, _):
        return self

    def __iter__(self):
        return iter(())


class Sketch(Blank):
    """A figure of blank panels; the file that it is written to holds a dot."""

    def __init__(self, *_, **__):
        pass

    def subplots(self, rows=1, columns=1, *, squeeze=True, ncols=None, nrows=None, **_):
        panels = np.full((nrows or rows, ncols or columns), Blank(), object)
        if not squeeze:
            return panels
        return panels[0, 0] if panels.size == 1 else panels.squeeze()

    def savefig(self, file, *_, **__):
        file.write(DOT) if hasattr(file, "write") else Path(file).write_bytes(DOT)


def pytest_collection_finish():
    """Garbage is looked for seldom, and never in what is imported: to do so was a tenth of all tests.

    torch, Hydra and matplotlib are hundreds of thousands of objects that stay to the end.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def sketches(request):
    """A sketch in the place of each figure, where nobody looks; in the modules of SEEN it is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ not in SEEN:
            patch.setattr("matplotlib.figure.Figure", Sketch)
            patch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg", Blank())
        yield


@pytest.fixture(autouse=True, scope="session")
def parsed_once():
    """Files of dlrun and Hydra are parsed once: to parse two dozen of them anew is a third of composing a run."""
    import hydra
    from omegaconf import OmegaConf

    from dlrun.config.parts import get_builtin_conf

    folders = get_builtin_conf().resolve(), Path(hydra.__file__).parent / "conf"
    shipped, load, known = tuple(f"{folder}{os.sep}" for folder in folders), OmegaConf.load, {}

    def remembered(file):
        name = str(getattr(file, "name", file))
        if not name.startswith(shipped):
            return load(file)
        if name not in known:
            known[name] = pickle.dumps(load(file))  # is read five times faster than it is copied
        return pickle.loads(known[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", remembered)
        yield


@pytest.fixture(autouse=True, scope="session")
def composed_once(parsed_once):
    """Each choice of parts is put together once, and copied: Hydra takes a tenth of a second for it.

    Words are read, and values set, by Hydra as ever; where a file of a user's folder changes all is done anew.
    """
    from hydra._internal import config_loader_impl as hydra
    from hydra._internal.defaults_list import Overrides

    from dlrun.config.parts import get_builtin_conf

    listed, put_together = (
        hydra.create_defaults_list,
        hydra.ConfigLoaderImpl._compose_config_from_defaults_list,
    )
    shipped, lists, configs = str(get_builtin_conf()), {}, {}

    def files(source):
        """What decides what is read from there: of a user's folder all that stands in it."""
        if source.scheme() not in ("file", "dlrunuser") or source.path == shipped:
            return source.path
        found = sorted(path for path in Path(source.path).rglob("*.yaml") if path.is_file())
        return tuple((path.relative_to(source.path), path.read_bytes()) for path in found)

    def create_defaults_list(repo, overrides_list, **named):
        values = Overrides(repo, overrides_list).config_overrides
        chosen = (
            each.input_line for each in overrides_list if not any(each is value for value in values)
        )
        if (key := (*chosen, *named.items(), *map(files, repo.get_sources()))) not in lists:
            lists[key] = listed(repo, overrides_list=overrides_list, **named)
            configs[id(lists[key].defaults)] = None
        return replace(lists[key], config_overrides=values)

    def compose(loader, defaults, repo):
        configs[id(defaults)] = configs[id(defaults)] or pickle.dumps(
            put_together(loader, defaults, repo)
        )
        return pickle.loads(configs[id(defaults)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydra, "create_defaults_list", create_defaults_list)
        patch.setattr(hydra.ConfigLoaderImpl, "_compose_config_from_defaults_list", compose)
        yield


@pytest.fixture(autouse=True, scope="session")
def answered_at_once():
    """No test cuts the power, so none waits for the disk; git is asked where there is a checkout, of this one once."""
    from dlrun.core import environment

    ask, known = environment._run_git, {}

    def asked(*words):
        here = Path.cwd()
        if (
            "-C" in words
            or here != ROOT
            and any((folder / ".git").exists() for folder in (here, *here.parents))
        ):
            return ask(*words)
        if here == ROOT and words not in known:
            known[words] = ask(*words)
        return known[words] if here == ROOT else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(environment, "_run_git", asked)
        yield


@pytest.fixture
def drawn(sketches, monkeypatch):
    """A test that looks at what is drawn, among others that do not."""
    monkeypatch.setattr("matplotlib.figure.Figure", FIGURE)
    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg", CANVAS)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder of its own, which no run may write to."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield here
    assert Path.cwd() == here
    assert not logging.getLogger("dlrun").handlers
