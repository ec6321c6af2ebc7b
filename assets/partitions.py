"""Symbol × trading month: the unit in which history is loaded, computed and distributed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
import numpy as np

from fx_dagster.market.timeframes import trading_month, trading_month_window

SYMBOLS = dg.DynamicPartitionsDefinition(name="symbol")
MONTHS = dg.MonthlyPartitionsDefinition(start_date="2003-01-01", end_offset=1)
"""Trading months: the key 2017-02-01 runs from 17:00 New York on 31 January to 17:00 on 28 February.

The current month is included, so that recent data can be loaded before it is over.
"""
FOLLOWS_ITS_INPUTS = dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()
"""The newest month is computed again when its inputs changed and passed their blocking checks."""

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
"""Tags of a run over a range of partitions."""

SYMBOL_MONTHS = dg.MultiPartitionsDefinition({"month": MONTHS, "symbol": SYMBOLS})


def months_by_symbol(keys: Sequence[str]) -> dict[str, list[str]]:
    """Group partition keys ``2017-02-01|EURUSD`` into sorted lake months ``2017-02`` by symbol."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        month, symbol = key.split("|")
        grouped[symbol].append(month[:7])
    return {symbol: sorted(months) for symbol, months in grouped.items()}


def months_between(start: int, end: int) -> list[str]:
    """Return the lake months ``YYYY-MM`` that the span ``[start, end)`` in ns UTC touches, gaps included."""
    first, last = trading_month(np.array([start, end - 1], dtype=np.int64))
    return [str(month) for month in np.arange(first, last + 1)]


def window(months: Iterable[str]) -> tuple[int, int]:
    """Return ``[start, end)`` in ns UTC from the first to the last of sorted lake months."""
    ordered = sorted(months)
    return trading_month_window(ordered[0])[0], trading_month_window(ordered[-1])[1]


def range_tags(symbol: str, months: Sequence[str]) -> dict[str, str]:
    """Return the run tags that make one run of all these months of one symbol."""
    return {
        RANGE_START: f"{min(months)}-01|{symbol}",
        RANGE_END: f"{max(months)}-01|{symbol}",
    }


def months_of_run(tags: Mapping[str, str], stored: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return which lake months of which symbols a check is about.

    A run over partitions names them in its tags; a check that a person starts by itself is about everything stored.

    Args:
        tags: of the run.
        stored: keys of the table's files, each with ``symbol`` and ``month``.
    """
    if start := tags.get(RANGE_START):
        first, symbol = start.split("|")
        last = tags[RANGE_END].split("|")[0]
        return {symbol: [str(month) for month in np.arange(np.datetime64(first, "M"), np.datetime64(last, "M") + 1)]}
    if key := tags.get("dagster/partition"):
        return months_by_symbol([key])
    return months_by_symbol([f"{keys['month']}-01|{keys['symbol']}" for keys in stored])
