"""What goes wrong at a broker, on purpose: a plan of faults for the simulated terminal, written by hand or from a seed.

A fault happens at a call (the n-th of a function, perhaps of a symbol only) or at a market time. It happens once; one
with a duration ends by market time. Several faults may meet at one call: an answer that is lost and hidden, say.

Faults of requests (they need :class:`AtCall` with ``order_send``): :class:`AnswerLost`, :class:`RequestLost`,
:class:`RequestLate`, :class:`Hidden`, :class:`Refused`, :class:`PartialFill`, :class:`ConfirmedTwice`,
:class:`FillBeforeAnswer`. All others change the world, and may be given either way.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from fx_dagster.errors import SettingsError
from fx_dagster.market.timeframes import MINUTE_NS, SECOND_NS
from resources.mt5.constants import Mt5Constants as Mt5

ANY = "*"
"""Any function."""
ORDER_SEND = "order_send"


@dataclass(frozen=True, slots=True)
class AtCall:
    """At the ``nth`` call (1: the first) of a function; with ``symbol``, among its calls for that symbol only."""

    function: str = ORDER_SEND
    nth: int = 1
    symbol: str = ""

    def __post_init__(self) -> None:
        if self.nth < 1:
            raise SettingsError(f"nth is {self.nth}", mend="count calls from 1")


@dataclass(frozen=True, slots=True)
class AtTime:
    """At the first moment from ``time_ns`` (market time, ns UTC) on."""

    time_ns: int


When: TypeAlias = AtCall | AtTime


@dataclass(frozen=True, slots=True)
class AnswerLost:
    """The broker takes the request; the caller hears of a timeout.

    Attributes:
        retcode: 10012 or another code that leaves it open, without order and deal; 0: the call returns ``None``.
        code: of ``last_error`` where the call returns ``None``.
    """

    when: AtCall
    retcode: int = 0
    code: int = Mt5.RES_E_INTERNAL_FAIL_TIMEOUT


@dataclass(frozen=True, slots=True)
class RequestLost:
    """The broker never sees the request; the caller hears the same as with :class:`AnswerLost`."""

    when: AtCall
    retcode: int = 0
    code: int = Mt5.RES_E_INTERNAL_FAIL_TIMEOUT


@dataclass(frozen=True, slots=True)
class RequestLate:
    """The caller hears of a timeout, and the broker takes the request ``delay_ms`` later, if it still would."""

    when: AtCall
    delay_ms: int = 3_000
    retcode: int = 0
    code: int = Mt5.RES_E_INTERNAL_FAIL_TIMEOUT


@dataclass(frozen=True, slots=True)
class Hidden:
    """What the request does is seen in orders, positions and deals after ``delay_ms`` of market time only."""

    when: AtCall
    delay_ms: int = 2_000


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker refuses: rejected 10006, requote 10004, off quotes 10021, invalid stops 10016, …"""

    when: AtCall
    retcode: int = Mt5.TRADE_RETCODE_REJECT


@dataclass(frozen=True, slots=True)
class PartialFill:
    """Only a ``share`` of a market order is filled; the rest is cancelled, or rests for ``rest_ms``."""

    when: AtCall
    share: float = 0.5
    rest_ms: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise SettingsError(f"share is {self.share}", mend="give a number in (0, 1)")


@dataclass(frozen=True, slots=True)
class ConfirmedTwice:
    """The request's deals are listed twice."""

    when: AtCall


@dataclass(frozen=True, slots=True)
class FillBeforeAnswer:
    """The answer says placed (10008) without a deal, which is there already; the order is seen after ``delay_ms``."""

    when: AtCall
    delay_ms: int = 2_000


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The terminal has lost the broker: requests answer ``retcode``, prices stand still, ``connected`` is false."""

    when: When
    duration_ms: int = 30_000
    retcode: int = Mt5.TRADE_RETCODE_CONNECTION


@dataclass(frozen=True, slots=True)
class TerminalLost:
    """The terminal itself does not answer: every call fails with ``code``."""

    when: When
    duration_ms: int = 30_000
    code: int = Mt5.RES_E_INTERNAL_FAIL_CONNECT


@dataclass(frozen=True, slots=True)
class FeedFrozen:
    """No newer ticks of a symbol (empty: of any) are shown, while the market goes on at the broker."""

    when: When
    symbol: str = ""
    duration_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Money leaves the account, so that equity over margin is ``margin_percent``; without positions: ``amount``."""

    when: When
    margin_percent: float = 45.0
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class ForeignTrade:
    """A person or another program opens a position; ``lots`` signed."""

    when: When
    symbol: str
    lots: float
    magic: int = 0
    comment: str = ""
    reason: int = Mt5.ORDER_REASON_CLIENT


@dataclass(frozen=True, slots=True)
class ServerClose:
    """The newest position (of a symbol) is closed at the present quote: by stop, target, stop-out or a person."""

    when: When
    symbol: str = ""
    reason: int = Mt5.DEAL_REASON_SL


