"""Made markets: any number of symbols, seeded, with what real ones have and, if wanted, a signal of known strength.

What is modelled, per bar of the base timeframe:

- **Sessions.** Bars exist while the instrument's market is open; the first bar after a closed stretch opens with a gap
  whose variance grows with the stretch.
- **Volatility** clusters: its logarithm is an AR(1) with a half-life of a day, partly common to all symbols, times a
  daily season that peaks when London and New York overlap.
- **Jumps** arrive at random, about one in three days, of a third of a day's volatility.
- **Correlation.** Returns load on one common factor (the dollar), with each symbol's own loading.
- **High and low** are drawn from the exact law of the maximum of a Brownian bridge between open and close:
  ``(r + sqrt(r² − 2 σ² ln U)) / 2`` (Karatzas and Shreve, *Brownian Motion and Stochastic Calculus*, 4.3.40), so that
  range-based volatility agrees with the realised one.
- **Spread** is the instrument's own, wider around rollover (17:00 New York) and in wild markets; whole points.
- **Tick volume** follows activity. Ticks are modelled from the bars, as for every bar source.

The planted signal. Let ``u`` be the return of a bar divided by its volatility. With gain ``K > 0``::

    u[t] = m[t-1] + c z[t],        m[t] = φ m[t-1] + K c z[t]   =   (φ − K) m[t-1] + K u[t]

so the drift of the next bars is an exponential moving average ``m`` of recent returns: momentum, which moving averages,
RSI and MACD see. ``c`` keeps the variance of ``u`` at 1. A ``strength`` in [0, 1] fixes ``K`` such that the best
forecast's correlation with the sum of the next 12 values of ``u`` is ``0.8 × strength``; the sign of that forecast is
then right with probability ``1/2 + asin(correlation)/π`` (:func:`directional_accuracy`), a little less once changing
volatility, jumps and gaps are in the sum. With strength 0 prices are a martingale and nothing predicts them.

A symbol is generated once, whole, from (seed, symbol): what is asked of it, and which symbols stand beside it, changes
nothing; more days continue the same path.
"""

import functools
import zlib
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import lfilter

from fx_dagster.errors import SettingsError
from fx_dagster.market.instruments import Instrument, instrument
from fx_dagster.market.sessions import FX_SESSION
from fx_dagster.market.tick_model import model_spread
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS, Int64, Timeframe, to_server
from fx_dagster.settings import SourceSettings
from resources.market.bar_source import BarSource, bar_frame, span_of_bars
from resources.market.selection import parse_day

Float64 = NDArray[np.float64]

FIRST_DAY = "2024-01-01"
SIGNAL_HORIZON_BARS = 12
SIGNAL_PERSISTENCE = 0.97
CORRELATION_AT_FULL_STRENGTH = 0.8

_JUMPS_A_DAY = 0.3
_JUMP_DAYS = 0.35
"""Standard deviation of a jump, in daily volatilities."""
_GAP_DAYS = 0.35
"""Standard deviation of the gap over one closed day, in daily volatilities."""
_LOG_VOLATILITY = 0.35
_COMMON_VOLATILITY = 0.7
_TICKS_A_MINUTE = 50.0

# Volatility by hour of the server clock (0 = 17:00 New York); Asia quiet, London's morning, the overlap, the afternoon.
_SEASON = np.array(
    [
        0.4,
        0.5,
        0.6,
        0.7,
        0.6,
        0.6,
        0.6,
        0.7,
        0.9,
        1.2,
        1.3,
        1.2,
        1.1,
        1.1,
        1.2,
        1.6,
        1.7,
        1.6,
        1.4,
        1.1,
        0.9,
        0.7,
        0.6,
        0.5,
    ]
)
_SEASON /= np.sqrt(np.mean(_SEASON**2))


@dataclass(frozen=True)
class _Market:
    """A symbol's own numbers: first price, volatility a day, loading on the common factor."""

    price: float
    daily_volatility: float
    loading: float


