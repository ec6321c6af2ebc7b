"""Prophet's part of the price forecast: a trend and the seasons of the trading day, week and year, in closed form.

Prophet (Taylor and Letham, "Forecasting at Scale", The American Statistician 72, 2018) is fitted once a symbol on the
log closes of training rows. What it learned is a piecewise linear trend and a Fourier series; both are taken out of the
fitted object as plain arrays, so that a forecast needs no Prophet and fits into an ONNX graph.

Time is *trading time*: weekends are cut out, so that a horizon of n bars is as long on Friday as on Monday and no
season has to bridge two days without a price. The week begins on Sunday 21:00 UTC and lasts five days; this is 17:00
New York in summer. In winter the market opens and closes an hour later, and the week's last hour then stands still: an
approximation that keeps the forecast a formula of UTC.
"""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.market.timeframes import DAY_NS, Timeframe
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.inputs import TIME_ORIGIN_NS, days
from fx_dagster.models.networks import Module, Tensor
from fx_dagster.models.protocol import Float64

Int64 = NDArray[np.int64]

PARAMETERS: dict[str, Any] = {
    # Stiff: a flexible trend follows the past and extrapolates its last turn.
    "n_changepoints": 10,
    "changepoint_prior_scale": 0.01,
    "seasonality_prior_scale": 0.01,
    "points_max": 4_000,
    "year_span_min_years": 3.0,
}
"""The same for every data set; scales are relative to the range of the log price, as Prophet's are."""

POINTS_MIN: Final = 100
"""A symbol with fewer closes gets no forecast."""
WEEK_OPENS_DAYS: Final = 1.875
"""Sunday 2000-01-02 21:00 UTC in days since 2000-01-01."""
WEEK_DAYS: Final = 5.0
YEAR_DAYS: Final = 365.25 * 5 / 7
"""Trading days of a year."""
_UNIX_DAYS = TIME_ORIGIN_NS / DAY_NS
"""Prophet counts the phase of its seasons from 1970."""
_ORDER_MAX = {"trading_day": 4, "trading_week": 4, "year": 2}
_WALK = (0.1, 0.3, 0.5, 0.7, 0.9)


def trading_days(time_days: Float64) -> Float64:
    """Return trading time: days without weekends, from days since 2000-01-01 UTC."""
    since = np.asarray(time_days, dtype=np.float64) - WEEK_OPENS_DAYS
    week = np.floor(since / 7.0)
    return WEEK_DAYS * week + np.minimum(since - 7.0 * week, WEEK_DAYS)


def bar_days(base: Timeframe) -> tuple[float, float]:
    """Return the length of a bar in days and in trading days."""
    length = base.nominal_ns / DAY_NS
    return length, length if length <= 1.0 else length * WEEK_DAYS / 7.0


