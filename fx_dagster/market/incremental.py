"""Ticks one at a time: the gate that believes or rejects each, and the bars that form from the good ones.

All of it is compiled and works on packed records, one :data:`GATE` a symbol and one :data:`FORMING` a symbol and
timeframe, so that a tick costs the same whatever came before it. What a record holds is all that is remembered: a copy
of the records goes on exactly as they do. Nothing depends on how ticks are cut into batches. The stored bars are made
by the same functions (:mod:`fx_dagster.market.bars`), so that a live bar equals the stored one bit for bit.

A timeframe is written as its place in :class:`~fx_dagster.market.timeframes.Timeframe`. Times are int64 ns UTC.
"""

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fx_dagster.compiled import compiled
from fx_dagster.errors import SettingsError
from fx_dagster.market.calendar import bar_end_at, bar_open_at
from fx_dagster.market.schemas import TickFlag
from fx_dagster.market.spikes import SPIKE_ROWS_MAX, WICK_SHARE
from fx_dagster.market.timeframes import MINUTE_NS, Timeframe

Rows = NDArray[np.void]
Record: TypeAlias = Any
"""A record or an array of records of this module's types; Numba knows which."""


class TickVerdict(IntEnum):
    """What the gate makes of a tick."""

    GOOD = 0
    NOT_FINITE = 1
    NON_POSITIVE = 2
    CROSSED = 3
    ORDER = 4
    """Earlier than the newest good tick, or inside a bar that has closed."""
    DUPLICATE = 5
    """The same as a tick of the same moment in every column."""
    SPIKE = 6
    """Kept aside before, and refuted by what came next. Counted, never returned: the next tick has its own verdict."""
    HELD = 7
    """Far from the market: kept aside until the next tick confirms or refutes it."""
    CONFIRMED = 8
    """Good, and so is the tick that was kept aside: it comes first and lies in the gate's ``held_`` fields."""


CROSSED_STALE = 5
"""Crossed quotes in a row after which the symbol counts as stale."""
QUARANTINE_GOOD_TICKS = 10
"""Good ticks that end the quarantine after an impossible price."""
SEEN_TICKS = 64
"""Different ticks of one moment that are remembered, to know them again; further ones are kept, and counted."""
SPIKE_WARM_TICKS = 30
"""Good moves that a symbol's scale needs before anything is a spike."""
SPIKE_PAUSE_NS = 5 * MINUTE_NS
"""After a longer silence, the market's break and weekend included, no move is a spike."""
SPIKE_HALF_LIFE_TICKS = 44
"""Ticks after which a move counts half in the scale."""
SPREAD_DECIMALS = 3
"""A mean spread is kept to a thousandth of a point: below that there is only rounding noise."""

_F, _I = np.float64, np.int64

GATE = np.dtype(
    [
        ("time", _I),  # of the newest good tick; 0: none yet
        ("bid", _F),
        ("ask", _F),
        ("point", _F),
        ("spike_z", _F),
        ("scale", _F),  # weighted mean of absolute moves of the mid price
        ("moves", _I),  # that the scale is made of
        ("crossed_in_a_row", _I),
        ("quarantine_left", _I),
        ("held", _I),  # ticks kept aside since the newest good one; > 0: the newest of them still is
        ("held_time", _I),
        ("held_bid", _F),
        ("held_ask", _F),
        ("held_volume", _F),
        ("held_flags", _I),
        ("held_limit", _F),  # what its move was beyond
        ("held_open", _I),  # 1: it waits for the next tick
        ("counts", _I, (len(TickVerdict),)),
        ("flooded", _I),  # ticks kept without looking for duplicates beyond the remembered ones
        ("seen_count", _I),
        ("seen", _F, (SEEN_TICKS, 4)),  # bid, ask, volume, flags of the newest moment's ticks
    ],
    align=True,
)
"""What the gate remembers of a symbol. ``counts`` has a place for each verdict: of GOOD, all good ticks, confirmed
ones included; of HELD and CONFIRMED, how often that happened. All ticks ever given are therefore the sum over the
other verdicts (SPIKE included) and GOOD, and one more while ``held_open``."""

