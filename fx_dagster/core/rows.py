"""Records of the core, and the bundle of arrays that its compiled loop runs over: one row a symbol."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fx_dagster.decision.rows import ACCOUNT, DECISION, POSITION, Rows

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

_F, _I, _B, _S, _U = np.float64, np.int64, np.bool_, np.int8, np.uint64

NEVER = np.iinfo(np.int64).max


class Event(IntEnum):
    """Why the loop handed control back."""

    DONE = 0
    """Every tick that was given is worked through."""
    ASK = 1
    """``rows`` wait for the models before they are decided."""
    ACT = 2
    """``acts`` are decisions that want an order; they are journalled, then placed."""
    FULL = 3
    """The log is nearly full: it is drained before the loop goes on."""


class Kind(IntEnum):
    """What a decision was made on."""

    TICK = 0
    BAR = 1
    """A base bar closed."""
    MOVE = 2
    """The price moved far from where the models were asked last."""
    RETRY = 3
    """The models had not answered."""
    COMMAND = 4
    """A person's, between ticks."""


CONTROL = np.dtype(
    [
        ("clock", _I),  # market time of the newest tick or clock, ns UTC
        ("clock_ticks", _I),  # ticks taken at exactly that time
        ("closed_until", _I),  # base bars that end by then are closed
        ("next_close", _I),  # end of the earliest base bar that forms
        ("base_code", _I),
        ("base_ns", _I),  # its nominal length
        ("since", _I),  # where the session began: silence is counted from it
        ("trading_day", _I),  # and its edges, ns UTC
        ("day_begins", _I),
        ("day_ends", _I),
        ("stale_ns", _I),  # silence in an open market after which a symbol is halted
        ("move_atr", _F),  # distance from the last question, in ATR, at which the models are asked again
        ("refresh_ns", _I),  # least time between two questions about a symbol
        ("asks", _B),  # whether decisions wait for models at all
        ("table", _B),  # whether answers come from the table of predictions
        ("places", _B),  # whether the loop places orders itself (replay)
        ("watches", _B),  # whether it only follows the market and decides nothing (recovery)
        ("logs", _B),  # whether decisions are kept for a record
        ("healthy", _B),
        ("command", _S),
        ("event_time", _I),  # decision time of the rows that wait
        ("event_kind", _I),
        ("event_rows", _I),
        ("acts", _I),
        ("act_kind", _I),
        ("decisions", _I),
        ("levels", _I, (5,)),  # decisions by fallback level
        ("acted", _I),
        ("asked", _I),  # questions so far
        ("logged", _I),
        ("digest", _U),  # of every decision so far, bit for bit
        ("gaps", _I),  # silences inside a session that were noticed
        ("moves", _I),  # material moves
    ],
    align=True,
)
"""The loop's own memory; one record."""

WATCH = np.dtype(
    [
        ("session", _I),  # row of the session's opening hours
        ("is_open", _B),
        ("opened", _I),  # newest edge of the opening hours
        ("next_edge", _I),
        ("last_time", _I),  # newest good tick; 0: none yet
        ("hold_until", _I),  # no entries before that time: a gap's features are not rebuilt yet
        ("asked_at", _I),
        ("asked_mid", _F),
        ("level", _S),  # of the newest decision, to see what is notable
        ("breakers", _I),
        ("bar_time", _I),  # newest closed base bar
    ],
    align=True,
)
"""What the loop remembers of a symbol."""

STAMP = np.dtype([("number", _I), ("time", _I), ("kind", _I), ("row", _I), ("acts", _B)], align=True)
"""Which decision a row of the log is: ``number`` counts all decisions of the session from 1."""


class Log(NamedTuple):
    """Decisions that are worth a record, with everything that explains them."""

    stamp: Rows
    out: Rows
    inputs: Rows
    account: Rows
    position: Rows


def new_log(rows: int, inputs: np.dtype[np.void]) -> Log:
    """Return an empty log of ``rows`` places."""
    return Log(
        np.zeros(rows, STAMP), np.zeros(rows, DECISION), np.zeros(rows, inputs), np.zeros(rows, ACCOUNT),
        np.zeros(rows, POSITION),
    )  # fmt: skip


class Predictions(NamedTuple):
    """Answers known beforehand, by symbol and bar; out-of-fold ones in a backtest."""

    time: Int64
    """``[n, c]`` opening of the bar, ascending, :data:`NEVER` behind the last."""
    values: Float64
    """``[n, c, m + extras]``: columns of :mod:`fx_dagster.models.answer`; NaN: absent."""
    cursor: Int64
    """``[n]`` first one not yet passed."""


class Ticks(NamedTuple):
    """Ticks of several symbols in the order in which they are worked through."""

    symbol: NDArray[np.int32]
    time: Int64
    bid: Float64
    ask: Float64
    volume: Float64
    flags: NDArray[np.int32]


class Hours(NamedTuple):
    """Opening hours."""

    edges: Int64
    """``[s, e]`` ns UTC, ascending: opens, closes, opens, …; :data:`NEVER` behind the last."""
