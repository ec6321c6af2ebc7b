"""Signals at the command: all that ask it to end interrupt it alike, and none interrupts the cleaning up."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Args:
        number: the signal that asked.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_received = 0


def received() -> int:
    """Return the signal that asked this process to end, SIGINT if none is known."""
    return _received or int(signal.SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signature of a handler
    global _received
    _received = number
    raise Interrupted(number)


def install() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise :class:`Interrupted` in the main thread.

    SIGINT too: a command started with ``&`` from a script inherits it as ignored.
    """
    for number in ENDING:
        signal.signal(number, _interrupt)


@contextmanager
def patient() -> Iterator[threading.Event]:
    """While inside, an ending signal interrupts nothing but sets the event: whoever cleans up should hurry."""
    hurry = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield hurry
        return

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        hurry.set()

    before = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield hurry
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
