"""The process that alone owns the terminal: it answers one call at a time, and may be killed at any instruction.

The ``MetaTrader5`` module never releases the interpreter and waits without limit; so nothing else lives here, and the
bridge outside ends it when a call takes too long. Configuration, with the password, comes over the pipe, never on the
command line or in the environment.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from fx_dagster.errors import BrokerError, DataError, FencedError, FxError, SettingsError
from resources.mt5.bridge import frames
from resources.mt5.bridge import wire_pb2 as wire
from resources.mt5.bridge.answers import Answer
from resources.mt5.bridge.checks import METHODS, REPLY_BYTES_MAX, ROW_BYTES, SEND, Limits
from resources.mt5.bridge.gate import Intent, OrderGate, Purpose
from resources.mt5.bridge.guard import Expected, trading_refused, wrong_account
from resources.mt5.bridge.keys import KeyStore
from resources.mt5.constants import Mt5Constants as Mt5

TEXT_MAX: Final = 500
QUOTES_MAX: Final = 16
"""Symbols whose quotes a heartbeat looks at."""
INITIALIZE_TIMEOUT_MS: Final = 60_000
_INT64: Final = 2**63
_PURPOSES = {
    wire.PURPOSE_OPEN: Purpose.OPEN, wire.PURPOSE_CLOSE: Purpose.CLOSE, wire.PURPOSE_MODIFY: Purpose.MODIFY,
}  # fmt: skip


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker is told at its start; see :class:`fx_dagster.settings.BridgeSettings`."""

    terminal: str
    terminal_path: str
    simulated_address: str
    login: str
    server: str
    mode: str
    password: str = field(repr=False)
    symbols: tuple[str, ...]
    keys: str
    clock_error_ns: int
    rows_max: int
    history_s_max: int

    def to_json(self) -> bytes:
        """Return it for the pipe."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "WorkerConfig":
        """Return what the pipe brought."""
        values = json.loads(text)
        return cls(**{**values, "symbols": tuple(values["symbols"])})


def open_module(config: WorkerConfig) -> Any:
    """Return the module that leads to the terminal.

    Raises:
        SettingsError: the MetaTrader5 package is not here.
    """
    if config.terminal == "simulated":
        from resources.mt5.bridge.simulated_module import SimulatedModule

        return SimulatedModule(config.simulated_address)
    try:
        import MetaTrader5  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise SettingsError(
            "the MetaTrader5 package is not installed; it exists for Windows (and Windows Python under Wine) only",
            mend="run the bridge beside the terminal, or set FX_BRIDGE_TERMINAL=simulated",
        ) from None
    return MetaTrader5


class Worker:
    """Answers what the bridge asks.

    Args:
        module: ``MetaTrader5`` or what has its functions.
        keys: the durable keys.
        config: of the account.
    """

    def __init__(self, module: Any, keys: KeyStore, config: WorkerConfig) -> None:
        self._module, self._config = module, config
        self._expected = Expected(config.login, config.server, config.mode)
        self._now_ns = module.now_ns if config.terminal == "simulated" else time.time_ns
        self._limits = Limits(frozenset(config.symbols), config.rows_max, config.history_s_max)
        self._gate = OrderGate(
            module, keys, now_ns=self._now_ns, clock_error_ns=config.clock_error_ns,
            wrong_account=lambda account: wrong_account(account, self._expected),
        )  # fmt: skip
        self._selected: dict[str, None] = {}
        self._answers = {
            "Now": self._now,
            "Info": self._info, "Symbols": self._symbols, "Rates": self._rates, "Ticks": self._ticks,
            "Positions": self._positions, "Orders": self._orders, "PastOrders": self._past_orders,
            "Deals": self._deals, SEND: self._send,
        }  # fmt: skip

    def connect(self) -> None:
        """Connect to the terminal and see that it is on the account that was meant.

        Raises:
            SettingsError: it is not, or the login is wrong: it would not be right the next time either.
            BrokerError: the terminal does not answer.
        """
        config, account = self._config, None
        login: dict[str, Any] = {"timeout": INITIALIZE_TIMEOUT_MS}
        if config.password:
            login |= {"login": int(config.login), "password": config.password, "server": config.server}
        path = (config.terminal_path,) if config.terminal_path else ()
        if self._module.initialize(*path, **login):
            account = self._module.account_info()
        if account is None:
            code, text = self._module.last_error()
            if code == Mt5.RES_E_AUTH_FAILED:
                raise SettingsError(
                    f"the terminal refuses login {config.login} at {config.server}: {text}",
                    mend="correct FX_BRIDGE_LOGIN, FX_BRIDGE_SERVER or the password",
                )
            raise BrokerError(f"the terminal does not answer: {text} ({code})", mend="see that it runs")
        if problem := wrong_account(account, self._expected):
            raise SettingsError(problem, mend="log the terminal in to the right account, or correct the setting")

    def answer(self, method: str, body: bytes) -> bytes:
        """Return the reply to one call.

        Raises:
            DataError: the call is none of the list, or asks for what is not let through; nothing was done.
            FxError: it could not be answered; of an order: it is unknown.
        """
        if method == frames.BEAT:
            return bytes(self._beat().SerializeToString())
        if method not in self._answers:
            raise DataError(f"method {method[:40]!r} is not known", mend="update the sender or the bridge")
        message = METHODS[method][0]()
        message.ParseFromString(body)
        self._limits.check(method, message)
        reply = self._answers[method](message)
        if reply is None:
            code, text = self._module.last_error()
            reply = METHODS[method][1](failure=wire.Failure(code=int(code), text=_text(text)))
        if reply.ByteSize() > REPLY_BYTES_MAX - 4096:
            raise DataError(f"{method}: the answer has {reply.ByteSize()} bytes", mend="ask for less at a time")
        return bytes(reply.SerializeToString())

    def _beat(self) -> Any:
        account, terminal = self._module.account_info(), self._module.terminal_info()
        now_ns = self._now_ns()
        if account is None or terminal is None:
            code, text = self._module.last_error()
            return wire.BeatReply(reason=f"the terminal does not answer: {_text(text)} ({code})", now_ns=now_ns)
        problem, refused = wrong_account(account, self._expected), trading_refused(account, terminal)
        ticks = [self._module.symbol_info_tick(name) for name in self._watched()]
        newest = max((int(tick.time_msc) for tick in ticks if tick is not None), default=0)
        return wire.BeatReply(
            ready=not problem, reason=problem, trading_allowed=not (problem or refused),
            trading_reason=problem or refused, now_ns=now_ns, quote_msc=newest,
        )  # fmt: skip

    def _watched(self) -> list[str]:
        return list(self._selected or dict.fromkeys(self._config.symbols))[-QUOTES_MAX:]

    def _select(self, symbol: str) -> bool:
        """Show a symbol in the market watch, without which the terminal has no quotes of it."""
        if symbol not in self._selected:
            if not self._module.symbol_select(symbol, True):
                return False
            self._selected[symbol] = None
        return True

    def _now(self, _: Any) -> Any:
        now_ns = self._now_ns()
        return wire.NowReply(now_ns=now_ns) if now_ns else None

    def _info(self, _: Any) -> Any:
        account, terminal = self._module.account_info(), self._module.terminal_info()
        if account is None or terminal is None:
            return None
        return wire.InfoReply(
            terminal=wire.Terminal(
                connected=bool(terminal.connected), trade_allowed=bool(terminal.trade_allowed),
                tradeapi_disabled=bool(terminal.tradeapi_disabled), build=int(terminal.build),
                company=_text(terminal.company), name=_text(terminal.name),
            ),
            account=wire.Account(
                login=int(account.login), server=_text(account.server), currency=_text(account.currency),
                trade_mode=int(account.trade_mode), margin_mode=int(account.margin_mode),
                leverage=int(account.leverage), trade_allowed=bool(account.trade_allowed),
                trade_expert=bool(account.trade_expert), balance=account.balance, equity=account.equity,
                margin=account.margin, profit=account.profit,
            ),
        )  # fmt: skip

    def _symbols(self, message: Any) -> Any:
        if message.names:
            found: Any = [self._module.symbol_info(name) if self._select(name) else None for name in message.names]
            if None in found:
                return None
        else:
            found = self._module.symbols_get()
            if found is None:
                return None
        return wire.SymbolsReply(symbols=[_symbol(info) for info in found if self._limits.allows(info.name)])

    def _rates(self, message: Any) -> Any:
        if not self._select(message.symbol):
            return None
        rows = self._module.copy_rates_from_pos(message.symbol, message.timeframe, message.start_pos, message.count)
        return _rows("bars", rows)

    def _ticks(self, message: Any) -> Any:
        if not self._select(message.symbol):
            return None
        return _rows(
            "ticks", self._module.copy_ticks_from(message.symbol, message.from_s, message.count, message.flags)
        )

    def _positions(self, _: Any) -> Any:
        found = _all(wire.Position, self._module.positions_get())
        return None if found is None else wire.PositionsReply(positions=found)

    def _orders(self, _: Any) -> Any:
        found = _all(wire.Order, self._module.orders_get())
        return None if found is None else wire.OrdersReply(orders=found)

    def _past_orders(self, message: Any) -> Any:
        found = _all(wire.Order, self._module.history_orders_get(message.from_s, message.to_s))
        return None if found is None else wire.OrdersReply(orders=found)

    def _deals(self, message: Any) -> Any:
        found = _all(wire.Deal, self._module.history_deals_get(message.from_s, message.to_s))
        return None if found is None else wire.DealsReply(deals=found)

    def _send(self, message: Any) -> Any:
        if message.purpose not in _PURPOSES:
            raise DataError("Send.purpose is not open, close or modify", mend="correct the sender")
        intent = Intent(
            key=message.key, account=message.account, epoch=message.epoch, expires_ns=message.expires_ns,
            symbol=message.symbol, lots=message.lots, stop=message.stop, target=message.target,
            position=message.position, deviation_points=message.deviation_points, purpose=_PURPOSES[message.purpose],
        )  # fmt: skip
        return _answer(self._gate.send(intent))


def _text(value: Any) -> str:
    return str(value)[:TEXT_MAX].replace("\x00", "").encode("utf-8", "replace").decode()


def _rows(owner: str, rows: Any) -> Any:
    if rows is None:
        return None
    array = np.asarray(rows)
    if array.dtype.itemsize != ROW_BYTES:
        raise BrokerError(
            f"the terminal's {owner} have rows of {array.dtype.itemsize} bytes, not {ROW_BYTES}",
            mend="use MetaTrader5 5.0.6231 or another version with the same rows",
        )
    return wire.RowsReply(rows=np.ascontiguousarray(array).tobytes())


def _all(kind: Any, items: Any) -> list[Any] | None:
    return None if items is None else [_filled(kind, item) for item in items]


def _filled(kind: Any, item: Any) -> Any:
    """Return a message with the fields that the terminal's tuple has under the same names."""
    values: dict[str, Any] = {}
    for place in kind.DESCRIPTOR.fields:
        value = getattr(item, place.name)
        if place.cpp_type == place.CPPTYPE_STRING:
            values[place.name] = _text(value)
        elif place.cpp_type == place.CPPTYPE_DOUBLE:
            values[place.name] = float(value)
        else:
            # A foreign program's number may have all 64 bits: none of ours, and no number of this field.
            values[place.name] = int(value) if -_INT64 <= int(value) < _INT64 else 0
    return kind(**values)


