"""Fill arithmetic, the same for the paper broker and the backtest.

Bids close long positions and asks close short ones. Lots are signed (> 0 long or bought), slippage is a price ≥ 0 and
always against the account, ``conversion`` is account currency per profit currency.
"""

from fx_dagster.compiled import compiled

NOTHING, STOP, TARGET = 0, 1, 2
"""What :func:`touched` returns."""

_GRID = 1e-9


@compiled
def market_price(lots: float, bid: float, ask: float, slippage: float) -> float:
    """Return the price of a market order of ``lots``: the ask for a buy, the bid for a sell, worsened by slippage."""
    return ask + slippage if lots > 0.0 else bid - slippage


@compiled
def stops_possible(lots: float, stop: float, target: float, bid: float, ask: float) -> bool:
    """Return whether a position of ``lots`` may open with these prices; a broker refuses "invalid stops" otherwise."""
    if lots > 0.0:
        return stop < bid and (target <= 0.0 or target > bid)
    return stop > ask and (target <= 0.0 or target < ask)


@compiled
def touched(lots: float, stop: float, target: float, bid: float, ask: float) -> int:
    """Return whether a quote sets off the stop or the target of a position; the stop goes first."""
    if lots > 0.0:
        if stop > 0.0 and bid <= stop:
            return STOP
        if target > 0.0 and bid >= target:
            return TARGET
    elif lots < 0.0:
        if stop > 0.0 and ask >= stop:
            return STOP
        if target > 0.0 and ask <= target:
            return TARGET
    return NOTHING


@compiled
def exit_price(
    what: int, lots: float, stop: float, target: float, bid: float, ask: float, slippage: float, continuous: bool
) -> float:
    """Return the price at which a touched stop or target is filled.

    A stop becomes a market order: after a gap it is filled at the quote beyond it; where price is taken to have moved
    continuously since the quote before (inside a modelled bar), at the stop itself. Slippage comes on top. A target is
    a limit: filled at its price, never better.
    """
    if what == TARGET:
        return target
    quote = bid if lots > 0.0 else ask
    price = stop if continuous else quote
    return price - slippage if lots > 0.0 else price + slippage


@compiled
def profit(lots: float, entry: float, price: float, contract_size: float, conversion: float) -> float:
    """Return the profit of ``lots`` from ``entry`` to ``price``, in the account's currency."""
    return (price - entry) * lots * contract_size * conversion


@compiled
def open_profit(lots: float, entry: float, bid: float, ask: float, contract_size: float, conversion: float) -> float:
    """Return the profit of an open position if it were closed at this quote."""
    return profit(lots, entry, bid if lots > 0.0 else ask, contract_size, conversion)


@compiled
def netted(held: float, entry: float, traded: float, price: float) -> tuple[float, float, float]:
    """Return lots and entry price of a netted position after a trade, and the signed lots of it that were closed.

    Adding averages the entry; reducing keeps it; a trade through zero opens the rest at its own price.
    """
    after = held + traded
    if abs(after) < _GRID:
        after = 0.0
    if held * traded >= 0.0:
        total = abs(held) + abs(traded)
        average = (abs(held) * entry + abs(traded) * price) / total if total > 0.0 else 0.0
        return after, average, 0.0
    closed = held if abs(traded) >= abs(held) else -traded
    if after == 0.0:
        return 0.0, 0.0, closed
    return after, (entry if after * held > 0.0 else price), closed


@compiled
def margin(lots: float, price: float, contract_size: float, conversion: float, margin_rate: float) -> float:
    """Return the margin that ``lots`` bind."""
    return abs(lots) * price * contract_size * conversion * margin_rate


@compiled
def swap_money(
    lots: float, nights: float, long_points: float, short_points: float, point: float, contract_size: float,
    conversion: float,
) -> float:  # fmt: skip
    """Return the swap of some nights: > 0 is credited, < 0 charged."""
    points = long_points if lots > 0.0 else short_points
    return points * nights * point * contract_size * abs(lots) * conversion
