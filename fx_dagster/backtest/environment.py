"""The bar replay as an environment that agents learn in: the same compiled step, bar by bar, many accounts at once.

An account lives through a stretch of history. What it does within a bar is what :mod:`fx_dagster.backtest.replay` does,
by the same compiled functions in the same order; only the loop is turned by half a bar: a step takes the agents'
answers, decides at the bar's close, and shows the account the next bar. With neutral answers an account therefore has
the replay's equity to the last bit.

**Reward** of a symbol for a bar, in multiples of ``explore_risk`` (what an exploring trade risks at its stop)::

    its share of  log(equity / equity a bar ago)  -  drawdown_weight × (increase of the account's drawdown)

Equity is net of spread, commission, slippage and swap. Growth is shared by what each symbol's trades brought, a deeper
drawdown by what each has lost in the bar, so that an account's reward is the sum over its symbols.

An account starts without a past: flat, at its first balance, every path of the step equally trusted. It ends with its
stretch, or when it is halted and flat: from there on no action changes anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fx_dagster.backtest.prepare import RETURNS_BARS, History, Market
from fx_dagster.backtest.replay import Tape, assumed_costs, place_order, see_account, walk_bar
from fx_dagster.compiled import compiled
from fx_dagster.decision.codes import Action, Command, Level, Stage
from fx_dagster.decision.config import StepConfig, checked
from fx_dagster.decision.rows import ACCOUNT, DECISION, Float64, Int64, Rows, config_row
from fx_dagster.decision.state import new_state
from fx_dagster.decision.step import Record, decide
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.ledger import Entry, Ledger, new_ledger
from fx_dagster.models.agents import coordinated
from fx_dagster.models.ppo import ACTIONS, SEEN_MAX, SIDES, SIZES, Answered, Scaling, neutral
from fx_dagster.models.protocol import Float32
from fx_dagster.settings import CostSettings

if TYPE_CHECKING:
    import gymnasium
    from stable_baselines3.common.vec_env import VecEnv

STRETCH_BARS = 512
"""Bars of an episode."""
DRAWDOWN_WEIGHT = 0.5
"""λ: what a deeper drawdown costs beside the loss that made it."""
_NONE, _OPEN, _HALT, _DEAL, _RUN = (
    int(Action.NONE), int(Action.OPEN), int(Stage.HALT), int(Entry.DEAL), int(Command.RUN),
)  # fmt: skip
_EVENTS_A_SYMBOL = 4
_LOSS_MOST = 0.999
"""Share of equity beyond which a loss's logarithm no longer grows: a ruined account has no logarithm."""


@dataclass(frozen=True)
class Conditions:
    """What accounts trade under.

    Attributes:
        config: of the step, with ``agents``.
        initial_balance: in the account's currency.
        leverage: of the account.
        cost: commission and slippage of fills; None: what the configuration assumes.
        drawdown_weight: λ of the reward, ≥ 0.
        risk_max: what the wished entries and open positions of an account may risk at their stops together, as a
            fraction of equity, before the coordinator cuts the wishes; None: the loss at which the daily breaker trips.
    """

    config: StepConfig
    initial_balance: float = 10_000.0
    leverage: float = 30.0
    cost: CostSettings | None = None
    drawdown_weight: float = DRAWDOWN_WEIGHT
    risk_max: float | None = None

    def __post_init__(self) -> None:
        checked(self.config)
        if not self.config.agents or self.config.best_level != Level.FULL_AI:
            raise SettingsError(
                "the step does not listen to agents", mend="pass a configuration with agents and best_level 1"
            )
        for name, least in (("initial_balance", 1e-9), ("drawdown_weight", 0.0), ("wished_risk_max", 1e-9)):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= least):
                raise SettingsError(f"{name} is {getattr(self, name)}", mend=f"give a number of at least {least}")

    @property
    def wished_risk_max(self) -> float:
        """The coordinator's limit, a fraction of equity."""
        return self.config.daily_loss_max if self.risk_max is None else self.risk_max

    @property
    def unit(self) -> float:
        """What a reward of 1 is, as a fraction of equity."""
        return self.config.explore_risk or self.config.risk_per_trade_max


