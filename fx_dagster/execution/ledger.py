"""The account on paper, compiled: one ledger for backtests over bars, replays of ticks and the live paper broker.

Assumptions about execution, all in one place:

- A market order is filled whole at the first quote *after* the moment it was decided at: the ask for a buy, the bid for
  a sell, worsened by slippage. One order waits a symbol at most.
- Stops and targets are watched at every quote, on the side that closes the position (bid for long, ask for short). A
  gap through the stop fills at the quote beyond it; inside a modelled bar (``continuous``) price passes through the
  stop. See :func:`fx_dagster.execution.fills.exit_price`.
- Commission is taken at each fill. It is in dollars, turned into the account's currency at the current quotes where the
  symbols at hand connect the two, else counted as if it were in the account's currency.
- Swap gathers on a position at 17:00 New York (three nights on the instrument's triple weekday) and is realised in
  proportion when the position closes.
- When equity is below ``STOP_OUT_LEVEL`` of margin, the position with the largest loss is closed, and so on.

The account of a real broker is kept in the same ledger, so that the decision step sees no difference; but then quotes
only value what :func:`adopt` says, and none of the above happens here.

Profit currencies are converted at the middle of the newest quotes; an open position is valued when its own symbol is
quoted. A quote costs the same however many symbols there are, and a sum over the open positions.
"""

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fx_dagster.compiled import compiled, inlined, uncounted
from fx_dagster.decision.instruments import instrument_table
from fx_dagster.decision.rows import POSITION, Rows
from fx_dagster.decision.sizing import floor_steps
from fx_dagster.decision.step import record_trade
from fx_dagster.errors import SettingsError, TradingError
from fx_dagster.execution.conversion import Leg, conversion_path, conversion_paths
from fx_dagster.execution.fills import (
    NOTHING,
    STOP,
    TARGET,
    exit_price,
    margin,
    market_price,
    netted,
    open_profit,
    profit,
    stops_possible,
    swap_money,
    touched,
)
from fx_dagster.market.calendar import server_time, utc_of_server
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.timeframes import DAY_NS
from fx_dagster.settings import CostSettings

Record: TypeAlias = Any
STOP_OUT_LEVEL = 0.5
COMMISSION_CURRENCY = "USD"

PLACED, DONE = 10008, 10009
INVALID_VOLUME, INVALID_STOPS, NO_MONEY, NO_PRICES, EXPIRED, BUSY, POSITION_CLOSED = (
    10014, 10016, 10019, 10021, 10022, 10024, 10036,
)  # fmt: skip
"""MetaTrader 5's return codes."""


class Order(IntEnum):
    """What waits for a symbol's next quote."""

    NONE = 0
    OPEN = 1
    CLOSE = 2


class Entry(IntEnum):
    """What an event of the ledger is."""

    DEAL = 1
    REFUSED = 2
    EXPIRED = 3


class Cause(IntEnum):
    """Why a deal was made."""

    ORDER = 0
    STOP = 1
    TARGET = 2
    STOP_OUT = 3


class Slippage(IntEnum):
    """What slippage is measured by."""

    FIXED = 0
    """Points."""
    SPREAD = 1
    """Share of the quote's spread."""
    VOLATILITY = 2
    """Share of the base timeframe's ATR."""


_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday (Monday = 0)
_NO_ORDER, _OPEN, _CLOSE = int(Order.NONE), int(Order.OPEN), int(Order.CLOSE)
_DEAL, _REFUSED, _EXPIRED_ORDER = int(Entry.DEAL), int(Entry.REFUSED), int(Entry.EXPIRED)
_BY_ORDER, _BY_STOP, _BY_TARGET, _BY_STOP_OUT = (
    int(Cause.ORDER), int(Cause.STOP), int(Cause.TARGET), int(Cause.STOP_OUT),
)  # fmt: skip
_SPREAD, _VOLATILITY = int(Slippage.SPREAD), int(Slippage.VOLATILITY)

_F, _I, _B = np.float64, np.int64, np.bool_

