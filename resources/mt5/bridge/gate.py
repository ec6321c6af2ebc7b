"""The one way to the terminal for an order: checked, claimed on disk, sent at most once, answered by type."""

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Any, Protocol

from fx_dagster.errors import DataError, FencedError
from resources.mt5.bridge.answers import Answer, Kind, read_answer
from resources.mt5.bridge.checks import SYMBOL
from resources.mt5.bridge.keys import KeyStore
from resources.mt5.constants import Mt5Constants as Mt5

NUMBER_END = 2**63


class TradingTerminal(Protocol):
    """The part of the ``MetaTrader5`` module that orders need."""

    def last_error(self) -> tuple[int, str]:
        """Return the code and text of the last call."""
        ...

    def account_info(self) -> Any:
        """Return the account; None: unknown."""
        ...

    def symbol_info(self, symbol: str) -> Any:
        """Return a symbol's specification; None: unknown."""
        ...

    def symbol_info_tick(self, symbol: str) -> Any:
        """Return a symbol's quote; None: unknown."""
        ...

    def positions_get(self, *, symbol: str = "", ticket: int = 0) -> Any:
        """Return open positions; None: unknown."""
        ...

    def order_send(self, request: Any) -> Any:
        """Send a request."""
        ...


class Purpose(StrEnum):
    """What an intent is for."""

    OPEN = "open"
    CLOSE = "close"
    MODIFY = "modify"
    """New stop and target of a position."""


