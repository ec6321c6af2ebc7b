"""freqtrade: its own backtest of a crossover, long only, with an exchange that is never asked anything.

Its exchange class wants a market and the names of timeframes before it lets itself be made; both are put in its place,
so that nothing goes over the network. Candles are stored in its own format first, as its command would have it.
"""

import logging
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
from freqtrade.data.converter import trim_dataframes
from freqtrade.data.history import get_datahandler, get_timerange
from freqtrade.enums import CandleType, RunMode, TradingMode
from freqtrade.exchange.exchange import Exchange
from freqtrade.optimize.backtesting import Backtesting
from serve import serve

PAIR = "XAU/USDT"
FEE = 0.00007
STRATEGY = """
import talib
from freqtrade.strategy import IStrategy

class Crossover(IStrategy):
    INTERFACE_VERSION = 3
    timeframe = "1h"
    minimal_roi = {"0": 100}
    stoploss = -0.99
    startup_candle_count = 50

    def populate_indicators(self, frame, metadata):
        frame["fast"], frame["slow"] = talib.SMA(frame["close"], 20), talib.SMA(frame["close"], 50)
        return frame

    def populate_entry_trend(self, frame, metadata):
        above = frame["fast"] > frame["slow"]
        frame.loc[above & (frame["fast"].shift() <= frame["slow"].shift()), "enter_long"] = 1
        return frame

    def populate_exit_trend(self, frame, metadata):
        below = frame["fast"] < frame["slow"]
        frame.loc[below & (frame["fast"].shift() >= frame["slow"].shift()), "exit_long"] = 1
        return frame
"""
MARKET = {
    "id": "XAUUSDT", "symbol": PAIR, "base": "XAU", "quote": "USDT", "active": True, "spot": True, "future": False,
    "swap": False, "margin": False, "linear": None, "type": "spot", "contractSize": None, "taker": FEE, "maker": FEE,
    "precision": {"price": 0.01, "amount": 0.001, "cost": 0.01},
    "limits": {
        "amount": {"min": 0.001, "max": 1e8}, "price": {"min": None, "max": None}, "cost": {"min": 1, "max": None},
        "leverage": {"min": None, "max": None},
    },
    "info": {},
}  # fmt: skip


def stand_in() -> None:
    """Let an exchange be made without a connection."""
    for name, value in (
        ("id", "binance"), ("name", "Binance"), ("precisionMode", 4), ("precision_mode_price", 4),
        ("markets", {PAIR: MARKET}), ("timeframes", ["1h"]),
    ):  # fmt: skip
        setattr(Exchange, name, property(lambda _, value=value: value))
    for name, value in (
        ("validate_config", None), ("validate_timeframes", None), ("_load_async_markets", {}), ("get_fee", FEE),
        ("_init_ccxt", MagicMock()), ("reload_markets", None),
        ("validate_trading_mode_and_margin_mode", None),
    ):  # fmt: skip
        setattr(Exchange, name, lambda *_, value=value, **__: value)


def settings(folder: Path) -> dict[str, object]:
    """Return freqtrade's configuration."""
    return {
        "runmode": RunMode.BACKTEST, "dry_run": True, "max_open_trades": 1, "stake_currency": "USDT",
        "stake_amount": 1_000, "dry_run_wallet": 1e6, "timeframe": "1h", "fee": FEE, "strategy": "Crossover",
        "strategy_path": str(folder), "user_data_dir": folder, "datadir": folder, "exportdirectory": folder,
        "export": "none", "dataformat_ohlcv": "feather", "dataformat_trades": "feather",
        "candle_type_def": CandleType.SPOT, "trading_mode": TradingMode.SPOT, "margin_mode": "", "stoploss": -0.99,
        "unfilledtimeout": {"entry": 10, "exit": 10, "unit": "minutes"},
        "entry_pricing": {"price_side": "same", "use_order_book": False},
        "exit_pricing": {"price_side": "same", "use_order_book": False},
        "exchange": {"name": "binance", "key": "", "secret": "", "pair_whitelist": [PAIR], "pair_blacklist": []},
        "pairlists": [{"method": "StaticPairList", "allow_inactive": True}], "internals": {}, "original_config": {},
        "config_files": [], "timerange": None, "enable_protections": False, "cancel_open_orders_on_exit": False,
    }  # fmt: skip


def candles() -> pd.DataFrame:
    """Return the bars as freqtrade stores them."""
    data = np.load(sys.argv[1])
    frame = pd.DataFrame({name: data[name] for name in ("open", "high", "low", "close")})
    frame["volume"] = data["tick_volume"]
    frame.insert(0, "date", pd.to_datetime(data["time"], utc=True).astype("datetime64[ms, UTC]"))
    return frame


def main(folder: Path) -> None:
    """Store, load, and backtest as often as is asked."""
    (folder / "crossover.py").write_text(STRATEGY)
    get_datahandler(folder, "feather").ohlcv_store(PAIR, "1h", candles(), CandleType.SPOT)
    stand_in()
    backtesting = Backtesting(settings(folder))
    strategy = backtesting.strategylist[0]
    backtesting._set_strategy(strategy)
    data, span = backtesting.load_bt_data()

    def run() -> None:
        ready = strategy.advise_all_indicators({pair: frame.copy() for pair, frame in data.items()})
        ready = trim_dataframes(ready, span, backtesting.required_startup)
        first, last = get_timerange(ready)
        backtesting.backtest(processed=ready, start_date=first, end_date=last)

    serve(len(data[PAIR]), run)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="fx-bench-") as folder:
        main(Path(folder))
