"""The agents learn what pays and leave what does not; the coordinator keeps what it promises."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fx_dagster.backtest.agents import COMPARED, AgentComparison, compare_agents, train_on
from fx_dagster.backtest.environment import Conditions, Piece
from fx_dagster.backtest.prepare import BAR, RETURNS_BARS, History, Market
from fx_dagster.backtest.replay import replay
from fx_dagster.decision.codes import Regime
from fx_dagster.decision.config import StepConfig, step_config
from fx_dagster.decision.inputs import trading_day
from fx_dagster.decision.rows import input_dtype
from fx_dagster.errors import DataError, SettingsError, TrainingError
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from fx_dagster.models.agents import AgentBudget, coordinated, standardised_among
from fx_dagster.models.answer import DIRECTIONS
from fx_dagster.models.ppo import PpoModel, neutral, observation_names
from fx_dagster.models.protocol import ModelSpec
from fx_dagster.settings import CostSettings, RiskSettings

FIRST = 1_704_664_800_000_000_000  # a Sunday, 22:00 UTC
FEATURES = ("return_1", "volatility_ratio")
TINY = AgentBudget(steps=24_000, turns=2, walkers=48, rollout=32, batch=512, bars=200, learning_rate=3e-3)
RUN_BARS = 24


def spec(seed: int = 7) -> ModelSpec:
    return ModelSpec(FEATURES, "0123456789abcdef", seed=seed, threads=1, symbols=("EURUSD",))


def listening() -> StepConfig:
    return step_config(RiskSettings(), CostSettings(), paper=True)


def piece(seed: int, *, drift: float, rows: int = 3_000) -> Piece:
    """Return a market in which every vote and model says up; the first feature tells where it really drifts."""
    rng, item = np.random.default_rng(seed), instrument("EURUSD")
    time = FIRST + np.arange(2 * rows, dtype=np.int64) * HOUR_NS
    time = time[item.session.is_open(time)][:rows]
    told = np.repeat(rng.choice([-1.0, 1.0], rows // RUN_BARS + 1), RUN_BARS)[:rows]
    # Told at a bar's close: the moves after it drift.
    moved = np.concatenate([[0.0], drift * told[:-1]]) + rng.normal(0.0, 6e-4, rows)
    close = 1.1 * np.exp(np.cumsum(moved))
    history = History(Timeframe.H1, (item,), "USD", _market(time, close, moved, rng))
    seen = np.zeros((rows, 1, len(observation_names(FEATURES))), dtype=np.float32)
    seen[:, 0, :7] = 0.6
    seen[:, 0, observation_names(FEATURES).index("return_1")] = told
    seen[:, 0, -2] = rng.normal(size=rows)
    return Piece(history, seen)


def _market(time: np.ndarray, close: np.ndarray, moved: np.ndarray, rng: np.random.Generator) -> Market:
    bars, inputs = np.zeros((len(close), 1), BAR), np.zeros((len(close), 1), input_dtype(len(DIRECTIONS)))
    opening = np.concatenate([close[:1], close[:-1]])
    reach = np.abs(rng.normal(0.0, 2e-4, (2, len(close))))
    for name, values in {
        "open": opening, "close": close, "high": np.maximum(opening, close) + reach[0],
        "low": np.minimum(opening, close) - reach[1], "spread": 1e-4,
    }.items():  # fmt: skip
        bars[name][:, 0] = values
    for name in inputs.dtype.names:
        if inputs[name].dtype == np.float64:
            inputs[name] = np.nan
    for name, value in {
        "active": True, "fresh": True, "market_open": True, "tradable": True, "bar_time": time[:, None],
        "version": np.arange(len(close))[:, None], "bid": close[:, None], "ask": close[:, None] + 1e-4, "atr": 9e-4,
        "volatility_short": 0.1, "volatility_long": 0.1, "spread_median": 1e-4, "votes": 0.5, "p_up": 0.8,
        "conversion": 1.0, "confidence": 0.6, "regime": int(Regime.BULL),
    }.items():  # fmt: skip
        inputs[name] = value
    close_time = time + HOUR_NS
    returns = np.concatenate([np.full((RETURNS_BARS, 1), np.nan), moved[:, None]])
    return Market(time, close_time, trading_day(close_time), bars, inputs, returns)


@cache
def train(seed: int, *, market: int = 1, drift: float = 3e-4, steps: int = TINY.steps) -> PpoModel:
    conditions = Conditions(listening())
    return train_on([piece(market, drift=drift)], conditions, spec(seed), budget=replace(TINY, steps=steps))


def growth(market: Piece, model: PpoModel | None) -> tuple[float, int]:
    """Return log growth of equity and the number of trades of a replay with the model's answers, or neutral ones."""
    said = neutral(*market.seen.shape[:2]) if model is None else model.policies.answer(market.seen)
    result = replay(market.answered(said), listening(), initial_balance=10_000.0, leverage=30.0)
    return float(np.log(result.equity["equity"].iloc[-1] / 10_000.0)), len(result.trades)


