"""A plausible run to report on: the real EURUSD bars of 2017, with trades and decisions by simple seeded rules."""

import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fx_dagster.models.evaluate import Judged, Metrics, evaluate
from fx_dagster.report.inputs import ReportInputs
from fx_dagster.report.measures import success_measures
from fx_dagster.report.sessions import summarise_live
from fx_dagster.report.statistics import summarise_model, wilson_accuracy
from fx_dagster.report.summary import (
    BacktestSummary,
    CheckOutcome,
    ChecksSummary,
    DataSummary,
    Difference,
    Interval,
    LiveSummary,
    Performance,
    Places,
    Step,
    Summary,
    Versions,
    package_versions,
)

SEED = 7
HORIZON = 12


@pytest.fixture(scope="session")
def inputs() -> ReportInputs:
    """A whole report's inputs."""
    return scene(Path("/reports/2026-11-23T12-02-10"))


@pytest.fixture(scope="session")
def summary(inputs: ReportInputs) -> Summary:
    """Its summary."""
    return inputs.summary


@pytest.fixture(scope="session")
def empty_inputs(summary: Summary) -> ReportInputs:
    """A run that got nowhere: no trades, no models, no live session, no checks."""
    bare = Summary(
        created=summary.created,
        data=DataSummary(source="sample", symbols=(), base_timeframe="H1", ticks_modelled=True),
        checks=ChecksSummary.of([]),
        measures=success_measures((), None, None),
        versions=Versions(feature_hash=""),
        places=summary.places,
    )
    return ReportInputs(summary=bare)


def eurusd_bars() -> pd.DataFrame:
    """Read the real EURUSD H1 bars of 2017 that ship inside gym-anytrading."""
    spec = importlib.util.find_spec("gym_anytrading")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "datasets" / "data" / "FOREX_EURUSD_1H_ASK.csv"
    raw = pd.read_csv(path)
    time = pd.to_datetime(raw["Time"], format="%d.%m.%Y %H:%M:%S.%f", utc=True).dt.tz_localize(None).dt.as_unit("ns")
    bars = raw.rename(columns=str.lower)[["open", "high", "low", "close"]]
    bars.insert(0, "time", time.astype("int64"))
    return bars.assign(tick_volume=1_000.0, spread=8.0)


def judge(bars: pd.DataFrame, strength: float, seed: int) -> Metrics:
    """Judge forecasts that know the coming return with ``strength``, and nothing else."""
    rng = np.random.default_rng(seed)
    close = bars["close"].to_numpy()
    forward = close[HORIZON:] / close[:-HORIZON] - 1
    signal = strength * forward / forward.std() + rng.normal(size=forward.size)
    time = bars["time"].to_numpy()
    return evaluate(
        Judged(
            y=(forward > 0).astype(np.int8),
            p_up=1 / (1 + np.exp(-0.35 * signal)),
            forward_return=forward,
            cost=np.full(forward.size, 1.4e-4),
            time=time[:-HORIZON],
            end_time=time[HORIZON:],
        )
    )


def trades_of(bars: pd.DataFrame, symbol: str, n: int, seed: int) -> pd.DataFrame:
    """Enter at seeded bars in seeded directions and hold for some bars, paying costs."""
    rng = np.random.default_rng(seed)
    entry = np.sort(rng.choice(len(bars) - 40, n, replace=False))
    exit_ = entry + rng.integers(2, 24, n)
    side = rng.choice([-1, 1], n)
    move = side * (bars["close"].to_numpy()[exit_] - bars["open"].to_numpy()[entry + 1])
    unit = 100_000 * 0.05
    return pd.DataFrame(
        {
            "symbol": symbol,
            "side": side,
            "entry_time": bars["time"].to_numpy()[entry + 1],
            "entry_price": bars["open"].to_numpy()[entry + 1],
            "exit_time": bars["time"].to_numpy()[exit_],
            "exit_price": bars["close"].to_numpy()[exit_],
            "profit": move * unit - 0.6,
            "reason": rng.choice(["stop", "target", "age", "reversal"], n),
        }
    )


