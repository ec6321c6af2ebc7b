import os
from pathlib import Path

import pytest

from fx_dagster import cli
from fx_dagster.backtest.ab import Comparison, Difference, Verdict
from fx_dagster.commands import ab
from fx_dagster.errors import SettingsError


def test_pairs_are_settings() -> None:
    found = ab.overrides(["FX_RISK_COMBINE=parallel", "FX_COST_SLIPPAGE_POINTS=3", "FX_RISK_COMBINE=hybrid"])
    assert found == {"FX_RISK_COMBINE": "hybrid", "FX_COST_SLIPPAGE_POINTS": "3"}


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("FX_RISK_COMBINE", "NAME=VALUE"),
        ("=parallel", "NAME=VALUE"),
        ("FX_SOURCE_KIND=simulator", "cannot differ"),
        ("FX_RISK_LEVERAGE=10", "the account's"),
    ],
)
def test_what_cannot_differ_is_refused(
    free_home: Path, capsys: pytest.CaptureFixture[str], pair: str, said: str
) -> None:
    assert cli.run(["ab", "--a", pair]) == 1
    assert said in capsys.readouterr().err


def test_settings_of_a_side_leave_the_environment_alone(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FX_RISK_STOP_ATR", "3")
    before = dict(os.environ)
    assert ab.settings_with({"FX_RISK_STOP_ATR": "1.5", "FX_RISK_TARGET_ATR": "4"}).risk.stop_atr == 1.5
    assert dict(os.environ) == before
    with pytest.raises(SettingsError, match="FX_RISK_STOP_ATR"):
        ab.settings_with({"FX_RISK_STOP_ATR": "-1"})
    with pytest.raises(SettingsError, match="did you mean FX_RISK_STOP_ATR"):
        ab.settings_with({"FX_RISK_STOP_ATT": "1"})
    assert dict(os.environ) == before


def test_what_is_undefined_is_a_dash_and_null(capsys: pytest.CaptureFixture[str]) -> None:
    nan = float("nan")
    found = Comparison(
        days=12, samples=0, level=0.95, block_days=1.0,
        a={"win_rate": nan, "trades": 0.0}, b={"win_rate": 0.5, "trades": 4.0},
        differences={"win_rate": Difference(nan, nan, nan, nan), "trades": Difference(-4.0, nan, nan, nan)},
        verdict=Verdict.TOO_SHORT,
    )  # fmt: skip
    ab._show({"A": {"FX_RISK_STOP_ATR": "1"}, "B": {}}, found)
    shown = capsys.readouterr().out
    assert "B: as set" in shown
    assert "50.00%" in shown
    assert "–" in shown
    assert "too short to tell" in shown
    document = ab._document({"A": {}, "B": {}}, found)
    assert document["differences"]["win_rate"] == {"value": None, "low": None, "high": None}  # type: ignore[index]
