"""Made markets: a random walk with bars, indicators and predictions, for one symbol or several."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fx_dagster.backtest.prepare import MODEL_COLUMNS, History, SymbolHistory, prepare
from fx_dagster.decision.codes import Level
from fx_dagster.decision.config import StepConfig, step_config
from fx_dagster.indicators.batch import compute_indicators
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from fx_dagster.settings import CostSettings, RiskSettings

SMALL = {"best_level": Level.SIMPLE_AI, "simple_models": 2, "deep_models": 0, "meta": False}
"""Two simple models: what most of these tests need."""
FIRST = pd.Timestamp("2024-01-07 22:00", tz="UTC").value


def walk(symbol: str, rows: int, seed: int, *, drift: float = 0.0) -> pd.DataFrame:
    item, rng = instrument(symbol), np.random.default_rng(seed)
    time = FIRST + np.arange(rows * 2, dtype=np.int64) * HOUR_NS
    time = time[item.session.is_open(time)][:rows]
    start = 1_900.0 if symbol.startswith("XAU") else 1.1
    close = start * np.exp(np.cumsum(rng.normal(drift, 0.001, len(time))))
    opening = np.concatenate([[start], close[:-1]]) * (1 + rng.normal(0, 0.0002, len(time)))
    reach = np.abs(rng.normal(0, 0.0006, (2, len(time)))) * close
    frame = pd.DataFrame(
        {
            "time": time,
            "open": opening,
            "high": np.maximum(opening, close) + reach[0],
            "low": np.minimum(opening, close) - reach[1],
            "close": close,
            "tick_volume": rng.integers(100, 2_000, len(time)).astype(float),
            "spread": rng.integers(8, 15, len(time)).astype(float),
        }
    )
    frame[["open", "high", "low", "close"]] = frame[["open", "high", "low", "close"]].round(item.digits)
    return frame


def predictions(bars: pd.DataFrame, seed: int, *, skill: float = 0.0, whole: bool = False) -> pd.DataFrame:
    """Return what two simple models say, or a whole release with confidence, regime, attention and agents."""
    rng = np.random.default_rng(seed)
    future = np.sign(bars["close"].shift(-12) - bars["close"]).fillna(0.0).to_numpy()
    columns = MODEL_COLUMNS if whole else MODEL_COLUMNS[:2]
    noise = rng.normal(0, 0.1, (len(columns), len(bars)))
    values = np.clip(0.5 + skill * future + noise, 0.01, 0.99)
    said = pd.DataFrame({"time": bars["time"], **dict(zip(columns, values, strict=True))})
    return said.assign(**extras(rng, len(bars))) if whole else said


def extras(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Return columns of what a release says beside probabilities; one bar in ten has no regime."""
    regime = rng.integers(1, 5, rows).astype(float)
    regime[rng.random(rows) < 0.1] = np.nan
    return {
        "confidence": rng.uniform(0.4, 0.9, rows),
        "regime": regime,
        "attention": rng.uniform(-1.0, 1.0, rows),
        "size": rng.uniform(0.0, 1.5, rows),
        "enter": rng.uniform(0.2, 1.0, rows),
        "exit_long": rng.uniform(0.0, 0.55, rows),
        "exit_short": rng.uniform(0.0, 0.55, rows),
    }


def history_of(bars: pd.DataFrame, said: pd.DataFrame | None) -> SymbolHistory:
    return SymbolHistory(bars, compute_indicators({Timeframe.H1: bars, **_coarser(bars)}, Timeframe.H1), said)


def _coarser(bars: pd.DataFrame) -> dict[Timeframe, pd.DataFrame]:
    from fx_dagster.indicators.arrays import CONTEXT_TIMEFRAMES
    from fx_dagster.market.bars import resample_bars

    return {name: resample_bars(bars, Timeframe.H1, name) for name in CONTEXT_TIMEFRAMES[Timeframe.H1]}


@pytest.fixture(scope="session")
def make_history() -> Callable[..., History]:
    made: dict[Any, History] = {}

    def make(
        *symbols: str, rows: int = 2_000, seed: int = 1, skill: float = 0.0, models: bool = True, whole: bool = False
    ) -> History:
        names = symbols or ("EURUSD",)
        key = (names, rows, seed, skill, models, whole)
        if key not in made:
            frames = {name: walk(name, rows, seed + 10 * place) for place, name in enumerate(names)}
            made[key] = prepare(
                {
                    name: history_of(bars, predictions(bars, seed + 5, skill=skill, whole=whole) if models else None)
                    for name, bars in frames.items()
                },
                Timeframe.H1,
            )
        return made[key]

    return make


@pytest.fixture
def make_config() -> Callable[..., StepConfig]:
    def make(*, cost: dict[str, float] | None = None, whole: bool = False, **risk: Any) -> StepConfig:
        return step_config(RiskSettings(**risk), CostSettings(**(cost or {})), paper=True, **({} if whole else SMALL))

    return make


@pytest.fixture(scope="session")
def make_predictions() -> Callable[..., pd.DataFrame]:
    return predictions


@pytest.fixture(scope="session")
def make_bars() -> Callable[..., pd.DataFrame]:
    return walk


@pytest.fixture(scope="session")
def make_symbol_history() -> Callable[..., SymbolHistory]:
    return history_of
