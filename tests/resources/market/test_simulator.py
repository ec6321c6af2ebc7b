import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter
from source_files import MONDAY, all_bars, simulator

from fx_dagster.errors import SettingsError, UnknownSymbolError
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS, Timeframe, to_server
from fx_dagster.settings import SourceSettings
from resources.market.simulator import (
    SIGNAL_HORIZON_BARS,
    SIGNAL_PERSISTENCE,
    SimulatorSource,
    directional_accuracy,
    forecast_correlation,
    planted,
    signal_gain,
    simulated_symbols,
)


def long_market(*symbols: str, signal: float = 0.0) -> SimulatorSource:
    return simulator(*symbols, days=60, signal=signal)


def test_it_is_deterministic_and_symbols_do_not_disturb_each_other() -> None:
    alone, together = simulator("EURUSD"), simulator("AUDUSD", "EURUSD", "SIM001", "XAUUSD")
    pd.testing.assert_frame_equal(all_bars(alone, "EURUSD"), all_bars(together, "EURUSD"))
    other = SimulatorSource(("EURUSD",), start=MONDAY, end=MONDAY + 3 * DAY_NS, seed=8)
    assert not np.allclose(all_bars(other, "EURUSD")["close"], all_bars(alone, "EURUSD")["close"])


def test_more_days_continue_the_same_path() -> None:
    for signal in (0.0, 0.5):
        short = all_bars(simulator("XAUUSD", days=3, signal=signal), "XAUUSD")
        long = all_bars(simulator("XAUUSD", days=9, signal=signal), "XAUUSD")
        pd.testing.assert_frame_equal(long.head(len(short)), short)


def test_bars_are_where_the_market_is_open() -> None:
    source = simulator("EURUSD", "XAUUSD", days=14)
    for symbol in source.symbols():
        time = all_bars(source, symbol)["time"].to_numpy()
        assert instrument(symbol).session.is_open(time).all()
        grid = np.arange(MONDAY, MONDAY + 14 * DAY_NS, MINUTE_NS)
        assert len(time) == instrument(symbol).session.is_open(grid).sum()


def test_only_a_closed_stretch_makes_a_gap() -> None:
    bars = all_bars(simulator(days=14), "EURUSD")
    moved = np.abs(bars["open"].to_numpy()[1:] - bars["close"].to_numpy()[:-1]) > 1.5e-5
    closed = np.diff(bars["time"]) > MINUTE_NS
    assert moved[~closed].sum() == 0
    assert moved[closed].all()
    assert closed.sum() == 2  # the second weekend ends an hour early in UTC: New York is on daylight saving by then


def test_volatility_clusters_has_fat_tails_and_agrees_with_its_range() -> None:
    bars = all_bars(long_market(), "EURUSD")
    returns = np.log(bars["close"] / bars["open"])
    size = returns.abs()
    assert size.autocorr(1) > 0.1
    assert size.autocorr(120) > 0.05
    assert returns.kurt() > 3
    parkinson = np.sqrt(np.mean(np.log(bars["high"] / bars["low"]) ** 2) / (4 * np.log(2)))
    assert parkinson == pytest.approx(returns.std(), rel=0.05)
    assert returns.std() * np.sqrt(1440) == pytest.approx(0.005, rel=0.25)


def test_spreads_widen_at_rollover_and_trading_peaks_in_the_overlap() -> None:
    bars = all_bars(long_market(), "EURUSD")
    hour = to_server(bars["time"].to_numpy()) % DAY_NS // HOUR_NS
    spread = bars["spread"].groupby(hour).mean()
    assert spread.idxmax() == 0
    assert spread[0] > 3 * spread[15]
    size = np.log(bars["high"] / bars["low"]).groupby(hour).mean()
    assert size.idxmax() in {15, 16, 17}
    assert bars["tick_volume"].groupby(hour).mean().idxmax() in {15, 16, 17}


def test_dollar_pairs_move_together() -> None:
    source = long_market("EURUSD", "GBPUSD", "USDCHF")
    closes = {symbol: np.log(all_bars(source, symbol)["close"]).diff() for symbol in source.symbols()}
    correlation = pd.DataFrame(closes).corr()
    assert correlation.loc["EURUSD", "GBPUSD"] > 0.3
    assert correlation.loc["EURUSD", "USDCHF"] < -0.3


