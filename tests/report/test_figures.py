import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fx_dagster.market.timeframes import Timeframe
from fx_dagster.report import figures, palette
from fx_dagster.report.inputs import ReportInputs, empty_frame
from fx_dagster.report.sampling import candles


def _all(inputs: ReportInputs) -> dict[str, Any]:
    bars, _ = candles(inputs.bars["EURUSD"], Timeframe.H1, figures.CANDLES_MAX)
    live = inputs.summary.live
    assert live is not None
    return {
        "equity": figures.equity_figure(inputs.equity, "USD"),
        "trades": figures.trades_figure(bars, inputs.trades, 5),
        "importance": figures.importance_figure(inputs.importance),
        "calibration": figures.calibration_figure(inputs.metrics),
        "latency": figures.latency_figure({"bare": inputs.bare_call_ms}, 4.0),
        "levels": figures.levels_figure(inputs.decisions, live.kill_drill),
    }


def test_every_colour_has_a_partner_on_the_dark_page(inputs: ReportInputs) -> None:
    light = {pair.light for pair in palette.PAIRS.values()}
    for name, figure in _all(inputs).items():
        text = figure.to_json()
        used = set(re.findall(r'"(#[0-9a-fA-F]{3,8}|rgba?\([^)]*\))"', text))
        assert used <= light, name
        assert not re.search(r'color": ?"(?!#|rgba)', text), name


def test_figures_are_small_enough_for_a_page(inputs: ReportInputs) -> None:
    sizes = {name: len(figure.to_json()) for name, figure in _all(inputs).items()}
    assert max(sizes.values()) < 250_000, sizes


def test_equity_shows_its_extremes_and_its_drawdown(inputs: ReportInputs) -> None:
    figure = figures.equity_figure(inputs.equity, "USD")
    system = next(trace for trace in figure.data if trace.name == "AI-assisted system")
    assert max(system.y) == pytest.approx(inputs.equity["system"].max(), abs=0.01)
    assert min(system.y) == pytest.approx(inputs.equity["system"].min(), abs=0.01)
    fall = next(trace for trace in figure.data if trace.name == "AI-assisted system, drawdown")
    assert inputs.summary.backtest is not None
    assert -min(fall.y) == pytest.approx(inputs.summary.backtest.system.max_drawdown, abs=1e-5)


def test_every_trade_has_its_entry_and_its_exit(inputs: ReportInputs) -> None:
    figure = _all(inputs)["trades"]
    count = {trace.name: len(trace.x) for trace in figure.data if trace.type == "scatter" and trace.mode == "markers"}
    assert count["Long entry"] == (inputs.trades["side"] == 1).sum()
    assert count["Exit with a profit"] == (inputs.trades["profit"] > 0).sum()
    assert sum(count.values()) == 2 * len(inputs.trades)


def test_times_are_written_as_utc_texts(inputs: ReportInputs) -> None:
    first = pd.Timestamp(int(inputs.equity["time"].iloc[0]))
    assert figures.equity_figure(inputs.equity, "USD").data[0].x[0] == first.isoformat()


def test_importance_is_a_share_of_each_model() -> None:
    frame = pd.DataFrame(
        {"model": ["b", "b", "a", "a"], "feature": ["x", "y", "x", "y"], "importance": [3.0, 1.0, 100.0, 300.0]}
    )
    shares = figures.importance_shares(frame)
    assert list(shares.columns) == ["b", "a"]
    assert shares.loc["x"].tolist() == [0.75, 0.25]


def test_text_from_outside_is_not_read_as_markup(inputs: ReportInputs) -> None:
    importance = pd.DataFrame({"model": ["<b>m</b>"], "feature": ["<img src=x>"], "importance": [1.0]})
    trades = inputs.trades.head(3).assign(reason="<a href='javascript:alert(1)'>x</a>")
    for figure in (figures.importance_figure(importance), figures.trades_figure(inputs.bars["EURUSD"], trades, 5)):
        content = json.dumps(figure.to_plotly_json(), default=list)
        assert not re.search(r"<(b>m|img|a )", content)


def test_levels_count_every_decision_and_mark_the_drill(inputs: ReportInputs) -> None:
    figure = _all(inputs)["levels"]
    assert sum(int(np.sum(trace.y)) for trace in figure.data) == len(inputs.decisions)
    assert [note.text for note in figure.layout.annotations] == ["Triton killed", "Triton back", "level back"]


def test_one_decision_is_enough_for_a_figure(inputs: ReportInputs) -> None:
    figure = figures.levels_figure(inputs.decisions.head(1), None)
    assert [list(trace.y) for trace in figure.data] == [[1]]


def test_nothing_to_draw_is_no_figure() -> None:
    assert figures.equity_figure(empty_frame("equity"), "USD") is None
    assert figures.trades_figure(empty_frame("bars"), empty_frame("trades"), 5) is None
    assert figures.importance_figure(empty_frame("importance")) is None
    assert figures.calibration_figure({}) is None
    assert figures.latency_figure({"bare": [], "model": [np.nan]}, 100.0) is None
    assert figures.levels_figure(empty_frame("decisions"), None) is None
