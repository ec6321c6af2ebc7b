"""What became of a case, read from the terminal's own books and from PostgreSQL, by whom no engine is asked."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

ENDED = frozenset({"filled", "rejected", "cancelled"})
_TINY = 1e-8


@dataclass
class Verdict:
    """What is wrong with a case; nothing, where all lists are empty.

    Attributes:
        duplicates: orders that left twice, or of a decision that another order was of.
        lost: what one side has and the other has not.
        undecided: orders without an end that nobody was asked about.
        wrong: all else.
        held: orders that wait for a person; no fault, and counted.
        met: whether the process died where it was meant to.
        reached: whether the broker was ever asked.
    """

    duplicates: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    held: int = 0
    met: bool = False
    reached: bool = False

    @property
    def faults(self) -> list[str]:
        """All of them, in words."""
        named = {"duplicate": self.duplicates, "lost": self.lost, "undecided": self.undecided, "wrong": self.wrong}
        return [f"{name}: {text}" for name, texts in named.items() for text in texts]


@dataclass(frozen=True)
class Books:
    """What PostgreSQL has of an account."""

    orders: dict[int, dict[str, Any]]
    deals: list[dict[str, Any]]
    session_deals: Counter[int]
    sent: Counter[int]
    held: frozenset[int]


def read_books(connection: "psycopg.Connection[Any]", account: str) -> Books:
    """Read an account from PostgreSQL."""

    def rows(statement: str) -> list[dict[str, Any]]:
        with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return cursor.execute(statement.encode(), (account,)).fetchall()

    orders = rows("SELECT * FROM fx.trade_order WHERE account = %s")
    deals = rows("SELECT * FROM fx.broker_deal WHERE account = %s")
    listed = rows("SELECT ticket FROM fx.deal WHERE account = %s")
    sent = rows(
        "SELECT e.client_order_id FROM fx.order_event e JOIN fx.trade_order o USING (client_order_id)"
        " WHERE o.account = %s AND e.state = 'sent'"
    )
    held = rows("SELECT client_order_id FROM fx.held_order WHERE account = %s AND released_ns IS NULL")
    return Books(
        {row["client_order_id"]: row for row in orders}, deals, Counter(row["ticket"] for row in listed),
        Counter(row["client_order_id"] for row in sent), frozenset(row["client_order_id"] for row in held),
    )  # fmt: skip


def judge(truth: dict[str, Any], books: Books, *, setup: frozenset[int], key: int) -> Verdict:
    """Compare what is at the broker with what is in the journal.

    Args:
        truth: of the world.
        books: of PostgreSQL.
        setup: keys of the orders that made the position that the case needs.
        key: of the order of the case.
    """
    found = Verdict(reached=any(one["magic"] == key for one in truth["requests"]))
    _once(found, truth, books, setup | {key})
    _deals(found, truth, books)
    _ends(found, truth, books)
    _positions(found, truth, books)
    return found


def _once(found: Verdict, truth: dict[str, Any], books: Books, known: set[int]) -> None:
    for name in ("requests", "orders"):
        for magic, count in Counter(one["magic"] for one in truth[name]).items():
            if count > 1:
                found.duplicates.append(f"{count} {name} of key {magic}")
            if magic not in known:
                found.duplicates.append(f"an order of key {magic}, which no decision of the case has")
    decisions = Counter((row["decided_ns"], row["purpose"], row["position"]) for row in books.orders.values())
    found.duplicates += [f"{count} orders of decision {one}" for one, count in decisions.items() if count > 1]
    found.duplicates += [f"{count} times 'sent' of key {one}" for one, count in books.sent.items() if count > 1]
    found.lost += [
        f"key {one['magic']} was sent, and is not in the journal"
        for one in truth["requests"] if one["magic"] not in books.orders
    ]  # fmt: skip


def _deals(found: Verdict, truth: dict[str, Any], books: Books) -> None:
    there = {deal["ticket"]: deal for deal in truth["deals"]}
    here = {deal["ticket"]: deal for deal in books.deals}
    found.lost += [f"deal {ticket} is not in the journal" for ticket in there.keys() - here.keys()]
    found.lost += [f"deal {ticket} is in the journal alone" for ticket in here.keys() - there.keys()]
    if books.session_deals != Counter(here.keys()):
        found.lost.append(f"the session lists deals {sorted(books.session_deals.elements())}, not {sorted(here)}")
    for ticket in there.keys() & here.keys():
        mine, real = here[ticket], there[ticket]
        same = mine["client_order_id"] == real["magic"] and mine["position"] == real["position"]
        if not same or abs(mine["lots"] - real["lots"]) > _TINY or mine["price"] != real["price"]:
            found.wrong.append(f"deal {ticket} is another in the journal")


def _ends(found: Verdict, truth: dict[str, Any], books: Books) -> None:
    for key, row in books.orders.items():
        if row["state"] not in ENDED:
            if key in books.held and row["state"] == "unknown":
                found.held += 1
            else:
                found.undecided.append(f"{row['purpose']} order {key} is {row['state']} ({row['message']})")
            continue
        if row["purpose"] == "modify":
            _moved(found, truth, row)
            continue
        done = sum(abs(deal["lots"]) for deal in truth["deals"] if deal["magic"] == key)
        whole = abs(done - abs(row["lots"])) < _TINY
        if (row["state"] == "filled") != whole or (row["state"] == "rejected" and done):
            found.wrong.append(f"order {key} is {row['state']}, and {done:g} of {row['lots']:g} lots are executed")
    if truth["working"]:
        found.undecided.append(f"{truth['working']} orders work at the broker")


def _moved(found: Verdict, truth: dict[str, Any], row: dict[str, Any]) -> None:
    stops = [one["sl"] for one in truth["positions"] if one["ticket"] == row["position"]]
    stands = bool(stops) and abs(stops[0] - row["stop"]) < 1e-6
    if stands != (row["state"] == "filled"):
        found.wrong.append(f"the order to move a stop is {row['state']}, the stop is {stops}, asked was {row['stop']}")


def _positions(found: Verdict, truth: dict[str, Any], books: Books) -> None:
    there = {one["ticket"]: one["lots"] for one in truth["positions"]}
    for name, deals in (("terminal", truth["deals"]), ("journal", books.deals)):
        sums: dict[int, float] = {}
        for deal in deals:
            sums[deal["position"]] = sums.get(deal["position"], 0.0) + deal["lots"]
        for ticket in sums.keys() | there.keys():
            if abs(sums.get(ticket, 0.0) - there.get(ticket, 0.0)) > _TINY:
                found.wrong.append(
                    f"position {ticket} has {there.get(ticket, 0.0):g} lots, the {name}'s deals sum to "
                    f"{sums.get(ticket, 0.0):g}"
                )
    found.wrong += [f"position {one['ticket']} has no stop" for one in truth["positions"] if not one["sl"] > 0.0]
