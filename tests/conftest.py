"""One thread a test run: small steps gain nothing from more, and wait for each other where the machine is shared.
And a cache of its own: no test reads or writes the user's."""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from base64 import b64decode
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XDG_CACHE_HOME"] = cache = tempfile.mkdtemp(prefix="dlrun-tests-")
atexit.register(shutil.rmtree, cache, ignore_errors=True)

SEEN = {  # tests that look at what is drawn; elsewhere a dot stands for it, for to draw is half of a small run
    *("test_autoencoder", "test_commands_light", "test_dream", "test_explain", "test_gallery"),
    *("test_lr", "test_making", "test_pictures", "test_policy", "test_report_browser", "test_report_events"),
    *("test_report_run", "test_report_sweep", "test_report_workflow", "test_rotations", "test_show", "test_shown"),
    *("test_series_naive", "test_variational", "test_visualize"),
}
DOT = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=")


@pytest.fixture(autouse=True, scope="module")
def sketches(request):
    """A dot in the place of each picture, where nobody looks; gives what draws."""
    from matplotlib.figure import Figure

    def write(figure, file, *_, **__):
        file.write(DOT) if hasattr(file, "write") else Path(file).write_bytes(DOT)

    with pytest.MonkeyPatch.context() as patch:
        ordinary = Figure.savefig
        if request.module.__name__ not in SEEN:
            patch.setattr(Figure, "savefig", write)
        yield ordinary


@pytest.fixture
def drawn(sketches, monkeypatch):
    """A test that looks at what is drawn, among others that do not."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", sketches)


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
