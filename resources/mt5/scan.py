"""What the broker's server watches at every tick, compiled: stops, targets, waiting orders, and the account's margin.

One call looks at all new ticks of all symbols that matter, in the order of time, and stops at the first that sets
something off. Prices and money are the paper account's own arithmetic (:mod:`fx_dagster.execution.fills`).
"""

import numpy as np
from numpy.typing import NDArray

from fx_dagster.compiled import compiled
from fx_dagster.execution.fills import NOTHING, STOP, TARGET, margin, open_profit, touched

ORDER, STOP_OUT = 3, 4
"""What :func:`first_event` returns beside ``NOTHING``, ``STOP`` and ``TARGET``."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BUY, _SELL, _BUY_LIMIT, _SELL_LIMIT, _BUY_STOP, _SELL_STOP, _BUY_STOP_LIMIT, _SELL_STOP_LIMIT = range(8)


@compiled
def conversion_rate(legs: Ints, quotes: Floats) -> float:
    """Return account currency per profit currency: the product of a path's middles; NaN while a quote is missing.

    Args:
        legs: ``[k, 2]``: row of a symbol, and 1 to multiply by its price, -1 to divide; a row of -1 ends the path, of
            -2 says that there is none.
        quotes: ``[n, 2]`` bid and ask.
    """
    rate = 1.0
    for k in range(legs.shape[0]):
        i = legs[k, 0]
        if i == -2:
            return np.nan
        if i < 0:
            break
        middle = 0.5 * (quotes[i, 0] + quotes[i, 1])
        rate = rate * middle if legs[k, 1] > 0 else rate / middle
    return rate


@compiled
def larger_sides(rows: Ints, lots: Floats) -> Floats:
    """Return ``[m]`` lots that bind margin: a symbol's larger side at its first position, 0 at its others."""
    larger = np.zeros(rows.shape[0])
    for j in range(rows.shape[0]):
        bought, sold, first = 0.0, 0.0, True
        for k in range(rows.shape[0]):
            if rows[k] == rows[j]:
                if k < j:
                    first = False
                    break
                bought += max(lots[k], 0.0)
                sold += max(-lots[k], 0.0)
        if first:
            larger[j] = max(bought, sold)
    return larger


@compiled
def valuation(
    rows: Ints, lots: Floats, entries: Floats, larger: Floats, quotes: Floats, sizes: Floats, rates: Floats,
    legs: NDArray[np.int64],
) -> tuple[float, float]:  # fmt: skip
    """Return profit and margin of open positions at the quotes, in the account's currency.

    Args:
        rows, lots, entries, larger: ``[m]`` of the positions; lots signed; ``larger`` from :func:`larger_sides`.
        quotes, sizes, rates, legs: ``[n, …]`` of the symbols: bid and ask, contract size, margin rate, conversion.
    """
    gained, bound = 0.0, 0.0
    for j in range(rows.shape[0]):
        i = rows[j]
        rate = conversion_rate(legs[i], quotes)
        gained += open_profit(lots[j], entries[j], quotes[i, 0], quotes[i, 1], sizes[i], rate)
        if larger[j] > 0.0:
            bound += margin(larger[j], quotes[i, 1], sizes[i], rate, rates[i])
    return gained, bound


@compiled
def set_off(kind: int, price: float, bid: float, ask: float) -> bool:
    """Return whether a quote fills a waiting order of a kind (``ORDER_TYPE_…``), or turns it into its limit."""
    if kind == _BUY_LIMIT:
        return ask <= price
    if kind == _SELL_LIMIT:
        return bid >= price
    if kind in (_BUY_STOP, _BUY_STOP_LIMIT):
        return ask >= price
    if kind in (_SELL_STOP, _SELL_STOP_LIMIT):
        return bid <= price
    return True


@compiled
def first_event(
    times: Ints, ticked: Ints, bids: Floats, asks: Floats, start: int, quotes: Floats,
    rows: Ints, lots: Floats, entries: Floats, stops: Floats, targets: Floats,
    order_rows: Ints, order_kinds: Ints, order_prices: Floats, order_since: Ints,
    sizes: Floats, rates: Floats, legs: NDArray[np.int64], money: float, level: float,
) -> tuple[int, int, int]:  # fmt: skip
    """Return the first tick from ``start`` on that sets something off, what, and which; (-1, NOTHING, -1): none.

    ``quotes`` is changed in place to the quotes at that tick, or at the last one.

    Args:
        times, ticked, bids, asks: ``[t]`` of the ticks, in the order of time: ns UTC, symbol's row, prices.
        start: place of the first tick to look at.
        quotes: ``[n, 2]``.
        rows, lots, entries, stops, targets: ``[m]`` of the positions; 0: no stop, no target.
        order_rows, order_kinds, order_prices, order_since: ``[k]`` of waiting orders; not set off before ``since``.
        sizes, rates, legs: see :func:`valuation`.
        money: balance and gathered swap.
        level: equity over margin at which positions are closed.
    """
    larger = larger_sides(rows, lots)
    for t in range(start, times.shape[0]):
        i = ticked[t]
        quotes[i, 0], quotes[i, 1] = bids[t], asks[t]
        for j in range(rows.shape[0]):
            if rows[j] == i:
                what = touched(lots[j], stops[j], targets[j], bids[t], asks[t])
                if what != NOTHING:
                    return t, what, j
        for j in range(order_rows.shape[0]):
            if (
                order_rows[j] == i
                and times[t] >= order_since[j]
                and set_off(order_kinds[j], order_prices[j], bids[t], asks[t])
            ):
                return t, ORDER, j
        if rows.shape[0] > 0:
            gained, bound = valuation(rows, lots, entries, larger, quotes, sizes, rates, legs)
            # An unknown conversion (NaN) closes nothing.
            if bound > 0.0 and money + gained <= level * bound:
                return t, STOP_OUT, -1
    return -1, NOTHING, -1


__all__ = [
    "NOTHING", "ORDER", "STOP", "STOP_OUT", "TARGET", "conversion_rate", "first_event", "larger_sides",
    "set_off", "valuation",
]  # fmt: skip