class Batch(NamedTuple):
    """``b`` accounts of ``n`` symbols each; changed in place. The first nine are a ledger's parts, one an account."""

    positions: Rows
    helds: Rows
    money: Rows
    costs: Rows
    table: Rows
    legs: Int64
    open_rows: Int64
    memory: Rows
    events: Rows
    states: Rows
    """``[b, n]`` of :func:`fx_dagster.decision.rows.state_dtype`."""
    account: Rows
    inputs: Rows
    """``[b, n]``: the bar's inputs with the agents' answers in them."""
    out: Rows
    bar: Int64
    """``[b]`` the bar at whose close the next decision is."""
    earned: Float64
    """``[b, n]`` money that a symbol's deals have brought, their costs taken off."""
    worth: Float64
    """``[b, n]`` the same with the value of its open position."""
    equity: Float64
    peak: Float64
    at_hand: NDArray[np.bool_]
    """``[b, n]``: with neutral answers the symbol would be entered now."""
    risk: Float64
    """``[b, n]``: what that entry would risk at its stop, as a fraction of equity; 0 where there is none."""
    side: NDArray[np.int8]
    reward: Float64


class Scratch(NamedTuple):
    """Copies on which the step is asked what it would do."""

    states: Rows
    memory: Rows
    out: Rows


@compiled
def _ledger(batch: Batch, b: int) -> Ledger:
    return Ledger(
        batch.positions[b], batch.helds[b], batch.money[b], batch.costs, batch.table, batch.legs, batch.open_rows[b],
        batch.memory[b], batch.events[b],
    )  # fmt: skip


@compiled
def _answer(inputs: Record, size: np.ndarray, timing: np.ndarray) -> None:
    """Write the agents' answers ``[n]`` and ``[n, 3]`` into an account's inputs."""
    for i in range(inputs.shape[0]):
        inputs[i].size = size[i]
        for k in range(3):
            inputs[i].timing[k] = timing[i, k]


@compiled
def _look_ahead(
    market: Market, configs: Record, batch: Batch, b: int, ledger: Ledger, scratch: Scratch, same: Answered
) -> None:
    """See which entries are at hand: what the step would do now with neutral answers, on copies of its memory."""
    t, n, free = batch.bar[b], batch.table.shape[0], False
    for i in range(n):
        lots = batch.positions[b, i].lots
        batch.side[b, i] = 1 if lots > 0.0 else -1 if lots < 0.0 else 0
        batch.at_hand[b, i] = False
        batch.risk[b, i] = 0.0
        batch.inputs[b, i] = market.inputs[t, i]
        scratch.states[i] = batch.states[b, i]
        free |= lots == 0.0 and market.inputs[t, i].active
    if not free:
        return
    scratch.memory[0] = batch.memory[b, 0]
    _answer(batch.inputs[b], same.size, same.timing)
    decide(
        configs, batch.table, batch.inputs[b], batch.account[b], batch.positions[b], scratch.states, scratch.memory,
        scratch.out, ledger.money[0].open_count, market.returns[t + 1 : t + 1 + RETURNS_BARS],
    )  # fmt: skip
    for i in range(n):
        if scratch.out[i].action == _OPEN:
            batch.at_hand[b, i] = True
            batch.risk[b, i] = scratch.out[i].risk_money / batch.equity[b]


