"""An engine is killed at every point of an order's way; and what the sweep must not overlook is planted, and found."""

import dataclasses
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fx_dagster.execution.lifecycle import UNKNOWN
from fx_dagster.execution.orders import OrderIntent
from fx_dagster.live import broker_desk
from fx_dagster.live.broker_desk import BrokerDesk
from fx_dagster.live.broker_outbox import BrokerOutbox
from fx_dagster.live.records import JournalEntry
from resources import order_store
from resources.postgres import migrate
from tests.killsweep.cases import Case, Operation, Outcome, Point, cases
from tests.killsweep.slot import Slot
from tests.killsweep.sweep import Result
from tests.killsweep.verdict import Verdict

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL"),
    # Lives are forked; the threads that a test's process may have by then are none of theirs.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def slot(postgres_url: str) -> Iterator[Slot]:
    """A world with its bridge, over a database of its own."""
    plain, name = postgres_url.replace("+psycopg2", ""), f"sweep_{secrets.token_hex(4)}"
    folder = Path(tempfile.mkdtemp(prefix="fx-ks-"))
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        url = f"{postgres_url.rsplit('/', 1)[0]}/{name}"
        try:
            migrate(url)
            with Slot(folder, url) as made:
                yield made
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            shutil.rmtree(folder, ignore_errors=True)


def one(point: Point, operation: Operation, outcome: Outcome, *, again: bool = False) -> Case:
    """Return the first of such cases in which the engine that takes up decides again, or not."""
    return next(
        case for repeat in range(50) if (case := Case(point, operation, outcome, repeat)).again is again
    )  # fmt: skip


@pytest.mark.parametrize("number", range(len(Point)), ids=[point.name.lower() for point in Point])
def test_nothing_is_sent_twice_and_nothing_lost(slot: Slot, number: int) -> None:
    """Each point once; operations and outcomes take turns."""
    operation, outcome = list(Operation)[number % 4], list(Outcome)[(number * 3) % 5]
    verdict = slot.run(Case(list(Point)[number], operation, outcome, number))
    assert verdict.faults == []
    assert verdict.held == 0


@pytest.mark.parametrize("outcome", [Outcome.ANSWER_LOST, Outcome.SLOW])
def test_what_comes_of_an_exit_while_postgresql_is_away(slot: Slot, outcome: Outcome) -> None:
    verdict = slot.run(Case(Point.AT_TERMINAL, Operation.CLOSE_AWAY, outcome, 1))
    assert verdict.faults == []
    assert (verdict.met, verdict.reached) == (True, True)


def test_an_order_that_leaves_before_its_commit_is_found(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    send = BrokerOutbox.send

    async def early(self: Any, entry: JournalEntry, time_ns: int) -> Any:
        for intent in self._desk.prepare(entry.intents):
            self._link.send(intent)
            await self._link.settle(5.0)
            self._desk._reports.clear()
        return await send(self, entry, time_ns)

    monkeypatch.setattr(BrokerOutbox, "send", early)
    verdict = slot.run(one(Point.BEFORE_COMMIT, Operation.OPEN, Outcome.DONE))
    assert any("was sent, and is not in the journal" in text for text in verdict.lost)
    assert any("deal" in text for text in verdict.lost)


@pytest.mark.parametrize("new_key", [True, False], ids=["with a new key", "with its own key"])
def test_an_order_in_doubt_that_is_sent_again_is_found(
    slot: Slot, monkeypatch: pytest.MonkeyPatch, new_key: bool
) -> None:
    """With its own key the bridge stops it: the second line."""
    protections = BrokerDesk.protections

    def again(self: Any) -> tuple[OrderIntent, ...]:
        doubted = [order.intent for order in self.book.open.values() if order.state is UNKNOWN]
        first = [intent for intent in doubted if intent.comment == "sweep"]
        changed = {"comment": "again", "expires_ns": self.now() + 10**12, "epoch": self.epoch}
        return protections(self) + tuple(
            dataclasses.replace(intent, client_order_id=intent.client_order_id + new_key, **changed) for intent in first
        )

    async def between(self: Any) -> None:
        for intent in self._desk.protections():
            self._link.send(intent)
            await self._link.settle(5.0)

    monkeypatch.setattr(BrokerDesk, "protections", again)
    if not new_key:
        monkeypatch.setattr(BrokerOutbox, "between_batches", between)
    case = one(Point.AT_TERMINAL, Operation.OPEN, Outcome.REQUEST_LOST)
    verdict = slot.run(case)
    if new_key:
        assert any("orders of decision" in text for text in verdict.duplicates)
    else:
        assert verdict.duplicates == []


def test_doubt_that_is_forgotten_is_found(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_desk, "after_restart", lambda *_: ())
    verdict = slot.run(one(Point.COMMITTED, Operation.OPEN, Outcome.DONE))
    assert any("is journalled" in text for text in verdict.undecided)


def test_exits_that_are_never_joined_are_found(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> int:
        return 0

    monkeypatch.setattr(order_store, "rejoin", nothing)
    verdict = slot.run(one(Point.EXECUTED, Operation.CLOSE_AWAY, Outcome.DONE))
    assert any("was sent, and is not in the journal" in text for text in verdict.lost)


def test_a_case_is_the_same_in_every_run() -> None:
    assert Case.named("executed/close_away/answer_lost/7") == Case(
        Point.EXECUTED, Operation.CLOSE_AWAY, Outcome.ANSWER_LOST, 7
    )
    assert len(cases(12)) == len(set(cases(12))) == 4_800
    assert cases(2) == cases(2)
    assert Case.named("executed/open/done/3").chance().random() == Case.named("executed/open/done/3").chance().random()
    for name in ("executed/open/done", "nowhere/open/done/1", "executed/open/done/x"):
        with pytest.raises(ValueError, match="is no case"):
            Case.named(name)


def test_a_result_is_told_with_its_faults() -> None:
    case = Case(Point.WORKER, Operation.OPEN, Outcome.DONE, 0)
    result = Result({case: Verdict(lost=["deal 7 is not in the journal"])}, took_s=60.0)
    assert "1 cases: 0 duplicate, 1 lost" in result.markdown("command", "then")
    assert result.faults() == {case: ["lost: deal 7 is not in the journal"]}
    assert "1 lost" not in Result({case: Verdict(met=True)}).markdown("command", "now")
