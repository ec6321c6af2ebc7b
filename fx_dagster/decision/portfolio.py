"""Limits over all positions together: exposure by currency, correlation, value at risk.

Everything here is asked only when an entry has passed everything else. The *book* is one record a symbol
(:data:`BOOK`): what is held (foreign positions included) and what was decided but is not yet filled. ``returns`` are
the newest log returns of all symbols, float64 ``[w, n]``, rows in any order, NaN where unknown. Money is in the
account's currency.
"""

import math
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.decision.sizing import lots_within, margin_per_lot

Record: TypeAlias = Any

BOOK = np.dtype(
    [
        ("exposure", np.float64),  # signed notional: + the base currency is held, - it is owed
        ("margin", np.float64),
    ],
    align=True,
)

VAR_LEVEL, CVAR_LEVEL = 0.99, 0.975
KNOWN_ROWS_MIN = 60
"""Fewer rows of returns than this say nothing about a tail or a correlation."""
_DAYS_A_YEAR = 252
_VAR_SIGMAS = NormalDist().inv_cdf(VAR_LEVEL)
_CVAR_SIGMAS = NormalDist().pdf(NormalDist().inv_cdf(CVAR_LEVEL)) / (1.0 - CVAR_LEVEL)
_ROUNDING = 1e-9
"""100 x (1 - 0.99) is a little more than 1 in binary; nobody means the second row by it."""


@compiled
def _prices(row: Record, position: Record) -> tuple[float, float]:
    """Return middle and ask of a symbol's quote; where there is none, the price that its position was opened at."""
    if math.isfinite(row.bid) and math.isfinite(row.ask) and 0.0 < row.bid <= row.ask:
        return 0.5 * (row.bid + row.ask), row.ask
    return position.entry_price, position.entry_price


@compiled
def planned_lots(position: Record, own: Record, time: int) -> float:
    """Return signed lots of an entry that is decided and not yet seen as a position; 0: none."""
    if position.lots == 0.0 and (position.pending or own.planned_at == time):
        return own.planned_lots
    return 0.0


@compiled
def fill_book(
    table: Record, inputs: Record, positions: Record, states: Record, time: int, i: int, book: Record,
    held: np.ndarray,
) -> tuple[int, float]:  # fmt: skip
    """Fill ``book`` and ``held`` (symbols that have an exposure) before an entry of symbol ``i`` at ``time``.

    Returns:
        How many symbols are in ``held``, and the margin of planned entries, which the account does not count yet; it
        is infinite where something that is held cannot be valued, so that nothing is added to what nobody knows.
    """
    count = 0
    planned_margin = 0.0
    for j in range(positions.shape[0]):
        planned = planned_lots(positions[j], states[j], time) if j != i else 0.0
        lots = positions[j].lots + positions[j].foreign_lots + planned
        book[j].exposure = 0.0
        book[j].margin = 0.0
        if lots == 0.0:
            continue
        middle, ask = _prices(inputs[j], positions[j])
        unit = table[j].contract_size * inputs[j].conversion
        if not (math.isfinite(lots * unit * ask) and unit > 0.0 and middle > 0.0):
            return count, math.inf
        bound = margin_per_lot(ask, table[j].contract_size, inputs[j].conversion, table[j].margin_rate)
        book[j].exposure = lots * unit * middle
        book[j].margin = abs(lots) * bound
        planned_margin += abs(planned) * bound
        held[count] = j
        count += 1
    return count, planned_margin


@compiled
def currency_room(
    table: Record, book: Record, held: np.ndarray, i: int, direction: float, exposure_max: float
) -> float:
    """Return the notional that an entry of symbol ``i`` may have: after netting no currency is beyond ``exposure_max``.

    A position is + its notional of the base currency and - its notional of the profit currency. An entry that reduces
    a currency's net exposure has all the room up to the limit on the other side.

    Args:
        table: instruments.
        book: what is held.
        held: its symbols.
        i: symbol of the entry.
        direction: +1 buy, -1 sell.
        exposure_max: largest net exposure of one currency, in money.
    """
    base, profit = table[i].base_currency, table[i].profit_currency
    of_base = 0.0
    of_profit = 0.0
    for k in range(held.shape[0]):
        item, exposure = table[held[k]], book[held[k]].exposure
        if item.base_currency == base:
            of_base += exposure
        if item.profit_currency == base:
            of_base -= exposure
        if item.base_currency == profit:
            of_profit += exposure
        if item.profit_currency == profit:
            of_profit -= exposure
    return max(min(exposure_max - direction * of_base, exposure_max + direction * of_profit), 0.0)


