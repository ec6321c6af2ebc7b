"""What followed chart patterns: counted by hand beside the asset, on real data in this process."""

from dataclasses import replace

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from assets.models import read_dataset, split
from assets.patterns import EVERY_BAR, NAMES, _not_overlapping, _wilson, history_of, wrong_counts
from assets.run_shape import RunShape
from fx_dagster.errors import DataError
from fx_dagster.features.windows import Windows
from fx_dagster.live.caches import POOLED
from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.patterns import PATTERNS, label_patterns
from fx_dagster.settings import CacheSettings, load_settings
from resources.cache import PATTERN_HISTORY, SharedCache, pattern_facts
from resources.dagster_resources import MarketResource

HORIZON = 6


@pytest.fixture(scope="module")
def rows():
    """Two symbols of random candles, 700 bars each."""
    rng = np.random.default_rng(5)
    bars, at, count = [], [], 700
    for symbol in range(2):
        close = 1.1 * np.exp(np.cumsum(2e-4 * rng.standard_normal(count + 47)))
        opens = np.concatenate([close[:1], close[:-1]])
        wick = np.abs(1e-4 * rng.standard_normal((2, count + 47)))
        high, low = np.maximum(opens, close) + wick[0], np.minimum(opens, close) - wick[1]
        bars.append(np.column_stack([opens, high, low, close, rng.integers(50, 150, count + 47)]).astype(np.float64))
        at.append(symbol * (count + 47) + 47 + np.arange(count))
    code = np.tile(np.array([0, 1], np.int16), count)
    places = np.column_stack(at).reshape(-1)
    returns = 1e-3 * rng.standard_normal(2 * count)
    time = 1_483_228_800_000_000_000 + np.repeat(np.arange(count), 2) * HOUR_NS
    return Dataset(
        X=np.zeros((2 * count, 1), np.float32), y=(returns > 0).astype(np.int8), time=time,
        end_time=time + HORIZON * HOUR_NS, symbol_code=code, forward_return=returns, cost=np.full(2 * count, 1e-4),
        symbols=("AAABBB", "CCCDDD"), feature_names=("f",), feature_hash="h", base=Timeframe.H1, horizon_bars=HORIZON,
        windows=Windows(
            np.zeros((2 * (count + 47), 16), np.float32), (np.concatenate(bars),), np.column_stack([places, places])
        ),
    )  # fmt: skip


def by_hand(rows, name, symbol):
    """Count one pattern of one symbol in a loop."""
    labels = label_patterns(rows.windows.window(0))
    returns, independent, free_from = [], 0, -1
    for k in range(len(rows)):
        if symbol not in (POOLED, rows.symbols[rows.symbol_code[k]]):
            continue
        if name != EVERY_BAR and not labels[k, PATTERNS.index(name)]:
            continue
        returns.append(rows.forward_return[k])
        if rows.time[k] >= free_from:
            independent, free_from = independent + 1, rows.end_time[k]
    return len(returns), independent, sum(one > 0 for one in returns), np.mean(returns) if returns else np.nan


@pytest.mark.parametrize("symbol", ["AAABBB", "CCCDDD", POOLED])
def test_every_number_is_what_a_loop_counts(rows, symbol):
    table = history_of(rows)
    assert wrong_counts(table, rows.symbols, len(rows)) == []
    own = table[table["symbol"] == symbol].set_index("pattern")
    assert list(own.index) == list(NAMES)
    assert own.loc[list(PATTERNS), "count"].sum() > 50
    for name, found in own.iterrows():
        count, independent, rises, mean = by_hand(rows, name, symbol)
        assert (found["count"], found["independent"], found["rises"]) == (count, independent, rises), name
        np.testing.assert_allclose(found["mean_return"], mean, rtol=1e-12)
        np.testing.assert_allclose([found["long_return"], found["short_return"]], [mean - 1e-4, -mean - 1e-4])


def test_rows_without_windows_show_no_chart(rows):
    with pytest.raises(DataError, match="windows"):
        history_of(replace(rows, windows=None))