_MARKETS = {
    "EURUSD": _Market(1.10, 0.0050, 0.80),
    "GBPUSD": _Market(1.27, 0.0055, 0.70),
    "USDJPY": _Market(145.0, 0.0060, -0.60),
    "XAUUSD": _Market(2050.0, 0.0090, 0.45),
    "AUDUSD": _Market(0.66, 0.0060, 0.70),
    "USDCAD": _Market(1.34, 0.0045, -0.60),
    "USDCHF": _Market(0.87, 0.0050, -0.75),
    "NZDUSD": _Market(0.61, 0.0060, 0.65),
}


def simulated_symbols(count: int) -> tuple[str, ...]:
    """Return the first ``count`` symbols: eight known ones, then SIM001, SIM002, …, at most SIM999.

    Raises:
        SettingsError: more are asked for than there are names.
    """
    most = len(_MARKETS) + 999
    if count > most:
        raise SettingsError(f"FX_SOURCE_SIMULATOR_SYMBOLS {count} is more than {most}", mend="ask for fewer symbols")
    return (*_MARKETS, *(f"SIM{number:03d}" for number in range(1, 1000)))[:count]


def forecast_correlation(gain: float, horizon_bars: int) -> float:
    """Return the correlation of the best forecast with the sum of the next ``horizon_bars`` values of ``u``.

    With innovations of variance ``c²``, ``m`` has variance ``K² c² / (1 − φ²)``, the sum's forecast is
    ``m (1 − φ^H)/(1 − φ)`` and its error's variance ``c² Σ_j (1 + K (1 − φ^j)/(1 − φ))²`` over ``j = 0 … H−1``.
    """
    phi = SIGNAL_PERSISTENCE
    explained = (gain * (1 - phi**horizon_bars) / (1 - phi)) ** 2 / (1 - phi**2)
    steps = np.arange(horizon_bars)
    error = float(np.sum((1 + gain * (1 - phi**steps) / (1 - phi)) ** 2))
    return float(np.sqrt(explained / (explained + error)))


@functools.cache
def signal_gain(strength: float) -> float:
    """Return ``K`` of a strength in [0, 1]; ``m`` is a moving average of ``u`` that forgets ``1 − φ + K`` a bar."""
    if strength == 0:
        return 0.0
    target = strength * CORRELATION_AT_FULL_STRENGTH
    return float(brentq(lambda gain: forecast_correlation(gain, SIGNAL_HORIZON_BARS) - target, 0.0, 1.0))


def directional_accuracy(strength: float, horizon_bars: int = SIGNAL_HORIZON_BARS) -> float:
    """Return the share of right signs of the best forecast: ``1/2 + asin(ρ)/π`` for two Gaussians correlated by ρ."""
    return 0.5 + float(np.arcsin(forecast_correlation(signal_gain(strength), horizon_bars))) / np.pi