FORMING = np.dtype(
    [
        ("time", _I),  # opening
        ("end", _I),
        ("count", _I),  # ticks in a base bar, base bars in a longer one; 0: no bar is forming
        ("open", _F),
        ("high", _F),
        ("low", _F),
        ("close", _F),
        ("tick_volume", _F),
        ("spread_sum", _F),  # of ticks, as a price; of base bars, in points
        ("weighted_spread_sum", _F),  # of base bars, by tick volume
    ],
    align=True,
)
"""A bar that is not closed yet."""

BAR = np.dtype(
    [
        ("time", _I),
        ("end", _I),
        ("open", _F),
        ("high", _F),
        ("low", _F),
        ("close", _F),
        ("tick_volume", _F),
        ("spread", _F),  # mean, in points
        ("code", _I),  # timeframe
    ],
    align=True,
)
"""A closed bar."""

_GOOD, _NOT_FINITE, _NON_POSITIVE = int(TickVerdict.GOOD), int(TickVerdict.NOT_FINITE), int(TickVerdict.NON_POSITIVE)
_CROSSED, _ORDER, _DUPLICATE = int(TickVerdict.CROSSED), int(TickVerdict.ORDER), int(TickVerdict.DUPLICATE)
_SPIKE, _HELD, _CONFIRMED = int(TickVerdict.SPIKE), int(TickVerdict.HELD), int(TickVerdict.CONFIRMED)
_MODELLED = int(TickFlag.MODELLED)
_MOVE_WEIGHT = 1.0 - 0.5 ** (1.0 / SPIKE_HALF_LIFE_TICKS)
_TIMEFRAMES, _WEEK = len(Timeframe), tuple(Timeframe).index(Timeframe.W1)
_SPREAD_UNITS = 10.0**SPREAD_DECIMALS


def new_gates(points: Sequence[float], spike_z: float) -> Rows:
    """Return a gate for each symbol, before its first tick.

    Args:
        points: price of a point, by symbol.
        spike_z: how many times the symbol's own scale a move must exceed to be doubted.

    Raises:
        SettingsError: ``spike_z`` or a point is not a positive number.
    """
    if not (math.isfinite(spike_z) and spike_z > 0):
        raise SettingsError(f"spike_robust_z is {spike_z}", mend="set a positive number")
    if not all(math.isfinite(point) and point > 0 for point in points):
        raise SettingsError(f"a point is not positive: {list(points)}", mend="give each instrument its point")
    gates = np.zeros(len(points), dtype=GATE)
    gates["point"], gates["spike_z"] = points, spike_z
    return gates


def new_forming(symbols: int, base: Timeframe) -> Rows:
    """Return ``[symbols, T]`` of :data:`FORMING` without any bar, from the base timeframe up."""
    return np.zeros((symbols, len(base.coarser())), dtype=FORMING)


def new_closed(base: Timeframe) -> Rows:
    """Return room for the bars that one call of :func:`close_bars` may close."""
    return np.zeros(2 * len(base.coarser()), dtype=BAR)


@compiled
def believable(gate: Record) -> bool:
    """Whether the symbol's quote counts: neither in quarantine nor crossed for long."""
    return gate.quarantine_left == 0 and gate.crossed_in_a_row < CROSSED_STALE


@compiled
def check_tick(gate: Record, time: int, bid: float, ask: float, volume: float, flags: int, closed_until: int) -> int:
    """Return the :class:`TickVerdict` of a symbol's next tick, in the order in which ticks arrive.

    An impossible price puts the symbol into quarantine until enough good ticks came; several crossed ones in a row
    make it stale. A spike is kept aside, so that bars and features never see one that the next tick refutes.

    Args:
        gate: the symbol's :data:`GATE`, changed in place.
        time: ns UTC.
        bid, ask, volume, flags: as in TICKS.
        closed_until: moment (ns UTC) up to which bars are closed; ticks before it come too late.
    """
    verdict = _verdict(gate, time, bid, ask, volume, flags, closed_until)
    if verdict != _GOOD:
        gate.counts[verdict] += 1
    return verdict


