"""How bad it can get: other orders of the same luck, and shocks that the history does not hold."""

from typing import Any

import dagster as dg
import pandas as pd

from assets.evaluation import GROUP, OWNERS, backtest
from assets.history import RESUME_AFTER_HOURS, read_history
from assets.metadata import frame_table, picture
from assets.run_shape import RunShape
from fx_dagster.backtest.replay import replay
from fx_dagster.backtest.shock_runs import outcome_table, run_shocks
from fx_dagster.backtest.stress import MonteCarlo, monte_carlo_days, monte_carlo_trades, study_table
from fx_dagster.decision.config import paper_config
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource

PATHS = "stress_paths"
SHOCKS = "stress_shocks"


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"numba"},
    deps=[backtest],
    description="""The backtested system under stress: Monte Carlo by stationary block bootstrap, and made shocks.

Daily returns and the sequence of trades are resampled in blocks: distribution of drawdown, terminal wealth, time under
water and ruin. Shocks are replayed where positions are open: a gap through the stops, a day of wide spreads, a week in
which all symbols move as one, a silent hour before a gap.""",
)
def stress_test(market: MarketResource, lake: LakeResource, settings: SettingsResource) -> dg.MaterializeResult:
    """Resample the system's days and trades, replay the shocks, and store what came of both."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    history, stress = read_history(store, shape, chosen), chosen.stress
    config = paper_config(chosen, history.timeframe)
    balance, leverage, halt = chosen.risk.initial_balance, chosen.risk.leverage, chosen.risk.drawdown_halt
    result = replay(history, config, initial_balance=balance, leverage=leverage, resume_after_hours=RESUME_AFTER_HOURS)
    seed = chosen.training.seed
    days = monte_carlo_days(result, ruin_at=halt, samples=stress.samples, seed=seed)
    trades = monte_carlo_trades(result, ruin_at=halt, samples=stress.samples, seed=seed)
    outcomes = run_shocks(
        history, config, initial_balance=balance, leverage=leverage, resume_after_hours=RESUME_AFTER_HOURS, seed=seed,
        dates=stress.dates, gap_atr=stress.gap_atr, spread_factor=stress.spread_factor,
    )  # fmt: skip
    paths, shocks = study_table(days, trades), outcome_table(outcomes)
    store.write(PATHS, paths)
    store.write(SHOCKS, shocks)
    return dg.MaterializeResult(metadata=_metadata(paths, shocks, days or trades))


def _metadata(paths: pd.DataFrame, shocks: pd.DataFrame, study: MonteCarlo | None) -> dict[str, Any]:
    from fx_dagster.report.plots import histogram_png

    when = pd.to_datetime(shocks["time"], utc=True).dt.strftime("%Y-%m-%d %H:%M")
    shown: dict[str, Any] = {
        "paths": frame_table(paths),
        "shocks": frame_table(shocks.assign(time=when)),
        "worst_fall": float(shocks["fall"].max()) if len(shocks) else 0.0,
    }
    if study is not None:
        title = f"Maximum drawdown of {study.samples:,} resampled paths of {study.unit}s"
        shown["drawdowns"] = picture(histogram_png(study.drawdowns, title=title, unit="fraction of the peak"))
    return shown


@dg.asset_check(asset=stress_test, blocking=True)
def shocks_stay_within_limits(lake: LakeResource) -> dg.AssetCheckResult:
    """Under every shock losses stay within the limits of exposure, and stops, breakers and silence hold."""
    shocks = lake.open().read(SHOCKS)
    broken = shocks[shocks["broken"] != ""]
    first = f"{broken['shock'].iloc[0]}: {broken['broken'].iloc[0]}" if len(broken) else ""
    return dg.AssetCheckResult(
        passed=broken.empty,
        description=first or f"{len(shocks)} shocks, the worst fall {shocks['fall'].max():.2%}"
        if len(shocks)
        else "no position was ever open long enough to be shocked",
        metadata={"shocks": len(shocks), "broken": len(broken)},
    )


@dg.asset_check(asset=stress_test)
def resampled_drawdown_stays_in_its_limit(lake: LakeResource, settings: SettingsResource) -> dg.AssetCheckResult:
    """The 95th percentile of the resampled days' maximum drawdown is less than FX_RISK_DRAWDOWN_HALT."""
    paths, limit = lake.open().read(PATHS).set_index("measure"), settings.load().risk.drawdown_halt
    if "day" not in paths.columns:
        return dg.AssetCheckResult(passed=True, description="too few days to resample")
    found, ruin = float(paths["day"]["max_drawdown_p95"]), float(paths["day"]["ruin"])
    return dg.AssetCheckResult(
        passed=found < limit,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"95 % of the paths stay above −{found:.2%}; {ruin:.1%} reach the halt at {limit:.0%}",
        metadata={"max_drawdown_p95": found, "ruin": ruin},
    )