@dataclass(frozen=True)
class ProphetForecast:
    """What Prophet learned of S symbols; row 0 of each array stands for a symbol that is not known and forecasts 0.

    Attributes:
        bar_days: length of a bar, days.
        horizon_days: length of the horizon, trading days.
        level: log price at trading time 0, float64 ``[1 + S]``.
        slope: its change a trading day, float64 ``[1 + S]``.
        changepoints: trading time of the trend's turns, float64 ``[1 + S, M]``.
        deltas: change of the slope there, float64 ``[1 + S, M]``; 0 where a symbol has fewer.
        frequencies: radians a trading day, float64 ``[K]``.
        sines: amplitudes in log price, float64 ``[1 + S, K]``.
        cosines: amplitudes in log price, float64 ``[1 + S, K]``.
        volatility: standard deviation of the log return over the horizon, float64 ``[1 + S]``; the first is the mean.
    """

    bar_days: float
    horizon_days: float
    level: Float64
    slope: Float64
    changepoints: Float64
    deltas: Float64
    frequencies: Float64
    sines: Float64
    cosines: Float64
    volatility: Float64

    def log_price(self, trading_time: Float64, symbol: Int64) -> Float64:
        """Return Prophet's ``yhat``, float64 ``[n]``.

        Args:
            trading_time: trading days ``[n]``.
            symbol: place of the symbol ``[n]``; -1: 0 is returned.
        """
        place, at = np.asarray(symbol) + 1, np.asarray(trading_time, dtype=np.float64)[:, None]
        trend = self.slope[place] * at[:, 0] + self.level[place]
        turned = (self.deltas[place] * np.maximum(at - self.changepoints[place], 0.0)).sum(axis=1)
        phase = self.frequencies * (at + _UNIX_DAYS)
        season = (self.sines[place] * np.sin(phase) + self.cosines[place] * np.cos(phase)).sum(axis=1)
        return np.asarray(trend + turned + season)

    def expected_return(self, time: Int64, symbol: Int64) -> Float64:
        """Return the expected log return from a bar's close over the horizon, float64 ``[n]``.

        Beyond its last training row the trend goes on as it was. It is stiff, and what is returned never exceeds one
        standard deviation of the horizon's return.

        Args:
            time: openings of the bars, int64 ns UTC ``[n]``.
            symbol: place of the symbol ``[n]``; -1: 0 is returned.
        """
        closes = trading_days(days(time) + self.bar_days)
        change = self.log_price(closes + self.horizon_days, symbol) - self.log_price(closes, symbol)
        bound = self.volatility[np.asarray(symbol) + 1]
        return np.clip(change, -bound, bound)


def horizon_volatility(rows: Dataset) -> Float64:
    """Return the standard deviation of the log return over the horizon, float64 ``[1 + S]``; the first is the mean.

    A symbol of which two rows or fewer are there has the mean.
    """
    scales = np.full(len(rows.symbols), np.nan)
    for place in range(len(scales)):
        own = rows.forward_return[rows.symbol_code == place]
        if len(own) > 2:
            scales[place] = max(float(own.std()), 1e-9)
    mean = float(np.nanmean(scales)) if np.isfinite(scales).any() else 1.0
    return np.concatenate([[mean], np.where(np.isfinite(scales), scales, mean)])


def fit_prophet(rows: Dataset, volatility: Float64, *, seed: int) -> ProphetForecast:
    """Fit one Prophet a symbol on the closes of rows with windows.

    Args:
        rows: training rows; their first timeframe of bars holds the closes.
        volatility: of :func:`horizon_volatility`.
        seed: Prophet's.

    Raises:
        TrainingError: prices are not positive, or Prophet does not converge.
    """
    length, trading_length = bar_days(rows.base)
    orders = _orders(rows.base)
    periods = {"trading_day": 1.0, "trading_week": WEEK_DAYS, "year": YEAR_DAYS}
    frequencies = [2.0 * math.pi * (k + 1) / periods[name] for name in orders for k in range(orders[name])]
    symbols, turns = 1 + len(rows.symbols), int(PARAMETERS["n_changepoints"])
    forecast = ProphetForecast(
        bar_days=length,
        horizon_days=rows.horizon_bars * trading_length,
        level=np.zeros(symbols),
        slope=np.zeros(symbols),
        changepoints=np.zeros((symbols, turns)),
        deltas=np.zeros((symbols, turns)),
        frequencies=np.array(frequencies),
        sines=np.zeros((symbols, len(frequencies))),
        cosines=np.zeros((symbols, len(frequencies))),
        volatility=volatility,
    )
    for place, symbol in enumerate(rows.symbols):
        at, price = _closes(rows, place, length)
        if len(at) >= POINTS_MIN:
            _learn(forecast, 1 + place, fitted_prophet(symbol, at, price, orders, seed=seed), float(price.mean()))
    return forecast


