"""What must hold, looked at in every commit, every order, every decision, every second, and at the end."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from fx_dagster.decision.codes import Command, Level
from fx_dagster.decision.config import REGIME_POSITION_MAX
from fx_dagster.execution.orders import OrderIntent, Purpose
from fx_dagster.live.records import DecisionRecord, JournalEntry
from fx_dagster.market.timeframes import SECOND_NS
from resources.mt5.constants import Mt5Constants as Mt5

from .loop import NS
from .market import BEGIN

NEAR = 1e-6
SLACK = 1.05
"""Of limits on money: quotes move between a decision and its order."""
LOOK_S = 2.0
"""Of the world, between two looks at the account."""
UNPROTECTED_S_MAX, UNPROTECTED_LOOKS_MAX = 30.0, 32
"""Market time, and seconds of the world, in which the engine lives and the broker is there, that a position of ours may
lack its stop: it is seen, and the answers to two orders in a row are waited for in vain, doubted, or refusals."""
_EMERGENCIES = {"unhealthy", "quote_invalid", "stale", "account_invalid", "halted"}
_DEALT = (Mt5.DEAL_TYPE_BUY, Mt5.DEAL_TYPE_SELL)


class ViolationError(AssertionError):
    """Something that must never be."""


@dataclass
class _Climb:
    """A symbol's level, and when something worse than each level was last seen (market time)."""

    level: int = 0
    worse_ns: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)


