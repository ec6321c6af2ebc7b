"""Where an engine's process kills itself: objects of the production path, wrapped in the victim's process alone."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fx_dagster.execution.lifecycle import Answered, Changed, Dealt, Ended, Found, NotSent
from fx_dagster.live.records import JournalEntry
from resources import exit_log, live_rows, order_keeper, order_store
from resources import journal as journals
from resources.mt5.bridge.checks import SEND
from tests.killsweep.cases import Operation, Point

BEFORE, DURING, AFTER = "before", "during", "after"
_OUTCOMES = (Dealt, Changed, Ended, Found, NotSent)

Chosen = Callable[[JournalEntry], bool]


class Trap:
    """One kill.

    Args:
        point: where.
        operation: what the order is for.
        repeat: of the case: some points have several places.
        key: of the order; 0: none yet.
    """

    report = -1
    """Descriptor on which the parent reads."""

    def __init__(self, point: Point, operation: Operation, repeat: int) -> None:
        self.point, self.operation, self.repeat = point, operation, repeat
        self.key = 0
        self._said: dict[str, Any] = {}
        self._loaded = False

    def say(self, said: dict[str, Any]) -> None:
        """Tell the parent something, and keep it for what is told at the end."""
        self._said |= said
        self.key = int(said.get("key", 0))
        os.write(self.report, json.dumps(self._said).encode() + b"\n")

    def spring(self) -> None:
        """Kill this process."""
        os.write(self.report, json.dumps(self._said | {"met": True}).encode() + b"\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def reached(self, place: str) -> None:
        """Kill where that is the place."""
        if place == "loaded" and self.point is Point.RESTART_LOADED:
            self.spring()

    # -- setting -------------------------------------------------------------------------------------------------------

    def set(self, life: Any) -> None:
        """Set the trap in an engine."""
        away = self.operation is Operation.CLOSE_AWAY
        match self.point:
            case Point.BEFORE_PLAN:
                life.desk.plan = self._around(life.desk.plan, BEFORE)
            case Point.PLANNED:
                life.desk.plan = self._around(life.desk.plan, AFTER)
            case Point.BEFORE_COMMIT | Point.IN_COMMIT | Point.COMMITTED if away:
                self._at_log(life)
            case Point.BEFORE_COMMIT:
                self._at_commit(self._has_intent, BEFORE)
            case Point.IN_COMMIT:
                self._at_commit(self._has_intent, DURING)
            case Point.COMMITTED:
                self._at_commit(self._has_intent, AFTER)
            case Point.NOTED:
                life.link.send = self._around(life.link.send, BEFORE)
            case Point.BEFORE_WIRE | Point.ANSWERED:
                self._at_call(life.client, BEFORE if self.point is Point.BEFORE_WIRE else AFTER)
            case Point.ANSWER_POSTED:
                self._at_post(life.journal)
            case Point.ANSWER_COMMITTED:
                self._at_commit(self._has_answer, AFTER)
            case Point.BEFORE_OUTCOME:
                self._at_commit(self._has_outcome, DURING if self.repeat % 2 else BEFORE)
            case Point.OUTCOME_COMMITTED:
                self._at_commit(self._has_outcome, AFTER)
            case Point.RESTART_JOIN:
                self._at_join(away=away)
            case Point.RESTART_RECONCILED:
                self._at_commit(lambda entry: bool(entry.steps), DURING if self.repeat % 2 else BEFORE)
            case Point.RESTART_COMMITTED:
                self._at_commit(lambda entry: bool(entry.steps), AFTER)
            case Point.WORKER | Point.BRIDGE if self.repeat % 2:
                self._at_post(life.journal)  # the engine hears of it, and dies as well

    def _has_intent(self, entry: JournalEntry) -> bool:
        return any(intent.client_order_id == self.key for intent in entry.intents)

    def _has_answer(self, entry: JournalEntry) -> bool:
        return any(isinstance(step.event, Answered) and step.event.key == self.key for step in entry.steps)

    def _has_outcome(self, entry: JournalEntry) -> bool:
        return any(isinstance(step.event, _OUTCOMES) and step.event.key == self.key for step in entry.steps)

    def _around(self, call: Callable[..., Any], when: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if when == BEFORE:
                self.spring()
            value = call(*args, **kwargs)
            self.spring()
            return value

        return wrapped

    def _at_call(self, client: Any, when: str) -> None:
        call = client.call

        def wrapped(method: str, *args: Any) -> Any:
            if method != SEND:
                return call(method, *args)
            try:
                if when == BEFORE:
                    self.spring()
                return call(method, *args)
            finally:
                self.spring()

        client.call = wrapped

    def _at_post(self, journal: Any) -> None:
        post = journal.post

        def wrapped(entry: JournalEntry) -> Any:
            written = post(entry)
            if self._has_answer(entry):
                self.spring()
            return written

        journal.post = wrapped

    def _at_commit(self, chosen: Chosen, when: str) -> None:
        """Kill in the journal's own transaction that writes a chosen entry."""
        insert, transactions = live_rows.insert_entry, journals.psycopg.AsyncTransaction
        commit, armed = transactions._commit_gen, set()

        async def inserted(connection: Any, entry: JournalEntry, **rest: Any) -> None:
            await insert(connection, entry, **rest)
            if chosen(entry):
                armed.add(connection)

        def committing(transaction: Any) -> Iterator[Any]:
            whole = transaction._outer_transaction and transaction._conn in armed
            if whole:
                self._begin_commit(transaction._conn, when)
            value = yield from commit(transaction)
            if whole:
                self.spring()
            return value

        journals.live_rows.insert_entry = inserted
        transactions._commit_gen = committing

    def _begin_commit(self, connection: Any, when: str) -> None:
        if when == BEFORE:
            self.spring()
        if when == DURING:
            connection.pgconn.send_query(b"COMMIT")
            while connection.pgconn.flush():
                pass
            self.spring()

    def _at_log(self, life: Any) -> None:
        log = life.keeper._log
        if self.point is Point.BEFORE_COMMIT:
            log._append = self._around(log._append, BEFORE)
        elif self.point is Point.IN_COMMIT:
            log._sync = self._around(log._sync, BEFORE)
        else:
            log.append = self._around(log.append, AFTER)

    def _at_join(self, *, away: bool) -> None:
        """Kill while the log of exits is joined; without one, before the book is loaded."""
        if not away:
            order_keeper.order_store.load = self._around(order_store.load, BEFORE)
            return
        place = self.repeat % 4
        if place == 0:
            self._at_rejoin(BEFORE)
        elif place == 1:
            self._at_rejoin(DURING)
        elif place == 2:
            exit_log.ExitLog.clear = self._around(exit_log.ExitLog.clear, BEFORE)  # type: ignore[method-assign]
        else:
            Path.replace = self._around(Path.replace, BEFORE)  # type: ignore[method-assign]

    def _at_rejoin(self, when: str) -> None:
        rejoin, transactions = order_store.rejoin, journals.psycopg.AsyncTransaction
        commit, armed = transactions._commit_gen, set()

        async def rejoining(connection: Any, *args: Any) -> int:
            armed.add(connection)
            return await rejoin(connection, *args)

        def committing(transaction: Any) -> Iterator[Any]:
            if transaction._outer_transaction and transaction._conn in armed:
                self._begin_commit(transaction._conn, when)
            return (yield from commit(transaction))

        order_keeper.order_store.rejoin = rejoining
        transactions._commit_gen = committing
