import pytest

from fx_dagster.report.measures import success_measures
from fx_dagster.report.summary import (
    Accuracy,
    BacktestSummary,
    Difference,
    Interval,
    LiveSummary,
    Measure,
    ModelSummary,
    Performance,
    Summary,
)


def _measure(name: str, models: tuple[ModelSummary, ...], backtest: object, live: object) -> Measure:
    measures = success_measures(models, backtest, live)  # type: ignore[arg-type]
    return next(measure for measure in measures if measure.name.startswith(name))


def _backtest(summary: Summary, *, control_sharpe: float, gap: float, low: float) -> BacktestSummary:
    assert summary.backtest is not None
    interval = Interval(low=low, high=2 * gap - low, method="stationary block bootstrap")
    return summary.backtest.model_copy(
        update={
            "control": summary.backtest.control.model_copy(update={"sharpe": control_sharpe}),
            "differences": (Difference(metric="sharpe", value=gap, interval=interval),),
        }
    )


@pytest.mark.parametrize(
    ("control", "gap", "low", "met", "why"),
    [
        (1.0, 0.2, 0.05, True, ""),
        (1.0, 0.2, -0.1, False, "may be chance"),
        (1.0, 0.1, 0.05, False, "below"),
        (-0.5, 0.4, 0.2, None, "means nothing"),
    ],
)
def test_a_gain_must_reach_its_target_and_leave_zero_out(
    summary: Summary, control: float, gap: float, low: float, met: bool | None, why: str
) -> None:
    measure = _measure("Sharpe", (), _backtest(summary, control_sharpe=control, gap=gap, low=low), None)
    assert measure.met is met
    assert why in measure.why
    assert measure.value == (None if met is None else pytest.approx(gap / control))


def test_a_gain_without_an_interval_is_not_met(summary: Summary) -> None:
    backtest = _backtest(summary, control_sharpe=1.0, gap=0.3, low=0.1)
    bare = backtest.model_copy(update={"differences": (Difference(metric="sharpe", value=0.3),)})
    measure = _measure("Sharpe", (), bare, None)
    assert measure.met is False
    assert "no interval" in measure.why


def test_the_interval_is_scaled_as_the_value_is(summary: Summary) -> None:
    measure = _measure("Sharpe", (), _backtest(summary, control_sharpe=2.0, gap=0.5, low=0.1), None)
    assert measure.interval is not None
    assert (measure.interval.low, measure.interval.high) == pytest.approx((0.05, 0.45))


@pytest.mark.parametrize(("fall", "met"), [(0.0999, True), (0.10, False)])
def test_drawdown(summary: Summary, fall: float, met: bool) -> None:
    assert summary.backtest is not None
    system = summary.backtest.system.model_copy(update={"max_drawdown": fall})
    measure = _measure("Maximum", (), summary.backtest.model_copy(update={"system": system}), None)
    assert measure.met is met


def test_a_system_that_never_traded_earns_no_praise_for_its_drawdown(summary: Summary) -> None:
    assert summary.backtest is not None
    idle = Performance(net_return=0, max_drawdown=0, trades=0, costs=0)
    measure = _measure("Maximum", (), summary.backtest.model_copy(update={"system": idle}), None)
    assert measure.met is None


def test_few_trades_give_no_win_rate(summary: Summary) -> None:
    assert summary.backtest is not None
    control = summary.backtest.control.model_copy(update={"trades": 12})
    measure = _measure("Win rate", (), summary.backtest.model_copy(update={"control": control}), None)
    assert measure.met is None
    assert "12 trades" in measure.why


@pytest.mark.parametrize(("p99_ms", "met"), [(99.9, True), (100.0, False), (None, None)])
def test_latency(summary: Summary, p99_ms: float | None, met: bool | None) -> None:
    assert summary.live is not None
    timed = summary.live.end_to_end.model_copy(update={"p99_ms": p99_ms})
    live: LiveSummary = summary.live.model_copy(update={"end_to_end": timed})
    assert _measure("Latency", (), None, live).met is met


def test_uptime_of_minutes_says_that_it_is_minutes(summary: Summary) -> None:
    measure = _measure("Uptime", (), None, summary.live)
    assert measure.met is True
    assert "min only" in measure.why


def test_direction_must_clear_break_even_with_its_whole_interval(summary: Summary) -> None:
    model = summary.models[0].model_copy(
        update={
            "break_even": 0.53,
            "accuracy": Accuracy(n=900, value=0.54, interval=Interval(low=0.525, high=0.555, method="wilson")),
        }
    )
    measure = _measure("Direction, all", (model,), None, None)
    assert measure.met is False
    assert "interval" in measure.why


def test_an_accuracy_too_good_to_be_true_is_never_met(summary: Summary) -> None:
    model = summary.models[0].model_copy(
        update={"accuracy": Accuracy(n=900, value=0.75, interval=Interval(low=0.72, high=0.78, method="wilson"))}
    )
    assert _measure("Direction, all", (model,), None, None).met is False


def test_nothing_run_is_nothing_measured() -> None:
    measures = success_measures((), None, None)
    assert {measure.met for measure in measures} == {None}
    assert all(measure.why and measure.value is None for measure in measures)