@dataclass(frozen=True, slots=True)
class AutotradingOff:
    """Requests are answered with 10027; with ``api``, Python's own switch is off: ``None``, and code -8."""

    when: When
    duration_ms: int = 60_000
    api: bool = False


@dataclass(frozen=True, slots=True)
class SymbolMode:
    """A symbol is halted (``SYMBOL_TRADE_MODE_DISABLED``) or close-only, and full again afterwards."""

    when: When
    symbol: str
    mode: int = Mt5.SYMBOL_TRADE_MODE_CLOSEONLY
    duration_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class SpecificationChanged:
    """A symbol's specification changes for good: fields of an Instrument, stops and freeze level, filling mask."""

    when: When
    symbol: str
    changes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SuffixChanged:
    """All symbols get another suffix; what is open goes with them."""

    when: When
    suffix: str = ".x"


@dataclass(frozen=True, slots=True)
class Hang:
    """The call takes ``seconds`` of real time before it does anything."""

    when: When
    seconds: float = 1.0


RequestFault: TypeAlias = (
    AnswerLost | RequestLost | RequestLate | Hidden | Refused | PartialFill | ConfirmedTwice | FillBeforeAnswer
)
WorldFault: TypeAlias = (
    Disconnected | TerminalLost | FeedFrozen | Withdrawn | ForeignTrade | ServerClose | AutotradingOff | SymbolMode
    | SpecificationChanged | SuffixChanged | Hang
)  # fmt: skip
Fault: TypeAlias = RequestFault | WorldFault

REQUEST_FAULTS = (
    AnswerLost, RequestLost, RequestLate, Hidden, Refused, PartialFill, ConfirmedTwice, FillBeforeAnswer,
)  # fmt: skip


class FaultKind(StrEnum):
    """What :func:`seeded_plan` chooses from."""

    ANSWER_LOST = "answer_lost"
    REQUEST_LOST = "request_lost"
    REQUEST_LATE = "request_late"
    HIDDEN = "hidden"
    REFUSED = "refused"
    PARTIAL_FILL = "partial_fill"
    CONFIRMED_TWICE = "confirmed_twice"
    FILL_BEFORE_ANSWER = "fill_before_answer"
    DISCONNECTED = "disconnected"
    TERMINAL_LOST = "terminal_lost"
    FEED_FROZEN = "feed_frozen"
    WITHDRAWN = "withdrawn"
    FOREIGN_TRADE = "foreign_trade"
    SERVER_CLOSE = "server_close"
    AUTOTRADING_OFF = "autotrading_off"
    SYMBOL_MODE = "symbol_mode"
    SPECIFICATION_CHANGED = "specification_changed"


class FaultPlan:
    """Faults that are still to come; each is handed out once.

    Args:
        faults: in any order.

    Raises:
        SettingsError: a fault of requests waits for something else than a request.
    """

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        for fault in faults:
            if isinstance(fault, REQUEST_FAULTS) and not (
                isinstance(fault.when, AtCall) and fault.when.function == ORDER_SEND
            ):
                raise SettingsError(
                    f"{type(fault).__name__} waits for {fault.when}", mend="give it AtCall of order_send"
                )
        self._timed = sorted(
            (fault for fault in faults if isinstance(fault.when, AtTime)), key=lambda fault: _time_of(fault)
        )
        self._called = [fault for fault in faults if isinstance(fault.when, AtCall)]
        self._counts: dict[tuple[str, str], int] = {}
        self.happened: list[Fault] = []
        """In their order."""

    def add(self, fault: Fault) -> None:
        """Plan one more; calls are counted from the start of the terminal.

        Raises:
            SettingsError: as for the plan.
        """
        FaultPlan([fault])
        if isinstance(fault.when, AtTime):
            self._timed = sorted([*self._timed, fault], key=_time_of)
        else:
            self._called.append(fault)

    def count(self, function: str, symbol: str = "") -> int:
        """Return how often a function was called, with a symbol for that one only."""
        return self._counts.get((function, symbol), 0)

    def next_time(self, now_ns: int) -> int | None:
        """Return when the next timed fault is due by ``now_ns``; None: none is."""
        if self._timed and _time_of(self._timed[0]) <= now_ns:
            return _time_of(self._timed[0])
        return None

    def take_timed(self, now_ns: int) -> list[Fault]:
        """Return the timed faults that are due."""
        due: list[Fault] = [fault for fault in self._timed if _time_of(fault) <= now_ns]
        self._timed = self._timed[len(due) :]
        self.happened += due
        return due

    def take_called(self, function: str, symbol: str) -> list[Fault]:
        """Count a call, and return the faults that meet it."""
        for key in {(function, ""), (function, symbol), (ANY, ""), (ANY, symbol)}:
            self._counts[key] = self._counts.get(key, 0) + 1
        if not self._called:
            return []
        met = [fault for fault in self._called if self._meets(fault, function, symbol)]
        self._called = [fault for fault in self._called if fault not in met]
        self.happened += met
        return met

    def _meets(self, fault: Fault, function: str, symbol: str) -> bool:
        when = fault.when
        if not isinstance(when, AtCall) or when.function not in (function, ANY) or when.symbol not in ("", symbol):
            return False
        return self._counts.get((when.function, when.symbol), 0) == when.nth


