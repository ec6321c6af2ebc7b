"""From frames to the aligned arrays that the replay runs on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from fx_dagster.backtest.costs import bar_spreads
from fx_dagster.decision.answers import ANSWER_EXTRAS, take_answers
from fx_dagster.decision.config import EQUAL_VOTES, StepConfig
from fx_dagster.decision.inputs import (
    cross_symbol,
    spread_medians,
    trading_day,
    traditional_signals,
    volatilities,
)
from fx_dagster.decision.rows import CLASSICAL, Float64, Int64, Rows, input_dtype
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.execution.conversion import conversion_paths, converted
from fx_dagster.features.cross import common_grid, leading
from fx_dagster.indicators.votes import votes, warm
from fx_dagster.market.instruments import Instrument, instrument
from fx_dagster.market.timeframes import Timeframe, bar_close
from fx_dagster.models.answer import DEEP_MODELS, DIRECTIONS, EXTRAS, META, SIMPLE_MODELS

RETURNS_BARS = 240
"""Newest returns of each symbol that the step looks at for correlations and tails."""
MODEL_COLUMNS = tuple(f"p_up_{name}" for name in DIRECTIONS)
"""Columns of PREDICTIONS in the order of the step's ``p_up``: of a whole release."""
_NEEDED = tuple(f"p_up_{name}" for name in SIMPLE_MODELS)
"""Columns that a frame has, if it has any predictions at all."""


BAR = np.dtype(
    [
        ("open", np.float64),
        ("high", np.float64),
        ("low", np.float64),
        ("close", np.float64),
        ("spread", np.float64),  # ask − bid of the bar, in price
    ],
    align=True,
)


class Market(NamedTuple):
    """History of ``n`` symbols on one grid of ``t`` bars."""

    time: Int64
    """``[t]`` opening of the bars, ns UTC."""
    close_time: Int64
    """``[t]`` when they close: the time of the decision."""
    trading_day: Int64
    """``[t]`` trading day of the decision."""
    bars: Rows
    """``[t, n]`` of :data:`BAR`; NaN where a symbol has none."""
    inputs: Rows
    """``[t, n]`` of :func:`fx_dagster.decision.rows.input_dtype`: what the step gets at the bar's close. ``active``
    is False where a symbol has no bar."""
    returns: Float64
    """``[RETURNS_BARS + t, n]`` log returns of the closes; the ``RETURNS_BARS`` newest at row k are
    ``returns[k + 1 : k + 1 + RETURNS_BARS]``. A symbol without a bar has not moved; NaN before its first ones."""


@dataclass(frozen=True)
class SymbolHistory:
    """Frames of one symbol on the base timeframe: BARS, its INDICATORS, and PREDICTIONS where there are models.

    See :func:`answers` for the columns of PREDICTIONS.
    """

    bars: pd.DataFrame
    indicators: pd.DataFrame
    predictions: pd.DataFrame | None = None


@dataclass(frozen=True)
class History:
    """What a backtest runs on.

    Attributes:
        timeframe: base timeframe.
        instruments: one a symbol, in the order of the columns.
        account_currency: what the market's ``conversion`` leads to.
        market: aligned arrays.
    """

    timeframe: Timeframe
    instruments: tuple[Instrument, ...]
    account_currency: str
    market: Market

    @property
    def symbols(self) -> tuple[str, ...]:
        """Canonical symbols, in the order of the columns."""
        return tuple(item.symbol for item in self.instruments)

    def window(self, start: int | None = None, end: int | None = None) -> "History":
        """Return the part whose bars open in ``[start, end)`` (ns UTC); what was computed before keeps its history."""
        time = self.market.time
        first = 0 if start is None else int(np.searchsorted(time, start))
        last = len(time) if end is None else int(np.searchsorted(time, end))
        market = self.market
        cut = Market(
            market.time[first:last], market.close_time[first:last], market.trading_day[first:last],
            market.bars[first:last], market.inputs[first:last], market.returns[first : last + RETURNS_BARS],
        )  # fmt: skip
        return History(self.timeframe, self.instruments, self.account_currency, cut)


