import subprocess

import numpy as np
import pytest

from bench import peers
from bench.peers import OWN, Environment, Peers
from bench.timing import RivalError

TICKS = {"time": np.arange(1_000, dtype=np.int64) * 2_000_000_000, "bid": np.linspace(1.0, 1.1, 1_000)}


@pytest.fixture
def home(tmp_path):
    return Peers(tmp_path)


def test_a_peer_runs_as_often_as_it_is_asked(home):
    with home.start(OWN, "numpy_ticks.py", TICKS) as rival:
        assert all(0.0 < rival() < 0.1 for _ in range(3))


def test_a_peer_that_breaks_says_so(home):
    with home.start(OWN, "numpy_ticks.py", {"nothing": np.zeros(1)}) as rival, pytest.raises(RivalError, match="ended"):
        rival()


def test_an_environment_that_cannot_be_made_is_tried_once(home, monkeypatch):
    calls = []

    def fails(command, **_):
        calls.append(command)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", fails)
    environment = Environment("nobody", ("nobody==1",))
    assert home.missing(environment) == home.missing(environment) == "could not be installed here"
    with home.start(environment, "numpy_ticks.py", TICKS) as rival, pytest.raises(RivalError, match="installed"):
        rival()
    assert len(calls) == 1


def test_an_environment_is_made_once(home, monkeypatch):
    commands = []
    monkeypatch.setattr(peers, "_run", lambda command, _: commands.append(command) or _folder_of(command))
    environment = Environment("somebody", ("somebody==1", "other==2"))
    assert home.missing(environment) == ""
    assert Peers(home.home).missing(environment) == ""
    assert len(commands) == 2
    assert commands[1][-2:] == environment.pins


def _folder_of(command):
    if "venv" in command:
        command[-1].mkdir(parents=True)
