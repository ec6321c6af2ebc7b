"""Prophet in closed form says what Prophet says, and finds no seasons in a random walk."""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import TrainingError
from fx_dagster.features.windows import Windows
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, Timeframe
from fx_dagster.models import prophet
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.inputs import days
from fx_dagster.models.onnx_export import labelled, onnx_answers

SUNDAY_NS = pd.Timestamp("2020-01-05 21:00").value
HORIZON = 12


def _hours(weeks: int) -> np.ndarray:
    """Return the openings of H1 bars from Sunday to Friday 21:00 UTC."""
    return SUNDAY_NS + (np.arange(weeks)[:, None] * 168 + np.arange(120)).ravel() * HOUR_NS


def _rows(log_price: np.ndarray, time: np.ndarray, symbols: int = 2) -> Dataset:
    """Return rows of symbols with the same log closes ``[m]``; forward returns are from close to close."""
    m, n = len(time), len(time) - HORIZON
    close = np.exp(np.tile(log_price, symbols))
    place = np.tile(np.arange(n), symbols) + np.repeat(np.arange(symbols) * m, n)
    forward = np.log(close[place + HORIZON] / close[place])
    return Dataset(
        X=np.zeros((symbols * n, 1), np.float32),
        y=(forward > 0).astype(np.int8),
        time=np.tile(time[:n], symbols),
        end_time=np.tile(time[HORIZON:], symbols),
        symbol_code=np.repeat(np.arange(symbols), n).astype(np.int16),
        forward_return=forward,
        cost=np.zeros(symbols * n),
        symbols=tuple(f"SIM{k:03d}" for k in range(symbols)),
        feature_names=("none",),
        feature_hash="0",
        horizon_bars=HORIZON,
        windows=Windows(
            np.zeros((symbols * m, 16), np.float32),
            (np.repeat(close[:, None], 5, axis=1),),
            np.column_stack([place, place]),
        ),
    )


@pytest.fixture(scope="module")
def walk() -> Dataset:
    """Two symbols of one random walk, 60 weeks of H1."""
    time = _hours(60)
    return _rows(np.cumsum(1e-3 * np.random.default_rng(3).standard_normal(len(time))), time)


@pytest.fixture(scope="module")
def forecast(walk) -> prophet.ProphetForecast:
    return prophet.fit_prophet(walk, prophet.horizon_volatility(walk), seed=7)


def test_trading_time_stands_still_at_weekends_only():
    time = days(SUNDAY_NS + np.arange(-48, 24 * 14) * HOUR_NS)
    steps = np.diff(prophet.trading_days(time))
    moving = np.isclose(steps, 1 / 24, atol=1e-9)
    assert (moving | np.isclose(steps, 0.0, atol=1e-9)).all()
    assert moving[48 : 48 + 120].all()
    assert not moving[:48].any()
    assert not moving[48 + 120 : 48 + 168].any()
    assert prophet.trading_days(days(np.array([SUNDAY_NS])))[0] % 5 == pytest.approx(0, abs=1e-9)


@settings(deadline=None)
@given(st.floats(-20_000, 20_000), st.floats(0, 30), st.integers(1, 500))
def test_trading_time_never_runs_back_and_a_week_is_five_days(at, later, weeks):
    first, second, shifted = prophet.trading_days(np.array([at, at + later, at + 7 * weeks]))
    assert -1e-6 <= second - first <= later + 1e-6
    assert shifted - first == pytest.approx(5 * weeks, abs=1e-6)


def test_seasons_are_those_that_bars_can_show():
    assert prophet._orders(Timeframe.H1) == {"trading_day": 4, "trading_week": 4, "year": 2}
    assert prophet._orders(Timeframe.H4) == {"trading_day": 2, "trading_week": 4, "year": 2}
    assert prophet._orders(Timeframe.D1) == {"trading_week": 2, "year": 2}
    assert prophet._orders(Timeframe.W1) == prophet._orders(Timeframe.MN1) == {"year": 2}


@pytest.mark.parametrize(
    ("base", "length", "trading"),
    [(Timeframe.H1, 1 / 24, 1 / 24), (Timeframe.D1, 1.0, 1.0), (Timeframe.W1, 7.0, 5.0)],
)
def test_bars_have_a_length_in_both_times(base, length, trading):
    assert prophet.bar_days(base) == (pytest.approx(length), pytest.approx(trading))


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # Prophet's own use of pandas, in predict
@pytest.mark.parametrize("weeks", [30, 200])
def test_the_closed_form_says_what_prophet_says(weeks):
    rng = np.random.default_rng(weeks)
    time = _hours(weeks)
    at = prophet.trading_days(days(time))
    log_price = 7.0 + np.cumsum(1e-3 * rng.standard_normal(len(time))) + 0.002 * np.sin(2 * np.pi * at)
    rows = _rows(log_price, time, symbols=1)
    own = prophet.fit_prophet(rows, prophet.horizon_volatility(rows), seed=7)
    places, closes = prophet._closes(rows, 0, 1 / 24)
    original = prophet.fitted_prophet("SIM000", places, closes, prophet._orders(Timeframe.H1), seed=7)
    assert ("year" in original.seasonalities) == (weeks > 157)
    asked = at[0] + np.linspace(0.0, 1.3, 500) * np.ptp(at)  # beyond the last row too
    dates = prophet.calendar(asked)
    exact = (dates.to_numpy().astype("datetime64[ns]").astype(np.int64) - prophet.TIME_ORIGIN_NS) / DAY_NS
    expected = original.predict(pd.DataFrame({"ds": dates}))["yhat"].to_numpy() + closes.mean()
    np.testing.assert_allclose(own.log_price(exact, np.zeros(500, np.int64)), expected, rtol=1e-8)


