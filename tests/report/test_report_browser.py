"""The report in a real browser: no fault, every image there, nothing asked of a network, as wide as a phone."""

import json
import os
import re
import shutil
import subprocess
from html import unescape

import pytest
from beside import LIMIT
from made_up_workflow import reports

from dlrun.report.build import POLICY

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome here"
)
PICTURES = {"binary": 14, "folds": 5, "stopped": 2, "plain": 2, "compared": 2}
PHONE, DESK = 390, 1200
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--enable-logging=stderr",
)
FLAGS += (
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--allow-file-access-from-files",
)
ASK = """<script>addEventListener("load", () => { document.documentElement.dataset.seen = JSON.stringify({
images: [...document.images].map(image => image.naturalWidth), scripts: document.scripts.length,
inner: innerWidth, wide: document.documentElement.scrollWidth,
cut: [...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth).length,
asked: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:")),
}) })</script>"""
RELAY = """<script>addEventListener("load", () => { document.body.dataset.seen = JSON.stringify(
[...document.querySelectorAll("iframe")].map(
frame => frame.contentDocument.documentElement.dataset.seen)) })</script>"""


def browse(folder, words):
    """What a browser started with these words writes on stdout, and its console's lines."""
    own = {name: str(folder / "home") for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'home'}", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, env=os.environ | own, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def look(folder, texts):
    """What a browser says of pages, each on a phone and on a desk: (name, width) → what it saw; the console's lines.

    Into each copy one script of ours is let that asks; all of them are framed in one page, as browsers start slowly.
    """
    frames = []
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text.replace("</head>", f"{ASK}</head>", 1))
        frames += [
            f'<iframe src="{name}.html" style="width:{wide}px;height:900px"></iframe>'
            for wide in (PHONE, DESK)
        ]
    style = "<style>iframe { border: 0 }</style>"
    (folder / "frames.html").write_text(f"{style}<body>{''.join(frames)}{RELAY}</body>")
    out, console = browse(folder, ["--dump-dom", (folder / "frames.html").as_uri()])
    found = [
        json.loads(text) for text in json.loads(unescape(re.search(r'data-seen="([^"]*)"', out)[1]))
    ]
    return dict(
        zip([(name, wide) for name in texts for wide in (PHONE, DESK)], found, strict=True)
    ), console


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    texts = {name: files[-1].read_text() for name, files in reports().items()}
    assert all(POLICY in text for text in texts.values())
    allowed = {
        name: text.replace(POLICY, f"{POLICY}; script-src 'unsafe-inline'")
        for name, text in texts.items()
    }
    return look(tmp_path_factory.mktemp("pages"), allowed)


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", PICTURES)
def test_a_browser_shows_every_picture_in_the_width_there_is_and_asks_for_nothing(
    name, width, looked
):
    found = looked[0][name, width]
    assert len(found["images"]) == PICTURES[name] and all(found["images"])
    assert found["inner"] == width and found["wide"] == width and found["cut"] == 0
    assert found["asked"] == [] and found["scripts"] == 1


def test_nothing_is_told_on_the_console(looked):
    assert looked[1] == []


def test_each_of_these_faults_would_be_told(tmp_path):
    bad = """<html><head></head><body style="margin:0"><img src="no.png"><img src="http://example.invalid/a.png">
    <script>throw new Error("failed")</script><div style="width:900px">wide</div>
    <div class="scroll" style="width:100px; overflow-x:auto"><p style="width:200px">cut</p></div></body></html>"""
    pages, console = look(tmp_path, {"bad": bad})
    found = pages["bad", PHONE]
    assert (
        found["images"] == [0, 0]
        and found["wide"] == 900
        and found["scripts"] == 2
        and found["cut"] == 1
    )
    assert "http://example.invalid/a.png" in found["asked"]
    assert any("failed" in line for line in console)


def test_every_picture_is_printed(tmp_path):
    paper = tmp_path / "page.pdf"
    browse(tmp_path, [f"--print-to-pdf={paper}", reports()["folds"][-1].as_uri()])
    assert paper.read_bytes().count(b"/Subtype /Image") == PICTURES["folds"]