@compiled
def _reward(batch: Batch, b: int, ledger: Ledger, weight: float) -> None:
    """Share the bar's growth and deeper drawdown among the symbols."""
    money, n, before = ledger.money[0], batch.table.shape[0], batch.equity[b]
    for k in range(money.events):
        event = ledger.events[k]
        if event.what == _DEAL:
            batch.earned[b, event.row] += event.profit + event.swap - event.commission
    money.events = 0
    equity = ledgers.equity(ledger)
    growth = max(equity / before - 1.0, -_LOSS_MOST)
    rate = (math.log1p(growth) / growth if growth != 0.0 else 1.0) / before
    peak = max(batch.peak[b], equity)
    deeper = max((1.0 - equity / peak) - (1.0 - before / batch.peak[b]), 0.0)
    lost = 0.0
    for i in range(n):
        worth = batch.earned[b, i] + ledger.helds[i].value
        moved = worth - batch.worth[b, i]
        batch.worth[b, i] = worth
        batch.reward[b, i] = moved
        lost += max(-moved, 0.0)
    for i in range(n):
        moved = batch.reward[b, i]
        share = max(-moved, 0.0) / lost if lost > 0.0 else 0.0
        batch.reward[b, i] = moved * rate - weight * deeper * share
    batch.equity[b] = equity
    batch.peak[b] = peak


@compiled
def _arrive(
    market: Market, configs: Record, batch: Batch, b: int, ledger: Ledger, scratch: Scratch, same: Answered,
    weight: float,
) -> None:  # fmt: skip
    """Show an account its bar."""
    walk_bar(market, batch.bar[b], ledger)
    see_account(market, batch.bar[b], ledger, batch.account[b, 0])
    _reward(batch, b, ledger, weight)
    _look_ahead(market, configs, batch, b, ledger, scratch, same)


@compiled
def begin(
    market: Market, configs: Record, batch: Batch, which: np.ndarray, scratch: Scratch, same: Answered, weight: float
) -> None:
    """Show the accounts ``which`` (their numbers) their first bar."""
    for b in which:
        _arrive(market, configs, batch, b, _ledger(batch, b), scratch, same, weight)


@compiled
def advance(
    market: Market, configs: Record, batch: Batch, tape: Tape, size: np.ndarray, timing: np.ndarray, scratch: Scratch,
    same: Answered, weight: float,
) -> None:  # fmt: skip
    """Decide for every account at its bar's close with the agents' answers ``[b, n]``, ``[b, n, 3]``; show the next."""
    for b in range(batch.bar.shape[0]):
        ledger, t = _ledger(batch, b), batch.bar[b]
        inputs, out = batch.inputs[b], batch.out[b]
        _answer(inputs, size[b], timing[b])
        decide(
            configs, batch.table, inputs, batch.account[b], ledger.positions, batch.states[b], ledger.memory, out,
            ledger.money[0].open_count, market.returns[t + 1 : t + 1 + RETURNS_BARS],
        )  # fmt: skip
        tape.acted[0] = 0
        for i in range(inputs.shape[0]):
            if inputs[i].active:
                ledger.helds[i].atr = inputs[i].atr
                if out[i].action != _NONE:
                    place_order(t, i, batch.account[b, 0].time, ledger, out[i], tape)
        batch.bar[b] = t + 1
        _arrive(market, configs, batch, b, ledger, scratch, same, weight)


