"""The drills' job and schedule: by itself on paper only, and never on a real account."""

from pathlib import Path

import dagster as dg
import pytest

from fx_dagster import drill_schedule
from fx_dagster.drill_schedule import drill_job, hindrance, weekly_drills
from fx_dagster.errors import ServerError
from fx_dagster.settings import Settings, load_settings
from resources.control.protocols import Drill
from resources.drills import bridge
from resources.drills.runner import DrillResult
from resources.mt5.bridge.settings import BridgeSettings


@pytest.mark.parametrize(
    ("broker", "status"),
    [("paper", dg.DefaultScheduleStatus.RUNNING), ("mt5", dg.DefaultScheduleStatus.STOPPED), ("?", None)],
)
def test_the_schedule_runs_by_itself_on_paper_only(
    free_home: Path, monkeypatch: pytest.MonkeyPatch, broker: str, status: dg.DefaultScheduleStatus | None
) -> None:
    monkeypatch.setenv("FX_LIVE_BROKER", broker)
    assert drill_schedule._default_status() is (status or dg.DefaultScheduleStatus.STOPPED)


def test_it_launches_nothing_without_an_engine_or_on_a_real_account(
    free_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = weekly_drills(dg.build_schedule_context())
    assert isinstance(said, dg.SkipReason)
    assert "FX_POSTGRES_URL is not set" in (said.skip_message or "")
    nowhere = {"FX_POSTGRES_URL": "postgresql+psycopg2://me:secret@127.0.0.1:1/db"}
    assert "does not answer" in hindrance(load_settings(nowhere))
    monkeypatch.setattr(bridge, "bridge_of", lambda _: BridgeSettings(mode="real"))
    assert "is a real one" in hindrance(load_settings({"FX_LIVE_BROKER": "mt5"}))


class Script:
    """Drills that end as they are told to, in place of servers that break."""

    asked: list[str]

    def __init__(self, settings: Settings, *, on_step) -> None:
        self.on_step = on_step
        Script.asked = []

    def list(self) -> tuple[Drill, ...]:
        return ()

    def carry_out(self, name: str, *, by_whom: str) -> DrillResult:
        assert by_whom.startswith("drill_job ")
        Script.asked.append(name)
        self.on_step(f"{name} under way")
        if name == "triton-kill":
            raise ServerError("decisions are at level 3", mend="serve a release")
        if name not in {"cache-down", "engine-kill"}:
            raise KeyError(name)
        return DrillResult(1, name, name == "cache-down", 1.0, f"{name} seen", ())

    def settle(self, timeout_s: float) -> bool:
        Script.asked.append("settle")
        return True


@pytest.mark.parametrize(
    ("names", "success"), [(["triton-kill", "cache-down", "?"], True), (["engine-kill", "cache-down"], False)]
)
def test_the_job_runs_one_after_the_other_and_fails_where_one_failed(
    free_home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], names: list[str], success: bool
) -> None:
    monkeypatch.setattr(drill_schedule, "LocalDrills", Script)
    with dg.DagsterInstance.ephemeral(tempdir=str(free_home)) as instance:
        result = drill_job.execute_in_process(
            run_config={"ops": {"drills": {"config": {"names": names}}}}, instance=instance, raise_on_error=False
        )
    assert result.success is success
    assert Script.asked == [part for name in names for part in (name, "settle")][:-1]
    said = capfd.readouterr().err
    assert "drill cache-down passed after 1.0 s" in said
    if success:
        assert "drill triton-kill is refused: decisions are at level 3 → serve a release" in said
        assert "drill ? is refused: there is no such drill here" in said
    else:
        failure = result.failure_data_for_node("drills")
        assert failure is not None
        assert "not passed: engine-kill: engine-kill seen" in str(failure.user_failure_data)


def test_a_real_account_is_refused_by_the_job_itself(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_schedule, "LocalDrills", Script)
    monkeypatch.setenv("FX_LIVE_BROKER", "mt5")
    monkeypatch.setattr(bridge, "bridge_of", lambda _: BridgeSettings(mode="real"))
    Script.asked = []
    with dg.DagsterInstance.ephemeral(tempdir=str(free_home)) as instance:
        assert not drill_job.execute_in_process(instance=instance, raise_on_error=False).success
    assert Script.asked == []
