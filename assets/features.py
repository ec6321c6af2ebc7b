"""Indicators, features and labels: what models see and what they are asked."""

import dagster as dg
import numpy as np
import pandas as pd

from assets.lake_frames import closes_at, last_moment, read_bars, write_months
from assets.market_data import bars
from assets.metadata import counts_table, frame_span
from assets.partitions import FOLLOWS_ITS_INPUTS, SYMBOL_MONTHS, months_by_symbol, window
from assets.run_shape import RunShape
from fx_dagster.backtest.costs import round_trip_cost
from fx_dagster.errors import DataError
from fx_dagster.features.batch import compute_features
from fx_dagster.features.cross import leading
from fx_dagster.features.labels import compute_labels
from fx_dagster.indicators.arrays import CONTEXT_TIMEFRAMES
from fx_dagster.indicators.batch import compute_indicators
from fx_dagster.indicators.catalogue import INDICATOR_NAMES
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import Timeframe
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource
from resources.lake import Lake

GROUP = "features"
OWNERS = ["team:research"]


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"parquet", "numpy"},
    partitions_def=SYMBOL_MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=FOLLOWS_ITS_INPUTS,
    deps=[bars],
    description="""The thirteen classical indicators on every timeframe, in price units, through TA-Lib and NumPy.

A row uses only what was closed at its own bar's close; NaN while an indicator warms up.""",
)
def indicators(
    context: dg.AssetExecutionContext, market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Compute and store each timeframe's indicators, with enough history before the first month."""
    base, store = market.open().base_timeframe(), lake.open()
    counts: dict[str, int] = {}
    for symbol, months in months_by_symbol(context.partition_keys).items():
        start, end = window(months)
        history = read_bars(
            store, symbol, base.coarser(), start=start, end=end, history_bars=settings.load().feature.warmup_bars
        )
        for timeframe in base.coarser():
            needed = {name: history[name] for name in (timeframe, *CONTEXT_TIMEFRAMES[timeframe])}
            frame = compute_indicators(needed, timeframe)
            closing = last_moment(closes_at(frame, timeframe))
            rows = write_months(store, "indicators", frame, closing, months, symbol=symbol, timeframe=timeframe)
            counts[f"{symbol} {timeframe}"] = sum(rows.values())
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(counts.values()),
            "indicators": ", ".join(INDICATOR_NAMES),
            "rows_by_timeframe": counts_table(counts, "symbol and timeframe"),
        }
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"parquet", "numpy"},
    partitions_def=SYMBOL_MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=FOLLOWS_ITS_INPUTS,
    deps=[bars],
    description="""The feature catalogue on the base timeframe: float32, stationary, as of each bar's close.

The catalogue's hash travels in every file's metadata; a model trained on another hash is refused.""",
)
def features(
    context: dg.AssetExecutionContext, market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Compute and store the features of each symbol, other symbols' bars beside it where there are several."""
    shape, store = RunShape.of(market.open()), lake.open()
    warmup = settings.load().feature.warmup_bars
    counts: dict[str, int] = {}
    frame = pd.DataFrame()
    for symbol, months in months_by_symbol(context.partition_keys).items():
        start, end = window(months)
        history = read_bars(store, symbol, shape.catalogue.timeframes, start=start, end=end, history_bars=warmup)
        peers = read_peers(store, shape, symbol, start, end, warmup)
        frame = compute_features(history, shape.catalogue, instrument=instrument(symbol), peers=peers)
        closing = last_moment(closes_at(frame, shape.base))
        rows = write_months(
            store, "features", frame, closing, months, symbol=symbol, metadata={"feature_hash": shape.catalogue.hash}
        )
        counts[symbol] = sum(rows.values())
        context.log.info(f"{symbol}: {counts[symbol]:,} rows of {len(shape.catalogue)} features")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(counts.values()),
            "features": len(shape.catalogue),
            "feature_hash": shape.catalogue.hash,
            "timeframes": ", ".join(shape.catalogue.timeframes),
            "rows_by_symbol": counts_table(counts, "symbol"),
            **frame_span(frame),
        }
    )


def read_peers(
    lake: Lake, shape: RunShape, symbol: str, start: int, end: int, warmup_bars: int
) -> dict[str, pd.DataFrame] | None:
    """Return base bars of the other symbols that this one is compared with; None where the catalogue compares none.

    Raises:
        DataError: one has no bars in this window.
    """
    if not shape.catalogue.cross_symbol:
        return None
    peers = {}
    for other in (shape.symbols[place] for place in leading(shape.symbols)):
        if other == symbol:
            continue
        found = read_bars(lake, other, [shape.base], start=start, end=end, history_bars=warmup_bars)[shape.base]
        if found.empty:
            raise DataError(
                f"features of {symbol} compare it with {other}, which has no bars in these months",
                mend=f"materialise bars of {other} first, or leave it out with FX_SOURCE_SYMBOLS",
            )
        peers[other] = found
    return peers


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"parquet", "numpy"},
    partitions_def=SYMBOL_MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=FOLLOWS_ITS_INPUTS,
    deps=[bars, indicators],
    description="""Sign and size of the forward return over the horizon, its cost, and the triple-barrier outcome.

Entry is the next bar's opening. A label belongs to the month in which it becomes known (`end_time`).""",
)
def labels(
    context: dg.AssetExecutionContext, market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Compute and store the labels that become known in each month."""
    base, store, chosen = market.open().base_timeframe(), lake.open(), settings.load()
    horizon = chosen.feature.horizon_bars
    counts: dict[str, int] = {}
    up = 0
    for symbol, months in months_by_symbol(context.partition_keys).items():
        start, end = window(months)
        own = read_bars(store, symbol, [base], start=start, end=end, history_bars=horizon + 1)[base]
        cost = round_trip_cost(own, instrument(symbol), chosen.cost)
        frame = compute_labels(
            own,
            _atr(store, symbol, base, own),
            horizon_bars=horizon,
            barrier_atr=chosen.feature.barrier_atr,
            cost=cost,
        )
        frame = frame[frame["end_time"] >= start]  # earlier ones belong to months that are not of this run
        rows = write_months(store, "labels", frame, frame["end_time"].to_numpy(np.int64), months, symbol=symbol)
        counts[symbol] = sum(rows.values())
        up += int(frame["up"].sum())
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(counts.values()),
            "horizon_bars": horizon,
            "up_share": up / max(1, sum(counts.values())),
            "rows_by_symbol": counts_table(counts, "symbol"),
        }
    )


def _atr(lake: Lake, symbol: str, base: Timeframe, own: pd.DataFrame) -> np.ndarray:
    """Return the stored ATR (price units) of each bar; NaN where there is none."""
    if own.empty:
        return np.empty(0)
    first, last = int(own["time"].iloc[0]), int(own["time"].iloc[-1])
    table = lake.read("indicators", symbol=symbol, timeframe=base.value, start=first, end=last + 1)
    atr = table.set_index("time")["atr_14"].reindex(own["time"]) if len(table) else pd.Series(np.nan, index=own["time"])
    return atr.to_numpy(np.float64)