HELD = np.dtype(
    [
        ("time", _I), ("bid", _F), ("ask", _F), ("atr", _F), ("value", _F), ("bound", _F), ("swap", _F),
        ("commission", _F), ("risk", _F),
        ("opened", _I), ("key", _I), ("ticket", _I), ("order", _I), ("order_lots", _F), ("order_stop", _F),
        ("order_target", _F),
        ("order_risk", _F), ("order_decided", _I), ("order_expires", _I), ("order_key", _I), ("swap_long", _F),
        ("swap_short", _F), ("triple_weekday", _I),
    ],
    align=True,
)  # fmt: skip
"""What is known of a symbol beside its position: the newest quote and the position's value and margin at it, what the
position has cost, the order that waits."""

MONEY = np.dtype(
    [
        ("balance", _F), ("commission", _F), ("spread", _F), ("slippage", _F), ("swap", _F), ("turnover", _F),
        ("refused", _I), ("clock", _I), ("rollover", _I), ("ticket", _I), ("events", _I), ("open_count", _I),
    ],
    align=True,
)  # fmt: skip
"""The account, sums of its costs, entries that were refused, and how much of events and ``open_rows`` is used."""

COSTS = np.dtype(
    [
        ("commission_per_lot", _F), ("slippage", _F), ("slippage_model", _I), ("stop_out_level", _F),
        ("real", _B),  # a broker trades the account: nothing is filled or closed here, only adopted and valued
    ],
    align=True,
)  # fmt: skip

EVENT = np.dtype(
    [
        ("what", _I), ("row", _I), ("time", _I), ("key", _I), ("code", _I), ("ticket", _I), ("cause", _I),
        ("closing", _I), ("lots", _F), ("price", _F), ("commission", _F), ("swap", _F), ("profit", _F), ("risk", _F),
        ("entry_price", _F), ("entry_time", _I), ("entry_key", _I), ("entry_commission", _F), ("closed_lots", _F),
        ("stop", _F), ("target", _F),
    ],
    align=True,
)  # fmt: skip
"""A deal, or what became of an order that was not filled; ``entry_…`` describe the position that a deal closed."""


class Ledger(NamedTuple):
    """One account; all of it is changed in place."""

    positions: Rows
    """``[n]`` of :data:`fx_dagster.decision.rows.POSITION`."""
    helds: Rows
    """``[n]`` of :data:`HELD`."""
    money: Rows
    costs: Rows
    table: Rows
    """``[n]`` of :data:`fx_dagster.decision.rows.INSTRUMENT`."""
    legs: NDArray[np.int64]
    """``[n + 1, k, 2]``: symbols that convert a profit currency, and 1 to multiply by their price, -1 to divide; -1 as
    symbol ends the path. The last row converts the commission's currency."""
    open_rows: NDArray[np.int64]
    """``[n]``: the first ``open_count`` are the symbols with a position, in the order of their opening."""
    memory: Rows
    """``[1]``: what the decision step remembers of closed trades."""
    events: Rows
    """``[cap]`` of :data:`EVENT`."""


def new_ledger(
    instruments: Sequence[Instrument], cost: CostSettings, *, memory: Rows, balance: float, leverage: float,
    account_currency: str, events: int, stop_out_level: float = STOP_OUT_LEVEL, real: bool = False,
) -> Ledger:  # fmt: skip
    """Return the ledger of a new account.

    Args:
        instruments: one a symbol.
        cost: commission and slippage.
        memory: the decision step's, which learns from closed trades.
        balance: in the account's currency.
        leverage: of the account.
        account_currency: ISO code.
        events: how many events are kept until they are drained.
        stop_out_level: equity over margin at which positions are closed.
        real: whether a broker trades the account: positions are then what :func:`adopt` says, and quotes only value
            them.

    Raises:
        SettingsError: a number is impossible, or a profit currency cannot be converted with these symbols.
    """
    if not (math.isfinite(balance) and balance > 0):
        raise SettingsError(f"initial_balance is {balance}", mend="give a number above 0")
    if not 0 < stop_out_level < 1:
        raise SettingsError(f"stop_out_level is {stop_out_level}", mend="give equity over margin, in (0, 1)")
    n = len(instruments)
    helds, money, costs = np.zeros(n, HELD), np.zeros(1, MONEY), np.zeros(1, COSTS)
    helds["bid"] = helds["ask"] = helds["atr"] = np.nan
    helds["swap_long"] = [item.swap_long_points for item in instruments]
    helds["swap_short"] = [item.swap_short_points for item in instruments]
    helds["triple_weekday"] = [_weekday(item) for item in instruments]
    money["balance"] = balance
    costs[0] = (
        cost.commission_per_lot, _slippage_amount(cost), Slippage[cost.slippage_model.upper()], stop_out_level, real,
    )  # fmt: skip
    return Ledger(
        np.zeros(n, POSITION), helds, money, costs, instrument_table(instruments, leverage),
        _legs(instruments, account_currency), np.zeros(n, dtype=np.int64), memory, np.zeros(events, EVENT),
    )  # fmt: skip


