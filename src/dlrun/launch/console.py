"""The console of a run: what it prints on the terminal is also written to the run's log.txt."""

from __future__ import annotations

import io
import logging
from typing import Any

from rich.console import Console
from rich.control import Control

WIDTH = 120  # of tables in the log


class RecordingConsole(Console):
    """A console that also writes what it prints to log handlers.

    Attributes:
        logs: The handlers that receive every printed line as plain text.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(highlight=False, quiet=quiet)
        self.logs: list[logging.Handler] = []

    def print(self, *objects: Any, **options: Any) -> None:
        """Print on the terminal and, as plain text, into the logs.

        Args:
            objects: What to print, as for `rich.console.Console.print`.
            options: Keyword arguments of that method.
        """
        super().print(*objects, **options)
        # Control codes move the cursor of a live display; in a file they would be noise.
        if self.logs and not self.quiet and not all(isinstance(item, Control) for item in objects):
            # A second console with a fixed width, so that the log does not depend on the
            # terminal's.
            plain = Console(file=io.StringIO(), width=WIDTH, highlight=False, color_system=None)
            plain.print(*objects, **options)
            self.log_only(plain.file.getvalue())  # type: ignore[attr-defined]

    def print_only(self, text: str) -> None:
        """Print text that the logs already hold."""
        super().print(text, soft_wrap=True, markup=False)

    def log_only(self, text: str) -> None:
        """Write text to the logs that the terminal does not show."""
        lines = [line.rstrip() for line in text.splitlines()]
        if any(lines):
            # The record goes past the logger: its terminal handler would print the text a second
            # time.
            record = logging.LogRecord(
                "dlrun", logging.INFO, "", 0, "\n".join(lines).strip("\n"), (), None
            )
            for handler in self.logs:
                handler.handle(record)
