"""Which rows of market data are believed.

Bad rows are put aside with a reason; what is kept is never changed. Everything is vectorised. A row has one reason:
the first that applies, in the order of :class:`Reason`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.market.bars import ticks_to_bars
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.timeframes import Int64, Timeframe, bar_close
from fx_dagster.settings import ValidationSettings

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Rule = Callable[[NDArray[np.intp]], Bool]

_MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""

_QUIET_POINTS = 10.0
"""Least scale of a move, in points: on a dead-flat market the smallest ticks are no spikes."""


class Reason(StrEnum):
    """Why a row is put aside."""

    NOT_FINITE = "not_finite"
    NON_POSITIVE = "non_positive"
    CROSSED = "crossed"
    INCONSISTENT = "inconsistent"
    ORDER = "order"
    DUPLICATE = "duplicate"
    OUTSIDE_SESSION = "outside_session"
    SPREAD = "spread"
    SPIKE = "spike"


@dataclass(frozen=True)
class Quarantined:
    """Rows kept, and rows put aside with their ``reason``; together all rows."""

    good: pd.DataFrame
    bad: pd.DataFrame


@dataclass(frozen=True)
class Agreement:
    """How two tables of bars agree: rows compared, rows that differ, the first that does (ns UTC; 0: none)."""

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

    Not finite; zero or negative; ask below bid; earlier than a tick before it; the same as the tick before it in every
    column; outside the session; a spread far above its local median; a spike: a move far beyond local volatility that
    the next tick takes back. A jump that stays is the market's and is kept.
    """
    bid, ask = _column(ticks, "bid"), _column(ticks, "ask")
    reasons = _Reasons(len(ticks))
    reasons.add(Reason.NOT_FINITE, ~(np.isfinite(bid) & np.isfinite(ask) & np.isfinite(_column(ticks, "volume"))))
    reasons.add(Reason.NON_POSITIVE, (bid <= 0) | (ask <= 0) | (_column(ticks, "volume") < 0))
    reasons.add(Reason.CROSSED, ask < bid)
    time = ticks["time"].to_numpy(np.int64)
    reasons.among_good(Reason.ORDER, lambda kept: _out_of_order(time[kept]))
    reasons.among_good(Reason.DUPLICATE, lambda kept: ticks.iloc[kept].duplicated(keep="first").to_numpy())
    reasons.add(Reason.OUTSIDE_SESSION, ~instrument.session.may_trade(time))
    reasons.among_good(
        Reason.SPREAD, lambda kept: _wide((ask - bid)[kept], instrument.point, settings.spread_ratio_max)
    )
    reasons.among_good(Reason.SPIKE, lambda kept: _spikes(((ask + bid) / 2)[kept], instrument.point, settings))
    return reasons.split(ticks)


def split_bars(
    bars: pd.DataFrame, timeframe: Timeframe, instrument: Instrument, settings: ValidationSettings
) -> Quarantined:
    """Sort out the bars that cannot be believed; reasons as of :func:`split_ticks`, and prices that contradict."""
    prices = bars[["open", "high", "low", "close"]].to_numpy(np.float64)
    opening, high, low, close = prices.T
    reasons = _Reasons(len(bars))
    others = bars[["tick_volume", "spread"]].to_numpy(np.float64)
    reasons.add(Reason.NOT_FINITE, ~(np.isfinite(prices).all(axis=1) & np.isfinite(others).all(axis=1)))
    reasons.add(Reason.NON_POSITIVE, (prices <= 0).any(axis=1) | (others < 0).any(axis=1))
    reasons.add(Reason.INCONSISTENT, (high < np.maximum(opening, close)) | (low > np.minimum(opening, close)))
    time = bars["time"].to_numpy(np.int64)
    reasons.among_good(Reason.ORDER, lambda kept: _out_of_order(time[kept]))
    reasons.among_good(Reason.DUPLICATE, lambda kept: bars["time"].iloc[kept].duplicated(keep="first").to_numpy())
    reasons.add(Reason.OUTSIDE_SESSION, ~instrument.session.may_contain(time, timeframe))
    reasons.among_good(Reason.SPIKE, lambda kept: _spikes(close[kept], instrument.point, settings))
    return reasons.split(bars)