@compiled
def known_correlation(returns: np.ndarray, i: int, j: int) -> float:
    """Return the correlation of two columns over the rows in which both are known.

    NaN where these are fewer than ``KNOWN_ROWS_MIN``, or one of the two did not move at all.
    """
    count = 0
    sum_x = 0.0
    sum_y = 0.0
    for t in range(returns.shape[0]):
        if math.isfinite(returns[t, i]) and math.isfinite(returns[t, j]):
            count += 1
            sum_x += returns[t, i]
            sum_y += returns[t, j]
    if count < KNOWN_ROWS_MIN:
        return math.nan
    mean_x, mean_y = sum_x / count, sum_y / count
    xx = 0.0
    yy = 0.0
    xy = 0.0
    for t in range(returns.shape[0]):
        if math.isfinite(returns[t, i]) and math.isfinite(returns[t, j]):
            dx, dy = returns[t, i] - mean_x, returns[t, j] - mean_y
            xx += dx * dx
            yy += dy * dy
            xy += dx * dy
    if not (xx > 0.0 and yy > 0.0):
        return math.nan
    return min(max(xy / math.sqrt(xx * yy), -1.0), 1.0)


@compiled
def _same_bet(one: Record, other: Record, side: float) -> bool:
    """Return whether two instruments share a currency in the same direction; ``side``: product of the directions."""
    if side > 0.0:
        return one.base_currency == other.base_currency or one.profit_currency == other.profit_currency
    return one.base_currency == other.profit_currency or one.profit_currency == other.base_currency


@compiled
def shared_margin(
    table: Record, book: Record, held: np.ndarray, returns: np.ndarray, i: int, direction: float, correlation_max: float
) -> float:
    """Return the margin of positions that are one position with an entry of symbol ``i``: they share its regime's room.

    These are the positions whose correlation with it, times both directions, is above ``correlation_max``. Where
    correlation is not known, it counts as 1 for two symbols that share a currency in the same direction (both long the
    euro, both short the dollar), else as 0.
    """
    total = 0.0
    for k in range(held.shape[0]):
        j = held[k]
        if j == i:
            continue
        side = direction if book[j].exposure > 0.0 else -direction
        rho = side * known_correlation(returns, i, j)
        if math.isnan(rho):
            rho = 1.0 if _same_bet(table[i], table[j], side) else 0.0
        if rho > correlation_max:
            total += book[j].margin
    return total


@compiled
def _largest(losses: np.ndarray, added: np.ndarray, lots: float, top: np.ndarray) -> None:
    """Fill ``top`` with the largest of ``losses + lots × added``, from the largest down."""
    last = top.shape[0] - 1
    top[:] = -math.inf
    for t in range(losses.shape[0]):
        loss = losses[t] + lots * added[t]
        if loss > top[last]:
            k = last
            while k > 0 and top[k - 1] < loss:
                top[k] = top[k - 1]
                k -= 1
            top[k] = loss


@compiled
def _tail_mean(top: np.ndarray, size: float) -> float:
    """Return the mean of the ``size`` largest losses, the last of them counted for the share that ``size`` leaves."""
    whole = min(math.floor(size + _ROUNDING), top.shape[0])
    rest = max(size - whole, 0.0)
    total = 0.0
    for k in range(whole):
        total += top[k]
    if whole < top.shape[0]:
        total += rest * top[whole]
    return total / (whole + rest)


@compiled
def tail_risk(
    losses: np.ndarray, added: np.ndarray, lots: float, var_level: float, cvar_level: float
) -> tuple[float, float]:
    """Return value at risk and CVaR of ``losses + lots × added`` (``[k]``, k ≥ 1, finite); 0 ≤ levels < 1.

    Value at risk is the loss that the share ``var_level`` does not exceed. CVaR is the mean of the worst
    ``1 − cvar_level``; of a loss that lies across the border only the share inside counts (Rockafellar and Uryasev
    2002): losses 1 … 5 at 0.7 have (5 + 0.5 × 4) / 1.5.
    """
    count = losses.shape[0]
    place = min(max(count - math.ceil(count * var_level - _ROUNDING), 0), count - 1)
    size = count * (1.0 - cvar_level)
    top = np.empty(min(max(place, math.floor(size + _ROUNDING)) + 1, count))
    _largest(losses, added, lots, top)
    return top[place], _tail_mean(top, size)


