"""How files are brought from the web: by pooch, with patience that ends, and a bar on a terminal."""

from __future__ import annotations

import sys
from typing import Any

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces


def downloader(name: str) -> Any:
    """What brings a file: a function of (url, path, None). Raises requests' errors."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    bar = Bar(name) if sys.stderr.isatty() else False
    return pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=TIMEOUT)


def reason(error: Exception) -> str:
    """Why a download failed, in a few words."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status:
        return f"answers {status}"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "gave a file with another sha256"
    name = type(error).__name__
    return {"ConnectionError": "no connection", "ChunkedEncodingError": "broke off"}.get(name, name)


class Bar:
    """The progress bar that pooch drives: one line on the terminal."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0
        self.done = 0

    def update(self, size: int) -> None:
        self.done += size
        share = f"{min(100, 100 * self.done // self.total):3d} %" if self.total else f"{self.done >> 20} MiB"
        sys.stderr.write(f"\r{self.name}: {share}")
        sys.stderr.flush()

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        sys.stderr.write("\n")
