"""Checks of indicators, features and labels: finite, alive, from one catalogue, and free of tomorrow."""

from collections.abc import Mapping

import dagster as dg
import numpy as np
import pandas as pd

from assets.features import features, indicators, labels, read_peers
from assets.lake_frames import read_bars
from assets.market_data_checks import checked_months, collect, schema_outcome, symbol_windows
from assets.metadata import counts_table
from assets.run_shape import RunShape
from fx_dagster.features.batch import compute_features
from fx_dagster.features.checks import (
    CheckResult,
    constant,
    look_ahead,
    not_finite,
    out_of_training_range,
    training_range,
)
from fx_dagster.indicators.catalogue import INDICATOR_COLUMNS
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import LABEL_SCHEMA, SchemaMismatchError, feature_schema, indicator_schema
from fx_dagster.market.timeframes import Timeframe, bar_close
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource

CUTS = 4
"""Places at which history is cut off to look for look-ahead."""

ROWS_OF_A_CUT = 400
"""Bars before each cut that are computed again, warm-up aside."""


def outcome(results: dict[str, CheckResult], *, warn: bool = False) -> dg.AssetCheckResult:
    """Join one result a symbol into a check result that names the offending features."""
    failed = {symbol: result for symbol, result in results.items() if not result.passed}
    offending = {f"{symbol} {name}": n for symbol, result in failed.items() for name, n in result.offending.items()}
    rows = sum(result.rows for result in results.values())
    return dg.AssetCheckResult(
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN if warn else dg.AssetCheckSeverity.ERROR,
        description="; ".join(f"{symbol}: {result.summary}" for symbol, result in failed.items())
        or f"passed on {rows:,} rows",
        metadata={"rows": rows, "offending": counts_table(offending, "symbol and feature")},
    )


@dg.asset_check(asset=indicators, blocking=True)
def indicators_keep_their_schema(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, market: MarketResource
) -> dg.AssetCheckResult:
    """Every catalogue column is there as float64, and once warm stays finite (pandera)."""
    store, base = lake.open(), market.open().base_timeframe()
    failures: list[SchemaMismatchError] = []
    rows, broken = 0, dict[str, int]()
    for symbol, start, end in symbol_windows(context, store, "indicators"):
        frame = store.read("indicators", symbol=symbol, timeframe=base.value, start=start, end=end)
        rows += len(frame)
        collect(failures, frame, indicator_schema(INDICATOR_COLUMNS))
        for name in INDICATOR_COLUMNS:
            finite = np.isfinite(frame[name].to_numpy(np.float64))
            first = int(finite.argmax()) if finite.any() else len(finite)
            lost = int((~finite[first:]).sum())
            if lost:
                broken[f"{symbol} {name}"] = lost
    if broken and not failures:
        return dg.AssetCheckResult(
            passed=False,
            description=f"{len(broken)} indicators are not finite after warm-up",
            metadata={"not_finite": counts_table(broken, "symbol and column")},
        )
    return schema_outcome(failures, rows)


@dg.asset_check(asset=features, blocking=True)
def features_are_finite(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, market: MarketResource
) -> dg.AssetCheckResult:
    """Every feature of the catalogue is there as float32 and finite in every row."""
    names = RunShape.of(market.open()).catalogue.names
    results: dict[str, CheckResult] = {}
    failures: list[SchemaMismatchError] = []
    for symbol, start, end in symbol_windows(context, lake.open(), "features"):
        frame = lake.open().read("features", symbol=symbol, start=start, end=end)
        if frame.empty:
            continue
        results[symbol] = not_finite(frame)
        if results[symbol].passed:
            collect(failures, frame, feature_schema(names))
    return schema_outcome(failures, 0) if failures else outcome(results)