def walked_forward(rows: Dataset, volatility: Float64, *, seed: int) -> Float64:
    """Return each row's expected return from a Prophet that saw only rows before it, float64 ``[n]``.

    A network that learns what Prophet leaves must not learn it from a trend that was fitted on the very moves it is
    asked about. Prophet is fitted anew at five times; before the first of them the forecast is 0.
    """
    expected = np.zeros(len(rows))
    time = np.sort(rows.time)
    edges = [int(time[int(share * len(time))]) for share in _WALK]
    for first, last in zip(edges, [*edges[1:], int(time[-1]) + 1], strict=True):
        before, block = np.flatnonzero(rows.time < first), (rows.time >= first) & (rows.time < last)
        forecast = fit_prophet(rows.take(before), volatility, seed=seed)
        expected[block] = forecast.expected_return(rows.time[block], rows.symbol_code[block].astype(np.int64))
    return expected


def fitted_prophet(symbol: str, trading_time: Float64, log_price: Float64, orders: dict[str, int], *, seed: int) -> Any:
    """Return a ``prophet.Prophet`` fitted on log prices less their mean.

    Args:
        symbol: for messages.
        trading_time: trading days, rising ``[n]``.
        log_price: float64 ``[n]``.
        orders: Fourier order by season; ``year`` is left out of a history that is shorter than three years.
        seed: Prophet's.

    Raises:
        TrainingError: the fit does not converge.
    """
    from prophet import Prophet

    model = Prophet(
        n_changepoints=PARAMETERS["n_changepoints"],
        changepoint_prior_scale=PARAMETERS["changepoint_prior_scale"],
        seasonality_prior_scale=PARAMETERS["seasonality_prior_scale"],
        yearly_seasonality=False,
        weekly_seasonality=False,
        daily_seasonality=False,
        uncertainty_samples=0,
    )
    enough_years = np.ptp(trading_time) >= PARAMETERS["year_span_min_years"] * YEAR_DAYS
    for name, period in (("trading_day", 1.0), ("trading_week", WEEK_DAYS), ("year", YEAR_DAYS)):
        if name in orders and (name != "year" or enough_years):
            model.add_seasonality(name, period, orders[name])
    frame = pd.DataFrame({"ds": calendar(trading_time), "y": log_price - log_price.mean()})
    with _silent():
        try:
            model.fit(frame, seed=seed)
        except RuntimeError as error:
            raise TrainingError(
                f"prophet: the fit of {symbol} does not converge ({error})", mend="check the prices of its bars"
            ) from error
    if not all(np.isfinite(values).all() for values in model.params.values()):
        raise TrainingError(f"prophet: the fit of {symbol} is not finite", mend="check the prices of its bars")
    return model


def calendar(trading_time: Float64) -> pd.DatetimeIndex:
    """Return trading time as the dates that Prophet is given; they run through without weekends."""
    whole = np.round(np.asarray(trading_time) * DAY_NS).astype(np.int64)
    return pd.DatetimeIndex((TIME_ORIGIN_NS + whole).astype("datetime64[ns]"))


