"""nautilus_trader's engine: H1 bars with a crossover that trades, or quotes that make bars of nine timeframes.

Arguments: the data, ``bars`` or ``ticks``.
"""

import sys
from decimal import Decimal

import numpy as np
import pandas as pd
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig, RiskEngineConfig, StrategyConfig
from nautilus_trader.indicators import SimpleMovingAverage
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.data import Bar, BarType
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import CurrencyPair
from nautilus_trader.model.objects import Currency, Money, Price, Quantity
from nautilus_trader.persistence.wranglers import BarDataWrangler, QuoteTickDataWrangler
from nautilus_trader.trading.strategy import Strategy
from serve import serve

NINE = ("1-MINUTE", "5-MINUTE", "15-MINUTE", "30-MINUTE", "1-HOUR", "4-HOUR", "1-DAY", "1-WEEK", "1-MONTH")
OUNCES = 100

VENUE = Venue("SIM")
ticks = sys.argv[2] == "ticks"
data = np.load(sys.argv[1])


def pair(base: str, digits: int) -> CurrencyPair:
    """Return what is traded."""
    return CurrencyPair(
        instrument_id=InstrumentId(Symbol(f"{base}/USD"), VENUE), raw_symbol=Symbol(base),
        base_currency=Currency.from_str(base), quote_currency=USD, price_precision=digits, size_precision=0,
        price_increment=Price(10**-digits, digits), size_increment=Quantity.from_int(1), lot_size=None,
        max_quantity=Quantity.from_int(10_000_000), min_quantity=Quantity.from_int(1), max_notional=None,
        min_notional=None, max_price=None, min_price=None, margin_init=Decimal("0.03"), margin_maint=Decimal("0.03"),
        maker_fee=Decimal("0.00002"), taker_fee=Decimal("0.00002"), ts_event=0, ts_init=0,
    )  # fmt: skip


instrument = pair("EUR", 5) if ticks else pair("XAU", 2)
words = [f"{step}-BID-INTERNAL" for step in NINE] if ticks else ["1-HOUR-BID-EXTERNAL"]
kinds = [BarType.from_str(f"{instrument.id}-{word}") for word in words]
index = pd.DatetimeIndex(data["time"].view("M8[ns]"), tz="UTC")
if ticks:
    frame = pd.DataFrame({"bid_price": data["bid"], "ask_price": data["ask"]}, index=index)
    objects = QuoteTickDataWrangler(instrument).process(frame, default_volume=1_000_000)
else:
    names = {"open": "open", "high": "high", "low": "low", "close": "close", "tick_volume": "volume"}
    frame = pd.DataFrame({name: data[ours] for ours, name in names.items()}, index=index)
    objects = BarDataWrangler(kinds[0], instrument).process(frame)


class Settings(StrategyConfig, frozen=True):
    """The strategy's."""

    trades: bool


class Crossover(Strategy):
    """Takes bars of all kinds; turns the position when two averages of the first kind cross."""

    def __init__(self, config: Settings) -> None:
        """Make the averages."""
        super().__init__(config)
        self.fast, self.slow, self.side = SimpleMovingAverage(20), SimpleMovingAverage(50), 0

    def on_start(self) -> None:
        """Subscribe."""
        for kind in kinds:
            if self.config.trades:
                self.register_indicator_for_bars(kind, self.fast)
                self.register_indicator_for_bars(kind, self.slow)
            self.subscribe_bars(kind)

    def on_bar(self, _bar: Bar) -> None:
        """Turn the position where the averages have crossed."""
        if not self.config.trades or not self.slow.initialized:
            return
        side = 1 if self.fast.value > self.slow.value else -1
        if side != self.side:
            size = Quantity.from_int(OUNCES if self.side == 0 else 2 * OUNCES)
            way = OrderSide.BUY if side > 0 else OrderSide.SELL
            self.submit_order(self.order_factory.market(instrument.id, way, size))
            self.side = side


def engine() -> BacktestEngine:
    """Return an engine with everything loaded."""
    made = BacktestEngine(
        BacktestEngineConfig(
            logging=LoggingConfig(bypass_logging=True), risk_engine=RiskEngineConfig(bypass=True), run_analysis=False
        )
    )
    made.add_venue(
        VENUE, OmsType.NETTING, AccountType.MARGIN, [Money(10_000_000, USD)], base_currency=USD,
        default_leverage=Decimal(20),
    )  # fmt: skip
    made.add_instrument(instrument)
    made.add_data(objects)
    made.add_strategy(Crossover(Settings(trades=not ticks)))
    return made


serve(len(objects), lambda made: made.run(), engine)