def momentum_accuracy(bars: pd.DataFrame, forgetting: float) -> float:
    """Return how often the sign of a moving average of past scaled returns is that of the next twelve bars."""
    returns = np.log(bars["close"]).diff().fillna(0.0)
    scaled = returns / returns.abs().ewm(halflife=200).mean().clip(lower=1e-9)
    momentum = lfilter([forgetting], [1.0, forgetting - 1.0], scaled.to_numpy())
    future = np.log(bars["close"].shift(-SIGNAL_HORIZON_BARS) / bars["close"]).to_numpy()
    known = np.isfinite(future) & (future != 0)
    known[:600] = False
    return float(np.mean((momentum > 0)[known] == (future > 0)[known]))


def test_the_planted_signal_is_as_strong_as_it_says() -> None:
    for strength in (0.3, 0.6):
        forgetting = 1 - SIGNAL_PERSISTENCE + signal_gain(strength)
        found = [
            momentum_accuracy(all_bars(long_market(s, signal=strength), s), forgetting) for s in ("EURUSD", "SIM002")
        ]
        assert np.mean(found) == pytest.approx(directional_accuracy(strength), abs=0.02)


def test_without_a_signal_there_is_nothing_to_find() -> None:
    found = [
        momentum_accuracy(all_bars(long_market(symbol), symbol), 0.07) for symbol in ("EURUSD", "SIM002", "SIM003")
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.015)
    returns = np.log(all_bars(long_market(), "EURUSD")["close"]).diff().dropna()
    scaled = returns / returns.abs().ewm(halflife=200).mean().shift().bfill()
    assert abs(scaled.autocorr(1)) < 0.02


def test_the_theory_of_the_signal() -> None:
    shocks = np.random.default_rng(1).standard_normal(400_000)
    u = planted(shocks, 0.5)
    assert u.var() == pytest.approx(1.0, abs=0.02)
    gain = signal_gain(0.5)
    momentum = lfilter([gain], [1.0, gain - SIGNAL_PERSISTENCE], u)
    total = np.convolve(u, np.ones(12), mode="valid")[1:]
    assert np.corrcoef(momentum[: len(total)], total)[0, 1] == pytest.approx(0.4, abs=0.02)
    assert forecast_correlation(gain, 12) == pytest.approx(0.4)
    assert np.array_equal(planted(shocks, 0.0), shocks)
    accuracies = [directional_accuracy(strength) for strength in (0.0, 0.1, 0.3, 0.6, 1.0)]
    assert accuracies[0] == 0.5
    assert accuracies == sorted(set(accuracies))


def test_any_number_of_symbols() -> None:
    assert simulated_symbols(10)[-2:] == ("SIM001", "SIM002")
    source = simulator(*simulated_symbols(40), timeframe=Timeframe.H1, days=2)
    assert len(source.symbols()) == 40
    assert (all_bars(source, "SIM032")["low"] > 0).all()
    with pytest.raises(SettingsError, match="FX_SOURCE_SIMULATOR_SYMBOLS 2000"):
        simulated_symbols(2000)
    with pytest.raises(UnknownSymbolError):
        simulator("NOPE")


def test_settings_choose_everything() -> None:
    chosen = SourceSettings(
        kind="simulator", simulator_symbols=3, simulator_days=7, simulator_timeframe="M15", simulator_signal=0.4, seed=3
    )
    source = SimulatorSource.from_settings(chosen)
    assert source.symbols() == ("EURUSD", "GBPUSD", "USDJPY")
    assert source.base_timeframe() is Timeframe.M15
    assert source.span("EURUSD")[1] - source.span("EURUSD")[0] <= 7 * DAY_NS
    by_hand = SimulatorSource(
        ("EURUSD",),
        start=int(np.datetime64("2023-12-31T22", "ns").astype(np.int64)),
        end=int(np.datetime64("2024-01-07T22", "ns").astype(np.int64)),
        timeframe=Timeframe.M15,
        seed=3,
        signal=0.4,
    )
    pd.testing.assert_frame_equal(all_bars(source, "EURUSD"), all_bars(by_hand, "EURUSD"))


def test_days_without_a_market_are_refused() -> None:
    saturday = MONDAY + 5 * DAY_NS
    with pytest.raises(SettingsError, match="no open market"):
        SimulatorSource(("EURUSD",), start=saturday, end=saturday + DAY_NS)
