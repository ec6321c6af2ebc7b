"""What comes from outside: a socket open to everybody beside the servers, and text that would be SQL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fx_dagster.live.supervisor import EXIT_FINISHED
from resources.live_store import LiveStore
from resources.postgres import connect, migrate

pytestmark = pytest.mark.integration

EXPOSED = """
import subprocess, sys
from fx_dagster.errors import ServerError
from fx_dagster.settings import load_settings
from resources.servers.group import ServerGroup

code = "import socket, sys; s = socket.create_server(('{address}', 0)); print(1, flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
try:
    with ServerGroup(load_settings(), dagster=False) as group:
        print("up")
except ServerError as error:
    print(error)
finally:
    child.kill()
    child.communicate()
"""


@pytest.mark.parametrize(("address", "starts"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_servers_do_not_come_up_beside_a_port_that_everybody_reaches(
    free_home: Path, address: str, starts: bool
) -> None:
    environment = {**os.environ, "FX_TRITON_URL": "127.0.0.1:9"}
    script = EXPOSED.replace("{address}", address)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.strip().splitlines()[-1]
    assert (said == "up") == starts, said
    assert starts or ("0.0.0.0" in said and "other machines can reach" in said and "fx down" in said)


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE kill_switch_log; --", '=cmd|" /C calc"!A0', "\\'); SELECT 1; --", "%s"]
)
def test_text_that_would_be_a_statement_is_kept_as_text(database_url: str, text: str) -> None:
    migrate(database_url)
    store = LiveStore(database_url)
    store.kill("paper", reason=text, flatten=False, by_whom=text)
    state = store.kill_state("paper")
    assert (state.engaged, state.reason) == (True, text)
    with connect(database_url) as connection:
        rows = connection.execute("SELECT by_whom FROM kill_switch_log").fetchall()
    assert rows == [(text,)]
    assert not store.kill_state(text).engaged, "another account's name is a value too"


def test_the_engine_looks_at_its_disk_and_its_clock(free_home: Path, database_url: str, tmp_path: Path) -> None:
    migrate(database_url)
    session = {"FX_POSTGRES_URL": database_url, "FX_LIVE_REPLAY_DAYS": "2", "FX_LIVE_REPLAY_SPEED": "10000000"}
    full = "import fx_dagster.live_engine as e; e.free_bytes = lambda folders: 1_000_000; raise SystemExit(e.main())"
    done = subprocess.run(
        [sys.executable, "-c", full], env={**os.environ, **session}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == EXIT_FINISHED, done.stderr
    store = LiveStore(database_url)
    status = store.status("paper")
    assert status is not None
    assert "the disk is almost full: 1 MB left" in status.status["journal_problem"]
    assert status.status["clock_problem"] == ""
    last = store.last_session("paper")
    assert last is not None
    assert not store.decisions(last.session_id).empty, "what was decided is written all the same"
    assert store.orders(last.session_id).empty
