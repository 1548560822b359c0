"""The log of a run: what is said goes to the terminal and to log.txt."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.core.errors import FileWriteError, UserError

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def log_to_folder(folder: Path, console: Console) -> Iterator[None]:
    """Inside, dlrun's log goes to the run's log.txt in full, with what a console of the run shows, and to that."""
    from dlrun.core.run_folder import DuplicateFilter, RunFolder
    from dlrun.launch.console import RecordingConsole

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(console, RecordingConsole):
                console.print_only(record.getMessage())
            else:
                console.print(record.getMessage(), soft_wrap=True, markup=False)

    logger = logging.getLogger("dlrun")
    handlers = [RunFolder(folder).make_log_handler(), Lines()]
    handlers[1].addFilter(DuplicateFilter())
    logs = console.logs if isinstance(console, RecordingConsole) else []
    logs.append(handlers[0])
    level = logger.level
    logger.setLevel(logging.INFO)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    except (UserError, FileWriteError) as error:
        handlers[0].handle(logger.makeRecord("dlrun", logging.ERROR, "", 0, str(error), (), None))
        raise
    except Exception:
        handlers[0].handle(
            logger.makeRecord("dlrun", logging.ERROR, "", 0, "failed", (), sys.exc_info())
        )
        raise
    finally:
        logs.remove(handlers[0])
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
