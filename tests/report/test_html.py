import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from fx_dagster.errors import DataError
from fx_dagster.report.html import CHARTS_MAX, render_html
from fx_dagster.report.inputs import ReportInputs

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class _Page(HTMLParser):
    """Collects what a browser would run, load and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.text = ""
        self._script: str | None = None
        self._quiet = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))
            self._script = tag
        self._quiet += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._quiet -= tag in ("style", "script")
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        elif not self._quiet:
            self.text += data

    @property
    def running(self) -> list[str]:
        return [text for kind, text in self.scripts if kind != "application/json"]


@pytest.fixture(scope="module")
def html(inputs: ReportInputs) -> str:
    return render_html(inputs)


@pytest.fixture(scope="module")
def page(html: str) -> _Page:
    return _Page(html)


def test_the_library_is_inside_once_and_nothing_is_loaded(page: _Page) -> None:
    assert len(page.running) == 2
    assert sum("Plotly, Inc." in text[:300] for text in page.running) == 1
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "#").startswith("#")


def test_only_the_pages_own_scripts_may_run(page: _Page) -> None:
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    assert allowed == {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.running}
    assert policy.startswith("default-src 'none'")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_every_figure_has_its_data(page: _Page) -> None:
    drawn = {a["id"] for tag, a in page.tags if tag == "div" and a.get("class") == "figure"}
    data = {a["id"] for tag, a in page.tags if tag == "script" and a.get("type") == "application/json"}
    assert drawn == {"equity", "price-0", "importance", "calibration", "levels", "latency"}
    assert data == {f"{name}-data" for name in drawn} | {"palette"}


def test_every_link_has_its_target_and_every_id_is_one(page: _Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {(a["href"] or "")[1:] for tag, a in page.tags if tag == "a"}
    assert targets <= set(ids)


def test_the_numbers_are_on_the_page(page: _Page, inputs: ReportInputs) -> None:
    for said in ("No edge was found.", "EURUSD · H1", "Release 3", "deep models absent (282)", "FX_LIVE_REPLAY_SPEED"):
        assert said in page.text, said


def test_text_from_outside_cannot_act(inputs: ReportInputs) -> None:
    data = inputs.summary.data.model_copy(update={"source": EVIL, "symbols": (EVIL,), "left_out": {EVIL: EVIL}})
    evil = replace(
        inputs,
        summary=inputs.summary.model_copy(update={"data": data, "command": EVIL}),
        bars={EVIL: inputs.bars["EURUSD"]},
        trades=inputs.trades.assign(symbol=EVIL, reason=EVIL),
        importance=inputs.importance.assign(model=EVIL, feature=EVIL),
        decisions=inputs.decisions.assign(symbol=EVIL, level_reason=EVIL),
        metrics={EVIL: inputs.metrics["xgboost"]},
        settings={EVIL: EVIL},
    )
    page = _Page(render_html(evil))
    assert len(page.running) == 2
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "alert(1)" in page.text, "it is shown as text"


def test_a_run_that_got_nowhere_still_says_so(empty_inputs: ReportInputs) -> None:
    page = _Page(render_html(empty_inputs))
    assert not [a for tag, a in page.tags if tag == "div" and a.get("class") == "figure"]
    for said in (
        "No model was judged", "No backtest was run", "There was no live session", "No asset check was run",
        "There are no prices", "The lake is empty", "not measurable", "No model release",
    ):  # fmt: skip
        assert said in page.text, said
    assert not re.search(r"\b(None|nan|NaN)\b", page.text)


def test_symbols_are_chosen_and_the_most_traded_come_first(inputs: ReportInputs) -> None:
    bars = inputs.bars["EURUSD"].head(200)
    many = {f"SIM{number:03d}": bars for number in range(CHARTS_MAX + 3)}
    trades = pd.concat([inputs.trades.head(2).assign(symbol="SIM005"), inputs.trades.head(5).assign(symbol="SIM009")])
    page = _Page(render_html(replace(inputs, bars=many, trades=trades)))
    chosen = [a["value"] for tag, a in page.tags if tag == "option"]
    hidden = [("hidden" in a) for tag, a in page.tags if tag == "div" and a.get("class") == "card price"]
    assert len(chosen) == CHARTS_MAX
    assert hidden == [False] + [True] * (CHARTS_MAX - 1)
    assert page.text.index("SIM009") < page.text.index("SIM005") < page.text.index("SIM000")
    assert "3 more are in the lake" in page.text


def test_a_symbol_without_trades_still_has_its_chart(inputs: ReportInputs) -> None:
    page = _Page(render_html(replace(inputs, trades=inputs.trades.head(0))))
    assert "No trade was closed here." in page.text


def test_the_same_inputs_make_the_same_page(html: str, inputs: ReportInputs) -> None:
    assert render_html(inputs) == html


def test_a_frame_without_its_column_is_named(inputs: ReportInputs) -> None:
    with pytest.raises(DataError, match="trades: column profit"):
        replace(inputs, trades=inputs.trades.drop(columns="profit"))