def _symbol(info: Any) -> Any:
    return wire.Symbol(
        name=_text(info.name), digits=int(info.digits), point=info.point, contract_size=info.trade_contract_size,
        volume_step=info.volume_step, volume_min=info.volume_min, volume_max=info.volume_max,
        currency_base=_text(info.currency_base), currency_profit=_text(info.currency_profit),
        swap_mode=int(info.swap_mode), swap_long=info.swap_long, swap_short=info.swap_short,
        swap_rollover3days=int(info.swap_rollover3days), trade_stops_level=int(info.trade_stops_level),
        trade_freeze_level=int(info.trade_freeze_level), trade_mode=int(info.trade_mode),
        filling_mode=int(info.filling_mode), bid=info.bid, ask=info.ask, tick_value=info.trade_tick_value,
        tick_size=info.trade_tick_size, time_s=int(info.time),
    )  # fmt: skip


def _answer(answer: Answer) -> Any:
    return wire.Answer(
        kind=getattr(wire, f"KIND_{answer.kind.name}"), retcode=answer.retcode, order=answer.order, deal=answer.deal,
        volume=answer.volume, price=answer.price, text=_text(answer.text), working=answer.working,
    )  # fmt: skip


def run(source: BinaryIO, target: BinaryIO) -> int:
    """Serve the bridge at the other ends of two pipes until it goes; return the exit code."""
    first = read_configuration(source)
    if first is None:
        return 0
    try:
        keys = KeyStore(Path(first.keys))
        worker = Worker(open_module(first), keys, first)
        worker.connect()
    except FxError as error:
        kind = {FencedError: frames.HELD, SettingsError: frames.REFUSED}.get(type(error), frames.ERROR)
        frames.write_frame(target, kind, str(error).encode())
        return 1
    frames.write_frame(target, frames.OK, b"")
    while (frame := frames.read_frame(source)) is not None:
        frames.write_frame(target, *_answered(worker, *frame))
    keys.close()
    return 0


def read_configuration(source: BinaryIO) -> WorkerConfig | None:
    """Return the first frame's configuration; None: the bridge has gone."""
    frame = frames.read_frame(source)
    return None if frame is None or frame[0] != frames.CONFIGURE else WorkerConfig.from_json(frame[1])


def _answered(worker: Worker, method: str, body: bytes) -> tuple[str, bytes]:
    try:
        return frames.OK, worker.answer(method, body)
    except DataError as error:
        return frames.INVALID, str(error).encode()
    except Exception as error:  # noqa: BLE001 - the bridge must hear of it, whatever it is; of an order: unknown
        text = str(error) if isinstance(error, FxError) else f"the worker failed: {type(error).__name__}"
        return frames.ERROR, text.encode()


def main() -> int:
    """Run over standard input and output; what prints goes to standard error instead."""
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        return run(sys.stdin.buffer, target)
    except (BrokenPipeError, KeyboardInterrupt):
        return 0  # the bridge has gone, or both were interrupted


if __name__ == "__main__":
    sys.exit(main())
