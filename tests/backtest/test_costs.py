import numpy as np
import pytest

from fx_dagster.backtest.costs import bar_spreads, round_trip_cost
from fx_dagster.market.instruments import instrument
from fx_dagster.settings import CostSettings

COST = CostSettings(commission_per_lot=3.5, slippage_points=2.0)


def test_a_bars_own_spread_or_else_the_modelled_one(make_bars):
    bars = make_bars("EURUSD", 48, 1)
    bars.loc[5, "spread"], bars.loc[6, "spread"], bars.loc[7, "spread"] = 23.0, 0.0, np.nan
    spread = bar_spreads(bars, instrument("EURUSD"))
    assert spread[5] == pytest.approx(0.00023)
    assert np.isfinite(spread).all()
    assert (spread[[6, 7]] > 0).all()


def test_round_trip_of_euro_dollar_and_dollar_yen(make_bars):
    bars = make_bars("EURUSD", 3, 1).assign(close=1.25, spread=10.0)
    cost = round_trip_cost(bars, instrument("EURUSD"), COST)
    assert cost == pytest.approx([(0.0001 + 0.00004) / 1.25 + 7.0 / 125_000] * 3)
    yen = bars.assign(close=150.0)
    assert round_trip_cost(yen, instrument("USDJPY"), COST) == pytest.approx([0.014 / 150 + 7.0 / 100_000] * 3)
    crossed = round_trip_cost(bars, instrument("EURGBP"), COST, conversion=1.27)
    assert crossed == pytest.approx([0.00014 / 1.25 + 7.0 / (125_000 * 1.27)] * 3)
