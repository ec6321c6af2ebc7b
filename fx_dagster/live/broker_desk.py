"""A real broker's account as the engine uses it: what came of orders in, what the core is to take over out.

Answers and views of the broker reach the desk as reports, in the order in which they come; nothing happens until
:meth:`BrokerDesk.drain`, which the engine calls between two decisions. What follows then is one Movement: steps for the
journal, the account for the core (and its tape), and news for a person.

A position is the sum of its deals; stop, target and gathered swap are what the broker shows of it. What is not ours
counts in the limits and in the account's value, and is left alone.
"""

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from fx_dagster import snapshot
from fx_dagster.core.tape import Adopted
from fx_dagster.decision.rows import Rows
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.broker import (
    BrokerAccount,
    BrokerPosition,
    BrokerView,
    Requote,
)
from fx_dagster.execution.ledger import Adoption, Ledger
from fx_dagster.execution.lifecycle import (
    ACCEPTED,
    CANCELLED,
    FILLED,
    PARTIAL,
    REJECTED,
    UNKNOWN,
    Answered,
    Dealt,
    Event,
    Journalled,
    NotSent,
    OrderBook,
    OwnPosition,
    Sent,
    Step,
    TrackedOrder,
    Verdict,
    Withheld,
    next_attempt,
)
from fx_dagster.execution.orders import Account, OrderIntent, Position, Purpose, client_order_id
from fx_dagster.execution.reconcile import (
    Apply,
    Closed,
    Doubts,
    Halt,
    Patience,
    Protect,
    after_restart,
    history_since,
    reconcile,
)
from fx_dagster.live.account import Movement
from fx_dagster.live.records import AccountRecord
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, SECOND_NS
from fx_dagster.snapshot import Found

FORMAT = "fx-broker-account-1"
REMEMBERED_NS = 2 * DAY_NS
"""How long orders and positions that ended are remembered: longer than any question to the broker goes back."""
COUNTED_MAX = 2_000
"""Closing deals whose result is remembered to be counted."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the broker showed; ``account`` is None where it did not tell."""

    view: BrokerView
    account: BrokerAccount | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """Whether a symbol may be entered at the broker; ``problem`` says why not, empty: it may."""

    symbol: str
    problem: str
    for_good: bool = False
    """Whether only a restart of the session helps, as after a change of the contract."""


Report: TypeAlias = Answered | NotSent | Seen | Terms


@dataclass(frozen=True, slots=True)
class DeskRules:
    """How orders are dealt with.

    Attributes:
        patience: how long doubt lasts.
        valid_ns: age of a decision's data from which its order is not sent any more.
        currency: of the account, ISO code.
    """

    patience: Patience
    valid_ns: int
    currency: str


