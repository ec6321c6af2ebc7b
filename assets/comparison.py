"""Side by side: the three ways of combining, each model alone, and the traditional control."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.evaluation import GROUP, OWNERS, backtest, origin, trainings
from assets.history import RESUME_AFTER_HOURS, read_history
from assets.metadata import frame_table, picture
from assets.models import read_dataset
from assets.predictions import read_stacked
from assets.run_shape import RunShape
from fx_dagster.backtest.candidates import (
    CONTROL,
    NOTHING,
    CandidateResult,
    best_by_luck,
    candidates,
    comparison_frame,
    equity_frame,
    replay_candidates,
)
from fx_dagster.backtest.prepare import History
from fx_dagster.backtest.trials import backtest_trial
from fx_dagster.decision.config import paper_config
from fx_dagster.models.answer import BASE_MODELS, DIRECTIONS, META
from fx_dagster.models.compare import compare_models
from fx_dagster.models.evaluate import evaluate
from fx_dagster.models.protocol import Float64
from fx_dagster.models.stack import StackedRows
from fx_dagster.models.training import judged
from fx_dagster.report.files import write_text
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource, TrialsResource
from resources.lake import Lake

COMPARISON = "comparison.json"
LUCK_MAX = 0.05
_ACCURACY = ("accuracy", "accuracy_low", "accuracy_high", "majority_accuracy", "break_even_accuracy", "rows")
"""Metrics of a model on all symbols and on each; the page cuts wide tables on the right."""


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"numba"},
    deps=[backtest],
    description="""Every way to trade on the same bars, costs and risk: the three ways of combining, each model alone,
the hybrid without agents, and the traditional control.

Answers are out of fold only; models are judged over all symbols and on each. Each row's return a year, and its
difference from the control, have block-bootstrap intervals; the p-values of the best, beside the control and beside an
account that does not trade, are Hansen's test for superior predictive ability over all of them; models are compared by
log-loss with Diebold and Mariano's test. Every candidate is recorded as a trial.""",
)
def model_comparison(
    context: dg.AssetExecutionContext,
    market: MarketResource,
    lake: LakeResource,
    settings: SettingsResource,
    trials: TrialsResource,
) -> dg.MaterializeResult:
    """Replay every candidate, judge every model on the same rows, and store both tables."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    history = read_history(store, shape, chosen)
    results = _replayed(history, shape, chosen)
    _record(trials, context.run.run_id, store, shape, chosen, history, results)
    table = comparison_frame(results)
    luck = {
        "best_by_luck": best_by_luck(results, seed=chosen.training.seed),
        "best_against_nothing": best_by_luck(results, seed=chosen.training.seed, benchmark=NOTHING),
    }
    rows, said = read_answers(store, shape, chosen)
    directions, losses = judge_models(rows, said, chosen)
    by_symbol = judge_symbols(rows, said, chosen)
    store.write("comparison_equity", equity_frame(results))
    found = {
        "candidates": table.replace({np.nan: None}).to_dict(orient="records"),
        **luck,
        "models": directions.replace({np.nan: None}).to_dict(orient="records"),
        "losses": losses.replace({np.nan: None}).to_dict(orient="records"),
        "by_symbol": by_symbol.replace({np.nan: None}).to_dict(orient="records"),
    }
    write_text(chosen.evaluation / COMPARISON, pd.Series(found).to_json(indent=1))
    first = ["candidate", "verdict", "annual_return", "annual_low", "annual_high"]
    shown = {
        # The page cuts wide tables on the right.
        "candidates": table[[*first, *(name for name in table.columns if name not in first)]],
        "models": directions,
        "log_losses": losses,
        "by_symbol": by_symbol,
    }
    tables = {name: frame_table(frame) for name, frame in shown.items()}
    told = {name: "not settled: too few days" if value is None else value for name, value in luck.items()}
    return dg.MaterializeResult(metadata={**tables, **told, **_pictures(results, chosen)})


def _replayed(history: History, shape: RunShape, settings: Settings) -> list[CandidateResult]:
    return replay_candidates(
        history,
        candidates(paper_config(settings, shape.base), DIRECTIONS),
        DIRECTIONS,
        initial_balance=settings.risk.initial_balance,
        leverage=settings.risk.leverage,
        resume_after_hours=RESUME_AFTER_HOURS,
        seed=settings.training.seed,
    )


def _record(
    trials: TrialsResource, run_id: str, lake: Lake, shape: RunShape, settings: Settings, history: History,
    results: list[CandidateResult],
) -> None:  # fmt: skip
    """Every candidate that was looked at counts."""
    control = results[0].result
    for found in results[1:]:
        trial = backtest_trial(
            origin(f"model_comparison/{found.candidate.name}", run_id, shape),
            found.result,
            control,
            found.candidate.config,
            settings.risk,
            resume_after_hours=RESUME_AFTER_HOURS,
            trainings={name: key for name, key in trainings(lake).items() if name in found.candidate.models},
            start=int(history.market.time[0]),
        )
        trials.record(trial)


def read_answers(lake: Lake, shape: RunShape, settings: Settings) -> tuple[StackedRows, dict[str, Float64]]:
    """Return the rows that every direction model was tested on, and p(up) of each by the model's name."""
    rows, _ = read_stacked(lake, read_dataset(lake, shape, settings), meta=True)
    said = dict(zip(BASE_MODELS, rows.said.T, strict=True))
    if rows.meta is not None:
        said[META] = rows.meta
    return rows, said