def prepare(
    histories: Mapping[str, SymbolHistory], timeframe: Timeframe, *, account_currency: str = "USD",
    model_columns: Sequence[str] = MODEL_COLUMNS, instruments: Sequence[Instrument] | None = None,
) -> History:  # fmt: skip
    """Return the aligned arrays of one or several symbols that share an account.

    Args:
        histories: frames by canonical symbol; every frame ascending in ``time`` (bar openings, ns UTC).
        timeframe: base timeframe of all of them.
        account_currency: ISO code.
        model_columns: columns of PREDICTIONS that become ``p_up``, in the order that the models have in the step;
            :func:`model_columns` gives those that a configuration reads, and the configuration of a smaller ensemble
            reads the first of all of them.
        instruments: specifications in the order of ``histories``; the catalogue's where not given.

    Raises:
        DataError: a frame is empty, unordered or lacks a column.
        SettingsError: the symbols do not connect a profit currency with the account's.
    """
    if not histories:
        raise DataError("a backtest needs at least one symbol", mend="pass its frames")
    items = tuple(instruments) if instruments is not None else tuple(instrument(symbol) for symbol in histories)
    for item, history in zip(items, histories.values(), strict=True):
        _check(item.symbol, history)
    columns = [
        _columns(item, history, timeframe, model_columns)
        for item, history in zip(items, histories.values(), strict=True)
    ]
    times = [history.bars["time"].to_numpy(np.int64) for history in histories.values()]
    tables = {
        name: common_grid(times, [column[name] for column in columns])[1] for name in columns[0] if name not in _DEEP
    }
    grid = np.unique(np.concatenate(times))
    deep = {name: _aligned_deep(grid, times, [column[name] for column in columns]) for name in _DEEP}
    return History(timeframe, items, account_currency, _market(grid, timeframe, items, account_currency, tables, deep))


def model_columns(config: StepConfig) -> tuple[str, ...]:
    """Return the columns of PREDICTIONS that a configuration reads, in the order of the step's ``p_up``.

    Raises:
        SettingsError: it wants more models than there are.
    """
    for name, wanted, known in (
        ("simple_models", config.simple_models, SIMPLE_MODELS),
        ("deep_models", config.deep_models, DEEP_MODELS),
    ):
        if wanted > len(known):
            raise SettingsError(f"{name} is {wanted}", mend=f"there are {len(known)}: {', '.join(known)}")
    chosen = (*SIMPLE_MODELS[: config.simple_models], *DEEP_MODELS[: config.deep_models])
    return tuple(f"p_up_{name}" for name in (*chosen, *((META,) if config.meta else ())))


def answers(symbol: str, frame: pd.DataFrame, columns: Sequence[str]) -> Float64:
    """Return what a frame of PREDICTIONS says, as :func:`fx_dagster.decision.answers.take_answer` reads it.

    Args:
        symbol: whose they are, for the message.
        frame: one row a bar: p(up) columns of which the simple models' are needed, and any of
            :data:`fx_dagster.models.answer.EXTRAS` (``regime`` as its code). A column that is not there is an answer
            that is absent.
        columns: p(up) columns in the order that the models have in the step.

    Returns:
        float64 ``[rows, len(columns) + ANSWER_EXTRAS]``; NaN: absent.

    Raises:
        DataError: a simple model's column, or ``time``, is missing.
    """
    missing = [
        name for name in ("time", *(one for one in columns if one in _NEEDED)) if name not in frame.columns
    ]  # fmt: skip
    if missing:
        raise DataError(f"predictions of {symbol}: column {missing[0]} is missing", mend="pass a PREDICTIONS frame")
    said = np.full((len(frame), len(columns) + ANSWER_EXTRAS), np.nan)
    for place, name in enumerate((*columns, *EXTRAS)):
        if name in frame.columns:
            said[:, place] = frame[name].to_numpy(np.float64, na_value=np.nan)
    return said


_DEEP = ("votes", "answers")
_PRICES = ("open", "high", "low", "close")


