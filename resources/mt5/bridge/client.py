"""The bridge from the other side: the part of the ``MetaTrader5`` module that a feed uses, over gRPC.

Every call has a deadline and is made once: gRPC's own retries are switched off. What comes back is checked here.
"""

import contextlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Final, Self

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fx_dagster.errors import BrokerError, DataError, SettingsError
from fx_dagster.market.timeframes import SECOND_NS, from_server, to_server
from fx_dagster.settings import BridgeSettings
from resources.mt5.bridge import wire_pb2 as wire
from resources.mt5.bridge.checks import HEALTH, METHODS, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, ROW_BYTES, SERVICE
from resources.mt5.bridge.settings import bridge_secrets, is_loopback
from resources.mt5.clock import Clock, SystemClock
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.structures import RATE_DTYPE, TICK_DTYPE

NOT_SENT: Final = "fx-not-sent"
CLOCK_ERROR_NS: Final = 15 * 60 * SECOND_NS
"""Beyond, the broker's server clock is not New York + 7 h: no other zone is nearer than half an hour."""
MILLISECOND_NS: Final = 1_000_000
ANSWER_S: Final = 2.0
"""How much longer a caller waits than the bridge may take: for the worker to be free, and for the call."""
_SHOWN: Final = 300


class BridgeCallError(BrokerError):
    """A call had no answer.

    Attributes:
        not_sent: the bridge said that nothing was done.
        code: gRPC's name of the reason.
    """

    def __init__(self, message: str, *, not_sent: bool, code: str) -> None:
        super().__init__(message, mend="see fx bridge health, and that the bridge and its terminal run")
        self.not_sent, self.code = not_sent, code


@dataclass(frozen=True)
class BridgeAddress:
    """Where a bridge is, and what it is shown.

    Attributes:
        target: host:port.
        token: empty: the bridge asks for none.
        authority: PEM file with the certificate that the bridge's is checked against; None: no TLS.
        name: the certificate's host name where it is not that of ``target``.
    """

    target: str
    token: str = field(default="", repr=False)
    authority: Path | None = None
    name: str = ""

    def __post_init__(self) -> None:
        host = self.target.rpartition(":")[0]
        if self.authority is None and not is_loopback(host):
            raise SettingsError(
                f"the bridge at {self.target} is not on this machine, and there is no certificate to check it against",
                mend="give the certificate's PEM file",
            )


@dataclass(frozen=True, slots=True)
class BridgeHealth:
    """What a bridge says of itself.

    Attributes:
        ready: whether it answers on the right account.
        reason: why not.
        trading_allowed: whether programs may trade now.
        trading_reason: why not.
        login, server, mode: the account that it is for; mode is ``demo`` or ``real``.
        simulated: whether its terminal is the simulated one.
        now_ns: the market's clock at the last heartbeat, ns UTC.
        heartbeat_age_ms: since its worker last answered; -1: never.
        worker_starts: how often a worker was started.
        clock_error_ns: by how much the newest quote, read as New York + 7 h, is ahead of now; None: it says nothing,
            because no quote moves and none is ahead.
    """

    ready: bool
    reason: str
    trading_allowed: bool
    trading_reason: str
    login: str
    server: str
    mode: str
    simulated: bool
    now_ns: int
    heartbeat_age_ms: int
    worker_starts: int
    clock_error_ns: int | None

    @property
    def clock_wrong(self) -> bool:
        """Whether the broker's server clock is another than New York + 7 h; a simulated one is right by its making.

        Its quotes may be far apart, as those modelled from bars are, or come at many times the market's speed.
        """
        return not self.simulated and self.clock_error_ns is not None and abs(self.clock_error_ns) > CLOCK_ERROR_NS


class BridgeClock:
    """The market's present at a bridge with a simulated terminal.

    Args:
        client: of the bridge.
    """

    def __init__(self, client: "BridgeClient") -> None:
        self._client = client

    def now_ns(self) -> int:
        """Return the market's present, ns UTC.

        Raises:
            BrokerError: the bridge does not answer.
        """
        reply = self._client.call("Now", wire.NowRequest())
        if reply.HasField("failure"):
            raise BrokerError(f"the terminal does not tell its time: {reply.failure.text}", mend="see that it runs")
        return int(reply.now_ns)


