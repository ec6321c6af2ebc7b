import numpy as np
import pandas as pd
import pytest

from fx_dagster.backtest.prepare import MODEL_COLUMNS, SymbolHistory, model_columns, prepare
from fx_dagster.decision.answers import take_answer
from fx_dagster.decision.rows import CLASSICAL
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from fx_dagster.models.answer import EXTRAS


def test_rows_say_what_was_known_at_the_close(make_history):
    history = make_history()
    market, row = history.market, 1_500
    inputs, bar = market.inputs[row, 0], market.bars[row, 0]
    assert market.close_time[row] == market.time[row] + HOUR_NS
    assert inputs["bid"] == bar["close"]
    assert inputs["ask"] == bar["close"] + bar["spread"]
    assert inputs["bar_time"] == market.time[row]
    assert np.isfinite([inputs["atr"], inputs["volatility_long"], inputs["spread_median"]]).all()
    assert np.isnan(inputs["agreement"])


def test_nothing_looks_ahead(make_bars, make_symbol_history):
    bars, others = make_bars("EURUSD", 1_400, 1), make_bars("GBPUSD", 1_400, 2)

    def known(rows):
        return prepare(
            {
                "EURUSD": make_symbol_history(bars[:rows], None),
                "GBPUSD": make_symbol_history(others[:rows], None),
            },
            Timeframe.H1,
        ).market

    whole, part = known(1_400), known(1_200)
    for name in part.inputs.dtype.names:
        np.testing.assert_array_equal(whole.inputs[name][:1_200], part.inputs[name], err_msg=name)
    assert np.isfinite(part.inputs["agreement"][-1]).all()


def test_indicators_that_warm_up_do_not_vote(make_history):
    votes = make_history().market.inputs["votes"][..., :CLASSICAL]
    assert np.isnan(votes[:150]).all()
    assert np.isfinite(votes[1_000:]).all()


def test_a_symbol_without_a_bar_is_inactive(make_history):
    market = make_history("EURUSD", "XAUUSD").market
    active = market.inputs["active"]
    only_euro = active[:, 0] & ~active[:, 1]
    assert only_euro.sum() > 50  # gold's daily break
    assert active.any(axis=1).all()
    assert np.isnan(market.bars["close"][~active[:, 1], 1]).all()


def test_orders_are_not_given_to_a_closed_market(make_history):
    market = make_history().market
    closes = pd.to_datetime(market.close_time, utc=True).tz_convert("America/New_York")
    friday_end = (closes.day_of_week == 4) & (closes.hour == 17)
    assert friday_end.any()
    assert not market.inputs["market_open"][friday_end, 0].any()
    assert market.inputs["market_open"][~friday_end, 0].mean() > 0.99


def test_a_window_keeps_what_was_computed_before(make_history):
    history = make_history()
    start = int(history.market.time[500])
    cut = history.window(start, int(history.market.time[600]))
    assert len(cut.market.time) == 100
    np.testing.assert_array_equal(cut.market.inputs["atr"], history.market.inputs["atr"][500:600])


def test_a_missing_prediction_is_nan(make_bars, make_symbol_history):
    bars = make_bars("EURUSD", 300, 1)
    said = pd.DataFrame(
        {"time": bars["time"][100:], "symbol": "EURUSD", "p_up_xgboost": 0.6, "p_up_random_forest": 0.4}
    )
    inputs = prepare({"EURUSD": make_symbol_history(bars, said)}, Timeframe.H1).market.inputs
    p_up = inputs["p_up"]
    assert np.isnan(p_up[:100]).all()
    # What the frame has no column of is absent: deep models, meta, and all that is said beside probabilities.
    np.testing.assert_array_equal(p_up[100, 0], [0.6, 0.4, np.nan, np.nan, np.nan])
    for name in ("confidence", "size", "timing"):
        assert np.isnan(inputs[name]).all()
    assert np.isnan(inputs["votes"][..., CLASSICAL]).all()
    assert not inputs["regime"].any()


def test_a_whole_answer_is_taken_as_the_live_session_takes_it(make_bars, make_symbol_history, make_predictions):
    bars = make_bars("EURUSD", 300, 1)
    said = make_predictions(bars, 3, whole=True)
    said.loc[::7, "confidence"] = 1.2
    said.loc[::5, "size"] = -0.1
    said.loc[::4, "enter"] = np.inf
    shuffled = said.sample(frac=0.8, random_state=1).assign(symbol="EURUSD")
    got = prepare({"EURUSD": make_symbol_history(bars, shuffled)}, Timeframe.H1).market.inputs[:, 0]
    known = np.isin(bars["time"], shuffled["time"])
    expected = np.zeros(len(bars), got.dtype)
    for row, (values, there) in enumerate(zip(said[[*MODEL_COLUMNS, *EXTRAS]].to_numpy(), known, strict=True)):
        take_answer(expected[row], values if there else np.full(len(values), np.nan))
    for name in ("p_up", "confidence", "regime", "size", "timing"):
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    np.testing.assert_array_equal(got["votes"][:, CLASSICAL], expected["votes"][:, CLASSICAL])
    assert np.isnan(got["confidence"][::7]).all()
    assert np.isfinite(got["confidence"]).sum() > 150
    np.testing.assert_array_equal(got["version"], np.arange(len(bars)))


def test_agreement_of_other_symbols_is_of_classical_votes(make_history):
    said, unsaid = (make_history("EURUSD", "GBPUSD", models=models, whole=models).market.inputs for models in (1, 0))
    assert np.isfinite(said["votes"][..., CLASSICAL]).any()
    np.testing.assert_array_equal(said["agreement"], unsaid["agreement"])


def test_a_configuration_names_its_columns(make_config):
    assert model_columns(make_config(whole=True)) == MODEL_COLUMNS
    assert model_columns(make_config()) == MODEL_COLUMNS[:2]
    assert model_columns(make_config()._replace(meta=True)) == (*MODEL_COLUMNS[:2], "p_up_meta")
    with pytest.raises(SettingsError, match="deep_models"):
        model_columns(make_config()._replace(deep_models=9))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: SymbolHistory(h.bars.drop(columns="spread"), h.indicators), "column spread"),
        (lambda h: SymbolHistory(h.bars.iloc[::-1], h.indicators), "order of time"),
        (lambda h: SymbolHistory(h.bars.iloc[:0], h.indicators), "empty"),
        (lambda h: SymbolHistory(h.bars, h.indicators.drop(columns="atr_14")), "column atr_14"),
        (lambda h: SymbolHistory(h.bars.assign(low=0.0), h.indicators), "row 0: impossible price"),
        (lambda h: SymbolHistory(h.bars, h.indicators, pd.DataFrame({"time": [1]})), "p_up_xgboost"),
        (
            lambda h: SymbolHistory(
                h.bars, h.indicators, pd.DataFrame({"time": [1, 1], "p_up_xgboost": 0.5, "p_up_random_forest": 0.5})
            ),
            "predicted twice",
        ),
    ],
)
def test_bad_frames_are_named(make_bars, make_symbol_history, change, said):
    history = make_symbol_history(make_bars("EURUSD", 300, 1), None)
    with pytest.raises(DataError, match=said):
        prepare({"EURUSD": change(history)}, Timeframe.H1)


def test_a_profit_currency_needs_a_way_home(make_bars, make_symbol_history):
    with pytest.raises(SettingsError, match="GBP"):
        prepare({"EURGBP": make_symbol_history(make_bars("EURGBP", 300, 1), None)}, Timeframe.H1)
    with pytest.raises(DataError, match="at least one"):
        prepare({}, Timeframe.H1)
