"""From what is observed to what is decided: fills the decision step's inputs, calls it, and writes down its answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fx_dagster.decision.arrays import AccountState, Decisions, PositionTable, StepInputs
from fx_dagster.decision.codes import Action, Command, Level
from fx_dagster.decision.decider import DecisionStep
from fx_dagster.decision.inputs import trading_day
from fx_dagster.decision.record import DecisionExplanation, explain
from fx_dagster.execution.orders import OrderIntent, Purpose, client_order_id
from fx_dagster.live.account import PaperDesk
from fx_dagster.live.model_desk import Asked
from fx_dagster.live.observation import Observation
from fx_dagster.live.records import DecisionRecord, KillSwitch
from fx_dagster.market.timeframes import Timeframe

_PURPOSES = {Action.OPEN: Purpose.OPEN, Action.CLOSE: Purpose.CLOSE, Action.MODIFY: Purpose.MODIFY}
FLATTEN_ATTEMPT = 1
"""Sets the key of an order inside a bar apart from the key of the bar's own decision."""


@dataclass(frozen=True)
class Quotes:
    """Whether each symbol's quote counts at one moment; bool ``[n]`` each."""

    market_open: NDArray[np.bool_]
    believable: NDArray[np.bool_]
    silent: NDArray[np.bool_]


@dataclass(frozen=True)
class Judgement:
    """One call of the decision step.

    Attributes:
        level: worst level of the rows that were decided.
        said: explanation of each row that was decided.
        intents: orders that follow, by row.
    """

    level: int
    said: Mapping[int, DecisionExplanation]
    intents: Mapping[int, OrderIntent]


def command_of(kill: KillSwitch, *, stopping: bool) -> Command:
    """Return what a person, or the end of the session, orders."""
    if kill.engaged and kill.flatten:
        return Command.FLATTEN
    return Command.CLOSE_ONLY if kill.engaged or stopping else Command.RUN


