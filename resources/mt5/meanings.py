"""What MetaTrader's codes mean in the project's own words."""

from typing import Final

from fx_dagster.execution.broker import OrderStatus, TradeMode
from fx_dagster.execution.orders import DealReason
from resources.mt5.constants import Mt5Constants as Mt5

BUYING: Final = frozenset({
    Mt5.ORDER_TYPE_BUY, Mt5.ORDER_TYPE_BUY_LIMIT, Mt5.ORDER_TYPE_BUY_STOP, Mt5.ORDER_TYPE_BUY_STOP_LIMIT,
})  # fmt: skip
SELLING: Final = frozenset({
    Mt5.ORDER_TYPE_SELL, Mt5.ORDER_TYPE_SELL_LIMIT, Mt5.ORDER_TYPE_SELL_STOP, Mt5.ORDER_TYPE_SELL_STOP_LIMIT,
})  # fmt: skip
ENDED: Final = {
    Mt5.ORDER_STATE_CANCELED: OrderStatus.CANCELLED, Mt5.ORDER_STATE_FILLED: OrderStatus.FILLED,
    Mt5.ORDER_STATE_REJECTED: OrderStatus.REJECTED, Mt5.ORDER_STATE_EXPIRED: OrderStatus.EXPIRED,
}  # fmt: skip
"""States of orders that have ended; all others work."""
DEAL_REASONS: Final = {
    Mt5.DEAL_REASON_EXPERT: DealReason.CLIENT, Mt5.DEAL_REASON_SL: DealReason.STOP,
    Mt5.DEAL_REASON_TP: DealReason.TARGET, Mt5.DEAL_REASON_SO: DealReason.STOP_OUT,
    Mt5.DEAL_REASON_CLIENT: DealReason.MANUAL, Mt5.DEAL_REASON_MOBILE: DealReason.MANUAL,
    Mt5.DEAL_REASON_WEB: DealReason.MANUAL,
}  # fmt: skip
TRADE_MODES: Final = {
    Mt5.SYMBOL_TRADE_MODE_FULL: TradeMode.FULL, Mt5.SYMBOL_TRADE_MODE_DISABLED: TradeMode.NONE,
}  # fmt: skip
"""All others let one close only, at least in one direction."""
DEVIATION_POINTS: Final = 20
"""Most slippage, where the broker looks at it."""