def judge_models(
    rows: StackedRows, said: Mapping[str, Float64], settings: Settings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judge every direction model on the same rows.

    Returns:
        One row a model: accuracy with its interval beside the majority class and break-even, log-loss, Brier score and
        calibration error; and one row a pair of models: difference of log-loss and its p-value.
    """
    columns = (*_ACCURACY, "log_loss", "base_log_loss", "brier", "roc_auc", "calibration_error")
    table = pd.DataFrame([{"model": name, **_judged(rows, p_up, columns, settings)} for name, p_up in said.items()])
    pairs = compare_models(rows.y, said, rows.time, horizon_bars=settings.feature.horizon_bars)
    return table, pd.DataFrame([vars(pair) for pair in pairs])


def judge_symbols(rows: StackedRows, said: Mapping[str, Float64], settings: Settings) -> pd.DataFrame:
    """Return one row a symbol and model: accuracy with its interval beside the majority class and break-even."""
    found = []
    for code in np.unique(rows.symbol_code):
        places = np.flatnonzero(rows.symbol_code == code)
        of_symbol = rows.take(places)
        found += [
            {"symbol": rows.symbols[code], "model": name, **_judged(of_symbol, p_up[places], _ACCURACY, settings)}
            for name, p_up in said.items()
        ]
    return pd.DataFrame(found)


def _judged(rows: StackedRows, p_up: Float64, columns: Sequence[str], settings: Settings) -> dict[str, float]:
    metrics = evaluate(judged(rows, p_up), seed=settings.training.seed)
    return {column: getattr(metrics, column) for column in columns}


def _pictures(results: list[CandidateResult], settings: Settings) -> dict[str, Any]:
    from fx_dagster.report.plots import line_png

    equity = equity_frame(results)
    ways = {name: equity[name] for name in equity.columns if name != "time" and not name.endswith(" alone")}
    alone = {name: equity[name] for name in equity.columns if name == CONTROL or name.endswith(" alone")}
    time = pd.to_datetime(equity["time"], utc=True)
    unit = settings.risk.account_currency
    return {
        "ways_of_combining": picture(line_png(time, ways, title="Ways of combining", unit=unit)),
        "models_alone": picture(line_png(time, alone, title="Each model alone", unit=unit)),
    }


@dg.asset_check(asset=model_comparison, blocking=True)
def every_account_is_accounted_for(lake: LakeResource) -> dg.AssetCheckResult:
    """Every candidate's equity is a positive number at every bar, and the control's is that of the asset backtest."""
    store = lake.open()
    equity, whole = store.read("comparison_equity"), store.read("backtest_equity")
    accounts = equity.drop(columns="time")
    wrong = [name for name in accounts.columns if not (np.isfinite(accounts[name]) & (accounts[name] > 0)).all()]
    same = np.array_equal(accounts[CONTROL], whole["control"])
    return dg.AssetCheckResult(
        passed=not wrong and same,
        description=", ".join(wrong) or ("they are" if same else "the control is not the one of the asset backtest"),
    )


@dg.asset_check(asset=model_comparison)
def the_best_is_more_than_luck(settings: SettingsResource) -> dg.AssetCheckResult:
    """Over all candidates, the best one's lead over the control, and over not trading, is not what luck would bring."""
    import json

    found = json.loads((settings.load().evaluation / COMPARISON).read_text())
    beside = {"the control": found["best_by_luck"], "not trading": found["best_against_nothing"]}
    return dg.AssetCheckResult(
        passed=all(value is not None and value < LUCK_MAX for value in beside.values()),
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(luck_in_words(name, value) for name, value in beside.items()),
    )


def luck_in_words(benchmark: str, p_value: float | None) -> str:
    """Return what a p-value of the best candidate says; None: there were too few days to tell."""
    if p_value is None:
        return f"against {benchmark}: too few days to tell"
    return f"against {benchmark}: p-value {p_value:.3f}, allowed {LUCK_MAX}"