def _weekday(item: Instrument) -> int:
    if not 0 <= item.triple_swap_weekday <= 4:
        raise SettingsError(
            f"{item.symbol}: triple_swap_weekday is {item.triple_swap_weekday}", mend="give 0 (Monday) to 4 (Friday)"
        )
    return item.triple_swap_weekday


def _slippage_amount(cost: CostSettings) -> float:
    amounts = {
        "fixed": cost.slippage_points, "spread": cost.slippage_spread_share, "volatility": cost.slippage_atr_share,
    }  # fmt: skip
    return amounts[cost.slippage_model]


def _legs(instruments: Sequence[Instrument], account_currency: str) -> NDArray[np.int64]:
    place = {item.symbol: row for row, item in enumerate(instruments)}
    paths: list[tuple[Leg, ...]] = list(conversion_paths(instruments, account_currency).values())
    try:
        paths.append(conversion_path(COMMISSION_CURRENCY, account_currency, instruments))
    except SettingsError:
        paths.append(())
    legs = np.full((len(paths), max(1, *(len(path) for path in paths)), 2), -1, dtype=np.int64)
    for row, path in enumerate(paths):
        for k, (symbol, multiply) in enumerate(path):
            legs[row, k] = place[symbol], 1 if multiply else -1
    return legs


@uncounted
def rate_of(legs: NDArray[np.int64], helds: Record) -> float:
    """Return the product of a path's mid prices."""
    rate = 1.0
    for k in range(legs.shape[0]):
        i = legs[k, 0]
        if i < 0:
            break
        middle = 0.5 * (helds[i].bid + helds[i].ask)
        rate = rate * middle if legs[k, 1] > 0 else rate / middle
    return rate


@inlined
def conversion(ledger: Ledger, row: int) -> float:
    """Return account currency per profit currency of a symbol (``n``: per dollar); NaN while a quote is missing."""
    return rate_of(ledger.legs[row], ledger.helds)


@inlined
def commission_rate(ledger: Ledger) -> float:
    """Return account currency per dollar of commission; 1 where the symbols at hand, or their quotes, do not say."""
    rate = conversion(ledger, ledger.table.shape[0])
    return rate if math.isfinite(rate) else 1.0


@uncounted
def _mark(item: Record, position: Record, held: Record, rate: float) -> None:
    """Value a position at its symbol's newest quote."""
    value = open_profit(position.lots, position.entry_price, held.bid, held.ask, item.contract_size, rate)
    held.value = value + held.swap
    held.bound = margin(position.lots, held.ask, item.contract_size, rate, item.margin_rate)


@uncounted
def _sum_values(balance: float, helds: Record, open_rows: NDArray[np.int64], count: int) -> float:
    for k in range(count):
        balance += helds[open_rows[k]].value
    return balance


@uncounted
def _sum_bounds(helds: Record, open_rows: NDArray[np.int64], count: int) -> float:
    total = 0.0
    for k in range(count):
        total += helds[open_rows[k]].bound
    return total


@inlined
def equity(ledger: Ledger) -> float:
    """Return balance and open positions, each at its symbol's newest quote: what closing all would bring."""
    money = ledger.money[0]
    return _sum_values(money.balance, ledger.helds, ledger.open_rows, money.open_count)


@inlined
def margin_used(ledger: Ledger) -> float:
    """Return the margin of all positions, each at its symbol's newest quote."""
    return _sum_bounds(ledger.helds, ledger.open_rows, ledger.money[0].open_count)


@uncounted
def margin_of(ledger: Ledger, i: int, lots: float) -> float:
    """Return the margin that ``lots`` of a symbol bind now."""
    item = ledger.table[i]
    return margin(lots, ledger.helds[i].ask, item.contract_size, conversion(ledger, i), item.margin_rate)