def test_no_rows_are_no_numbers(rows):
    table = history_of(rows.take(np.array([], dtype=np.intp)))
    assert (table["count"] == 0).all()
    assert table["share"].isna().all()
    assert wrong_counts(table, rows.symbols, 0) == []


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("count", 1), ("rises", 1), ("independent", 10_000), ("share", 0.5), ("low", 0.6), ("high", -0.6),
        ("mean_return", float("nan")), ("rises", -1_000),
    ],
)  # fmt: skip
def test_a_wrong_number_is_told(rows, column, change):
    for place in (0, len(NAMES) - 1, -1):
        table = history_of(rows)
        assert table.iloc[place]["count"] > 0
        table.loc[table.index[place], column] += change
        assert wrong_counts(table, rows.symbols, len(rows))


def test_lacking_rows_columns_and_bars_are_told(rows):
    table = history_of(rows)
    assert wrong_counts(table.iloc[:-1], rows.symbols, len(rows))
    assert wrong_counts(table, (*rows.symbols, "EEEFFF"), len(rows))
    assert wrong_counts(table.drop(columns="low"), rows.symbols, len(rows)) == ["no column low"]
    assert wrong_counts(table, rows.symbols, len(rows) + 1) == [f"{len(rows)} bars counted of {len(rows) + 1}"]


@given(st.integers(1, 500), st.data())
def test_the_interval_is_wilsons_and_contains_the_share(n, data):
    right = data.draw(st.integers(0, n))
    low, high = _wilson(right / n, n)
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= low <= right / n <= high <= 1


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=30))
def test_chosen_horizons_are_as_many_as_a_walk_finds(spans):
    spans = sorted(spans, key=lambda span: span[0])
    time = np.array([start for start, _ in spans], dtype=np.int64)
    end = np.array([start + length for start, length in spans], dtype=np.int64)
    chosen, free_from = 0, -1
    for start, until in zip(time, end, strict=True):
        if start >= free_from:
            chosen, free_from = chosen + 1, until
    assert _not_overlapping(time, end) == chosen


@pytest.fixture(scope="module")
def run(filled):
    """Run the asset, or its check alone."""

    def materialise(*, only_check=False):
        chosen = dg.AssetSelection.assets(PATTERN_HISTORY)
        job = dg.define_asset_job(
            "patterns_test",
            selection=dg.AssetSelection.checks_for_assets(PATTERN_HISTORY) if only_check else chosen,
            executor_def=dg.in_process_executor,
        )
        definitions = dg.Definitions.merge(filled.definitions, dg.Definitions(jobs=[job]))
        return definitions.resolve_job_def("patterns_test").execute_in_process(
            instance=filled.instance, raise_on_error=False
        )

    return materialise


def test_the_asset_counts_outside_the_holdout_and_is_read_through_the_cache(filled, run):
    result = run()
    assert result.success
    checked = result.get_asset_check_evaluations()
    assert [(one.check_name, one.passed) for one in checked] == [("counts_of_patterns_add_up", True)]
    settings, shape = load_settings(), RunShape.of(MarketResource().open())
    dataset = read_dataset(filled.lake, shape, settings)
    before = dataset.take(split(dataset, shape, settings).holdout.train)
    assert len(before) < len(dataset)
    kept = filled.lake.read(PATTERN_HISTORY)
    pd.testing.assert_frame_equal(kept, history_of(before), check_dtype=False)
    shown = {
        name: one.value for name, one in result.asset_materializations_for_node(PATTERN_HISTORY)[0].metadata.items()
    }
    assert shown["rows"] == len(before)
    assert len(shown["pooled"].records) == len(NAMES)
    facts = pattern_facts(
        SharedCache("", CacheSettings()), filled.lake, feature_hash=shape.catalogue.hash, source="sample",
        symbol="EURUSD", patterns=[EVERY_BAR],
    )  # fmt: skip
    assert [(fact.symbol, fact.count) for fact in facts] == [("EURUSD", len(before)), (POOLED, len(before))]


def test_what_does_not_add_up_blocks(filled, run):
    kept, told = filled.lake.read(PATTERN_HISTORY), filled.lake.metadata(PATTERN_HISTORY)
    try:
        for table, metadata in (
            (kept.assign(rises=kept["rises"] + 1), told),
            (kept, {**told, "rows": str(int(told["rows"]) + 1)}),
            (kept, {**told, "feature_hash": "another"}),
        ):
            filled.lake.write(PATTERN_HISTORY, table, metadata=metadata)
            (found,) = run(only_check=True).get_asset_check_evaluations()
            assert not found.passed
            assert found.severity is dg.AssetCheckSeverity.ERROR
    finally:
        filled.lake.write(PATTERN_HISTORY, kept, metadata=told)
