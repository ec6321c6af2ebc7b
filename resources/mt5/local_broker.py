"""The simulated terminal in this process as a broker: sessions and tests of real trading without a bridge.

A real terminal is never called like this: its calls block without limit, so that it lives behind the bridge.
"""

from datetime import UTC, datetime
from typing import Any, Final

from fx_dagster.errors import BrokerError, UnknownSymbolError
from fx_dagster.execution.broker import (
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
from fx_dagster.market.calendar import utc_of_server
from fx_dagster.market.instruments import SymbolResolver
from fx_dagster.market.timeframes import DAY_NS, SECOND_NS
from resources.mt5.bridge.answers import Kind, kind_of
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.meanings import BUYING, DEAL_REASONS, DEVIATION_POINTS, ENDED, TRADE_MODES
from resources.mt5.simulated import SimulatedTerminal, server_seconds
from resources.mt5.tape import MILLISECOND_NS

RECENT_NS: Final = DAY_NS
"""How long ago orders may have ended that are still told."""
COMMENT_LENGTH: Final = 29


class LocalBroker:
    """Implements :class:`fx_dagster.execution.broker.Broker` over a terminal that is initialized.

    Args:
        terminal: not used by anybody else at the same moment.
    """

    def __init__(self, terminal: SimulatedTerminal) -> None:
        self._terminal = terminal

    async def send(self, intent: OrderIntent) -> Answer:
        """Send one order, once."""
        now = self._terminal.clock.now_ns()
        if 0 < intent.expires_ns <= now:
            return Refused(0, f"expired {(now - intent.expires_ns) / SECOND_NS:g} s ago")
        info = self._terminal.symbol_info(self._name(intent.symbol))
        if info is None:
            return Refused(0, f"the terminal does not tell the specification of {intent.symbol}: nothing was sent")
        result = self._terminal.order_send(_request(intent, info))
        if result is None:
            code, text = self._terminal.last_error()
            return Unknown(f"no answer: {text} ({code})")
        return self._answer(result)

    def _answer(self, result: Any) -> Answer:
        code, text = int(result.retcode), str(result.comment)
        match kind_of(code):
            case Kind.ACCEPTED:
                # Without a deal the volume is what was asked for.
                lots = float(result.volume) if result.deal else 0.0
                return Accepted(int(result.order), code, text, int(result.deal), lots, float(result.price))
            case Kind.PARTIAL:
                works = self._terminal.orders_get(ticket=result.order)
                if works is None:
                    return Unknown("the terminal does not tell whether the rest waits", code)
                return Partial(
                    int(result.order), float(result.volume), bool(works), code, text, int(result.deal),
                    float(result.price),
                )  # fmt: skip
            case Kind.REFUSED:
                return Refused(code, text)
            case Kind.REQUOTE:
                return Requote(code, text)
            case _:
                return Unknown(text, code)

    async def orders(self) -> tuple[BrokerOrder, ...]:
        """Return the orders that work, and those that ended in the last ``RECENT_NS``.

        Raises:
            BrokerError: they cannot be told.
        """
        working = self._told(self._terminal.orders_get(), "orders")
        past = self._told(
            self._terminal.history_orders_get(*self._since(self._terminal.clock.now_ns() - RECENT_NS)), "past orders"
        )
        return tuple(self._order(item) for item in (*working, *past))

    async def positions(self) -> tuple[BrokerPosition, ...]:
        """Return all open positions.

        Raises:
            BrokerError: they cannot be told.
        """
        return tuple(self._position(item) for item in self._told(self._terminal.positions_get(), "positions"))

    async def deals(self, since_ns: int) -> tuple[BrokerDeal, ...]:
        """Return all deals from ``since_ns`` (ns UTC) on.

        Raises:
            BrokerError: they cannot be told.
        """
        found = self._told(self._terminal.history_deals_get(*self._since(since_ns)), "deals")
        trades = (Mt5.DEAL_TYPE_BUY, Mt5.DEAL_TYPE_SELL)
        return tuple(self._deal(item) for item in found if item.type in trades)

    async def account(self) -> BrokerAccount:
        """Return the account's money and whether it may trade.

        Raises:
            BrokerError: it cannot be told.
        """
        account, terminal = self._terminal.account_info(), self._terminal.terminal_info()
        if account is None or terminal is None:
            raise self._silent("account")
        trades = account.trade_allowed and account.trade_expert and terminal.trade_allowed and terminal.connected
        return BrokerAccount(
            login=str(account.login), currency=account.currency, balance=account.balance, equity=account.equity,
            margin_used=account.margin, leverage=float(account.leverage),
            hedging=account.margin_mode == Mt5.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING,
            demo=account.trade_mode == Mt5.ACCOUNT_TRADE_MODE_DEMO,
            trade_allowed=bool(trades and not terminal.tradeapi_disabled),
        )  # fmt: skip

    async def specification(self, symbol: str) -> BrokerSpecification:
        """Return a canonical symbol's contract.

        Raises:
            BrokerError: it cannot be told.
            UnknownSymbolError: the broker does not have it.
        """
        info = self._terminal.symbol_info(self._name(symbol))
        if info is None:
            raise self._silent(f"specification of {symbol}")
        return BrokerSpecification(
            symbol=symbol, digits=info.digits, point=info.point, contract_size=info.trade_contract_size,
            lot_step=info.volume_step, lot_min=info.volume_min, lot_max=info.volume_max,
            base_currency=info.currency_base, profit_currency=info.currency_profit, swap_long_points=info.swap_long,
            swap_short_points=info.swap_short, triple_swap_weekday=(info.swap_rollover3days - 1) % 7,
            stop_distance_points=float(info.trade_stops_level),
            mode=TRADE_MODES.get(info.trade_mode, TradeMode.CLOSE_ONLY),
        )  # fmt: skip

    # -- inside ----------------------------------------------------------------------------------------------------

    def _told(self, items: Any, what: str) -> tuple[Any, ...]:
        if items is None:
            raise self._silent(what)
        return tuple(items)

    def _silent(self, what: str) -> BrokerError:
        code, text = self._terminal.last_error()
        return BrokerError(f"the terminal does not tell its {what}: {text} ({code})", mend="look at the terminal")

    def _resolver(self) -> SymbolResolver:
        return SymbolResolver(self._terminal.server.contracts)

    def _name(self, symbol: str) -> str:
        resolver = self._resolver()
        if symbol not in resolver.symbols:
            raise UnknownSymbolError(f"the broker does not have {symbol}", mend="leave it out of the symbols")
        return resolver.broker(symbol)

    def _since(self, since_ns: int) -> tuple[datetime, datetime]:
        """Return whole seconds of the server's clock around what is asked for, as aware datetimes."""
        first, last = server_seconds(max(since_ns, 0)), server_seconds(self._terminal.clock.now_ns()) + 1
        return datetime.fromtimestamp(max(first, 0), tz=UTC), datetime.fromtimestamp(last, tz=UTC)

    def _order(self, item: Any) -> BrokerOrder:
        sign = 1.0 if item.type in BUYING else -1.0
        return BrokerOrder(
            ticket=item.ticket, key=item.magic if item.reason == Mt5.ORDER_REASON_EXPERT else 0,
            symbol=self._resolver().canonical(item.symbol), lots=sign * item.volume_initial,
            lots_left=sign * item.volume_current, stop=item.sl, target=item.tp, placed_ns=_utc(item.time_setup_msc),
            status=ENDED.get(item.state, OrderStatus.WORKING), comment=item.comment,
        )  # fmt: skip

    def _position(self, item: Any) -> BrokerPosition:
        sign = 1.0 if item.type == Mt5.POSITION_TYPE_BUY else -1.0
        return BrokerPosition(
            ticket=item.ticket, key=item.magic if item.reason == Mt5.POSITION_REASON_EXPERT else 0,
            symbol=self._resolver().canonical(item.symbol), lots=sign * item.volume, entry_price=item.price_open,
            stop=item.sl, target=item.tp, opened_ns=_utc(item.time_msc), profit=item.profit, swap=item.swap,
            comment=item.comment,
        )  # fmt: skip

    def _deal(self, item: Any) -> BrokerDeal:
        sign = 1.0 if item.type == Mt5.DEAL_TYPE_BUY else -1.0
        reason = DEAL_REASONS.get(item.reason, DealReason.OTHER)
        return BrokerDeal(
            ticket=item.ticket, order=item.order, position=item.position_id,
            key=item.magic if reason is DealReason.CLIENT else 0, symbol=self._resolver().canonical(item.symbol),
            time_ns=_utc(item.time_msc), lots=sign * item.volume, price=item.price,
            commission=-(item.commission + item.fee), swap=item.swap, profit=item.profit, reason=reason,
            closing=item.entry != Mt5.DEAL_ENTRY_IN, comment=item.comment,
        )  # fmt: skip


def _request(intent: OrderIntent, info: Any) -> dict[str, Any]:
    stop, target = round(intent.stop, info.digits), round(intent.target, info.digits)
    request: dict[str, Any] = {
        "symbol": info.name, "sl": stop, "tp": target, "position": intent.position, "magic": intent.client_order_id,
        "comment": f"fx{intent.client_order_id:x}"[:COMMENT_LENGTH],
    }  # fmt: skip
    if intent.purpose is Purpose.MODIFY:
        return request | {"action": Mt5.TRADE_ACTION_SLTP}
    buys = intent.lots > 0.0
    mask = info.filling_mode
    filling = Mt5.ORDER_FILLING_FOK if mask & 1 else Mt5.ORDER_FILLING_IOC if mask & 2 else Mt5.ORDER_FILLING_RETURN
    return request | {
        "action": Mt5.TRADE_ACTION_DEAL, "volume": round(abs(intent.lots), 8), "deviation": DEVIATION_POINTS,
        "type": Mt5.ORDER_TYPE_BUY if buys else Mt5.ORDER_TYPE_SELL, "price": info.ask if buys else info.bid,
        "type_filling": filling, "type_time": Mt5.ORDER_TIME_GTC,
    }  # fmt: skip


def _utc(server_msc: int) -> int:
    return int(utc_of_server(server_msc * MILLISECOND_NS))
