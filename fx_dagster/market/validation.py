"""Which rows of market data are believed.

Bad rows are put aside with a reason; what is kept is never changed. Everything is vectorised, but for stretches of
rows that contradict each other's order. A row has one reason:
the first that applies, in the order of :class:`Reason`; a rule that compares neighbours sees only rows that passed the
rules before it.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.market.bars import ticks_to_bars
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.schemas import BAR_TYPES, TickFlag
from fx_dagster.market.spikes import local_median, spikes
from fx_dagster.market.tick_model import MILLISECOND_NS, model_ticks
from fx_dagster.market.timeframes import DAY_NS, Int64, Timeframe, bar_close, bar_open
from fx_dagster.settings import ValidationSettings

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Rule = Callable[[NDArray[np.intp]], Bool]


class Reason(StrEnum):
    """Why a row is put aside."""

    NOT_FINITE = "not_finite"
    NON_POSITIVE = "non_positive"
    CROSSED = "crossed"
    INCONSISTENT = "inconsistent"
    OFF_GRID = "off_grid"
    ORDER = "order"
    DUPLICATE = "duplicate"
    OUTSIDE_SESSION = "outside_session"
    SPREAD = "spread"
    SPIKE = "spike"


@dataclass(frozen=True)
class Quarantined:
    """Rows kept, and rows put aside with their ``reason``; together all rows, each in the order they came in."""

    good: pd.DataFrame
    bad: pd.DataFrame


@dataclass(frozen=True)
class Agreement:
    """How two tables of bars agree.

    Attributes:
        compared: bars that both have.
        differing: bars that both have with different values.
        missing: bars that only one has.
        first_difference: opening time of the first of either kind (ns UTC); 0: none.
    """

    compared: int
    differing: int
    missing: int
    first_difference: int

    @property
    def passed(self) -> bool:
        """Whether they agree in every row."""
        return self.differing == 0 and self.missing == 0


def split_ticks(ticks: pd.DataFrame, instrument: Instrument, settings: ValidationSettings) -> Quarantined:
    """Sort out the ticks that cannot be believed.

    Not finite; zero or negative; ask below bid; modelled from an impossible bar; out of the order of time; the same
    as the row before in every column; outside the session; a spread far above its local median; a spike, which is a
    move far beyond local volatility that is taken back at once. A jump that stays is the market's and is kept, as is a
    spike at the very end of the rows, which nothing has refuted yet.

    Args:
        ticks: TICKS in any order.
        instrument: gives point, usual spread and session.
        settings: limits.
    """
    bid, ask, volume = (ticks[name].to_numpy(np.float64) for name in ("bid", "ask", "volume"))
    time, flags = ticks["time"].to_numpy(np.int64), ticks["flags"].to_numpy(np.int64)
    reasons = _Reasons(len(ticks))
    reasons.add(Reason.NOT_FINITE, ~(np.isfinite(bid) & np.isfinite(ask) & np.isfinite(volume)))
    reasons.add(Reason.NON_POSITIVE, (bid <= 0) | (ask <= 0) | (volume < 0))
    reasons.add(Reason.CROSSED, ask < bid)
    reasons.add(Reason.INCONSISTENT, (flags & int(TickFlag.IMPOSSIBLE)) != 0)
    _add_order_and_duplicates(reasons, ticks, ["time", "bid", "ask", "volume", "flags"])
    reasons.add(Reason.OUTSIDE_SESSION, ~instrument.session.may_trade(time))
    reasons.among_good(
        Reason.SPREAD, lambda kept: _wide((ask[kept] - bid[kept]) / instrument.point, instrument, settings)
    )
    reasons.among_good(
        Reason.SPIKE,
        lambda kept: spikes(bid[kept], _continuous(time[kept], flags[kept]), _quiet(instrument), settings),
    )
    return reasons.split(ticks)


def split_bars(
    bars: pd.DataFrame, timeframe: Timeframe, instrument: Instrument, settings: ValidationSettings
) -> Quarantined:
    """Sort out the bars that cannot be believed: reasons as of :func:`split_ticks`, and two of their own.

    ``inconsistent``: a high or low that open or close contradict. ``off_grid``: an opening time at which no bar of the
    timeframe opens. A bar with a spike is one whose ticks, modelled, hold one.

    Args:
        bars: BARS in any order.
        timeframe: their length.
        instrument: gives point, usual spread and session.
        settings: limits.
    """
    prices = bars[["open", "high", "low", "close"]].to_numpy(np.float64)
    others = bars[["tick_volume", "spread"]].to_numpy(np.float64)
    opening, high, low, close = prices.T
    time = bars["time"].to_numpy(np.int64)
    reasons = _Reasons(len(bars))
    reasons.add(Reason.NOT_FINITE, ~(np.isfinite(prices).all(axis=1) & np.isfinite(others).all(axis=1)))
    reasons.add(Reason.NON_POSITIVE, (prices <= 0).any(axis=1) | (others < 0).any(axis=1))
    reasons.add(Reason.INCONSISTENT, (high < np.maximum(opening, close)) | (low > np.minimum(opening, close)))
    reasons.add(Reason.OFF_GRID, bar_open(time, timeframe) != time)
    _add_order_and_duplicates(reasons, bars, ["time"])
    reasons.add(Reason.OUTSIDE_SESSION, ~instrument.session.may_contain(time, timeframe))
    reasons.among_good(Reason.SPREAD, lambda kept: _wide(others[kept, 1], instrument, settings))
    if timeframe.nominal_ns <= DAY_NS:
        reasons.among_good(Reason.SPIKE, lambda kept: _bar_spikes(bars.iloc[kept], timeframe, instrument, settings))
    return reasons.split(bars)


def find_gaps(bars: pd.DataFrame, timeframe: Timeframe, instrument: Instrument, *, bars_max: int = 0) -> pd.DataFrame:
    """Return where bars are missing while the market was surely open.

    Args:
        bars: sorted BARS.
        timeframe: their length.
        instrument: gives the session.
        bars_max: missing bars that are still no gap.

    Returns:
        One row a gap: ``start`` and ``end`` (ns UTC), ``missing_bars`` (open time over the bar's usual open time).
    """
    time = bars["time"].to_numpy(np.int64)
    start, end = bar_close(time[:-1], timeframe), time[1:]
    open_ns = instrument.session.open_ns_between(start, end)
    usual_ns = timeframe.nominal_ns * instrument.session.open_share(timeframe)
    missing = np.floor(open_ns / usual_ns).astype(np.int64)
    found = missing > bars_max
    return pd.DataFrame({"start": start[found], "end": end[found], "missing_bars": missing[found]})


def bars_agree_with_ticks(
    bars: pd.DataFrame, ticks: pd.DataFrame, timeframe: Timeframe, instrument: Instrument, *, complete_until: int
) -> Agreement:
    """Build the bars again from their ticks and compare prices, volume and spread exactly.

    Args:
        bars: BARS, of the base timeframe that the ticks were made into.
        ticks: the sorted TICKS of the same time.
        timeframe: length of the bars.
        instrument: gives the point.
        complete_until: moment (ns UTC) up to which all ticks are known.
    """
    rebuilt = ticks_to_bars(ticks, timeframe, instrument.point, complete_until=complete_until)
    return _compare(bars, rebuilt, [name for name in BAR_TYPES if name != "time"], tolerance=0.0)


def bars_agree_with_reference(bars: pd.DataFrame, reference: pd.DataFrame, instrument: Instrument) -> Agreement:
    """Compare prices with the source's own bars, to a tenth of a point."""
    return _compare(bars, reference, ["open", "high", "low", "close"], tolerance=instrument.point / 10)


def staleness_ns(last_time: int, now: int, instrument: Instrument) -> int:
    """Return for how long, counted in open-market time, nothing has come (ns): weekends and holidays do not count."""
    return int(instrument.session.open_ns_between(np.array([last_time]), np.array([now]))[0])


class _Reasons:
    """The first reason of each row."""

    def __init__(self, rows: int) -> None:
        self._code = np.full(rows, -1, dtype=np.int8)

    @property
    def good(self) -> Bool:
        return np.asarray(self._code < 0)

    def add(self, reason: Reason, bad: Bool) -> None:
        self._code[self.good & bad] = _CODES[reason]

    def among_good(self, reason: Reason, rule: Rule) -> None:
        """Apply a rule that compares neighbours to the rows that are still good."""
        kept = np.flatnonzero(self.good)
        if len(kept):
            self._code[kept[rule(kept)]] = _CODES[reason]

    def split(self, frame: pd.DataFrame) -> Quarantined:
        good = self.good
        names = np.array([reason.value for reason in Reason], dtype=object)
        bad = frame[~good].reset_index(drop=True)
        return Quarantined(
            good=frame.reset_index(drop=True) if good.all() else frame[good].reset_index(drop=True),
            bad=bad.assign(reason=pd.Series(names[self._code[~good]], dtype="str")),
        )


_CODES = {reason: code for code, reason in enumerate(Reason)}


def _add_order_and_duplicates(reasons: _Reasons, frame: pd.DataFrame, same: Sequence[str]) -> None:
    """Mark rows out of the order of time, and among them and their neighbours those that are there already.

    A row that repeats another in another place of the same millisecond is kept: quotes do go back and forth.
    """
    time = frame["time"].to_numpy(np.int64)
    good = np.flatnonzero(reasons.good)
    if len(good) == 0:
        return
    disordered = _out_of_order(time[good])
    if disordered.any():
        repeated = frame.iloc[good].duplicated(subset=list(same), keep="first").to_numpy()
        again = np.zeros(len(frame), dtype=np.bool_)
        again[good[disordered & repeated]] = True
        reasons.add(Reason.DUPLICATE, again)
        late = np.zeros(len(frame), dtype=np.bool_)
        late[good[disordered & ~repeated]] = True
        reasons.add(Reason.ORDER, late)
    reasons.among_good(Reason.DUPLICATE, lambda kept: _same_as_before(frame, kept, same))


def _same_as_before(frame: pd.DataFrame, kept: NDArray[np.intp], columns: Sequence[str]) -> Bool:
    same = np.ones(len(kept), dtype=np.bool_)
    same[0] = False
    for name in columns:
        values = frame[name].to_numpy()[kept]
        same[1:] &= values[1:] == values[:-1]
    return same


def _out_of_order(time: Int64) -> Bool:
    """Return the fewest rows without which the others ascend; of equally few, the later ones.

    So a late row is put aside and, where one row is far ahead of its feed, that row and not the many after it.
    """
    earlier_max = np.maximum.accumulate(time)
    later_min = np.minimum.accumulate(time[::-1])[::-1]
    bad = (time < earlier_max) | (time > later_min)
    involved = np.flatnonzero(bad)
    # A row that no other contradicts stays; among the rest, which are few, the longest ascending choice stays.
    bad[involved[_longest_ascent(time[involved])]] = False
    return bad


def _longest_ascent(time: Int64) -> NDArray[np.intp]:
    """Return the rows of a longest subsequence that does not descend (patience sorting; Fredman 1975)."""
    # Backwards and negated, so that of equally long ones the one of earlier rows is found.
    values = (-time[::-1]).tolist()
    tails: list[int] = []
    rows: list[int] = []
    before = [-1] * len(values)
    for row, value in enumerate(values):
        place = bisect.bisect_right(tails, value)
        before[row] = rows[place - 1] if place else -1
        tails[place : place + 1] = [value]
        rows[place : place + 1] = [row]
    kept = []
    at = rows[-1] if rows else -1
    while at >= 0:
        kept.append(len(values) - 1 - at)
        at = before[at]
    return np.array(kept, dtype=np.intp)


def _wide(spread_points: Float64, instrument: Instrument, settings: ValidationSettings) -> Bool:
    """Return the rows whose spread is far above the median of the rows before, and above any usual one."""
    limit = settings.spread_ratio_max * instrument.typical_spread_points
    wide = np.zeros(len(spread_points), dtype=np.bool_)
    rows = np.flatnonzero(spread_points > limit)
    usual = local_median(spread_points, rows, settings.spike_window)
    wide[rows] = spread_points[rows] > settings.spread_ratio_max * usual
    return wide


def _bar_spikes(bars: pd.DataFrame, timeframe: Timeframe, instrument: Instrument, settings: ValidationSettings) -> Bool:
    ticks = model_ticks(bars, timeframe, None, instrument)
    continuous = _continuous(ticks["time"].to_numpy(), ticks["flags"].to_numpy(np.int64))
    found = spikes(ticks["bid"].to_numpy(), continuous, _quiet(instrument), settings)
    return np.asarray(found.reshape(-1, 4).any(axis=1), dtype=np.bool_)


def _continuous(time: Int64, flags: Int64) -> Bool:
    """Return whether each row is the quote that followed the row before.

    The modelled prices inside a bar are not: between a bar's open and its low lie thousands of quotes. From a bar's
    close to the next open there are none.
    """
    modelled = (flags & int(TickFlag.MODELLED)) != 0
    adjacent = np.concatenate([[False], np.diff(time) <= MILLISECOND_NS])
    return np.asarray(~modelled | adjacent, dtype=np.bool_)


def _quiet(instrument: Instrument) -> float:
    """Return the least scale of a move (price): on a dead-flat market half a spread is no unusual step."""
    return 0.5 * instrument.typical_spread_points * instrument.point


def _compare(bars: pd.DataFrame, other: pd.DataFrame, columns: Sequence[str], *, tolerance: float) -> Agreement:
    chosen = ["time", *columns]
    together = bars[chosen].merge(other[chosen], on="time", how="outer", suffixes=("", "_other"), indicator=True)
    both = together[together["_merge"] == "both"]
    left = both[list(columns)].to_numpy(np.float64)
    right = both[[f"{name}_other" for name in columns]].to_numpy(np.float64)
    wrong = ~(np.abs(left - right) <= tolerance).all(axis=1)
    missing = together[together["_merge"] != "both"]
    times = np.concatenate([both["time"].to_numpy(np.int64)[wrong], missing["time"].to_numpy(np.int64)])
    return Agreement(len(both), int(wrong.sum()), len(missing), int(times.min()) if len(times) else 0)
