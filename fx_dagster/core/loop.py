"""The loop: tick by tick through gate, account, bars and decision, the same for live sessions and for replays.

The order in which things happen is part of the contract, since a replay must repeat it:

1. A tick at or after the end of the base bar that forms, or a clock past it, closes the bar of all symbols; those that
   had one are decided at that end, before the tick is looked at.
2. The gate believes the tick, or does not.
3. The account sees the quote: waiting orders are filled, stops and targets watched.
4. The tick joins its symbol's forming bar.
5. The symbol is decided; an order that follows is filled by a later quote.

Ticks are worked through in the order in which they are given, so that it does not matter how they were put into
batches. What every tick runs through takes records, which are pointers, or is copied into the loop: handing the whole
bundle of arrays to a function costs more than a quiet tick.
"""

import math

import numpy as np

from fx_dagster.compiled import compiled, inlined, uncounted
from fx_dagster.core.intake import close_due, compare_symbols, fill_inputs, inputs_of
from fx_dagster.core.rows import NEVER, Event, Kind, Ticks
from fx_dagster.core.state import Core
from fx_dagster.decision.answers import take_answer
from fx_dagster.decision.codes import Action
from fx_dagster.decision.step import Record, decide_rows
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.ledger import Order
from fx_dagster.market.calendar import server_time, trading_day_at, utc_of_server
from fx_dagster.market.incremental import TickVerdict, add_tick, believable, check_tick
from fx_dagster.market.schemas import TickFlag
from fx_dagster.market.timeframes import DAY_NS

_DONE, _ASK, _ACT, _FULL = int(Event.DONE), int(Event.ASK), int(Event.ACT), int(Event.FULL)
_TICK, _BAR, _MOVE = int(Kind.TICK), int(Kind.BAR), int(Kind.MOVE)
_RETRY, _COMMAND = int(Kind.RETRY), int(Kind.COMMAND)
_NONE, _OPEN, _CLOSE = int(Action.NONE), int(Action.OPEN), int(Action.CLOSE)
_NO_ORDER, _OPEN_ORDER, _CLOSE_ORDER = int(Order.NONE), int(Order.OPEN), int(Order.CLOSE)
_GOOD, _HELD, _CONFIRMED = int(TickVerdict.GOOD), int(TickVerdict.HELD), int(TickVerdict.CONFIRMED)
_MODELLED = int(TickFlag.MODELLED)
_FNV_PRIME = np.uint64(1_099_511_628_211)

# -- what is known of a symbol's market -------------------------------------------------------------------------------


@compiled
def see_hours(core: Core, i: int, time: int) -> None:
    """Note whether a symbol's market is open at ``time``, since when, and when that changes."""
    watch, edges = core.watch[i], core.hours.edges[core.watch[i].session]
    passed = np.searchsorted(edges, time, side="right")
    watch.is_open = passed % 2 == 1
    watch.opened = edges[passed - 1] if passed > 0 else 0
    watch.next_edge = edges[passed]


@uncounted
def silence_ns(control: Record, watch: Record, time: int) -> int:
    """Return for how long a symbol has been silent although its market was open."""
    if not watch.is_open:
        return 0
    return time - max(watch.last_time, max(watch.opened, control.since))


@compiled
def hold_entries(core: Core, i: int, held: bool) -> None:
    """Keep entries of a symbol away for good, or let them be again from the next bar on; exits go on."""
    watch, base = core.watch[i], core.forming[i, 0]
    if held:
        watch.hold_until = NEVER
    elif watch.hold_until == NEVER:
        watch.hold_until = base.end if base.count > 0 else 0


@uncounted
def mark_believable(gates: Record, out: np.ndarray) -> None:
    """Write which symbols' quotes count."""
    for i in range(gates.shape[0]):
        out[i] = believable(gates[i])


@uncounted
def mark_silent(core: Core, time: int, out: np.ndarray) -> None:
    """Write which symbols are silent for too long at ``time`` in an open market."""
    for i in range(core.watch.shape[0]):
        if time >= core.watch[i].next_edge:
            see_hours(core, i, time)
        out[i] = silence_ns(core.control[0], core.watch[i], time) > core.control[0].stale_ns


