"""What the newest backtest is worth among all that was tried."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.comparison import model_comparison
from assets.evaluation import GROUP, OWNERS, SUMMARY, backtest
from assets.metadata import frame_table, picture
from assets.run_shape import RunShape
from fx_dagster.backtest.metrics import daily_returns, sharpe
from fx_dagster.backtest.trial_review import (
    CANDIDATES_MIN,
    COMMON_DAYS_MIN,
    OVERFITTING_MAX,
    SIGNIFICANT,
    TrialReview,
    review_trials,
)
from fx_dagster.backtest.trials import NOT_RECORDED, Trial, TrialKind, counted
from fx_dagster.features.volatility import TRADING_DAYS_A_YEAR
from fx_dagster.report.files import write_text
from fx_dagster.report.summary import BacktestSummary
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource, TrialsResource
from resources.trials import TrialRow

REVIEW = "trials.json"
YEAR = TRADING_DAYS_A_YEAR**0.5
"""Makes a Sharpe ratio of one day annual."""


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres"},
    deps=[backtest, model_comparison],
    description="""The newest backtest, weighed against every training and backtest that was recorded.

The best of many looks good by luck alone. Deflated Sharpe ratio (Bailey & López de Prado 2014): the probability that
skill is left when the luck of so many trials is taken off. Probability of backtest overfitting (Bailey, Borwein, López
de Prado & Zhu 2017): how often the best of one half of the days is among the worse half of the trials on the other.
Superior predictive ability (Hansen 2005): the p-value of the best against its traditional control. One source and one
timeframe at a time.""",
)
def trial_review(market: MarketResource, settings: SettingsResource, trials: TrialsResource) -> dg.MaterializeResult:
    """Read all trials, weigh the newest backtest and store what came of it."""
    chosen, shape, ledger = settings.load(), RunShape.of(market.open()), trials.open()
    rows = [] if ledger is None else _ours_last(ledger.list(shape.source, shape.base.value))
    found = review_trials([row.trial for row in rows], seed=chosen.training.seed)
    if ledger is None:
        found = TrialReview(note=NOT_RECORDED)
    write_text(chosen.evaluation / REVIEW, found.model_dump_json(indent=1))
    return dg.MaterializeResult(metadata=_metadata(found, rows))


def _ours_last(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return trials as recorded, those of the asset ``backtest`` last: they are weighed, what is compared counts."""
    return sorted(rows, key=_is_ours)


def _is_ours(row: TrialRow) -> bool:
    return row.trial.kind is TrialKind.BACKTEST and row.trial.origin.asset == "backtest"


def read_review(settings: Settings) -> TrialReview:
    """Return the newest review."""
    return TrialReview.model_validate_json((settings.evaluation / REVIEW).read_text())


def trial_frame(rows: Sequence[TrialRow]) -> pd.DataFrame:
    """Return one row a recorded materialisation, the newest first; Sharpe ratios are annual."""
    valid = {id(trial) for trial in counted(row.trial for row in rows)}
    return pd.DataFrame(
        [
            {
                "trial": row.id,
                "recorded": f"{row.recorded_at:%Y-%m-%d %H:%M}",
                "asset": row.trial.origin.asset,
                "configuration": row.trial.fingerprint[:12],
                "from": _day(row.trial.start),
                "to": _day(row.trial.end),
                "days": len(row.trial.daily.day),
                "sharpe": _annual_sharpe(row.trial),
                "counts": id(row.trial) in valid,
                "run": row.trial.origin.run_id,
            }
            for row in rows[::-1]
        ]
    )


def _annual_sharpe(trial: Trial) -> float:
    return sharpe(trial.daily.system)


def _day(time_ns: int) -> str:
    return f"{pd.Timestamp(time_ns, tz='UTC'):%Y-%m-%d}"


