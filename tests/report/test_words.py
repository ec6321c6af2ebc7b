from datetime import UTC, datetime, timedelta

import pytest

from fx_dagster.report import words
from fx_dagster.report.summary import Accuracy, Difference, Interval, KillDrill, ModelSummary, Performance, Summary
from fx_dagster.report.words import Finding, findings, has_edge


def _model(value: float, low: float, break_even: float = 0.53) -> ModelSummary:
    interval = Interval(low=low, high=2 * value - low, method="circular block bootstrap")
    return ModelSummary(
        name="xgboost", accuracy=Accuracy(n=4_000, value=value, interval=interval), majority_class=0.512,
        always_up=0.512, break_even=break_even, log_loss=0.69, log_loss_base_rate=0.693, brier=0.249,
    )  # fmt: skip


def _finding(summary: Summary, topic: str) -> Finding:
    return next(found for found in findings(summary) if found.topic == topic)


def test_a_bound_above_majority_but_below_break_even_is_no_edge(summary: Summary) -> None:
    model = _model(0.54, low=0.52)
    found = _finding(summary.model_copy(update={"models": (model,)}), "Prediction")
    assert not has_edge(model)
    assert found.text.startswith("No edge was found.")
    assert "53.0 %" in found.text
    assert found.tone == "bad"


def test_an_edge_is_said_when_the_whole_interval_clears_everything(summary: Summary) -> None:
    found = _finding(summary.model_copy(update={"models": (_model(0.56, low=0.54),)}), "Prediction")
    assert found.tone == "good"
    assert "No edge" not in found.text


def test_the_wished_for_accuracy_is_called_a_leak(summary: Summary) -> None:
    found = _finding(summary.model_copy(update={"models": (_model(0.75, low=0.73),)}), "Prediction")
    assert found.tone == "bad"
    assert "leak" in found.text


def _with_difference(summary: Summary, low: float, high: float, metric: str = "net_return") -> Summary:
    interval = Interval(low=low, high=high, method="stationary block bootstrap")
    gap = Difference.model_validate({"metric": metric, "value": (low + high) / 2, "interval": interval})
    assert summary.backtest is not None
    return summary.model_copy(update={"backtest": summary.backtest.model_copy(update={"differences": (gap,)})})


@pytest.mark.parametrize(
    ("low", "high", "tone", "said"),
    [(-0.01, 0.09, "neutral", "nothing shows"), (0.01, 0.09, "good", "helped"), (-0.09, -0.01, "bad", "did harm")],
)
def test_a_difference_says_no_more_than_its_interval(
    summary: Summary, low: float, high: float, tone: str, said: str
) -> None:
    found = _finding(_with_difference(summary, low, high), "Backtest")
    assert found.tone == tone
    assert said in found.text


def test_losing_less_is_no_help(summary: Summary) -> None:
    better = _with_difference(summary, 0.01, 0.09)
    assert better.backtest is not None
    system = better.backtest.system.model_copy(update={"net_return": -0.2})
    backtest = better.backtest.model_copy(update={"system": system})
    found = _finding(better.model_copy(update={"backtest": backtest}), "Backtest")
    assert found.tone == "bad"
    assert "still lost money" in found.text


def test_the_sharpe_ratio_decides_where_the_return_has_no_interval(summary: Summary) -> None:
    found = _finding(_with_difference(summary, -1.0, 0.5, "sharpe"), "Backtest")
    assert "Sharpe ratios is −0.25 (95 % interval −1.00 to +0.50)" in found.text


def test_no_trades_at_all_are_said(summary: Summary) -> None:
    idle = Performance(net_return=0, max_drawdown=0, trades=0, costs=0)
    assert summary.backtest is not None
    backtest = summary.backtest.model_copy(update={"system": idle, "control": idle})
    assert "single trade" in _finding(summary.model_copy(update={"backtest": backtest}), "Backtest").text


def _with_drill(summary: Summary, **changes: object) -> Finding:
    assert summary.live is not None
    drill = summary.live.kill_drill
    assert drill is not None
    live = summary.live.model_copy(update={"kill_drill": drill.model_copy(update=changes)})
    return _finding(summary.model_copy(update={"live": live}), "Fallback")


def test_a_clean_drill_is_good(summary: Summary) -> None:
    found = _with_drill(summary)
    assert found.tone == "good"
    assert "The very next decision was made at level 3" in found.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"late": 2}, "2 decisions still used the models"),
        ({"lower_at": None}, "No later decision"),
        ({"server_back_at": None}, "not seen to come back"),
        ({"level_back_at": None}, "session ended before"),
    ],
)
def test_a_drill_that_went_wrong_is_not_praised(summary: Summary, changes: dict[str, object], said: str) -> None:
    found = _with_drill(summary, **changes)
    assert found.tone == "bad"
    assert said in found.text


def test_the_drill_measures_from_the_kill() -> None:
    at = datetime(2026, 11, 23, 12, tzinfo=UTC)
    drill = KillDrill(killed_at=at, server_back_at=at + timedelta(seconds=2.5))
    assert (drill.server_away_s, drill.level_lower_s) == (2.5, None)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.percent(0.5123), "51.2 %"),
        (words.signed_percent(-0.0049), "−0.5 %"),
        (words.signed_percent(-0.0004), "0.0 %"),
        (words.percent(None), "–"),
        (words.signed_points(0.05), "+5.0 points"),
        (words.number(12345.678), "12,345.68"),
        (words.milliseconds(3.21), "3.2 ms"),
        (words.milliseconds(1234.0), "1,234 ms"),
        (words.seconds(0.04), "0.0 s"),
        (words.seconds(245.0), "4 min 5 s"),
        (words.minute(None), "–"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected
