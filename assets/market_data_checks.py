"""Checks of ticks and bars. Blocking ones stop everything that would learn from bad data."""

from collections.abc import Iterator

import dagster as dg
import numpy as np
import pandas as pd
import pandera.pandas as pa

from assets.lake_frames import query_table, read_bars
from assets.market_data import bars, raw_ticks
from assets.metadata import counts_table, frame_table
from assets.partitions import months_of_run, window
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import BAR_SCHEMA, TICK_SCHEMA, SchemaMismatchError, validate
from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from fx_dagster.market.validation import (
    bars_agree_with_reference,
    bars_agree_with_ticks,
    find_gaps,
    split_bars,
    staleness_ns,
)
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource
from resources.lake import Lake


def checked_months(context: dg.AssetCheckExecutionContext, lake: Lake, table: str) -> dict[str, list[str]]:
    """Return the months of each symbol that this run is about, of those that the lake has."""
    stored = lake.keys(table)
    have = {(keys["symbol"], keys["month"]) for keys in stored}
    wanted = months_of_run(context.run.tags, stored)
    found = {symbol: sorted(m for m in set(months) if (symbol, m) in have) for symbol, months in wanted.items()}
    return {symbol: months for symbol, months in found.items() if months}


def symbol_windows(context: dg.AssetCheckExecutionContext, lake: Lake, table: str) -> Iterator[tuple[str, int, int]]:
    """Yield each symbol of the run with the window (ns UTC) of its months."""
    for symbol, months in checked_months(context, lake, table).items():
        yield symbol, *window(months)


def schema_outcome(failures: list[SchemaMismatchError], rows: int) -> dg.AssetCheckResult:
    """Turn schema failures into a check result whose table shows the failing cases."""
    if not failures:
        return dg.AssetCheckResult(passed=True, metadata={"rows": rows}, description=f"{rows:,} rows as promised")
    cases = pd.concat([failure.failure_cases for failure in failures], ignore_index=True)
    return dg.AssetCheckResult(
        passed=False,
        description=str(failures[0]),
        metadata={"rows": rows, "failures": len(cases), "failure_cases": frame_table(cases.astype(str))},
    )


def collect(failures: list[SchemaMismatchError], frame: pd.DataFrame, schema: pa.DataFrameSchema) -> None:
    """Validate one table and keep its failure."""
    try:
        validate(frame, schema)
    except SchemaMismatchError as failure:
        failures.append(failure)


