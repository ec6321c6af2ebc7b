"""The environment is the replay: the same account to the last bit, one bar at a time and many at once."""

import numpy as np
import pytest

from fx_dagster.backtest.environment import (
    Accounts,
    Conditions,
    Piece,
    agent_environment,
    trading_environment,
)
from fx_dagster.backtest.prepare import History
from fx_dagster.backtest.replay import replay
from fx_dagster.decision.codes import Regime, Stage
from fx_dagster.decision.config import step_config
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.models.ppo import SIZES, Answered, Scaling, neutral
from fx_dagster.settings import CostSettings, RiskSettings

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY")
SEEN = 6


def told(history: History, seed: int = 1) -> History:
    """Return the history with everything that the full level needs: models that know a little, regime, confidence."""
    rng, inputs = np.random.default_rng(seed), history.market.inputs.copy()
    close = history.market.bars["close"]
    future = np.sign(np.concatenate([close[12:], close[-12:]]) - close)
    p_up = np.clip(0.5 + 0.1 * future[..., None] + rng.normal(0, 0.1, inputs["p_up"].shape), 0.01, 0.99)
    inputs["p_up"], inputs["confidence"], inputs["regime"] = p_up, 0.6, int(Regime.BULL)
    inputs["votes"][..., -1] = 0.1 * future
    return History(
        history.timeframe, history.instruments, history.account_currency, history.market._replace(inputs=inputs)
    )


@pytest.fixture(scope="module")
def history(make_history) -> History:
    made = told(make_history(*SYMBOLS, rows=1_000, models=False))
    return made.window(int(made.market.time[300]))


@pytest.fixture(scope="module")
def piece(history: History) -> Piece:
    shape = (*history.market.inputs.shape, SEEN)
    return Piece(history, np.random.default_rng(2).standard_normal(shape).astype(np.float32))


def conditions(*, agents: bool = True, cost: dict | None = None, **risk) -> Conditions:
    config = step_config(RiskSettings(**risk), CostSettings(**(cost or {})), paper=True, agents=agents)
    return Conditions(config)


def replayed(history: History, **changes):
    config = step_config(RiskSettings(), CostSettings(), paper=True, agents=changes.get("agents", True))
    return replay(history, config, initial_balance=10_000.0, leverage=30.0)


def walked(accounts: Accounts, said: Answered) -> tuple[np.ndarray, np.ndarray]:
    """Walk all accounts over the history with answers ``[t, n]``; return equity ``[t, B]`` and rewards ``[t-1, B]``."""
    rows, count = len(accounts.history.market.time), accounts.count
    accounts.reset(np.arange(count), np.zeros(count, dtype=np.int64), rows)
    equity, rewards = [accounts.batch.equity.copy()], []
    for t in range(rows - 1):
        one = Answered(said.size[[t] * count], said.timing[[t] * count])
        rewards.append(accounts.advance(one.size, one.timing).sum(axis=1))
        equity.append(accounts.batch.equity.copy())
    return np.array(equity), np.array(rewards)


def drawn(piece: Piece, seed: int = 3) -> Answered:
    """Return answers at random."""
    rng, shape = np.random.default_rng(seed), piece.seen.shape[:2]
    return Answered(rng.choice(SIZES, shape), rng.random((*shape, 3)) ** np.array([1.0, 3.0, 3.0]))


def test_neutral_answers_give_the_replays_equity_bit_for_bit(history):
    equity, _ = walked(Accounts(history, conditions(), 2), neutral(*history.market.inputs.shape))
    expected = replayed(history, agents=False)
    assert len(expected.trades) > 30
    assert expected.counts["level"]["1"] > 0
    for account in equity.T:
        np.testing.assert_array_equal(account, expected.equity["equity"].to_numpy())


def test_any_answers_give_the_replays_equity_bit_for_bit(piece):
    said = drawn(piece)
    equity, _ = walked(Accounts(piece.history, conditions(), 1), said)
    expected = replayed(piece.answered(said))
    assert (expected.equity["equity"] != replayed(piece.history).equity["equity"]).any()
    np.testing.assert_array_equal(equity[:, 0], expected.equity["equity"].to_numpy())


def test_one_of_many_accounts_is_as_alone(piece):
    said, first = drawn(piece), np.array([0, 50, 120])
    many = Accounts(piece.history, conditions(), 3)
    many.reset(np.arange(3), first, 200)
    together = []
    for t in range(199):
        many.advance(said.size[first + t], said.timing[first + t])
        together.append(many.batch.equity.copy())
    for row, begin in enumerate(first):
        alone = Accounts(piece.history, conditions(), 1)
        alone.reset(np.zeros(1, dtype=np.int64), np.array([begin]), 200)
        for t in range(199):
            alone.advance(said.size[[begin + t]], said.timing[[begin + t]])
            assert alone.batch.equity[0] == together[t][row]


