"""From what the core decided to what is journalled: explanations of decisions, and intents of orders."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fx_dagster.core.rows import Kind
from fx_dagster.core.trading import Act, Logged, Question, TradingCore
from fx_dagster.decision.codes import Action, Command, Level, Regime
from fx_dagster.decision.record import DecisionExplanation
from fx_dagster.execution.orders import OrderIntent, Purpose, client_order_id
from fx_dagster.live.model_desk import Asked
from fx_dagster.live.records import DecisionRecord, KillSwitch
from fx_dagster.models.answer import EXTRAS
from fx_dagster.models.protocol import Float32

_PURPOSES = {Action.OPEN: Purpose.OPEN, Action.CLOSE: Purpose.CLOSE, Action.MODIFY: Purpose.MODIFY}
DIGITS = 5
"""Of what a record keeps of an answer; the decision, and the tape, have every bit."""
_NO_FEATURES: Float32 = np.zeros(0, dtype=np.float32)


def command_of(kill: KillSwitch, *, stopping: bool) -> Command:
    """Return what a person, or the end of the session, orders."""
    if kill.engaged and kill.flatten:
        return Command.FLATTEN
    return Command.CLOSE_ONLY if kill.engaged or stopping else Command.RUN


@dataclass(frozen=True)
class Circumstances:
    """What stood around some decisions.

    Attributes:
        question: what the models were asked for them; None: nothing.
        asked: what came back.
        journal_problem: why the journal could not be trusted; empty: it could.
        total_ms: from the arrival of the tick to the end of the decision.
        wall_ns: when.
        broker_problem: why the broker could not be trusted; empty: it could.
    """

    question: Question | None
    asked: Asked | None
    journal_problem: str
    total_ms: float
    wall_ns: int
    broker_problem: str = ""


class Scribe:
    """Writes a session's decisions and orders down.

    Args:
        core: what decides.
        account: its name.
        session: number of the session, part of every order's key.
        models: names of the direction models, in the order of an answer's columns.
        valid_ns: age of a decision's data from which a real broker is not sent its order; 0: the account is on paper,
            where an entry waits for a quote, for a bar at most.
    """

    def __init__(
        self, core: TradingCore, *, account: str, session: int, models: Sequence[str], valid_ns: int = 0
    ) -> None:
        self._core = core
        self._account = account
        self._session = str(session)
        self._columns = (*models, *EXTRAS)
        self._hash = core.spec.catalogue.hash
        self._base_ns = core.spec.catalogue.base.nominal_ns
        self._valid_ns = valid_ns

    def intents(self, acts: Sequence[Act]) -> dict[int, OrderIntent]:
        """Return the orders that decisions want, by symbol's row."""
        return {act.row: self._intent(act) for act in acts}

    def _intent(self, act: Act) -> OrderIntent:
        purpose = _PURPOSES[act.action]
        opening, closing = purpose is Purpose.OPEN, purpose is Purpose.CLOSE
        lots = {Purpose.OPEN: act.target_lots - act.held_lots, Purpose.CLOSE: -act.held_lots, Purpose.MODIFY: 0.0}
        return OrderIntent(
            client_order_id=client_order_id(self._account, self._session, act.symbol, act.time, purpose, act.number),
            account=self._account,
            symbol=act.symbol,
            purpose=purpose,
            lots=lots[purpose],
            stop=0.0 if closing else act.stop,
            target=0.0 if closing else act.target,
            decided_ns=act.decided_ns,
            expires_ns=self._expires(act.time, opening=opening),
            risk_money=act.risk_money if opening else 0.0,
        )

    def _expires(self, time: int, *, opening: bool) -> int:
        if self._valid_ns:
            return time + self._valid_ns
        return time + self._base_ns if opening else 0

    def records(
        self, logged: Sequence[Logged], around: Circumstances, intents: Mapping[int, OrderIntent]
    ) -> tuple[DecisionRecord, ...]:
        """Return decisions as the journal keeps them."""
        return tuple(self._record(one, around, intents.get(one.row) if one.acts else None) for one in logged)

    def _record(self, one: Logged, around: Circumstances, intent: OrderIntent | None) -> DecisionRecord:
        said, asked, question = one.said, around.asked, around.question
        place = -1
        if question is not None and one.kind in (Kind.BAR, Kind.MOVE, Kind.RETRY):
            found = np.flatnonzero(question.rows == one.row)
            place = int(found[0]) if len(found) else -1
        about = asked if place >= 0 else None
        return DecisionRecord(
            symbol=said.symbol,
            number=one.number,
            kind=one.kind.name.lower(),
            time=said.time,
            bar_time=said.bar_time,
            level=said.level,
            level_reason=why(said, asked.problem if asked else "", around.journal_problem, around.broker_problem),
            action=said.action,
            score=said.score,
            outcome=said.as_json() | {"p_up": one.p_up, "models": models_said(self._columns, one.answer, about, place)},
            features=question.features[place] if question is not None and place >= 0 else _NO_FEATURES,
            feature_hash=self._hash,
            release=about.release if about else None,
            client_order_id=intent.client_order_id if intent else None,
            latency_total_ms=around.total_ms,
            latency_model_ms=about.latency_ms if about else None,
            decided_wall_ns=around.wall_ns,
        )


def models_said(
    columns: Sequence[str], answer: Sequence[float | None], asked: Asked | None, place: int
) -> dict[str, Any]:
    """Return what the models had said of a symbol when it was decided, as JSON values; what is absent is left out.

    Args:
        columns: names of the answer's numbers.
        answer: the numbers that were decided on; None: absent.
        asked: the answer that the decision waited for; None: it waited for none, and what explains it is not known.
        place: the symbol's row in it.

    Returns:
        By column its number, ``regime`` as a word; and what explains the answer, a number or a list of them a name.
    """
    found: dict[str, Any] = {
        name: _rounded(value) for name, value in zip(columns, answer, strict=True) if value is not None
    }
    if "regime" in found:
        found["regime"] = Regime(int(found["regime"])).name.lower()
    for name, values in (asked.explained if asked else {}).items():
        row = [_rounded(value) if math.isfinite(value) else None for value in values[place].tolist()]
        if any(value is not None for value in row):
            # Of the regime a column has the likeliest, and what explains it is how likely each is.
            found[f"{name}_probabilities" if name in EXTRAS else name] = row[0] if len(row) == 1 else row
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def why(said: DecisionExplanation, model_problem: str, journal_problem: str, broker_problem: str = "") -> str:
    """Return in words why the level is not better: what the step says, and what stands behind it."""
    if said.level <= Level.FULL_AI:
        return ""
    causes = [said.level_reason]
    if model_problem:
        causes.append(f"models: {model_problem}")
    if said.level >= Level.EMERGENCY and journal_problem:
        causes.append(f"journal: {journal_problem}")
    if said.level >= Level.EMERGENCY and broker_problem:
        causes.append(f"broker: {broker_problem}")
    return "; ".join(cause for cause in causes if cause)
