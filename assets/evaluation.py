"""What the system would have done, beside what it would have done without any model."""

import dataclasses
from typing import Any

import dagster as dg
import pandas as pd

from assets.agents import ppo_model
from assets.history import RESUME_AFTER_HOURS, read_history, read_ticks, tick_parts
from assets.metadata import frame_table, picture
from assets.models import MODEL_ASSETS
from assets.predictions import AGENTS, table_of
from assets.run_shape import RunShape
from assets.stacked_models import STACKED, STACKED_ASSETS
from fx_dagster.backtest.ab import replay_both
from fx_dagster.backtest.prepare import History
from fx_dagster.backtest.result import BacktestResult
from fx_dagster.backtest.ticks import TickAccount, replay_ticks
from fx_dagster.backtest.trials import Origin, Trial, backtest_trial
from fx_dagster.decision.config import paper_config, traditional_control
from fx_dagster.report.backtests import summarise_backtest
from fx_dagster.report.files import write_text
from fx_dagster.report.summary import BacktestSummary
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource, TrialsResource
from resources.lake import Lake

GROUP = "evaluation"
OWNERS = ["team:research"]
SUMMARY = "backtest.json"
CENT = 0.01


def compare_with_control(
    history: History, settings: Settings
) -> tuple[BacktestResult, BacktestResult, BacktestSummary]:
    """Replay the system and its traditional control over the same bars, and say how they compare."""
    config = paper_config(settings, history.timeframe)
    system, control = replay_both(
        history,
        config,
        traditional_control(config),
        initial_balance=settings.risk.initial_balance,
        leverage=settings.risk.leverage,
        resume_after_hours=RESUME_AFTER_HOURS,
    )
    start, decisions = int(history.market.time[0]), int(history.market.inputs["active"].sum())
    return system, control, _summary(system, control, start, decisions, settings)


def compare_on_ticks(
    lake: Lake, shape: RunShape, settings: Settings, *, tick_spacing_s: float
) -> tuple[BacktestResult, BacktestResult, BacktestSummary]:
    """Replay the system and its traditional control over the stored ticks, through the live session's loop."""
    config, risk = paper_config(settings, shape.base), settings.risk
    account = TickAccount(risk.initial_balance, risk.leverage, risk.account_currency, RESUME_AFTER_HOURS)
    history = read_ticks(lake, shape)
    system, control = (
        replay_ticks(
            dataclasses.replace(history, parts=tick_parts(lake, history)), one, account, settings.cost,
            stale_s=max(settings.live.stale_after_s, tick_spacing_s), spike_z=settings.validation.spike_robust_z,
        )
        for one in (config, traditional_control(config))
    )  # fmt: skip
    decisions = system.counts["total"]["decisions"]
    return system, control, _summary(system, control, history.start, decisions, settings)


