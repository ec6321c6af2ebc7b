"""A MetaTrader 5 account as the project's broker, over a bridge: the server's clock becomes UTC, names canonical ones.

gRPC's calls wait in a few threads of their own, each with a deadline, so that the event loop never does.
"""

import asyncio
import math
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from fx_dagster.errors import BrokerError, DataError, SettingsError, UnknownSymbolError
from fx_dagster.execution.broker import (
    TEXT_MAX,
    Accepted,
    Answer,
    BrokerAccount,
    BrokerDeal,
    BrokerOrder,
    BrokerPosition,
    BrokerSpecification,
    OrderStatus,
    Partial,
    Refused,
    Requote,
    TradeMode,
    Unknown,
)
from fx_dagster.execution.orders import DealReason, OrderIntent, Purpose
from fx_dagster.market.instruments import BROKER_SYMBOL, SymbolResolver, check_symbol
from fx_dagster.settings import BridgeSettings
from resources.mt5.bridge import wire_pb2 as wire
from resources.mt5.bridge.checks import DAY_S, SECOND_END, SEND
from resources.mt5.bridge.client import ANSWER_S, BridgeCallError, BridgeClient, server_second, utc_of_msc
from resources.mt5.bridge.gate import Intent
from resources.mt5.bridge.gate import Purpose as GatePurpose
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.feed import resolver_of
from resources.mt5.meanings import BUYING, DEAL_REASONS, DEVIATION_POINTS, ENDED, SELLING, TRADE_MODES

THREADS: Final = 4
DAYS_OF_A_YEAR: Final = 360
_KEY_END: Final = 2**63
_BY_THE_SERVER: Final = frozenset({DealReason.STOP, DealReason.TARGET, DealReason.STOP_OUT, DealReason.OTHER})
_CLOSING: Final = frozenset({Mt5.DEAL_ENTRY_OUT, Mt5.DEAL_ENTRY_INOUT, Mt5.DEAL_ENTRY_OUT_BY})
_PURPOSES: Final = {
    Purpose.OPEN: wire.PURPOSE_OPEN, Purpose.CLOSE: wire.PURPOSE_CLOSE, Purpose.MODIFY: wire.PURPOSE_MODIFY,
}  # fmt: skip

Result = TypeVar("Result")


