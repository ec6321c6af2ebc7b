import importlib

import pytest

from bench import growth, session
from bench.__main__ import GROUPS
from bench.peers import OWN, Peers
from bench.session import Session
from bench.timing import RivalError


class OnlyOwn(Peers):
    """Peers without network."""

    def _python(self, environment):
        if environment.pins:
            raise RivalError("could not be installed here")
        return super()._python(OWN)


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "QUICK_SHARE", 100)
    monkeypatch.setattr(session, "QUICK_RUNS", 1)
    monkeypatch.setattr(growth, "SYMBOLS", (1, 3))
    return Session(quick=True, peers=OnlyOwn(tmp_path))


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "live"])
def test_every_group_measures_itself_without_its_peers(group, small):
    rows = list(importlib.import_module(f"bench.{group}").rows(small))
    assert rows
    assert all(row.ours.low > 0.0 for row in rows)
    own = {"TA-Lib streams", "TA-Lib", "NumPy reduceat", "one symbol"}
    for rival in (rival for row in rows for rival in row.rivals):
        assert (rival.figure is None) == (rival.name not in own), rival