@dataclass(frozen=True, slots=True)
class Intent:
    """An order at market, or a change of a position's stop and target, of the broker's own symbol.

    Attributes:
        key: the client order id, in [1, 2^63); travels as ``magic``.
        account: login.
        epoch: of the session that decided it, in [0, 2^63).
        expires_ns: ns UTC after which it is not sent.
        symbol: the broker's name.
        lots: > 0 buys, < 0 sells; 0 only to modify.
        stop: price; 0: none.
        target: price; 0: none.
        position: ticket of the position that it closes or changes; 0: the symbol's only one.
        deviation_points: most slippage.
        purpose: what it is for.

    Raises:
        DataError: a field is out of range.
    """

    key: int
    account: str
    epoch: int
    expires_ns: int
    symbol: str
    lots: float
    stop: float = 0.0
    target: float = 0.0
    position: int = 0
    deviation_points: int = 20
    purpose: Purpose = Purpose.OPEN

    def __post_init__(self) -> None:
        for name in ("key", "epoch", "expires_ns", "position", "deviation_points"):
            value = getattr(self, name)
            least = 1 if name == "key" else 0
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < NUMBER_END:
                raise DataError(f"intent: {name} is not a whole number in [{least}, 2^63)", mend="correct the sender")
        for name in ("lots", "stop", "target"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise DataError(f"intent: {name} is not a finite number", mend="correct the sender")
        if self.stop < 0.0 or self.target < 0.0:
            raise DataError("intent: stop or target is below 0", mend="correct the sender")
        if not isinstance(self.purpose, Purpose):
            raise DataError("intent: purpose is not open, close or modify", mend="correct the sender")
        if (self.lots == 0.0) != (self.purpose is Purpose.MODIFY):
            raise DataError("intent: lots is 0 for an order, or not 0 for a change", mend="correct the sender")
        if self.purpose is Purpose.OPEN and self.position:
            raise DataError("intent: position is given to open one", mend="leave it 0, or give another purpose")
        if not isinstance(self.symbol, str) or not SYMBOL.fullmatch(self.symbol):
            raise DataError("intent: symbol is not a broker's name", mend="use 1 to 29 of A-Z a-z 0-9 . _ # + -")
        if not isinstance(self.account, str) or not re.fullmatch(r"[0-9]{1,20}", self.account):
            raise DataError("intent: account is not a login of digits", mend="correct the sender")


def floor_lots(lots: float, step: float) -> float:
    """Return unsigned lots rounded down to the step, in decimals."""
    unit = Decimal(repr(step))
    return float((Decimal(repr(abs(lots))) / unit).to_integral_value(ROUND_FLOOR) * unit)


def filling_of(mask: int) -> int:
    """Return ``ORDER_FILLING_*`` for a symbol's bit mask: FOK, then IOC, else RETURN."""
    if mask & 1:
        return Mt5.ORDER_FILLING_FOK
    return Mt5.ORDER_FILLING_IOC if mask & 2 else Mt5.ORDER_FILLING_RETURN


def find_position(intent: Intent, positions: Any) -> Any:
    """Return the position that an intent closes or changes, or why there is none, as text."""
    if positions is None:
        return f"the terminal does not tell the positions of {intent.symbol}"
    held = [item for item in positions if item.symbol == intent.symbol and intent.position in (0, item.ticket)]
    if len(held) != 1:
        return f"{len(held)} open positions of {intent.symbol} fit, there must be one"
    closes = intent.purpose is Purpose.CLOSE
    if closes and (held[0].type == Mt5.POSITION_TYPE_BUY) == (intent.lots > 0.0):
        return f"the order would add to position {held[0].ticket}, not close it"
    if closes and abs(intent.lots) > held[0].volume + 1e-8:
        return f"the order has {abs(intent.lots):g} lots, position {held[0].ticket} only {held[0].volume:g}"
    return held[0]


def build_change(intent: Intent, info: Any, position: Any) -> dict[str, Any]:
    """Return the terminal's request for a new stop and target of a position."""
    return {
        "action": Mt5.TRADE_ACTION_SLTP, "symbol": intent.symbol, "position": position.ticket,
        "sl": round(intent.stop, info.digits), "tp": round(intent.target, info.digits), "magic": intent.key,
        "comment": f"fx{intent.key:x}",
    }  # fmt: skip


def build_request(intent: Intent, info: Any, tick: Any) -> dict[str, Any] | str:
    """Return the terminal's request, or why there is none: volume below the minimum, stops too near, no quote."""
    lots = floor_lots(intent.lots, info.volume_step)
    if lots < info.volume_min or lots > info.volume_max:
        return f"{lots:g} lots are outside [{info.volume_min:g}, {info.volume_max:g}]"
    buys = intent.lots > 0.0
    price = round(tick.ask if buys else tick.bid, info.digits)
    if not (math.isfinite(price) and price > 0.0):
        return "there is no quote"
    side, leaves = (1.0 if buys else -1.0), tick.bid if buys else tick.ask
    stop, target = round(intent.stop, info.digits), round(intent.target, info.digits)
    near = info.trade_stops_level - 1e-6
    for name, level, room in (("stop", stop, leaves - stop), ("target", target, target - leaves)):
        if level and (side * room <= 0.0 or side * room / info.point < near):
            return f"{name} {level} is too near to or on the wrong side of {leaves}"
    return {
        "action": Mt5.TRADE_ACTION_DEAL, "symbol": intent.symbol, "volume": lots, "price": price, "sl": stop,
        "tp": target, "type": Mt5.ORDER_TYPE_BUY if buys else Mt5.ORDER_TYPE_SELL, "position": intent.position,
        "deviation": intent.deviation_points, "magic": intent.key, "comment": f"fx{intent.key:x}",
        "type_time": Mt5.ORDER_TIME_GTC, "type_filling": filling_of(info.filling_mode),
    }  # fmt: skip


class OrderGate:
    """Sends intents to a terminal, each key at most once over all restarts.

    Args:
        terminal: initialized; it belongs to this process alone.
        keys: the durable store.
        now_ns: the clock, ns UTC.
        clock_error_ns: how far the sender's clock may be ahead of this one's.
        wrong_account: what is wrong with the account that the terminal is on; empty: nothing.
    """

    def __init__(
        self,
        terminal: TradingTerminal,
        keys: KeyStore,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        clock_error_ns: int = 0,
        wrong_account: Callable[[Any], str] = lambda _: "",
    ) -> None:
        self._terminal, self._keys, self._now_ns, self._clock_error_ns = terminal, keys, now_ns, clock_error_ns
        self._wrong_account = wrong_account

    def send(self, intent: Intent) -> Answer:
        """Send an intent, or say why it was not sent; a used key gets its recorded answer or unknown.

        Raises:
            JournalError: the key could not be written (nothing was sent), or the answer could not (the key counts as
                unknown from then on).
        """
        content = json.dumps(asdict(intent))
        known = self._keys.seen(intent.account, intent.key, content)
        if known is not None:
            return known
        try:
            self._keys.claim(intent.account, intent.key, intent.epoch, content)
        except FencedError as error:
            return Answer(Kind.REFUSED, text=str(error))  # for good: the newest epoch never goes down
        request = self._request(intent)
        refusal = request if isinstance(request, str) else self._late(intent)  # disk and terminal took their time
        answer = Answer(Kind.REFUSED, text=refusal) if refusal else self._sent(request)
        self._keys.record(intent.account, intent.key, answer)
        return answer

    def _late(self, intent: Intent) -> str:
        late_ns = self._now_ns() - intent.expires_ns
        return f"expired {late_ns} ns ago" if late_ns > self._clock_error_ns else ""

    def _request(self, intent: Intent) -> dict[str, Any] | str:
        account = self._terminal.account_info()
        if account is None or str(account.login) != intent.account:
            return "the terminal is not on the intent's account"
        if problem := self._wrong_account(account):
            return problem
        info, tick = self._terminal.symbol_info(intent.symbol), self._terminal.symbol_info_tick(intent.symbol)
        if info is None or tick is None:
            return f"the terminal does not tell the specification or quote of {intent.symbol}"
        if intent.purpose is Purpose.OPEN:
            return build_request(intent, info, tick)
        position = find_position(intent, self._terminal.positions_get(symbol=intent.symbol))
        if isinstance(position, str):
            return position
        if intent.purpose is Purpose.MODIFY:
            return build_change(intent, info, position)
        return build_request(replace(intent, position=int(position.ticket)), info, tick)

    def _sent(self, request: Any) -> Answer:
        try:
            rests = request.get("type_filling") == Mt5.ORDER_FILLING_RETURN
            return read_answer(self._terminal.order_send(request), self._terminal.last_error(), rests=rests)
        except Exception as error:  # noqa: BLE001 - it may have been sent: whatever went wrong, it is unknown
            return Answer(Kind.UNKNOWN, text=f"the terminal's call failed: {type(error).__name__}")