@dg.asset_check(asset=raw_ticks, blocking=True)
def ticks_keep_their_schema(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """Times ascend, prices are positive and finite, ask is not below bid (pandera)."""
    failures: list[SchemaMismatchError] = []
    rows = 0
    for symbol, start, end in symbol_windows(context, lake.open(), "ticks"):
        frame = lake.open().read("ticks", symbol=symbol, start=start, end=end)
        rows += len(frame)
        collect(failures, frame, TICK_SCHEMA)
    return schema_outcome(failures, rows)


@dg.asset_check(asset=raw_ticks, blocking=True)
def few_ticks_are_quarantined(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, settings: SettingsResource
) -> dg.AssetCheckResult:
    """The share of rows put aside stays below FX_VALIDATION_QUARANTINE_SHARE_MAX."""
    store, limit = lake.open(), settings.load().validation.quarantine_share_max
    good, reasons = 0, dict[str, int]()
    for symbol, start, end in symbol_windows(context, store, "ticks"):
        good += len(store.read("ticks", symbol=symbol, start=start, end=end, columns=["time"]))
        bad = _quarantined(store, symbol, context)
        for reason, count in bad["reason"].value_counts().items():
            reasons[str(reason)] = reasons.get(str(reason), 0) + int(count)
    put_aside = sum(reasons.values())
    share = put_aside / max(1, good + put_aside)
    return dg.AssetCheckResult(
        passed=bool(share <= limit),
        description=f"{put_aside:,} of {good + put_aside:,} rows are put aside ({share:.3%}, allowed {limit:.3%})",
        metadata={"share": float(share), "by_reason": counts_table(reasons, "reason")},
    )


def _quarantined(lake: Lake, symbol: str, context: dg.AssetCheckExecutionContext) -> pd.DataFrame:
    """Return the reasons of the months' quarantined rows, whose own times may lie anywhere."""
    months = set(checked_months(context, lake, "ticks").get(symbol, []))
    found = query_table(
        lake, "quarantine", "SELECT reason, month FROM quarantine WHERE symbol = $symbol", symbol=symbol
    )
    return found[found["month"].isin(months)] if len(found) else pd.DataFrame({"reason": []})


@dg.asset_check(asset=raw_ticks)
def spread_is_usual(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """The median spread lies within a tenth and ten times of what is typical for the instrument."""
    medians: dict[str, float] = {}
    odd = []
    for symbol, start, end in symbol_windows(context, lake.open(), "ticks"):
        frame = lake.open().read("ticks", symbol=symbol, start=start, end=end, columns=["time", "bid", "ask"])
        if frame.empty:
            continue
        known = instrument(symbol)
        median = float(np.median(frame["ask"] - frame["bid"]) / known.point)
        medians[symbol] = median
        if not known.typical_spread_points / 10 <= median <= known.typical_spread_points * 10:
            odd.append(f"{symbol}: {median:.1f} points, typical are {known.typical_spread_points:g}")
    return dg.AssetCheckResult(
        passed=not odd,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(odd) or "median spreads are usual",
        metadata={f"median_spread_points_{symbol}": median for symbol, median in medians.items()},
    )


@dg.asset_check(asset=bars, blocking=True)
def bars_keep_their_schema(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, market: MarketResource
) -> dg.AssetCheckResult:
    """Opening times ascend, high is the highest and low the lowest, volumes and spreads are counts (pandera)."""
    failures: list[SchemaMismatchError] = []
    rows = 0
    for symbol, timeframe, frame in _bars_of(context, lake, market):
        rows += len(frame)
        collect(failures, frame, BAR_SCHEMA)
        context.log.debug(f"{symbol} {timeframe}: {len(frame)} bars")
    return schema_outcome(failures, rows)


def _bars_of(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, market: MarketResource
) -> Iterator[tuple[str, Timeframe, pd.DataFrame]]:
    store, base = lake.open(), market.open().base_timeframe()
    for symbol, start, end in symbol_windows(context, store, "bars"):
        for timeframe, frame in read_bars(store, symbol, base.coarser(), start=start, end=end, history_bars=0).items():
            yield symbol, timeframe, frame[frame["time"] >= start].reset_index(drop=True)


@dg.asset_check(asset=bars, blocking=True)
def bars_are_their_ticks(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, market: MarketResource
) -> dg.AssetCheckResult:
    """Base bars built again from the stored ticks are the stored bars, to the last digit."""
    store, base = lake.open(), market.open().base_timeframe()
    compared, wrong = 0, []
    for symbol, start, end in symbol_windows(context, store, "bars"):
        own = store.read("bars", symbol=symbol, timeframe=base.value, start=start, end=end)
        ticks = store.read("ticks", symbol=symbol, start=start, end=end)
        agreement = bars_agree_with_ticks(own, ticks, base, instrument(symbol), complete_until=end)
        compared += agreement.compared
        if not agreement.passed:
            wrong.append(f"{symbol}: {agreement.differing} differ, {agreement.missing} missing")
    return dg.AssetCheckResult(
        passed=not wrong, description="; ".join(wrong) or f"{compared:,} bars agree", metadata={"compared": compared}
    )


@dg.asset_check(asset=bars, blocking=True)
def bars_are_the_sources_own(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, market: MarketResource
) -> dg.AssetCheckResult:
    """Where the source has bars of its own, ours agree with them, but for rows whose ticks were put aside."""
    store, base = lake.open(), market.open().base_timeframe()
    compared, wrong = 0, []
    for symbol, start, end in symbol_windows(context, store, "bars"):
        reference = store.read("source_bars", symbol=symbol, timeframe=base.value, start=start, end=end)
        own = store.read("bars", symbol=symbol, timeframe=base.value, start=start, end=end)
        if reference.empty:
            continue
        agreement = bars_agree_with_reference(own, reference, instrument(symbol))
        compared += agreement.compared
        put_aside = len(_quarantined(store, symbol, context))
        if agreement.differing + agreement.missing > put_aside:
            wrong.append(f"{symbol}: {agreement.differing} differ, {agreement.missing} missing")
    return dg.AssetCheckResult(
        passed=not wrong,
        description="; ".join(wrong) or (f"{compared:,} bars agree" if compared else "the source has no bars"),
        metadata={"compared": compared},
    )


@dg.asset_check(asset=bars)
def sessions_have_no_gaps(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, market: MarketResource, settings: SettingsResource
) -> dg.AssetCheckResult:
    """No more than FX_VALIDATION_GAP_BARS_MAX base bars are missing in a row while the market is open."""
    store, base, limit = lake.open(), market.open().base_timeframe(), settings.load().validation.gap_bars_max
    found = []
    for symbol, start, end in symbol_windows(context, store, "bars"):
        own = store.read("bars", symbol=symbol, timeframe=base.value, start=start, end=end)
        gaps = find_gaps(own, base, instrument(symbol), bars_max=limit)
        found.append(gaps.assign(symbol=symbol))
    gaps = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    shown = gaps.assign(start=pd.to_datetime(gaps["start"]).astype(str), end=pd.to_datetime(gaps["end"]).astype(str))
    return dg.AssetCheckResult(
        passed=gaps.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(gaps)} gaps of more than {limit} {base} bars inside sessions",
        metadata={"gaps": len(gaps), "longest": frame_table(shown.sort_values("missing_bars", ascending=False))},
    )


@dg.asset_check(asset=bars)
def bars_are_believable(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, market: MarketResource, settings: SettingsResource
) -> dg.AssetCheckResult:
    """No base bar lies outside the session or spikes."""
    store, base, rules = lake.open(), market.open().base_timeframe(), settings.load().validation
    reasons: dict[str, int] = {}
    for symbol, start, end in symbol_windows(context, store, "bars"):
        own = store.read("bars", symbol=symbol, timeframe=base.value, start=start, end=end)
        for reason, count in split_bars(own, base, instrument(symbol), rules).bad["reason"].value_counts().items():
            reasons[f"{symbol} {reason}"] = int(count)
    return dg.AssetCheckResult(
        passed=not reasons,
        severity=dg.AssetCheckSeverity.WARN,
        description=", ".join(f"{name}: {count}" for name, count in reasons.items()) or "every bar is believable",
        metadata={"by_reason": counts_table(reasons, "symbol and reason")},
    )


@dg.asset_check(asset=raw_ticks)
def ticks_are_fresh(lake: LakeResource, market: MarketResource) -> dg.AssetCheckResult:
    """The lake is no more than a day of open market behind what its source has."""
    store, source = lake.open(), market.open()
    behind: dict[str, int] = {}
    loaded = {keys["symbol"] for keys in store.keys("ticks")}
    for symbol in loaded.intersection(source.symbols()):
        _, end = source.span(symbol)
        last = query_table(store, "ticks", "SELECT max(time) AS last FROM ticks WHERE symbol = $symbol", symbol=symbol)
        newest = int(last["last"].iloc[0]) if len(last) and pd.notna(last["last"].iloc[0]) else 0
        hours = staleness_ns(newest, end, instrument(symbol)) / HOUR_NS if newest else float("inf")
        if hours > 24:
            behind[symbol] = int(min(hours, 1e9))
    return dg.AssetCheckResult(
        passed=not behind,
        severity=dg.AssetCheckSeverity.WARN,
        description=", ".join(f"{symbol} is {hours} open hours behind" for symbol, hours in behind.items())
        or "every symbol is as new as its source",
        metadata={"hours_behind": counts_table(behind, "symbol")},
    )