def _market(
    grid: Int64, timeframe: Timeframe, items: Sequence[Instrument], account_currency: str,
    tables: dict[str, Float64], deep: dict[str, Float64],
) -> Market:  # fmt: skip
    close_time = bar_close(grid, timeframe)
    shape = tables["close"].shape
    bars = np.zeros(shape, dtype=BAR)
    for name in BAR.names or ():
        bars[name] = tables[name]
    said = deep["answers"]
    inputs = np.zeros(shape, dtype=input_dtype(said.shape[2] - ANSWER_EXTRAS))
    for name in ("atr", "volatility_short", "volatility_long", "spread_median"):
        inputs[name] = tables[name]
    inputs["votes"][..., :CLASSICAL] = deep["votes"]
    take_answers(inputs.reshape(-1), said.reshape(-1, said.shape[2]))
    inputs["active"] = inputs["fresh"] = np.isfinite(tables["close"])
    inputs["bar_time"] = grid[:, None]
    inputs["bid"], inputs["ask"] = tables["close"], tables["close"] + tables["spread"]
    inputs["version"] = np.arange(shape[0])[:, None]
    inputs["drift"] = np.nan
    signals = np.column_stack([traditional_signals(deep["votes"][:, i], EQUAL_VOTES) for i in range(shape[1])])
    inputs["agreement"], inputs["correlation_shift"], returns = cross_symbol(
        tables["close"], signals, leading([item.symbol for item in items])
    )
    inputs["conversion"] = _conversion(tables["close"], items, account_currency)
    inputs["market_open"] = np.column_stack([item.session.is_open(close_time) for item in items])
    inputs["tradable"] = inputs["market_open"]
    before = np.full((RETURNS_BARS, shape[1]), np.nan)
    return Market(grid, close_time, trading_day(close_time), bars, inputs, np.concatenate([before, returns]))


def _columns(
    item: Instrument, history: SymbolHistory, timeframe: Timeframe, columns: Sequence[str]
) -> dict[str, Float64]:
    bars = history.bars
    time = bars["time"].to_numpy(np.int64)
    close = bars["close"].to_numpy(np.float64)
    indicators = history.indicators.set_index("time").reindex(time).reset_index()
    said = votes(indicators, close)
    said[~warm(indicators)] = np.nan
    short, long = volatilities(close, timeframe)
    spread = bar_spreads(bars, item)
    return {
        **{name: bars[name].to_numpy(np.float64) for name in _PRICES},
        "spread": spread,
        "atr": indicators["atr_14"].to_numpy(np.float64),
        "volatility_short": short,
        "volatility_long": long,
        "spread_median": spread_medians(spread),
        "votes": said,
        "answers": _aligned_answers(item.symbol, history.predictions, time, columns),
    }


def _aligned_answers(symbol: str, frame: pd.DataFrame | None, time: Int64, columns: Sequence[str]) -> Float64:
    """Return the answers about the bars of ``time``; NaN where there is none."""
    if frame is None or frame.empty:
        return np.full((len(time), len(columns) + ANSWER_EXTRAS), np.nan)
    own = frame[frame["symbol"] == symbol] if "symbol" in frame.columns else frame
    said = answers(symbol, own, columns)
    if own["time"].duplicated().any():
        raise DataError(f"predictions of {symbol}: a bar is predicted twice", mend="pass one prediction a bar")
    return pd.DataFrame(said, index=own["time"]).reindex(time).to_numpy(np.float64)


def _check(symbol: str, history: SymbolHistory) -> None:
    for name, frame, columns in (
        ("bars", history.bars, ("time", *_PRICES, "spread")),
        ("indicators", history.indicators, ("time", "atr_14")),
    ):
        missing = [column for column in columns if column not in frame.columns]
        if missing:
            raise DataError(
                f"{name} of {symbol}: column {missing[0]} is missing", mend=f"it needs {', '.join(columns)}"
            )
        time = frame["time"].to_numpy(np.int64)
        if len(time) == 0:
            raise DataError(f"{name} of {symbol} are empty", mend="materialise them first")
        if len(time) > 1 and not (np.diff(time) > 0).all():
            raise DataError(f"{name} of {symbol} are not in the order of time", mend="sort them and drop duplicates")
    prices = history.bars[list(_PRICES)].to_numpy(np.float64)
    bad = ~(np.isfinite(prices) & (prices > 0)).all(axis=1)
    if bad.any():
        raise DataError(f"bars of {symbol}, row {int(bad.argmax())}: impossible price", mend="validate bars first")


def _aligned_deep(grid: Int64, times: Sequence[Int64], values: Sequence[Float64]) -> Float64:
    table = np.full((len(grid), len(times), values[0].shape[1]), np.nan)
    for column, (time, value) in enumerate(zip(times, values, strict=True)):
        table[np.searchsorted(grid, time), column] = value
    return table


def _conversion(close: Float64, items: Sequence[Instrument], account_currency: str) -> Float64:
    known = pd.DataFrame(close).ffill().to_numpy()
    price = {item.symbol: known[:, i] for i, item in enumerate(items)}
    paths = conversion_paths(items, account_currency)
    one = np.ones(len(close))
    return np.ascontiguousarray(np.column_stack([converted(paths[item.symbol], price, one) for item in items]))