def test_rewards_are_growth_less_deeper_drawdowns(piece):
    said, own = drawn(piece), conditions()
    equity, rewards = walked(Accounts(piece.history, own, 1), said)
    growth = np.diff(np.log(equity[:, 0]))
    fall = 1.0 - equity[:, 0] / np.maximum.accumulate(equity[:, 0])
    expected = growth - own.drawdown_weight * np.maximum(np.diff(fall), 0.0)
    np.testing.assert_allclose(rewards[:, 0] * own.unit, expected, atol=1e-12)
    assert fall.max() > 0


def test_what_symbols_have_earned_is_the_accounts_gain(piece):
    accounts = Accounts(piece.history, conditions(), 1)
    equity, _ = walked(accounts, drawn(piece))
    gains = accounts.batch.worth[0]
    assert gains.sum() == pytest.approx(equity[-1, 0] - 10_000.0, abs=1e-6)
    trades = replayed(piece.answered(drawn(piece))).trades
    for row, symbol in enumerate(SYMBOLS):
        closed = trades.loc[trades["symbol"] == symbol, "profit"].sum()
        lots = accounts.batch.positions["lots"][0, row]
        open_part = accounts.batch.helds["value"][0, row] - accounts.batch.helds["commission"][0, row]
        assert gains[row] == pytest.approx(closed + (open_part if lots else 0.0), abs=1e-6)


def test_what_is_at_hand_is_what_neutral_answers_enter(piece):
    """Predicted on copies at the bar's close, before anything is answered."""
    accounts = Accounts(piece.history, conditions(), 1)
    same = neutral(1, len(SYMBOLS))
    accounts.reset(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), len(piece.seen))
    entered = 0
    for _ in range(300):
        expected, risk = accounts.batch.at_hand[0].copy(), accounts.batch.risk[0].copy()
        equity = accounts.batch.equity[0]
        accounts.advance(same.size, same.timing)
        opened = accounts.batch.out["action"][0] == 1
        np.testing.assert_array_equal(opened, expected)
        np.testing.assert_array_equal(risk, np.where(opened, accounts.batch.out["risk_money"][0] / equity, 0.0))
        entered += opened.sum()
    assert entered > 10


def test_the_coordinator_sees_what_is_open(piece):
    accounts = Accounts(piece.history, conditions(), 2)
    accounts.reset(np.arange(2), np.zeros(2, dtype=np.int64), 100)
    batch, size = accounts.batch, np.full((2, len(SYMBOLS)), 1.5)
    batch.risk[:] = 0.01
    batch.helds["risk"][0] = 0.005 * batch.equity[0]
    found = accounts.coordinate(size)
    limit = accounts.conditions.wished_risk_max
    assert (found * batch.risk)[0].sum() == pytest.approx(limit - 0.015)
    assert (found * batch.risk)[1].sum() == pytest.approx(limit)


def test_gymnasium_accepts_the_environment(piece):
    from gymnasium.utils.env_checker import check_env

    check_env(trading_environment(piece, conditions(), bars=64), skip_render_check=True)


def test_the_plain_environment_is_the_replay_too(piece):
    environment = trading_environment(piece, conditions(), bars=10_000)
    seen, info = environment.reset(seed=1, options={"first": 0})
    assert seen.shape == (len(SYMBOLS) * (SEEN + 2),)
    equity, rewards, ended = [info["equity"]], [], False
    inside = np.array([1] * len(SYMBOLS) + [SIZES.index(1.0)] * len(SYMBOLS))
    while not ended:
        seen, reward, halted, ended, info = environment.step(inside)
        assert environment.observation_space.contains(seen)
        assert not halted
        equity.append(info["equity"])
        rewards.append(reward)
    expected = replayed(piece.history, agents=False).equity["equity"].to_numpy()
    np.testing.assert_array_equal(equity, expected)
    assert info["bar"] == len(expected) - 1


def test_out_means_out(piece):
    environment = trading_environment(piece, conditions(), bars=200)
    _, info = environment.reset(options={"first": 0})
    out = np.zeros(2 * len(SYMBOLS), dtype=np.int64)
    for _ in range(199):
        _, reward, _, _, info = environment.step(out)
        assert reward == 0.0
    assert info["equity"] == 10_000.0


def test_a_position_is_left_when_the_agent_says_so(piece):
    environment = trading_environment(piece, conditions(), bars=300)
    seen, info = environment.reset(options={"first": 0})
    sides = np.arange(len(SYMBOLS))[:, None] * (SEEN + 2) + [[SEEN, SEEN + 1]]
    held = 0
    for _ in range(299):
        inside = (seen[sides].sum(axis=1) == 0).astype(int)
        # At the last close of a week nothing can be left any more.
        open_now = piece.history.market.inputs["market_open"][info["bar"]]
        before = (seen[sides].sum(axis=1) > 0) & open_now
        action = np.concatenate([inside, np.full(len(SYMBOLS), SIZES.index(1.0))])
        seen, *_, info = environment.step(action)
        held += before.sum()
        assert not (before & (seen[sides].sum(axis=1) > 0)).any()
    assert held > 5