class Watch:
    """Collects what happens, and what must not.

    Attributes:
        violations: in words; empty: all is well.
        logged: keys that are in a machine's log of exits.
        sent: keys that an engine has let go.
        recover_ns: how long health must last before a level rises.
        risk_max, margin_max: of the settings, shares of equity.
    """

    def __init__(self, now_ns: Any, *, recover_ns: int, risk_max: float, margin_max: float) -> None:
        self._now_ns = now_ns
        self.recover_ns, self.risk_max, self.margin_max = recover_ns, risk_max, margin_max
        self.violations: list[str] = []
        self.lines: list[str] = []
        self.logged: set[int] = set()
        self.sent: set[int] = set()
        self.requests: set[int] = set()
        self.opened = 0
        self.climbs: dict[str, _Climb] = {}
        self.unprotected = (UNPROTECTED_S_MAX, UNPROTECTED_LOOKS_MAX)
        self._bare: dict[int, float] = {}
        self.database: Any = None
        self.terminal: Any = None

    def note(self, text: str) -> None:
        """Keep a line of the record."""
        self.lines.append(f"{self._now_ns() / 1e9:.6f} {text}")

    def demand(self, holds: bool, text: str) -> None:
        """Note a violation where something does not hold."""
        if not holds:
            self.violations.append(f"{self._now_ns() / 1e9:.6f} {text}")
            self.note(f"VIOLATION {text}")

    @property
    def digest(self) -> str:
        """Return the record's SHA-256 (hex)."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    # -- the journal -----------------------------------------------------------------------------------------------

    def posted(self, entry: JournalEntry, epoch: int) -> None:
        """Look at what an engine hands to its journal."""
        for event in entry.events:
            self.note(f"engine {epoch}: {event.kind} {event.symbol or ''} {event.message}")

    def committing(self, database: Any, entry: JournalEntry, epoch: int) -> None:
        """Look at an entry that is being committed."""
        self.demand(epoch == database.epoch, f"engine {epoch} writes in the time of {database.epoch}")
        self.demand(epoch >= database.writer, f"engine {epoch} writes after {database.writer}")
        made = {row.client_order_id: row for row in entry.decisions if row.client_order_id}
        for row in entry.decisions:
            when = (row.time - BEGIN) / SECOND_NS
            why = ",".join(row.outcome["reasons"])
            self.note(f"  {row.number} {row.symbol} {row.kind} at {when:.3f}: level {row.level}, {row.action} ({why})")
            self._level(row)
        for intent in entry.intents:
            row = made.get(intent.client_order_id)
            if intent.purpose is Purpose.OPEN:
                self.demand(row is not None, f"order {intent.client_order_id} without its decision")
                self.demand(row is None or row.level < Level.EMERGENCY, "an entry at the emergency level")
        keys = ",".join(str(intent.client_order_id) for intent in entry.intents)
        self.note(f"commit {epoch} {len(entry.decisions)} decisions [{keys}] {len(entry.steps)} steps")

    def _level(self, row: DecisionRecord) -> None:
        """Down in the very decision that saw the fault; up only after health."""
        reasons, p_up = set(row.outcome["reasons"]), row.outcome["p_up"]
        climb = self.climbs.setdefault(row.symbol, _Climb())
        allowed = 1
        if any(one is None for one in p_up):
            allowed = 2
        if any(one is None for one in p_up[:2]):
            allowed = 3
        if reasons & _EMERGENCIES:
            allowed = 4
        if "market_closed" not in reasons:
            self.demand(row.level >= allowed, f"level {row.level} in a decision of {row.symbol} that saw {allowed}")
        # Ticks that come late are decided at their own time: there the health of before counts, not that of now.
        if climb.level and row.level < climb.level and row.time >= max(climb.worse_ns):
            since = climb.worse_ns[row.level]
            self.demand(
                row.time - since >= self.recover_ns,
                f"{row.symbol} rose from {climb.level} to {row.level} {(row.time - since) / 1e9:.3f} s after a fault",
            )
        climb.worse_ns = tuple(  # type: ignore[assignment]
            row.time if allowed > level else before for level, before in enumerate(climb.worse_ns)
        )
        climb.level = row.level

    # -- orders ----------------------------------------------------------------------------------------------------

    def sending(self, intent: OrderIntent, engine: Any, process: Any) -> None:
        """Look at an order that leaves an engine."""
        key = intent.client_order_id
        self.note(f"engine {intent.epoch} sends {intent.purpose} {key} {intent.symbol} {intent.lots:g}")
        self.demand(key not in self.sent, f"order {key} was sent twice")
        self.sent.add(key)
        durable = key in self.database.orders or key in self.logged
        self.demand(durable, f"order {key} ({intent.purpose}) was sent before it was durable")
        self.demand(not process.dead, "a dead engine sends")
        if intent.purpose is not Purpose.OPEN:
            return
        self.opened += 1
        self.demand(key not in self.logged, "an entry went by the log of exits")
        self._may_open(intent, engine)
        self._within_limits(intent)

    def _may_open(self, intent: OrderIntent, engine: Any) -> None:
        core, desk, journal = engine._core, engine._real.desk, engine._journal
        place = core.symbols.index(intent.symbol)
        database, now = self.database, self._now_ns()
        reachable_ns = max(database.switched_ns, database.away_until)
        words = {
            "a person had stopped the account a second before": database.switch.engaged and now > reachable_ns + NS,
            "the kill switch is known to be engaged": journal.kill_switch.engaged,
            f"the journal is known to be away ({journal.problem})": bool(journal.problem),
            f"the broker is known to be away ({engine._broker_problem})": bool(engine._broker_problem),
            "the account is halted": core.halted,
            "the symbol is at the emergency level": int(core.core.states[place]["level"]) == Level.EMERGENCY,
            f"{intent.symbol} is held ({desk.why_held(intent.symbol)})": bool(desk.why_held(intent.symbol)),
            "the engine is stopping": engine._stopping.is_set(),
            "a person allows no entries": journal.kill_switch.best_level >= Level.EMERGENCY,
        }
        for what, holds in words.items():
            self.demand(not holds, f"entry {intent.client_order_id} was sent although {what}")

    def _within_limits(self, intent: OrderIntent) -> None:
        server = self.terminal.server
        contract = server.contracts[intent.symbol]
        item, (bid, ask) = contract.instrument, server.quote(contract)
        lots, value = abs(intent.lots), server.valuation()
        steps = lots / item.lot_step
        self.demand(abs(steps - round(steps)) < NEAR, f"{lots} lots are off the grid")
        self.demand(item.lot_min - NEAR <= lots <= item.lot_max + NEAR, f"{lots} lots are outside the contract")
        price = ask if intent.lots > 0 else bid
        room = (price - intent.stop) * (1.0 if intent.lots > 0 else -1.0)
        self.demand(intent.stop > 0.0, "an entry without a stop")
        rate = self._rate(item.profit_currency)
        risk = intent.risk_money
        self.demand(risk <= self.risk_max * value.equity * SLACK, f"{risk:.2f} are at risk")
        at_stop = max(room, 0.0) * lots * item.contract_size * rate
        self.demand(at_stop <= 4 * self.risk_max * value.equity, f"{at_stop:.2f} would be lost at the stop")
        margin = lots * item.contract_size * price * rate / 30.0
        most = max(REGIME_POSITION_MAX) * value.equity * SLACK
        self.demand(margin <= most, f"a margin of {margin:.2f} is above the position's {most:.2f}")

    def _rate(self, currency: str) -> float:
        if currency == "USD":
            return 1.0
        bid, ask = self.terminal.server.quote(self.terminal.server.contracts[f"USD{currency}"])
        return 2.0 / (bid + ask)

    def requested(self, request: Any, terminal: Any) -> None:
        """Look at a request that reaches the terminal."""
        key = int(request.get("magic", 0))
        if not key:
            return
        self.note(f"terminal takes {key} {request['action']} {request.get('volume', 0.0):g}")
        self.demand(key not in self.requests, f"order {key} reached the terminal twice")
        self.requests.add(key)

    # -- decisions -------------------------------------------------------------------------------------------------

    def decided(self, engine: Any, process: Any) -> None:
        """Look at what the core was told when it worked through ticks just now."""
        process.require_alive()
        control, journal = engine._core.core.control[0], engine._journal
        known = bool(journal.problem or engine._broker_problem)
        self.demand(not (known and bool(control["healthy"])), "the core decides as if journal and broker were there")
        held = journal.kill_switch.engaged and int(control["command"]) == Command.RUN
        self.demand(not held, "the core decides as if nobody had stopped it")

    # -- every second ----------------------------------------------------------------------------------------------

    def ours(self) -> list[Any]:
        """Return the terminal's open positions that orders of ours opened."""
        return [one for one in self.terminal.server.positions.values() if one.magic in self.requests]

    def second(self, seconds: float, *, able: bool) -> None:
        """Look at the account as it is.

        Args:
            seconds: market time since the last look.
            able: whether an engine lives and the broker takes orders.
        """
        held = self.ours()
        symbols = [one.contract.name for one in held]
        self.demand(len(set(symbols)) == len(symbols), f"two positions of ours in one symbol: {symbols}")
        equity = self.terminal.server.valuation().equity
        margin = sum(self._margin(one) for one in held)
        self.demand(margin <= self.margin_max * equity * SLACK, f"margin {margin:.2f} of {equity:.2f}")
        bare = {one.ticket for one in held if not one.sl > 0.0}
        self._bare = {ticket: self._bare.get(ticket, 0.0) + (seconds if able else 0.0) for ticket in bare}
        for ticket, since in self._bare.items():
            most = self.unprotected[0] + self.unprotected[1] * seconds / LOOK_S
            self.demand(since <= most, f"position {ticket} has had no stop for {since:.1f} s")

    def _margin(self, one: Any) -> float:
        item, (bid, ask) = one.contract.instrument, self.terminal.server.quote(one.contract)
        unit = 1.0 if item.base_currency == "USD" else 0.5 * (bid + ask) * self._rate(item.profit_currency)
        return abs(one.lots) * item.contract_size * unit / 30.0

    # -- the end ---------------------------------------------------------------------------------------------------

    def finish(self, engine: Any) -> None:
        """Compare journal, engine and terminal to the last lot, after recovery and a quiet time."""
        database, server = self.database, self.terminal.server
        mine = set(database.orders)
        positions = {record.deal.position_id for record in server.deals if record.deal.magic in mine}
        made = {
            record.deal.ticket: record.deal
            for record in server.deals
            if record.deal.type in _DEALT and record.deal.position_id in positions
        }
        for ticket, deal in made.items():
            self.demand(ticket in database.deals, f"deal {ticket} of order {deal.magic} is lost")
        for ticket in database.deals:
            self.demand(ticket in made, f"deal {ticket} of the journal is none of ours at the terminal")
        self._compare_lots(made)
        self._compare_orders(made)
        self._compare_positions(engine)

    def _compare_lots(self, made: dict[int, Any]) -> None:
        for ticket, deal in made.items():
            kept = self.database.deals.get(ticket)
            lots = deal.volume * (1.0 if deal.type == Mt5.DEAL_TYPE_BUY else -1.0)
            same = kept is not None and math.isclose(kept[0].lots, lots, abs_tol=NEAR)
            self.demand(kept is None or same, f"deal {ticket} has other lots in the journal")
            ours = deal.reason == Mt5.DEAL_REASON_EXPERT and deal.magic in self.requests
            self.demand(kept is None or not ours or kept[1] == deal.magic, f"deal {ticket} is of another order")

    def _compare_orders(self, made: dict[int, Any]) -> None:
        filled: dict[int, float] = {}
        for deal in made.values():
            if deal.reason == Mt5.DEAL_REASON_EXPERT:
                filled[deal.magic] = filled.get(deal.magic, 0.0) + deal.volume
        book = self.database.book()
        for key in self.database.orders:
            order = book.order(key)
            if order is None or order.moves_only:
                continue
            self.demand(order.state.terminal, f"order {key} is {order.state} in the end ({order.message}{order.held})")
            mine = filled.get(key, 0.0)
            self.demand(
                math.isclose(order.filled_lots, mine, abs_tol=NEAR),
                f"order {key} has {order.filled_lots:g} lots here and {mine:g} at the terminal",
            )

    def _compare_positions(self, engine: Any) -> None:
        shown = {one.ticket: one.lots for one in self.ours()}
        for who, book in (("journal", self.database.book()), ("engine", engine._real.desk.book)):
            own = {one.ticket: one.lots for one in book.open_positions()}
            self.demand(own.keys() == shown.keys(), f"the {who} has positions {own}, the terminal {shown}")
            for ticket in own.keys() & shown.keys():
                same = math.isclose(own[ticket], shown[ticket], abs_tol=NEAR)
                self.demand(same, f"the {who} has {own[ticket]} lots of {ticket}, the terminal {shown[ticket]}")


def seconds(count: float) -> int:
    """Return seconds as ns."""
    return int(count * SECOND_NS)
