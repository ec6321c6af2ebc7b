import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.market.bars import ticks_to_bars
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import BAR_SCHEMA, TICK_SCHEMA, empty_bars, empty_ticks, tick_frame, validate
from fx_dagster.market.tick_model import model_ticks
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, Timeframe, bar_close
from fx_dagster.market.validation import (
    Quarantined,
    Reason,
    bars_agree_with_reference,
    bars_agree_with_ticks,
    find_gaps,
    split_bars,
    split_ticks,
    staleness_ns,
)
from fx_dagster.settings import ValidationSettings

EURUSD, GOLD = instrument("EURUSD"), instrument("XAUUSD")
RULES = ValidationSettings()


def ns(text: str) -> int:
    return int(pd.Timestamp(text).as_unit("ns").value)


def walk(rows: int, seed: int = 3) -> np.ndarray:
    return np.round(1.1 + np.cumsum(np.random.default_rng(seed).normal(0, 2e-5, rows)), 5)


def reasons(split: Quarantined) -> dict[str, int]:
    return {str(reason): int(count) for reason, count in split.bad["reason"].value_counts().items()}


class TestTicks:
    def test_clean_ticks_stay(self, make_ticks):
        ticks = make_ticks(walk(500))
        split = split_ticks(ticks, EURUSD, RULES)
        pd.testing.assert_frame_equal(split.good, ticks)
        assert split.bad.empty
        assert split.bad.columns.tolist() == [*ticks.columns, "reason"]

    @pytest.mark.parametrize(
        ("column", "value", "reason"),
        [
            ("bid", np.nan, "not_finite"),
            ("ask", np.inf, "not_finite"),
            ("volume", np.nan, "not_finite"),
            ("bid", 0.0, "non_positive"),
            ("bid", -1.1, "non_positive"),
            ("volume", -1.0, "non_positive"),
            ("ask", 1.0, "crossed"),
            ("ask", 1.2, "spread"),
            ("flags", 1 << 11, "inconsistent"),
            ("time", ns("2017-03-18 12:00"), "order"),  # in the future of its feed
            ("time", ns("2017-03-15 08:00"), "order"),  # and in its past
        ],
    )
    def test_one_bad_tick_is_put_aside_and_no_other(self, make_ticks, column: str, value: float, reason: str):
        ticks = make_ticks(walk(500))
        ticks.loc[250, column] = value
        split = split_ticks(ticks, EURUSD, RULES)
        assert reasons(split) == {reason: 1}
        pd.testing.assert_frame_equal(split.good, ticks.drop(index=250).reset_index(drop=True))
        pd.testing.assert_frame_equal(split.bad.drop(columns="reason"), ticks.loc[[250]].reset_index(drop=True))

    def test_spike_and_jump(self, make_ticks):
        bid = walk(500)
        bid[250] += 0.01
        bid[400:] += 0.01
        split = split_ticks(make_ticks(bid), EURUSD, RULES)
        assert reasons(split) == {"spike": 1}
        assert split.bad["bid"].tolist() == [bid[250]]

    def test_a_quote_that_is_repeated_is_put_aside_and_one_that_comes_again_is_not(self, make_ticks):
        time = np.array([0, 1, 1, 2, 2, 2, 3]) * 1_000_000 + ns("2017-03-15 09:00")
        ticks = make_ticks([1.1, 1.2, 1.2, 1.1, 1.2, 1.1, 1.1], time=time)
        split = split_ticks(ticks, EURUSD, RULES.model_copy(update={"spike_robust_z": 1e9}))
        assert reasons(split) == {"duplicate": 1}
        assert split.good["time"].tolist() == time[[0, 1, 3, 4, 5, 6]].tolist()

    def test_a_burst_in_one_millisecond_is_kept_whole(self, make_ticks):
        bid = walk(200)
        bid[1:] += (np.diff(bid) == 0) * 1e-5
        ticks = make_ticks(bid, time=np.full(200, ns("2017-03-15 09:00")))
        ticks = ticks[np.append(True, np.diff(ticks["bid"]) != 0)].reset_index(drop=True)
        assert len(split_ticks(ticks, EURUSD, RULES).good) == len(ticks)

    def test_a_block_that_comes_twice_is_a_duplicate_not_disorder(self, make_ticks):
        ticks = make_ticks(walk(100))
        twice = pd.concat([ticks, ticks.iloc[20:60], make_ticks(walk(100)).assign(time=ticks["time"] + 10**12)])
        split = split_ticks(twice.reset_index(drop=True), EURUSD, RULES)
        assert reasons(split) == {"duplicate": 40}

    def test_a_run_of_future_times_does_not_condemn_the_rest(self, make_ticks):
        ticks = make_ticks(walk(500))
        ticks.loc[250:252, "time"] += DAY_NS
        split = split_ticks(ticks, EURUSD, RULES)
        assert reasons(split) == {"order": 3}

    @settings(max_examples=60, deadline=None)
    @given(steps=st.lists(st.integers(0, 12), min_size=1, max_size=9))
    def test_as_few_rows_as_possible_are_out_of_order(self, steps: list[int]):
        time = ns("2017-03-15 09:00") + np.array(steps) * 1_000_000_000
        rows = len(time)
        ticks = tick_frame(time, np.full(rows, 1.1), np.full(rows, 1.1001), np.arange(rows), np.zeros(rows))
        chosen = (np.flatnonzero([bits >> row & 1 for row in range(rows)]) for bits in range(2**rows))
        longest = max(len(kept) for kept in chosen if (np.diff(time[kept]) >= 0).all())
        split = split_ticks(ticks, EURUSD, RULES)
        assert len(split.good) == longest
        assert (np.diff(split.good["time"]) >= 0).all()

    def test_weekend_ticks_are_outside_and_edges_are_not(self, make_ticks):
        times = ["2017-01-13 21:59", "2017-01-13 22:30", "2017-01-14 12:00", "2017-01-15 21:30", "2017-01-15 22:00"]
        split = split_ticks(make_ticks([1.1] * 5, time=[ns(text) for text in times]), EURUSD, RULES)
        assert reasons(split) == {"outside_session": 1}
        assert split.bad["time"].tolist() == [ns("2017-01-14 12:00")]

    def test_a_wide_spread_is_judged_by_its_neighbours(self, make_ticks):
        wide_always = make_ticks(walk(300), spread=0.02)
        assert split_ticks(wide_always, EURUSD, RULES).bad.empty
        wide_once = make_ticks(walk(300))
        wide_once.loc[100:105, "ask"] = wide_once["bid"] + 0.02
        assert reasons(split_ticks(wide_once, EURUSD, RULES)) == {"spread": 6}

    def test_one_row_has_one_reason(self, make_ticks):
        ticks = make_ticks(walk(100))
        ticks.loc[50, ["time", "bid", "ask"]] = [ns("2017-01-14 12:00"), -1.0, -2.0]
        assert reasons(split_ticks(ticks, EURUSD, RULES)) == {"non_positive": 1}

    def test_no_ticks(self):
        split = split_ticks(empty_ticks(), EURUSD, RULES)
        assert split.good.empty
        assert split.bad.columns.tolist() == [*empty_ticks().columns, "reason"]

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_good_and_bad_are_all_rows_unchanged_and_good_ones_satisfy_the_schema(self, data: st.DataObject):
        rows = data.draw(st.integers(1, 60))
        rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
        time = ns("2017-03-15 09:00") + np.sort(rng.integers(0, 5_000, rows)) * 1_000_000
        bid = walk(rows, int(rng.integers(10**6)))
        ticks = tick_frame(time, bid, bid + 1e-4, np.zeros(rows), np.arange(rows))
        dirt = st.tuples(
            st.integers(0, rows - 1),
            st.sampled_from(["bid", "ask", "volume"]),
            st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-9, 5.0, 1e300]),
        )
        for row, column, value in data.draw(st.lists(dirt, max_size=8)):
            ticks.loc[row, column] = value
        moves = st.tuples(st.integers(0, rows - 1), st.integers(-(10**15), 10**15))
        for row, step in data.draw(st.lists(moves, max_size=4)):
            ticks.loc[row, "time"] += step
        split = split_ticks(ticks, EURUSD, RULES)
        validate(split.good, TICK_SCHEMA)
        together = pd.concat([split.good, split.bad.drop(columns="reason")]).sort_values("flags", ignore_index=True)
        pd.testing.assert_frame_equal(together, ticks.sort_values("flags", ignore_index=True))
        assert set(split.bad["reason"]) <= {reason.value for reason in Reason}


