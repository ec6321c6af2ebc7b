"""The main job as a user runs it: all real servers, Triton killed in the middle, a summary at the end."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from fx_dagster.core.tape import Tape, TapeEvent, replay_tape
from fx_dagster.errors import DataError
from fx_dagster.live_engine import recorded_core
from fx_dagster.report.summary import Summary, read_summary
from resources.tapes import latest_tape, read_tape

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

SMALL = {
    "FX_SOURCE_SIMULATOR_SYMBOLS": "2",
    "FX_SOURCE_SIMULATOR_DAYS": "210",
    "FX_SOURCE_SIMULATOR_TIMEFRAME": "H1",
    "FX_TRAINING_FOLDS": "3",
    "FX_TRAINING_EFFORT": "0.2",
    "FX_TRAINING_ROWS_MIN": "200",
    "FX_LIVE_REPLAY_DAYS": "7",
    "FX_LIVE_REPLAY_SPEED": "30000",
}


def left_behind(home: Path) -> list[str]:
    """Return the processes that carry this home in their environment or command."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (
                str(home) in process.environ().get("FX_HOME", "") or str(home) in " ".join(process.cmdline())
            ):
                found.append(" ".join(process.cmdline())[:200])
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil
    import tempfile

    # With a space, and open to the system user that PostgreSQL runs as under root.
    folder = Path(tempfile.mkdtemp(prefix="fx demo "))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def demo(home: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FX_", "DAGSTER_"))}
    command = [sys.executable, "-m", "fx_dagster.cli", "demo", "--source", "simulator", "--home", str(home), "--json"]
    return subprocess.run(
        command, env=environment | SMALL, capture_output=True, text=True, timeout=400, check=False, cwd=home
    )


@pytest.fixture(scope="module")
def summary(demo: subprocess.CompletedProcess[str], home: Path) -> Summary:
    assert demo.returncode == 0, demo.stderr[-3000:]
    return read_summary(home / "reports" / "latest" / "summary.json")


def test_what_it_prints_is_what_it_writes(demo, summary):
    assert Summary.model_validate(json.loads(demo.stdout)) == summary


def test_data_went_the_whole_way(summary):
    assert summary.data.symbols == ("EURUSD", "GBPUSD")
    assert {"ticks", "bars/H1", "bars/D1", "features", "labels"} <= set(summary.data.rows)
    assert "bars/M1" not in summary.data.rows
    assert summary.checks.failed == 0
    assert summary.checks.passed > 30


def test_nothing_is_found_in_noise(summary):
    for model in summary.models:
        assert model.accuracy.n > 1000
        assert 0.4 < model.accuracy.value < 0.6


def test_the_whole_release_is_judged_on_the_holdout(summary, home):
    manifest = json.loads((home / "triton" / "models" / "releases" / "1.json").read_text())
    judged = {name: manifest["metrics"][name]["holdout"] for name in manifest["models"]}
    assert set(judged) == {"xgboost", "random_forest", "lstm", "cnn", "meta"}
    assert len({found["rows"] for found in judged.values()}) == 1
    assert judged["meta"]["rows"] > 100
    assert 0.3 < judged["meta"]["accuracy"] < 0.7


def test_both_levels_decided_and_the_kill_was_seen_at_once(summary):
    live = summary.live
    assert {1, 3} <= {level.level for level in live.levels}
    drill = live.kill_drill
    assert drill is not None
    assert drill.late == 0
    assert drill.lower_level == 3
    assert drill.server_back_at is not None
    assert drill.level_back_at is not None
    assert drill.lower_at < drill.level_back_at


def test_every_closed_bar_got_one_decision(summary):
    live = summary.live
    assert live.decisions == sum(level.decisions for level in live.levels)
    assert live.ticks > 3 * live.decisions
    assert live.end_to_end.n == live.decisions
    assert live.bare_call.n > 0


def test_the_report_opens_offline(summary, home):
    page = (home / "reports" / "latest" / "report.html").read_text(encoding="utf-8")
    assert "GBPUSD" in page
    assert 'src="http' not in page


def test_the_recorded_session_is_decided_again_bit_for_bit(summary, home):
    """What the live job recorded, with Triton killed in between, replayed without any server."""
    tape, facts = read_tape(latest_tape(home / "live"))
    answers = [event for event in tape.events if event.what == "answer"]
    answered = [bool(np.isfinite(np.array(event.body["values"], dtype=float)[:, 0]).all()) for event in answers]
    assert set(answered) == {True, False}, "Triton answered, and was away for a while"
    core = recorded_core(facts)
    marks = replay_tape(core, tape)
    assert len(tape.ticks) == summary.live.ticks
    assert all(mark.same for mark in marks)
    assert marks[-1].decisions == core.decisions > summary.live.ticks
    # One bit of an answer makes another session of it; not of each one, as after the last tick of a week.
    complete = [event for event in answers if np.isfinite(np.array(event.body["values"], dtype=float)).all()]
    assert any(one_bit_matters(tape, facts, event, core.digest) for event in complete[:10])


def one_bit_matters(tape: Tape, facts: dict[str, Any], answer: TapeEvent, digest: str) -> bool:
    """Return whether the tape with one bit of an answer changed gives another digest, as far as it can be replayed."""
    row, core = answer.body["values"][0], recorded_core(facts)
    kept = row[0]
    row[0] = float(np.nextafter(kept, 1.0))
    with contextlib.suppress(DataError):  # other decisions want other orders
        replay_tape(core, tape)
    row[0] = kept
    return core.digest != digest


def test_the_command_replays_the_newest_tape(demo, home):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FX_", "DAGSTER_"))}
    done = subprocess.run(
        [sys.executable, "-m", "fx_dagster.cli", "replay", "--home", str(home)],
        env=environment, capture_output=True, text=True, timeout=120, check=False, cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the same, bit for bit" in done.stdout + done.stderr


def test_no_process_is_left(demo, home):
    assert left_behind(home) == []


def test_the_runs_are_kept_in_dagster(summary, home):
    """The same home, started again: every run of the demo is there."""
    code = """
import dagster as dg
from fx_dagster.settings import load_settings
from resources.dagster_runs import open_instance
from resources.servers.group import ServerGroup
with ServerGroup(load_settings(), dagster=False) as group, open_instance(group.settings_for_children()) as instance:
    for run in instance.get_runs():
        print(run.job_name, run.status.value)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FX_", "DAGSTER_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"FX_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    runs = sorted(done.stdout.split("\n"))
    assert runs.count("ingest_job SUCCESS") == 2
    assert runs.count("features_job SUCCESS") == 2
    for job in ("training_job", "evaluation_job", "live_trading_job"):
        assert f"{job} SUCCESS" in runs
