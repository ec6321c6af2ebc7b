"""Builders and real data for the tests of market data."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fx_dagster.market.schemas import BAR_TYPES, tick_frame
from fx_dagster.market.timeframes import from_server


def ns(text: str) -> int:
    """Return a UTC time as nanoseconds."""
    return int(pd.Timestamp(text).as_unit("ns").value)


@pytest.fixture
def make_ticks():
    """Build TICKS a second apart from a Wednesday morning on, or at given times."""

    def build(bid, *, spread=0.0001, time=None, volume=0.0, flags=0) -> pd.DataFrame:
        bid = np.asarray(bid, dtype=np.float64)
        if time is None:
            time = ns("2017-03-15 09:00") + np.arange(len(bid), dtype=np.int64) * 1_000_000_000
        return tick_frame(
            np.asarray(time),
            bid,
            bid + spread,
            np.broadcast_to(volume, bid.shape).copy(),
            np.broadcast_to(flags, bid.shape),
        )

    return build


@pytest.fixture
def make_bars():
    """Build BARS from rows of (time, open, high, low, close[, tick_volume, spread])."""

    def build(rows) -> pd.DataFrame:
        full = [
            (ns(row[0]) if isinstance(row[0], str) else row[0], *row[1:5], *(row[5:] or (10.0, 12.0))) for row in rows
        ]
        return pd.DataFrame(full, columns=list(BAR_TYPES)).astype(BAR_TYPES)

    return build


@pytest.fixture(scope="session")
def sample_bars() -> pd.DataFrame:
    """A year of real EURUSD H1 bars, UTC, from the wheel that is installed anyway."""
    import gym_anytrading

    path = Path(gym_anytrading.__file__).parent / "datasets/data/FOREX_EURUSD_1H_ASK.csv"
    raw = pd.read_csv(path)
    time = pd.to_datetime(raw["Time"], format="%d.%m.%Y %H:%M:%S.%f").astype("datetime64[ns]").astype("int64")
    columns = (
        time,
        raw["Open"],
        raw["High"],
        raw["Low"],
        raw["Close"],
        np.ceil(raw["Volume"] / 1e6),
        np.full(len(raw), 8.0),
    )
    return pd.DataFrame(dict(zip(BAR_TYPES, columns, strict=True))).astype(BAR_TYPES)


@pytest.fixture(scope="session")
def exports() -> dict[tuple[str, str], pd.DataFrame]:
    """Real History Center exports by symbol and timeframe; skips where FX_TEST_DATA does not say where they are."""
    folder = os.environ.get("FX_TEST_DATA")
    if not folder:
        pytest.skip("FX_TEST_DATA is not set: no folder with real exports")
    found = {}
    for path in sorted(Path(folder, "mt5_export").glob("*_*.csv.gz")):
        symbol, timeframe = path.name.removesuffix(".csv.gz").split("_")
        raw = pd.read_csv(path, sep="\t")
        server = pd.to_datetime(raw["<DATE>"] + " " + raw["<TIME>"], format="%Y.%m.%d %H:%M:%S")
        time = from_server(server.astype("datetime64[ns]").astype("int64").to_numpy())
        prices = (raw[f"<{name}>"] for name in ("OPEN", "HIGH", "LOW", "CLOSE", "TICKVOL", "SPREAD"))
        found[symbol, timeframe] = pd.DataFrame(dict(zip(BAR_TYPES, (time, *prices), strict=True))).astype(BAR_TYPES)
    assert found, f"no exports under {folder}/mt5_export"
    return found
