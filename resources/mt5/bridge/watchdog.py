"""Keeps one worker: hands it a call at a time, ends it when a call takes too long, and starts it anew.

A question that was in a worker which ended has failed; an order that was in it is unknown. The keys on disk know which
one that was, so that it is never sent again.
"""

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

from fx_dagster.errors import BrokerError, DataError, FencedError, FxError, SettingsError
from resources.mt5.bridge import frames
from resources.mt5.bridge import wire_pb2 as wire
from resources.mt5.bridge.worker import WorkerConfig

PROJECT_ROOT: Final = Path(__file__).resolve().parents[3]
RESTART_PAUSE_S: Final = 0.25
RESTART_PAUSE_S_MAX: Final = 10.0
TURN_WAIT_S: Final = 0.5
_SECRET_VARIABLES: Final = ("FX_BRIDGE_TOKEN", "FX_BRIDGE_PASSWORD")
_LOG = logging.getLogger("fx.bridge")


class NotHandedOverError(BrokerError):
    """The call did not reach the worker: nothing was done."""


class LostCallError(BrokerError):
    """The worker ended in the call, or could not answer it: what it did is not known."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of the worker and its terminal.

    Attributes:
        ready: whether calls are answered, on the right account.
        reason: why not.
        trading_allowed: whether broker and terminal let programs trade.
        trading_reason: why not.
        now_ns: the market's clock at the last heartbeat, ns UTC.
        beat_s: monotonic time of the last heartbeat; 0: none.
        starts: of workers.
        quote_msc: newest quote's server time, ms; 0: none.
        quote_moves: whether it came between the last two heartbeats.
    """

    ready: bool = False
    reason: str = "the worker has not been started"
    trading_allowed: bool = False
    trading_reason: str = "the worker has not been started"
    now_ns: int = 0
    beat_s: float = 0.0
    starts: int = 0
    quote_msc: int = 0
    quote_moves: bool = False