class TestBars:
    def test_real_bars_stay(self, sample_bars):
        assert split_bars(sample_bars, Timeframe.H1, EURUSD, RULES).bad.empty
        assert split_ticks(model_ticks(sample_bars, Timeframe.H1, None, EURUSD), EURUSD, RULES).bad.empty

    def test_real_exports_stay(self, exports):
        for (symbol, name), bars in exports.items():
            known, timeframe = instrument(symbol), Timeframe(name)
            assert reasons(split_bars(bars, timeframe, known, RULES)) == {}, (symbol, name)
            assert reasons(split_ticks(model_ticks(bars, timeframe, None, known), known, RULES)) == {}, (symbol, name)

    @pytest.mark.parametrize(
        ("column", "value", "reason"),
        [
            ("close", np.nan, "not_finite"),
            ("spread", np.nan, "not_finite"),
            ("low", 0.0, "non_positive"),
            ("tick_volume", -1.0, "non_positive"),
            ("high", 1.0, "inconsistent"),
            ("low", 1.2, "inconsistent"),
            ("low", 0.11, "spike"),
            ("spread", 9_000.0, "spread"),
        ],
    )
    def test_one_bad_bar_is_put_aside_and_no_other(self, sample_bars, column: str, value: float, reason: str):
        bars = sample_bars.copy()
        bars.loc[3_000, column] = value
        split = split_bars(bars, Timeframe.H1, EURUSD, RULES)
        assert reasons(split) == {reason: 1}
        assert split.bad["time"].tolist() == [bars.loc[3_000, "time"]]
        validate(split.good, BAR_SCHEMA)

    def test_a_close_that_the_next_open_contradicts_is_a_spike(self, sample_bars):
        bars = sample_bars.copy()
        bars.loc[3_000, ["high", "close"]] = bars.loc[3_000, "close"] * 1.05
        assert reasons(split_bars(bars, Timeframe.H1, EURUSD, RULES)) == {"spike": 1}

    def test_a_crash_that_recovers_within_its_bar_is_kept(self, sample_bars):
        bars = sample_bars.copy()
        bars.loc[3_000, "low"] *= 0.94
        assert split_bars(bars, Timeframe.H1, EURUSD, RULES).bad.empty

    def test_a_devaluation_is_kept(self, sample_bars):
        bars = sample_bars.copy()
        bars.loc[3_000:, ["open", "high", "low", "close"]] *= 0.8
        assert split_bars(bars, Timeframe.H1, EURUSD, RULES).bad.empty

    def test_twice_out_of_order_off_the_grid_and_outside(self, sample_bars):
        bars = sample_bars.copy()
        bars.loc[100] = bars.loc[99]
        bars.loc[200, "time"] = bars.loc[150, "time"] + 1
        bars.loc[300, "time"] = ns("2017-01-14 12:00")
        saturday = bars.loc[[0]].assign(time=ns("2017-12-30 12:00"))
        split = split_bars(pd.concat([bars, saturday], ignore_index=True), Timeframe.H1, EURUSD, RULES)
        assert reasons(split) == {"duplicate": 1, "off_grid": 1, "order": 1, "outside_session": 1}

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_good_and_bad_are_all_rows_and_good_ones_satisfy_the_schema(self, data: st.DataObject):
        rows = 40
        price = walk(4 * rows).reshape(rows, 4)
        bars = pd.DataFrame(
            {
                "time": ns("2017-03-15 09:00") + np.arange(rows) * HOUR_NS,
                "open": price[:, 1],
                "high": price.max(axis=1),
                "low": price.min(axis=1),
                "close": price[:, 2],
                "tick_volume": np.arange(rows, dtype=np.float64),
                "spread": 10.0,
            }
        )
        values = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-9, 1.1, 5.0, 1e300])
        dirt = st.tuples(st.integers(0, rows - 1), st.sampled_from(list(bars.columns[1:])), values)
        for row, column, value in data.draw(st.lists(dirt, max_size=8)):
            bars.loc[row, column] = value
        moves = st.tuples(st.integers(0, rows - 1), st.integers(-50, 50))
        for row, hours in data.draw(st.lists(moves, max_size=4)):
            bars.loc[row, "time"] += hours * HOUR_NS
        split = split_bars(bars, Timeframe.H1, EURUSD, RULES)
        validate(split.good, BAR_SCHEMA)
        assert len(split.good) + len(split.bad) == rows
        together = pd.concat([split.good, split.bad.drop(columns="reason")]).to_numpy()
        order = np.lexsort(together.T)
        np.testing.assert_array_equal(together[order], bars.to_numpy()[np.lexsort(bars.to_numpy().T)])

    def test_weeks_and_months_too(self, sample_bars):
        bars = sample_bars.head(1).assign(time=ns("2017-01-15 22:00"))
        assert split_bars(bars, Timeframe.W1, EURUSD, RULES).bad.empty
        assert split_bars(empty_bars(), Timeframe.MN1, EURUSD, RULES).good.empty


