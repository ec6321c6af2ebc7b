import pytest

from assets.partitions import months_between, months_by_symbol, months_of_run, range_tags, window
from fx_dagster.market.timeframes import trading_month_window


def test_keys_are_grouped_by_symbol_and_sorted():
    keys = ["2017-02-01|EURUSD", "2017-01-01|EURUSD", "2017-01-01|XAUUSD"]
    assert months_by_symbol(keys) == {"EURUSD": ["2017-01", "2017-02"], "XAUUSD": ["2017-01"]}


def test_a_span_names_every_month_it_touches():
    start, end = trading_month_window("2017-11-01")[0], trading_month_window("2018-02-01")[1]
    assert months_between(start, end) == ["2017-11", "2017-12", "2018-01", "2018-02"]
    assert months_between(start, start + 1) == ["2017-11"]


def test_the_window_of_months_has_no_gap_and_ends_at_17_new_york():
    assert window(["2017-02", "2017-01"]) == (trading_month_window("2017-01")[0], trading_month_window("2017-02")[1])


@pytest.mark.parametrize("months", [["2017-03", "2017-01"], ["2017-01", "2017-03"]])
def test_range_tags_run_from_the_first_to_the_last_month(months):
    assert range_tags("EURUSD", months) == {
        "dagster/asset_partition_range_start": "2017-01-01|EURUSD",
        "dagster/asset_partition_range_end": "2017-03-01|EURUSD",
    }


def test_a_check_is_about_the_months_of_its_run():
    stored = [{"symbol": "XAUUSD", "month": "2018-02"}, {"symbol": "XAUUSD", "month": "2018-01"}]
    assert months_of_run(range_tags("EURUSD", ["2017-11", "2018-01"]), stored) == {
        "EURUSD": ["2017-11", "2017-12", "2018-01"]
    }
    assert months_of_run({"dagster/partition": "2017-02-01|EURUSD"}, stored) == {"EURUSD": ["2017-02"]}
    assert months_of_run({}, stored) == {"XAUUSD": ["2018-01", "2018-02"]}