@uncounted
def slippage(ledger: Ledger, i: int) -> float:
    """Return how much worse than the quote an order of a symbol is filled, as a price."""
    costs, held = ledger.costs[0], ledger.helds[i]
    if costs.slippage_model == _SPREAD:
        return costs.slippage * (held.ask - held.bid)
    if costs.slippage_model == _VOLATILITY:
        return costs.slippage * held.atr if math.isfinite(held.atr) else held.ask - held.bid
    return costs.slippage * ledger.table[i].point


@uncounted
def is_full(ledger: Ledger) -> bool:
    """Return whether one more quote could make more events than there is room for: drain them first."""
    money = ledger.money[0]
    return money.events + money.open_count + 3 > ledger.events.shape[0]


@uncounted
def place(
    ledger: Ledger, i: int, order: int, lots: float, stop: float, target: float, risk: float, decided: int,
    expires: int, key: int,
) -> int:  # fmt: skip
    """Let an order wait for the symbol's next quote; return ``PLACED``, or why it is refused.

    Args:
        ledger: the account.
        i: symbol's row.
        order: :class:`Order`.
        lots: signed, on the instrument's grid.
        stop: of an entry, > 0.
        target: of an entry; 0: none.
        risk: money at risk at the stop.
        decided: a quote of this moment (ns UTC) or earlier does not fill it.
        expires: a quote of this moment or later does not fill it; 0: it does not expire.
        key: the caller's, given back in the event.
    """
    held, item = ledger.helds[i], ledger.table[i]
    if held.order != _NO_ORDER:
        return BUSY
    size = abs(lots)
    steps = floor_steps(size, item.lot_numerator, item.lot_denominator)
    if not (size > 0.0 and steps * item.lot_numerator / item.lot_denominator == size):
        return INVALID_VOLUME
    if order == _OPEN:
        if not item.lot_min_steps <= steps <= item.lot_max_steps:
            return INVALID_VOLUME
        if not stop > 0.0:
            return INVALID_STOPS
    held.order = order
    held.order_lots = lots
    held.order_stop = stop
    held.order_target = target
    held.order_risk = risk
    held.order_decided = decided
    held.order_expires = expires
    held.order_key = key
    ledger.positions[i].pending = True
    return PLACED


@uncounted
def modify(ledger: Ledger, i: int, stop: float, target: float) -> int:
    """Move a position's stop and target; return ``DONE``, or why not."""
    position, held = ledger.positions[i], ledger.helds[i]
    if position.lots == 0.0 or not math.isfinite(held.bid):
        return POSITION_CLOSED
    if not (stop > 0.0 and stops_possible(position.lots, stop, target, held.bid, held.ask)):
        return INVALID_STOPS
    position.stop = stop
    position.target = target
    return DONE


@inlined
def quote(ledger: Ledger, i: int, time: int, bid: float, ask: float, continuous: bool) -> None:
    """Take a symbol's quote: swap that fell due, stops and targets, the waiting order, stop-out.

    Args:
        ledger: the account.
        i: symbol's row.
        time: ns UTC; an earlier one than the account's clock counts as the clock's.
        bid: > 0.
        ask: ≥ bid.
        continuous: price moved here without a gap from the symbol's last quote (modelled ticks inside a bar).
    """
    held, position, money = ledger.helds[i], ledger.positions[i], ledger.money[0]
    real = ledger.costs[0].real
    if time > money.clock:
        if time >= money.rollover and not real:
            _roll_over(ledger, time)
        money.clock = time
    held.time = time
    held.bid = bid
    held.ask = ask
    if real:
        if position.lots != 0.0:
            _mark(ledger.table[i], position, held, conversion(ledger, i))
    else:
        _trade_on(ledger, i, time, bid, ask, continuous)


@inlined
def _trade_on(ledger: Ledger, i: int, time: int, bid: float, ask: float, continuous: bool) -> None:
    """Do what a quote sets off: stops and targets, the waiting order, stop-out."""
    held, position, money = ledger.helds[i], ledger.positions[i], ledger.money[0]
    if position.lots != 0.0 and touched(position.lots, position.stop, position.target, bid, ask) != NOTHING:
        _leave(ledger, i, continuous)
    if held.order != _NO_ORDER and time > held.order_decided:
        _fill(ledger, i, time)
        if position.lots != 0.0 and touched(position.lots, position.stop, position.target, bid, ask) != NOTHING:
            _leave(ledger, i, False)
    if money.open_count > 0:
        if position.lots != 0.0:
            _mark(ledger.table[i], position, held, conversion(ledger, i))
        bound = margin_used(ledger)
        # An unknown conversion (NaN) closes nothing.
        if bound > 0.0 and equity(ledger) < ledger.costs[0].stop_out_level * bound:
            _stop_out(ledger)


