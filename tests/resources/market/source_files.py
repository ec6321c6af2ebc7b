"""Writes the files that sources read, from simulated markets."""

import gzip
from pathlib import Path

import pandas as pd

from fx_dagster.market.timeframes import DAY_NS, MINUTE_NS, SECOND_NS, Timeframe, to_server
from resources.market.simulator import SimulatorSource

MONDAY = 1_709_503_200 * SECOND_NS
"""2024-03-03 22:00 UTC, 17:00 New York: a trading week begins."""

MT5_HEADER = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>"


def simulator(
    *symbols: str, timeframe: Timeframe = Timeframe.M1, days: int = 3, signal: float = 0.0
) -> SimulatorSource:
    return SimulatorSource(
        symbols or ("EURUSD",), start=MONDAY, end=MONDAY + days * DAY_NS, timeframe=timeframe, signal=signal
    )


def all_bars(source: object, symbol: str) -> pd.DataFrame:
    return source.bars(symbol, *source.span(symbol))  # type: ignore[attr-defined]


def mt5_rows(bars: pd.DataFrame, digits: int = 5, separator: str = "\t") -> list[str]:
    """Write bars as the History Center exports them."""
    stamps = pd.DatetimeIndex(to_server(bars["time"].to_numpy()).astype("datetime64[ns]"))
    rows = []
    for stamp, bar in zip(stamps, bars.itertuples(), strict=True):
        prices = [f"{price:.{digits}f}" for price in (bar.open, bar.high, bar.low, bar.close)]
        fields = [stamp.strftime("%Y.%m.%d"), stamp.strftime("%H:%M:%S"), *prices]
        rows.append(separator.join([*fields, f"{bar.tick_volume:.0f}", "0", f"{bar.spread:.0f}"]))
    return rows


def new_york_stamps(bars: pd.DataFrame, form: str) -> list[str]:
    """Return opening times on New York's clock without daylight saving."""
    return [stamp.strftime(form) for stamp in pd.to_datetime(bars["time"] - 300 * MINUTE_NS)]


def write(path: Path, lines: list[str]) -> Path:
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text) if path.name.endswith(".gz") else text)
    return path


def frame_of_library(bars: pd.DataFrame, shift: float) -> pd.DataFrame:
    """Return bars in the shape in which dukascopy-python delivers them."""
    index = pd.to_datetime(bars["time"].to_numpy(), utc=True).as_unit("ms").rename("timestamp")
    prices = {name: bars[name].to_numpy() + shift for name in ("open", "high", "low", "close")}
    return pd.DataFrame({**prices, "volume": bars["tick_volume"].to_numpy() * 3e6}, index=index)
