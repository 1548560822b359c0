"""What was read once is read from the cache, unless that is damaged or cannot be written to."""

import numpy as np
import pytest

from dlrun.core.dataset import Ragged
from dlrun.core.files import user_cache
from dlrun.data.cache import RemoteFile, load_or_parse

FILE = RemoteFile("imdb", "some.npz", "0" * 64, ())


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A reader that counts how often it is called; the cache is under tmp_path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")

    def once():
        once.calls += 1
        return Ragged(np.arange(5, dtype=np.int32), np.array([0, 2, 5]))

    once.calls = 0
    return once


def same(found):
    return found.values.tolist() == [0, 1, 2, 3, 4] and found.offsets.tolist() == [0, 2, 5]


def test_a_file_is_read_once(read):
    assert all(same(load_or_parse(FILE, "x", read)) for _ in range(3))
    assert read.calls == 1
    assert same(load_or_parse(FILE, "y", read)) and read.calls == 2  # another member


@pytest.mark.parametrize(
    "damage",
    [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b.replace(b"\x03\0\0\0", b"9999")],
)
def test_a_damaged_copy_is_read_anew(read, damage):
    load_or_parse(FILE, "x", read)
    (copy,) = (user_cache() / "parsed").iterdir()
    whole = copy.read_bytes()
    copy.write_bytes(damage(whole))
    assert copy.read_bytes() != whole
    assert same(load_or_parse(FILE, "x", read)) and read.calls == 2
    assert copy.read_bytes() == whole


def test_without_a_cache_nothing_is_lost(read, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert same(load_or_parse(FILE, "x", read)) and same(load_or_parse(FILE, "x", read))
    assert read.calls == 2
