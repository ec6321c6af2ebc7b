"""Requests to the broker: how the module reads them, and the texts of its return codes."""

import math
from collections.abc import Mapping
from typing import Any

from resources.mt5.constants import Mt5Constants
from resources.mt5.structures import TradeRequest

TEXT_LENGTH_MAX = 29
"""Of ``comment`` and ``symbol`` in a request; the module refuses longer ones."""
NUMBER_END = 2**63
"""``magic`` is kept below: a sign bit would not come back as it was sent."""

_TEXTS = ("symbol", "comment")
_REALS = ("volume", "price", "stoplimit", "sl", "tp")
_WHOLES = (
    "action", "magic", "order", "deviation", "type", "type_filling", "type_time", "expiration", "position",
    "position_by",
)  # fmt: skip

RETCODE_TEXTS = {
    0: "Done",
    Mt5Constants.TRADE_RETCODE_REQUOTE: "Requote",
    Mt5Constants.TRADE_RETCODE_REJECT: "Request rejected",
    Mt5Constants.TRADE_RETCODE_CANCEL: "Request canceled by trader",
    Mt5Constants.TRADE_RETCODE_PLACED: "Order placed",
    Mt5Constants.TRADE_RETCODE_DONE: "Request executed",
    Mt5Constants.TRADE_RETCODE_DONE_PARTIAL: "Only part of the request was completed",
    Mt5Constants.TRADE_RETCODE_ERROR: "Request processing error",
    Mt5Constants.TRADE_RETCODE_TIMEOUT: "Request canceled by timeout",
    Mt5Constants.TRADE_RETCODE_INVALID: "Invalid request",
    Mt5Constants.TRADE_RETCODE_INVALID_VOLUME: "Invalid volume",
    Mt5Constants.TRADE_RETCODE_INVALID_PRICE: "Invalid price",
    Mt5Constants.TRADE_RETCODE_INVALID_STOPS: "Invalid stops",
    Mt5Constants.TRADE_RETCODE_TRADE_DISABLED: "Trade is disabled",
    Mt5Constants.TRADE_RETCODE_MARKET_CLOSED: "Market closed",
    Mt5Constants.TRADE_RETCODE_NO_MONEY: "No money",
    Mt5Constants.TRADE_RETCODE_PRICE_CHANGED: "Price changed",
    Mt5Constants.TRADE_RETCODE_PRICE_OFF: "Off quotes",
    Mt5Constants.TRADE_RETCODE_INVALID_EXPIRATION: "Invalid expiration",
    Mt5Constants.TRADE_RETCODE_ORDER_CHANGED: "Order state changed",
    Mt5Constants.TRADE_RETCODE_TOO_MANY_REQUESTS: "Too frequent requests",
    Mt5Constants.TRADE_RETCODE_NO_CHANGES: "No changes",
    Mt5Constants.TRADE_RETCODE_SERVER_DISABLES_AT: "AutoTrading disabled by server",
    Mt5Constants.TRADE_RETCODE_CLIENT_DISABLES_AT: "AutoTrading disabled by client",
    Mt5Constants.TRADE_RETCODE_LOCKED: "Request locked for processing",
    Mt5Constants.TRADE_RETCODE_FROZEN: "Order or position frozen",
    Mt5Constants.TRADE_RETCODE_INVALID_FILL: "Unsupported filling mode",
    Mt5Constants.TRADE_RETCODE_CONNECTION: "No connection",
    Mt5Constants.TRADE_RETCODE_ONLY_REAL: "Only real accounts allowed",
    Mt5Constants.TRADE_RETCODE_LIMIT_ORDERS: "Limit of orders reached",
    Mt5Constants.TRADE_RETCODE_LIMIT_VOLUME: "Limit of volume reached",
    Mt5Constants.TRADE_RETCODE_INVALID_ORDER: "Invalid order",
    Mt5Constants.TRADE_RETCODE_POSITION_CLOSED: "Position closed",
    Mt5Constants.TRADE_RETCODE_INVALID_CLOSE_VOLUME: "Invalid close volume",
    Mt5Constants.TRADE_RETCODE_CLOSE_ORDER_EXIST: "Close order already exists",
    Mt5Constants.TRADE_RETCODE_LIMIT_POSITIONS: "Limit of positions reached",
    Mt5Constants.TRADE_RETCODE_REJECT_CANCEL: "Pending order activation rejected",
    Mt5Constants.TRADE_RETCODE_LONG_ONLY: "Only long positions allowed",
    Mt5Constants.TRADE_RETCODE_SHORT_ONLY: "Only short positions allowed",
    Mt5Constants.TRADE_RETCODE_CLOSE_ONLY: "Only position closing allowed",
    Mt5Constants.TRADE_RETCODE_FIFO_CLOSE: "Only FIFO closing allowed",
}


class InvalidArgumentError(ValueError):
    """A request that the module does not send; the message is that of ``last_error``."""


def read_request(request: Any) -> Any:
    """Return a request as a TradeRequest, with zeros for what was left out; unknown keys are not looked at.

    Raises:
        InvalidArgumentError: it is no dictionary, or a field has the wrong type, length or range.
    """
    if not isinstance(request, Mapping):
        raise InvalidArgumentError("Invalid arguments")
    values: dict[str, Any] = dict.fromkeys(TradeRequest._fields, 0) | dict.fromkeys(_REALS, 0.0)
    values |= dict.fromkeys(_TEXTS, "")
    for name in TradeRequest._fields:
        if name in request:
            values[name] = _field(name, request[name])
    return TradeRequest(**values)


def _field(name: str, value: Any) -> Any:
    if name in _TEXTS:
        good = isinstance(value, str) and len(value) <= TEXT_LENGTH_MAX and "\x00" not in value
    elif name in _REALS:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    else:
        good = name in _WHOLES and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < NUMBER_END
    if not good:
        raise InvalidArgumentError(f'Invalid "{name}" argument')
    return float(value) if name in _REALS else value