def equity_of(bars: pd.DataFrame, system: pd.DataFrame, control: pd.DataFrame) -> pd.DataFrame:
    """Add closed profits to 10,000."""
    frame = pd.DataFrame({"time": bars["time"]})
    for name, trades in (("system", system), ("control", control)):
        at = np.searchsorted(bars["time"].to_numpy(), trades["exit_time"].to_numpy())
        frame[name] = 10_000 + np.cumsum(np.bincount(at, weights=trades["profit"].to_numpy(), minlength=len(bars)))
    return frame


def performance(equity: pd.Series, trades: pd.DataFrame) -> Performance:
    """Measure an equity curve of hourly bars."""
    returns = equity.pct_change().dropna()
    downside = np.sqrt((returns.clip(upper=0) ** 2).mean())
    return Performance(
        net_return=equity.iloc[-1] / equity.iloc[0] - 1,
        sharpe=returns.mean() / returns.std() * np.sqrt(6_240),
        sortino=returns.mean() / downside * np.sqrt(6_240),
        max_drawdown=float((1 - equity / equity.cummax()).max()),
        win_rate=float((trades["profit"] > 0).mean()),
        trades=len(trades),
        costs=0.6 * len(trades),
    )


def decisions_of(bars: pd.DataFrame, start: datetime, n: int, killed_s: float, recovered_s: float) -> pd.DataFrame:
    """Make ``n`` decisions over 90 seconds; between the kill and the recovery they are traditional."""
    rng = np.random.default_rng(SEED)
    after = np.sort(rng.uniform(0, 90, n))
    down = (after > killed_s) & (after < recovered_s)
    model = np.where(down, np.nan, 1.5 + rng.lognormal(0.1, 0.5, n))
    waits = rng.lognormal(0.2, 0.6, n)
    return pd.DataFrame(
        {
            "decided_wall_ns": int(start.timestamp()) * 10**9 + (after * 1e9).astype(np.int64),
            "bar_time": bars["time"].to_numpy()[-n:],
            "symbol": "EURUSD",
            "level": np.where(down, 3, 2),
            "level_reason": np.where(
                ~down, "deep models absent", np.where(after < killed_s + 3, "models unreachable", "recovering")
            ),
            "latency_total_ms": waits + np.nan_to_num(model, nan=0.4),
            "latency_model_ms": model,
        }
    )


def live_of(decisions: pd.DataFrame, start: datetime, bare_ms: np.ndarray) -> LiveSummary:
    """Summarise the session with Triton killed at 41 s."""
    killed = start + timedelta(seconds=41.0)
    return summarise_live(
        decisions,
        start=start,
        end=start + timedelta(seconds=92),
        ticks=len(decisions) * 4,
        market_start=datetime(2017, 12, 1, tzinfo=UTC),
        market_end=datetime(2017, 12, 29, 21, tzinfo=UTC),
        bare_call_ms=tuple(bare_ms),
        trades=9,
        net_return=-0.0031,
        uptime=1.0,
        killed_at=killed,
        server_back_at=killed + timedelta(seconds=2.3),
    )


def checks_scene() -> ChecksSummary:
    names = ("ticks_in_order", "spread_in_band", "no_look_ahead", "agree_with_ticks", "no_gaps", "finite", "in_range")
    assets = ("ticks", "bars", "indicators", "features")
    results = [
        CheckOutcome(asset=asset, name=name, outcome="passed", symbol="EURUSD") for asset in assets for name in names
    ]
    results.append(
        CheckOutcome(
            asset="bars",
            name="gaps",
            outcome="warned",
            symbol="EURUSD",
            detail="2 gaps inside sessions, longest 9 bars",
        )
    )
    return ChecksSummary.of(results)


