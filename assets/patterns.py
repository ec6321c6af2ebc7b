"""What followed each named chart pattern in history: numbers that explain a decision, and no input of one."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.features import features, labels
from assets.metadata import frame_table
from assets.models import read_dataset, split
from assets.run_shape import RunShape
from fx_dagster.errors import DataError
from fx_dagster.live.caches import POOLED, PatternFact
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.patterns import PATTERNS, label_patterns
from resources.cache import PATTERN_HISTORY
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource

GROUP = "evaluation"
OWNERS = ["team:research"]
EVERY_BAR = "every_bar"
"""Not a pattern: all bars, to compare with."""
NAMES = (*PATTERNS, EVERY_BAR)
Z = 1.959963984540054
"""Quantile of the normal distribution for a 95 % interval."""


def history_of(rows: Dataset) -> pd.DataFrame:
    """Return what followed each pattern of the base timeframe, by symbol and over all together.

    Args:
        rows: with windows; a pattern is told at the close of the row's bar.

    Returns:
        A row of :class:`fx_dagster.live.caches.PatternFact` for each of :data:`NAMES` and each symbol, then for
        :data:`NAMES` pooled. Where a pattern never stood, share, interval and returns are NaN.

    Raises:
        DataError: the rows have no windows.
    """
    if rows.windows is None:
        raise DataError("rows without windows show no chart", mend="build them with Dataset.from_frames")
    labelled = [label_patterns(part.windows.window(0)) for part in rows.parts() if part.windows is not None]
    stands = np.concatenate([*labelled, np.empty((0, len(PATTERNS)), np.int8)]).astype(bool)
    stands = np.column_stack([stands, np.ones(len(rows), dtype=bool)])
    return pd.DataFrame(list(_facts(rows, stands)))


def _facts(rows: Dataset, stands: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    owners = [(symbol, rows.symbol_code == code) for code, symbol in enumerate(rows.symbols)]
    for symbol, own in [*owners, (POOLED, np.ones(len(rows), dtype=bool))]:
        for column, name in enumerate(NAMES):
            yield {"pattern": name, "symbol": symbol, **_followed(rows, np.flatnonzero(stands[:, column] & own))}


def _followed(rows: Dataset, places: NDArray[np.intp]) -> dict[str, Any]:
    """Return the numbers of the rows at ``places``."""
    count, rises = len(places), int((rows.forward_return[places] > 0).sum())
    independent = _not_overlapping(rows.time[places], rows.end_time[places])
    share = rises / count if count else np.nan
    low, high = _wilson(share, independent)
    mean = float(rows.forward_return[places].mean()) if count else np.nan
    cost = float(rows.cost[places].mean()) if count else np.nan
    return {
        "horizon_bars": rows.horizon_bars,
        "count": count,
        "independent": independent,
        "rises": rises,
        "share": share,
        "low": low,
        "high": high,
        "mean_return": mean,
        "long_return": mean - cost,
        "short_return": -mean - cost,
    }


def _not_overlapping(time: NDArray[np.int64], end_time: NDArray[np.int64]) -> int:
    """Return how many of these horizons can be chosen, the earliest first, so that none begins before another ends.

    Over several symbols one clock counts for all: what they do at the same time is not independent either.
    """
    chosen = at = 0
    while at < len(time):
        chosen += 1
        at = max(int(np.searchsorted(time, end_time[at], side="left")), at + 1)
    return chosen


def _wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share that rests on ``n`` independent observations (Wilson 1927)."""
    if not n:
        return np.nan, np.nan
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * float(np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))) / (1 + Z * Z / n)
    # At 0 and 1 the bound is the share itself, up to rounding.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


