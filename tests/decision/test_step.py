"""The step as a whole: what it decides, why, and what it must never do."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fx_dagster.decision.codes import Action, Breaker, Command, Level, Reason, Regime, Size, Stage
from fx_dagster.decision.config import traditional_control

from .conftest import CONFIDENCE, FULL, SIMPLE, fill_extras

ONCE = [HealthCheck.function_scoped_fixture]


def test_an_entry_is_sized_and_protected(bench):
    b = bench()
    out = b.decide()
    assert Action(out.action[0]) is Action.OPEN
    # Risk 0.25 % of 10,000 over 200 points and costs (4 points, $7): 25 / 211 lots, ×1 volatility, × 0.8 · 1.5 …
    kelly = 25.0 / (200 + 4 + 7)
    sizes = out.sizes[0]
    assert sizes[Size.KELLY] == pytest.approx(kelly)
    assert sizes[Size.VOLATILITY] == pytest.approx(kelly)
    score = 0.5 * 0.5 + 0.5 * 0.6
    assert out.score[0] == pytest.approx(score)
    assert out.confidence[0] == pytest.approx((1 + score) / 2)
    assert sizes[Size.CONFIDENCE] == pytest.approx(kelly * 1.5 * (1 + score) / 2)
    assert sizes[Size.ROUNDED] == 0.13
    assert out.target_lots[0] == 0.13
    assert (out.stop[0], out.target[0]) == (1.0981, 1.1031)
    assert out.risk_money[0] == pytest.approx(0.13 * 211)
    assert out.level[0] == Level.SIMPLE_AI
    assert b.reasons(out) == Reason.ENTER | Reason.EXPLORING | Reason.CORRELATION_ABSENT


def test_a_sell_is_the_mirror(bench):
    b = bench()
    b.inputs.votes[0], b.inputs.p_up[0] = -0.5, 0.2
    out = b.decide()
    assert out.target_lots[0] == -0.13
    assert (out.stop[0], out.target[0]) == (1.102, 1.097)


def test_gold_keeps_risk_margin_and_grid(bench):
    b = bench("XAUUSD", risk={"explore_risk": 0.01})
    b.inputs.atr[0] = 6.17
    out = b.decide()
    assert out.sizes[0, Size.RISK_CAP] <= 100.0 / 1234
    assert out.sizes[0, Size.ROUNDED] == min(math.floor(out.sizes[0, Size.MARGIN_CAP] * 100) / 100, 0.08)
    assert abs(out.stop[0] - b.inputs.ask[0]) == pytest.approx(12.34)


def test_a_hundred_dollars_do_not_trade(bench):
    b = bench()
    b.equity = b.balance = 100.0
    out = b.decide()
    assert out.action[0] == Action.NONE
    assert Reason.BELOW_MINIMUM_LOT in b.reasons(out)


def test_a_real_account_without_an_edge_does_not_trade(bench):
    b = bench(paper=False)
    out = b.decide()
    assert out.action[0] == Action.NONE
    assert Reason.NO_EDGE in b.reasons(out)
    assert out.sizes[0, Size.KELLY] == 0.0


def test_an_edge_is_traded_up_to_the_risk_limit(bench):
    b = bench(paper=False)
    for number in range(100):
        b.record_trade(-1.0 if number % 5 < 2 else 1.5, 1.0)
    out = b.decide()
    # 60 % wins at 1.5 to 1: full Kelly a third, a quarter of it, shrunk by 100 of 130 trades.
    assert out.kelly[0] == pytest.approx(0.25 / 3 * 100 / 130)
    assert out.sizes[0, Size.RISK_CAP] == pytest.approx(100.0 / 211)
    # Margin of an unknown regime: 5 % of equity at 30:1 is 15,000 of notional.
    assert out.sizes[0, Size.REGIME_CAP] == pytest.approx(15_000 / 110_010)
    assert out.target_lots[0] == 0.13
    assert Reason.EXPLORING not in b.reasons(out)


def test_regime_widens_the_limits_and_unknown_takes_the_tightest(bench):
    sizes, stops = [], []
    for regime in (0, 1, 2, 3, 4, 9):
        b = bench(risk={"explore_risk": 0.01}, models=FULL)
        fill_extras(b.inputs, 0, regime=regime)
        b.inputs.atr[0] = 0.05
        out = b.decide()
        assert out.regime[0] == (regime if regime < 5 else 0)
        assert out.level[0] == (1 if 0 < regime < 5 else 2)
        sizes.append(out.sizes[0, Size.REGIME_CAP] * b.inputs.ask[0] * 100_000 / 30 / 10_000)
        stops.append((b.inputs.ask[0] - out.stop[0]) / b.inputs.bid[0])
    assert stops == pytest.approx([0.01, 0.02, 0.015, 0.01, 0.025, 0.01], abs=2e-5)
    assert all(size <= limit + 1e-12 for size, limit in zip(sizes, (0.05, 0.15, 0.08, 0.05, 0.12, 0.05), strict=True))


def test_margin_of_one_row_counts_for_the_next(bench):
    b = bench("EURUSD", "GBPUSD", "AUDUSD", risk={"explore_risk": 0.01}, margin_used_max=0.06)
    out = b.decide()
    used = np.abs(out.target_lots) * 1.1001 * 100_000 / 30
    assert used.sum() <= 0.06 * 10_000
    assert used[0] > used[1]
    assert out.action[2] == Action.NONE


def test_below_the_full_level_the_limits_are_those_of_the_unknown_regime(bench):
    b = bench(risk={"explore_risk": 0.01}, models=FULL)
    fill_extras(b.inputs, 0, regime=Regime.BULL)
    b.inputs.p_up[0, 2] = np.nan
    out = b.decide()
    assert (out.level[0], out.regime[0]) == (Level.SIMPLE_AI, Regime.UNKNOWN)
    assert out.sizes[0, Size.REGIME_CAP] == pytest.approx(15_000 / 110_010)


def divided(b):
    """Votes and models at odds: the score still suffices, the validation does not (0.596)."""
    b.inputs.votes[0, :9], b.inputs.votes[0, 9:] = 0.6, -0.6
    b.inputs.p_up[0] = 0.6, 0.4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b.inputs.votes.__setitem__(0, 0.0) or b.inputs.p_up.__setitem__(0, 0.5), Reason.SCORE_LOW),
        (divided, Reason.NOT_VALID),
        (lambda b: b.inputs.tradable.__setitem__(0, False), Reason.NOT_TRADABLE),
        (lambda b: b.inputs.fresh.__setitem__(0, False), Reason.STALE),
        (lambda b: b.inputs.market_open.__setitem__(0, False), Reason.MARKET_CLOSED),
        (lambda b: b.inputs.atr.__setitem__(0, np.nan), Reason.STOP_IMPOSSIBLE),
        (lambda b: b.inputs.atr.__setitem__(0, 0.00004), Reason.STOP_IMPOSSIBLE),
        (lambda b: b.inputs.ask.__setitem__(0, 1.09), Reason.QUOTE_INVALID),
        (lambda b: b.inputs.bid.__setitem__(0, np.nan), Reason.QUOTE_INVALID),
        (lambda b: b.inputs.bid.__setitem__(0, -1.0), Reason.QUOTE_INVALID),
        (lambda b: b.positions.pending.__setitem__(0, True), Reason.ORDER_PENDING),
        (lambda b: setattr(b, "command", Command.CLOSE_ONLY), Reason.COMMANDED),
        (lambda b: setattr(b, "equity", math.nan), Reason.ACCOUNT_INVALID),
        (lambda b: setattr(b, "equity", -5.0), Reason.ACCOUNT_INVALID),
        (lambda b: setattr(b, "healthy", False), Reason.UNHEALTHY),
        (lambda b: b.inputs.ask.__setitem__(0, 1.1006), Reason.BREAKER_TRIPPED),
        (lambda b: b.inputs.volatility_short.__setitem__(0, 0.5), Reason.BREAKER_TRIPPED),
        (lambda b: b.inputs.correlation_shift.__setitem__(0, 0.9), Reason.BREAKER_TRIPPED),
    ],
)
def test_what_keeps_an_entry_away_is_named(bench, change, reason):
    b = bench()
    change(b)
    out = b.decide()
    assert out.action[0] == Action.NONE
    assert reason in b.reasons(out)


def test_one_entry_a_bar(bench):
    b = bench()
    assert b.decide().action[0] == Action.OPEN
    again = b.decide(bars=0, seconds=5)
    assert again.action[0] == Action.NONE
    assert Reason.BAR_USED in b.reasons(again)
    assert b.decide().action[0] == Action.OPEN


def test_inactive_rows_are_left_alone(bench):
    b = bench("EURUSD", "GBPUSD")
    b.inputs.active[1] = False
    out = b.decide()
    assert list(out.action) == [Action.OPEN, Action.NONE]
    assert out.level[1] == Level.UNSET


def test_a_lost_model_drops_the_level_in_that_very_decision(bench):
    b = bench()
    assert b.decide().level[0] == Level.SIMPLE_AI
    b.inputs.p_up[0, 1] = np.nan
    out = b.decide(bars=0, seconds=1)
    assert out.level[0] == Level.TRADITIONAL
    assert Reason.MODEL_ABSENT in b.reasons(out)
    assert out.score[0] == pytest.approx(0.5)
    assert out.signals[0, 1] == 0.0
    assert out.weights[0] == pytest.approx([1.0, 0.0, 0.0])
    b.inputs.p_up[0, 1] = 0.8
    assert b.decide(bars=0, seconds=2).level[0] == Level.TRADITIONAL
    assert b.decide(bars=0, seconds=61.9).level[0] == Level.TRADITIONAL
    assert b.decide(bars=0, seconds=62).level[0] == Level.SIMPLE_AI


def test_an_answer_out_of_range_is_discarded(bench):
    b = bench()
    b.inputs.p_up[0, 0] = 1.2
    out = b.decide()
    assert out.level[0] == Level.TRADITIONAL
    assert Reason.MODEL_OUT_OF_RANGE in b.reasons(out)


def test_the_control_ignores_the_models(bench):
    b, c = bench(), bench()
    c.configure(traditional_control(c.config))
    c.inputs.p_up[0] = 0.0
    ours, control = b.decide(), c.decide()
    assert ours.level[0] == Level.SIMPLE_AI
    assert control.level[0] == Level.TRADITIONAL
    assert control.score[0] == pytest.approx(0.5)
    assert Reason.MODEL_ABSENT not in c.reasons(control)


def full(bench, combine="hybrid", **risk):
    """A whole answer: two simple models at 0.8, two deep ones at 0.7, the meta model at 0.9; all votes at 0.5."""
    b = bench(risk={"combine": combine, **risk}, models=FULL)
    b.inputs.p_up[0] = 0.8, 0.8, 0.7, 0.7, 0.9
    fill_extras(b.inputs, 0, regime=Regime.HIGH_VOLATILITY)
    return b


@pytest.mark.parametrize(
    ("combine", "weights", "score"),
    [
        ("parallel", (0.5, 0.25, 0.25), 0.5 * 0.5 + 0.25 * 0.6 + 0.25 * 0.4),
        ("hierarchical", (0.0, 0.5, 0.5), 0.8),
        ("hybrid", (1 / 3, 1 / 3, 1 / 3), (0.5 + 0.6 + 0.4) / 3),
    ],
)
def test_full_ai_combines_three_paths(bench, combine, weights, score):
    b = full(bench, combine)
    out = b.decide()
    assert out.level[0] == Level.FULL_AI
    assert out.signals[0] == pytest.approx([0.5, 0.6, 0.4])
    assert out.weights[0] == pytest.approx(weights)
    assert out.score[0] == pytest.approx(score)
    assert out.confidence[0] == CONFIDENCE


@pytest.mark.parametrize("field", ["confidence", "regime", "attention"])
@pytest.mark.parametrize("answer", [np.nan, np.inf, 5.0, -1.01])
def test_level_one_needs_confidence_regime_and_attention(bench, field, answer):
    b = full(bench)
    if field == "attention":
        b.inputs.votes[0, 13] = answer
    elif field == "regime":
        b.inputs.regime[0] = 0 if not np.isfinite(answer) else int(answer)
    else:
        b.inputs.confidence[0] = answer
    out = b.decide()
    assert out.level[0] == Level.SIMPLE_AI
    assert Reason.MODEL_ABSENT in b.reasons(out)
    assert out.score[0] == pytest.approx(0.55)
    assert out.confidence[0] == pytest.approx(0.775)


def test_attention_is_one_vote_of_fourteen_at_the_full_level_alone(bench):
    b = full(bench)
    b.inputs.votes[0, 13] = -0.9
    out = b.decide()
    assert out.signals[0, 0] == pytest.approx((13 * 0.5 - 0.9) / 14)
    assert out.validation_parts[0, 0] == pytest.approx(6.5 / 7.4)
    # What is remembered of the path to judge it by is without the model.
    assert b.states["pending_signal"][0, 0, 0] == pytest.approx(0.5)
    b.inputs.p_up[0, 2] = np.nan
    out = b.decide()
    assert out.signals[0, 0] == pytest.approx(0.5)
    assert out.validation_parts[0, 0] == 1.0


@pytest.mark.parametrize(
    ("absent", "level"), [((), 1), ((2,), 2), ((3,), 2), ((4,), 2), ((2, 3, 4), 2), ((0,), 3), ((1, 4), 3)]
)
@pytest.mark.parametrize("answer", [np.nan, np.inf, 1.01, -0.01])
def test_the_level_is_the_best_that_the_answers_allow(bench, absent, level, answer):
    b = full(bench, "hierarchical")
    b.inputs.p_up[0, list(absent)] = answer
    out = b.decide()
    assert out.level[0] == out.observed_level[0] == level
    assert (Reason.MODEL_ABSENT in b.reasons(out)) == (level > 1)
    assert (Reason.MODEL_OUT_OF_RANGE in b.reasons(out)) == (level > 1 and not math.isnan(answer))
    # Below level 1 neither deep models nor meta model count, below level 2 no model.
    assert out.score[0] == pytest.approx({1: 0.8, 2: 0.6, 3: 0.5}[level])
    assert (out.signals[0] != 0.0).tolist() == [True, level < 3, level < 2]


def test_a_lost_deep_model_counts_again_after_a_minute(bench):
    b = full(bench)
    b.decide()
    b.inputs.p_up[0, 3] = np.nan
    assert b.decide(bars=0, seconds=1).level[0] == Level.SIMPLE_AI
    b.inputs.p_up[0, 3] = 0.7
    assert b.decide(bars=0, seconds=2).level[0] == Level.SIMPLE_AI
    assert b.decide(bars=0, seconds=61.999).level[0] == Level.SIMPLE_AI
    assert b.decide(bars=0, seconds=62).level[0] == Level.FULL_AI


def test_a_flickering_model_never_rises(bench):
    b = full(bench)
    b.inputs.p_up[0, 3] = np.nan
    b.decide()
    for second in range(1, 300):
        b.inputs.p_up[0, 3] = np.nan if second % 50 == 0 else 0.7
        assert b.decide(bars=0, seconds=second).level[0] == Level.SIMPLE_AI


@pytest.mark.parametrize(("confidence", "factor"), [(0.6, 0.9), (1.0, 1.5), (0.0, 0.0)])
def test_size_follows_the_calibrated_confidence(bench, confidence, factor):
    b = full(bench)
    b.inputs.confidence[0] = confidence
    out = b.decide()
    assert out.confidence[0] == confidence
    assert out.sizes[0, Size.CONFIDENCE] == pytest.approx(factor * out.sizes[0, Size.VOLATILITY])


def test_confidence_beyond_its_cap_is_cut(bench):
    b = full(bench)
    b.configure(b.config._replace(confidence_factor=3.0))
    b.inputs.confidence[0] = 0.9
    out = b.decide()
    assert out.sizes[0, Size.CONFIDENCE] == pytest.approx(2.0 * out.sizes[0, Size.VOLATILITY])


@pytest.mark.parametrize(("lost", "level", "score"), [(0, 3, 0.5), (2, 2, 0.55), (4, 2, 0.55)])
def test_without_models_their_confidence_does_not_count_either(bench, lost, level, score):
    b = full(bench)
    b.inputs.confidence[0] = 0.9
    b.inputs.p_up[0, lost] = np.nan
    out = b.decide()
    assert out.level[0] == level
    assert out.confidence[0] == pytest.approx((1 + score) / 2)


def test_validation_is_of_votes_models_and_the_other_symbols(bench):
    b = full(bench)
    b.inputs.votes[0, :3] = -0.5
    b.inputs.p_up[0] = 0.8, 0.8, 0.4, 0.7, 0.9
    b.inputs.agreement[0] = -0.2
    out = b.decide()
    votes, models, others = 11 / 14, 1.6 / 1.8, 0.4
    assert out.validation_parts[0] == pytest.approx([votes, models, others])
    assert out.validation[0] == pytest.approx(0.4 * votes + 0.4 * models + 0.2 * others)


def test_validation_must_be_above_its_limit_not_at_it(bench):
    entered = []
    for agreement in (0.0, 0.01):
        b = bench(risk={"entry_score_min": 0.0}, valid_above=0.9)
        b.inputs.agreement[0] = agreement
        out = b.decide()
        entered.append(out.action[0] == Action.OPEN)
        assert out.validation[0] == pytest.approx(0.8 + 0.2 * (1 + agreement) / 2)
    assert entered == [False, True]


def test_weights_follow_the_recent_log_loss_of_each_path(bench):
    b = full(bench, volatility_scale_min=0.25)
    b.inputs.votes[0], b.inputs.p_up[0, 2:4] = -0.5, 0.5
    before = b.decide().weights[0].copy()
    for bar in range(60):
        b.inputs.bid[0] = 1.1 + 0.0005 * bar
        b.inputs.ask[0] = b.inputs.bid[0] + 0.0001
        out = b.decide()
    loss = b.states["log_loss"][0]
    # Simple models were right, votes wrong, deep ones said nothing.
    assert loss[1] < loss[2] < loss[0]
    assert before == pytest.approx([1 / 3] * 3)
    expected = np.exp(-b.config.loss_sharpness * loss)
    assert out.weights[0] == pytest.approx(expected / expected.sum())


@pytest.mark.parametrize(
    ("drift", "weight", "level"),
    [(np.nan, 0.5, 2), (0.0, 0.5, 2), (0.3, 0.5, 2), (0.55, 1 / 3, 2), (0.8, 0.0, 3), (1.0, 0.0, 3), (np.inf, 0.0, 3)],
)
def test_drift_lowers_the_models_weight_and_then_the_level(bench, drift, weight, level):
    b = bench()
    b.inputs.drift[0] = drift
    out = b.decide()
    assert out.level[0] == level
    assert out.weights[0] == pytest.approx([1 - weight, weight, 0.0])
    assert (Reason.FEATURES_DRIFTED in b.reasons(out)) == (weight < 0.5)
    assert Reason.MODEL_ABSENT not in b.reasons(out)


def test_after_drift_the_models_count_again_after_a_minute(bench):
    b = bench()
    b.inputs.drift[0] = 0.9
    assert b.decide().level[0] == Level.TRADITIONAL
    b.inputs.drift[0] = 0.1
    out = b.decide(bars=0, seconds=1)
    assert out.level[0] == Level.TRADITIONAL
    assert Reason.FEATURES_DRIFTED not in b.reasons(out)
    assert b.decide(bars=0, seconds=61).level[0] == Level.SIMPLE_AI


def test_drift_is_nothing_to_the_control(bench):
    b = bench(best_level=int(Level.TRADITIONAL))
    b.inputs.drift[0] = 0.9
    assert Reason.FEATURES_DRIFTED not in b.reasons(b.decide())


def test_a_closed_market_is_no_outage(bench):
    b = bench()
    b.decide()
    b.inputs.market_open[0] = b.inputs.fresh[0] = False
    assert b.decide().level[0] == Level.SIMPLE_AI
    b.inputs.market_open[0] = b.inputs.fresh[0] = True
    assert b.decide().action[0] == Action.OPEN
    b.inputs.fresh[0] = False
    assert b.decide().level[0] == Level.EMERGENCY


def test_size_is_conservative_after_an_emergency(bench):
    b = bench()
    normal = b.decide().sizes[0, Size.DRAWDOWN]
    b.inputs.fresh[0] = False
    b.decide()
    b.inputs.fresh[0] = True
    b.decide(bars=0, seconds=1)
    after = b.decide(bars=0, seconds=62)
    assert after.level[0] == Level.SIMPLE_AI
    later = b.decide(seconds=30).sizes[0, Size.DRAWDOWN]
    assert later == pytest.approx(normal)


def test_size_is_halved_inside_the_hour_after_an_emergency(bench):
    b = bench()
    b.decide()
    b.inputs.fresh[0] = False
    b.decide(seconds=3_000)
    b.inputs.fresh[0] = True
    b.decide(bars=0, seconds=3_010)
    out = b.decide(seconds=600)
    assert out.action[0] == Action.OPEN
    assert out.sizes[0, Size.DRAWDOWN] == pytest.approx(0.5 * out.sizes[0, Size.CONFIDENCE])


def test_an_old_position_is_closed(bench):
    b = bench(risk={"hold_bars_max": 3})
    b.hold(0.1)
    assert [int(b.decide().action[0]) for _ in range(2)] == [Action.NONE] * 2
    out = b.decide()
    assert out.action[0] == Action.CLOSE
    assert out.target_lots[0] == 0.0
    assert Reason.EXIT_AGE in b.reasons(out)


def test_age_counts_bars_not_ticks(bench):
    b = bench(risk={"hold_bars_max": 3})
    b.hold(0.1)
    b.decide()
    assert all(b.decide(bars=0, seconds=s).action[0] == Action.NONE for s in range(1, 20))


def test_a_valid_opposite_signal_closes(bench):
    b = bench()
    b.hold(-0.1)
    out = b.decide()
    assert out.action[0] == Action.CLOSE
    assert Reason.EXIT_REVERSAL in b.reasons(out)
    b = bench()
    b.hold(-0.1)
    divided(b)
    assert b.decide().action[0] == Action.NONE


@pytest.mark.parametrize("fresh", [True, False])
def test_flatten_closes_even_on_stale_quotes(bench, fresh):
    b = bench()
    b.hold(0.1)
    b.command = Command.FLATTEN
    b.inputs.fresh[0] = fresh
    out = b.decide()
    assert out.action[0] == Action.CLOSE
    assert Reason.EXIT_FLATTEN in b.reasons(out)


def test_existing_positions_keep_their_stop_while_data_is_stale(bench):
    b = bench(risk={"hold_bars_max": 1})
    b.hold(0.1, stop=1.09)
    b.inputs.fresh[0] = False
    out = b.decide()
    assert out.action[0] == Action.NONE
    assert (out.target_lots[0], out.stop[0]) == (0.1, 1.09)


def test_stops_are_tightened_from_the_second_stage_and_only_towards_the_market(bench):
    b = bench()
    b.hold(0.1, stop=1.09)
    b.decide()
    b.equity = 9_450.0
    out = b.decide()
    assert out.action[0] == Action.MODIFY
    assert out.stop[0] == pytest.approx(1.1 - 0.75 * 0.002)
    b.hold(0.1, stop=1.0995)
    assert b.decide().action[0] == Action.NONE


@pytest.mark.parametrize(
    ("equity", "stage", "factor"),
    [
        (9_701, 0, 1.0), (9_699, 1, 0.75), (9_501, 1, 0.75), (9_499, 2, 0.5), (9_201, 2, 0.5), (9_199, 3, 0.0),
        (9_001, 3, 0.0), (8_999, 4, 0.0),
    ],
)  # fmt: skip
def test_drawdown_stages(bench, equity, stage, factor):
    b = bench(risk={"daily_loss_max": 1.0})
    b.decide()
    b.equity = float(equity)
    out = b.decide()
    assert out.stage[0] == stage
    if factor:
        assert out.sizes[0, Size.DRAWDOWN] == pytest.approx(factor * out.sizes[0, Size.CONFIDENCE])
    else:
        assert out.action[0] == Action.NONE
        assert Breaker.DRAWDOWN in Breaker(int(out.breakers[0]))


def test_halt_flattens_and_waits_for_a_person(bench):
    b = bench(risk={"daily_loss_max": 1.0})
    b.decide()
    b.equity = 8_900.0
    b.hold(0.1)
    out = b.decide()
    assert out.action[0] == Action.CLOSE
    assert Reason.HALTED in b.reasons(out)
    assert out.level[0] == Level.EMERGENCY
    b.hold(0.0)
    for _ in range(100):
        assert b.decide().stage[0] == Stage.HALT
    b.resume(8_900.0)
    b.decide()
    b.decide()
    assert b.decide().action[0] == Action.OPEN


def test_close_only_is_released_on_probation(bench):
    b = bench(risk={"daily_loss_max": 1.0})
    b.decide()
    b.equity = 9_190.0
    assert b.decide().stage[0] == Stage.CLOSE_ONLY
    assert [b.decide().stage[0] for _ in range(23)] == [Stage.CLOSE_ONLY] * 23
    assert b.decide().stage[0] == Stage.HALVE
    b.equity = 9_130.0
    assert b.decide().stage[0] == Stage.CLOSE_ONLY


def tripped(out):
    return Breaker(int(out.breakers[0]))


def test_daily_loss_breaker_lasts_its_hours(bench):
    b = bench(risk={"drawdown_reduce": 0.2, "drawdown_halve": 0.3, "drawdown_close_only": 0.4, "drawdown_halt": 0.5})
    b.decide(day=1)
    b.equity = 9_699.0
    assert tripped(b.decide(day=1)) == Breaker.DAILY_LOSS
    for _ in range(23):
        assert tripped(b.decide(day=2)) == Breaker.DAILY_LOSS
    assert tripped(b.decide(day=2)) == Breaker(0)


def test_loss_streak_breaker_counts_again_from_the_trip(bench):
    b = bench()
    for _ in range(5):
        b.record_trade(-1.0, 0.0)
    assert not tripped(b.decide())
    b.record_trade(-1.0, 0.0)
    assert tripped(b.decide()) == Breaker.LOSS_STREAK
    for _ in range(23):
        assert tripped(b.decide()) == Breaker.LOSS_STREAK
    assert not tripped(b.decide())
    for _ in range(5):
        b.record_trade(-1.0, 0.0)
    b.record_trade(1.0, 0.0)
    b.record_trade(-1.0, 0.0)
    assert not tripped(b.decide())


@pytest.mark.parametrize(
    ("field", "value", "breaker"),
    [("volatility_short", 0.41, Breaker.VOLATILITY_SPIKE), ("correlation_shift", 0.61, Breaker.CORRELATION_BREAKDOWN)],
)
def test_symbol_breakers_stay_for_their_hours(bench, field, value, breaker):
    b = bench("EURUSD", "GBPUSD")
    quiet = getattr(b.inputs, field)[0]
    getattr(b.inputs, field)[0] = value
    out = b.decide()
    assert tripped(out) == breaker
    assert out.breakers[1] == 0
    getattr(b.inputs, field)[0] = quiet
    for _ in range(23):
        assert tripped(b.decide()) == breaker
    assert not tripped(b.decide())


def test_spread_breaker_ends_with_the_spread(bench):
    b = bench()
    b.inputs.ask[0] = 1.1 + 0.00041
    assert tripped(b.decide()) == Breaker.SPREAD
    b.inputs.ask[0] = 1.1 + 0.00039
    assert not tripped(b.decide())


def test_health_breaker_needs_a_minute(bench):
    b = bench()
    b.healthy = False
    assert tripped(b.decide()) == Breaker.SYSTEM_HEALTH
    b.healthy = True
    assert tripped(b.decide(bars=0, seconds=59)) == Breaker.SYSTEM_HEALTH
    assert not tripped(b.decide(bars=0, seconds=61))


@settings(max_examples=60, deadline=None, suppress_health_check=ONCE)
@given(st.floats(0.0, 0.12), st.floats(0.0, 0.12))
def test_more_drawdown_never_allows_more_size(bench, one, other):
    sizes = []
    for drawdown in sorted((one, other)):
        b = bench(risk={"daily_loss_max": 1.0})
        b.decide()
        b.equity = 10_000.0 * (1 - drawdown)
        out = b.decide()
        sizes.append(out.target_lots[0] if out.action[0] == Action.OPEN else 0.0)
    assert sizes[1] <= sizes[0]


numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, -1.0, 1.1, 0.5, 1e300, 1e-300])
)


@settings(max_examples=250, deadline=None, suppress_health_check=ONCE)
@given(st.data())
def test_no_input_brings_a_nan_into_a_decision(bench, data):
    models = data.draw(st.sampled_from([SIMPLE, FULL]))
    b = bench(risk={"explore_risk": 0.01}, models=models)
    fill_extras(b.inputs, 0, regime=Regime.BULL)
    names = ("bid", "ask", "atr", "volatility_short", "volatility_long", "spread_median", "confidence", "agreement",
             "correlation_shift", "conversion", "size")  # fmt: skip
    b.decide()
    for _ in range(3):
        for name in data.draw(st.lists(st.sampled_from(names), max_size=4)):
            b.inputs[name][0] = data.draw(numbers)
        b.inputs.votes[0, data.draw(st.integers(0, 13))] = data.draw(numbers)
        b.inputs.timing[0, data.draw(st.integers(0, 2))] = data.draw(numbers)
        b.inputs.regime[0] = data.draw(st.integers(-128, 127))
        if data.draw(st.booleans()):
            b.inputs.p_up[0, data.draw(st.integers(0, b.inputs.p_up.shape[1] - 1))] = data.draw(numbers)
        if data.draw(st.booleans()):
            b.hold(data.draw(numbers), stop=data.draw(numbers), target=data.draw(numbers), entry=data.draw(numbers))
        if data.draw(st.booleans()):
            b.equity, b.margin_used = data.draw(numbers), data.draw(numbers)
        b.positions.foreign_lots[0] = data.draw(numbers)
        out = b.decide()
        for name in out.dtype.names:
            assert np.isfinite(out[name]).all(), name
        if out.action[0] == Action.OPEN:
            assert out.stop[0] > 0
            assert out.target[0] > 0
            assert abs(out.target_lots[0]) >= 0.01
            assert (out.stop[0] < b.inputs.ask[0]) == (out.target_lots[0] > 0)
    for name in b.memory.dtype.names:
        assert np.isfinite(b.memory[name]).all(), name
    assert np.isfinite(b.states["log_loss"]).all()


@settings(max_examples=100, deadline=None, suppress_health_check=ONCE)
@given(st.floats(100.0, 1e6), st.floats(0.0001, 0.02), st.floats(0.0, 0.01), st.floats(0.02, 0.5), st.floats(0.5, 1.0))
def test_no_limit_is_exceeded_by_rounding(bench, equity, atr, explore, volatility, confidence):
    b = bench(risk={"explore_risk": explore})
    b.equity = b.balance = equity
    b.inputs.atr[0], b.inputs.volatility_short[0], b.inputs.volatility_long[0] = atr, volatility, volatility
    b.inputs.confidence[0] = confidence
    out = b.decide()
    if out.action[0] != Action.OPEN:
        return
    lots = out.target_lots[0]
    assert lots <= out.sizes[0, Size.DRAWDOWN :].min()
    assert out.risk_money[0] <= equity * 0.01 * (1 + 1e-12)
    assert lots * b.inputs.ask[0] * 100_000 / 30 <= 0.05 * equity * (1 + 1e-12)
    assert b.inputs.ask[0] - out.stop[0] <= 0.01 * b.inputs.ask[0] + 0.5e-5
    assert round(lots * 100) / 100 == lots


def test_the_same_inputs_give_the_same_decisions_after_a_restart(bench):
    rng = np.random.default_rng(3)
    whole, half = bench("EURUSD", "XAUUSD"), bench("EURUSD", "XAUUSD")

    def play(b, tape):
        said = []
        for noise in tape:
            b.inputs.votes[:, :13] = noise[:13]
            b.inputs.p_up[:] = 0.5 + noise[13:15] / 4
            b.inputs.bid[0] = 1.1 + noise[15] / 1_000
            b.inputs.ask[0] = b.inputs.bid[0] + 0.0001
            b.equity = 10_000 + 150 * noise[16]
            b.record_trade(noise[17], 1.0)
            said.append(b.decide().tobytes())
        return said

    tape = rng.uniform(-1, 1, size=(80, 18))
    expected = play(whole, tape)
    first = play(half, tape[:40])
    other = bench("EURUSD", "XAUUSD")
    other.restore(half.snapshot())
    other.bar = half.bar
    assert first + play(other, tape[40:]) == expected
    assert whole.snapshot() == other.snapshot()