class Accounts:
    """Accounts that live through stretches of a history, all advanced by one compiled call.

    Attributes:
        history: what they trade.
        conditions: what they trade under.
        count: number of accounts, B.
        batch: their state.
    """

    def __init__(self, history: History, conditions: Conditions, count: int) -> None:
        _check(history, conditions.config)
        self.history, self.conditions, self.count = history, conditions, count
        self.symbols = n = len(history.instruments)
        self._configs = config_row(conditions.config)
        self._ledger, self._state = self._new_account()
        self.batch = self._new_batch()
        self._scratch = Scratch(self._state.rows.copy(), self._state.memory.copy(), np.zeros(n, DECISION))
        self._same = neutral(n)
        self._tape = _scratch_tape(n)
        self.last = np.zeros(count, dtype=np.int64)

    def reset(self, which: Int64, first: Int64, bars: int | Int64) -> None:
        """Let accounts begin anew.

        Args:
            which: numbers of the accounts, ``[k]``.
            first: the bar that each sees first.
            bars: how many bars each sees, at least 2; its last decision is at the last but one.
        """
        batch = self.batch
        for name in ("positions", "helds", "money", "open_rows"):
            getattr(batch, name)[which] = getattr(self._ledger, name)
        batch.states[which], batch.memory[which] = self._state.rows, self._state.memory
        for name in ("account", "out", "earned", "worth"):
            getattr(batch, name)[which] = np.zeros((), getattr(batch, name).dtype)
        batch.account["healthy"][which], batch.account["command"][which] = True, _RUN
        batch.equity[which] = batch.peak[which] = self.conditions.initial_balance
        batch.bar[which] = first
        self.last[which] = np.minimum(np.asarray(first) + np.asarray(bars), len(self.history.market.time)) - 1
        begin(
            self.history.market, self._configs, batch, which, self._scratch, self._same,
            self.conditions.drawdown_weight,
        )  # fmt: skip

    def advance(self, size: Float64, timing: Float64) -> Float64:
        """Take one bar with the agents' answers.

        Args:
            size: float64 ``[B, n]``; the coordinator has seen it (:meth:`coordinate`).
            timing: float64 ``[B, n, 3]``.

        Returns:
            rewards, float64 ``[B, n]``.

        Raises:
            DataError: an account is past its stretch: reset it first.
        """
        if (self.batch.bar >= self.last).any():
            raise DataError("an account is at the end of its stretch", mend="reset it")
        advance(
            self.history.market, self._configs, self.batch, self._tape, size, timing, self._scratch, self._same,
            self.conditions.drawdown_weight,
        )  # fmt: skip
        return self.batch.reward / self.conditions.unit

    def coordinate(self, size: Float64) -> Float64:
        """Return sizes ``[B, n]`` whose entries at hand, with what is open, risk no more than the limit together."""
        open_risk = self.batch.helds["risk"].sum(axis=1) / self.batch.equity
        return coordinated(size, self.batch.risk, np.maximum(self.conditions.wished_risk_max - open_risk, 0.0))

    @property
    def halted(self) -> NDArray[np.bool_]:
        """``[B]``: halted and flat."""
        return (self.batch.memory["stage"][:, 0] == _HALT) & (self.batch.money["open_count"][:, 0] == 0)

    def _new_account(self) -> tuple[Ledger, Any]:
        conditions, n = self.conditions, len(self.history.instruments)
        state = new_state(n, conditions.config.horizon_bars)
        cost = assumed_costs(conditions.config) if conditions.cost is None else conditions.cost
        ledger = new_ledger(
            self.history.instruments, cost, memory=state.memory, balance=conditions.initial_balance,
            leverage=conditions.leverage, account_currency=self.history.account_currency,
            events=_EVENTS_A_SYMBOL * (n + 1),
        )  # fmt: skip
        return ledger, state

    def _new_batch(self) -> Batch:
        ledger, n = self._ledger, self.symbols
        parts = {
            name: part if name in ("costs", "table", "legs") else np.repeat(part[None], self.count, axis=0)
            for name, part in ledger._asdict().items()
        }
        rows = (self.count, n)
        return Batch(
            **parts,
            states=np.repeat(self._state.rows[None], self.count, axis=0),
            account=np.zeros((self.count, 1), ACCOUNT),
            inputs=np.zeros(rows, self.history.market.inputs.dtype),
            out=np.zeros(rows, DECISION),
            bar=np.zeros(self.count, np.int64),
            earned=np.zeros(rows), worth=np.zeros(rows), equity=np.zeros(self.count), peak=np.zeros(self.count),
            at_hand=np.zeros(rows, np.bool_), risk=np.zeros(rows), side=np.zeros(rows, np.int8), reward=np.zeros(rows),
        )  # fmt: skip