class BridgeBroker:
    """The account behind a bridge; implements :class:`fx_dagster.execution.broker.Broker`.

    Args:
        client: of the bridge.
        login: of the account; intents go to it and no other.
        aliases: the broker's names that no rule knows, to canonical symbols.
        deadline_s: longest question.
        order_deadline_s: longest order; longer than the bridge's own limit, whose answer tells more.
        recent_ns: how long ago orders may have ended that :meth:`orders` tells.
        deviation_points: most slippage, where the broker looks at it.
    """

    def __init__(
        self, client: BridgeClient, *, login: str, aliases: Mapping[str, str] | None = None, deadline_s: float = 12.0,
        order_deadline_s: float = 35.0, recent_ns: int = DAY_S * 1_000_000_000,
        deviation_points: int = DEVIATION_POINTS,
    ) -> None:  # fmt: skip
        self._client, self._login, self._aliases = client, login, dict(aliases or {})
        self._deadline_s, self._order_deadline_s = deadline_s, order_deadline_s
        self._recent_ns, self._deviation_points = recent_ns, deviation_points
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bridge-broker")
        self._resolver: SymbolResolver | None = None

    def close(self) -> None:
        """End the threads; the client is its maker's."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, intent: OrderIntent) -> Answer:
        """Send one order, once. What is not a typed answer of the bridge is Unknown."""
        return await self._apart(lambda: self._send(intent))

    async def orders(self) -> tuple[BrokerOrder, ...]:
        """Return all orders that work, and those that ended in the last ``recent_ns``.

        Raises:
            BrokerError: they cannot be told.
        """
        return await self._apart(self._orders)

    async def positions(self) -> tuple[BrokerPosition, ...]:
        """Return all open positions, whoever's they are.

        Raises:
            BrokerError: they cannot be told.
        """
        return await self._apart(
            lambda: tuple(self._position(item) for item in self._asked("Positions", wire.PositionsRequest()).positions)
        )

    async def deals(self, since_ns: int) -> tuple[BrokerDeal, ...]:
        """Return all deals from ``since_ns`` (ns UTC) on, with up to a day more before.

        Raises:
            BrokerError: they cannot be told.
        """
        return await self._apart(lambda: self._deals(since_ns))

    async def account(self) -> BrokerAccount:
        """Return the account's money and whether it may trade.

        Raises:
            BrokerError: it cannot be told.
        """
        return await self._apart(self._account)

    async def specification(self, symbol: str) -> BrokerSpecification:
        """Return a canonical symbol's contract.

        Raises:
            BrokerError: it cannot be told.
            UnknownSymbolError: the broker does not have it.
        """
        return await self._apart(lambda: self._specification(symbol))

    async def _apart(self, call: Callable[[], Result]) -> Result:
        """Run in a thread of ours; what the broker shows and cannot be read is a BrokerError."""

        def checked() -> Result:
            try:
                return call()
            except (OverflowError, ValueError) as error:
                if isinstance(error, DataError) and type(error) is not DataError:
                    raise  # UnknownSymbolError is an answer
                raise BrokerError(f"the bridge's answer cannot be read: {error}", mend="see the terminal") from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, checked)

    # Orders

    def _send(self, intent: OrderIntent) -> Answer:
        try:
            message = self._intent(intent)
        except (DataError, BrokerError, ValueError, TypeError) as error:
            return Refused(0, _text(f"not sent: {error}"))
        try:
            reply = self._client.call(SEND, message, self._order_deadline_s)
            return _typed(reply)
        except BridgeCallError as error:
            return Refused(0, _text(f"not sent: {error}")) if error.not_sent else Unknown(_text(str(error)))
        except (BrokerError, ValueError, TypeError) as error:
            return Unknown(_text(f"the answer cannot be read: {error}"))

    def _intent(self, intent: OrderIntent) -> Any:
        values: dict[str, Any] = {
            "key": intent.client_order_id, "account": self._login, "epoch": intent.epoch,
            "expires_ns": intent.expires_ns, "symbol": self._names().broker(intent.symbol), "lots": float(intent.lots),
            "stop": float(intent.stop), "target": float(intent.target), "position": intent.position,
            "deviation_points": self._deviation_points,
        }  # fmt: skip
        Intent(**values, purpose=GatePurpose(intent.purpose.value))  # the gate's own checks, before it travels
        return wire.Intent(**values, purpose=_PURPOSES[intent.purpose])

    # What the broker shows

    def _asked(self, method: str, message: Any) -> Any:
        reply = self._client.call(method, message, self._deadline_s)
        if reply.HasField("failure"):
            raise BrokerError(
                f"MetaTrader 5: {method} failed with {reply.failure.code} ({reply.failure.text})",
                mend="see that the terminal runs and is connected",
            )
        return reply

    def _names(self) -> SymbolResolver:
        if self._resolver is None:
            reply = self._asked("Symbols", wire.SymbolsRequest())
            self._resolver = resolver_of([symbol.name for symbol in reply.symbols], self._aliases)
        return self._resolver

    def _canonical(self, name: str) -> str:
        """Return a canonical symbol; of one that is none of ours, its own name, as far as it is a safe one."""
        try:
            return self._names().canonical(name)
        except DataError:
            return check_symbol(re.sub(r"[^A-Za-z0-9_#+-]", "_", name)[:29] or "_")

    def _orders(self) -> tuple[BrokerOrder, ...]:
        working = self._asked("Orders", wire.OrdersRequest()).orders
        now_ns = self._client.clock.now_ns()
        past = self._asked("PastOrders", _window(now_ns - self._recent_ns, now_ns)).orders
        found = {item.ticket: item for item in working}
        # One that ended between the two questions is in both: the later answer holds.
        found |= {item.ticket: item for item in past}
        return tuple(order for item in found.values() if (order := self._order(item)) is not None)

    def _order(self, item: Any) -> BrokerOrder | None:
        if item.type not in BUYING | SELLING or item.volume_initial <= 0.0:
            return None  # a close of two positions by each other has no side; its deals tell it
        side = 1.0 if item.type in BUYING else -1.0
        return BrokerOrder(
            item.ticket, _key(item.magic), self._canonical(item.symbol), side * item.volume_initial,
            side * item.volume_current, item.sl, item.tp, utc_of_msc(item.time_setup_msc),
            ENDED.get(item.state, OrderStatus.WORKING), _text(item.comment),
        )  # fmt: skip

    def _position(self, item: Any) -> BrokerPosition:
        side = 1.0 if item.type == Mt5.POSITION_TYPE_BUY else -1.0
        return BrokerPosition(
            item.ticket, _key(item.magic), self._canonical(item.symbol), side * item.volume, item.price_open, item.sl,
            item.tp, utc_of_msc(item.time_msc), item.profit, item.swap, _text(item.comment),
        )  # fmt: skip

    def _deals(self, since_ns: int) -> tuple[BrokerDeal, ...]:
        reply = self._asked("Deals", _window(since_ns, self._client.clock.now_ns()))
        trades = (Mt5.DEAL_TYPE_BUY, Mt5.DEAL_TYPE_SELL)
        return tuple(self._deal(item) for item in reply.deals if item.type in trades and item.volume > 0.0)

    def _deal(self, item: Any) -> BrokerDeal:
        reason = DEAL_REASONS.get(item.reason, DealReason.OTHER)
        # A deal by stop or target may carry the magic of the order that opened the position: no order of ours made it.
        key = 0 if reason in _BY_THE_SERVER else _key(item.magic)
        side = 1.0 if item.type == Mt5.DEAL_TYPE_BUY else -1.0
        paid = 0.0 - (item.commission + item.fee)
        return BrokerDeal(
            item.ticket, item.order, item.position_id, key, self._canonical(item.symbol), utc_of_msc(item.time_msc),
            side * item.volume, item.price, paid, item.swap, item.profit, reason, item.entry in _CLOSING,
            _text(item.comment),
        )  # fmt: skip

    def _account(self) -> BrokerAccount:
        reply = self._asked("Info", wire.InfoRequest())
        account, terminal = reply.account, reply.terminal
        if str(account.login) != self._login:
            raise BrokerError(
                f"the terminal is on account {account.login}, not {self._login}", mend="log it in to the right one"
            )
        allowed = (
            account.trade_allowed and account.trade_expert and terminal.trade_allowed and terminal.connected
            and not terminal.tradeapi_disabled
        )  # fmt: skip
        return BrokerAccount(
            str(account.login), account.currency, account.balance, account.equity, account.margin,
            float(account.leverage), account.margin_mode == Mt5.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING,
            account.trade_mode == Mt5.ACCOUNT_TRADE_MODE_DEMO, bool(allowed),
        )  # fmt: skip

    def _specification(self, symbol: str) -> BrokerSpecification:
        name = self._names().broker(symbol)
        try:
            reply = self._asked("Symbols", wire.SymbolsRequest(names=[name]))
        except BrokerError:
            if all(item.name != name for item in self._asked("Symbols", wire.SymbolsRequest()).symbols):
                # The names that this session began with stay: its ticks and positions are of the old one.
                raise UnknownSymbolError(
                    f"the broker has no {name} any more for {symbol}", mend="restart the session, which looks anew"
                ) from None
            raise
        if len(reply.symbols) != 1:
            raise BrokerError(f"the terminal tells {len(reply.symbols)} specifications of {symbol}", mend="ask again")
        (item,) = reply.symbols
        return BrokerSpecification(
            symbol, item.digits, item.point, item.contract_size, item.volume_step, item.volume_min, item.volume_max,
            item.currency_base, item.currency_profit, swap_points(item, item.swap_long),
            swap_points(item, item.swap_short), (item.swap_rollover3days - 1) % 7, float(item.trade_stops_level),
            TRADE_MODES.get(item.trade_mode, TradeMode.CLOSE_ONLY),
        )  # fmt: skip


def open_broker(client: BridgeClient, settings: BridgeSettings) -> BridgeBroker:
    """Return the broker behind a client of the settings' bridge, with deadlines that outlast the bridge's own."""
    return BridgeBroker(
        client, login=settings.login, aliases=aliases_of(settings), deadline_s=2 * settings.call_limit_s + ANSWER_S,
        order_deadline_s=2 * settings.order_limit_s + ANSWER_S,
    )  # fmt: skip


def aliases_of(settings: BridgeSettings) -> dict[str, str]:
    """Return the broker's names that no rule knows, to canonical symbols.

    Raises:
        SettingsError: one is not written NAME=SYMBOL, or is no possible name.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in settings.aliases.split(","))):
        name, _, symbol = part.partition("=")
        try:
            found[name.strip()] = check_symbol(symbol.strip())
        except DataError:
            symbol = ""
        if not symbol or not BROKER_SYMBOL.fullmatch(name.strip()):
            raise SettingsError(f"FX_BRIDGE_ALIASES: {part[:70]!r} is no alias", mend="write GOLD.spot=XAUUSD, …")
    return found


