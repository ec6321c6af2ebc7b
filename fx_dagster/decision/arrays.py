"""What goes into the decision step and what comes out, as struct-of-arrays: one row a symbol.

This is the face that callers fill and read; compiled code runs over packed rows of the same fields
(:mod:`fx_dagster.decision.rows`). ``n`` is the number of symbols, ``m`` the number of model outputs, ``v`` the number
of indicator votes. Prices are quotes of the symbol, money is in the account's currency, times are int64 ns UTC.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fx_dagster.decision.codes import Regime

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Int8 = NDArray[np.int8]
Bool = NDArray[np.bool_]

VOTES = 13


class StepInputs(NamedTuple):
    """What is known at the moment of the decision; nothing newer than ``time``."""

    time: int
    """Now, one for all rows."""
    trading_day: int
    """Number of the trading day (turns at 17:00 New York): :func:`fx_dagster.decision.inputs.trading_day`."""
    active: Bool
    """Rows to decide now; the others keep their state and get ``Action.NONE``."""
    bar_time: Int64
    """Opening time of the newest closed base bar; a change of it is what the step calls a new bar."""
    bid: Float64
    ask: Float64
    atr: Float64
    """ATR 14 of the base timeframe, in price."""
    volatility_short: Float64
    volatility_long: Float64
    """Annualised volatility of returns over the short and the long window: :func:`inputs.volatilities`."""
    spread_median: Float64
    """Running median of ask − bid, in price."""
    votes: Float64
    """``[n, v]`` in [-1, 1]; NaN: absent."""
    p_up: Float64
    """``[n, m]`` probability of a rise; NaN: absent. The first ``config.simple_models`` columns are the simple
    models, the next ``config.deep_models`` the deep ones, then, where there is one, the meta model."""
    confidence: Float64
    """Calibrated probability that the combined signal is right; NaN: taken from the combined score."""
    agreement: Float64
    """What the other symbols say for this one, in [-1, 1] (+ up): :func:`inputs.cross_symbol`; NaN: alone."""
    correlation_shift: Float64
    """Mean absolute change of correlation with the others: :func:`inputs.cross_symbol`; NaN: alone."""
    drift: Float64
    """How far the features have drifted from those the models learned on: 0 not at all … 1 strongly; NaN: unknown."""
    conversion: Float64
    """Account currency per unit of the symbol's profit currency."""
    regime: Int8
    """:class:`Regime`."""
    tradable: Bool
    """Entries may be sent: session open, symbol not halted or close-only, features rebuilt after a gap."""
    fresh: Bool
    """The quote is current; False where the feed is silent although the market is open: an outage, level 4."""
    market_open: Bool
    """False: weekend, holiday or daily break. Nothing is done, and it is no outage: the level stays as it is."""


class AccountState(NamedTuple):
    """The account at the moment of the decision."""

    balance: float
    equity: float
    margin_used: float
    healthy: bool
    """Broker and journal can be reached."""
    command: int
    """:class:`Command`."""
    commission_rate: float = 1.0
    """Account currency per dollar, in which commission is told; not above 0 or not finite: 1."""


class PositionTable(NamedTuple):
    """Open positions of this strategy, netted per symbol."""

    lots: Float64
    """Signed; 0: flat."""
    entry_price: Float64
    stop: Float64
    target: Float64
    pending: Bool
    """An order of this symbol is on its way or its fate unknown: nothing new is sent."""
    foreign_lots: Float64
    """Signed lots of manual or foreign positions: counted in all limits, never managed."""


class Decisions(NamedTuple):
    """One decision a symbol, with what explains it. No field is ever NaN; absent is 0, and a reason bit says so."""

    action: Int8
    target_lots: Float64
    """Signed lots that the position shall have."""
    stop: Float64
    target: Float64
    """Prices; 0 where there is no position to protect."""
    level: Int8
    observed_level: Int8
    """The best level that the inputs of this moment allow; ``level`` rises to it only after health."""
    reasons: Int64
    breakers: Int64
    stage: Int8
    score: Float64
    """Combined signal in [-1, 1]."""
    signals: Float64
    """``[n, 3]`` signal of each path in [-1, 1]."""
    weights: Float64
    """``[n, 3]`` weight of each path in the combined signal; they sum to 1, or 0 where nothing is known."""
    validation: Float64
    validation_parts: Float64
    """``[n, 3]`` traditional, AI, correlation, each in [0, 1]."""
    confidence: Float64
    kelly: Float64
    """Fraction of equity at risk that fractional Kelly proposes."""
    risk_money: Float64
    """Money lost at the stop, costs included."""
    sizes: Float64
    """``[n, 11]`` lots after each step: :class:`Size`."""


def empty_inputs(n: int, m: int) -> StepInputs:
    """Return inputs of ``n`` symbols and ``m`` model outputs with everything absent, to be filled in place."""
    absent = np.full(n, np.nan)
    return StepInputs(
        time=0,
        trading_day=0,
        active=np.ones(n, dtype=np.bool_),
        bar_time=np.zeros(n, dtype=np.int64),
        bid=absent.copy(),
        ask=absent.copy(),
        atr=absent.copy(),
        volatility_short=absent.copy(),
        volatility_long=absent.copy(),
        spread_median=absent.copy(),
        votes=np.full((n, VOTES), np.nan),
        p_up=np.full((n, m), np.nan),
        confidence=absent.copy(),
        agreement=absent.copy(),
        correlation_shift=absent.copy(),
        drift=absent.copy(),
        conversion=absent.copy(),
        regime=np.full(n, Regime.UNKNOWN, dtype=np.int8),
        tradable=np.zeros(n, dtype=np.bool_),
        fresh=np.zeros(n, dtype=np.bool_),
        market_open=np.ones(n, dtype=np.bool_),
    )


def empty_positions(n: int) -> PositionTable:
    """Return the positions of a flat account."""
    zeros = np.zeros(n)
    return PositionTable(zeros, zeros.copy(), zeros.copy(), zeros.copy(), np.zeros(n, dtype=np.bool_), zeros.copy())
