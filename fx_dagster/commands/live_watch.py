"""Watches a live session that Dagster's sensor starts, and kills Triton in its middle to see what it does."""

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from fx_dagster.commands import console
from fx_dagster.errors import ServerError
from fx_dagster.settings import Settings
from resources.live_store import LiveStore, SessionRow
from resources.servers.group import ServerGroup
from resources.triton import TritonAdmin

HOLD_REASON = "fx demo: the models are not there yet"
START_TIMEOUT_S = 60.0
SESSION_TIMEOUT_S = 600.0
POLL_S = 0.2
KILL_AT = 0.45
"""Share of the market time after which Triton is killed."""


@dataclass(frozen=True)
class LiveOutcome:
    """What the session was, and what became of the kill.

    Attributes:
        session: as it ended.
        killed_at: when Triton was killed; None: it was not.
        server_back_at: when it answered again; None: not seen.
    """

    session: SessionRow
    killed_at: datetime | None = None
    server_back_at: datetime | None = None


def hold(settings: Settings) -> None:
    """Keep the sensor from starting the account's session before there is anything to trade with."""
    LiveStore(_url(settings)).kill(settings.live.account, reason=HOLD_REASON, flatten=False, by_whom="fx demo")


def watch_session(settings: Settings, group: ServerGroup, *, kill_triton: bool) -> LiveOutcome:
    """Let the sensor start the session, and follow it until its tape is over.

    Raises:
        ServerError: the session did not start or did not end in time.
    """
    store = LiveStore(_url(settings))
    store.resume(settings.live.account, by_whom="fx demo")
    with console.step("Waiting for the sensor to start the live session") as step:
        session = _wait_for_session(store, settings)
        step.result = f"session {session.session_id}"
    drill = _Drill(settings, group, wanted=kill_triton and group.triton is not None)
    with console.step(
        f"Live: replaying {settings.live.replay_days:g} days at {settings.live.replay_speed:,.0f}x"
    ) as step:
        deadline = time.monotonic() + SESSION_TIMEOUT_S
        while not (session := _newest(store, settings)).finished:
            done = _share(session)
            drill.look(done, step)
            step.note(f"{done:.0%} · {_level(store, settings)}")
            if time.monotonic() > deadline:
                raise ServerError("the live session did not end", mend="its log is on Dagster's page, see fx up")
            time.sleep(POLL_S)
        step.result = session.reason
    return LiveOutcome(session, drill.killed_at, drill.server_back_at)


def _wait_for_session(store: LiveStore, settings: Settings) -> SessionRow:
    deadline = time.monotonic() + START_TIMEOUT_S
    while (session := store.last_session(settings.live.account)) is None:
        if time.monotonic() > deadline:
            raise ServerError(
                f"no live session began within {START_TIMEOUT_S:.0f} s",
                mend="see live_trading_sensor on Dagster's page",
            )
        time.sleep(POLL_S)
    return session


def _newest(store: LiveStore, settings: Settings) -> SessionRow:
    session = store.last_session(settings.live.account)
    if session is None:
        raise ServerError("the live session's rows are gone", mend="run fx demo again")
    return session


def _share(session: SessionRow) -> float:
    return (session.clock - session.replay_start) / max(1, session.replay_end - session.replay_start)


def _level(store: LiveStore, settings: Settings) -> str:
    status = store.status(settings.live.account)
    if status is None:
        return "starting"
    found = status.status
    return f"level {found.get('level', '?')} · {found.get('decisions', 0):,} decisions"


class _Drill:
    """Kills Triton once, in the middle, and sees when it answers again."""

    def __init__(self, settings: Settings, group: ServerGroup, *, wanted: bool) -> None:
        self._settings = settings
        self._group = group
        self._wanted = wanted
        self._pid = 0
        self.killed_at: datetime | None = None
        self.server_back_at: datetime | None = None

    def look(self, done: float, step: console.Step) -> None:
        """Do what is due."""
        if self._wanted and self.killed_at is None and done >= KILL_AT:
            self._kill(step)
        elif self.killed_at is not None and self.server_back_at is None and self._answers():
            self.server_back_at = datetime.now(UTC)
            away = (self.server_back_at - self.killed_at).total_seconds()
            step.line(f"{console.GOOD} Triton is back after {away:.1f} s")

    def _kill(self, step: console.Step) -> None:
        triton = self._group.triton
        if triton is None or triton.process is None:
            return
        self._pid = triton.process.pid
        self.killed_at = datetime.now(UTC)
        os.kill(self._pid, 9)
        step.line(f"{console.WARN} Triton killed (pid {self._pid}, SIGKILL)")

    def _answers(self) -> bool:
        triton = self._group.triton
        if triton is None or triton.process is None or triton.process.pid == self._pid or not triton.alive:
            return False
        admin = TritonAdmin(triton.url, triton.secret)
        try:
            return bool(admin.loaded())
        except ServerError:
            return False
        finally:
            admin.close()


def _url(settings: Settings) -> str:
    return settings.postgres.url.get_secret_value()