@uncounted
def _note_tick(control: Record, watch: Record, base: Record, time: int) -> None:
    """After a silence inside a session: no entries before the bar that forms now has closed."""
    if watch.last_time > 0 and silence_ns(control, watch, time) > control.stale_ns:
        watch.hold_until = max(watch.hold_until, base.end)
        control.gaps += 1
    watch.last_time = max(watch.last_time, time)


@uncounted
def _see_quote(control: Record, watch: Record, gate: Record, held: Record, rate: float, time: int, row: Record) -> None:
    """Write the newest quote and what it is worth into the decision's inputs."""
    row.bid = held.bid
    row.ask = held.ask
    row.conversion = rate
    row.market_open = watch.is_open
    row.fresh = believable(gate) and silence_ns(control, watch, time) <= control.stale_ns
    row.tradable = watch.is_open and time >= watch.hold_until


@inlined
def see_quote(core: Core, i: int, time: int) -> None:
    """Write a symbol's newest quote, and what its market is like at ``time``, into the decision's inputs."""
    if time >= core.watch[i].next_edge:
        see_hours(core, i, time)
    _see_quote(
        core.control[0], core.watch[i], core.gate[i], core.ledger.helds[i], ledgers.conversion(core.ledger, i), time,
        core.inputs[i],
    )  # fmt: skip


@uncounted
def _reason_to_ask(control: Record, watch: Record, row: Record, time: int) -> int:
    """Return why the models are to be asked at a tick: the price moved far, or they did not answer; else ``TICK``."""
    if time - watch.asked_at < control.refresh_ns:
        return _TICK
    for k in range(row.p_up.shape[0]):
        if math.isnan(row.p_up[k]):
            return _RETRY
    if abs(0.5 * (row.bid + row.ask) - watch.asked_mid) > control.move_atr * row.atr:
        return _MOVE
    return _TICK


# -- decisions --------------------------------------------------------------------------------------------------------