def _metadata(found: TrialReview, rows: Sequence[TrialRow]) -> dict[str, Any]:
    from fx_dagster.report.plots import histogram_png

    numbers = {name: value for name, value in found.model_dump().items() if value is not None and name != "note"}
    shown: dict[str, Any] = numbers | {"recorded": found.note or f"{len(rows)} materialisations"}
    if rows:
        shown["table"] = frame_table(trial_frame(rows))
    if found.backtests > 1:
        tried = [trial for trial in counted(row.trial for row in rows) if trial.kind is TrialKind.BACKTEST]
        title = f"Annual Sharpe ratios of {len(tried)} backtests"
        ratios = [_annual_sharpe(trial) for trial in tried]
        shown["sharpe_ratios"] = picture(histogram_png(ratios, title=title, unit="Sharpe ratio", bins=20))
    return shown


@dg.asset_check(asset=trial_review, blocking=True)
def the_newest_backtest_counts(
    market: MarketResource, lake: LakeResource, settings: SettingsResource, trials: TrialsResource
) -> dg.AssetCheckResult:
    """The backtest in the lake is the one that was recorded last, day by day: none goes uncounted."""
    ledger, shape, chosen = trials.open(), RunShape.of(market.open()), settings.load()
    if ledger is None:
        return dg.AssetCheckResult(passed=True, description=NOT_RECORDED)
    recorded = [row for row in ledger.list(shape.source, shape.base.value) if _is_ours(row)]
    initial = BacktestSummary.model_validate_json((chosen.evaluation / SUMMARY).read_text()).initial_balance
    equity = lake.open().read("backtest_equity")
    _, returns = daily_returns(equity["time"].to_numpy(np.int64), equity["system"].to_numpy(np.float64), initial)
    same = bool(recorded) and np.array_equal(recorded[-1].trial.daily.system, returns)
    return dg.AssetCheckResult(
        passed=same,
        description=f"trial {recorded[-1].id}"
        if same
        else "the backtest in the lake is not the last one recorded: materialise the asset backtest again",
    )


@dg.asset_check(asset=trial_review)
def the_sharpe_ratio_is_more_than_luck(settings: SettingsResource) -> dg.AssetCheckResult:
    """The deflated Sharpe ratio of the newest backtest is significant: above 95 %."""
    found = read_review(settings.load())
    return dg.AssetCheckResult(
        passed=found.deflated_sharpe is not None and found.deflated_sharpe > SIGNIFICANT,
        severity=dg.AssetCheckSeverity.WARN,
        description=said_of_luck(found),
        metadata={} if found.deflated_sharpe is None else {"deflated_sharpe": found.deflated_sharpe},
    )


@dg.asset_check(asset=trial_review)
def choosing_does_not_overfit(settings: SettingsResource) -> dg.AssetCheckResult:
    """The probability of backtest overfitting is below one half, where there are enough trials to tell."""
    found = read_review(settings.load())
    return dg.AssetCheckResult(
        passed=not found.note and (found.overfitting is None or found.overfitting < OVERFITTING_MAX),
        severity=dg.AssetCheckSeverity.WARN,
        description=said_of_overfitting(found),
        metadata={} if found.overfitting is None else {"probability_of_overfitting": found.overfitting},
    )


def said_of_luck(found: TrialReview) -> str:
    """Return in one line whether the newest backtest is more than luck."""
    if found.note:
        return found.note
    if found.sharpe is None or found.luck is None or found.deflated_sharpe is None:
        return f"{found.days} trading days are too few to tell, or nothing was traded on them"
    verdict = "significant" if found.deflated_sharpe > SIGNIFICANT else "not significant"
    return (
        f"{verdict}: skill is left with a probability of {found.deflated_sharpe:.1%}, {SIGNIFICANT:.0%} are needed; "
        f"annual Sharpe ratio {found.sharpe * YEAR:.2f}, luck alone brings {found.luck * YEAR:.2f} in {found.trials} "
        f"trials that amount to {found.independent:.1f} independent ones"
    )


def said_of_overfitting(found: TrialReview) -> str:
    """Return in one line whether choosing among the backtests overfits."""
    if found.note:
        return found.note
    if found.overfitting is None:
        return (
            f"too few trials to tell: different backtests {found.candidates} of {CANDIDATES_MIN}, "
            f"common days {found.common_days} of {COMMON_DAYS_MIN}"
        )
    return (
        f"the best of {found.candidates} backtests on one half of {found.common_days} days is among the worse ones on "
        f"the other half with a probability of {found.overfitting:.0%}"
    )