def scene(tmp: Path) -> ReportInputs:
    """Return a whole report's inputs on EURUSD H1 of 2017."""
    bars = eurusd_bars()
    metrics = {"xgboost": judge(bars, 0.05, 1), "random_forest": judge(bars, 0.03, 2)}
    system, control = trades_of(bars, "EURUSD", 148, 3), trades_of(bars, "EURUSD", 231, 4)
    equity = equity_of(bars, system, control)
    start = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
    decisions = decisions_of(bars, start, 463, 41.0, 74.0)
    bare = 0.9 + np.random.default_rng(5).lognormal(-1.2, 0.5, 400)
    models = tuple(summarise_model(name, judged) for name, judged in metrics.items())
    backtest = backtest_scene(bars, equity, system, control)
    live = live_of(decisions, start, bare)
    summary = Summary(
        created=start + timedelta(seconds=130),
        data=data_scene(bars),
        checks=checks_scene(),
        models=models,
        backtest=backtest,
        live=live,
        measures=success_measures(models, backtest, live),
        versions=Versions(
            release=3, feature_hash="9f3c1ab2" * 8, python="3.11.9", triton="2.51.0", packages=package_versions()
        ),
        timings=tuple(
            Step(name=name, seconds=took)
            for name, took in {"servers": 4.1, "market data": 21, "models": 48, "backtest": 12, "live": 92}.items()
        ),
        places=Places(folder=str(tmp), html=str(tmp / "report.html"), ui_command="fx up"),
    )  # fmt: skip
    rng = np.random.default_rng(6)
    families = ("rsi_14", "macd_histogram", "bollinger_position", "atr_ratio", "vwap_distance", "sma_50_distance")
    names = [f"{family}_{timeframe}" for family in families for timeframe in ("h1", "h4", "d1")]
    importance = pd.DataFrame(
        [(model, name, float(rng.gamma(1.2))) for model in metrics for name in names],
        columns=["model", "feature", "importance"],
    )
    return ReportInputs(
        summary=summary, equity=equity, bars={"EURUSD": bars}, trades=system, importance=importance, metrics=metrics,
        decisions=decisions, bare_call_ms=tuple(bare), settings={"FX_LIVE_REPLAY_SPEED": "20000"},
    )  # fmt: skip


def data_scene(bars: pd.DataFrame) -> DataSummary:
    first, last = (datetime.fromtimestamp(int(bars["time"].iloc[row]) / 1e9, UTC) for row in (0, -1))
    rows = {"ticks": 4 * len(bars), "bars/H1": len(bars), "bars/H4": 1_560, "bars/D1": 260, "features": len(bars) - 600}
    return DataSummary(
        source="sample", symbols=("EURUSD",), base_timeframe="H1", ticks_modelled=True, start=first,
        end=last + timedelta(hours=1), rows=rows, quarantined={"duplicate": 2, "spike": 1},
    )  # fmt: skip


def backtest_scene(
    bars: pd.DataFrame, equity: pd.DataFrame, system: pd.DataFrame, control: pd.DataFrame
) -> BacktestSummary:
    sides = performance(equity["system"], system), performance(equity["control"], control)
    spread = {"net_return": 0.05, "sharpe": 1.4, "sortino": 2.0, "max_drawdown": 0.03, "win_rate": 0.09}
    gaps = {name: getattr(sides[0], name) - getattr(sides[1], name) for name in spread}
    return BacktestSummary(
        start=datetime.fromtimestamp(int(bars["time"].iloc[0]) / 1e9, UTC),
        end=datetime.fromtimestamp(int(bars["time"].iloc[-1]) / 1e9, UTC),
        initial_balance=10_000,
        currency="USD",
        system=sides[0],
        control=sides[1],
        differences=tuple(
            Difference(
                metric=name, value=gap,
                interval=Interval(low=gap - spread[name], high=gap + spread[name], method="stationary block bootstrap"),
            )
            for name, gap in gaps.items()
        ),
        traded=wilson_accuracy(system["profit"] > -0.6),
        coverage=len(system) / len(bars),
    )  # fmt: skip
