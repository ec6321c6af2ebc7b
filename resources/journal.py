"""The live session's journal in PostgreSQL.

Two connections. The first holds the account's lock and writes entries in the order of their posting, many in one
transaction when many wait, each transaction with the epoch's check. The second reads the kill switch four times a
second and writes the heartbeat. When the server goes away both come back by themselves; what was posted waits, bounded,
and is written then. Nothing here blocks the event loop, and no caller waits for the server unless it wants to.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Self

import psycopg

from fx_dagster.errors import FencedError, FxError, JournalError, ServerError
from fx_dagster.live.records import JournalEntry, KillSwitch, SessionState
from resources import account_lease, live_rows
from resources.availability_store import SpanPace, SpanWriter, note_span
from resources.postgres import connect_async

BATCH_MAX = 64
PENDING_MAX = 20_000
POLL_S = 0.25
BEAT_S = 1.0
ANSWER_S = 1.5
"""Silence of the server after which the journal is not trusted."""
_BACKOFF_S = (0.1, 0.2, 0.5, 1.0)
_log = logging.getLogger("fx_dagster.live")


@dataclass(frozen=True)
class JournalTarget:
    """Which account and tape a journal is opened for.

    Attributes:
        account: account name.
        fingerprint: of the tape: a session is resumed on the same one only.
        window: first and last (exclusive) market time (ns UTC) of a new session.
        restart: begin a new session even if there is one to resume or a finished one.
        stale_s: age of a heartbeat from which its engine is overtaken.
        realtime: whether the market is a real one, which closes on weekends and waits for nobody.
    """

    account: str
    fingerprint: str
    window: tuple[int, int]
    restart: bool = False
    stale_s: float = 45.0
    realtime: bool = False


def _told_by(status: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what somebody may wait for: a status that says something else is written at once."""
    return tuple(status.get(name) for name in ("state", "killed", "level"))


@dataclass
class _Pending:
    entry: JournalEntry
    written: asyncio.Future[None]
    finish: str | None = None
    status: Mapping[str, Any] | None = None
    tried: bool = False


