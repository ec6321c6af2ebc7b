"""The core's Python face: owns the arrays, calls the compiled loop, and says what it found."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fx_dagster import snapshot
from fx_dagster.core import loop
from fx_dagster.core.rows import NEVER, Event, Float64, Int64, Kind, Predictions, Ticks
from fx_dagster.core.state import Core, CoreSpec, new_core
from fx_dagster.core.warm_up import History, warm_up
from fx_dagster.decision.answers import ANSWER_EXTRAS
from fx_dagster.decision.codes import Action, Level, Stage
from fx_dagster.decision.record import DecisionExplanation, explain
from fx_dagster.decision.rows import CLASSICAL
from fx_dagster.decision.step import end_halt
from fx_dagster.errors import DataError, FeatureMismatchError
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.ledger import Adoption, Ledger, Order, restore_open_rows
from fx_dagster.features.catalogue import CHART_BARS
from fx_dagster.market.incremental import TickVerdict
from fx_dagster.market.timeframes import SECOND_NS
from fx_dagster.models.inputs import UNKNOWN_SYMBOL, Float32, ModelInputs

_SPEC_CONTROL = (
    "base_code", "base_ns", "stale_ns", "move_atr", "refresh_ns", "asks", "table", "places", "logs",
)  # fmt: skip
_SPEC_GATE = ("point", "spike_z")
"""What of a state is not remembered but set, by the :class:`CoreSpec`."""
_REJECTED = tuple(
    verdict for verdict in TickVerdict if verdict not in (TickVerdict.GOOD, TickVerdict.HELD, TickVerdict.CONFIRMED)
)


NOTHING_HELD: Mapping[int, bool] = MappingProxyType({})


@dataclass(frozen=True)
class Question:
    """What the models are asked.

    Attributes:
        rows: symbols, in the order of ``inputs``; those still warming up are left out.
        symbols: their names.
        inputs: what the models are told of them; which place a release has for a symbol is not known here.
        time: market time (ns UTC) of the decision that waits.
        kind: why it is made.
    """

    rows: Int64
    symbols: tuple[str, ...]
    inputs: ModelInputs
    time: int
    kind: Kind

    @property
    def features(self) -> Float32:
        """The rows' features, float32 ``[k, F]``."""
        return self.inputs.features


@dataclass(frozen=True)
class Act:
    """A decision that wants an order. Lots are signed; ``held_lots`` is the position as it is."""

    row: int
    symbol: str
    action: Action
    target_lots: float
    held_lots: float
    stop: float
    target: float
    risk_money: float
    time: int
    decided_ns: int
    """A quote of this moment or earlier does not fill it."""
    number: int
    """Of the acting decision, counted from 1 over the session."""


@dataclass(frozen=True)
class Logged:
    """A decision that is worth a record."""

    row: int
    number: int
    kind: Kind
    acts: bool
    time: int
    said: DecisionExplanation
    p_up: list[float | None]
    answer: list[float | None]
    """What the models had said of it, in the columns of :mod:`fx_dagster.models.answer`; None: absent."""