class Judge:
    """Owns the decision step of a session.

    Args:
        step: the decision step.
        desk: the account.
        account: its name.
        session: number of the session, part of every order's key.
        base: timeframe of decisions.
    """

    def __init__(self, step: DecisionStep, desk: PaperDesk, *, account: str, session: int, base: Timeframe) -> None:
        self._step = step
        self._desk = desk
        self._account = account
        self._session = str(session)
        self._base = base
        self._inputs = step.empty_inputs()
        self._positions = step.empty_positions()

    def at_bar_close(
        self, closing: int, bar_time: NDArray[np.int64], seen: Observation, asked: Asked, quotes: Quotes,
        *, healthy: bool, command: Command,
    ) -> Judgement:  # fmt: skip
        """Decide for every symbol that closed a bar at ``closing`` (ns UTC)."""
        active = np.zeros(len(bar_time), dtype=np.bool_)
        active[seen.rows] = True
        self._inputs = self._inputs._replace(
            time=closing,
            trading_day=int(trading_day(np.array([closing]))[0]),
            active=active,
            bar_time=bar_time,
            bid=self._desk.bid.copy(),
            ask=self._desk.ask.copy(),
            atr=seen.atr,
            volatility_short=seen.volatility_short,
            volatility_long=seen.volatility_long,
            spread_median=seen.spread_median,
            votes=seen.votes,
            p_up=asked.p_up,
            agreement=seen.agreement,
            correlation_shift=seen.correlation_shift,
            conversion=seen.conversion,
            tradable=quotes.market_open & quotes.believable & seen.warm,
            fresh=quotes.believable & ~quotes.silent,
            market_open=quotes.market_open,
        )
        return self._judge(healthy=healthy, command=command, attempt=0)

    def inside_bar(
        self, now: int, bar_time: NDArray[np.int64], rows: Sequence[int], *, healthy: bool, command: Command
    ) -> Judgement:
        """Carry out a command for some symbols at once: the bar's numbers stay, the quotes are the newest."""
        active = np.zeros(len(self._inputs.active), dtype=np.bool_)
        active[list(rows)] = True
        everywhere = np.ones_like(active)
        self._inputs = self._inputs._replace(
            time=now,
            trading_day=int(trading_day(np.array([now]))[0]),
            active=active,
            bar_time=bar_time,
            bid=self._desk.bid.copy(),
            ask=self._desk.ask.copy(),
            fresh=everywhere,
            market_open=everywhere,
        )
        return self._judge(healthy=healthy, command=command, attempt=FLATTEN_ATTEMPT)

    def _judge(self, *, healthy: bool, command: Command, attempt: int) -> Judgement:
        account = self._desk.state(healthy=healthy, command=int(command))
        positions = self._desk.fill(self._positions)
        decisions = self._step.decide(self._inputs, account, positions)
        rows = [int(row) for row in np.flatnonzero(self._inputs.active)]
        said = {row: self._explained(row, decisions, account, positions) for row in rows}
        return Judgement(
            level=max((one.level for one in said.values()), default=int(Level.UNSET)),
            said=said,
            intents={
                row: self._intent(row, Action(int(decisions.action[row])), decisions, attempt)
                for row in rows
                if decisions.action[row] != Action.NONE
            },
        )

    def _explained(
        self, row: int, decisions: Decisions, account: AccountState, positions: PositionTable
    ) -> DecisionExplanation:
        return explain(self._step.symbols[row], row, decisions, self._inputs, account, positions)

    def _intent(self, row: int, action: Action, decisions: Decisions, attempt: int) -> OrderIntent:
        inputs: StepInputs = self._inputs
        symbol, held = self._step.symbols[row], float(self._positions.lots[row])
        purpose = _PURPOSES[action]
        opening = purpose is Purpose.OPEN
        lots = {Purpose.OPEN: float(decisions.target_lots[row]) - held, Purpose.CLOSE: -held, Purpose.MODIFY: 0.0}
        closing = purpose is Purpose.CLOSE
        return OrderIntent(
            client_order_id=client_order_id(
                self._account, self._session, symbol, int(inputs.bar_time[row]), purpose, attempt
            ),
            account=self._account,
            symbol=symbol,
            purpose=purpose,
            lots=lots[purpose],
            stop=0.0 if closing else float(decisions.stop[row]),
            target=0.0 if closing else float(decisions.target[row]),
            # The first quote that may fill it is the one at this moment: nothing decided on it.
            decided_ns=inputs.time - 1,
            expires_ns=inputs.time + self._base.nominal_ns if opening else 0,
            risk_money=float(decisions.risk_money[row]) if opening else 0.0,
        )


def decision_record(
    said: DecisionExplanation, *, asked: Asked, row: int, seen: Observation, intent: OrderIntent | None,
    feature_hash: str, journal_problem: str, total_ms: float, wall_ns: int,
) -> DecisionRecord:  # fmt: skip
    """Return a decision as the journal keeps it."""
    return DecisionRecord(
        symbol=said.symbol,
        bar_time=said.bar_time,
        level=said.level,
        level_reason=why(said, asked.problem, journal_problem),
        action=said.action,
        score=said.score,
        outcome=said.as_json() | {"p_up": [None if np.isnan(p) else float(p) for p in asked.p_up[row]]},
        features=seen.features[row] if seen.warm[row] else np.zeros(0, dtype=np.float32),
        feature_hash=feature_hash,
        release=asked.release,
        client_order_id=intent.client_order_id if intent else None,
        latency_total_ms=total_ms,
        latency_model_ms=asked.latency_ms,
        decided_wall_ns=wall_ns,
    )


def why(said: DecisionExplanation, model_problem: str, journal_problem: str) -> str:
    """Return in words why the level is not better: what the step says, and what stands behind it."""
    if said.level <= Level.FULL_AI:
        return ""
    causes = [said.level_reason]
    if said.level >= Level.TRADITIONAL and model_problem:
        causes.append(f"models: {model_problem}")
    if said.level >= Level.EMERGENCY and journal_problem:
        causes.append(f"journal: {journal_problem}")
    return "; ".join(cause for cause in causes if cause)