class SimulatorSource(BarSource):
    """Simulated markets as a market source.

    Args:
        symbols: canonical symbols, any that has an instrument.
        start: first instant, ns UTC.
        end: first instant after the last, ns UTC.
        timeframe: base timeframe of the bars, H1 at most.
        seed: of everything random.
        signal: strength of the planted signal, in [0, 1].

    Raises:
        UnknownSymbolError: a symbol has no instrument.
        SettingsError: the range holds no open market.
    """

    name = "simulator"

    def __init__(
        self,
        symbols: tuple[str, ...],
        *,
        start: int,
        end: int,
        timeframe: Timeframe = Timeframe.M1,
        seed: int = 7,
        signal: float = 0.0,
    ) -> None:
        self._instruments = {symbol: instrument(symbol) for symbol in sorted(symbols)}
        self._timeframe = timeframe
        self._seed = seed
        self._signal = signal
        step = timeframe.nominal_ns
        grid = np.arange(-(-start // step) * step, end, step, dtype=np.int64)
        self._grid = grid[FX_SESSION.is_open(grid)]
        if len(self._grid) < 2:
            raise SettingsError(
                "the simulator's days hold no open market", mend="widen FX_SOURCE_START to FX_SOURCE_END"
            )
        self._bars: dict[str, pd.DataFrame] = {}

    @classmethod
    def from_settings(
        cls,
        settings: SourceSettings,
        *,
        symbols: tuple[str, ...] = (),
        start: int | None = None,
        end: int | None = None,
    ) -> Self:
        """Return the simulator of the settings; ``simulator_days`` are calendar days, used where an end is missing."""
        length = settings.simulator_days * DAY_NS
        if start is None:
            start = end - length if end is not None else parse_day("FX_SOURCE_START", FIRST_DAY)
        assert start is not None  # noqa: S101
        return cls(
            symbols or simulated_symbols(settings.simulator_symbols),
            start=start,
            end=start + length if end is None else end,
            timeframe=Timeframe(settings.simulator_timeframe),
            seed=settings.seed,
            signal=settings.simulator_signal,
        )

    def symbols(self) -> tuple[str, ...]:
        """Return the simulated symbols, sorted."""
        return tuple(self._instruments)

    def base_timeframe(self) -> Timeframe:
        """Return the timeframe of the bars."""
        return self._timeframe

    def _load(self, symbol: str, start: int, end: int) -> pd.DataFrame:  # noqa: ARG002
        if symbol not in self._bars:
            self._bars[symbol] = self._generate(self._instruments[symbol])
        return self._bars[symbol]

    def _span(self, symbol: str) -> tuple[int, int]:
        time = self._load(symbol, 0, 0)["time"]
        return span_of_bars(int(time.iloc[0]), int(time.iloc[-1]), self._timeframe)

    def _rng(self, *names: str) -> np.random.Generator:
        # A generator for each series, so that a longer path begins with the shorter one.
        keys = [zlib.crc32(name.encode()) for name in names]
        return np.random.default_rng(np.random.SeedSequence([self._seed & 0xFFFFFFFF, *keys]))

    def _normals(self, *names: str) -> Float64:
        return self._rng(*names).standard_normal(len(self._grid))

    @functools.cached_property
    def _common(self) -> tuple[Float64, Float64, Float64]:
        """Factor of returns, of gaps, and of log volatility; each of variance 1 on the whole grid."""
        return self._normals("factor"), self._normals("gap factor"), self._ar1(self._normals("volatility factor"))

    def _ar1(self, innovations: Float64) -> Float64:
        decay = 0.5 ** (self._timeframe.nominal_ns / DAY_NS)
        scaled = innovations * np.sqrt(1 - decay**2)
        scaled[0] = innovations[0]
        return np.asarray(lfilter([1.0], [1.0, -decay], scaled), dtype=np.float64)

    def _generate(self, contract: Instrument) -> pd.DataFrame:
        symbol = contract.symbol
        market = self._market(contract)
        opened = contract.session.is_open(self._grid)
        time = self._grid[opened]
        factor, gap_factor, volatility_factor = (series[opened] for series in self._common)
        own = np.sqrt(1 - market.loading**2)
        shocks = market.loading * factor + own * self._normals(symbol, "returns")[opened]
        gap_shocks = market.loading * gap_factor + own * self._normals(symbol, "gaps")[opened]
        weight = _COMMON_VOLATILITY
        own_volatility = self._ar1(self._normals(symbol, "volatility"))[opened]
        wildness = _LOG_VOLATILITY * (weight * volatility_factor + np.sqrt(1 - weight**2) * own_volatility)
        activity = _SEASON[to_server(time) % DAY_NS // HOUR_NS] * np.exp(wildness - _LOG_VOLATILITY**2)
        sigma = market.daily_volatility * np.sqrt(self._timeframe.nominal_ns / DAY_NS) * activity
        moves = self._moves(symbol, shocks, sigma, market, opened)
        gaps = self._gaps(time, gap_shocks, market)
        prices = self._prices(symbol, moves, gaps, sigma, market, opened)
        return bar_frame(
            time,
            np.round(prices, contract.digits),
            self._tick_volume(symbol, activity, opened),
            self._spread(contract, time, wildness, opened),
        )

    def _market(self, contract: Instrument) -> _Market:
        if contract.symbol in _MARKETS:
            return _MARKETS[contract.symbol]
        rng = self._rng(contract.symbol, "market")
        # A price whose point is about a hundred-thousandth of it, as of real quotes.
        price = contract.point * 10**5 * rng.uniform(0.8, 1.6)
        return _Market(price, rng.uniform(0.004, 0.009), rng.uniform(-0.7, 0.7))

    def _moves(
        self, symbol: str, shocks: Float64, sigma: Float64, market: _Market, opened: NDArray[np.bool_]
    ) -> Float64:
        """Return log returns within bars: signal and noise, jumps, and the drift that makes prices a martingale."""
        moves = sigma * planted(shocks, self._signal) - sigma**2 / 2
        rng = self._rng(symbol, "jumps")
        chance = _JUMPS_A_DAY * self._timeframe.nominal_ns / DAY_NS
        jumped = rng.random(len(self._grid))[opened] < chance
        size = _JUMP_DAYS * market.daily_volatility
        jumps = size * self._normals(symbol, "jump sizes")[opened] - size**2 / 2
        return moves + np.where(jumped, jumps, 0.0)

    def _gaps(self, time: Int64, shocks: Float64, market: _Market) -> Float64:
        closed_ns = np.diff(time, prepend=time[0] - self._timeframe.nominal_ns) - self._timeframe.nominal_ns
        size = _GAP_DAYS * market.daily_volatility * np.sqrt(closed_ns / DAY_NS)
        return size * shocks - size**2 / 2

    def _prices(
        self, symbol: str, moves: Float64, gaps: Float64, sigma: Float64, market: _Market, opened: NDArray[np.bool_]
    ) -> Float64:
        close = np.log(market.price) + np.cumsum(gaps + moves)
        opening = close - moves
        rng = self._rng(symbol, "extremes")
        uniforms = 1.0 - rng.random((len(self._grid), 2))[opened]  # in (0, 1]: the logarithm is finite
        reach = np.sqrt(moves[:, None] ** 2 - 2 * (sigma**2)[:, None] * np.log(uniforms))
        high, low = opening + (moves + reach[:, 0]) / 2, opening + (moves - reach[:, 1]) / 2
        return np.exp(np.stack([opening, high, low, close], axis=1))

    def _tick_volume(self, symbol: str, activity: Float64, opened: NDArray[np.bool_]) -> Float64:
        mean = _TICKS_A_MINUTE * self._timeframe.nominal_ns / MINUTE_NS * activity
        noise = np.sqrt(mean) * self._normals(symbol, "tick volume")[opened]
        return np.maximum(np.round(mean + noise), 1.0)

    def _spread(self, contract: Instrument, time: Int64, wildness: Float64, opened: NDArray[np.bool_]) -> Float64:
        noise = 0.1 * self._normals(contract.symbol, "spread")[opened]
        return np.maximum(np.round(model_spread(time, contract) * np.exp(wildness / 2 + noise)), 1.0)


def planted(shocks: Float64, strength: float) -> Float64:
    """Return ``u`` of standard normal shocks ``z``: the same with strength 0, else with the signal in it."""
    gain = signal_gain(strength)
    if gain == 0:
        return shocks
    phi = SIGNAL_PERSISTENCE
    scale = 1 / np.sqrt(1 + gain**2 / (1 - phi**2))
    return np.asarray(lfilter([scale, scale * (gain - phi)], [1.0, -phi], shocks), dtype=np.float64)
