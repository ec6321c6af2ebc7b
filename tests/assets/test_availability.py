"""The asset of availability over a real PostgreSQL."""

import dagster as dg
import pytest

from assets.availability import NO_DATABASE, NOTHING, availability_days, decisions_are_available
from resources.availability_store import AvailabilityStore
from resources.dagster_resources import SettingsResource
from resources.postgres import connect, migrate

pytestmark = pytest.mark.integration

CLOCK = 1_490_140_800_000_000_000  # 2017-03-22T00:00Z, a Wednesday


def materialized() -> tuple[dict[str, dg.MetadataValue], dg.AssetCheckEvaluation]:
    result = dg.materialize(
        [availability_days, decisions_are_available, dg.AssetSpec("live_session")],
        resources={"settings": SettingsResource()},
        selection=dg.AssetSelection.assets("availability"),
    )
    assert result.success
    (event,) = result.asset_materializations_for_node("availability")
    (check,) = result.get_asset_check_evaluations()
    return dict(event.metadata), check


@pytest.mark.parametrize(("outage_s", "passed"), [(0.5, True), (50, False)])
def test_a_days_outage_is_counted_shown_and_judged(
    free_home, database_url: str, monkeypatch: pytest.MonkeyPatch, outage_s: float, passed: bool
) -> None:
    monkeypatch.setenv("FX_POSTGRES_URL", database_url)
    metadata, check = materialized()
    assert metadata["nothing_told"].value == NOTHING
    assert (check.passed, check.description) == (True, NOTHING)
    migrate(database_url)
    with connect(database_url) as connection:
        connection.execute("INSERT INTO live_account (account, epoch) VALUES ('paper', 2)")
        connection.execute(
            "INSERT INTO live_session (account, state, fingerprint, replay_start, replay_end, position, clock,"
            " finished_at) VALUES ('paper', 'finished', 'tape', 1, 9, 1, 1, '2026-03-18T02:00Z')"
        )
        for epoch, began, ended, ai in (
            (1, "2026-03-18T00:00Z", "2026-03-18T01:00Z", True),
            (2, f"2026-03-18T01:00:{outage_s:06.3f}Z", "2026-03-18T02:00Z", False),
        ):
            connection.execute(
                "INSERT INTO live_span (account, session_id, epoch, realtime, level, deciding, ai, why, began_at,"
                " ended_at, began_clock, ended_clock, in_order) VALUES ('paper', 1, %s, false, 1, true, %s, '', %s,"
                " %s, %s, %s, false)",
                (epoch, ai, began, ended, CLOCK, CLOCK),
            )
    metadata, check = materialized()
    assert metadata["decision_availability"].value == pytest.approx(1 - outage_s / 7_200)
    assert metadata["ai_availability"].value == pytest.approx(0.5)
    assert metadata["outage_s"].value == pytest.approx(outage_s)
    assert check.passed is passed
    assert "of 2.00 h" in (check.description or "")
    (kept,) = AvailabilityStore(database_url).recorded("paper").values()
    assert kept.required_s == 7_200


def test_without_postgresql_it_says_so(free_home) -> None:
    metadata, check = materialized()
    assert metadata["nothing_told"].value == NO_DATABASE
    assert check.passed
