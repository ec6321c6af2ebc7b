"""The next engine process, made ready while one runs.

Importing compiled code takes seconds, taking up a session a part of one: with a process that has done the first, the
second is all that a restart costs. It has touched nothing that the running one has: no account, no journal, no broker.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from fx_dagster.errors import ServerError
from resources.servers.process import ManagedProcess

GO: Final = b"go\n"
DELAY_S: Final = 15.0
"""Before the next one is made ready: the one that has just begun needs the machine."""
_log = logging.getLogger(__name__)


class Standby:
    """Starts engines for a supervisor, each made ready before it is needed.

    Args:
        start: starts a process that makes itself ready, and begins when it reads ``go`` on its standard input; when
            that ends without, so does it.
        delay_s: pause between a beginning and making the next one ready.
    """

    def __init__(self, start: Callable[[], ManagedProcess], *, delay_s: float = DELAY_S) -> None:
        self._start, self._delay_s = start, delay_s
        self._lock = threading.Lock()
        self._ready: ManagedProcess | None = None
        self._timer: threading.Timer | None = None
        self._closed = False

    def __call__(self) -> ManagedProcess:
        """Return an engine that begins now."""
        with self._lock:
            engine, self._ready = self._ready, None
        if engine is None or not engine.tell(GO):
            engine = self._start()
            engine.tell(GO)
        self._prepare_later()
        return engine

    def close(self) -> None:
        """End the one that waits."""
        with self._lock:
            self._closed = True
            waiting, self._ready = self._ready, None
            if self._timer is not None:
                self._timer.cancel()
        if waiting is not None:
            waiting.kill()

    def _prepare_later(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(self._delay_s, self._prepare)
            self._timer.daemon = True
            self._timer.start()

    def _prepare(self) -> None:
        with self._lock:
            if self._closed or self._ready is not None:
                return
            try:
                self._ready = self._start()
            except ServerError as error:
                _log.warning("no engine is made ready: %s", error)