class TestGaps:
    def test_weekends_and_holidays_are_none(self, sample_bars):
        assert find_gaps(sample_bars, Timeframe.H1, EURUSD).empty

    def test_names_what_is_missing(self, sample_bars):
        bars = sample_bars.drop(index=[50, 51, 52, 53, 400]).reset_index(drop=True)
        gaps = find_gaps(bars, Timeframe.H1, EURUSD)
        time = sample_bars["time"]
        assert gaps.to_dict("list") == {
            "start": [time[50], time[400]],
            "end": [time[54], time[401]],
            "missing_bars": [4, 1],
        }
        assert len(find_gaps(bars, Timeframe.H1, EURUSD, bars_max=1)) == 1

    def test_a_gap_over_a_weekend_counts_open_hours_only(self, sample_bars):
        time = sample_bars["time"]
        monday = int(np.flatnonzero(np.diff(time) > DAY_NS)[0]) + 1
        bars = sample_bars.drop(index=[monday - 1, monday]).reset_index(drop=True)
        assert find_gaps(bars, Timeframe.H1, EURUSD)["missing_bars"].tolist() == [2]

    def test_golds_break_is_none(self, exports):
        gaps = find_gaps(exports["XAUUSD", "H1"], Timeframe.H1, GOLD, bars_max=RULES.gap_bars_max)
        assert len(gaps) < 10  # American holidays and one outage in seven years

    def test_nothing_has_no_gaps(self):
        assert find_gaps(empty_bars(), Timeframe.H1, EURUSD).empty


