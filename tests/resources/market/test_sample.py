import subprocess
import sys

import numpy as np
import pandas as pd
from source_files import all_bars

from fx_dagster.market.timeframes import Timeframe
from resources.market.sample import SampleSource, sample_file


def test_it_is_eurusd_of_2017_on_h1() -> None:
    source = SampleSource()
    bars = all_bars(source, "EURUSD")
    assert (source.symbols(), source.base_timeframe(), len(bars)) == (("EURUSD",), Timeframe.H1, 6225)
    assert pd.to_datetime(list(source.span("EURUSD"))).tolist() == [
        pd.Timestamp("2017-01-01 22:00"),
        pd.Timestamp("2017-12-29 22:00"),
    ]


def test_ask_less_spread_is_the_bid_and_modelled_ticks_bring_the_ask_back() -> None:
    raw = pd.read_csv(sample_file())
    source = SampleSource()
    bars = all_bars(source, "EURUSD")
    assert np.allclose(bars["close"] + bars["spread"] * 1e-5, raw["Close"], atol=1e-9)
    assert (bars["spread"] % 1 == 0).all()
    ticks = source.ticks("EURUSD", *source.span("EURUSD"))
    assert np.allclose(ticks["ask"].to_numpy()[::4], raw["Open"], atol=1e-9)
    assert np.allclose(ticks["ask"].to_numpy()[3::4], raw["Close"], atol=1e-9)


def test_a_tick_stands_for_three_million_units() -> None:
    bars = all_bars(SampleSource(), "EURUSD")
    raw = pd.read_csv(sample_file())
    assert np.array_equal(bars["tick_volume"], np.maximum(np.round(raw["Volume"] / 3e6), 1.0))
    assert 1_000 < bars["tick_volume"].mean() < 10_000


def test_the_package_is_not_imported() -> None:
    code = (
        "import sys; from resources.market.sample import SampleSource; SampleSource().span('EURUSD');"
        "sys.exit(any(name.split('.')[0] in {'gym_anytrading', 'gymnasium', 'matplotlib'} for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