def test_a_random_walk_has_no_seasons(walk, forecast):
    expected = forecast.expected_return(walk.time, walk.symbol_code.astype(np.int64))
    assert 0 < np.abs(expected).mean() < 0.5 * walk.forward_return.std()


def test_a_daily_season_is_found():
    time = _hours(40)
    wave = 4e-3 * np.sin(2 * np.pi * prophet.trading_days(days(time) + 1 / 24))
    rows = _rows(wave + np.cumsum(5e-4 * np.random.default_rng(5).standard_normal(len(time))), time, symbols=1)
    fitted = prophet.fit_prophet(rows, prophet.horizon_volatility(rows), seed=7)
    told = fitted.expected_return(rows.time, rows.symbol_code.astype(np.int64))
    assert np.corrcoef(told, rows.forward_return)[0, 1] > 0.7


def test_a_forecast_never_exceeds_one_deviation(walk, forecast):
    steep = replace(forecast, slope=np.array([0.0, 1.0, -1.0]))
    told = steep.expected_return(walk.time[:4], np.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(told, forecast.volatility[[1, 2, 1, 2]] * [1, -1, 1, -1])


def test_a_symbol_that_is_not_known_has_no_forecast(walk, forecast):
    assert (forecast.expected_return(walk.time[:50], np.full(50, -1)) == 0.0).all()
    few = walk.take(np.flatnonzero((walk.symbol_code == 0) | (np.arange(len(walk)) % 500 == 0)))
    thin = prophet.fit_prophet(few, prophet.horizon_volatility(few), seed=7)
    assert (thin.expected_return(walk.time[:50], np.ones(50, np.int64)) == 0.0).all()
    assert np.abs(thin.expected_return(walk.time[:50], np.zeros(50, np.int64))).max() > 0.0


def test_multiplying_prices_changes_no_forecast(walk, forecast):
    windows = replace(walk.windows, bars=tuple(1_000.0 * store for store in walk.windows.bars))
    scaled = prophet.fit_prophet(replace(walk, windows=windows), forecast.volatility, seed=7)
    code = walk.symbol_code[:500].astype(np.int64)
    np.testing.assert_allclose(
        scaled.expected_return(walk.time[:500], code), forecast.expected_return(walk.time[:500], code), atol=1e-6
    )


def test_walking_forward_sees_no_later_price(walk):
    volatility = prophet.horizon_volatility(walk)
    half = np.sort(walk.time)[len(walk) // 2]
    stores = tuple(store.copy() for store in walk.windows.bars)
    stores[0][walk.windows.at[walk.time >= half, 1]] *= 1.1
    later = replace(walk, windows=replace(walk.windows, bars=stores))
    first = prophet.walked_forward(walk, volatility, seed=7)
    second = prophet.walked_forward(later, volatility, seed=7)
    np.testing.assert_array_equal(first[walk.time < half], second[walk.time < half])
    assert (first != second).any()
    assert (first[walk.time < np.sort(walk.time)[len(walk) // 10]] == 0.0).all()
    assert (first[walk.time >= half] != 0.0).all()


def test_the_module_and_its_graph_say_the_same(walk, forecast):
    import torch

    rows = walk.take(np.arange(0, len(walk), 37))
    code = np.where(np.arange(len(rows)) % 7 == 0, -1, rows.symbol_code.astype(np.int64))
    expected = forecast.expected_return(rows.time, code)
    module = prophet.prophet_module(forecast)
    module.register_parameter("none", torch.nn.Parameter(torch.zeros(1)))
    tensors = {"time": days(rows.time)[:, None], "symbol": code[:, None]}
    told = module(*(torch.from_numpy(values) for values in tensors.values()))[:, 0].detach().numpy()
    np.testing.assert_allclose(told, expected, rtol=0, atol=1e-12)
    from fx_dagster.models.networks import export_network

    graph = export_network(module, {name: values[:2] for name, values in tensors.items()}, ("prophet_return",))
    said = onnx_answers(labelled(graph, "prophet", rows.spec(seed=7)), tensors)["prophet_return"][:, 0]
    np.testing.assert_allclose(said, expected, rtol=0, atol=1e-10)


def test_thinned_rows_come_from_all_hours():
    for rows in (100, 4_000, 8_000, 20_000, 44_000, 100_000):
        stride = prophet._stride(rows)
        assert rows / stride <= prophet.PARAMETERS["points_max"]
        assert len(set((np.arange(0, 120 * stride, stride) % 120).tolist())) == 120


def test_prices_that_are_not_positive_are_refused(walk):
    stores = tuple(store.copy() for store in walk.windows.bars)
    stores[0][:, 3] = -1.0
    with pytest.raises(TrainingError, match="prophet: SIM000 has closes that are not positive"):
        prophet.fit_prophet(
            replace(walk, windows=replace(walk.windows, bars=stores)), prophet.horizon_volatility(walk), seed=7
        )


def test_fits_are_silent(walk, caplog, capfd):
    with caplog.at_level(logging.INFO):
        prophet.fit_prophet(walk, prophet.horizon_volatility(walk), seed=7)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
