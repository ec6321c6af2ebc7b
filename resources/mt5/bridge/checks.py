"""What is let through: each question's fields, with an error that names the field."""

import re
from typing import Any, Final

from fx_dagster.errors import DataError
from resources.mt5.bridge import wire_pb2 as wire
from resources.mt5.constants import Mt5Constants as Mt5

SYMBOL = re.compile(r"[A-Za-z0-9#_][A-Za-z0-9._#+-]{0,28}")
"""The broker's names of symbols that are let through: at most 29 characters."""
ROW_BYTES: Final = 60
REQUEST_BYTES_MAX: Final = 64 * 1024
REPLY_BYTES_MAX: Final = 16 * 1024 * 1024
NAMES_MAX: Final = 1_000
SECOND_END: Final = 2**31
DAY_S: Final = 86_400
TIMEFRAMES: Final = frozenset(
    value for name, value in vars(Mt5).items() if name.startswith("TIMEFRAME_") and isinstance(value, int)
)

QUESTIONS: Final[dict[str, tuple[Any, Any]]] = {
    "Now": (wire.NowRequest, wire.NowReply),
    "Info": (wire.InfoRequest, wire.InfoReply),
    "Symbols": (wire.SymbolsRequest, wire.SymbolsReply),
    "Rates": (wire.RatesRequest, wire.RowsReply),
    "Ticks": (wire.TicksRequest, wire.RowsReply),
    "Positions": (wire.PositionsRequest, wire.PositionsReply),
    "Orders": (wire.OrdersRequest, wire.OrdersReply),
    "PastOrders": (wire.HistoryRequest, wire.OrdersReply),
    "Deals": (wire.HistoryRequest, wire.DealsReply),
}
"""Methods that change nothing: request and reply."""
SEND: Final = "Send"
HEALTH: Final = "Health"
METHODS: Final[dict[str, tuple[Any, Any]]] = {
    HEALTH: (wire.HealthRequest, wire.HealthReply), SEND: (wire.Intent, wire.Answer), **QUESTIONS,
}  # fmt: skip
SERVICE: Final = "fx.bridge.v1.Bridge"


class Limits:
    """What one question may ask for.

    Args:
        symbols: the broker's names that are let through; empty: all possible ones.
        rows_max: rows of bars or ticks.
        history_s_max: seconds of a window.
    """

    def __init__(self, symbols: frozenset[str], rows_max: int, history_s_max: int) -> None:
        self.symbols, self.rows_max, self.history_s_max = symbols, rows_max, history_s_max

    def check(self, method: str, message: Any) -> None:
        """Refuse a message that asks for what is not let through.

        Raises:
            DataError: the message names the field.
        """
        if method in ("Rates", "Ticks", SEND):
            self._symbol(f"{method}.symbol", message.symbol)
        if method in ("Rates", "Ticks"):
            _within(f"{method}.count", message.count, 1, self.rows_max)
        if method == "Rates":
            _within("Rates.start_pos", message.start_pos, 0, SECOND_END - 1)
            _among("Rates.timeframe", message.timeframe, TIMEFRAMES)
        elif method == "Ticks":
            _within("Ticks.from_s", message.from_s, 0, SECOND_END - 1)
            _among("Ticks.flags", message.flags, (Mt5.COPY_TICKS_ALL, Mt5.COPY_TICKS_INFO, Mt5.COPY_TICKS_TRADE))
        elif method in ("PastOrders", "Deals"):
            _within(f"{method}.from_s", message.from_s, 0, SECOND_END - 1)
            _within(f"{method}.to_s", message.to_s, message.from_s, min(SECOND_END - 1, self._end(message)))
        elif method == "Symbols":
            _within("Symbols.names", len(message.names), 0, NAMES_MAX)
            for name in message.names:
                self._symbol("Symbols.names", name)

    def allows(self, name: str) -> bool:
        """Whether a symbol of the terminal is shown."""
        return bool(SYMBOL.fullmatch(name)) and (not self.symbols or name in self.symbols)

    def _end(self, message: Any) -> int:
        return int(message.from_s) + self.history_s_max

    def _symbol(self, field: str, name: str) -> None:
        if not SYMBOL.fullmatch(name):
            raise DataError(f"{field} is not a broker's name of a symbol", mend="use 1 to 29 of A-Z a-z 0-9 . _ # + -")
        if not self.allows(name):
            raise DataError(f"{field}: {name} is not let through", mend="add it to FX_BRIDGE_SYMBOLS")


def _within(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise DataError(f"{field} is {value}, not in [{least}, {most}]", mend="correct the sender")


def _among(field: str, value: int, allowed: Any) -> None:
    if value not in allowed:
        raise DataError(f"{field} is {value}, not one of MetaTrader 5's", mend="correct the sender")
