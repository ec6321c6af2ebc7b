"""The page of results says what its figures say."""

from collections.abc import Callable
from typing import Any

import pytest

from bench import results
from fx_dagster.models.release import ReleaseManifest
from fx_dagster.report.summary import BacktestSummary, Performance
from tests.resources.release_models import simple_canary

Row = Callable[..., dict[str, Any]]


@pytest.fixture
def manifest() -> ReleaseManifest:
    fixed = {"sharpe": 0.1, "max_drawdown": 0.05}
    told = {
        "verdict": "No gain is settled.", "difference": -0.01, "low": -0.03, "high": 0.02, "days": 300, "fixed": fixed,
        "seeds": [{"seed": 7, "agents": {"sharpe": None, "max_drawdown": 0.04}, "difference": -0.01}],
    }  # fmt: skip
    return ReleaseManifest(
        version=1, created_at="2024-01-10T22:00:00+00:00", models=("xgboost",), members=("xgboost",),
        symbols=("EURUSD",), quantised=(), device="cpu", feature_names=("a",), feature_hash="c0ffee", files={},
        canary=simple_canary([0.1], [0.5]),
        metrics={"ppo": {"against_fixed_sizing": told}}, lineage={}, cards={},
    )  # fmt: skip


@pytest.fixture
def backtest() -> BacktestSummary:
    one = dict.fromkeys(Performance.model_fields, 0)
    system, control = (Performance.model_validate(one | {"net_return": value}) for value in (-0.037, -0.006))
    return BacktestSummary.model_validate(
        {
            "start": "2017-01-01T00:00:00Z", "end": "2018-01-01T00:00:00Z", "initial_balance": 1e4, "currency": "USD",
            "system": system, "control": control,
        }
    )  # fmt: skip


@pytest.fixture
def row() -> Row:
    def made(low: float, *, majority: float = 0.51, break_even: float = 0.52, loss: float = 0.69) -> dict[str, Any]:
        return {
            "model": "xgboost", "rows": 1000, "accuracy": low + 0.01, "accuracy_low": low, "accuracy_high": low + 0.02,
            "majority_accuracy": majority, "break_even_accuracy": break_even, "log_loss": loss, "base_log_loss": 0.693,
            "brier": 0.25, "calibration_error": 0.01,
        }  # fmt: skip

    return made


def candidate(name: str, verdict: str, *, trades: int = 40, low: float = -0.01) -> dict[str, Any]:
    return {
        "candidate": name, "net_return": 0.1, "sharpe": 0.5, "max_drawdown": 0.1, "win_rate": 0.5, "trades": trades,
        "annual_return": 0.03, "annual_low": low, "annual_high": 0.06,
        "annual_difference": None if verdict == "the control" else 0.01, "low": -0.1, "high": 0.1, "verdict": verdict,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "loss", "said"),
    [
        (0.50, 0.70, ("not above the commoner", "does not clear the cost of a trade", "worse")),
        (0.515, 0.69, ("is above the commoner", "does not clear the cost of a trade", "better")),
        (0.53, 0.69, ("is above the commoner", "and clears the cost of a trade", "better")),
    ],
)
def test_a_model_is_judged_by_the_lower_end_of_its_interval(
    row: Row, manifest: ReleaseManifest, backtest: BacktestSummary, low: float, loss: float, said: tuple[str, ...]
) -> None:
    found = {
        "models": [row(low, loss=loss)],
        "candidates": [candidate("traditional", "the control")],
        "best_against_nothing": None,
    }
    first = results.verdicts(found, manifest, backtest)[0]
    for words in said:
        assert words in first


def test_ways_are_named_on_the_side_on_which_they_stand(manifest: ReleaseManifest, backtest: BacktestSummary) -> None:
    ways = [candidate("hybrid", "worse"), candidate("parallel", "better"), candidate("cnn alone", "not settled")]
    found = {"models": [], "candidates": ways, "best_against_nothing": 0.2}
    told = "\n".join(results.verdicts(found, manifest, backtest))
    assert "beyond chance: parallel." in told
    assert "worse than it beyond chance: hybrid." in told
    assert "cnn alone" not in told
    assert "above zero with its whole interval: none." in told
    assert "is not settled (Hansen's test, p = 0.200)" in told
    assert "made -3.70 % after costs, the control -0.60 %" in told


def test_gold_comes_first_and_no_symbol_is_left_out(row: Row) -> None:
    rows = [row(0.5) | {"symbol": symbol} for symbol in ("USDJPY", "XAUUSD", "AUDUSD")]
    lines = results._symbols(rows).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| XAUUSD", "| AUDUSD", "| USDJPY"]


def test_agents_are_shown_seed_by_seed_with_what_is_undefined_empty(manifest: ReleaseManifest) -> None:
    text = results._agents(manifest)
    assert "-1.00 % a year (-3.00 % to 2.00 %), 300 later days" in text
    assert "| seed 7 |  | 0.04 |" in text


def test_a_way_that_never_trades_is_no_merit(manifest: ReleaseManifest, backtest: BacktestSummary) -> None:
    ways = [candidate("cnn alone", "better", trades=0), candidate("meta alone", "better", low=0.01)]
    found = {"models": [], "candidates": ways, "best_against_nothing": 0.01}
    told = "\n".join(results.verdicts(found, manifest, backtest))
    assert "Of these, cnn alone never traded" in told
    assert "above zero with its whole interval: meta alone." in told
    assert "not trading is settled" in told