@uncounted
def _roll_over(ledger: Ledger, time: int) -> None:
    """At 17:00 New York open positions gather swap."""
    money = ledger.money[0]
    if money.clock > 0:
        for k in range(money.open_count):
            _gather_swap(ledger, ledger.open_rows[k], money.clock, time)
    money.rollover = utc_of_server((server_time(time) // DAY_NS + 1) * DAY_NS)


@uncounted
def swap_nights_between(since: int, until: int, triple_weekday: int) -> int:
    """Return the nights' swap that falls due in ``(since, until]`` (ns UTC).

    A rollover at 17:00 New York at the end of a trading day from Monday to Friday counts one night, that of
    ``triple_weekday`` (Monday = 0 … Friday = 4) three: it pays for the weekend's value dates.
    """
    return _nights(server_time(until) // DAY_NS, triple_weekday) - _nights(server_time(since) // DAY_NS, triple_weekday)


@uncounted
def _nights(day: int, triple_weekday: int) -> int:
    """Return the nights before a day of the server's clock, counted from a Monday."""
    day += _EPOCH_WEEKDAY
    of_week = day % 7
    nights = min(of_week, 5)
    if of_week > triple_weekday:
        nights += 2
    return day // 7 * 7 + nights


@uncounted
def _gather_swap(ledger: Ledger, i: int, since: int, until: int) -> None:
    held, item = ledger.helds[i], ledger.table[i]
    nights = swap_nights_between(since, until, held.triple_weekday)
    gathered = swap_money(
        ledger.positions[i].lots, float(nights), held.swap_long, held.swap_short, item.point, item.contract_size,
        conversion(ledger, i),
    )  # fmt: skip
    held.swap += gathered
    held.value += gathered


@uncounted
def _leave(ledger: Ledger, i: int, continuous: bool) -> None:
    """Close a position whose stop or target the quote has touched."""
    position, held = ledger.positions[i], ledger.helds[i]
    what = touched(position.lots, position.stop, position.target, held.bid, held.ask)
    slipped = slippage(ledger, i)
    price = exit_price(what, position.lots, position.stop, position.target, held.bid, held.ask, slipped, continuous)
    if what == TARGET:
        slipped = 0.0
    _trade(ledger, i, -position.lots, price, slipped, _BY_STOP if what == STOP else _BY_TARGET, 0)


@uncounted
def _stop_out(ledger: Ledger) -> None:
    """Close the largest losses while equity is below the stop-out level of margin."""
    money = ledger.money[0]
    while money.open_count > 0:
        bound = margin_used(ledger)
        if not (bound > 0.0 and equity(ledger) < ledger.costs[0].stop_out_level * bound):
            return
        worst = ledger.open_rows[0]
        for k in range(1, money.open_count):
            if ledger.helds[ledger.open_rows[k]].value < ledger.helds[worst].value:
                worst = ledger.open_rows[k]
        held, lots = ledger.helds[worst], -ledger.positions[worst].lots
        slipped = slippage(ledger, worst)
        _trade(ledger, worst, lots, market_price(lots, held.bid, held.ask, slipped), slipped, _BY_STOP_OUT, 0)


@uncounted
def _fill(ledger: Ledger, i: int, time: int) -> None:
    """Carry out the waiting order at the quote in ``held``, or refuse it."""
    held, position = ledger.helds[i], ledger.positions[i]
    order, lots = held.order, held.order_lots
    held.order = _NO_ORDER
    position.pending = False
    if held.order_expires > 0 and time >= held.order_expires:
        _refuse(ledger, i, _EXPIRED_ORDER, EXPIRED)
        return
    if order == _CLOSE:
        if position.lots * lots >= 0.0:
            _refuse(ledger, i, _REFUSED, POSITION_CLOSED)
            return
        # A close never turns the position around, however large it was when it was decided.
        lots = lots if abs(lots) < abs(position.lots) else -position.lots
    else:
        code = _entry_refusal(ledger, i, lots)
        if code != 0:
            _refuse(ledger, i, _REFUSED, code)
            return
    slipped = slippage(ledger, i)
    _trade(ledger, i, lots, market_price(lots, held.bid, held.ask, slipped), slipped, _BY_ORDER, held.order_key)
    if order == _OPEN:
        position.stop = held.order_stop
        position.target = held.order_target
        held.risk += held.order_risk


@uncounted
def _entry_refusal(ledger: Ledger, i: int, lots: float) -> int:
    """Return why an entry is not filled at this quote; 0: it is."""
    held = ledger.helds[i]
    if not math.isfinite(conversion(ledger, i)):
        return NO_PRICES
    if ledger.positions[i].lots * lots < 0.0:
        return INVALID_VOLUME
    if not stops_possible(lots, held.order_stop, held.order_target, held.bid, held.ask):
        return INVALID_STOPS
    if not equity(ledger) - margin_used(ledger) >= margin_of(ledger, i, lots):
        return NO_MONEY
    return 0


@uncounted
def _refuse(ledger: Ledger, i: int, what: int, code: int) -> None:
    money, held = ledger.money[0], ledger.helds[i]
    event = ledger.events[money.events]
    money.events += 1
    if code != POSITION_CLOSED:
        money.refused += 1
    _describe(event, what, i, held.time, held.order_key, code, 0)
    event.lots = held.order_lots


@uncounted
def _describe(event: Record, what: int, row: int, time: int, key: int, code: int, cause: int) -> None:
    event.what = what
    event.row = row
    event.time = time
    event.key = key
    event.code = code
    event.cause = cause
    event.ticket = 0
    event.closing = 0
    event.lots = 0.0
    event.price = 0.0
    event.commission = 0.0
    event.swap = 0.0
    event.profit = 0.0
    event.risk = 0.0
    event.entry_price = 0.0
    event.entry_time = 0
    event.entry_key = 0
    event.entry_commission = 0.0
    event.closed_lots = 0.0
    event.stop = 0.0
    event.target = 0.0


@uncounted
def _pay(ledger: Ledger, i: int, lots: float, price: float, slipped: float) -> float:
    """Take the commission of a fill, count its costs, and return the commission."""
    money, held = ledger.money[0], ledger.helds[i]
    commission = ledger.costs[0].commission_per_lot * abs(lots) * commission_rate(ledger)
    unit = abs(lots) * ledger.table[i].contract_size * conversion(ledger, i)
    money.balance -= commission
    money.commission += commission
    money.spread += 0.5 * (held.ask - held.bid) * unit
    money.slippage += slipped * unit
    money.turnover += unit * price
    return commission


@uncounted
def _trade(ledger: Ledger, i: int, lots: float, price: float, slipped: float, cause: int, key: int) -> None:
    """Book a deal: the part that closes brings its profit, its share of swap and of the entry's commission."""
    money, held, position = ledger.money[0], ledger.helds[i], ledger.positions[i]
    before, entry = position.lots, position.entry_price
    after, average, closed = netted(before, entry, lots, price)
    commission = _pay(ledger, i, lots, price, slipped)
    money.ticket += 1
    event = ledger.events[money.events]
    money.events += 1
    _describe(event, _DEAL, i, held.time, key, DONE, cause)
    event.ticket = money.ticket
    event.lots = lots
    event.price = price
    event.commission = commission
    if closed != 0.0:
        _realise(ledger, i, closed, price, commission, event)
    position.lots = _on_grid(ledger.table[i], after)
    position.entry_price = average
    if before == 0.0:
        held.opened = held.time
        held.key = key
        held.ticket = money.ticket
        ledger.open_rows[money.open_count] = i
        money.open_count += 1
    if closed == 0.0:
        held.commission += commission
    if position.lots == 0.0:
        _forget(ledger, i)
    else:
        _mark(ledger.table[i], position, held, conversion(ledger, i))


@uncounted
def _realise(ledger: Ledger, i: int, closed: float, price: float, commission: float, event: Record) -> None:
    money, held, position = ledger.money[0], ledger.helds[i], ledger.positions[i]
    share = abs(closed / position.lots)
    gain = profit(closed, position.entry_price, price, ledger.table[i].contract_size, conversion(ledger, i))
    swap, risk, paid = held.swap * share, held.risk * share, held.commission * share
    money.balance += gain + swap
    money.swap -= swap
    held.swap -= swap
    held.risk -= risk
    held.commission -= paid
    record_trade(ledger.memory[0], gain + swap - commission - paid, risk)
    event.closing = 1
    event.closed_lots = closed
    event.profit = gain
    event.swap = swap
    event.risk = risk
    event.entry_price = position.entry_price
    event.entry_time = held.opened
    event.entry_key = held.key
    event.entry_commission = paid
    event.stop = position.stop
    event.target = position.target


@uncounted
def _on_grid(item: Record, lots: float) -> float:
    steps = round(abs(lots) * item.lot_denominator / item.lot_numerator)
    size = steps * item.lot_numerator / item.lot_denominator
    return size if lots >= 0.0 else -size


@compiled
def _forget(ledger: Ledger, i: int) -> None:
    """Take a symbol out of the list of open ones, keeping the order of the others."""
    money, held, position = ledger.money[0], ledger.helds[i], ledger.positions[i]
    position.entry_price = 0.0
    position.stop = 0.0
    position.target = 0.0
    held.value = 0.0
    held.bound = 0.0
    held.swap = 0.0
    held.risk = 0.0
    held.commission = 0.0
    held.key = 0
    at = 0
    for k in range(money.open_count):
        if ledger.open_rows[k] != i:
            ledger.open_rows[at] = ledger.open_rows[k]
            at += 1
    money.open_count = at


def restore_open_rows(ledger: Ledger) -> None:
    """Make the list of open positions anew, in order of their opening, after positions were written from outside."""
    held = np.flatnonzero(ledger.positions["lots"])
    ordered = held[np.argsort(ledger.helds["ticket"][held], kind="stable")]
    ledger.open_rows[: len(ordered)] = ordered
    ledger.money["open_count"] = len(ordered)


class Adoption(NamedTuple):
    """What a broker says of one symbol: the position of ours, and what stands around it.

    Prices are quotes, money is the account's, times are ns UTC.
    """

    row: int
    lots: float
    """Signed; 0: flat."""
    entry_price: float
    stop: float
    """0: none."""
    target: float
    """0: none."""
    pending: bool
    """Whether an order is on its way or its fate unknown: nothing new is sent."""
    foreign_lots: float
    """Signed, of positions that are not ours."""
    opened: int
    key: int
    """Of the order that opened it; 0: none of ours."""
    ticket: int
    """The broker's."""
    swap: float
    """Gathered and not yet paid; < 0 is charged."""
    commission: float
    """Paid for what is open."""
    risk: float
    """Money that what is open had at risk when it was opened."""


def adopt(ledger: Ledger, seen: Adoption) -> None:
    """Take over what a broker says of a symbol, and value it at the symbol's newest quote.

    Args:
        ledger: of a real account.
        seen: what the broker says.

    Raises:
        TradingError: the account is one on paper.
    """
    if not ledger.costs[0]["real"]:
        raise TradingError("a position to adopt, on an account on paper", mend="a bug: please report it")
    position, held = ledger.positions[seen.row], ledger.helds[seen.row]
    flat = seen.lots == 0.0
    position["lots"] = seen.lots
    position["entry_price"] = 0.0 if flat else seen.entry_price
    position["stop"] = 0.0 if flat else seen.stop
    position["target"] = 0.0 if flat else seen.target
    position["pending"] = seen.pending
    position["foreign_lots"] = seen.foreign_lots
    held["opened"], held["ticket"], held["key"] = seen.opened, seen.ticket, 0 if flat else seen.key
    held["swap"], held["commission"], held["risk"] = (
        (0.0, 0.0, 0.0) if flat else (seen.swap, seen.commission, seen.risk)
    )  # fmt: skip
    if flat:
        held["value"] = held["bound"] = 0.0
    else:
        _mark_row(ledger, seen.row)
    restore_open_rows(ledger)


@uncounted
def _mark_row(ledger: Ledger, i: int) -> None:
    _mark(ledger.table[i], ledger.positions[i], ledger.helds[i], conversion(ledger, i))


@uncounted
def settle_trade(ledger: Ledger, result: float, risk: float) -> None:
    """Let the decision step learn from a trade that a broker closed.

    Args:
        ledger: of a real account.
        result: money won (> 0) or lost, net of commission and swap.
        risk: money that it had at risk when it was opened; 0: unknown.
    """
    record_trade(ledger.memory[0], result, risk)