@compiled
def good_ticks(gate: Record, time: Any, bid: Any, ask: Any, volume: Any, flags: Any, good: Any) -> None:
    """Mark the good ticks of a symbol's history, ``good [n]``; a tick that was kept aside and confirmed is one."""
    held = -1
    for row in range(len(time)):
        verdict = check_tick(gate, time[row], bid[row], ask[row], volume[row], flags[row], 0)
        good[row] = verdict in (_GOOD, _CONFIRMED)
        if verdict == _CONFIRMED:
            good[held] = True
        elif verdict == _HELD:
            held = row


@compiled
def _verdict(gate: Record, time: int, bid: float, ask: float, volume: float, flags: int, closed_until: int) -> int:
    if not (math.isfinite(bid) and math.isfinite(ask) and math.isfinite(volume)):
        gate.quarantine_left = QUARANTINE_GOOD_TICKS
        return _NOT_FINITE
    if bid <= 0.0 or ask <= 0.0 or volume < 0.0:
        gate.quarantine_left = QUARANTINE_GOOD_TICKS
        return _NON_POSITIVE
    if ask < bid:
        gate.crossed_in_a_row += 1
        return _CROSSED
    if time < max(gate.time, closed_until):
        return _ORDER
    if _seen_before(gate, time, bid, ask, volume, flags):
        return _DUPLICATE
    if gate.held_open == 1:
        if _confirms(gate, time, bid, ask):
            gate.held_open = 0
            late = gate.held_time < closed_until
            if late:
                gate.counts[_ORDER] += 1
            else:
                _accept(gate, gate.held_time, gate.held_bid, gate.held_ask, gate.held_volume, gate.held_flags)
            _accept(gate, time, bid, ask, volume, flags)
            return _GOOD if late else _CONFIRMED
        gate.held_open = 0
        gate.counts[_SPIKE] += 1
    limit = _move_limit(gate)
    if flags & _MODELLED:
        # A bar's extremes are no quotes that follow each other: they are doubted only where no honest crash reaches.
        limit = max(limit, WICK_SHARE * gate.bid)
    if _leaps(gate, time, bid, ask, limit):
        _hold(gate, time, bid, ask, volume, flags, limit)
        return _HELD
    _accept(gate, time, bid, ask, volume, flags)
    return _GOOD


@compiled
def _seen_before(gate: Record, time: int, bid: float, ask: float, volume: float, flags: int) -> bool:
    """Whether the tick repeats one of its own moment, the one kept aside included."""
    if (
        gate.held_open == 1
        and time == gate.held_time
        and bid == gate.held_bid
        and ask == gate.held_ask
        and volume == gate.held_volume
        and flags == gate.held_flags
    ):
        return True
    if time != gate.time:
        return False
    for place in range(gate.seen_count):
        if (
            gate.seen[place, 0] == bid
            and gate.seen[place, 1] == ask
            and gate.seen[place, 2] == volume
            and gate.seen[place, 3] == flags
        ):
            return True
    return False


@compiled
def _move_limit(gate: Record) -> float:
    """Return the move of the mid price beyond which a tick is doubted; the scale is at least the spread or a point."""
    return gate.spike_z * max(gate.scale, max(gate.ask - gate.bid, gate.point))


@compiled
def _leaps(gate: Record, time: int, bid: float, ask: float, limit: float) -> bool:
    """Whether the tick is doubtful. Never after so many doubted in a row that the market must have moved."""
    return (
        gate.moves >= SPIKE_WARM_TICKS
        and gate.held < SPIKE_ROWS_MAX
        and time - gate.time <= SPIKE_PAUSE_NS
        and 0.5 * abs((bid + ask) - (gate.bid + gate.ask)) > limit
    )


@compiled
def _hold(gate: Record, time: int, bid: float, ask: float, volume: float, flags: int, limit: float) -> None:
    gate.held += 1
    gate.held_open = 1
    gate.held_time = time
    gate.held_bid = bid
    gate.held_ask = ask
    gate.held_volume = volume
    gate.held_flags = flags
    gate.held_limit = limit


@compiled
def _confirms(gate: Record, time: int, bid: float, ask: float) -> bool:
    """Whether a tick is near the one kept aside, and follows it soon."""
    return (
        0 <= time - gate.held_time <= SPIKE_PAUSE_NS
        and 0.5 * abs((bid + ask) - (gate.held_bid + gate.held_ask)) <= gate.held_limit
    )