def swap_points(item: Any, swap: float) -> float:
    """Return a lot's swap a night in points, from whatever the broker counts it in.

    Interest is a year's percentage of the price, over 360 days, as MetaTrader counts it. Money of the account is
    converted by the symbol's tick value, money of the base currency by its price.

    Raises:
        BrokerError: the broker reopens positions instead, or there is no quote or tick value to convert by.
    """
    mode = item.swap_mode
    if mode == Mt5.SYMBOL_SWAP_MODE_DISABLED or swap == 0.0:
        return 0.0
    if mode == Mt5.SYMBOL_SWAP_MODE_POINTS:
        return float(swap)
    points = math.nan
    if mode in (Mt5.SYMBOL_SWAP_MODE_INTEREST_CURRENT, Mt5.SYMBOL_SWAP_MODE_INTEREST_OPEN):
        points = item.bid * swap / 100.0 / DAYS_OF_A_YEAR / item.point if item.bid > 0.0 else math.nan
    elif mode in (Mt5.SYMBOL_SWAP_MODE_CURRENCY_SYMBOL, Mt5.SYMBOL_SWAP_MODE_CURRENCY_MARGIN):
        points = swap * item.bid / (item.contract_size * item.point) if item.bid > 0.0 else math.nan
    elif mode == Mt5.SYMBOL_SWAP_MODE_CURRENCY_DEPOSIT and item.tick_value > 0.0 < item.tick_size:
        points = swap / (item.tick_value * item.point / item.tick_size)
    if not math.isfinite(points):
        raise BrokerError(f"{item.name}: swap of mode {mode} cannot be told in points", mend="ask when it has a quote")
    return points


def _window(since_ns: int, until_ns: int) -> Any:
    """Return a window that is a day wider on both sides: servers differ on which clock they sort history by."""
    from_s = max(server_second(max(since_ns, 0)) - DAY_S, 0)
    return wire.HistoryRequest(from_s=from_s, to_s=min(server_second(until_ns) + DAY_S, SECOND_END - 1))


def _key(magic: int) -> int:
    return magic if 0 <= magic < _KEY_END else 0


def _text(text: str) -> str:
    return text.replace("\x00", "")[:TEXT_MAX]


def _typed(reply: Any) -> Answer:
    text, code = _text(reply.text), max(int(reply.retcode), 0)
    taken: dict[str, Any] = {
        "order": reply.order, "code": code, "text": text, "deal": reply.deal, "price": reply.price,
    }  # fmt: skip
    match reply.kind:
        case wire.KIND_ACCEPTED:
            return Accepted(**taken, lots=reply.volume)
        case wire.KIND_PARTIAL:
            return Partial(**taken, lots=reply.volume, working=reply.working)
        case wire.KIND_REFUSED:
            return Refused(code, text)
        case wire.KIND_REQUOTE:
            return Requote(code, text)
        case _:
            return Unknown(text or "the bridge does not know", code)