class PostgresJournal:
    """Implements :class:`fx_dagster.live.protocols.Journal`. Made by :meth:`open`, ended by :meth:`close`."""

    def __init__(
        self, url: str, account: str, epoch: int, session: SessionState, connection: psycopg.AsyncConnection,
        *, realtime: bool = False,
    ) -> None:  # fmt: skip
        self.account = account
        self.epoch = epoch
        self.session = session
        self._url = url
        self._writer = connection
        self._pending: deque[_Pending] = deque()
        self._wake = asyncio.Event()
        self._problems: dict[str, str] = {}
        self._lately: dict[str, str] = {}
        self._fatal: FxError | None = None
        self._switch = KillSwitch()
        self._status: Mapping[str, Any] | None = None
        self._told: tuple[object, ...] = ()
        self._spans = SpanWriter(account, session.session_id, epoch, realtime)
        self._span_pace = SpanPace()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, url: str, target: JournalTarget) -> Self:
        """Take the account, then find or begin its session.

        Raises:
            FencedError: another living engine has the account.
            ServerError: PostgreSQL does not answer.
        """
        connection = await connect_async(url, name=f"fx live {target.account}")
        try:
            epoch = await account_lease.take(connection, target.account, stale_s=target.stale_s)
            async with connection.transaction():
                session = await live_rows.open_session(
                    connection,
                    account=target.account,
                    fingerprint=target.fingerprint,
                    window=target.window,
                    restart=target.restart,
                )
            journal = cls(url, target.account, epoch, session, connection, realtime=target.realtime)
            journal._switch = await live_rows.read_kill_switch(connection, target.account)
            return journal
        except BaseException:
            await connection.close()
            raise

    def start(self) -> None:
        """Begin to write, to beat and to read the kill switch."""
        self._tasks = [
            asyncio.create_task(self._write_forever(), name="journal writer"),
            asyncio.create_task(self._control_forever(), name="journal control"),
        ]

    def post(self, entry: JournalEntry) -> asyncio.Future[None]:
        """Queue an entry; see the protocol.

        Raises:
            JournalError: so much waits for the server that nothing more is taken.
        """
        return self._queue(entry)

    def _queue(
        self, entry: JournalEntry, *, finish: str | None = None, status: Mapping[str, Any] | None = None
    ) -> asyncio.Future[None]:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # An entry that nobody waits for must not be reported as an exception that was never retrieved.
        written.add_done_callback(lambda future: future.cancelled() or future.exception())
        if self._fatal is not None:
            written.set_exception(self._fatal)
            return written
        if len(self._pending) >= PENDING_MAX:
            raise JournalError(
                f"{PENDING_MAX} entries wait for PostgreSQL", mend="bring PostgreSQL back; the session then resumes"
            )
        self._pending.append(_Pending(entry, written, finish, status))
        self._wake.set()
        return written

    @property
    def problem(self) -> str:
        """Why the journal cannot be trusted now; empty: it can."""
        return str(self._fatal) if self._fatal else "; ".join(self._problems.values())

    @property
    def fatal(self) -> FxError | None:
        """The error after which this journal never writes again."""
        return self._fatal

    @property
    def kill_switch(self) -> KillSwitch:
        """The switch as last read."""
        return self._switch

    @property
    def pending(self) -> int:
        """Entries not yet committed."""
        return len(self._pending)

    def beat(self, status: Mapping[str, Any]) -> None:
        """Hand over the newest status."""
        self._status = dict(status)

    async def finish(self, reason: str) -> None:
        """Mark the session finished, after everything posted before."""
        await self._queue(JournalEntry(), finish=reason)

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything posted is committed and the last status is written; False: some is not."""
        if self._fatal is None:
            last = self._queue(JournalEntry(), status=self._status)
            await asyncio.wait({last}, timeout=timeout_s)
        return not self._pending and self._fatal is None

    async def close(self) -> None:
        """End both connections, which frees the account. Does not wait for what is not written."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(psycopg.Error, OSError):
            await self._writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write_forever(self) -> None:
        attempt = 0
        while self._fatal is None:
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
            batch = list(islice(self._pending, BATCH_MAX))
            try:
                await self._watched("writer", self._commit(batch))
            except FxError as error:
                if not isinstance(error, ServerError):
                    self._give_up(error)
                    continue
                await self._reconnect("writer", attempt, error)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                await self._reconnect("writer", attempt, error)
            except psycopg.Error as error:
                message = " ".join(str(error).split())
                self._give_up(JournalError(f"an entry cannot be written: {message}", mend="a bug: please report it"))
                continue
            else:
                attempt = 0
                self._done(batch)
                continue
            attempt += 1

    def _done(self, batch: list[_Pending]) -> None:
        for pending in batch:
            self._pending.popleft()
            if not pending.written.done():
                pending.written.set_result(None)

    def _give_up(self, error: FxError) -> None:
        self._fatal = error
        while self._pending:
            written = self._pending.popleft().written
            if not written.done():
                written.set_exception(error)

    async def _commit(self, batch: list[_Pending]) -> None:
        async with self._writer.transaction():
            await account_lease.check(self._writer, self.account, self.epoch)
            for pending in batch:
                again, pending.tried = pending.tried, True
                await live_rows.insert_entry(
                    self._writer,
                    pending.entry,
                    account=self.account,
                    session_id=self.session.session_id,
                    epoch=self.epoch,
                    again=again,
                )
                if pending.finish is not None:
                    await live_rows.finish(self._writer, self.session.session_id, pending.finish)
                if pending.status is not None:
                    await self._write_status(self._writer, pending.status)

    async def _reconnect(self, who: str, attempt: int, error: BaseException) -> None:
        """Note why the server is away, wait a little, and try a new connection; the caller tries its work again."""
        self._note_problem(who, f"PostgreSQL is away ({' '.join(str(error).split())[:200]})")
        await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
        with contextlib.suppress(psycopg.Error, OSError):
            await self._writer.close()
        with contextlib.suppress(ServerError):
            self._writer = await connect_async(self._url, name=f"fx live {self.account}")
            try:
                await account_lease.retake(self._writer, self.account, self.epoch)
            except FencedError as fenced:
                self._give_up(fenced)
            except psycopg.Error:
                return  # away again: the next attempt says so

    async def _watched(self, who: str, work: Awaitable[None]) -> None:
        """Do the work, and note meanwhile that the server is silent; the work itself is never abandoned."""
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=ANSWER_S)
            if not done:
                self._note_problem(who, f"PostgreSQL has been silent for {ANSWER_S:g} s")
            await task
        except asyncio.CancelledError:
            task.cancel()
            raise
        self._problems.pop(who, None)

    def _note_problem(self, who: str, problem: str) -> None:
        """Note why the journal cannot be trusted, and since when: no status can be written meanwhile."""
        if not self._problems:
            self._lately = {"problem": problem, "since": datetime.now(UTC).isoformat()}
        self._problems[who] = problem

    async def _control_forever(self) -> None:
        while self._fatal is None:
            try:
                connection = await connect_async(self._url, name=f"fx live {self.account} control")
            except ServerError as error:
                self._note_problem("control", str(error))
                await asyncio.sleep(_BACKOFF_S[-1])
                continue
            try:
                await self._control(connection)
            except (psycopg.Error, OSError) as error:
                self._note_problem("control", f"PostgreSQL is away ({' '.join(str(error).split())[:200]})")
            finally:
                with contextlib.suppress(psycopg.Error, OSError):
                    await connection.close()

    async def _control(self, connection: psycopg.AsyncConnection) -> None:
        loop = asyncio.get_running_loop()
        next_beat = 0.0
        while self._fatal is None:
            await self._watched("control", self._read_switch(connection))
            if self._status is not None and (loop.time() >= next_beat or _told_by(self._status) != self._told):
                next_beat = loop.time() + BEAT_S
                await self._watched("control", self._write_beat(connection))
            await asyncio.sleep(POLL_S)

    async def _read_switch(self, connection: psycopg.AsyncConnection) -> None:
        self._switch = await live_rows.read_kill_switch(connection, self.account)

    async def _write_status(self, connection: psycopg.AsyncConnection, status: Mapping[str, Any]) -> bool:
        written = await live_rows.write_status(
            connection,
            account=self.account,
            session_id=self.session.session_id,
            epoch=self.epoch,
            pid=os.getpid(),
            host=socket.gethostname(),
            status={**status, "journal_lately": self._lately},
        )
        self._told = _told_by(status)
        if written and self._span_pace.due(status):
            await self._note_span(connection, status)
        return written

    async def _note_span(self, connection: psycopg.AsyncConnection, status: Mapping[str, Any]) -> None:
        """Write for how long the engine has been able to decide; what is wrong with that never stops it."""
        try:
            async with connection.transaction():
                await note_span(connection, self._spans, status)
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError) as error:
            _log.warning("availability is not recorded: %s", " ".join(str(error).split()))
        except BaseException:
            self._span_pace.forget()  # nobody knows whether it arrived
            raise

    async def _write_beat(self, connection: psycopg.AsyncConnection) -> None:
        if not await self._write_status(connection, self._status or {}):
            self._give_up(
                FencedError(
                    f"account {self.account}: a later engine writes its heartbeat",
                    mend="nothing to do: that engine trades the account",
                )
            )