class TestAgreement:
    @pytest.fixture
    def ticks(self, make_ticks) -> pd.DataFrame:
        return make_ticks(walk(3_600 * 3))

    def test_with_ticks(self, ticks):
        until = ns("2017-03-15 12:00")
        bars = ticks_to_bars(ticks, Timeframe.M5, EURUSD.point, complete_until=until)
        whole = bars_agree_with_ticks(bars, ticks, Timeframe.M5, EURUSD, complete_until=until)
        assert whole.passed
        assert whole.compared == 36
        for column in ("open", "high", "low", "close", "tick_volume", "spread"):
            changed = bars.copy()
            changed.loc[[7, 9], column] += EURUSD.point
            found = bars_agree_with_ticks(changed, ticks, Timeframe.M5, EURUSD, complete_until=until)
            assert (found.differing, found.first_difference, found.passed) == (2, bars.loc[7, "time"], False)
        less = bars_agree_with_ticks(bars.drop(index=3), ticks, Timeframe.M5, EURUSD, complete_until=until)
        assert (less.missing, less.first_difference, less.passed) == (1, bars.loc[3, "time"], False)

    def test_with_the_sources_own(self, sample_bars):
        ticks = model_ticks(sample_bars, Timeframe.H1, None, EURUSD)
        until = int(bar_close(sample_bars["time"].to_numpy()[-1:], Timeframe.H1)[0])
        bars = ticks_to_bars(ticks, Timeframe.H1, EURUSD.point, complete_until=until)
        assert bars_agree_with_reference(bars, sample_bars, EURUSD).passed
        off = sample_bars.assign(close=sample_bars["close"] + EURUSD.point)
        assert bars_agree_with_reference(bars, off, EURUSD).differing == len(bars)
        noise = sample_bars.assign(close=sample_bars["close"] + EURUSD.point / 100)
        assert bars_agree_with_reference(bars, noise, EURUSD).passed


def test_staleness_counts_open_time():
    friday, monday = ns("2017-01-13 21:00"), ns("2017-01-16 00:00")
    assert staleness_ns(friday, monday, EURUSD) == 3 * HOUR_NS
    assert staleness_ns(friday, monday, GOLD) == 2 * HOUR_NS
    assert staleness_ns(monday, friday, EURUSD) == 0
