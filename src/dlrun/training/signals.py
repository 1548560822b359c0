"""Stop signals: the first one ends training after the current step, a second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class SignalTarget(Protocol):
    """What looks at `interrupted`, the number of a signal, and stops by itself when it is not 0."""

    interrupted: int


@contextmanager
def handle_stop_signal(trainer: SignalTarget) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM let the step end and the state be saved.

    A second one stops at once.
    """

    def ask(number: int, frame: object) -> None:
        if trainer.interrupted:
            # A second signal: the user does not want to wait for the end of the step.
            raise KeyboardInterrupt
        trainer.interrupted = number

    # Python lets only the main thread handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
