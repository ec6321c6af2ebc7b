"""Ways to trade side by side: what is compared, on what, and what counts as ahead."""

import numpy as np
import pytest

from fx_dagster.backtest.ab import against_nothing
from fx_dagster.backtest.candidates import (
    CONTROL,
    NOTHING,
    best_by_luck,
    candidates,
    comparison_frame,
    equity_frame,
    replay_candidates,
    with_models,
)
from fx_dagster.errors import DataError

MODELS = ("xgboost", "random_forest")


def compared(make_history, make_config, skill):
    return replay_candidates(
        make_history(skill=skill), candidates(make_config(), MODELS), MODELS, initial_balance=10_000.0, leverage=30.0,
        resume_after_hours=0.0, seed=7,
    )  # fmt: skip


@pytest.fixture(scope="module")
def knowing(make_history):
    from fx_dagster.decision.config import step_config
    from fx_dagster.settings import CostSettings, RiskSettings

    from .conftest import SMALL

    return compared(make_history, lambda: step_config(RiskSettings(), CostSettings(), paper=True, **SMALL), skill=0.2)


def test_every_way_and_every_model_alone_is_there_beside_the_control(knowing):
    names = [found.candidate.name for found in knowing]
    assert names == [
        CONTROL, "parallel", "hierarchical", "hybrid", "hybrid without agents", "xgboost alone", "random_forest alone",
    ]  # fmt: skip
    assert knowing[0].against_control is None
    assert all(found.against_control is not None for found in knowing[1:])
    table = comparison_frame(knowing)
    assert list(table["candidate"]) == names
    assert table["verdict"][0] == "the control"
    assert list(equity_frame(knowing).columns) == ["time", *names]


def test_what_knows_is_ahead_of_the_control_and_of_not_trading(knowing):
    table = comparison_frame(knowing).set_index("candidate")
    best = table["annual_return"].idxmax()
    assert table.loc[best, "verdict"] == "better"
    assert table.loc[best, "annual_low"] > 0
    assert best_by_luck(knowing, seed=7) < 0.05
    assert best_by_luck(knowing, seed=7, benchmark=NOTHING) < 0.05


def test_what_knows_nothing_is_not_ahead_of_not_trading(make_history, make_config):
    blind = compared(make_history, make_config, skill=0.0)
    table = comparison_frame(blind)
    assert not (table["annual_low"] > 0).any()
    assert best_by_luck(blind, seed=7, benchmark=NOTHING) > 0.05


def test_the_annual_return_is_the_mean_of_days_and_lies_in_its_interval(knowing):
    found = knowing[3]
    own = against_nothing(found.result)
    assert own.low < own.value < own.high
    gap = found.against_control.differences["mean_annual_return"]
    assert own.value - against_nothing(knowing[0].result).value == pytest.approx(gap.value)


def test_a_history_shows_the_wanted_models_only(make_history):
    history = make_history()
    alone = with_models(history, MODELS, ("random_forest",)).market.inputs
    assert np.array_equal(alone["p_up"][..., 0], history.market.inputs["p_up"][..., 1], equal_nan=True)
    assert np.array_equal(alone["bid"], history.market.inputs["bid"], equal_nan=True)
    assert with_models(history, MODELS, MODELS) is history
    with pytest.raises(DataError, match="no answers of cnn"):
        with_models(history, MODELS, ("cnn",))
