"""polars: ticks to M1 with ``group_by_dynamic``, and M1 to the eight longer timeframes, on all its threads."""

import sys

import numpy as np
import polars as pl
from serve import serve

LONGER = ("5m", "15m", "30m", "1h", "4h", "1d", "1w", "1mo")
OF_TICKS = [
    pl.col("bid").first().alias("open"), pl.col("bid").max().alias("high"), pl.col("bid").min().alias("low"),
    pl.col("bid").last().alias("close"), pl.len().alias("count"),
]  # fmt: skip
OF_BARS = [
    pl.col("open").first(), pl.col("high").max(), pl.col("low").min(), pl.col("close").last(), pl.col("count").sum(),
]  # fmt: skip

data = np.load(sys.argv[1])
ticks = pl.DataFrame({"time": pl.Series(data["time"]).cast(pl.Datetime("ns")), "bid": data["bid"]}).with_columns(
    pl.col("time").set_sorted()
)


def build() -> list[pl.DataFrame]:
    """Return bars of all nine timeframes."""
    minutes = ticks.group_by_dynamic("time", every="1m").agg(OF_TICKS)
    return [minutes, *(minutes.group_by_dynamic("time", every=every).agg(OF_BARS) for every in LONGER)]


serve(len(ticks), build)