def _summary(
    system: BacktestResult, control: BacktestResult, start: int, decisions: int, settings: Settings
) -> BacktestSummary:
    return summarise_backtest(
        system,
        control,
        start=start,
        end=int(system.equity["time"].iloc[-1]),
        currency=settings.risk.account_currency,
        decisions=decisions,
        seed=settings.training.seed,
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"numba"},
    deps=[*MODEL_ASSETS.values(), *STACKED_ASSETS, ppo_model],
    description="""The live decision step, replayed over history with costs: AI-assisted beside the traditional control.

Models answer out of fold only: every prediction is by a model that had not seen the row. Fills are at the next bar's
open with its spread, slippage and commission; stops and targets inside the bar in the tick model's order. The holdout
is not part of it. Every materialisation is recorded as a trial.""",
)
def backtest(
    context: dg.AssetExecutionContext,
    market: MarketResource,
    lake: LakeResource,
    settings: SettingsResource,
    trials: TrialsResource,
) -> dg.MaterializeResult:
    """Replay twice over the same bars, store equity, trades and decisions, and compare."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    history = read_history(store, shape, chosen)
    system, control, summary = compare_with_control(history, chosen)
    trial = trials.record(_trial(context.run.run_id, store, shape, chosen, history, system, control))
    equity = _equity(system, control)
    for name, result in (("system", system), ("control", control)):
        store.write(f"backtest_trades_{name}", result.trades)
        store.write(f"backtest_decisions_{name}", result.decisions)
    unexplained = {"system": _unexplained(system), "control": _unexplained(control)}
    store.write("backtest_equity", equity, metadata={name: repr(money) for name, money in unexplained.items()})
    write_text(chosen.evaluation / SUMMARY, summary.model_dump_json(indent=1))
    return dg.MaterializeResult(metadata={"trial": trial, **_metadata(system, control, summary, equity)})


def _trial(
    run_id: str, lake: Lake, shape: RunShape, settings: Settings, history: History, system: BacktestResult,
    control: BacktestResult,
) -> Trial:  # fmt: skip
    return backtest_trial(
        origin("backtest", run_id, shape),
        system,
        control,
        paper_config(settings, history.timeframe),
        settings.risk,
        resume_after_hours=RESUME_AFTER_HOURS,
        trainings=trainings(lake),
        start=int(history.market.time[0]),
    )


def origin(asset: str, run_id: str, shape: RunShape) -> Origin:
    """Return where a trial was made, and of what."""
    return Origin(asset, run_id, shape.source, shape.symbols, shape.base.value, shape.catalogue.hash)


def trainings(lake: Lake) -> dict[str, str]:
    """Return the fingerprint of the training behind each model's predictions."""
    names = (*MODEL_ASSETS, *STACKED, AGENTS)
    return {name: lake.metadata(table_of(name)).get("training", "") for name in names}


def _unexplained(result: BacktestResult) -> float:
    """Return the money at the end that neither closed trades nor open positions account for."""
    # A position that is still open has paid its entry's commission, which is in no closed trade yet.
    paid_ahead = result.costs["commission"] - float(result.trades["commission"].sum())
    explained = result.initial_balance + float(result.trades["profit"].sum()) + result.open_profit - paid_ahead
    return float(result.equity["equity"].iloc[-1]) - explained


def _equity(system: BacktestResult, control: BacktestResult) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "time": system.equity["time"],
            "system": system.equity["equity"],
            "control": control.equity["equity"],
        }
    )


def _metadata(
    system: BacktestResult, control: BacktestResult, summary: BacktestSummary, equity: pd.DataFrame
) -> dict[str, Any]:
    from fx_dagster.report.plots import equity_png

    table = pd.DataFrame({"system": system.metrics, "control": control.metrics})
    return {
        "metrics": frame_table(table.rename_axis("metric").reset_index()),
        "net_return_system": summary.system.net_return,
        "net_return_control": summary.control.net_return,
        "trades_system": summary.system.trades,
        "trades_control": summary.control.trades,
        "drawdown_halts_system": system.halts,
        "drawdown_halts_control": control.halts,
        "decisions_by_level": frame_table(pd.DataFrame({"decisions": system.counts["level"]}).reset_index()),
        "equity": picture(equity_png(equity, title="Equity", currency=summary.currency)),
    }


@dg.asset_check(asset=backtest, blocking=True)
def the_books_balance(lake: LakeResource) -> dg.AssetCheckResult:
    """Closed trades and open positions account for every cent of the final equity."""
    found = lake.open().metadata("backtest_equity")
    off = {name: float(text) for name, text in found.items() if not abs(float(text)) < CENT}
    return dg.AssetCheckResult(
        passed=not off,
        description=", ".join(f"{name}: {money:+.2f} unexplained" for name, money in off.items()) or "they do",
    )


@dg.asset_check(asset=backtest)
def drawdown_stays_in_its_limit(settings: SettingsResource) -> dg.AssetCheckResult:
    """The system's deepest drawdown is less than FX_RISK_DRAWDOWN_HALT."""
    chosen = settings.load()
    found = BacktestSummary.model_validate_json((chosen.evaluation / SUMMARY).read_text()).system.max_drawdown
    limit = chosen.risk.drawdown_halt
    return dg.AssetCheckResult(
        passed=found < limit,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"maximum drawdown {found:.2%}, the halt is at {limit:.0%}",
        metadata={"max_drawdown": found},
    )