def _scratch_tape(n: int) -> Tape:
    """Return a tape that is written over at every bar."""
    counts = np.zeros(64, dtype=np.int64)
    return Tape(
        curve=np.zeros(0, dtype=np.dtype([("equity", np.float64)], align=True)), acts=np.zeros(n, dtype=DECISION),
        places=np.zeros((n, 2), dtype=np.int64), acted=np.zeros(1, dtype=np.int64), levels=counts, reasons=counts,
        breakers=counts,
    )  # fmt: skip


def _check(history: History, config: StepConfig) -> None:
    if len(history.market.time) < 2:
        raise DataError("agents cannot learn on less than two bars", mend="prepare a longer history")
    wanted = config.simple_models + config.deep_models + int(config.meta)
    given = history.market.inputs["p_up"].shape[2]
    if config.best_level < Level.TRADITIONAL and given < wanted:
        raise SettingsError(
            f"simple_models, deep_models and meta want {wanted} columns, predictions have {given}",
            mend="prepare the history with the columns of all models",
        )


@dataclass(frozen=True)
class Piece:
    """A history, and what agents see of its bars.

    Attributes:
        history: t bars of n symbols.
        seen: market part of the observation, float32 ``[t, n, K]``, out of fold; a bar with a NaN is left to the step
            alone.
    """

    history: History
    seen: Float32

    def __post_init__(self) -> None:
        shape = self.history.market.inputs.shape
        if self.seen.ndim != 3 or self.seen.shape[:2] != shape:
            raise DataError(
                f"observations {self.seen.shape} of {shape} bars", mend="pass one a bar and symbol: [t, n, K]"
            )

    @property
    def known(self) -> NDArray[np.bool_]:
        """``[t, n]``: bars that agents may answer."""
        return np.isfinite(self.seen).all(axis=2) & self.history.market.inputs["active"]

    def window(self, start: int | None = None, end: int | None = None) -> "Piece":
        """Return the part whose bars open in ``[start, end)``, ns UTC."""
        time = self.history.market.time
        first = 0 if start is None else int(np.searchsorted(time, start))
        last = len(time) if end is None else int(np.searchsorted(time, end))
        return Piece(self.history.window(start, end), self.seen[first:last])

    def filled(self, said: Answered) -> Answered:
        """Return answers ``[t, n]`` and ``[t, n, 3]`` with neutral ones where agents may not answer."""
        same = neutral(*said.size.shape)
        known = self.known
        return Answered(np.where(known, said.size, same.size), np.where(known[..., None], said.timing, same.timing))

    def answered(self, said: Answered) -> History:
        """Return the history with agents' answers in its inputs."""
        inputs = self.history.market.inputs.copy()
        inputs["size"], inputs["timing"] = self.filled(said)
        history = self.history
        return History(
            history.timeframe, history.instruments, history.account_currency, history.market._replace(inputs=inputs)
        )


class _Walkers:
    """Accounts on one piece with what the agents see; a walker is one symbol of one account."""

    def __init__(self, piece: Piece, conditions: Conditions, scaling: Scaling, count: int, bars: int) -> None:
        self.accounts = Accounts(piece.history, conditions, count)
        self.known = piece.known
        self.seen = np.where(self.known[..., None], scaling.apply(np.nan_to_num(piece.seen)), np.float32(0.0))
        self.bars = min(bars, len(piece.seen))
        same = neutral(*self.known.shape)
        self.size, self.timing = same.size, same.timing

    def reset(self, which: Int64, rng: np.random.Generator, *, staggered: bool = False) -> None:
        """Send accounts to random stretches; staggered: of random length, so that not all end at once."""
        first = rng.integers(0, len(self.seen) - self.bars + 1, len(which))
        bars = rng.integers(2, self.bars + 1, len(which)) if staggered else np.full(len(which), self.bars)
        self.accounts.reset(which, first, bars)

    def observe(self) -> Float32:
        """Return ``[B, n, K + 2]``."""
        batch = self.accounts.batch
        sides = np.stack([batch.side > 0, batch.side < 0], axis=2).astype(np.float32)
        return np.concatenate([self.seen[batch.bar], sides], axis=2)

    def step(self, agent: str, action: NDArray) -> tuple[Float64, NDArray[np.bool_]]:
        """Let one agent act (``[B, n]``) beside the other's answers; return rewards and where its action mattered."""
        batch = self.accounts.batch
        known = self.known[batch.bar]
        size, timing = self.size[batch.bar], self.timing[batch.bar]
        if agent == "timing":
            relevant = known & (batch.at_hand | (batch.side != 0))
            timing = _timing_of_actions(action, known)
        else:
            relevant = known & batch.at_hand & (timing[..., 0] >= 0.5)
            size = np.where(known, np.array(SIZES)[action], size)
        return self.accounts.advance(self.accounts.coordinate(size), timing), relevant


