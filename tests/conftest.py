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

UNSEEN = {  # tests that look at no picture: to draw them is half of a small run
    *(
        "test_callbacks",
        "test_cases_tables",
        "test_cases_own",
        "test_cases_words",
        "test_cases_parts",
        "test_cases_typed",
        "test_cases_fuzz",
        "test_commands_run",
        "test_ensemble",
        "test_images",
        "test_neighbours",
        "test_predict",
        "test_pretrained",
        "test_preview",
        "test_run_fixtures",
        "test_stages",
        "test_sweeps",
        "test_text_sources",
    ),
    *(
        "test_cases_losses",
        "test_cases_metrics",
        "test_workflow",
        "test_workflow_order",
        "test_workflow_seal",
        "test_wrong_inputs",
    ),
}
DOT = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=")


@pytest.fixture(autouse=True)
def sketches(request, monkeypatch):
    """A dot in the place of each picture, where nobody looks."""
    if request.module.__name__ in UNSEEN:
        write = lambda figure, file, *_, **__: Path(file).write_bytes(DOT)  # noqa: E731
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", write)


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