class BrokerDesk:
    """One account at a real broker. Not thread-safe; one owner.

    Args:
        name: account name.
        instruments: what is traded.
        ledger: of a real account: what the core decides on.
        rules: how orders are dealt with.

    Attributes:
        book: orders and positions of ours.
        now: tells the market's clock, ns UTC; whoever feeds it sets it.
        wake: called when a report has come.
        epoch: of this engine, part of every order.
    """

    def __init__(self, name: str, instruments: Sequence[Instrument], ledger: Ledger, rules: DeskRules) -> None:
        self.name, self.ledger, self.rules = name, ledger, rules
        self.instruments = {item.symbol: item for item in instruments}
        self.book = OrderBook()
        self.now: Callable[[], int] = lambda: int(ledger.money[0]["clock"])
        self.wake: Callable[[], None] = lambda: None
        self.epoch = 0
        self._rows = {symbol: row for row, symbol in enumerate(self.instruments)}
        self._reports: deque[Report] = deque()
        self._steps: list[Step] = []
        self._news: list[tuple[str, str | None, str]] = []
        self._closed: list[tuple[float, float]] = []
        self._touched: set[str] = set()
        self._doubts = Doubts()
        self._account: BrokerAccount | None = None
        self._shown: Mapping[int, BrokerPosition] = MappingProxyType({})
        self._foreign: tuple[BrokerPosition, ...] = ()
        self._foreign_told: tuple[tuple[int, float, float], ...] | None = None
        self._foreign_ns = 0
        self._looked = self._dirty = False
        self._blind = "the broker has not been asked yet"
        self._known_ns = 0
        self._halts: dict[str, str] = {}
        self._terms: dict[str, Terms] = {}
        self._held_told: dict[str, bool] = {}
        self._paused: dict[str, int] = {}
        self._refusals: dict[tuple[str, Purpose], int] = {}
        self._attempts: dict[tuple[str, Purpose], int] = {}
        self._counted: deque[int] = deque(maxlen=COUNTED_MAX)
        self._protects: tuple[Protect, ...] = ()
        self._protecting: dict[int, int] = {}
        self._forget_ns = 0

    # -- beginning -------------------------------------------------------------------------------------------------

    def begin(self, book: OrderBook) -> None:
        """Take up the account's book as the journal has it: what the last engine left in the air is in doubt."""
        self.book = book
        opened = [position.opened_ns for position in book.open_positions()]
        self._known_ns = self._known_ns or min(opened, default=0)
        self._touched |= self._rows.keys()
        for event in after_restart(book, self.now()):
            self._apply(event)

    def begin_doubts_anew(self) -> None:
        """Forget since when something is missing: the clock that it was seen by stood still before."""
        self._doubts = Doubts()

    # -- orders out ------------------------------------------------------------------------------------------------

    def prepare(self, intents: Iterable[OrderIntent]) -> tuple[OrderIntent, ...]:
        """Return orders as they may be journalled: each of one position, and with a key of its own.

        An order to close or to move a stop becomes one for each position of ours in its symbol; one without a position,
        or with a key that was used before, is left out.
        """
        made: list[OrderIntent] = []
        for intent in intents:
            for one in (intent,) if intent.purpose is Purpose.OPEN or intent.position else self._addressed(intent):
                if self.book.order(one.client_order_id) is None:
                    made.append(dataclasses.replace(one, epoch=self.epoch))
        return tuple(made)

    def _addressed(self, intent: OrderIntent) -> Iterable[OrderIntent]:
        for place, own in enumerate(self._own(intent.symbol)):
            key = intent.client_order_id if place == 0 else _another_key(intent.client_order_id, own.ticket)
            lots = -own.lots if intent.purpose is Purpose.CLOSE else 0.0
            yield dataclasses.replace(intent, client_order_id=key, position=own.ticket, lots=lots)

    def plan(self, intents: Iterable[OrderIntent]) -> dict[int, int]:
        """Take prepared orders into the book; return the attempts of those that are not the first."""
        attempts = {}
        for intent in intents:
            attempt = self._attempts.get((intent.symbol, intent.purpose), 0)
            self.book.plan(intent, attempt)
            attempts[intent.client_order_id] = attempt
            self._touched.add(intent.symbol)
        return {key: attempt for key, attempt in attempts.items() if attempt}

    def journalled(self, key: int) -> None:
        """Note that the order is on its way into the journal, which writes whatever follows behind it."""
        self.book.apply(Journalled(key, self.now()))

    def sent(self, key: int) -> tuple[Step, ...]:
        """Note that the order leaves now; return the step, which is posted before it does."""
        return (self.book.apply(Sent(key, self.now())),)

    def withhold(self, key: int, reason: str) -> tuple[Step, ...]:
        """Note that the order does not leave; return the step. An exit is not decided again at every tick."""
        step = self.book.apply(Withheld(key, self.now(), reason))
        order = step.order
        if order is not None and order.intent.purpose is not Purpose.OPEN:
            self._pause(order.intent.symbol, self.rules.valid_ns)
        return (step,)

    def late(self, intent: OrderIntent) -> bool:
        """Whether an order is too old to be sent."""
        return 0 < intent.expires_ns <= self.now()

    def own(self, ticket: int) -> tuple[float, float]:
        """Return lots and stop of a position of ours as they are known; 0: none."""
        position, shown = self.book.positions.get(ticket), self._shown.get(ticket)
        lots = position.lots if position is not None else shown.lots if shown is not None else 0.0
        return lots, shown.stop if shown is not None else position.stop if position is not None else 0.0

    def protections(self) -> tuple[OrderIntent, ...]:
        """Return the orders that protect positions of ours without a stop, once each; they are still to be prepared."""
        wanted, self._protects = self._protects, ()
        made = []
        for one in wanted:
            before = self.book.order(self._protecting.get(one.position, 0))
            closes = before is not None and before.state is REJECTED
            retry = closes and before is not None and before.intent.purpose is Purpose.CLOSE
            waits = before is not None and not closes and self.now() < before.changed_ns + self._patience_with(before)
            if waits or (retry and self.now() < self._paused.get(one.symbol, 0)):
                continue
            intent = self._protection(one, Purpose.CLOSE if closes else Purpose.MODIFY)
            self._protecting[one.position] = intent.client_order_id
            self._tell("protect", one.symbol, f"position {one.position} has no stop: {intent.purpose}")
            made.append(intent)
        return tuple(made)

    def _patience_with(self, order: TrackedOrder) -> int:
        """Return how long (ns) an order that protects is waited for; one that never left has nothing to be seen of."""
        withheld = order.state is CANCELLED and not order.sent_ns
        return self.rules.valid_ns if withheld else self.rules.patience.quiet_ns

    def _protection(self, one: Protect, purpose: Purpose) -> OrderIntent:
        now, closing = self.now(), purpose is Purpose.CLOSE
        return OrderIntent(
            client_order_id=client_order_id(self.name, f"protect {one.position}", one.symbol, now, purpose),
            account=self.name, symbol=one.symbol, purpose=purpose, lots=-one.lots if closing else 0.0,
            stop=0.0 if closing else one.stop, target=0.0 if closing else one.target, decided_ns=now,
            expires_ns=now + self.rules.valid_ns, position=one.position, comment="protect",
        )  # fmt: skip

    # -- reports in ------------------------------------------------------------------------------------------------

    def receive(self, report: Report) -> None:
        """Take a report; it counts from the next :meth:`drain` on."""
        self._reports.append(report)
        self.wake()

    def drain(self) -> Movement:
        """Return what follows from the reports so far."""
        while self._reports:
            self._take(self._reports.popleft())
        now = self.now()
        for symbol in [symbol for symbol, until in self._paused.items() if until <= now]:
            del self._paused[symbol]
            self._touched.add(symbol)
        if not (self._dirty or self._touched or self._steps or self._news):
            return Movement()
        self._dirty = False
        steps, self._steps = tuple(self._steps), []
        movement = Movement(
            steps=steps, foreign=self._new_foreign(), foreign_ns=self._foreign_ns, adopted=self._adopted(),
            news=tuple(self._news),
        )  # fmt: skip
        self._news.clear()
        return movement

    def _take(self, report: Report) -> None:
        match report:
            case Seen():
                self._see(report)
            case Terms(symbol=symbol):
                if symbol in self._rows and self._terms.get(symbol, Terms(symbol, "")) != report:
                    kept = self._terms.get(symbol)
                    if kept is None or not kept.for_good:
                        self._terms[symbol] = report
                        self._touched.add(symbol)
                        self._tell("terms", symbol, report.problem or "may be entered again")
            case NotSent(key=key):
                order = self.book.order(key)
                if order is not None and order.held and order.state is UNKNOWN:
                    self._apply(report)
            case Answered():
                self._apply(report)

    def _see(self, seen: Seen) -> None:
        view, self._dirty = seen.view, True
        found = reconcile(self.book, view, self.rules.patience, self._doubts)
        self._doubts, protects = found.doubts, []
        for action in found.actions:
            match action:
                case Apply(event=event):
                    self._apply(event)
                case Protect():
                    protects.append(action)
                case Closed():
                    self._tell("closed", action.symbol, f"position {action.position} was closed: {action.reason}")
                case Halt():
                    self._halt(action.symbol, action.reason)
        self._protects = tuple(protects)
        if view.positions is not None:
            self._touched |= {shown.symbol for shown in (*self._shown.values(), *view.positions)}
            self._shown = {shown.ticket: shown for shown in view.positions}
        if found.foreign is not None:
            self._foreign, self._foreign_ns = found.foreign, view.time_ns
        self._see_account(seen)
        if view.complete:
            self._looked, self._known_ns = True, view.time_ns
        if view.time_ns >= self._forget_ns:
            self._forget_ns = view.time_ns + HOUR_NS
            self.book.forget(min(view.time_ns, history_since(self.book, view.time_ns)) - REMEMBERED_NS)

    def _see_account(self, seen: Seen) -> None:
        account = seen.account
        if account is not None:
            if account.currency != self.rules.currency:
                raise SettingsError(
                    f"the broker's account is in {account.currency}, FX_RISK_ACCOUNT_CURRENCY is {self.rules.currency}",
                    mend="set it to the account's currency",
                )
            self._account = account
        problem = seen.view.problem or seen.problem
        if account is not None and not account.trade_allowed:
            problem = problem or "the broker or its terminal lets no program trade"
        if account is not None and account.margin_used > max(account.equity, 0.0):
            problem = problem or f"margin call: equity is {account.equity / account.margin_used:.0%} of bound margin"
        if problem != self._blind:
            self._tell("broker", None, problem or "the broker answers")
        self._blind = problem

    def _apply(self, event: Event) -> None:
        before = self.book.positions.get(event.deal.position) if isinstance(event, Dealt) else None
        step = self.book.apply(event)
        self._steps.append(step)
        order = step.order
        symbol = event.deal.symbol if isinstance(event, Dealt) else order.intent.symbol if order is not None else ""
        self._touched.add(symbol)
        if step.verdict is Verdict.CONTRADICTION:
            self._halt(symbol, f"order {event.key}: {step.note}")
        if isinstance(event, Dealt) and step.verdict is not Verdict.REPEATED:
            self._count(event, before)
        for reached in step.transitions:
            if order is not None:
                self._reached(order, reached.state, event)

    def _reached(self, order: TrackedOrder, state: object, event: Event) -> None:
        symbol, purpose = order.intent.symbol, order.intent.purpose
        if state in (ACCEPTED, PARTIAL, FILLED):
            self._refusals.pop((symbol, purpose), None)
            self._attempts.pop((symbol, purpose), None)
            self._paused.pop(symbol, None)
        elif state is REJECTED:
            requoted = isinstance(event, Answered) and isinstance(event.answer, Requote)
            self._refused(order, requoted=requoted)
        elif state is UNKNOWN:
            self._tell("unknown", symbol, f"{purpose} order {order.key}: {order.message}")

    def _refused(self, order: TrackedOrder, *, requoted: bool) -> None:
        """Bound what follows a refusal: a new price may be tried at once for a few times, all else after a pause."""
        where = (order.intent.symbol, order.intent.purpose)
        count = self._refusals[where] = self._refusals.get(where, 0) + 1
        attempt = next_attempt(order, self.rules.patience.requotes_max) if requoted else None
        self._tell("refused", where[0], f"{where[1]} order {order.key}: {order.message}")
        if attempt is not None:
            self._attempts[where] = attempt
            return
        self._attempts.pop(where, None)
        quiet = self.rules.patience.quiet_ns
        self._pause(where[0], quiet if requoted else min(quiet, self.rules.valid_ns << min(count - 1, 16)))

    def _pause(self, symbol: str, length_ns: int) -> None:
        self._paused[symbol] = max(self._paused.get(symbol, 0), self.now() + length_ns)
        self._touched.add(symbol)

    def _count(self, event: Dealt, before: OwnPosition | None) -> None:
        """Let the decision step learn from what a deal closed, each deal once over all restarts."""
        deal = event.deal
        if not deal.closing or deal.ticket in self._counted:
            return
        self._counted.append(deal.ticket)
        known = before is not None and before.open
        share = min(1.0, abs(deal.lots / before.lots)) if before is not None and known else 0.0
        paid = before.commission * share if before is not None else 0.0
        risk = before.risk_money * share if before is not None else 0.0
        self._closed.append((deal.profit + deal.swap - deal.commission - paid, risk))

    def _halt(self, symbol: str, reason: str) -> None:
        if symbol not in self._halts:
            self._tell("halt", symbol or None, reason)
        self._halts[symbol] = reason
        self._touched |= {symbol} if symbol else self._rows.keys()

    def _tell(self, kind: str, symbol: str | None, message: str) -> None:
        self._news.append((kind, symbol or None, message))

    # -- what the core takes over ----------------------------------------------------------------------------------

    def _adopted(self) -> Adopted | None:
        """Return what of the account is news to the ledger; None: nothing is."""
        symbols = [symbol for symbol in sorted(self._touched) if symbol in self._rows]
        self._touched.clear()
        seen = tuple(one for one in map(self._adoption, symbols) if not self._stands(one))
        held = {}
        for symbol in symbols:
            if self._held_told.get(symbol) != (holds := bool(self.why_held(symbol))):
                self._held_told[symbol] = holds
                held[self._rows[symbol]] = holds
        closed, self._closed = tuple(self._closed), []
        balance = self._balance()
        if not (seen or held or closed) and balance == float(self.ledger.money[0]["balance"]):
            return None
        return Adopted(seen=seen, balance=balance, closed=closed, held=held)

    def _balance(self) -> float:
        """Return the account without our open positions: foreign ones are part of what it is worth."""
        if self._account is None:
            return float(self.ledger.money[0]["balance"])
        return self._account.balance + sum(shown.profit + shown.swap for shown in self._foreign)

    def _own(self, symbol: str) -> list[OwnPosition]:
        own = [position for position in self.book.open_positions() if position.symbol == symbol]
        return sorted(own, key=lambda position: position.ticket)

    def _adoption(self, symbol: str) -> Adoption:
        own = self._own(symbol)
        shown = [self._shown[position.ticket] for position in own if position.ticket in self._shown]
        lots = round(sum(position.lots for position in own), 8)
        first = own[0] if own else OwnPosition(0, symbol)
        stops = next(((one.stop, one.target) for one in shown if one.stop > 0.0), (first.stop, first.target))
        entry = sum(position.entry_price * position.lots for position in own) / lots if lots else 0.0
        return Adoption(
            row=self._rows[symbol], lots=lots, entry_price=entry, stop=stops[0] if lots else 0.0,
            target=stops[1] if lots else 0.0, pending=self._pending(symbol),
            foreign_lots=sum(one.lots for one in self._foreign if one.symbol == symbol), opened=first.opened_ns,
            key=first.key if lots else 0, ticket=first.ticket,
            swap=float(sum(one.swap for one in shown)) if lots else 0.0,
            commission=float(sum(one.commission for one in own)) if lots else 0.0,
            risk=float(sum(one.risk_money for one in own)) if lots else 0.0,
        )  # fmt: skip

    def _pending(self, symbol: str) -> bool:
        """Whether nothing new is sent for a symbol: an order is on its way or in doubt, or the last was refused.

        A stop that may or may not have been moved keeps nobody from leaving, once that is a person's to find out.
        """
        return symbol in self._paused or any(
            order.intent.symbol == symbol and not (order.held and order.moves_only) for order in self.book.open.values()
        )

    def _stands(self, one: Adoption) -> bool:
        position, held = self.ledger.positions[one.row], self.ledger.helds[one.row]
        there = (
            float(position["lots"]), float(position["entry_price"]), float(position["stop"]),
            float(position["target"]), bool(position["pending"]), float(position["foreign_lots"]),
        )  # fmt: skip
        if there != one[1:7]:
            return False
        mine = (int(held["opened"]), int(held["key"]), int(held["ticket"]))
        money = (float(held["swap"]), float(held["commission"]), float(held["risk"]))
        return mine == one[7:10] and money == one[10:]

    def _new_foreign(self) -> tuple[BrokerPosition, ...] | None:
        """Return the positions that are not ours where they are others than were told last."""
        what = tuple((one.ticket, one.lots, one.stop) for one in self._foreign)
        if what == self._foreign_told or not self._foreign_ns:
            return None
        if self._foreign_told is not None or what:
            self._tell("foreign", None, f"{len(what)} positions at the broker are not ours")
        self._foreign_told = what
        return self._foreign

    # -- what others ask -------------------------------------------------------------------------------------------

    def why_held(self, symbol: str) -> str:
        """Return why nothing may be opened in a symbol; empty: it may."""
        if symbol in self._halts:
            return self._halts[symbol]
        if "" in self._halts:
            return self._halts[""]
        terms = self._terms.get(symbol)
        if terms is not None and terms.problem:
            return terms.problem
        doubted = self.book.unresolved(symbol)
        return f"order {doubted[0].key}: {doubted[0].held or doubted[0].message}" if doubted else ""

    def held(self) -> dict[str, str]:
        """Return the symbols in which nothing may be opened, and why."""
        return {symbol: why for symbol in self._rows if (why := self.why_held(symbol))}

    def resume(self) -> None:
        """Act on a person's word that the account may trade again: what halted it must show itself anew."""
        for symbol in self._halts or ():
            self._touched |= {symbol} if symbol else self._rows.keys()
        self._halts.clear()

    @property
    def stated(self) -> bool:
        """Whether the broker has stated the account's money."""
        return self._account is not None

    @property
    def problem(self) -> str:
        """Why nothing may be opened at all now; empty: it may."""
        if not self._looked:
            return self._blind or "the broker has not shown everything yet"
        return self._blind

    def since_ns(self) -> int:
        """Return from when on (ns UTC) deals must be asked for."""
        now = self.now()
        since = history_since(self.book, now)
        return max(0, min(since, self._known_ns - DAY_NS) if self._known_ns else since)

    def counts(self) -> dict[str, int]:
        """Return how many orders are on their way, in doubt, and held for a person."""
        orders = self.book.open.values()
        held = sum(1 for order in orders if order.held)
        unknown = sum(1 for order in orders if order.state is UNKNOWN and not order.held)
        return {"orders_open": len(orders), "orders_unknown": unknown, "orders_held": held}

    def money(self) -> Account:
        """Return the account's money at the last quotes."""
        balance = self._account.balance if self._account is not None else float(self.ledger.money[0]["balance"])
        return Account(
            name=self.name, currency=self.rules.currency, balance=balance, equity=ledgers.equity(self.ledger),
            margin_used=ledgers.margin_used(self.ledger),
            leverage=self._account.leverage if self._account is not None else 1.0,
        )  # fmt: skip

    def positions(self) -> tuple[Position, ...]:
        """Return the open positions of ours, netted, by symbol."""
        rows = np.flatnonzero(self.ledger.positions["lots"] != 0).tolist()
        symbols = list(self._rows)
        return tuple(self._position(row, symbols[row]) for row in sorted(rows, key=symbols.__getitem__))

    def _position(self, row: int, symbol: str) -> Position:
        position, held = self.ledger.positions[row], self.ledger.helds[row]
        return Position(
            symbol=symbol, ticket=int(held["ticket"]), lots=float(position["lots"]),
            entry_price=float(position["entry_price"]), stop=float(position["stop"]), target=float(position["target"]),
            opened_ns=int(held["opened"]), client_order_id=int(held["key"]),
            profit=float(held["value"] - held["swap"]), swap=float(held["swap"]), margin=float(held["bound"]),
        )  # fmt: skip

    def open_rows(self) -> list[int]:
        """Return the symbols (rows) that have a position of ours and no order on its way."""
        positions = self.ledger.positions
        return [int(row) for row in np.flatnonzero((positions["lots"] != 0) & ~positions["pending"])]

    def record(self, time: int) -> AccountRecord:
        """Return the account as the journal keeps it."""
        return AccountRecord(time, self.money(), self.positions())

    # -- state -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[bytes, str]:
        """Return what a restart needs beside the journal's orders: the account, and conclusions as JSON text."""
        concluded = {
            "halts": self._halts, "counted": list(self._counted), "known_ns": self._known_ns,
            "attempts": [[symbol, str(purpose), n] for (symbol, purpose), n in self._attempts.items()],
        }  # fmt: skip
        facts = {"kind": FORMAT, "symbols": list(self._rows)}
        return snapshot.pack(self._arrays(), facts), json.dumps(concluded)

    def restore(self, account: bytes, orders: str) -> None:
        """Take up :meth:`snapshot`; positions and orders follow from journal and broker.

        Raises:
            DataError: it is none, or of another version.
        """
        facts, found = snapshot.unpack(account)
        if facts.get("kind") != FORMAT:
            raise DataError(
                f"the session is one of {facts.get('kind')!r}, not of a real broker",
                mend="begin anew: fx live --restart",
            )
        try:
            self._restore(facts, found, json.loads(orders))
        except DataError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"the account's state cannot be read: {type(error).__name__}: {error}",
                mend="begin anew: fx live --restart",
            ) from error

    def _restore(self, facts: Mapping[str, Any], found: Found, concluded: Mapping[str, Any]) -> None:
        known = list(facts["symbols"])
        rows = [(row, known.index(symbol)) for symbol, row in self._rows.items() if symbol in known]
        arrays = self._arrays()
        snapshot.fill(arrays if rows else {"money": arrays["money"]}, found, rows)
        self.ledger.money["events"] = 0
        ledgers.restore_open_rows(self.ledger)
        self._halts = {str(symbol): str(reason) for symbol, reason in concluded["halts"].items()}
        self._counted.extend(int(ticket) for ticket in concluded["counted"])
        self._known_ns = int(concluded["known_ns"])
        self._attempts = {(symbol, Purpose(purpose)): int(n) for symbol, purpose, n in concluded["attempts"]}

    def _arrays(self) -> dict[str, Rows]:
        return {"positions": self.ledger.positions, "helds": self.ledger.helds, "money": self.ledger.money}


def rules_of(
    *, quiet_s: float, hold_after_s: float, requotes_max: int, order_valid_s: float, currency: str
) -> DeskRules:
    """Return rules of settings in seconds.

    Raises:
        SettingsError: a number is impossible.
    """
    patience = Patience(int(quiet_s * SECOND_NS), int(hold_after_s * SECOND_NS), requotes_max)
    return DeskRules(patience, int(order_valid_s * SECOND_NS), currency)


def _another_key(key: int, ticket: int) -> int:
    """Return the key of the same decision for another position: 63 bits, never 0, the same in every process."""
    digest = hashlib.blake2b(f"{key}\x1f{ticket}".encode(), digest_size=8, person=b"fx-order").digest()
    return (int.from_bytes(digest, "big") & 0x7FFF_FFFF_FFFF_FFFF) or 1
