"""Packed rows that compiled code runs over: one record a symbol, one for the account, one for the configuration.

A function of the step takes a few records by reference instead of a hundred arrays by value: it compiles in seconds,
runs in a microsecond, and all that concerns a symbol lies in neighbouring bytes. Prices are quotes of the symbol, money
is in the account's currency, times are int64 ns UTC.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fx_dagster.decision.codes import Size
from fx_dagster.indicators.incremental import VOTES as CLASSICAL_VOTES

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Rows = NDArray[np.void]

CLASSICAL: Final = CLASSICAL_VOTES
"""Votes of classical indicators; they come first in a row's ``votes``."""
VOTES: Final = CLASSICAL + 1
"""All votes: behind the classical ones the score of the attention model."""

_F, _I, _B, _S = np.float64, np.int64, np.bool_, np.int8

INSTRUMENT = np.dtype(
    [
        ("point", _F),
        ("contract_size", _F),
        ("margin_rate", _F),  # margin over notional at the account's leverage
        ("lot_numerator", _I),  # the lot step as an exact fraction
        ("lot_denominator", _I),
        ("lot_min_steps", _I),
        ("lot_max_steps", _I),
        ("stops_level_points", _F),  # least distance of a stop or target that the broker takes
        ("base_currency", _I),  # ids, the same in all rows of a table; a metal is a currency
        ("profit_currency", _I),
    ],
    align=True,
)

POSITION = np.dtype(
    [
        ("lots", _F),  # signed; 0: flat
        ("entry_price", _F),
        ("stop", _F),
        ("target", _F),
        ("pending", _B),  # an order is on its way or its fate unknown: nothing new is sent
        ("foreign_lots", _F),  # signed, of manual or foreign positions: counted in all limits, never managed
    ],
    align=True,
)
"""An open position of this strategy, netted per symbol."""

ACCOUNT = np.dtype(
    [
        ("time", _I),  # now, one for all symbols
        ("trading_day", _I),  # its number: fx_dagster.decision.inputs.trading_day
        ("balance", _F),
        ("equity", _F),
        ("margin_used", _F),
        ("healthy", _B),  # broker and journal can be reached
        ("command", _I),  # codes.Command
        ("commission_rate", _F),  # account currency per dollar of commission; not above 0 or not finite: 1
    ],
    align=True,
)
"""The account, and the moment of the decision."""

DERIVED = np.dtype(
    [
        ("version", _I),  # of the inputs that it was derived from; -1: nothing is derived yet
        ("level", _S),
        ("drift", _F),
        ("model_level", _S),  # best level that the models' answers allow
        ("model_reasons", _I),
        ("trust", _F),  # what drift leaves of the models' weight
        ("said", _F, (3,)),  # what each path says, whatever the level; NaN: absent
        ("reasons", _I), ("score", _F), ("signals", _F, (3,)), ("weights", _F, (3,)), ("validation", _F),
        ("validation_parts", _F, (3,)), ("confidence", _F),
        ("regime", _S),  # whose limits hold: codes.Regime
        ("size", _F),  # the sizing agent's factor; 1: it says nothing, or does not count
        ("timing", _F, (3,)),  # enter, exit_long, exit_short of the timing agent; NaN: as above
    ],
    align=True,
)  # fmt: skip
"""Numbers of a symbol that change only with its votes, models, level or drift; kept between ticks, not in snapshots."""

DECISION = np.dtype(
    [
        ("action", _S),  # codes.Action
        ("target_lots", _F),  # signed lots that the position shall have
        ("stop", _F),  # prices; 0 where there is no position to protect
        ("target", _F),
        ("level", _S),  # codes.Level
        ("observed_level", _S),  # the best that this moment's inputs allow; level rises to it only after health
        ("reasons", _I),  # codes.Reason
        ("breakers", _I),  # codes.Breaker
        ("stage", _S),  # codes.Stage
        ("score", _F),  # combined signal in [-1, 1]
        ("signals", _F, (3,)),  # of each path, in [-1, 1]
        ("weights", _F, (3,)),  # of each path in the score; they sum to 1, or are 0 where nothing is known
        ("validation", _F),
        ("validation_parts", _F, (3,)),  # traditional, AI, correlation, each in [0, 1]
        ("confidence", _F),
        ("regime", _S),  # whose limits hold: codes.Regime
        ("kelly", _F),  # fraction of equity at risk that fractional Kelly proposes
        ("risk_money", _F),  # money lost at the stop, costs included
        ("sizes", _F, (len(Size),)),  # lots after each step: codes.Size
    ],
    align=True,
)
"""A decision with what explains it. No field is ever NaN; absent is 0, and a reason bit says so."""

