"""Official files: found, checked, downloaded by one of two runs, and a message that helps when all that fails."""

import hashlib
import multiprocessing
import os
import stat
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from beside import LIMIT

from dlrun.core.errors import UserError
from dlrun.core.files import data_root as root
from dlrun.data.cache import RemoteFile, fetch

CONTENT = b"official bytes" * 10_000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /good, half of it at /truncated, other bytes at /wrong."""

    served = 0


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.served += 1
        body = {
            "/good": CONTENT,
            "/truncated": CONTENT[: len(CONTENT) // 2],
            "/wrong": b"x" * 100,
        }.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) if self.path != "/wrong" else 100))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(("127.0.0.1", 0), Answer) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def official(server, *pages, elsewhere=()):
    port = server.server_port if server else 9  # nobody answers on port 9
    return RemoteFile(
        "task",
        "file.bin",
        SUM,
        tuple(f"http://127.0.0.1:{port}/{page}" for page in pages),
        elsewhere,
    )


def files(folder):
    return sorted(
        path.name
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    )


def test_root_is_the_environment_variable_or_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path))
    assert root() == tmp_path
    monkeypatch.delenv("DLRUN_DATA")
    assert root().name == "dlrun" and root().is_absolute()


@pytest.mark.parametrize("place", ["task/file.bin", "other/place.bin"])
def test_a_file_that_is_there_is_used_and_nothing_is_written(cache, place):
    path = cache / place
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    before = {entry: entry.stat().st_mtime_ns for entry in cache.rglob("*")}
    for entry in (path.parent, cache):
        entry.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert fetch(official(None, "good", elsewhere=("other/place.bin",))) == path
    finally:
        for entry in (cache, path.parent):
            entry.chmod(0o755)
    assert {entry: entry.stat().st_mtime_ns for entry in cache.rglob("*")} == before


def test_an_absent_file_is_downloaded_once(cache, server):
    for _ in range(2):
        assert fetch(official(server, "good")).read_bytes() == CONTENT
    assert server.served == 1
    assert files(cache) == ["file.bin"]


@pytest.mark.parametrize("bad", ["missing", "truncated", "wrong"])
def test_a_bad_mirror_is_passed_over(cache, server, bad):
    assert fetch(official(server, bad, "good")).read_bytes() == CONTENT
    assert files(cache) == ["file.bin"]


@pytest.mark.parametrize(
    "bad, reason", [("missing", "answers 404"), ("truncated", ""), ("wrong", "another sha256")]
)
def test_a_failed_download_leaves_nothing_and_says_all(cache, server, bad, reason):
    with pytest.raises(UserError) as refused:
        fetch(official(server, bad))
    text = str(refused.value)
    for part in (
        str(cache / "task" / "file.bin"),
        SUM,
        f"/{bad}",
        reason,
        "data.source=sample",
        "preset=smoke",
    ):
        assert part in text
    assert files(cache) == []


def test_without_a_network_the_message_names_file_place_and_way_out(cache):
    with pytest.raises(UserError) as refused:
        fetch(official(None, "good", "mirror"))
    for part in (
        str(cache / "task" / "file.bin"),
        SUM,
        ":9/good",
        ":9/mirror",
        "no connection",
        "data.source=sample",
    ):
        assert part in str(refused.value)


def test_a_wrong_checksum_is_refused_with_both_sums(cache):
    path = cache / "task" / "file.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"tampered")
    with pytest.raises(UserError) as refused:
        fetch(official(None, "good"))
    for part in (str(path), SUM, hashlib.sha256(b"tampered").hexdigest(), "Delete it"):
        assert part in str(refused.value)
    assert path.read_bytes() == b"tampered"


def test_an_unwritable_cache_is_refused(tmp_path, monkeypatch, server):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="cannot be written to.*DLRUN_DATA"):
        fetch(official(server, "good"))


def _fetch_in_a_process(cache, file, results):
    os.environ["DLRUN_DATA"] = cache
    results.put(fetch(file).stat().st_size)


def test_two_runs_share_an_empty_cache(cache, server):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (str(cache), official(server, "good"), results)
    runs = [context.Process(target=_fetch_in_a_process, args=arguments) for _ in range(2)]
    for run in runs:
        run.start()
    assert [results.get(timeout=LIMIT) for _ in runs] == [len(CONTENT)] * 2
    for run in runs:
        run.join()
    assert server.served == 1