@compiled
def _accept(gate: Record, time: int, bid: float, ask: float, volume: float, flags: int) -> None:
    gate.counts[_GOOD] += 1
    gate.held = 0
    gate.crossed_in_a_row = 0
    gate.quarantine_left = max(gate.quarantine_left - 1, 0)
    _learn_move(gate, time, bid, ask)
    if time != gate.time:
        gate.seen_count = 0
    if gate.seen_count < SEEN_TICKS:
        place = gate.seen_count
        gate.seen[place, 0] = bid
        gate.seen[place, 1] = ask
        gate.seen[place, 2] = volume
        gate.seen[place, 3] = flags
        gate.seen_count = place + 1
    else:
        gate.flooded += 1
    gate.time = time
    gate.bid = bid
    gate.ask = ask


@compiled
def _learn_move(gate: Record, time: int, bid: float, ask: float) -> None:
    """Let the scale follow the market; the first moves count alike, later ones decay.

    A move counts at most as what would be doubted (Huber 1964, "Robust estimation of a location parameter"): a leap
    that proved true widens the scale at once by a third, and a run of them without bound.
    """
    if gate.bid <= 0.0 or time - gate.time > SPIKE_PAUSE_NS:
        return
    move = 0.5 * abs((bid + ask) - (gate.bid + gate.ask))
    limit = _move_limit(gate)
    if move > limit:
        move = limit
    gate.moves += 1
    weight = _MOVE_WEIGHT
    if gate.moves * weight < 1.0:
        weight = 1.0 / gate.moves
    gate.scale += weight * (move - gate.scale)


@compiled
def add_tick(row: Record, code: int, time: int, bid: float, ask: float, volume: float, flags: int) -> None:
    """Add a good tick to the forming base bar, or begin one. Close a bar that is over first (:func:`close_bars`).

    Args:
        row: the base timeframe's :data:`FORMING`, changed in place.
        code: the base timeframe.
        time: ns UTC, not before the tick added last.
        bid, ask, volume, flags: as in TICKS; the volume of a modelled tick is the number of ticks it stands for.
    """
    weight = volume if flags & _MODELLED else 1.0
    if row.count == 0:
        _begin(row, bar_open_at(time, code), code, bid, bid, bid)
    else:
        _extend(row, bid, bid)
    row.count += 1
    row.close = bid
    row.tick_volume += weight
    row.spread_sum += ask - bid


@compiled
def _begin(row: Record, opening: int, code: int, first: float, high: float, low: float) -> None:
    row.time = opening
    row.end = bar_end_at(opening, code)
    row.count = 0
    row.open = first
    row.high = high
    row.low = low
    row.tick_volume = 0.0
    row.spread_sum = 0.0
    row.weighted_spread_sum = 0.0


@compiled
def _extend(row: Record, high: float, low: float) -> None:
    # As np.maximum and np.minimum: what is undefined stays so.
    if high > row.high or high != high:
        row.high = high
    if low < row.low or low != low:
        row.low = low


@compiled
def fold_bar(row: Record, code: int, bar: Record) -> None:
    """Add a closed base bar to the longer bar that it opens in, or begin one.

    Args:
        row: the longer timeframe's :data:`FORMING`, changed in place.
        code: the longer timeframe.
        bar: a :data:`BAR`, not before the one folded last; a longer bar that was over before it has been closed.
    """
    if row.count == 0:
        _begin(row, bar_open_at(bar.time, code), code, bar.open, bar.high, bar.low)
    else:
        _extend(row, bar.high, bar.low)
    row.count += 1
    row.close = bar.close
    row.tick_volume += bar.tick_volume
    row.spread_sum += bar.spread
    row.weighted_spread_sum += bar.spread * bar.tick_volume


@compiled
def _rounded(spread: float) -> float:
    # As np.round does it; Numba's own round takes another way.
    return np.rint(spread * _SPREAD_UNITS) / _SPREAD_UNITS


@compiled
def finish_base(row: Record, code: int, point: float, out: Record) -> None:
    """Write the forming base bar as a closed :data:`BAR` and forget it."""
    _finish(row, code, _rounded(row.spread_sum / row.count / point), out)