def _time_of(fault: Fault) -> int:
    return fault.when.time_ns if isinstance(fault.when, AtTime) else 0


def seeded_plan(
    seed: int, *, symbols: Sequence[str], start_ns: int, end_ns: int, count: int, requests: int = 50,
    kinds: Sequence[FaultKind] = tuple(FaultKind),
) -> tuple[Fault, ...]:  # fmt: skip
    """Return ``count`` faults chosen by a seed: the same seed, the same plan.

    Args:
        seed: any whole number.
        symbols: the broker's names.
        start_ns, end_ns: market time in which timed faults fall, ns UTC.
        count: how many.
        requests: faults of requests fall on one of the first so many calls of ``order_send``.
        kinds: what may happen.

    Raises:
        SettingsError: there is no symbol, no kind or no time.
    """
    if not symbols or not kinds or end_ns <= start_ns or requests < 1:
        raise SettingsError(
            "a plan of faults needs symbols, kinds, requests and time", mend="give at least one of each"
        )
    chance = random.Random(seed)  # noqa: S311
    faults = [
        _drawn(chance, chance.choice(list(kinds)), chance.choice(list(symbols)), start_ns, end_ns, requests)
        for _ in range(count)
    ]
    return tuple(faults)


def _drawn(chance: random.Random, kind: FaultKind, symbol: str, start_ns: int, end_ns: int, requests: int) -> Fault:
    call = AtCall(ORDER_SEND, chance.randint(1, requests))
    moment = AtTime(chance.randrange(start_ns, end_ns))
    lost = chance.choice((0, Mt5.TRADE_RETCODE_TIMEOUT))
    delay_ms = chance.randint(100, 5_000)
    duration_ms = chance.randint(1, 5) * MINUTE_NS // SECOND_NS * 1000
    lots = chance.choice((-1, 1)) * chance.randint(1, 10) / 100
    refusals = (
        Mt5.TRADE_RETCODE_REJECT, Mt5.TRADE_RETCODE_REQUOTE, Mt5.TRADE_RETCODE_PRICE_OFF,
        Mt5.TRADE_RETCODE_INVALID_STOPS, Mt5.TRADE_RETCODE_TOO_MANY_REQUESTS, Mt5.TRADE_RETCODE_SERVER_DISABLES_AT,
    )  # fmt: skip
    made: dict[FaultKind, Fault] = {
        FaultKind.ANSWER_LOST: AnswerLost(call, lost),
        FaultKind.REQUEST_LOST: RequestLost(call, lost),
        FaultKind.REQUEST_LATE: RequestLate(call, delay_ms, lost),
        FaultKind.HIDDEN: Hidden(call, delay_ms),
        FaultKind.REFUSED: Refused(call, chance.choice(refusals)),
        FaultKind.PARTIAL_FILL: PartialFill(call, chance.uniform(0.2, 0.8), chance.choice((None, delay_ms))),
        FaultKind.CONFIRMED_TWICE: ConfirmedTwice(call),
        FaultKind.FILL_BEFORE_ANSWER: FillBeforeAnswer(call, delay_ms),
        FaultKind.DISCONNECTED: Disconnected(moment, duration_ms),
        FaultKind.TERMINAL_LOST: TerminalLost(moment, duration_ms),
        FaultKind.FEED_FROZEN: FeedFrozen(moment, symbol, duration_ms),
        FaultKind.WITHDRAWN: Withdrawn(moment),
        FaultKind.FOREIGN_TRADE: ForeignTrade(moment, symbol, lots),
        FaultKind.SERVER_CLOSE: ServerClose(
            moment, symbol, chance.choice((Mt5.DEAL_REASON_SL, Mt5.DEAL_REASON_TP, Mt5.DEAL_REASON_SO))
        ),
        FaultKind.AUTOTRADING_OFF: AutotradingOff(moment, duration_ms),
        FaultKind.SYMBOL_MODE: SymbolMode(
            moment, symbol, chance.choice((Mt5.SYMBOL_TRADE_MODE_DISABLED, Mt5.SYMBOL_TRADE_MODE_CLOSEONLY)),
            duration_ms,
        ),
        FaultKind.SPECIFICATION_CHANGED: SpecificationChanged(moment, symbol, {"stops_level": chance.randint(1, 50)}),
    }  # fmt: skip
    return made[kind]
