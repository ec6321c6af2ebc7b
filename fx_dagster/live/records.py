"""What the live session hands to its journal: plain frozen rows, written in the order in which they were posted.

Market times are int64 ns UTC; ``…_wall_ns`` is this machine's clock (ns since 1970, UTC).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fx_dagster.execution.broker import BrokerPosition
from fx_dagster.execution.lifecycle import Step
from fx_dagster.execution.orders import Account, Deal, OrderIntent, OrderState, Position
from fx_dagster.models.protocol import Float32


@dataclass(frozen=True)
class DecisionRecord:
    """One decision about one symbol that is worth a record.

    Attributes:
        symbol: canonical symbol.
        number: of the decision in its session, counted from 1 over all decisions.
        kind: why it is kept: :class:`fx_dagster.core.rows.Kind`, in lower case.
        time: when it was made.
        bar_time: opening of the newest closed base bar.
        level: fallback level, 1 (all models) to 4 (emergency).
        level_reason: why it is not 1; empty at 1.
        action: what was decided, in the decision step's words.
        score: combined score in [-1, 1]; None where there was none.
        outcome: everything else that the decision step said, as plain JSON values; under ``models`` what each model
            said, by name.
        features: the row that was decided on, float32 ``[F]``; empty where there was none.
        feature_hash: of the catalogue that gives ``features`` their names.
        release: number of the model release that answered, None at the traditional level.
        client_order_id: of the order that follows from it, if any.
        latency_total_ms: from the arrival of the tick to the end of the decision.
        latency_model_ms: of the model call alone; None if there was none.
        decided_wall_ns: when.
    """

    symbol: str
    number: int
    kind: str
    time: int
    bar_time: int
    level: int
    level_reason: str
    action: str
    score: float | None
    outcome: Mapping[str, Any]
    features: Float32
    feature_hash: str
    release: int | None
    client_order_id: int | None
    latency_total_ms: float
    latency_model_ms: float | None
    decided_wall_ns: int


@dataclass(frozen=True)
class Transition:
    """A state that an order reached."""

    client_order_id: int
    state: OrderState
    time_ns: int
    broker_order: int = 0
    message: str = ""


@dataclass(frozen=True)
class AccountRecord:
    """The account after a step, in its own currency; ``time`` is the market's."""

    time: int
    account: Account
    positions: tuple[Position, ...]


@dataclass(frozen=True)
class EventRecord:
    """Something that a person may want to know afterwards."""

    kind: str
    symbol: str | None
    message: str
    market_time: int
    wall_ns: int


@dataclass(frozen=True)
class Checkpoint:
    """Where a restart goes on.

    Attributes:
        sequence: number of the checkpoint in its session, from 1.
        position: every tick before it is decided upon, and those of that very moment which the snapshot counts; the
            restart reads the ticks from it.
        clock: the market's clock at that moment, not before ``position``.
        snapshot: what was decided and traded until ``position``.
    """

    sequence: int
    position: int
    clock: int
    snapshot: bytes


@dataclass(frozen=True)
class Baseline:
    """A bare model call for ``rows`` rows, made between decisions with the decisions' own client."""

    rows: int
    latency_ms: float
    wall_ns: int


@dataclass(frozen=True)
class JournalEntry:
    """What is committed together, or not at all. Decisions, intents and deals come only with a checkpoint.

    A new intent is committed in state ``journalled``: only after that may it be sent. ``transitions`` and ``deals`` are
    those of an account on paper; at a real broker ``steps`` say both.

    Attributes:
        decisions: made.
        intents: of orders that may be sent once this is committed.
        transitions: of orders.
        deals: made.
        account: after the step.
        events: for a person.
        baselines: bare model calls.
        checkpoint: where a restart goes on.
        attempts: of an intent's key, how many decisions before it were refused a price; absent: none.
        steps: what became of orders at a real broker, in order.
        foreign: positions there that are not ours; None: nothing new is known of them.
        foreign_ns: as of when, ns UTC.
    """

    decisions: tuple[DecisionRecord, ...] = ()
    intents: tuple[OrderIntent, ...] = ()
    transitions: tuple[Transition, ...] = ()
    deals: tuple[Deal, ...] = ()
    account: AccountRecord | None = None
    events: tuple[EventRecord, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    checkpoint: Checkpoint | None = None
    attempts: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    steps: tuple[Step, ...] = ()
    foreign: tuple[BrokerPosition, ...] | None = None
    foreign_ns: int = 0


@dataclass(frozen=True)
class KillSwitch:
    """Whether a person stopped the account, and how hard; ``resumed_ns`` is when one last let it trade again.

    ``best_level`` is the best fallback level that a person allows, 1 … 4; 1: any.
    """

    engaged: bool = False
    flatten: bool = False
    reason: str = ""
    resumed_ns: int = 0
    best_level: int = 1


@dataclass(frozen=True)
class SessionState:
    """A session as it was found or begun.

    Attributes:
        session_id: number of the session.
        replay_start: first market time of its tape.
        replay_end: end of its tape (exclusive).
        sequence: number of the last checkpoint; 0 in a new session.
        position: see :class:`Checkpoint`; ``replay_start`` in a new session.
        clock: where the market's clock was last seen.
        snapshot: state at ``position``; None in a new session.
        unsettled: intents journalled with the last checkpoint, which may or may not have been sent since.
        finished: whether the tape is over.
    """

    session_id: int
    replay_start: int
    replay_end: int
    sequence: int
    position: int
    clock: int
    snapshot: bytes | None
    unsettled: tuple[OrderIntent, ...] = ()
    finished: bool = False

    @property
    def resumed(self) -> bool:
        """Whether an earlier engine has decided something in it."""
        return self.snapshot is not None
