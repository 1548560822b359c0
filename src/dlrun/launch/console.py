"""The console of a run: what it shows on the terminal stands in the run's log.txt too."""

from __future__ import annotations

import io
import logging
from typing import Any

from rich.console import Console
from rich.control import Control

WIDTH = 120  # of tables in the log


class RecordingConsole(Console):
    """A console that keeps what it prints. logs: the handlers that take it."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(highlight=False, quiet=quiet)
        self.logs: list[logging.Handler] = []

    def print(self, *objects: Any, **how: Any) -> None:
        """Print on the terminal, and into the logs as plain text."""
        super().print(*objects, **how)
        if self.logs and not self.quiet and not all(isinstance(each, Control) for each in objects):
            plain = Console(file=io.StringIO(), width=WIDTH, highlight=False, color_system=None)
            plain.print(*objects, **how)
            self.log_only(plain.file.getvalue())  # type: ignore[attr-defined]

    def print_only(self, text: str) -> None:
        """Print what the logs have already."""
        super().print(text, soft_wrap=True, markup=False)

    def log_only(self, text: str) -> None:
        """Put into the logs what the terminal does not show."""
        lines = [line.rstrip() for line in text.splitlines()]
        if any(lines):
            record = logging.LogRecord(
                "dlrun", logging.INFO, "", 0, "\n".join(lines).strip("\n"), (), None
            )
            for handler in self.logs:
                handler.handle(record)