@dg.asset_check(asset=features)
def features_vary(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """No feature has one single value."""
    results = {
        symbol: constant(frame)
        for symbol, start, end in symbol_windows(context, lake.open(), "features")
        if len(frame := lake.open().read("features", symbol=symbol, start=start, end=end))
    }
    return outcome(results, warn=True)


@dg.asset_check(asset=features, blocking=True)
def features_come_from_this_catalogue(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, market: MarketResource
) -> dg.AssetCheckResult:
    """The hash in each file is that of the catalogue this code computes."""
    expected, store = RunShape.of(market.open()).catalogue.hash, lake.open()
    wrong = [
        f"{symbol} {month}"
        for symbol, months in checked_months(context, store, "features").items()
        for month in months
        if store.metadata("features", symbol=symbol, month=month).get("feature_hash") != expected
    ]
    return dg.AssetCheckResult(
        passed=not wrong,
        description=f"other catalogues: {', '.join(wrong[:5])}" if wrong else f"catalogue {expected[:12]}",
        metadata={"feature_hash": expected},
    )


@dg.asset_check(asset=features, blocking=True)
def features_know_no_tomorrow(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, market: MarketResource, settings: SettingsResource
) -> dg.AssetCheckResult:
    """Computed again on history cut off at several places, every earlier row is the same to the last bit."""
    shape, store, warmup = RunShape.of(market.open()), lake.open(), settings.load().feature.warmup_bars
    results: dict[str, CheckResult] = {}
    for symbol, start, end in symbol_windows(context, store, "features"):
        history = read_bars(store, symbol, shape.catalogue.timeframes, start=start, end=end, history_bars=warmup)
        peers = read_peers(store, shape, symbol, start, end, warmup)
        window = _last_rows(history[shape.base], warmup + CUTS * ROWS_OF_A_CUT)
        if len(window) < warmup + CUTS:
            continue
        closes = bar_close(window["time"].to_numpy(np.int64), shape.base)
        places = np.linspace(warmup, len(window) - 2, CUTS).astype(np.intp)
        bars = {**history, shape.base: window}

        def compute(
            bars: Mapping[Timeframe, pd.DataFrame], peers: Mapping[str, pd.DataFrame], symbol: str = symbol
        ) -> pd.DataFrame:
            return compute_features(bars, shape.catalogue, instrument=instrument(symbol), peers=peers or None)

        results[symbol] = look_ahead(
            bars, compute, shape.base, cuts=[int(closes[place]) for place in places], peers=peers
        )
    return outcome(results)


def _last_rows(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    return frame.iloc[-rows:].reset_index(drop=True)


@dg.asset_check(asset=features)
def features_stay_in_range(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """The newest month of the run lies where the months before it lay; meaningful from the second month on."""
    results: dict[str, CheckResult] = {}
    for symbol, _, end in symbol_windows(context, lake.open(), "features"):
        frame = lake.open().read("features", symbol=symbol, end=end)
        month = max(checked_months(context, lake.open(), "features")[symbol])
        newest = frame["time"] >= pd.Timestamp(f"{month}-01", tz="UTC").value
        if newest.sum() >= 100 and (~newest).sum() >= 1000:
            results[symbol] = out_of_training_range(frame[newest], training_range(frame[~newest]), share_max=0.05)
    return outcome(results, warn=True)


@dg.asset_check(asset=labels, blocking=True)
def labels_keep_their_schema(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """Returns and costs are finite, outcomes known after they begin (pandera)."""
    failures: list[SchemaMismatchError] = []
    rows = 0
    for symbol, start, end in symbol_windows(context, lake.open(), "labels"):
        frame = lake.open().read("labels", symbol=symbol, start=start, end=end)
        rows += len(frame)
        collect(failures, frame, LABEL_SCHEMA)
    return schema_outcome(failures, rows)


@dg.asset_check(asset=labels)
def labels_are_balanced(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """Between 40 and 60 of a hundred labels are rises, over at least 500 rows."""
    shares: dict[str, float] = {}
    for symbol, start, end in symbol_windows(context, lake.open(), "labels"):
        up = lake.open().read("labels", symbol=symbol, start=start, end=end, columns=["time", "up"])["up"]
        if len(up) >= 500:
            shares[symbol] = float(up.mean())
    odd = [f"{symbol}: {share:.1%} rises" for symbol, share in shares.items() if not 0.4 <= share <= 0.6]
    return dg.AssetCheckResult(
        passed=not odd,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(odd) or "rises and falls are balanced",
        metadata={f"up_share_{symbol}": share for symbol, share in shares.items()},
    )
