import pandas as pd
import pytest

from fx_dagster.backtest.replay import replay
from fx_dagster.backtest.sweep import sweep
from fx_dagster.errors import SettingsError

ACCOUNT = {"initial_balance": 10_000.0, "leverage": 30.0}


@pytest.fixture
def configs(make_config):
    return [make_config(stop_atr=stop, combine=way) for stop in (1.5, 2.0, 3.0) for way in ("parallel", "hybrid")]


def test_a_sweep_is_its_single_replays_in_order(make_history, configs):
    history = make_history(skill=0.1)
    table = sweep(history, configs, **ACCOUNT)
    assert list(table.columns[:2]) == ["combine", "stop_atr"]
    assert table["stop_atr"].tolist() == [config.stop_atr for config in configs]
    for row, config in enumerate(configs):
        alone = replay(history, config, **ACCOUNT)
        assert table.loc[row, list(alone.metrics)].to_dict() == pytest.approx(alone.metrics, rel=0, abs=0, nan_ok=True)
        assert table.loc[row, "rejected"] == alone.rejected


def test_the_number_of_threads_changes_nothing(make_history, configs):
    one, three = (sweep(make_history(), configs, **ACCOUNT, threads=threads) for threads in (1, 3))
    pd.testing.assert_frame_equal(one, three)


def test_one_configuration_is_one_row_and_none_is_none(make_history, configs):
    table = sweep(make_history(), configs[:1], **ACCOUNT)
    assert len(table) == 1
    assert "combine" not in table.columns
    assert sweep(make_history(), [], **ACCOUNT).empty


def test_an_impossible_configuration_is_named(make_history, configs):
    with pytest.raises(SettingsError, match="stop_atr"):
        sweep(make_history(), [configs[0], configs[0]._replace(stop_atr=0.0)], **ACCOUNT)