def test_unknown_bars_are_left_to_the_step(piece):
    unknown = Piece(piece.history, np.full_like(piece.seen, np.nan))
    unknown.seen[-1] = 0.0
    environment = trading_environment(unknown, conditions(), bars=10_000)
    _, info = environment.reset(options={"first": 0})
    equity, ended = [info["equity"]], False
    while not ended:
        _, _, _, ended, info = environment.step(environment.action_space.sample())
        equity.append(info["equity"])
    np.testing.assert_array_equal(equity, replayed(piece.history, agents=False).equity["equity"].to_numpy())
    said = drawn(piece)
    np.testing.assert_array_equal(unknown.answered(said).market.inputs["size"][:-1], 1.0)
    assert (unknown.filled(said).timing[:-1] == [1.0, 0.0, 0.0]).all()


def test_a_halted_account_ends(piece):
    limits = {"drawdown_reduce": 2e-4, "drawdown_halve": 3e-4, "drawdown_close_only": 4e-4, "drawdown_halt": 5e-4}
    environment = trading_environment(piece, conditions(cost={"commission_per_lot": 40.0}, **limits), bars=10_000)
    environment.reset(options={"first": 0})
    inside = np.array([1] * len(SYMBOLS) + [SIZES.index(1.0)] * len(SYMBOLS))
    for _ in range(len(piece.seen)):
        _, _, halted, ended, info = environment.step(inside)
        if halted or ended:
            break
    assert halted
    assert not ended
    assert info["halted"]
    assert info["equity"] <= 10_000.0 * (1 - 5e-4)


@pytest.mark.parametrize("agent", ["timing", "sizing"])
def test_walkers_begin_anew_at_their_end(piece, agent):
    """Accounts of several pieces end at different times; a stretch's end is no end of the market."""
    pieces = [piece.window(None, int(piece.history.market.time[200])), piece]
    environment = agent_environment(pieces, conditions(), Scaling.of(piece.seen), agent, accounts=4, seed=5, bars=40)
    assert environment.num_envs == 2 * 4 * len(SYMBOLS)
    seen, rng, ends = environment.reset(), np.random.default_rng(1), []
    relevant = 0
    for step in range(150):
        seen, reward, done, infos = environment.step(rng.integers(0, environment.action_space.n, environment.num_envs))
        assert seen.shape == (environment.num_envs, SEEN + 2)
        assert np.isfinite(reward).all()
        relevant += environment.relevant.sum()
        for walker in np.flatnonzero(done):
            assert infos[walker]["TimeLimit.truncated"]
            assert infos[walker]["terminal_observation"].shape == (SEEN + 2,)
            assert (seen[walker, SEEN:] == 0).all()
            ends.append(step)
    assert len(set(ends)) > 6
    assert 0 < relevant < 150 * environment.num_envs


def test_the_other_agents_answers_act(piece):
    """A timing that never enters leaves the sizing agent nothing to do."""
    environment = agent_environment(
        [piece], conditions(), Scaling.of(piece.seen), "sizing", accounts=4, seed=5, bars=100
    )
    said = neutral(*piece.seen.shape[:2])
    said.timing[..., 0] = 0.0
    environment.answer([said])
    environment.reset()
    for _ in range(60):
        _, reward, _, _ = environment.step(np.full(environment.num_envs, len(SIZES) - 1))
        assert (reward == 0).all()
        assert not environment.relevant.any()


def test_impossible_environments(piece, history):
    with pytest.raises(SettingsError, match="listen"):
        conditions(agents=False)
    with pytest.raises(SettingsError, match="drawdown_weight"):
        Conditions(conditions().config, drawdown_weight=-1.0)
    with pytest.raises(SettingsError, match="wished_risk_max"):
        Conditions(conditions().config, risk_max=float("nan"))
    with pytest.raises(DataError, match="observations"):
        Piece(history, piece.seen[:-1])
    with pytest.raises(DataError, match="two bars"):
        Accounts(history.window(None, int(history.market.time[1])), conditions(), 1)
    accounts = Accounts(history, conditions(), 1)
    accounts.reset(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 2)
    same = neutral(1, len(SYMBOLS))
    accounts.advance(same.size, same.timing)
    with pytest.raises(DataError, match="end of its stretch"):
        accounts.advance(same.size, same.timing)
    assert accounts.batch.memory["stage"][0, 0] == Stage.NORMAL
