"""What the comparison's check says of luck."""

import json
from pathlib import Path

import dagster as dg
import pytest

from assets.comparison import COMPARISON, the_best_is_more_than_luck
from fx_dagster.settings import load_settings
from resources.dagster_resources import SettingsResource


@pytest.mark.parametrize(
    ("control", "nothing", "passed", "said"),
    [
        (0.01, 0.02, True, "against the control: p-value 0.010, allowed 0.05; against not trading: p-value 0.020"),
        (0.0, 0.145, False, "against not trading: p-value 0.145"),
        (0.2, 0.01, False, "against the control: p-value 0.200"),
        (0.2, None, False, "against not trading: too few days to tell"),
        (None, None, False, "against the control: too few days to tell"),
    ],
)
def test_the_best_must_beat_the_control_and_not_trading(
    free_home: Path, control: float | None, nothing: float | None, passed: bool, said: str
) -> None:
    place = load_settings().evaluation / COMPARISON
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"best_by_luck": control, "best_against_nothing": nothing}))
    found = the_best_is_more_than_luck(settings=SettingsResource())
    assert isinstance(found, dg.AssetCheckResult)
    assert found.passed is passed
    assert found.severity is dg.AssetCheckSeverity.WARN
    assert said in (found.description or "")
