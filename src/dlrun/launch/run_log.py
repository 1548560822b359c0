"""The log of a run: messages go to the terminal and to the run's log.txt."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.core.errors import FileWriteError, UserError
from dlrun.core.run_folder import RunFile, RunFolder

if TYPE_CHECKING:
    from rich.console import Console


class TerminalHandler(logging.Handler):
    """Prints the records of the log on a console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        from dlrun.launch.progress import RecordingConsole

        if isinstance(self.console, RecordingConsole):
            # The file handler gets the record itself, so the console must not log it again.
            self.console.print_only(record.getMessage())
        else:
            self.console.print(record.getMessage(), soft_wrap=True, markup=False)


class RunLogHandler(logging.FileHandler):
    """A log file whose write errors do not end the run.

    A full disk is reported by whatever else cannot be written.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line if possible."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging calls it so)
        """Stay silent: logging would print a traceback for every line."""

    def close(self) -> None:
        """Close the file, even where its buffer cannot be written."""
        with suppress(OSError):
            super().close()


class DuplicateFilter(logging.Filter):
    """Lets each message of the data and protocol code through once.

    Every fold prepares the same rows and would repeat them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen_messages: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this message is new."""
        if not {"data", "protocols"} & set(Path(record.pathname.rpartition("dlrun")[2]).parts):
            return True
        text = record.getMessage()
        is_new = text not in self.seen_messages
        self.seen_messages.add(text)
        return is_new


def make_log_handler(folder: Path) -> logging.Handler:
    """A handler that appends to a run's log.txt, and stays silent where it cannot."""
    # delay: the file is made with its first line.
    handler = RunLogHandler(RunFolder(folder).path(RunFile.LOG), encoding="utf-8", delay=True)
    handler.addFilter(DuplicateFilter())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


@contextmanager
def log_to_folder(folder: Path, console: Console) -> Iterator[None]:
    """Inside, dlrun's log goes to the run's log.txt, and to the terminal without duplicates.

    Args:
        folder: The run folder.
        console: The terminal; what a `RecordingConsole` prints goes to log.txt, too.
    """
    from dlrun.launch.progress import RecordingConsole

    logger = logging.getLogger("dlrun")
    file_handler = make_log_handler(folder)
    terminal_handler = TerminalHandler(console)
    terminal_handler.addFilter(DuplicateFilter())
    handlers = [file_handler, terminal_handler]
    logs = console.logs if isinstance(console, RecordingConsole) else []
    logs.append(file_handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    # Errors go to the file alone: whoever called the command prints them on the terminal.
    except (UserError, FileWriteError) as error:
        record = logger.makeRecord("dlrun", logging.ERROR, "", 0, str(error), (), None)
        file_handler.handle(record)
        raise
    except Exception:
        record = logger.makeRecord("dlrun", logging.ERROR, "", 0, "failed", (), sys.exc_info())
        file_handler.handle(record)
        raise
    finally:
        logs.remove(file_handler)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
