"""Market data: ticks as the source has them, validated, and bars in nine timeframes built from them."""

import time
from collections.abc import Sequence

import dagster as dg
import pandas as pd

from assets.lake_frames import closes_at, last_moment, write_months
from assets.metadata import counts_table, frame_span, price_picture
from assets.partitions import FOLLOWS_ITS_INPUTS, SYMBOL_MONTHS, months_by_symbol, window
from fx_dagster.market.bars import resample_bars, ticks_to_bars
from fx_dagster.market.instruments import instrument
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import DAY_NS, Timeframe, trading_month_window
from fx_dagster.market.validation import split_ticks
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource
from resources.lake import Lake

GROUP = "market_data"
OWNERS = ["team:data"]


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"parquet"},
    partitions_def=SYMBOL_MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    description="""Bid and ask ticks of one symbol and trading month, as the configured source has them.

Rows that break a rule (order, duplicates, crossed or impossible prices, spikes, spreads, outside the session) are put
aside in the lake's `quarantine` table with their reason, never dropped or repaired. Where the source has bars only,
four ticks a bar are modelled as MetaTrader's tester does, and flagged; the source's own bars are kept as
`source_bars`, for comparison. Times: int64 nanoseconds UTC.""",
)
def raw_ticks(
    context: dg.AssetExecutionContext, market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Load, validate and store ticks month by month, so that memory is bounded by one month."""
    source, store, rules = market.open(), lake.open(), settings.load()
    rows: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for symbol, months in months_by_symbol(context.partition_keys).items():
        for month in months:
            kept, bad = _load_month(source, store, rules, symbol, month)
            rows[f"{symbol} {month}"] = kept
            for reason, count in bad.items():
                reasons[reason] = reasons.get(reason, 0) + count
        context.log.info(f"{symbol}: {sum(rows.values()):,} ticks in {len(months)} months")
    return dg.MaterializeResult(
        metadata={
            "source": source.name,
            "modelled_from_bars": not source.has_ticks,
            "dagster/row_count": sum(rows.values()),
            "quarantined": sum(reasons.values()),
            "quarantined_by_reason": counts_table(reasons, "reason"),
            "rows_by_month": counts_table(rows, "symbol and month"),
        }
    )


def _load_month(
    source: MarketSource, lake: Lake, settings: Settings, symbol: str, month: str
) -> tuple[int, dict[str, int]]:
    start, end = trading_month_window(month)
    split = split_ticks(source.ticks(symbol, start, end), instrument(symbol), settings.validation)
    lake.write("ticks", split.good, symbol=symbol, month=month)
    lake.write("quarantine", split.bad, symbol=symbol, month=month)
    bars = source.bars(symbol, start, end)
    if bars is not None:
        lake.write("source_bars", bars, symbol=symbol, timeframe=source.base_timeframe().value, month=month)
    return len(split.good), {str(reason): int(n) for reason, n in split.bad["reason"].value_counts().items()}


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"parquet"},
    partitions_def=SYMBOL_MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=[raw_ticks],
    automation_condition=FOLLOWS_ITS_INPUTS,
    description="""Bid bars of M1 to MN1, no finer than the source: ticks → base timeframe, all else from it.

H4 and longer follow the trading day, which turns at 17:00 New York. A bar belongs to the month in which it closes, and
only closed bars are written. `spread` is the mean in points; `tick_volume` counts ticks.""",
)
def bars(context: dg.AssetExecutionContext, market: MarketResource, lake: LakeResource) -> dg.MaterializeResult:
    """Build and store the bars of each symbol."""
    source, store = market.open(), lake.open()
    counts: dict[str, int] = {}
    base_bars = pd.DataFrame()
    for symbol, months in months_by_symbol(context.partition_keys).items():
        built = _build(store, symbol, months, source.base_timeframe())
        for timeframe, frame in built.items():
            written = write_months(
                store,
                "bars",
                frame,
                last_moment(closes_at(frame, timeframe)),
                months,
                symbol=symbol,
                timeframe=timeframe,
            )
            counts[f"{symbol} {timeframe}"] = sum(written.values())
        base_bars = built[source.base_timeframe()]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(counts.values()),
            "rows_by_timeframe": counts_table(counts, "symbol and timeframe"),
            **frame_span(base_bars),
            "closes": price_picture(base_bars, f"{symbol} {source.base_timeframe()}"),
        }
    )


def _build(lake: Lake, symbol: str, months: Sequence[str], base: Timeframe) -> dict[Timeframe, pd.DataFrame]:
    start, end = window(months)
    ticks = lake.read("ticks", symbol=symbol, start=start, end=end)
    own = ticks_to_bars(ticks, base, instrument(symbol).point, complete_until=_known_until(end))
    # A week may have begun in the month before.
    earlier = lake.read("bars", symbol=symbol, timeframe=base.value, start=start - 8 * DAY_NS, end=start)
    earlier = earlier[closes_at(earlier, base) <= start] if len(earlier) else earlier
    together = pd.concat([earlier, own], ignore_index=True) if len(earlier) else own
    built = {base: own}
    for timeframe in base.coarser()[1:]:
        longer = resample_bars(together, base, timeframe, complete_until=_known_until(end))
        built[timeframe] = longer[closes_at(longer, timeframe) > start].reset_index(drop=True)
    return built


def _known_until(end: int) -> int:
    """Return until when the data are known: the end of the months, or now."""
    return min(end, time.time_ns())
