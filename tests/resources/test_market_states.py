"""The market's state on disk: whole or not at all, and never in the way."""

from pathlib import Path

import pytest

from resources.market_states import FileMarketStates


def test_the_newest_three_are_kept_newest_first(tmp_path: Path) -> None:
    states = FileMarketStates(tmp_path / "live")
    assert states.load() == []
    for number in range(5):
        states.save(lambda number=number: f"state {number}".encode())
        while not states.idle:
            pass
    states.close()
    assert states.load() == [b"state 4", b"state 3", b"state 2"]
    assert sorted(path.name for path in (tmp_path / "live").iterdir()) == [
        "market-0.bin",
        "market-1.bin",
        "market-2.bin",
    ]


def test_a_disk_that_fails_costs_only_the_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    states = FileMarketStates(tmp_path / "file" / "below")
    states.save(lambda: b"state")
    states.close()
    assert "not kept" in caplog.text
    assert states.load() == []