def _timing_of_actions(action: NDArray, known: NDArray[np.bool_]) -> Float64:
    """Return timing ``[B, n, 3]`` of actions out (0) and in (1); where not known, in."""
    inside = np.where(known, action, 1).astype(np.float64)
    return np.stack([inside, 1.0 - inside, 1.0 - inside], axis=-1)


def agent_environment(
    pieces: Sequence[Piece], conditions: Conditions, scaling: Scaling, agent: str, *, accounts: int, seed: int,
    bars: int = STRETCH_BARS,
) -> "VecEnv":  # fmt: skip
    """Return the environment of one agent: a stable-baselines3 ``VecEnv`` whose environments are the walkers.

    Observations are float32 ``[K + 2]``: the standardised market part, and whether the position is long, or short.
    ``relevant`` (bool, one a walker) tells whether the newest action could change anything: whether an entry was at
    hand, or, for the timing agent, a position open. ``answer(said)`` sets what the other agent says of each piece.

    Args:
        pieces: histories; accounts are spread over them.
        conditions: of all accounts.
        scaling: of the observations.
        agent: ``timing`` or ``sizing``.
        accounts: on each piece.
        seed: of the choice of stretches.
        bars: of an episode.
    """
    from gymnasium.spaces import Box, Discrete
    from stable_baselines3.common.vec_env import VecEnv

    groups = [_Walkers(piece, conditions, scaling, accounts, bars) for piece in pieces]
    sizes = [group.accounts.count * group.accounts.symbols for group in groups]
    cuts = np.cumsum(sizes)[:-1]
    width = groups[0].seen.shape[2] + SIDES

    class AgentEnvironment(VecEnv):
        """One agent in the market; the other one's answers are given."""

        render_mode = None

        def __init__(self) -> None:
            box = Box(-SEEN_MAX, SEEN_MAX, (width,), np.float32)
            super().__init__(int(sum(sizes)), box, Discrete(ACTIONS[agent]))
            self.relevant = np.zeros(self.num_envs, dtype=np.bool_)
            self._rng = np.random.default_rng(seed)
            self._actions: list[NDArray] = []
            self._quiet: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]

        def answer(self, said: Sequence[Answered]) -> None:
            for group, item, piece in zip(groups, said, pieces, strict=True):
                group.size, group.timing = piece.filled(item)

        def reset(self) -> Float32:
            for group in groups:
                group.reset(np.arange(group.accounts.count), self._rng, staggered=True)
            return self._observe()

        def step_async(self, actions: NDArray) -> None:
            self._actions = np.split(actions, cuts)

        def step_wait(self) -> tuple[Float32, Float32, NDArray[np.bool_], list[dict[str, Any]]]:
            rewards, relevant = [], []
            for group, action in zip(groups, self._actions, strict=True):
                shape = group.accounts.count, group.accounts.symbols
                reward, own = group.step(agent, action.reshape(shape))
                rewards.append(reward.ravel())
                relevant.append(own.ravel())
            self.relevant = np.concatenate(relevant)
            done, infos = self._end()
            return self._observe(), np.concatenate(rewards).astype(np.float32), done, infos

        def _observe(self) -> Float32:
            return np.concatenate([group.observe().reshape(-1, width) for group in groups])

        def _end(self) -> tuple[NDArray[np.bool_], list[dict[str, Any]]]:
            """Let accounts at their end begin anew; return whose walkers that concerns."""
            ended, halted = [], []
            for group in groups:
                own = group.accounts
                ended.append((own.batch.bar >= own.last) | own.halted)
                halted.append(np.repeat(own.halted, own.symbols))
            done = np.concatenate(
                [np.repeat(end, group.accounts.symbols) for end, group in zip(ended, groups, strict=True)]
            )
            if not done.any():
                return done, self._quiet
            infos, seen = [dict[str, Any]() for _ in range(self.num_envs)], self._observe()
            for walker in np.flatnonzero(done & ~np.concatenate(halted)):
                infos[walker] = {"terminal_observation": seen[walker], "TimeLimit.truncated": True}
            for group, end in zip(groups, ended, strict=True):
                if end.any():
                    group.reset(np.flatnonzero(end), self._rng)
            return done, infos

        def close(self) -> None:
            """Nothing is held outside of memory."""

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(self, attr_name) for _ in self._get_indices(indices)]

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError("all walkers are one environment")

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [getattr(self, method_name)(*args, **kwargs) for _ in self._get_indices(indices)]

        def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
            return [isinstance(self, wrapper_class) for _ in self._get_indices(indices)]

    return AgentEnvironment()