class TradingCore:
    """Ticks in, decisions out. Not thread-safe; one owner.

    Args:
        spec: what it is made for.
        ledger: the account.
        predictions: probabilities known beforehand, of a backtest; None: the models are asked, if the spec says so.
    """

    def __init__(self, spec: CoreSpec, ledger: Ledger, predictions: Predictions | None = None) -> None:
        self.spec = spec
        self.symbols = tuple(item.symbol for item in spec.instruments)
        self.timeframes = spec.catalogue.base.coarser()
        self.core: Core = new_core(spec, ledger, predictions)
        self._copy: dict[str, NDArray[Any]] = {}

    # -- market ----------------------------------------------------------------------------------------------------

    def warm_up(self, history: History, until: int) -> None:
        """Take in closed bars up to ``until`` (ns UTC, the end of a base bar), as if their ticks had been seen."""
        warm_up(self.core, self.spec.instruments, self.timeframes, history, until, self.spec.history_bars)

    def take(self, ticks: Ticks, first: int, last: int) -> tuple[int, Event]:
        """Work through ticks ``first`` … ``last - 1``; see :func:`fx_dagster.core.loop.take_ticks`."""
        done, event = loop.take_ticks(self.core, ticks, first, last)
        return done, Event(event)

    def reach(self, clock: int) -> Event:
        """Let the market's clock reach ``clock`` (ns UTC): every tick before it has been taken."""
        return Event(loop.take_clock(self.core, clock))

    @property
    def clock(self) -> tuple[int, int]:
        """Market time (ns UTC) reached, and how many ticks of exactly that time are taken."""
        control = self.core.control[0]
        return int(control["clock"]), int(control["clock_ticks"])

    @property
    def closed_until(self) -> int:
        """Market time (ns UTC) up to which base bars are closed."""
        return int(self.core.control[0]["closed_until"])

    # -- models ----------------------------------------------------------------------------------------------------

    def question(self) -> Question:
        """Return what the rows that wait ask the models; without rows where none is ready for it."""
        rows, symbols, inputs = self._shown(loop.question)
        control = self.core.control[0]
        return Question(rows, symbols, inputs, int(control["event_time"]), Kind(int(control["event_kind"])))

    def sample(self) -> tuple[tuple[str, ...], ModelInputs]:
        """Return the symbols that are ready for a question, and what the models would be told of their newest bars."""
        _, symbols, inputs = self._shown(loop.sample)
        return symbols, inputs

    def _shown(self, fill: Callable[..., int]) -> tuple[Int64, tuple[str, ...], ModelInputs]:
        n, catalogue = len(self.symbols), self.spec.catalogue
        rows, time = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
        features = np.empty((n, len(catalogue)), dtype=np.float32)
        sequence = np.empty((n, *catalogue.sequence_shape), dtype=np.float32)
        chart = np.empty((n, *catalogue.chart_shape), dtype=np.float32)
        count = fill(self.core, rows, features, sequence, chart, time)
        inputs = ModelInputs(
            features[:count], sequence[:count], chart[:count], time[:count], np.full(count, UNKNOWN_SYMBOL)
        )
        return rows[:count], tuple(self.symbols[row] for row in rows[:count].tolist()), inputs

    def answer(self, rows: Sequence[int] | Int64, values: Float64) -> None:
        """Give the rows that were asked about what the models say of them.

        Args:
            rows: symbols.
            values: float64 ``[k, m + 7]``, columns of :mod:`fx_dagster.models.answer`; NaN: absent.
        """
        # Copied: what may not be written to, or lies in another order, is another type to compiled code.
        said = np.array(values, dtype=np.float64, order="C")
        # Absent is one pattern of bits, so that what is read back from a tape is the same.
        said[np.isnan(said)] = np.nan
        loop.answer(self.core, np.array(rows, dtype=np.int64), said)

    @property
    def answer_columns(self) -> int:
        """Numbers that the models say of a row."""
        return int(self.core.inputs["p_up"].shape[1]) + ANSWER_EXTRAS

    def decide(self) -> Event:
        """Decide the rows that waited."""
        return Event(loop.decide_waiting(self.core))

    def decide_now(self, rows: Sequence[int] | Int64, time: int) -> Event:
        """Decide some symbols at ``time`` (ns UTC) because a person commands it."""
        self.core.rows[: len(rows)] = rows
        return Event(loop.decide_ordered(self.core, len(rows), time))

    def set_conditions(
        self, *, healthy: bool, command: int, drift: float = math.nan, best_level: int = Level.FULL_AI
    ) -> bool:
        """Say what holds for every symbol from the next decision on; return whether that is news.

        Args:
            healthy: whether broker and journal can be reached.
            command: what a person orders (:class:`fx_dagster.decision.codes.Command`).
            drift: of the features from those that the models learned on, 0 … 1; NaN: unknown.
            best_level: best fallback level that a person allows, 1 … 4, over that of the configuration.
        """
        control, told = self.core.control[0], self.core.inputs["drift"]
        config, healthy = self.core.config[0], healthy and best_level < Level.EMERGENCY
        level = max(int(self.spec.config.best_level), min(best_level, int(Level.TRADITIONAL)))
        before = (bool(control["healthy"]), int(control["command"]), int(config["best_level"]))
        control["healthy"], control["command"] = healthy, command
        if level != before[2]:
            config["best_level"] = level
            self.core.inputs["version"] += 1  # what was derived under the other ceiling no longer holds
        # Looked at in the rows themselves: a symbol that a restored session did not know has not been told yet.
        moved = not np.isnan(told).all() if math.isnan(drift) else bool((told != drift).any())
        if moved:
            told[:] = drift
        return moved or before != (healthy, command, level)

    @property
    def drift(self) -> float:
        """Drift of the features as the next decision takes it, 0 … 1; NaN: unknown."""
        return float(self.core.inputs[0]["drift"])

    def quotes(self) -> list[dict[str, Any]]:
        """Return the newest good quote of each symbol that had one: ``symbol, time_ns, bid, ask``."""
        gate = self.core.gate
        return [
            {
                "symbol": self.symbols[row], "time_ns": int(gate[row]["time"]), "bid": float(gate[row]["bid"]),
                "ask": float(gate[row]["ask"]),
            }
            for row in np.flatnonzero(gate["time"] > 0).tolist()
        ]  # fmt: skip

    def closed_bar(self, row: int) -> dict[str, Any]:
        """Return a symbol's newest closed base bar; right after it closed, before the next one does."""
        windows = self.core.windows[row]
        bar = windows["chart"][0, (int(windows["bars"][0]) - 1) % CHART_BARS].tolist()
        return {
            "symbol": self.symbols[row], "timeframe": str(self.spec.catalogue.base),
            "time_ns": int(self.core.watch[row]["bar_time"]),
            **dict(zip(("open", "high", "low", "close", "tick_volume"), bar, strict=True)),
        }  # fmt: skip

    def end_halt(self, equity: float) -> None:
        """End a drawdown halt, by a person's order: drawdown counts from ``equity`` on."""
        end_halt(self.core.memory[0], self.core.states, equity)

    # -- orders ----------------------------------------------------------------------------------------------------

    def acts(self) -> Iterator[Act]:
        """Yield the decisions that want an order, in the order in which they were made."""
        control, count = self.core.control[0], int(self.core.control[0]["acts"])
        decided = int(loop.decided_before(self.core)) if count else 0
        for place, row in enumerate(self.core.acts[:count].tolist()):
            out = self.core.out[row]
            yield Act(
                row=row,
                symbol=self.symbols[row],
                action=Action(int(out["action"])),
                target_lots=float(out["target_lots"]),
                held_lots=float(self.core.ledger.positions[row]["lots"]),
                stop=float(out["stop"]),
                target=float(out["target"]),
                risk_money=float(out["risk_money"]),
                time=int(self.core.account[0]["time"]),
                decided_ns=decided,
                number=int(control["acted"]) - count + place + 1,
            )

    def acts_done(self) -> None:
        """Say that the acts were dealt with."""
        self.core.control[0]["acts"] = 0

    def place_acts(self, rows: Sequence[int]) -> None:
        """Place the orders of some of the acts as they were decided; the others are left out."""
        for row in rows:
            loop.place_decided(self.core, row)
        self.acts_done()

    def adopt(
        self, seen: Sequence[Adoption], *, balance: float, closed: Sequence[tuple[float, float]] = (),
        held: Mapping[int, bool] = NOTHING_HELD,
    ) -> None:  # fmt: skip
        """Take over what a real broker says, between two ticks.

        Args:
            seen: symbols of which it says something new.
            balance: the account without our open positions, in its currency.
            closed: of each trade that it closed, money won or lost net of all costs, and money that was at risk.
            held: symbols (rows) whose entries are kept away from now on (True), or no longer are.
        """
        ledger = self.core.ledger
        for one in seen:
            ledgers.adopt(ledger, one)
        ledger.money["balance"] = balance
        for result, risk in closed:
            ledgers.settle_trade(ledger, result, risk)
        for row, holds in held.items():
            loop.hold_entries(self.core, row, holds)

    # -- what is written down --------------------------------------------------------------------------------------

    def drain_log(self) -> list[Logged]:
        """Return the decisions that are worth a record, in order, and forget them."""
        count = int(self.core.control[0]["logged"])
        self.core.control[0]["logged"] = 0
        return [self._logged(at) for at in range(count)]

    def _logged(self, at: int) -> Logged:
        log, stamp = self.core.log, self.core.log.stamp[at]
        row, inputs = int(stamp["row"]), log.inputs[at]
        said = explain(self.symbols[row], log.out[at], inputs, log.account[at], log.position[at])
        p_up = [p if math.isfinite(p) else None for p in inputs["p_up"].tolist()]
        answer = [value if math.isfinite(value) else None for value in answer_of(inputs)]
        kind, acts = Kind(int(stamp["kind"])), bool(stamp["acts"])
        return Logged(row, int(stamp["number"]), kind, acts, int(stamp["time"]), said, p_up, answer)

    def forget_log(self) -> None:
        """Leave out what was logged."""
        self.core.control[0]["logged"] = 0

    @property
    def digest(self) -> str:
        """Digest of every decision so far, bit for bit."""
        return f"{int(self.core.control[0]['digest']):016x}"

    @property
    def decisions(self) -> int:
        """Decisions so far."""
        return int(self.core.control[0]["decisions"])

    @property
    def halted(self) -> bool:
        """Whether the drawdown halted trading until a person resumes it."""
        return int(self.core.memory[0]["stage"]) == Stage.HALT

    def counts(self) -> dict[str, Any]:
        """Return what was taken in and decided so far, as JSON values."""
        control, taken = self.core.control[0], self.core.gate["counts"].sum(axis=0)
        rejected = {verdict.name.lower(): int(taken[verdict]) for verdict in _REJECTED if taken[verdict]}
        return {
            "decisions": int(control["decisions"]),
            **{f"level_{level}": int(control["levels"][level]) for level in range(1, 5)},
            "ticks": int(taken[TickVerdict.GOOD]),
            "ticks_rejected": rejected,
            "questions": int(control["asked"]),
            "material_moves": int(control["moves"]),
            "gaps": int(control["gaps"]),
        }

    def believable(self) -> NDArray[np.bool_]:
        """Return which symbols' quotes count, bool ``[n]``: neither in quarantine nor crossed for long."""
        counts = np.zeros(len(self.symbols), dtype=np.bool_)
        loop.mark_believable(self.core.gate, counts)
        return counts

    def silent(self, time: int) -> NDArray[np.bool_]:
        """Return which symbols are silent for too long at ``time`` (ns UTC) in an open market, bool ``[n]``."""
        silent = np.zeros(len(self.symbols), dtype=np.bool_)
        loop.mark_silent(self.core, time, silent)
        return silent

    # -- what is remembered ----------------------------------------------------------------------------------------

    def session_state(self) -> bytes:
        """Return what was decided and traded so far: small, part of every checkpoint."""
        return snapshot.pack(self._session_arrays(), self._facts())

    def market_copy(self) -> Callable[[], bytes]:
        """Return a function that packs what is known of the market now: bars, indicators, features of every symbol.

        It works on a copy, and may be called in another thread while the core goes on, until the next copy is made.
        """
        for name, array in self._market_arrays().items():
            if name not in self._copy:
                self._copy[name] = np.empty(array.shape, array.dtype)
            np.copyto(snapshot.as_bytes(self._copy[name]), snapshot.as_bytes(array))
        return partial(snapshot.pack, self._copy, self._facts())

    def whole(self) -> bytes:
        """Return both states as one, large and soon: ticks wait meanwhile."""
        arrays = self._market_arrays() | self._session_arrays() | self._ledger_arrays()
        return snapshot.pack(arrays, self._facts(), snapshot.FAST)

    def reached(self, data: bytes) -> tuple[int, int]:
        """Return market time (ns UTC), and ticks taken of exactly that time, of :meth:`session_state`.

        Raises:
            DataError: it is damaged.
            FeatureMismatchError: it is of other features.
        """
        facts, _ = self._checked(data)
        return int(facts["clock"]), int(facts["clock_ticks"])

    def restore_session(self, data: bytes) -> None:
        """Go on from :meth:`session_state`; symbols that it does not know start anew.

        Raises:
            DataError: it is damaged, or of another layout.
            FeatureMismatchError: it is of other features.
        """
        facts, found = self._checked(data)
        known = list(facts["symbols"])
        rows = [(here, known.index(name)) for here, name in enumerate(self.symbols) if name in known]
        self._fill(self._session_arrays() if rows else self._account_arrays(), found, rows)

    def restore_market(self, data: bytes, *, not_after: tuple[int, int]) -> tuple[int, int]:
        """Go on from :meth:`market_copy`; return market time (ns UTC) and ticks of exactly that time that it has seen.

        Args:
            data: the packed state.
            not_after: market time and ticks of it beyond which it is of no use.

        Raises:
            DataError: it is damaged, later, or of other symbols or another layout.
            FeatureMismatchError: it is of other features.
        """
        facts, found = self._checked(data)
        if tuple(facts["symbols"]) != self.symbols:
            raise DataError(f"a market state of {', '.join(facts['symbols'])}", mend="it is made again from history")
        reached = (int(facts["clock"]), int(facts["clock_ticks"]))
        if reached > not_after:
            raise DataError("a market state of a later moment than the checkpoint", mend="an older one is tried")
        self._fill(self._market_arrays(), found, None)
        return reached

    def restore_whole(self, data: bytes) -> None:
        """Go on from :meth:`whole`; errors as of :meth:`restore_market`."""
        self.restore_market(data, not_after=(NEVER, NEVER))
        self.restore_session(data)
        _, found = snapshot.unpack(data)
        snapshot.fill(self._ledger_arrays(), found)
        self.core.ledger.money["events"] = 0
        restore_open_rows(self.core.ledger)

    def follow(self, ticks: Ticks, first: int, last: int, clock: int) -> None:
        """See ticks again without deciding anything, up to ``clock`` (ns UTC)."""
        control = self.core.control[0]
        control["watches"] = True
        loop.take_ticks(self.core, ticks, first, last)
        loop.take_clock(self.core, clock)
        control["watches"] = False

    def rehearse(self) -> None:
        """Compile, or load, everything that a session runs, on a core of its own: no tick waits for it later."""
        twin = TradingCore(self.spec, _copied(self.core.ledger), None)
        twin.restore_market(self.market_copy()(), not_after=(NEVER, NEVER))
        twin.core.inputs[:] = self.core.inputs
        rehearse(twin)

    def _checked(self, data: bytes) -> tuple[dict[str, Any], snapshot.Found]:
        facts, found = snapshot.unpack(data)
        if facts.get("features") != self.spec.catalogue.hash:
            raise FeatureMismatchError(
                f"a state of other features ({str(facts.get('features'))[:8]}…, here {self.spec.catalogue.hash[:8]}…)",
                mend="leave it out: the state is then built again from history",
            )
        named = facts.get("symbols")
        if not isinstance(named, list) or not all(isinstance(symbol, str) for symbol in named):
            raise DataError("a state without symbols", mend="leave it out")
        for name in ("clock", "clock_ticks"):
            if type(facts.get(name)) is not int:
                raise DataError(f"a state without its {name}", mend="leave it out")
        return facts, found

    def _fill(self, arrays: snapshot.Arrays, found: snapshot.Found, rows: Sequence[tuple[int, int]] | None) -> None:
        """Take a state over, but for what follows from the spec, which may have changed since."""
        core = self.core
        control, gate, session = core.control.copy(), core.gate.copy(), core.watch["session"].copy()
        snapshot.fill(arrays, found, rows)
        for name in _SPEC_CONTROL:
            core.control[name] = control[name]
        for name in _SPEC_GATE:
            core.gate[name] = gate[name]
        core.watch["session"] = session
        forms = core.forming[:, 0]["count"] > 0
        core.control["next_close"] = core.forming[forms, 0]["end"].min(initial=NEVER)
        core.control["logged"] = 0

    def _facts(self) -> dict[str, Any]:
        clock, ticks = self.clock
        return {
            "symbols": self.symbols, "features": self.spec.catalogue.hash, "clock": clock, "clock_ticks": ticks,
        }  # fmt: skip

    def _session_arrays(self) -> dict[str, NDArray[Any]]:
        core = self.core
        return {**self._account_arrays(), "watch": core.watch, "inputs": core.inputs, "states": core.states}

    def _account_arrays(self) -> dict[str, NDArray[Any]]:
        core = self.core
        return {"control": core.control, "memory": core.memory, "account": core.account}

    def _ledger_arrays(self) -> dict[str, NDArray[Any]]:
        ledger = self.core.ledger
        return {"positions": ledger.positions, "helds": ledger.helds, "money": ledger.money}

    def _market_arrays(self) -> dict[str, NDArray[Any]]:
        core, cross = self.core, self.core.cross
        return {
            "control": core.control, "gate": core.gate, "forming": core.forming, "indicators": core.indicators,
            "features": core.features, "windows": core.windows, "cross_counter": cross.counter,
            "cross_symbols": cross.rows, "cross_returns": cross.returns, "cross_short": cross.pairs_short,
            "cross_long": cross.pairs_long, "cross_rows": core.cross_rows,
            "agreement": core.agreement, "shift": core.shift,
        }  # fmt: skip


