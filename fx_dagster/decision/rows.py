"""Packed rows that compiled code runs over: one record a symbol, one for the account, one for the configuration.

A function of the step takes a few records by reference instead of a hundred arrays by value: it compiles in seconds,
runs in a microsecond, and all that concerns a symbol lies in neighbouring bytes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fx_dagster.decision.arrays import VOTES, AccountState, Decisions, PositionTable, StepInputs
from fx_dagster.decision.codes import Size

Rows = NDArray[np.void]

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
    [("lots", _F), ("entry_price", _F), ("stop", _F), ("target", _F), ("pending", _B), ("foreign_lots", _F)], align=True
)

ACCOUNT = np.dtype(
    [
        ("time", _I), ("trading_day", _I), ("balance", _F), ("equity", _F), ("margin_used", _F), ("healthy", _B),
        ("command", _I), ("commission_rate", _F),
    ],
    align=True,
)  # fmt: skip

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
    ],
    align=True,
)  # fmt: skip
"""Numbers of a symbol that change only with its votes, models, level or drift; kept between ticks, not in snapshots."""

DECISION = np.dtype(
    [
        ("action", _S), ("target_lots", _F), ("stop", _F), ("target", _F), ("level", _S), ("observed_level", _S),
        ("reasons", _I), ("breakers", _I), ("stage", _S), ("score", _F), ("signals", _F, (3,)), ("weights", _F, (3,)),
        ("validation", _F), ("validation_parts", _F, (3,)), ("confidence", _F), ("kelly", _F), ("risk_money", _F),
        ("sizes", _F, (len(Size),)),
    ],
    align=True,
)  # fmt: skip

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
    """Return the row of inputs with ``models`` model outputs: the fields of :class:`StepInputs` but the scalars.

    ``version`` (≥ 0) is raised by the caller whenever votes, probabilities, confidence, agreement or regime of the row
    have changed; while it stays, the step does not look at them again.
    """
    return np.dtype(
        [
            ("version", _I), ("active", _B), ("bar_time", _I), ("bid", _F), ("ask", _F), ("atr", _F),
            ("volatility_short", _F), ("volatility_long", _F), ("spread_median", _F), ("votes", _F, (VOTES,)),
            ("p_up", _F, (models,)), ("confidence", _F), ("agreement", _F), ("correlation_shift", _F), ("drift", _F),
            ("conversion", _F), ("regime", _S), ("tradable", _B), ("fresh", _B), ("market_open", _B),
        ],
        align=True,
    )  # fmt: skip


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


def pack(table: StepInputs | PositionTable, rows: Rows, names: Sequence[str]) -> None:
    """Copy the columns of a table into packed rows."""
    for name in names:
        rows[name] = getattr(table, name)


def pack_account(inputs: StepInputs, account: AccountState, row: Rows) -> None:
    """Write the account and the moment into their record."""
    row[0] = (
        inputs.time, inputs.trading_day, account.balance, account.equity, account.margin_used, account.healthy,
        account.command, account.commission_rate,
    )  # fmt: skip


def decision_views(rows: Rows) -> Decisions:
    """Return the columns of packed decisions, as views."""
    return Decisions(**{name: rows[name] for name in Decisions._fields})