def child_environment() -> dict[str, str]:
    """Return the environment of a child: ours, without secrets, and where our packages are."""
    kept = {name: value for name, value in os.environ.items() if name not in _SECRET_VARIABLES}
    paths = [str(PROJECT_ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def spawn(arguments: list[str], log: IO[bytes] | None, **pipes: Any) -> "subprocess.Popen[bytes]":
    """Start a Python child of its own process group: an interrupt of the terminal's user is not for it."""
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    return subprocess.Popen(
        [sys.executable, *arguments], env=child_environment(), stderr=log, start_new_session=os.name == "posix",
        creationflags=flags, **pipes,
    )  # fmt: skip


class WorkerProcess:
    """A worker and the thread that reads its replies.

    Args:
        log: where its standard error goes.
        ended: called when it has ended.
    """

    def __init__(self, log: IO[bytes] | None, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._process = spawn(["-m", "resources.mt5.bridge.worker"], log, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._replies: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="bridge-worker-reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, name: str, body: bytes, limit_s: float) -> tuple[str, bytes]:
        """Return the reply to one frame.

        Raises:
            BrokenPipeError: the worker has ended, and cannot have read the frame.
            TimeoutError: there was no reply in time.
            EOFError: the worker has ended, perhaps after reading the frame.
        """
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        try:
            frames.write_frame(self._process.stdin, name, body)
        except OSError:
            raise BrokenPipeError from None  # a part of the frame found no reader
        try:
            reply = self._replies.get(timeout=limit_s)
        except queue.Empty:
            raise TimeoutError from None
        if reply is None:
            raise EOFError
        return reply

    def kill(self) -> None:
        """Kill it; whoever waits for it then sees that it has ended."""
        self._process.kill()

    def end(self, within_s: float = 0.0) -> None:
        """Let it end by itself within a time, then kill it."""
        with contextlib.suppress(OSError):
            self._process.stdin and self._process.stdin.close()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        with contextlib.suppress(OSError):
            self._process.stdout and self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(OSError, FxError, ValueError):
            while (frame := frames.read_frame(self._process.stdout)) is not None:
                self._replies.put(frame)
        self._replies.put(None)
        self._ended()


class WorkerKeeper:
    """Keeps one worker at a time.

    Args:
        config: what the worker is told.
        folder: of the account; the caller holds its lock.
        call_limit_s: longest heartbeat.
        start_limit_s: longest start of a worker.
        heartbeat_s: pause between two heartbeats.
        leave_s: how long a worker of a bridge that was killed may go on with its call.
    """

    def __init__(
        self, config: WorkerConfig, folder: Path, *, call_limit_s: float, start_limit_s: float, heartbeat_s: float,
        leave_s: float,
    ) -> None:  # fmt: skip
        self._config, self._folder = config, folder
        self._call_limit_s, self._start_limit_s, self._heartbeat_s = call_limit_s, start_limit_s, heartbeat_s
        self._leave_s = leave_s
        self._turn = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._process: WorkerProcess | None = None
        self._starting: WorkerProcess | None = None
        self._health = Health()
        self._failures = 0
        self._minder = threading.Thread(target=self._mind, name="bridge-minder", daemon=True)

    def start(self) -> None:
        """Start the first worker, and from then on keep one.

        Raises:
            SettingsError: the terminal is not on the account that was meant.
            FencedError: another process owns the keys.
        """
        end_left_over(self._folder / "worker.json", self._leave_s)
        with self._turn:
            try:
                self._start_worker()
            except (SettingsError, FencedError):
                raise
            except FxError as error:
                _LOG.warning("the terminal is not there yet: %s", error)
        self._minder.start()

    def stop(self, within_s: float = 5.0) -> None:
        """End the worker: after its call, or after a time."""
        self._stopped.set()
        self._wake.set()
        if self._minder.is_alive():
            self._minder.join(within_s)
            starting = self._starting
            if starting is not None:
                starting.kill()  # it waits for a terminal that does not come up
            self._minder.join()
        with self._turn:
            process, self._process = self._process, None
            if process is not None:
                process.end(within_s)
        (self._folder / "worker.json").unlink(missing_ok=True)

    def health(self) -> Health:
        """Return what is known now; a heartbeat that is too old makes it not ready."""
        health = self._health
        age_s = time.monotonic() - health.beat_s
        if health.ready and age_s > 3 * self._heartbeat_s + 2 * self._call_limit_s:
            return replace(health, ready=False, reason=f"no heartbeat for {age_s:.1f} s")
        return health

    def call(self, method: str, body: bytes, limit_s: float) -> bytes:
        """Return the worker's reply to one call.

        Args:
            method: its name.
            body: the message.
            limit_s: longest wait for the worker to be free, and then for its reply.

        Raises:
            DataError: the call cannot be asked; nothing was done.
            NotHandedOverError: there was no worker for it; nothing was done.
            LostCallError: it may have been done or not.
        """
        with self._taken(limit_s):
            process = self._process
            if process is None:
                raise NotHandedOverError(f"the worker is not ready: {self._health.reason}", mend="see fx bridge health")
            kind, reply = self._ask(process, method, body, limit_s)
        if kind == frames.OK:
            return reply
        if kind == frames.INVALID:
            raise DataError(reply.decode())
        raise LostCallError(reply.decode())

    @contextlib.contextmanager
    def _taken(self, limit_s: float) -> Iterator[None]:
        if not self._turn.acquire(timeout=limit_s):
            raise NotHandedOverError(f"the worker was busy for {limit_s:g} s", mend="ask less often")
        try:
            yield
        finally:
            self._turn.release()

    def _ask(self, process: WorkerProcess, method: str, body: bytes, limit_s: float) -> tuple[str, bytes]:
        try:
            return process.ask(method, body, limit_s)
        except TimeoutError:
            reason = f"{method} took longer than {limit_s:g} s; the worker was killed"
        except EOFError:
            reason = f"the worker ended in {method}"
        except BrokenPipeError:
            reason = f"the worker had ended before {method}"
            self._lose(process, reason)
            raise NotHandedOverError(reason) from None
        self._lose(process, reason)
        raise LostCallError(reason)

    def _lose(self, process: WorkerProcess, reason: str) -> None:
        _LOG.error("%s", reason)
        self._process = None
        self._health = replace(
            self._health, ready=False, reason=reason, trading_allowed=False, trading_reason=reason, quote_moves=False
        )
        process.end()
        self._wake.set()

    # The minder's thread

    def _mind(self) -> None:
        pause_s = self._heartbeat_s
        while not self._stopped.is_set():
            self._wake.wait(pause_s)
            self._wake.clear()
            if self._stopped.is_set():
                return
            if not self._turn.acquire(timeout=TURN_WAIT_S):
                pause_s = TURN_WAIT_S  # a call is under way, whose own limit watches the worker
                continue
            try:
                pause_s = self._look()
            except Exception:  # noqa: BLE001 - whatever it is, the worker must go on being looked after
                _LOG.exception("the worker could not be looked after")
                pause_s = RESTART_PAUSE_S_MAX
            finally:
                self._turn.release()

    def _look(self) -> float:
        """Beat, or start a worker; return the pause before the next look."""
        if self._process is not None:
            with contextlib.suppress(LostCallError, NotHandedOverError):
                self._beat(self._process)
            return self._heartbeat_s if self._process is not None else 0.0
        try:
            self._start_worker()
        except FxError as error:
            _LOG.warning("the worker does not start: %s", error)
            self._wake.clear()  # its end has rung; the next try comes after the pause
            self._failures += 1
            return min(RESTART_PAUSE_S * 2 ** min(self._failures, 10), RESTART_PAUSE_S_MAX)
        self._failures = 0
        return self._heartbeat_s

    def _start_worker(self) -> None:
        self._starting = process = self._spawned()
        try:
            kind, text = process.ask(frames.CONFIGURE, self._config.to_json(), self._start_limit_s)
        except (TimeoutError, EOFError, BrokenPipeError) as error:
            kind, text = frames.ERROR, f"the worker does not start ({type(error).__name__})".encode()
        finally:
            self._starting = None
        if kind != frames.OK:
            process.end()
            reason = text.decode()
            self._health = replace(
                self._health, ready=False, reason=reason, trading_allowed=False, trading_reason=reason
            )
            raise {frames.REFUSED: SettingsError, frames.HELD: FencedError}.get(kind, BrokerError)(reason)
        self._process = process
        self._health = replace(self._health, starts=self._health.starts + 1)
        with contextlib.suppress(LostCallError, NotHandedOverError):
            self._beat(process)

    def _spawned(self) -> WorkerProcess:
        with (self._folder / "worker.log").open("ab") as log:
            process = WorkerProcess(log, self._wake.set)
        # Before it is configured: until then it ends by itself when this process does.
        try:
            note_process(self._folder / "worker.json", process.pid)
        except OSError as error:
            process.end()
            raise BrokerError(f"worker.json cannot be written: {error.strerror}", mend="check the disk") from error
        return process

    def _beat(self, process: WorkerProcess) -> None:
        kind, body = self._ask(process, frames.BEAT, b"", self._call_limit_s)
        if kind != frames.OK:
            reason = body.decode()
            self._health = replace(
                self._health, ready=False, reason=reason, trading_allowed=False, trading_reason=reason
            )
            return
        beat = wire.BeatReply.FromString(body)
        before = self._health.quote_msc
        self._health = replace(
            self._health, ready=beat.ready, reason=beat.reason, trading_allowed=beat.trading_allowed,
            trading_reason=beat.trading_reason, now_ns=beat.now_ns, beat_s=time.monotonic(), quote_msc=beat.quote_msc,
            quote_moves=bool(0 < before < beat.quote_msc),
        )  # fmt: skip


def note_process(path: Path, pid: int) -> None:
    """Write down a process so that it can be found again, and not taken for a later one of the same number."""
    import psutil

    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        created = 0.0
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps({"pid": pid, "created": created}))
    aside.replace(path)


def end_left_over(path: Path, leave_s: float) -> None:
    """End the worker of a bridge that was killed: it may finish its call first, and so write its answer down.

    Raises:
        FencedError: it cannot be ended.
    """
    import psutil

    try:
        noted = json.loads(path.read_text())
        process = psutil.Process(int(noted["pid"]))
        if abs(process.create_time() - float(noted["created"])) > 0.5 or _gone(process, leave_s):
            return
        _LOG.warning("a worker that was left over hangs for more than %.1f s: it is killed", leave_s)
        process.kill()
        if not _gone(process, leave_s):
            raise FencedError(f"process {process.pid} of another bridge does not end", mend="end it by hand")
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return  # there is none


def _gone(process: Any, within_s: float) -> bool:
    """Wait for the end of a process that is no child of ours; one that nobody has buried yet has ended."""
    import psutil

    deadline = time.monotonic() + within_s
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    return True