@uncounted
def _see_day(control: Record, time: int) -> None:
    control.trading_day = trading_day_at(time)
    control.day_begins = utc_of_server(server_time(time) // DAY_NS * DAY_NS)
    control.day_ends = utc_of_server((server_time(time) // DAY_NS + 1) * DAY_NS)


@inlined
def _see_account(core: Core, time: int) -> None:
    account, control = core.account[0], core.control[0]
    if not control.day_begins <= time < control.day_ends:
        _see_day(control, time)
    account.time = time
    account.trading_day = control.trading_day
    account.balance = core.ledger.money[0].balance
    account.equity = ledgers.equity(core.ledger)
    account.margin_used = ledgers.margin_used(core.ledger)
    account.commission_rate = ledgers.commission_rate(core.ledger)
    account.healthy = control.healthy
    account.command = control.command


@uncounted
def _write(core: Core, i: int, kind: int) -> None:
    """Copy a decision and what explains it into the log."""
    control, log = core.control[0], core.log
    at = control.logged
    stamp = log.stamp[at]
    stamp.number = control.decisions
    stamp.time = core.account[0].time
    stamp.kind = kind
    stamp.row = i
    stamp.acts = core.out[i].action != _NONE
    log.out[at] = core.out[i]
    log.inputs[at] = core.inputs[i]
    log.account[at] = core.account[0]
    log.position[at] = core.ledger.positions[i]
    control.logged = at + 1


@inlined
def _note(core: Core, i: int, kind: int) -> None:
    """Count a decision and add its bits to the digest; keep it where it acts, answers, or changes level or breakers."""
    control, watch, out = core.control[0], core.watch[i], core.out[i]
    control.decisions += 1
    control.levels[out.level] += 1
    digest = control.digest
    for k in range(core.out_words.shape[1]):
        digest = (digest ^ core.out_words[i, k]) * _FNV_PRIME
    control.digest = digest
    acts = out.action != _NONE
    if acts:
        control.acted += 1
        core.acts[control.acts] = i
        control.acts += 1
    changed = out.level != watch.level or out.breakers != watch.breakers
    if control.logs and (acts or changed or kind in (_BAR, _MOVE)):
        _write(core, i, kind)
    watch.level = out.level
    watch.breakers = out.breakers


@inlined
def _decide(core: Core, count: int, time: int, kind: int) -> None:
    """Decide the first ``count`` symbols of ``core.rows`` at ``time``; list those with an order in ``core.acts``."""
    core.control[0].acts = 0
    core.control[0].act_kind = kind
    _see_account(core, time)
    decide_rows(
        core.config, core.table, core.inputs, core.account, core.ledger.positions, core.states, core.memory, core.out,
        core.rows[:count], core.ledger.money[0].open_count, core.cross.returns,
    )  # fmt: skip
    for k in range(count):
        _note(core, core.rows[k], kind)


@uncounted
def decide_waiting(core: Core) -> int:
    """Decide the rows that waited for the models; return whether orders follow."""
    control = core.control[0]
    count = control.event_rows
    control.event_rows = 0
    _decide(core, count, control.event_time, control.event_kind)
    return _act(core)


@uncounted
def decide_ordered(core: Core, count: int, time: int) -> int:
    """Decide the first ``count`` symbols of ``core.rows``, as a person commands; return whether orders follow."""
    for k in range(count):
        see_quote(core, core.rows[k], time)
    _decide(core, count, time, _COMMAND)
    return _act(core)


@uncounted
def _act(core: Core) -> int:
    """Place what was decided, in a replay; else hand it over."""
    control = core.control[0]
    if control.acts == 0:
        return _DONE
    if not control.places:
        return _ACT
    for k in range(control.acts):
        place_decided(core, core.acts[k])
    control.acts = 0
    return _DONE


@uncounted
def decided_before(core: Core) -> int:
    """Return the moment (ns UTC) whose quotes, and earlier ones, do not fill an order of the newest decisions.

    A bar is decided at its end, on quotes before it; any other decision on the quote of its own moment.
    """
    return core.account[0].time - (1 if core.control[0].act_kind == _BAR else 0)


@uncounted
def _number(control: Record, acts: np.ndarray, i: int) -> int:
    """Return which acting decision of the session a symbol's newest one is, counted from 1."""
    number = control.acted
    for k in range(control.acts):
        if acts[k] == i:
            number -= control.acts - 1 - k
    return number


@uncounted
def place_decided(core: Core, i: int) -> int:
    """Place the order that the act of a symbol in ``core.acts`` wants; return the ledger's code.

    On a real broker's account the order is on its way from here on, and nothing else is known of it.
    """
    control, out, ledger = core.control[0], core.out[i], core.ledger
    if ledger.costs[0].real:
        ledger.positions[i].pending = True
        return ledgers.PLACED
    decided, held, number = decided_before(core), core.ledger.positions[i].lots, _number(control, core.acts, i)
    if out.action == _OPEN:
        expires = core.account[0].time + control.base_ns
        return ledgers.place(
            ledger, i, _OPEN_ORDER, out.target_lots - held, out.stop, out.target, out.risk_money, decided, expires,
            number,
        )  # fmt: skip
    if out.action == _CLOSE:
        return ledgers.place(ledger, i, _CLOSE_ORDER, -held, 0.0, 0.0, 0.0, decided, 0, number)
    return ledgers.modify(ledger, i, out.stop, out.target)


@compiled
def unanswered(core: Core, time: int, out: np.ndarray) -> int:
    """List the symbols that wait for an answer, or lack one and may ask again at ``time``; return how many."""
    control = core.control[0]
    count = control.event_rows
    out[:count] = core.rows[:count]
    if control.event_kind == _RETRY:
        for i in range(core.inputs.shape[0]):
            asks = core.windows[i].ready and _reason_to_ask(control, core.watch[i], core.inputs[i], time) == _RETRY
            if asks and i != core.rows[0]:
                out[count] = i
                count += 1
    return count


@compiled
def question(
    core: Core, rows: np.ndarray, features: np.ndarray, sequence: np.ndarray, chart: np.ndarray, time: np.ndarray
) -> int:
    """List the symbols that the models are asked about, with what they are told of them; return how many.

    Symbols that are still warming up, or of which something is not finite, are left out.

    Args:
        core: a question of it is open.
        rows: int64 ``[n]``, filled.
        features: float32 ``[n, F]``, filled.
        sequence: float32 ``[n, L, C]``, filled.
        chart: float32 ``[n, T, 5, W]``, filled.
        time: int64 ns UTC ``[n]``, filled: opening of the newest bar that is shown.
    """
    control = core.control[0]
    forming = control.event_kind == _MOVE
    count, kept = unanswered(core, control.event_time, rows), 0
    for k in range(count):
        i = rows[k]
        if not core.windows[i].ready:
            continue
        rows[kept] = i
        time[kept] = core.forming[i, 0].time if forming else core.watch[i].bar_time
        kept += inputs_of(core, i, forming, features[kept : kept + 1], sequence[kept], chart[kept])
    return kept


@compiled
def sample(
    core: Core, rows: np.ndarray, features: np.ndarray, sequence: np.ndarray, chart: np.ndarray, time: np.ndarray
) -> int:
    """List the symbols whose newest closed bars can be shown to the models, as :func:`question` does."""
    kept = 0
    for i in range(core.features.shape[0]):
        if core.windows[i].ready:
            rows[kept] = i
            time[kept] = core.watch[i].bar_time
            kept += inputs_of(core, i, False, features[kept : kept + 1], sequence[kept], chart[kept])
    return kept


@compiled
def answer(core: Core, rows: np.ndarray, values: np.ndarray) -> None:
    """Give symbols what the models say, ``[k, m + extras]`` (:mod:`fx_dagster.models.answer`); NaN: absent."""
    time = core.control[0].event_time
    for k in range(rows.shape[0]):
        row, watch = core.inputs[rows[k]], core.watch[rows[k]]
        take_answer(row, values[k])
        watch.asked_at = time
        watch.asked_mid = 0.5 * (row.bid + row.ask)


# -- bars -------------------------------------------------------------------------------------------------------------


@compiled
def _answer_from_table(core: Core, count: int) -> None:
    """Give the rows whose bar has closed the answers that are known for that bar."""
    known = core.predictions
    for k in range(count):
        i = core.rows[k]
        at, bar_time = known.cursor[i], core.inputs[i].bar_time
        while known.time[i, at] < bar_time:
            at += 1
        known.cursor[i] = at
        if known.time[i, at] == bar_time:
            take_answer(core.inputs[i], known.values[i, at])


@uncounted
def _close(core: Core, until: int) -> int:
    """Close the bars that end at ``until`` and see to the decisions about them; return what is to be done."""
    control = core.control[0]
    count = close_due(core, until)
    if until > control.clock:
        # Every tick before the end is in; a checkpoint of this moment says so.
        control.clock = until
        control.clock_ticks = 0
    if count == 0:
        return _DONE
    compare_symbols(core, count)
    ready = False
    for k in range(count):
        i = core.rows[k]
        fill_inputs(core, i)
        see_quote(core, i, until)
        ready = ready or core.windows[i].ready
    if control.watches:
        return _DONE
    if control.table:
        _answer_from_table(core, count)
    return _wait_or_decide(core, count, until, _BAR, ready)


@uncounted
def _wait_or_decide(core: Core, count: int, time: int, kind: int, ready: bool) -> int:
    """Have the rows wait for the models, or decide them at once where none are asked."""
    control = core.control[0]
    control.event_time = time
    control.event_kind = kind
    control.event_rows = count
    if control.asks and ready:
        control.asked += 1
        control.moves += kind == _MOVE
        return _ASK
    return decide_waiting(core)


# -- ticks ------------------------------------------------------------------------------------------------------------


@inlined
def _admit(core: Core, i: int, time: int, bid: float, ask: float, volume: float, flags: int, quoted: bool) -> None:
    """Show a good tick to the account and to the forming bar."""
    control, base = core.control[0], core.forming[i, 0]
    if not (quoted or control.watches):
        # Modelled ticks move without gaps inside a bar; its first one may come after a gap.
        continuous = (flags & _MODELLED) != 0 and base.count > 0
        ledgers.quote(core.ledger, i, time, bid, ask, continuous)
    add_tick(base, control.base_code, time, bid, ask, volume, flags)
    control.next_close = min(control.next_close, base.end)


@uncounted
def _admit_held(core: Core, i: int) -> None:
    """Admit a tick that was kept aside; the account has seen it already if it had a position to protect."""
    gate = core.gate[i]
    quoted = core.ledger.positions[i].lots != 0.0
    _admit(core, i, gate.held_time, gate.held_bid, gate.held_ask, gate.held_volume, gate.held_flags, quoted)


@uncounted
def _touch(core: Core, i: int, time: int, bid: float, ask: float) -> None:
    """Show a position a tick that is kept aside: a stop that it touches is touched, and that is all.

    No waiting order is filled at it, and afterwards the newest good quote counts again.
    """
    gate, held = core.gate[i], core.ledger.helds[i]
    order = held.order
    held.order = _NO_ORDER
    ledgers.quote(core.ledger, i, time, bid, ask, False)
    ledgers.quote(core.ledger, i, time, gate.bid, gate.ask, False)
    held.order = order


@inlined
def _take(core: Core, ticks: Ticks, k: int) -> int:
    """Work through one tick; return what is to be done before the next one."""
    control, i, time = core.control[0], ticks.symbol[k], ticks.time[k]
    bid, ask, watch = ticks.bid[k], ticks.ask[k], core.watch[i]
    verdict = check_tick(core.gate[i], time, bid, ask, ticks.volume[k], ticks.flags[k], control.closed_until)
    event = _DONE
    if verdict in (_GOOD, _CONFIRMED):
        if verdict == _CONFIRMED:
            _admit_held(core, i)
        _admit(core, i, time, bid, ask, ticks.volume[k], ticks.flags[k], False)
        if time >= watch.next_edge:
            see_hours(core, i, time)
        _note_tick(control, watch, core.forming[i, 0], time)
        if not control.watches:
            see_quote(core, i, time)
            reason = _TICK
            if control.asks and core.windows[i].ready:
                reason = _reason_to_ask(control, watch, core.inputs[i], time)
            core.rows[0] = i
            if reason != _TICK:
                event = _wait_or_decide(core, 1, time, reason, True)
            else:
                _decide(core, 1, time, _TICK)
                if control.acts > 0:
                    event = _act(core)
    elif verdict == _HELD and core.ledger.positions[i].lots != 0.0 and not control.watches:
        _touch(core, i, time, bid, ask)
    return event


@uncounted
def take_ticks(core: Core, ticks: Ticks, first: int, last: int) -> tuple[int, int]:
    """Work through ticks ``first`` … ``last - 1``.

    Returns:
        The first tick that is not worked through, and the :class:`Event` that the caller has to deal with before it
        goes on there: ``DONE`` only with ``last``.
    """
    control = core.control[0]
    room = core.log.stamp.shape[0] - core.table.shape[0] - 1
    for k in range(first, last):
        time = ticks.time[k]
        if control.logged > room or ledgers.is_full(core.ledger):
            return k, _FULL
        while time >= control.next_close:
            event = _close(core, control.next_close)
            if event != _DONE:
                return k, event
        if time > control.clock:
            control.clock = time
            control.clock_ticks = 0
        if time == control.clock:
            control.clock_ticks += 1
        event = _take(core, ticks, k)
        if event != _DONE:
            return k + 1, event
    return last, _DONE


@uncounted
def take_clock(core: Core, clock: int) -> int:
    """Let the market's clock reach ``clock``: every tick before it has been worked through."""
    control = core.control[0]
    room = core.log.stamp.shape[0] - core.table.shape[0] - 1
    while clock >= control.next_close:
        if control.logged > room:
            return _FULL
        event = _close(core, control.next_close)
        if event != _DONE:
            return event
    if clock > control.clock:
        control.clock = clock
        control.clock_ticks = 0
    return _DONE