def find_gaps(
    bars: pd.DataFrame, timeframe: Timeframe, instrument: Instrument, *, bars_max: int = 0
) -> pd.DataFrame:
    """Return where bars are missing while the market was surely open.

    Returns:
        One row a gap of more than ``bars_max`` bars: ``start`` and ``end`` (ns UTC), ``missing_bars`` (open time over
        the bar's length).
    """
    time = bars["time"].to_numpy(np.int64)
    start, end = bar_close(time[:-1], timeframe), time[1:]
    open_ns = instrument.session.open_ns_between(start, end)
    missing = np.floor(open_ns / (timeframe.nominal_ns * instrument.session.open_share(timeframe))).astype(np.int64)
    found = missing > bars_max
    return pd.DataFrame({"start": start[found], "end": end[found], "missing_bars": missing[found]})


def bars_agree_with_ticks(
    bars: pd.DataFrame, ticks: pd.DataFrame, timeframe: Timeframe, instrument: Instrument, *, complete_until: int
) -> Agreement:
    """Build the bars again from their ticks and compare prices and volume exactly."""
    rebuilt = ticks_to_bars(ticks, timeframe, instrument.point, complete_until=complete_until)
    return _compare(bars, rebuilt, ["open", "high", "low", "close", "tick_volume"], tolerance=0.0)


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
        names = np.array([reason.value for reason in Reason], dtype=object)
        bad = frame[~self.good].reset_index(drop=True)
        return Quarantined(
            good=frame[self.good].reset_index(drop=True),
            bad=bad.assign(reason=names[self._code[~self.good]].astype(str)),
        )


_CODES = {reason: code for code, reason in enumerate(Reason)}


def _column(frame: pd.DataFrame, name: str) -> Float64:
    return frame[name].to_numpy(np.float64)


def _out_of_order(time: Int64) -> Bool:
    return np.asarray(time < np.maximum.accumulate(time))


def _wide(spread: Float64, point: float, ratio_max: float) -> Bool:
    usual = max(float(np.median(spread)), point)
    return np.asarray(spread > ratio_max * usual)


def _spikes(price: Float64, point: float, settings: ValidationSettings) -> Bool:
    """Return the rows whose move is far beyond local volatility and is taken back by the next row."""
    if len(price) < 3:
        return np.zeros(len(price), dtype=np.bool_)
    move = np.diff(price)
    scale = _local_scale(move, settings.spike_window) + _QUIET_POINTS * point
    limit = settings.spike_robust_z * scale
    into, out = move[:-1], move[1:]
    returns = np.abs(into + out) < 0.5 * np.minimum(np.abs(into), np.abs(out))
    found = (np.abs(into) > limit[:-1]) & (np.abs(out) > limit[:-1]) & returns
    return np.concatenate([[False], found, [False]])


def _local_scale(move: Float64, window: int) -> Float64:
    """Return a robust standard deviation of the moves around each row: of its block of ``window`` rows."""
    blocks = max(1, len(move) // window)
    edges = np.linspace(0, len(move), blocks + 1).astype(np.intp)
    scales = np.array(
        [_MAD_TO_SIGMA * np.median(np.abs(move[a:b])) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    )
    return np.repeat(scales, np.diff(edges))


def _compare(bars: pd.DataFrame, other: pd.DataFrame, columns: list[str], *, tolerance: float) -> Agreement:
    together = bars[["time", *columns]].merge(
        other[["time", *columns]], on="time", how="outer", suffixes=("", "_other"), indicator=True
    )
    both = together[together["_merge"] == "both"]
    left = both[columns].to_numpy(np.float64)
    right = both[[f"{name}_other" for name in columns]].to_numpy(np.float64)
    wrong = (np.abs(left - right) > tolerance).any(axis=1)
    missing = together[together["_merge"] != "both"]
    times = np.concatenate([both["time"].to_numpy(np.int64)[wrong], missing["time"].to_numpy(np.int64)])
    return Agreement(len(both), int(wrong.sum()), len(missing), int(times.min()) if len(times) else 0)