def answer_of(inputs: np.void) -> list[float]:
    """Return what the models had said of a symbol, in the columns of :mod:`fx_dagster.models.answer`; NaN: absent."""
    regime = int(inputs["regime"])
    return [
        *inputs["p_up"].tolist(), float(inputs["confidence"]), float(regime) if regime else math.nan,
        float(inputs["votes"][CLASSICAL]), float(inputs["size"]), *inputs["timing"].tolist(),
    ]  # fmt: skip


def _copied(ledger: Ledger) -> Ledger:
    return Ledger._make(array.copy() for array in ledger)


def rehearse(core: TradingCore) -> None:
    """Run everything that a session may call once, with made ticks; the core is of no use afterwards.

    What compiled code calls anyway is called from here too, where a session does it: each way in is made ready alone.
    """
    clock, base_ns = core.clock[0] + SECOND_NS, core.spec.catalogue.base.nominal_ns
    price = np.nan_to_num(core.core.features["close"][:1], nan=1.0)
    price = np.where(price > 0, price, 1.0)
    time = np.array([clock, clock + base_ns])
    price = np.repeat(price, 2)
    ticks = Ticks(np.zeros(2, np.int32), time, price, price * 1.0001, np.ones(2), np.zeros(2, np.int32))
    rows = np.zeros(1, dtype=np.int64)
    for ticks_done in (0, 1):
        core.take(ticks, ticks_done, ticks_done + 1)
        core.question()
        core.answer(rows, np.full((1, core.answer_columns), 0.5))
        core.decide()
    core.sample()
    core.reach(clock + 2 * base_ns)
    core.decide_now(rows, clock + 2 * base_ns)
    loop.decided_before(core.core)
    loop.place_decided(core.core, 0)
    _rehearse_account(core.core.ledger)
    core.end_halt(1.0)
    if core.core.ledger.costs[0]["real"]:
        loop.hold_entries(core.core, 0, False)
    core.silent(clock)
    core.believable()
    list(core.acts())
    core.drain_log()


def _rehearse_account(ledger: Ledger) -> None:
    ledgers.place(ledger, 0, int(Order.CLOSE), 0.0, 0.0, 0.0, 0.0, 0, 0, 0)
    ledgers.modify(ledger, 0, 0.0, 0.0)
    ledgers.equity(ledger)
    ledgers.margin_used(ledger)
    if ledger.costs[0]["real"]:
        ledgers.adopt(ledger, Adoption(0, 1.0, 1.0, 0.0, 0.0, False, 0.0, 0, 0, 1, 0.0, 0.0, 0.0))
        ledgers.settle_trade(ledger, 0.0, 0.0)
