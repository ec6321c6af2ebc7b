"""Signals at the command: all that ask it to end interrupt it alike, and none interrupts the cleaning up."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 0.05


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

    SIGINT too: a command started with ``&`` from a script inherits it as ignored. Where Python cannot hand the
    exception on, as in a finaliser that happens to run, the signal is raised again.
    """
    for number in ENDING:
        signal.signal(number, _interrupt)
    before = sys.unraisablehook

    def unraisable(lost: "UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, Interrupted):
            # To the main thread itself: what it waits for is only ended by a signal of its own.
            target = (threading.main_thread().ident, lost.exc_value.number)
            threading.Timer(AGAIN_S, signal.pthread_kill, target).start()
        else:
            before(lost)

    sys.unraisablehook = unraisable


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