@dg.asset(
    name=PATTERN_HISTORY,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"numpy"},
    deps=[features, labels],
    description="""What followed each named chart pattern of the base timeframe, the holdout left out.

By symbol and pooled: at how many bars it stood, after how many of them the price was higher when the label's horizon
was over, and the mean return before costs and, for a position of either side, after them; `every_bar` is what followed
any bar. The 95 % interval rests on occurrences whose horizons do not overlap: what stands for five bars in a row was
seen once. Of this many intervals, one in twenty misses by chance. It explains decisions, and decides none.""",
)
def pattern_history(market: MarketResource, lake: LakeResource, settings: SettingsResource) -> dg.MaterializeResult:
    """Count, store and show."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    dataset = read_dataset(store, shape, chosen)
    holdout = split(dataset, shape, chosen).holdout
    rows = dataset if holdout is None else dataset.take(holdout.train)
    table = history_of(rows)
    metadata = {"feature_hash": dataset.feature_hash, "rows": str(len(rows))}
    store.write(PATTERN_HISTORY, table, metadata=metadata)
    pooled = table[table["symbol"] == POOLED].drop(columns="symbol")
    return dg.MaterializeResult(
        metadata={
            "rows": len(rows),
            "horizon_bars": dataset.horizon_bars,
            "pooled": frame_table(pooled, digits=6),
            "by_symbol": frame_table(table[table["symbol"] != POOLED], digits=6),
        }
    )


@dg.asset_check(asset=pattern_history, blocking=True)
def counts_of_patterns_add_up(market: MarketResource, lake: LakeResource) -> dg.AssetCheckResult:
    """Every pattern is counted, symbols add up to what is pooled, and intervals contain their share."""
    store, shape = lake.open(), RunShape.of(market.open())
    table, told = store.read(PATTERN_HISTORY), store.metadata(PATTERN_HISTORY)
    wrong = wrong_counts(table, shape.symbols, int(told["rows"]))
    if told["feature_hash"] != shape.catalogue.hash:
        wrong.append("computed from another feature catalogue")
    return dg.AssetCheckResult(
        passed=not wrong,
        description="; ".join(wrong[:5]) if wrong else f"{len(table)} numbers of {told['rows']} bars",
        metadata={"wrong": len(wrong)},
    )


def wrong_counts(table: pd.DataFrame, symbols: tuple[str, ...], rows: int) -> list[str]:
    """Return what is wrong with a pattern history of ``rows`` bars; empty: nothing is."""
    lacking = set(PatternFact.__annotations__) - set(table.columns)
    if lacking:
        return [f"no column {', '.join(sorted(lacking))}"]
    wanted = {(name, symbol) for name in NAMES for symbol in (*symbols, POOLED)}
    found = list(zip(table["pattern"], table["symbol"], strict=True))
    if set(found) != wanted or len(found) != len(wanted):
        return [f"{len(found)} rows, {len(wanted)} pairs of pattern and symbol"]
    wrong = []
    for name, own in table.groupby("pattern", sort=False):
        pooled, parts = own[own["symbol"] == POOLED].iloc[0], own[own["symbol"] != POOLED]
        wrong += [
            f"{name}: {parts[column].sum()} {column} by symbol, {pooled[column]} pooled"
            for column in ("count", "rises")
            if parts[column].sum() != pooled[column]
        ]
        if name == EVERY_BAR and pooled["count"] != rows:
            wrong.append(f"{pooled['count']} bars counted of {rows}")
    return wrong + [
        f"{row.pattern} of {row.symbol or 'all'}: {row.rises} of {row.count}, interval {row.low} to {row.high}"
        for row in table[~_is_possible(table)].itertuples()
    ]


def _is_possible(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows are counts and an interval that can be."""
    count, rises, share = table["count"].to_numpy(), table["rises"].to_numpy(), table["share"].to_numpy(np.float64)
    independent = table["independent"].to_numpy()
    low, high = table["low"].to_numpy(np.float64), table["high"].to_numpy(np.float64)
    numbers = table[["share", "low", "high", "mean_return", "long_return", "short_return"]].to_numpy(np.float64)
    seen = count > 0
    counted = (rises >= 0) & (rises <= count) & (independent <= count) & ((independent > 0) == seen)
    right = np.isclose(share * count, rises) & (low >= 0) & (low <= share) & (share <= high) & (high <= 1)
    return counted & np.where(seen, right & np.isfinite(numbers).all(axis=1), rises == 0)
