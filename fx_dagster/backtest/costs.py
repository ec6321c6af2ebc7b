"""What a round trip costs."""

import numpy as np
import pandas as pd

from fx_dagster.decision.rows import Float64
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.tick_model import model_spread
from fx_dagster.settings import CostSettings


def bar_spreads(bars: pd.DataFrame, instrument: Instrument) -> Float64:
    """Return each bar's spread in price: its own where it has one, else the modelled one of its hour; float64 [n]."""
    own = bars["spread"].to_numpy(dtype=np.float64)
    points = np.where(np.isfinite(own) & (own > 0), own, model_spread(bars["time"].to_numpy(np.int64), instrument))
    return np.asarray(points * instrument.point, dtype=np.float64)


def round_trip_cost(
    bars: pd.DataFrame, instrument: Instrument, cost: CostSettings, *, conversion: Float64 | float | None = None
) -> Float64:
    """Return spread, slippage and commission of one round trip as a fraction of price, for each bar; float64 [n].

    Args:
        bars: BARS.
        instrument: gives point, contract size and currencies.
        cost: commission a lot and side, in US dollars; slippage in points a fill.
        conversion: dollars per unit of the profit currency. None: 1 where profit is in dollars; for all others a unit
            of the base currency is counted as one dollar, which is exact where it is the dollar and near it elsewhere.
    """
    close = bars["close"].to_numpy(dtype=np.float64)
    spread = bar_spreads(bars, instrument) + 2.0 * cost.slippage_points * instrument.point
    if conversion is None:
        conversion = 1.0 if instrument.profit_currency == "USD" else 1.0 / close
    notional = close * instrument.contract_size * conversion
    return np.asarray(spread / close + 2.0 * cost.commission_per_lot / notional, dtype=np.float64)