@compiled
def finish_longer(row: Record, code: int, out: Record) -> None:
    """Write a forming longer bar as a closed :data:`BAR` and forget it; its spread is weighted by tick volume."""
    spread = row.weighted_spread_sum / row.tick_volume if row.tick_volume > 0.0 else row.spread_sum / row.count
    _finish(row, code, _rounded(spread), out)


@compiled
def _finish(row: Record, code: int, spread: float, out: Record) -> None:
    out.time = row.time
    out.end = row.end
    out.open = row.open
    out.high = row.high
    out.low = row.low
    out.close = row.close
    out.tick_volume = row.tick_volume
    out.spread = spread
    out.code = code
    row.count = 0


@compiled
def known_until(until: int, base_code: int) -> int:
    """Return up to which moment (ns UTC) all base bars that may belong to a longer one are known.

    A month ends within a week: the week that began in it is not known before its own end.
    """
    return bar_open_at(until, base_code) if base_code == _WEEK else until


@compiled
def close_bars(rows: Record, base_code: int, until: int, point: float, out: Record) -> int:
    """Close what is over, oldest first, up to and including the base bar; return how many bars were written.

    Call it until it returns 0, whenever ``until`` has reached ``rows[0].end`` and before a tick of a later bar is
    added. First come the longer bars that were over before the base bar opened, or all that are over if none is
    forming; then longer bars that end with it; the base bar is last. A base bar only closes if its end is not after
    ``until``; longer bars that end after it come with the next call.

    Args:
        rows: one symbol's :data:`FORMING` ``[T]`` from the base timeframe up, changed in place.
        base_code: the base timeframe.
        until: moment (ns UTC) up to which all ticks are known.
        point: price of a point, in which the spread is counted.
        out: ``[2 T]`` of :data:`BAR`, see :func:`new_closed`.
    """
    base = rows[0]
    known = known_until(until, base_code)
    before = min(known, base.time) if base.count > 0 else known
    written = _finish_ended(rows, base_code, before, out, 0)
    if base.count == 0 or base.end > until:
        return written
    # The longer bars come first in ``out`` but are made of this one: it is written aside, and moved.
    last = len(out) - 1
    finish_base(base, base_code, point, out[last])
    for place in range(1, len(rows)):
        fold_bar(rows[place], base_code + place, out[last])
    written = _finish_ended(rows, base_code, base.end, out, written)
    out[written] = out[last]
    return written + 1


@compiled
def _finish_ended(rows: Record, base_code: int, until: int, out: Record, written: int) -> int:
    """Close the longer bars that are over, in order of their ends; of equal ends, the longest first."""
    while True:
        first = 0
        for place in range(len(rows) - 1, 0, -1):
            ended = rows[place].count > 0 and rows[place].end <= until
            if ended and (first == 0 or rows[place].end < rows[first].end):
                first = place
        if first == 0:
            return written
        finish_longer(rows[first], base_code + first, out[written])
        written += 1


@compiled
def unfinished_since(base_code: int, until: int) -> int:
    """Return the earliest opening (ns UTC) of the longer bars that a moment (ns UTC) falls in."""
    earliest = until
    for code in range(base_code, _TIMEFRAMES):
        earliest = min(earliest, bar_open_at(until, code))
    return earliest


@compiled
def load_forming(rows: Record, base_code: int, bars: Record, until: int) -> None:
    """Rebuild a symbol's forming bars from closed base bars, as if their ticks had been seen.

    Args:
        rows: one symbol's :data:`FORMING` ``[T]`` from the base timeframe up; overwritten.
        base_code: the base timeframe.
        bars: ``[n]`` of :data:`BAR`, the base bars that opened since :func:`unfinished_since`, in order; earlier ones
            do no harm.
        until: moment (ns UTC) up to which bars are closed; longer bars that are over by then count as closed.
    """
    known = known_until(until, base_code)
    for place in range(len(rows)):
        rows[place].count = 0
        rows[place].end = 0
    for number in range(len(bars)):
        for place in range(1, len(rows)):
            if rows[place].end <= bars[number].time:
                rows[place].count = 0
            fold_bar(rows[place], base_code + place, bars[number])
    for place in range(1, len(rows)):
        if rows[place].end <= known:
            rows[place].count = 0
