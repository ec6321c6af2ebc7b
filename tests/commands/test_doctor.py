"""``fx doctor`` finds what is wrong and says how to mend it."""

import json
import os
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from fx_dagster.commands import doctor
from fx_dagster.settings import load_settings
from resources.servers.state import GroupState, ServerState


def test_packages_as_locked() -> None:
    finding = doctor.check_packages()
    assert finding.state == "ok", finding.text


def test_other_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "numpy":
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "pandas" else real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    finding = doctor.check_packages()
    assert finding.state == "fail"
    assert "numpy is missing" in finding.text
    assert "pandas is 0.1, locked ==" in finding.text
    assert finding.mend == "make clean setup"


def test_local_build_of_the_locked_release_is_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: real(name).split("+")[0] + "+cpu")
    assert doctor.check_packages().state == "ok"


def test_taken_port_fails_with_the_setting(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("FX_REDIS_PORT", str(server.getsockname()[1]))
        (finding,) = [one for one in doctor.check_ports(load_settings()) if one.state == "fail"]
    assert "FX_REDIS_PORT" in finding.text
    assert str(os.getpid()) in finding.text


def test_readable_secret_fails(free_home: Path) -> None:
    (free_home / "postgres").mkdir()
    (free_home / "postgres" / "password").write_text("x")
    (free_home / "postgres" / "password").chmod(0o644)
    findings = list(doctor.check_home(load_settings()))
    assert [finding.state for finding in findings] == ["ok", "fail"]
    assert "chmod 600" in findings[1].mend


def test_home_that_everybody_may_write_is_noted(free_home: Path) -> None:
    free_home.chmod(0o777)
    (finding,) = doctor.check_home(load_settings())
    assert finding.state == "warn"


@pytest.mark.parametrize(("free_gib", "state"), [(0.5, "fail"), (3.0, "warn"), (50.0, "ok")])
def test_little_room_is_told(free_home: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, state: str) -> None:
    class Usage:
        free = free_gib * doctor.GIB

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage)
    (disk,) = [finding for finding in doctor.check_room(load_settings()) if finding.check == "disk"]
    assert disk.state == state
    assert bool(disk.mend) == (state != "ok")


def test_servers_of_a_killed_owner_are_noted(free_home: Path) -> None:
    settings = load_settings()
    GroupState(2**22 + 1, 1.0, "2026-01-01T00:00:00+00:00", "").write(settings)
    (finding,) = doctor.check_servers(settings)
    assert finding.state == "warn"
    assert "was killed" in finding.text


def test_a_server_that_is_gone_fails(free_home: Path) -> None:
    settings = load_settings()
    GroupState.of_this_process("page", (ServerState("Valkey", 2**22 + 1),), {}).write(settings)
    (finding,) = doctor.check_servers(settings)
    assert finding.state == "fail"
    assert "gone: Valkey" in finding.text


def test_data_of_a_vanished_home_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from resources.servers import postgres_host

    monkeypatch.setattr(postgres_host, "SYSTEM_FOLDER", tmp_path)
    for key, home in (("a", tmp_path), ("b", tmp_path / "vanished")):
        (tmp_path / "homes" / key).mkdir(parents=True)
        (tmp_path / "homes" / key / "home").write_text(f"{home}\n")
    (finding,) = doctor.check_leftovers()
    assert "vanished" in finding.text


def _doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fx_dagster.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_whole_report_for_programs_and_exit_code(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _doctor("--json")
    document = json.loads(done.stdout)
    names = {finding["check"] for finding in document["findings"]}
    assert {"Python", "packages", "platform", "settings", "FX_HOME", "disk", "PostgreSQL", "Valkey", "Triton"} <= names
    assert done.returncode == (0 if document["healthy"] else 1)
    assert not any(free_home.iterdir())  # it changes nothing


def test_wrong_setting_is_a_finding(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FX_LIVE_ACCOUNT", "../x")
    done = _doctor()
    assert done.returncode == 1
    assert "FX_LIVE_ACCOUNT" in done.stdout