class BridgeClient:
    """Calls a bridge. Its functions named as the module's return None on failure, and say why in ``last_error``.

    For several threads at once, apart from ``last_error``, which is each thread's own.

    Args:
        address: of the bridge.
        deadline_s: longest question; longer than twice the bridge's own limit, its answer tells more.
    """

    def __init__(self, address: BridgeAddress, *, deadline_s: float = 12.0) -> None:
        self.address, self._deadline_s = address, deadline_s
        options: list[tuple[str, int | str]] = [
            ("grpc.enable_retries", 0),
            ("grpc.max_receive_message_length", REPLY_BYTES_MAX),
            ("grpc.max_send_message_length", REQUEST_BYTES_MAX),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.min_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ]
        if address.authority is None:
            self._channel = grpc.insecure_channel(address.target, options=options)
        else:
            if address.name:
                options.append(("grpc.ssl_target_name_override", address.name))
            credentials = grpc.ssl_channel_credentials(_certificate(address.authority))
            self._channel = grpc.secure_channel(address.target, credentials, options=options)
        self._metadata = (("authorization", f"Bearer {address.token}"),) if address.token else ()
        self._methods = {
            name: self._channel.unary_unary(
                f"/{SERVICE}/{name}", request_serializer=request.SerializeToString, response_deserializer=None
            )
            for name, (request, _) in METHODS.items()
        }
        self._local = threading.local()
        self._clock: Clock | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def call(self, method: str, message: Any, deadline_s: float | None = None) -> Any:
        """Return the reply to a message, asked once.

        Raises:
            BridgeCallError: there is none.
        """
        try:
            body = self._methods[method](message, timeout=deadline_s or self._deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _call_error(method, error) from None
        except ValueError:  # of a closed channel
            raise BridgeCallError(f"{method}: the connection is closed", not_sent=True, code="CLOSED") from None
        try:
            return METHODS[method][1].FromString(body)
        except DecodeError:
            raise BridgeCallError(f"{method}: the answer is not its message", not_sent=False, code="DECODE") from None

    def health(self, deadline_s: float | None = None) -> BridgeHealth:
        """Return what the bridge says of itself.

        Raises:
            BridgeCallError: it does not answer.
        """
        reply = self.call(HEALTH, wire.HealthRequest(), deadline_s)
        return BridgeHealth(
            reply.ready, reply.reason, reply.trading_allowed, reply.trading_reason, reply.login, reply.server,
            reply.mode, reply.simulated, reply.now_ns, reply.heartbeat_age_ms, reply.worker_starts, _clock_error(reply),
        )  # fmt: skip

    def require(self, *, login: str, mode: str) -> BridgeHealth:
        """Return the bridge's health, if it is that of the account that is meant, and its server clock is known.

        Raises:
            SettingsError: it is another account's, or demo for real, or its server clock is not New York + 7 h.
            BrokerError: it is not ready, or does not answer.
        """
        health = self.health()
        for name, wanted, found in (("account", login, health.login), ("mode", mode, health.mode)):
            if wanted != found:
                raise SettingsError(
                    f"the bridge at {self.address.target} is for {name} {found}, not {wanted}",
                    mend="name the right bridge",
                )
        if health.clock_wrong:
            raise SettingsError(
                f"the broker's server clock is {(health.clock_error_ns or 0) / SECOND_NS / 3600:+.1f} h beside "
                "New York + 7 h: times would be read wrongly",
                mend="use a broker's server on New York + 7 h, or correct the bridge's clock",
            )
        if not health.ready:
            raise BrokerError(f"the bridge is not ready: {health.reason}", mend="see that the terminal runs")
        return health

    def now_ns(self) -> int:
        """Return the market's present, ns UTC: this machine's, or that of a simulated terminal.

        Raises:
            BrokerError: it is simulated, and the bridge does not answer.
        """
        return self.clock.now_ns()

    @property
    def clock(self) -> Clock:
        """The market's clock: this machine's, or that of a simulated terminal.

        Raises:
            BrokerError: the bridge does not answer.
        """
        if self._clock is None:
            self._clock = BridgeClock(self) if self.health().simulated else SystemClock()
        return self._clock

    # The module's functions

    def last_error(self) -> tuple[int, str]:
        """Return the code and text of this thread's last call."""
        return getattr(self._local, "error", (Mt5.RES_S_OK, "Success"))

    def symbols_get(self, group: str = "*") -> tuple[Any, ...] | None:
        """Return the symbols that are let through; ``group`` other than ``*``: names, comma-separated."""
        names = [] if group == "*" else [part.strip() for part in group.split(",")]
        reply = self._answered("Symbols", wire.SymbolsRequest(names=names))
        return None if reply is None else tuple(_plain(symbol) for symbol in reply.symbols)

    def copy_rates_from_pos(self, symbol: str, timeframe: int, start_pos: int, count: int) -> NDArray[np.void] | None:
        """Return bars by position; rows of the module."""
        return self._rows(
            "Rates",
            {"symbol": symbol, "timeframe": timeframe, "start_pos": start_pos, "count": count},
            RATE_DTYPE,
        )

    def copy_ticks_from(self, symbol: str, date_from: Any, count: int, flags: int) -> NDArray[np.void] | None:
        """Return ticks from a date on, whole server seconds or an aware datetime; rows of the module."""
        from_s = int(date_from.timestamp()) if hasattr(date_from, "timestamp") else int(date_from)
        return self._rows("Ticks", {"symbol": symbol, "from_s": from_s, "count": count, "flags": flags}, TICK_DTYPE)

    def _rows(self, method: str, values: dict[str, Any], dtype: np.dtype) -> NDArray[np.void] | None:
        try:
            message = METHODS[method][0](**values)
        except (TypeError, ValueError) as error:
            return self._failed(Mt5.RES_E_INVALID_PARAMS, str(error))
        reply = self._answered(method, message)
        if reply is None:
            return None
        try:
            return read_rows(method, reply.rows, dtype, int(values["count"]))
        except DataError as error:
            return self._failed(Mt5.RES_E_INTERNAL_FAIL_RECEIVE, str(error))

    def _answered(self, method: str, message: Any) -> Any:
        try:
            reply = self.call(method, message)
        except BridgeCallError as error:
            timed_out = error.code == "DEADLINE_EXCEEDED"
            code = Mt5.RES_E_INTERNAL_FAIL_TIMEOUT if timed_out else Mt5.RES_E_INTERNAL_FAIL_CONNECT
            return self._failed(Mt5.RES_E_INVALID_PARAMS if error.code == "INVALID_ARGUMENT" else code, str(error))
        if reply.HasField("failure"):
            return self._failed(reply.failure.code, reply.failure.text)
        self._local.error = (Mt5.RES_S_OK, "Success")
        return reply

    def _failed(self, code: int, text: str) -> Any:
        self._local.error = (int(code), text)
        return None


def open_client(settings: BridgeSettings) -> BridgeClient:
    """Return a client of the settings' bridge: its host and port, token, and certificate to check its own against.

    Raises:
        SettingsError: it is on another machine and there is no certificate, or a file cannot be read.
    """
    target = f"{f'[{settings.host}]' if ':' in settings.host else settings.host}:{settings.port}"
    where = BridgeAddress(target, bridge_secrets(settings).token, settings.tls_certificate)
    return BridgeClient(where, deadline_s=2 * settings.call_limit_s + ANSWER_S)


def read_rows(owner: str, data: bytes, dtype: np.dtype, count: int) -> NDArray[np.void]:
    """Return packed rows, checked: whole rows, not more than asked for, times that are times, finite prices ≥ 0.

    Raises:
        DataError: they are not; the message names the column.
    """
    if len(data) % ROW_BYTES:
        raise DataError(f"{owner}: {len(data)} bytes are no whole rows of {ROW_BYTES}", mend="update the bridge")
    rows = np.frombuffer(data, dtype=dtype)
    if len(rows) > count:
        raise DataError(f"{owner}: {len(rows)} rows came, {count} were asked for", mend="update the bridge")
    for name in dtype.names or ():
        column = rows[name]
        if name in ("time", "time_msc") and len(column) and int(column.min()) <= 0:
            raise DataError(f"{owner}: column {name} has a time that is none", mend="see the terminal's history")
        if column.dtype.kind == "f" and not (np.isfinite(column) & (column >= 0.0)).all():
            raise DataError(
                f"{owner}: column {name} has a number that is below 0 or not finite", mend="see the terminal's history"
            )
    return rows


def server_second(time_ns: int) -> int:
    """Return the whole second of the server clock at ``time_ns`` (ns UTC)."""
    return int(to_server(np.array([time_ns], dtype=np.int64))[0]) // SECOND_NS


def utc_of_msc(time_msc: int) -> int:
    """Return ns UTC of milliseconds of the server clock."""
    return int(from_server(np.array([time_msc * MILLISECOND_NS], dtype=np.int64))[0])


def _clock_error(reply: Any) -> int | None:
    if reply.quote_msc <= 0 or reply.now_ns <= 0:
        return None
    ahead_ns = utc_of_msc(reply.quote_msc) - int(reply.now_ns)
    # A quote that stands may be old, as over a weekend; one that comes from the future never is right.
    return ahead_ns if reply.quote_moves or ahead_ns > CLOCK_ERROR_NS else None


def _call_error(method: str, error: Any) -> BridgeCallError:
    code = error.code() if hasattr(error, "code") else None
    name = getattr(code, "name", "UNKNOWN")
    trailing: Any = ()
    with contextlib.suppress(Exception):
        trailing = error.trailing_metadata() or ()
    not_sent = any(key == NOT_SENT for key, _ in trailing)
    details = str(error.details() if hasattr(error, "details") else "")[:_SHOWN]
    return BridgeCallError(f"{method}: {details or name} ({name})", not_sent=not_sent, code=name)


def _certificate(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the certificate {path}: {error.strerror}", mend="correct it") from None


def _plain(message: Any) -> Any:
    return SimpleNamespace(**{place.name: getattr(message, place.name) for place in message.DESCRIPTOR.fields})
