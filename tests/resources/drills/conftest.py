"""A heartbeat as an engine writes it, without the engine."""

import socket
import threading
from typing import Any, Self

from psycopg.types.json import Jsonb

from resources.drills.scene import Scene
from resources.postgres import connect

SLEEP = "import time; time.sleep(60)"


def beat(scene: Scene, pid: int, *, epoch: int = 1, host: str = "", age_s: float = 0.0, **status: Any) -> None:
    """Write a heartbeat as an engine would."""
    with connect(scene.settings.postgres.url.get_secret_value()) as connection:
        connection.execute("INSERT INTO live_account (account, epoch) VALUES ('paper', 1) ON CONFLICT DO NOTHING")
        connection.execute(
            "INSERT INTO live_session (account, fingerprint, replay_start, replay_end, position, clock)"
            " VALUES ('paper', 'tape', 1, 9, 1, 1) ON CONFLICT DO NOTHING"
        )
        connection.execute(
            "INSERT INTO live_status (account, session_id, epoch, pid, host, beat_at, status)"
            " VALUES ('paper', (SELECT max(session_id) FROM live_session), %s, %s, %s,"
            " now() - make_interval(secs => %s), %s)"
            " ON CONFLICT (account) DO UPDATE SET epoch = excluded.epoch, pid = excluded.pid, host = excluded.host,"
            " beat_at = excluded.beat_at, status = excluded.status",
            (epoch, pid, host or socket.gethostname(), age_s, Jsonb({"state": "running", "level": 1, **status})),
        )


class Beats:
    """An engine that lives on, as far as PostgreSQL knows: a heartbeat a few times a second."""

    def __init__(self, scene: Scene, pid: int, **status: Any) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(scene, pid, status))

    def _run(self, scene: Scene, pid: int, status: dict[str, Any]) -> None:
        decisions = 0
        while not self._stop.wait(0.2):
            decisions += 1
            beat(scene, pid, **{"decisions": decisions, **status})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
