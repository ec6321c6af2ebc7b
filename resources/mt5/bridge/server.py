"""The bridge: a gRPC server beside the terminal, with a closed list of calls and one worker behind it.

It listens on loopback; elsewhere only with TLS and a token. What it refuses before the worker has it carries the
trailing metadata ``fx-not-sent``: an order with it was definitely not sent.
"""

import contextlib
import hashlib
import hmac
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from fx_dagster.errors import DataError, FxError, PortInUseError, ServerError
from fx_dagster.settings import BridgeSettings
from resources.mt5.bridge import wire_pb2 as wire
from resources.mt5.bridge.checks import (
    DAY_S,
    HEALTH,
    METHODS,
    REPLY_BYTES_MAX,
    REQUEST_BYTES_MAX,
    SEND,
    SERVICE,
    Limits,
)
from resources.mt5.bridge.owner import OwnerLock, terminal_lock_name
from resources.mt5.bridge.settings import (
    Secrets,
    allowed_symbols,
    bridge_folder,
    bridge_secrets,
    bridge_settings,
    require_account,
    require_safe,
)
from resources.mt5.bridge.watchdog import LostCallError, NotHandedOverError, WorkerKeeper, spawn
from resources.mt5.bridge.worker import WorkerConfig

NOT_SENT: Final = "fx-not-sent"
THREADS: Final = 8
CALLS_MAX: Final = 32
STOP_GRACE_S: Final = 2.0
_LOG = logging.getLogger("fx.bridge")


def digest_of(token: str) -> bytes:
    """Return what tokens are compared by: of equal length, whatever was sent."""
    return hashlib.sha256(token.encode()).digest()


