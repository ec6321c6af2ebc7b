"""What goes into the decision step and what comes out, as struct-of-arrays: one row a symbol.

All are named tuples of NumPy arrays, so that compiled code takes them as they are. ``n`` is the number of symbols,
``m`` the number of model outputs, ``v`` the number of indicator votes. Prices are quotes of the symbol, money is in
the account's currency, times are int64 ns UTC.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fx_dagster.decision.codes import Level, Regime, Size

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Int8 = NDArray[np.int8]
Bool = NDArray[np.bool_]

VOTES = 13
VERSION = 1


class InstrumentTable(NamedTuple):
    """What the step must know of each instrument; constant while the session lasts."""

    point: Float64
    contract_size: Float64
    margin_rate: Float64
    """Margin over notional at the account's leverage."""
    lot_numerator: Int64
    lot_denominator: Int64
    """The lot step as an exact fraction."""
    lot_min_steps: Int64
    lot_max_steps: Int64
    stops_level_points: Float64
    """Least distance of a stop or target that the broker takes."""


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
    """Signed lots of manual or foreign positions: counted in margin limits, never managed."""


class DecisionState(NamedTuple):
    """All that the step remembers. It is changed in place; :mod:`fx_dagster.decision.state` keeps and restores it."""

    # one row a symbol
    level: Int8
    level_candidate: Int8
    level_since: Int64
    """Since when a better level has been possible; 0: it is not."""
    emergency_at: Int64
    """Newest time at the emergency level; 0: never."""
    bar_time: Int64
    entry_bar: Int64
    """Bar in which the newest entry was decided: one entry a bar."""
    age_bars: Int64
    """Closed bars since the position opened."""
    breaker_until: Int64
    """``[n, 2]``: volatility spike, correlation breakdown; tripped until then."""
    log_loss: Float64
    """``[n, 3]`` exponentially weighted out-of-sample log-loss of each path."""
    pending_p: Float64
    """``[n, horizon, 3]`` probabilities whose outcome is not yet known; NaN: absent."""
    pending_price: Float64
    """``[n, horizon]`` mid price when they were given; NaN: none."""
    pending_at: Int64
    """Next place in the two rings."""
    # one of each for the account: arrays of length 1 (times and counts), so that they can be changed in place
    peak_equity: Float64
    day_start_equity: Float64
    day: Int64
    stage: Int8
    stage_since: Int64
    released_drawdown: Float64
    """Drawdown at which close-only was released; 0: it was not."""
    day_loss_until: Int64
    streak_until: Int64
    unhealthy_until: Int64
    loss_streak: Int64
    trades: Int64
    wins: Int64
    gain_sum: Float64
    loss_sum: Float64
    """Sums of results over money at risk, of winning and of losing trades (both ≥ 0)."""


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
    """``[n, 8]`` lots after each step: :class:`Size`."""


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
        conversion=absent.copy(),
        regime=np.full(n, Regime.UNKNOWN, dtype=np.int8),
        tradable=np.zeros(n, dtype=np.bool_),
        fresh=np.zeros(n, dtype=np.bool_),
        market_open=np.ones(n, dtype=np.bool_),
    )


def empty_positions(n: int) -> PositionTable:
    """Return the positions of a flat account."""
    zeros = np.zeros(n)
    return PositionTable(
        zeros, zeros.copy(), zeros.copy(), zeros.copy(), np.zeros(n, dtype=np.bool_), zeros.copy()
    )


def empty_decisions(n: int) -> Decisions:
    """Return decisions that say nothing, to be filled in place by the step."""
    floats = [np.zeros(n) for _ in range(9)]
    return Decisions(
        action=np.zeros(n, dtype=np.int8),
        target_lots=floats[0],
        stop=floats[1],
        target=floats[2],
        level=np.full(n, Level.UNSET, dtype=np.int8),
        observed_level=np.full(n, Level.UNSET, dtype=np.int8),
        reasons=np.zeros(n, dtype=np.int64),
        breakers=np.zeros(n, dtype=np.int64),
        stage=np.zeros(n, dtype=np.int8),
        score=floats[3],
        signals=np.zeros((n, 3)),
        weights=np.zeros((n, 3)),
        validation=floats[4],
        validation_parts=np.zeros((n, 3)),
        confidence=floats[5],
        kelly=floats[6],
        risk_money=floats[7],
        sizes=np.zeros((n, len(Size))),
    )