def trading_environment(
    piece: Piece, conditions: Conditions, *, scaling: Scaling | None = None, bars: int = STRETCH_BARS
) -> "gymnasium.Env":
    """Return one account as a plain ``gymnasium.Env`` in which both agents act for all n symbols.

    The observation is float32 ``[n × (K + 2)]``, the action ``MultiDiscrete``: out or in for each symbol, then the
    place in :data:`fx_dagster.models.ppo.SIZES` for each. The reward is the account's. ``info`` has ``equity``, ``bar``
    (its number in the history) and ``halted``. ``reset(options={"first": bar})`` chooses the stretch.

    Args:
        piece: the market.
        conditions: of the account.
        scaling: of the observations; None: measured on the piece.
        bars: of an episode.
    """
    import gymnasium
    from gymnasium.spaces import Box, MultiDiscrete

    scaling = Scaling.of(piece.seen) if scaling is None else scaling
    group = _Walkers(piece, conditions, scaling, 1, bars)
    own, n = group.accounts, group.accounts.symbols

    class TradingEnvironment(gymnasium.Env[Float32, NDArray[np.int64]]):
        """One account."""

        def __init__(self) -> None:
            shape = (n * (group.seen.shape[2] + SIDES),)
            self.observation_space = Box(-SEEN_MAX, SEEN_MAX, shape, np.float32)
            self.action_space = MultiDiscrete([ACTIONS["timing"]] * n + [len(SIZES)] * n)

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Float32, dict[str, Any]]:
            super().reset(seed=seed)
            which, first = np.zeros(1, dtype=np.int64), (options or {}).get("first")
            if first is None:
                group.reset(which, self.np_random)
            else:
                own.reset(which, np.array([first]), group.bars)
            return group.observe().ravel(), self._info()

        def step(self, action: NDArray[np.int64]) -> tuple[Float32, float, bool, bool, dict[str, Any]]:
            known = group.known[own.batch.bar]
            inside, places = np.asarray(action)[None, :n], np.asarray(action)[None, n:]
            size = np.where(known, np.array(SIZES)[places], 1.0)
            reward = own.advance(own.coordinate(size), _timing_of_actions(inside, known))
            ended, halted = bool(own.batch.bar[0] >= own.last[0]), bool(own.halted[0])
            return group.observe().ravel(), float(reward.sum()), halted, ended and not halted, self._info()

        def _info(self) -> dict[str, Any]:
            batch = own.batch
            return {"equity": float(batch.equity[0]), "bar": int(batch.bar[0]), "halted": bool(own.halted[0])}

    return TradingEnvironment()