class Calls(grpc.GenericRpcHandler):
    """Authenticates, checks and answers calls.

    Args:
        keeper: of the worker.
        settings: of the bridge.
        limits: what one call may ask for.
        token: what callers must show; empty: none is needed.
    """

    def __init__(self, keeper: WorkerKeeper, settings: BridgeSettings, limits: Limits, token: str) -> None:
        self._keeper, self._settings, self._limits = keeper, settings, limits
        self._digest = digest_of(f"Bearer {token}") if token else b""

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a method of the list, or None."""
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        if service != SERVICE or method not in METHODS:
            return None
        # Bytes in and out: a stranger's message is not even parsed.
        return grpc.unary_unary_rpc_method_handler(lambda body, context: self._answer(method, body, context))

    def _answer(self, method: str, body: bytes, context: Any) -> bytes:
        if not self._known(context):
            self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
        try:
            message = METHODS[method][0].FromString(body)
            self._limits.check(method, message)
        except DecodeError:
            self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"{method}: this is not its message")
        except DataError as error:
            self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if method == HEALTH:
            return bytes(self._health().SerializeToString())
        return self._handed_over(method, body, context)

    def _handed_over(self, method: str, body: bytes, context: Any) -> bytes:
        limit_s = self._settings.order_limit_s if method == SEND else self._settings.call_limit_s
        try:
            return self._keeper.call(method, body, limit_s)
        except DataError as error:
            return self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except NotHandedOverError as error:
            return self._refuse(context, grpc.StatusCode.UNAVAILABLE, str(error))
        except LostCallError as error:
            if method == SEND:
                unknown = wire.Answer(kind=wire.KIND_UNKNOWN, text=str(error)[:500])
                return bytes(unknown.SerializeToString())
            context.abort(grpc.StatusCode.ABORTED, str(error))
            raise AssertionError from error  # abort does not return

    def _known(self, context: Any) -> bool:
        if not self._digest:
            return True
        shown = [str(value) for key, value in context.invocation_metadata() if key == "authorization"]
        return hmac.compare_digest(digest_of(shown[0] if len(shown) == 1 else ""), self._digest)

    @staticmethod
    def _refuse(context: Any, code: Any, text: str) -> Any:
        context.set_trailing_metadata(((NOT_SENT, "1"),))
        context.abort(code, text)

    def _health(self) -> Any:
        health, settings = self._keeper.health(), self._settings
        age_ms = -1 if not health.beat_s else int((time.monotonic() - health.beat_s) * 1000)
        return wire.HealthReply(
            ready=health.ready, reason=health.reason, trading_allowed=health.ready and health.trading_allowed,
            trading_reason=health.trading_reason, login=settings.login, server=settings.server, mode=settings.mode,
            simulated=settings.terminal == "simulated", now_ns=health.now_ns, heartbeat_age_ms=age_ms,
            worker_starts=health.starts, quote_msc=health.quote_msc, quote_moves=health.quote_moves,
        )  # fmt: skip


class Bridge:
    """A running bridge: locks, the simulated terminal where one is its own, the worker, the server.

    Args:
        settings: of the bridge.
        secrets: token and password.

    Raises:
        SettingsError: a setting is impossible, unsafe, or not that of the account that the terminal is on.
        FencedError: another bridge owns the account or the terminal.
        PortInUseError: the port is taken.
        ServerError: it does not start.
    """

    def __init__(self, settings: BridgeSettings, secrets: Secrets) -> None:
        require_account(settings)
        self._tls = require_safe(settings, secrets)
        self._settings, self._secrets = settings, secrets
        self._symbols = allowed_symbols(settings)
        self._folder = bridge_folder(settings)
        self._ended = contextlib.ExitStack()
        self.port = 0
        try:
            self._start()
        except BaseException:
            self._ended.close()
            raise

    @property
    def address(self) -> str:
        """Host and port, as clients take them."""
        return f"{_bracketed(self._settings.host)}:{self.port}"

    def stop(self) -> None:
        """End the server, then the worker after its call, then the rest."""
        self._ended.close()

    def _start(self) -> None:
        settings, folder = self._settings, self._folder
        owned = (
            (folder / "owner.lock", f"account {settings.login}"),
            (folder.parent / terminal_lock_name(settings.terminal, self._terminal_place()), "the terminal"),
        )
        for path, name in owned:
            self._ended.callback(OwnerLock(path, name).release)
        address = settings.simulated_address
        if settings.terminal == "simulated" and not address:
            address = self._ended.enter_context(own_terminal(folder))
        keeper = WorkerKeeper(
            self._worker_config(address), folder, call_limit_s=settings.call_limit_s,
            start_limit_s=settings.start_limit_s, heartbeat_s=settings.heartbeat_s, leave_s=settings.order_limit_s,
        )  # fmt: skip
        self._ended.callback(keeper.stop)
        keeper.start()
        limits = Limits(self._symbols, settings.rows_max, settings.history_days_max * DAY_S)
        self._serve(Calls(keeper, settings, limits, self._secrets.token))

    def _terminal_place(self) -> str:
        settings = self._settings
        if settings.terminal == "simulated":
            return settings.simulated_address or str(self._folder)
        return settings.terminal_path

    def _worker_config(self, address: str) -> WorkerConfig:
        settings = self._settings
        return WorkerConfig(
            terminal=settings.terminal, terminal_path=settings.terminal_path, simulated_address=address,
            login=settings.login, server=settings.server, mode=settings.mode, password=self._secrets.password,
            symbols=tuple(sorted(self._symbols)), keys=str(self._folder / "keys.sqlite"),
            clock_error_ns=settings.clock_error_ms * 1_000_000, rows_max=settings.rows_max,
            history_s_max=settings.history_days_max * DAY_S,
        )  # fmt: skip

    def _serve(self, calls: Calls) -> None:
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="bridge-call")
        self._ended.callback(pool.shutdown)
        server = grpc.server(
            pool, handlers=(calls,), maximum_concurrent_rpcs=CALLS_MAX,
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
                ("grpc.max_send_message_length", REPLY_BYTES_MAX),
                ("grpc.max_metadata_size", 8 * 1024),
            ),
        )  # fmt: skip
        wished = f"{_bracketed(self._settings.host)}:{self._settings.port}"
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(wished)
            else:
                self.port = server.add_secure_port(wished, grpc.ssl_server_credentials([self._tls]))
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise PortInUseError(
                f"the bridge cannot listen on {wished}: it is taken, or certificate and key are not a pair",
                mend="set FX_BRIDGE_PORT to a free one, or correct FX_BRIDGE_TLS_CERTIFICATE and FX_BRIDGE_TLS_KEY",
            )
        self._ended.callback(lambda: server.stop(STOP_GRACE_S).wait())
        server.start()


def _bracketed(host: str) -> str:
    return f"[{host.strip('[]')}]" if ":" in host else host


@contextlib.contextmanager
def own_terminal(folder: Path) -> Iterator[str]:
    """Start a simulated terminal that ends with this process; yield its address.

    Raises:
        ServerError: it ended at once.
    """
    address = str(folder / "terminal.sock") if os.name == "posix" else rf"\\.\pipe\fx-bridge-{os.getpid()}"
    if os.name == "posix":
        Path(address).unlink(missing_ok=True)
    with (folder / "terminal.log").open("ab") as log:
        process = spawn(
            ["-m", "resources.mt5.bridge.simulated_host", address, "--with-parent"], log, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120.0
        while os.name == "posix" and not Path(address).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError("the simulated terminal does not start", mend=f"see {folder / 'terminal.log'}")
            time.sleep(0.05)
        yield address
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.kill()
        process.wait()


def serve(
    settings: BridgeSettings, secrets: Secrets, ready: Callable[[Bridge], None], stop: threading.Event | None = None
) -> None:
    """Run a bridge until SIGINT or SIGTERM, or until ``stop`` is set.

    Args:
        settings: of the bridge.
        secrets: token and password.
        ready: called when it answers.
        stop: ends it, too.

    Raises:
        FxError: as of :class:`Bridge`.
    """
    ended = stop or threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: ended.set()) for number in numbers]
    try:
        bridge = Bridge(settings, secrets)
        try:
            _LOG.info("bridge of account %s (%s) at %s", settings.login, settings.mode, bridge.address)
            ready(bridge)
            while not ended.wait(0.5):
                pass  # in steps: on Windows a wait without end would not see an interrupt
        finally:
            bridge.stop()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def main() -> int:
    """Run a bridge of the settings; its first line on standard output is JSON with its address."""

    def tell(bridge: Bridge) -> None:
        sys.stdout.write(json.dumps({"address": bridge.address}) + "\n")
        sys.stdout.flush()

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = bridge_settings()
        serve(settings, bridge_secrets(settings), tell)
    except FxError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