def told(market: Piece) -> np.ndarray:
    return market.seen[:, 0, observation_names(FEATURES).index("return_1")]


def test_they_enter_where_it_pays_and_wait_elsewhere():
    model, unseen = train(7), piece(2, drift=3e-4)
    said, up = model.policies.answer(unseen.seen), told(unseen) > 0
    assert np.mean(said.timing[up, 0, 0] > 0.5) > 0.9
    assert np.mean(said.timing[~up, 0, 0] < 0.5) > 0.9
    assert said.timing[~up, 0, 1].mean() > said.timing[up, 0, 1].mean() + 0.3
    assert said.size[up].mean() > said.size[~up].mean()
    (mine, trades), (alone, _) = growth(unseen, model), growth(unseen, None)
    assert trades > 20
    assert mine > alone + 0.1


def test_where_nothing_pays_they_lose_less():
    """A random walk with costs: the less is traded, the better."""
    model, unseen = train(7, market=3, drift=0.0), piece(4, drift=0.0)
    (mine, trades), (alone, usual) = growth(unseen, model), growth(unseen, None)
    assert alone < 0
    assert mine > alone
    assert trades < usual
    assert model.policies.answer(unseen.seen).size.mean() < 0.9


def test_their_rewards_rise():
    for name in ("reward_curve_timing", "reward_curve_sizing"):
        curve = np.array(train(7).card().metrics[name])
        assert len(curve) > 10
        assert np.isfinite(curve).all()
    curve = np.array(train(7).card().metrics["reward_curve_timing"])
    assert curve[-4:].mean() > curve[:4].mean() + 0.02


def test_the_same_seed_makes_the_same_agents():
    def trained(seed: int) -> bytes:
        market = piece(1, drift=3e-4, rows=600)
        return train_on([market], Conditions(listening()), spec(seed), budget=replace(TINY, steps=3_000)).to_onnx()

    assert trained(7) == trained(7)
    assert trained(7) != trained(8)


def test_two_pieces_are_learned_on_together():
    pieces = [piece(seed, drift=3e-4, rows=500) for seed in (1, 2)]
    model = train_on(pieces, Conditions(listening()), spec(), budget=replace(TINY, steps=3_000))
    card = model.card()
    assert card.rows == 1_000
    assert 0.4 < card.up_share < 0.6
    assert card.parameters["trained_until"] == pieces[0].history.market.close_time[-1]
    json.dumps(card.to_dict(), allow_nan=False)


def test_impossible_trainings():
    unknown = piece(1, drift=0.0, rows=100)
    unknown.seen[:] = np.nan
    with pytest.raises(TrainingError, match="whole observation"):
        train_on([unknown], Conditions(listening()), spec(), budget=TINY)
    with pytest.raises(DataError, match="history"):
        train_on([], Conditions(listening()), spec(), budget=TINY)
    with pytest.raises(SettingsError, match="turns"):
        replace(TINY, turns=0)
    with pytest.raises(SettingsError, match="bars"):
        replace(TINY, bars=1)


@pytest.fixture(scope="module")
def later() -> Piece:
    """Bars after those that agents have learned on."""
    market = piece(2, drift=3e-4, rows=4_500)
    return market.window(train(7).card().parameters["trained_until"])


@pytest.fixture(scope="module")
def compared(later: Piece) -> AgentComparison:
    return compare_agents(later, [train(seed, steps=8_000) for seed in range(5)], Conditions(listening()), samples=400)


def test_agents_that_know_more_are_found_better(compared):
    assert compared.better
    assert 0 < compared.low < compared.difference < compared.high
    assert compared.verdict.startswith("The agents earn more than fixed fractional sizing")
    assert "5 of 5 seeds" in compared.verdict