MEMORY = np.dtype(
    [
        ("peak_equity", _F),
        ("day_start_equity", _F),
        ("day", _I),
        ("stage", _S),
        ("stage_since", _I),
        ("released_drawdown", _F),  # at which close-only was released; 0: it was not
        ("day_loss_until", _I),
        ("streak_until", _I),
        ("unhealthy_until", _I),
        ("loss_streak", _I),
        ("trades", _I),
        ("wins", _I),
        ("gain_sum", _F),  # of results over money at risk, of winning trades
        ("loss_sum", _F),  # the same of losing trades, ≥ 0
    ],
    align=True,
)
"""What the step remembers of the account."""


def input_dtype(models: int) -> np.dtype[np.void]:
    """Return what is known of a symbol at the moment of the decision, with ``models`` model outputs.

    ``version`` (≥ 0) is raised by the caller whenever votes, agreement or anything that models said of the row have
    changed; while it stays, the step does not look at them again. :func:`fx_dagster.decision.answers.take_answer`
    writes what models say, and raises it.
    """
    return np.dtype(
        [
            ("version", _I),
            ("active", _B),  # decided now; the others keep their state and get Action.NONE
            ("bar_time", _I),  # opening of the newest closed base bar; a change of it is what is called a new bar
            ("bid", _F),
            ("ask", _F),
            ("atr", _F),  # ATR 14 of the base timeframe, in price
            ("volatility_short", _F),  # annualised, of returns over the short and the long window
            ("volatility_long", _F),
            ("spread_median", _F),  # running median of ask - bid, in price
            ("votes", _F, (VOTES,)),  # in [-1, 1]; NaN: absent; the classical ones first, then attention's
            # Probabilities of a rise; NaN: absent. First the simple models, then the deep ones, then the meta model.
            ("p_up", _F, (models,)),
            ("confidence", _F),  # calibrated probability that the score is right; NaN: absent
            ("size", _F),  # factor of the position's size that the sizing agent wants; NaN: absent
            ("timing", _F, (3,)),  # of the timing agent: p(enter now), p(exit a long), p(exit a short); NaN: absent
            ("agreement", _F),  # what the other symbols say for this one, in [-1, 1] (+ up); NaN: it is alone
            ("correlation_shift", _F),  # mean absolute change of correlation with the others; NaN: it is alone
            ("drift", _F),  # of the features from those the models learned on: 0 none … 1 strong; NaN: unknown
            ("conversion", _F),  # account currency per unit of the symbol's profit currency
            ("regime", _S),  # codes.Regime
            ("tradable", _B),  # session open, not halted or close-only, features rebuilt after a gap
            ("fresh", _B),  # False: the feed is silent although the market is open, an outage
            ("market_open", _B),  # False: nothing is done, and it is no outage: the level stays as it is
        ],
        align=True,
    )


def state_dtype(horizon_bars: int) -> np.dtype[np.void]:
    """Return what the step remembers of a symbol, with rings of ``horizon_bars`` places."""
    return np.dtype(
        [
            ("level", _S),
            ("level_candidate", _S),
            ("level_since", _I),  # since when a better level has been possible; 0: it is not
            ("emergency_at", _I),  # newest time at the emergency level; 0: never
            ("bar_time", _I),
            ("entry_bar", _I),  # bar in which the newest entry was decided: one entry a bar
            ("age_bars", _I),  # closed bars since the position opened
            ("planned_lots", _F),  # signed, of the newest entry, until its position is seen
            ("planned_at", _I),  # when it was decided
            ("volatility_until", _I),
            ("correlation_until", _I),
            ("log_loss", _F, (3,)),  # exponentially weighted out-of-sample log-loss of each path
            ("pending_at", _I),  # next place in the two rings
            ("pending_signal", _F, (horizon_bars, 3)),  # signals whose outcome is not yet known; NaN: absent
            ("pending_price", _F, (horizon_bars,)),  # mid price when they were given; NaN: none
            ("derived", DERIVED),
        ],
        align=True,
    )


def config_row(config: NamedTuple) -> Rows:
    """Return a named tuple of numbers and tuples of numbers as an array of one record."""
    fields: list[Any] = []
    for name, value in config._asdict().items():
        if isinstance(value, tuple):
            fields.append((name, _F, (len(value),)))
        else:
            fields.append((name, _B if isinstance(value, bool) else _I if isinstance(value, int) else _F))
    row = np.zeros(1, dtype=np.dtype(fields, align=True))
    for name, value in config._asdict().items():
        row[name][0] = value
    return row
