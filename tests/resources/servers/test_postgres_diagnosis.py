"""What PostgreSQL's log means, said in one line."""

from pathlib import Path

import pytest

from fx_dagster.errors import PortInUseError, ServerError
from resources.servers.postgres import diagnose

DATA = Path("/home/data")
LOG = Path("/home/logs/postgres.log")
STAMP = "2026-11-23 12:00:00.000 UTC [42] "


@pytest.mark.parametrize(
    ("log", "says", "mend"),
    [
        (f"{STAMP}PANIC:  could not locate a valid checkpoint record at 0/1", "damaged: PANIC", "restore /home/data"),
        (f"{STAMP}FATAL:  incorrect checksum in control file", "damaged: FATAL:  incorrect", "move it away"),
        (
            f'{STAMP}FATAL:  could not write to file "x": No space left on device',
            "no space left for /home/data",
            "free some space",
        ),
        (f"{STAMP}FATAL:  out of shared memory", "does not start: FATAL:  out of shared memory", str(LOG)),
    ],
)
def test_known_endings(log: str, says: str, mend: str) -> None:
    error = diagnose(f"{STAMP}LOG:  starting\n{log}", DATA, 1, LOG)
    assert isinstance(error, ServerError)
    assert says in str(error)
    assert mend in error.mend
    assert STAMP not in str(error)


def test_taken_port() -> None:
    error = diagnose("LOG:  could not bind IPv4 address: Address already in use", DATA, 5432, LOG)
    assert isinstance(error, PortInUseError)
    assert "FX_POSTGRES_PORT" in error.mend


def test_silence_means_nothing() -> None:
    assert diagnose(f"{STAMP}LOG:  all is well", DATA, 1, LOG) is None