def test_a_comparison_tells_each_seed(compared, later):
    frame = compared.to_frame()
    assert frame["seed"].tolist() == [0, 1, 2, 3, 4]
    for name in COMPARED:
        assert frame[f"fixed_{name}"].nunique() == 1
    model = train(3, steps=8_000)
    np.testing.assert_allclose(np.log1p(frame["net_return"][3]), growth(later, model)[0])
    np.testing.assert_allclose(np.log1p(frame["fixed_net_return"][0]), growth(later, None)[0])
    years = compared.days / 252
    np.testing.assert_allclose(
        frame["difference"] * years, np.log1p(frame["net_return"]) - np.log1p(frame["fixed_net_return"])
    )
    assert compared.difference == pytest.approx(frame["difference"].mean())
    plain = json.loads(json.dumps(compared.to_dict(), allow_nan=False))
    assert plain["verdict"] == compared.verdict
    assert len(plain["seeds"]) == 5


def test_agents_without_an_edge_cannot_be_told_apart(later):
    """What agents learned where a told drift means nothing is held against a walk without any."""
    later = piece(5, drift=0.0, rows=4_500).window(int(later.history.market.time[0]))
    models = [train(seed, market=3, drift=0.0, steps=1_600) for seed in range(5)]
    found = compare_agents(later, models, Conditions(listening()), samples=400)
    assert found.low < found.difference < found.high
    assert found.better == (found.low > 0)
    assert ("cannot be told" in found.verdict) == (found.low <= 0 <= found.high)


def test_an_imagined_person_resumes_both_sides(later):
    models = [train(seed, market=3, drift=0.0, steps=1_600) for seed in range(5)]
    tight = step_config(
        RiskSettings(drawdown_reduce=0.004, drawdown_halve=0.006, drawdown_close_only=0.008, drawdown_halt=0.01),
        CostSettings(), paper=True,
    )  # fmt: skip
    never, soon = (
        compare_agents(later, models, Conditions(tight), samples=10, resume_after_hours=hours) for hours in (0.0, 24.0)
    )
    assert soon.fixed["trades"] > never.fixed["trades"]
    assert all(b.agents["trades"] > a.agents["trades"] for a, b in zip(never.seeds, soon.seeds, strict=True))


def test_impossible_comparisons(later):
    models = [train(seed, steps=8_000) for seed in range(5)]
    conditions = Conditions(listening())
    with pytest.raises(SettingsError, match="seeds"):
        compare_agents(later, models[:4], conditions)
    with pytest.raises(SettingsError, match="seeds"):
        compare_agents(later, [*models, models[0]], conditions)
    with pytest.raises(DataError, match="learned on"):
        compare_agents(piece(1, drift=0.0), models, conditions)
    with pytest.raises(DataError, match="days are compared"):
        compare_agents(later.window(None, int(later.history.market.time[200])), models, conditions)


SHARES = st.floats(0.0, 1.5, allow_subnormal=False)
RISKS = st.floats(0.0, 0.1)


WISHES = st.integers(1, 12).flatmap(
    lambda n: st.tuples(arrays(float, n, elements=SHARES), arrays(float, n, elements=RISKS))
)


@given(WISHES, st.floats(0.0, 0.2), st.randoms(use_true_random=False))
def test_the_coordinator_keeps_its_promises(wishes, limit, random):
    size, risk = wishes
    found = coordinated(size, risk, limit)
    assert (found >= 0).all()
    assert (found <= size).all()
    assert np.sort(found * risk).sum() <= limit
    if np.sort(size * risk).sum() <= limit:
        np.testing.assert_array_equal(found, size)
    np.testing.assert_array_equal(found[risk == 0], size[risk == 0])
    order = list(range(len(size)))
    random.shuffle(order)
    np.testing.assert_array_equal(coordinated(size[order], risk[order], limit), found[order])


def test_the_coordinator_wastes_no_room_and_treats_all_alike():
    size, risk = np.array([[1.0, 1.5, 0.5], [1.0, 1.0, 1.0]]), np.array([[0.02, 0.02, 0.0], [0.001, 0.002, 0.003]])
    found = coordinated(size, risk, np.array([0.03, 0.03]))
    np.testing.assert_allclose(found, [[0.6, 0.9, 0.5], [1.0, 1.0, 1.0]], rtol=1e-12)


def test_advantages_count_where_an_action_mattered():
    rng = np.random.default_rng(1)
    values, relevant = rng.normal(3.0, 2.0, (40, 5)).astype(np.float32), rng.random((40, 5)) < 0.5
    found = standardised_among(values, relevant)
    assert (found[~relevant] == 0).all()
    weight = values.size / relevant.sum()
    assert found[relevant].mean() == pytest.approx(0.0, abs=1e-5)
    assert found[relevant].std() == pytest.approx(weight, rel=1e-5)
    assert (standardised_among(values, np.zeros_like(relevant)) == 0).all()
