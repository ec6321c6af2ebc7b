"""Codes that a decision is written in: actions, levels, stages, breakers, reasons.

They are small integers, because they cross from compiled arrays to records; each has one meaning for ever.
"""

from enum import IntEnum, IntFlag
from functools import lru_cache


class Action(IntEnum):
    """What to do with a symbol's position. A reversal is a close now and an entry by a later decision."""

    NONE = 0
    OPEN = 1
    CLOSE = 2
    MODIFY = 3
    """Only the stop moves, and only closer to the market."""


class Level(IntEnum):
    """Fallback level; 0 before the first decision."""

    UNSET = 0
    FULL_AI = 1
    SIMPLE_AI = 2
    TRADITIONAL = 3
    EMERGENCY = 4


class Combine(IntEnum):
    """How the paths are combined."""

    PARALLEL = 0
    HIERARCHICAL = 1
    HYBRID = 2


class Command(IntEnum):
    """What a person or the supervisor orders; passed in with the account."""

    RUN = 0
    CLOSE_ONLY = 1
    FLATTEN = 2


class Regime(IntEnum):
    """Market regime; row of the table of limits."""

    UNKNOWN = 0
    BULL = 1
    BEAR = 2
    HIGH_VOLATILITY = 3
    LOW_VOLATILITY = 4


class Stage(IntEnum):
    """Drawdown stage."""

    NORMAL = 0
    REDUCE = 1
    HALVE = 2
    CLOSE_ONLY = 3
    HALT = 4


class Breaker(IntFlag):
    """The seven circuit breakers; while any is tripped there are no entries.

    ======================  =========  =====================================================
    breaker                 scope      reset
    ======================  =========  =====================================================
    DAILY_LOSS              account    after ``breaker_hours``
    DRAWDOWN                account    close-only: after ``breaker_hours`` without a position;
                                       halt: a person (:func:`step.end_halt`)
    VOLATILITY_SPIKE        symbol     after ``breaker_hours``
    SPREAD                  symbol     as soon as the spread is back inside its band
    CORRELATION_BREAKDOWN   symbol     after ``breaker_hours``
    LOSS_STREAK             account    after ``breaker_hours``; the count starts again at the trip
    SYSTEM_HEALTH           account    after ``recover_after_s`` of health
    ======================  =========  =====================================================
    """

    DAILY_LOSS = 1
    DRAWDOWN = 2
    VOLATILITY_SPIKE = 4
    SPREAD = 8
    CORRELATION_BREAKDOWN = 16
    LOSS_STREAK = 32
    SYSTEM_HEALTH = 64


class Reason(IntFlag):
    """Why a decision is what it is; several at once.

    Below 2**20 and from 2**29 on: what kept an entry away or shaped it, ``EXIT_TIMING`` apart.
    """

    QUOTE_INVALID = 1 << 0
    STALE = 1 << 1
    NOT_TRADABLE = 1 << 2
    ORDER_PENDING = 1 << 3
    MODEL_ABSENT = 1 << 4
    MODEL_OUT_OF_RANGE = 1 << 5
    ALL_VOTES_ABSENT = 1 << 6
    CORRELATION_ABSENT = 1 << 7
    UNHEALTHY = 1 << 8
    ACCOUNT_INVALID = 1 << 9
    SCORE_LOW = 1 << 10
    NOT_VALID = 1 << 11
    BREAKER_TRIPPED = 1 << 12
    DRAWDOWN_STAGE = 1 << 13
    BAR_USED = 1 << 14
    NO_EDGE = 1 << 15
    STOP_IMPOSSIBLE = 1 << 16
    BELOW_MINIMUM_LOT = 1 << 17
    EXPLORING = 1 << 18
    COMMANDED = 1 << 19
    ENTER = 1 << 20
    EXIT_AGE = 1 << 21
    EXIT_REVERSAL = 1 << 22
    EXIT_FLATTEN = 1 << 23
    STOP_TIGHTENED = 1 << 24
    HALTED = 1 << 25
    LEVEL_EMERGENCY = 1 << 26
    FOREIGN_POSITION = 1 << 27
    MARKET_CLOSED = 1 << 28
    FEATURES_DRIFTED = 1 << 29
    CURRENCY_LIMIT = 1 << 30
    CORRELATION_LIMIT = 1 << 31
    RISK_LIMIT = 1 << 32
    """VaR or CVaR of the portfolio."""
    TIMING_WAIT = 1 << 33
    """The timing agent would not enter now."""
    EXIT_TIMING = 1 << 34
    """The timing agent left the position."""


class Size(IntEnum):
    """Columns of a decision's ``sizes`` (lots): the wish after Kelly, then after each scaling and limit in order.

    Records keep sizes by name; the numbers are places, and change when a step comes between two others.
    """

    KELLY = 0
    VOLATILITY = 1
    CONFIDENCE = 2
    AGENT = 3
    """What the sizing agent makes of the wish; every limit comes after it."""
    DRAWDOWN = 4
    RISK_CAP = 5
    REGIME_CAP = 6
    MARGIN_CAP = 7
    CURRENCY_CAP = 8
    CORRELATION_CAP = 9
    VAR_CAP = 10
    ROUNDED = 11


PATHS = ("traditional", "machine_learning", "deep_learning")
"""Columns of a decision's ``weights`` and ``signals``."""

VALIDATION_PARTS = ("traditional", "ai", "correlation")
"""Columns of a decision's ``validation_parts``."""


@lru_cache(maxsize=4_096)
def names(flags: int, kind: type[IntFlag]) -> tuple[str, ...]:
    """Return the lower-case names of the bits that are set."""
    return tuple(member.name.lower() for member in kind if member.name and flags & member)