def prophet_module(forecast: ProphetForecast) -> Module:
    """Return a torch module with the arithmetic of :meth:`ProphetForecast.expected_return`, in double.

    It takes days since 2000 of the bar's opening, float64 ``[b, 1]``, and the symbol's place, int64 ``[b, 1]``, and
    returns float64 ``[b, 1]``.
    """
    import torch

    class ProphetReturn(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("slope", "changepoints", "deltas", "frequencies", "sines", "cosines", "volatility"):
                self.register_buffer(name, torch.from_numpy(getattr(forecast, name)))

        def forward(self, time: Tensor, symbol: Tensor) -> Tensor:
            place = symbol[:, 0] + 1
            since = time + (forecast.bar_days - WEEK_OPENS_DAYS)
            week = torch.floor(since / 7.0)
            first = WEEK_DAYS * week + (since - 7.0 * week).clamp(max=WEEK_DAYS)
            last = first + forecast.horizon_days
            change = self._moving(last, place) - self._moving(first, place)
            trend = forecast.horizon_days * self.slope[place][:, None]
            bound = self.volatility[place][:, None]
            return torch.minimum(torch.maximum(change + trend, -bound), bound)

        def _moving(self, at: Tensor, place: Tensor) -> Tensor:
            """Return the log price less its first straight line, which a difference takes in exactly."""
            turned = self.deltas[place] * torch.relu(at - self.changepoints[place])
            phase = self.frequencies * (at + _UNIX_DAYS)
            season = self.sines[place] * torch.sin(phase) + self.cosines[place] * torch.cos(phase)
            return turned.sum(dim=1, keepdim=True) + season.sum(dim=1, keepdim=True)

    return ProphetReturn()


def _orders(base: Timeframe) -> dict[str, int]:
    """Return the Fourier order of each season that bars of this length can show."""
    length, _ = bar_days(base)
    bars_a_period = {"trading_day": 1.0 / length, "trading_week": WEEK_DAYS / length, "year": 365.25 / length}
    orders = {name: min(_ORDER_MAX[name], (math.ceil(bars) - 1) // 2) for name, bars in bars_a_period.items()}
    return {name: order for name, order in orders.items() if order > 0}


def _closes(rows: Dataset, place: int, length: float) -> tuple[Float64, Float64]:
    """Return trading times and log closes of a symbol's rows, thinned; none where it has no rows."""
    if rows.windows is None:
        raise TrainingError("prophet: the rows have no windows", mend="build them with from_frames")
    own = np.flatnonzero(rows.symbol_code == place)
    own = own[:: _stride(len(own))]
    close = rows.windows.bars[0][rows.windows.at[own, 1], 3]
    if not (np.isfinite(close) & (close > 0)).all():
        raise TrainingError(
            f"prophet: {rows.symbols[place]} has closes that are not positive numbers", mend="check its bars"
        )
    return trading_days(days(rows.time[own]) + length), np.log(close)


def _stride(rows: int) -> int:
    """Return every which row is used.

    It shares no factor with the bars of a day or week (24 and 120 of H1), so that thinned rows still come from all
    hours.
    """
    stride = max(-(-rows // int(PARAMETERS["points_max"])), 1)
    while math.gcd(stride, 30) > 1:
        stride += 1
    return stride


def _learn(forecast: ProphetForecast, row: int, model: Any, mean: float) -> None:
    """Write a fitted Prophet's parameters into one row, in log price and trading days."""
    start = (model.start - pd.Timestamp(TIME_ORIGIN_NS)) / pd.Timedelta(days=1)
    span = model.t_scale / pd.Timedelta(days=1)
    scale = float(model.y_scale)
    k, m = float(np.mean(model.params["k"])), float(np.mean(model.params["m"]))
    delta, beta = model.params["delta"].mean(axis=0), model.params["beta"].mean(axis=0)
    turns = len(model.changepoints_t)
    forecast.slope[row] = scale * k / span
    forecast.level[row] = mean + scale * m - forecast.slope[row] * start
    forecast.deltas[row, :turns] = scale * delta[:turns] / span
    forecast.changepoints[row, :turns] = start + span * np.asarray(model.changepoints_t)
    # Sine and cosine in turn, season by season in the order that they were added; a season left out comes last.
    waves = len(beta) // 2
    forecast.sines[row, :waves] = scale * beta[0 : 2 * waves : 2]
    forecast.cosines[row, :waves] = scale * beta[1 : 2 * waves : 2]


@contextmanager
def _silent() -> Iterator[None]:
    """Hold back what Prophet and its optimiser log of every fit; errors still come as exceptions.

    Warnings of what a coming pandas changes are Prophet's matter.
    """
    loggers = [logging.getLogger(name) for name in ("cmdstanpy", "prophet")]
    disabled = [logger.disabled for logger in loggers]
    for logger in loggers:
        # Not its level: the optimiser sets that itself at its first fit.
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.Pandas4Warning)
            yield
    finally:
        for logger, before in zip(loggers, disabled, strict=True):
            logger.disabled = before