@compiled
def _fill_losses(
    book: Record, held: np.ndarray, returns: np.ndarray, i: int, unit: float, scale: float, losses: np.ndarray,
    added: np.ndarray,
) -> int:  # fmt: skip
    """Fill what each known row of ``returns`` would cost the book, and a lot of symbol ``i``; return the known rows."""
    count = 0
    for t in range(returns.shape[0]):
        loss = 0.0
        for k in range(held.shape[0]):
            loss -= book[held[k]].exposure * returns[t, held[k]]
        own = -unit * returns[t, i]
        if math.isfinite(loss) and math.isfinite(own):
            losses[count] = loss * scale
            added[count] = own * scale
            count += 1
    return count


@compiled
def _steps_within(
    losses: np.ndarray, added: np.ndarray, var_limit: float, cvar_limit: float, numerator: int, denominator: int,
    most: int,
) -> int:  # fmt: skip
    """Return lot steps, at most ``most``, that keep value at risk and CVaR within their limits.

    Found bit by bit from the largest power of two down: the same candidates whatever the limits are, so that a tighter
    limit can never end at a larger size, not even where the value at risk is no monotone function of size.
    """
    bit = 1
    while 2 * bit <= most:
        bit *= 2
    steps = 0
    while bit > 0:
        if steps + bit <= most:
            lots = (steps + bit) * numerator / denominator
            value_at_risk, cvar = tail_risk(losses, added, lots, VAR_LEVEL, CVAR_LEVEL)
            if value_at_risk <= var_limit and cvar <= cvar_limit:
                steps += bit
        bit //= 2
    return steps


@compiled
def _normal_lots(
    inputs: Record, book: Record, held: np.ndarray, i: int, unit: float, var_limit: float, cvar_limit: float
) -> float:
    """Return the lots within both limits if all symbols moved together, normally, with their long volatility."""
    moved = 0.0
    for k in range(held.shape[0]):
        moved += abs(book[held[k]].exposure) * inputs[held[k]].volatility_long
    sigma_max = min(var_limit / _VAR_SIGMAS, cvar_limit / _CVAR_SIGMAS) * math.sqrt(_DAYS_A_YEAR)
    volatility = inputs[i].volatility_long
    if not (math.isfinite(moved) and math.isfinite(volatility) and volatility > 0.0):
        return 0.0
    return lots_within(sigma_max - moved, unit * volatility)


@compiled
def lots_within_risk(
    config: Record, item: Record, inputs: Record, book: Record, held: np.ndarray, returns: np.ndarray, i: int,
    direction: float, unit: float, equity: float, most: int,
) -> float:  # fmt: skip
    """Return lots of an entry with which the portfolio's one-day VaR and CVaR stay within their limits.

    Historical simulation: each known row of ``returns`` happens to the book and the entry together, times the square
    root of the bars a day. With fewer than ``KNOWN_ROWS_MIN`` rows: normal returns with each symbol's long volatility
    and a correlation of 1 against the account, which no real book exceeds; unknown volatility allows nothing.

    Args:
        config: ``var_max``, ``cvar_max`` (fractions of equity), ``bars_a_day``.
        item: instrument of the entry.
        inputs: all symbols' inputs.
        book: what is held.
        held: its symbols.
        returns: ``[w, n]``.
        i: symbol of the entry.
        direction: +1 buy, -1 sell.
        unit: notional of a lot.
        equity: > 0.
        most: lot steps beyond which the answer does not matter.
    """
    var_limit, cvar_limit = config.var_max * equity, config.cvar_max * equity
    losses, added = np.empty(returns.shape[0]), np.empty(returns.shape[0])
    count = _fill_losses(book, held, returns, i, direction * unit, math.sqrt(config.bars_a_day), losses, added)
    if count < KNOWN_ROWS_MIN:
        return _normal_lots(inputs, book, held, i, unit, var_limit, cvar_limit)
    steps = _steps_within(
        losses[:count], added[:count], var_limit, cvar_limit, item.lot_numerator, item.lot_denominator, most
    )
    return steps * item.lot_numerator / item.lot_denominator
