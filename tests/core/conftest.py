"""A core at work: made ticks, models that answer by a rule, orders that are placed as they are decided."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from fx_dagster.core.rows import Event, Float64, Ticks
from fx_dagster.core.state import CoreSpec
from fx_dagster.core.trading import Logged, Question, TradingCore
from fx_dagster.core.warm_up import History
from fx_dagster.decision.codes import Level
from fx_dagster.decision.config import StepConfig, step_config
from fx_dagster.decision.rows import CLASSICAL, MEMORY
from fx_dagster.execution.ledger import Ledger, new_ledger
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.market.bars import build_timeframes
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import DAY_NS, SECOND_NS, Timeframe, bar_close
from fx_dagster.settings import CostSettings, RiskSettings
from resources.market.sample import SampleSource
from resources.market.simulator import SimulatorSource

Frames = dict[Timeframe, pd.DataFrame]
Models = Callable[["Work", Question], Float64]

MADE_FROM = int(pd.Timestamp("2024-02-26").as_unit("ns").value)
MADE_UNTIL = int(pd.Timestamp("2024-03-19 10:00").as_unit("ns").value)
"""Three weeks, with the change of the clock in New York and before that in London; a Tuesday morning at the end."""


class Tick(NamedTuple):
    """A tick of the symbol in a row."""

    row: int
    time: int
    bid: float
    ask: float
    volume: float = 1.0
    flags: int = 0


def ticks_of(ticks: Iterable[Tick]) -> Ticks:
    """Return ticks as the core takes them."""
    rows = list(ticks)
    kinds = (np.int32, np.int64, np.float64, np.float64, np.float64, np.int32)
    columns = zip(*rows, strict=True) if rows else ((),) * len(kinds)
    return Ticks(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


def whole(core: TradingCore, said: Float64) -> Float64:
    """Return an answer in all its columns: models that are not spoken for say the mean, the rest is absent."""
    if said.shape[1] == core.answer_columns:
        return said
    models = core.core.inputs["p_up"].shape[1]
    values = np.full((len(said), core.answer_columns), np.nan)
    values[:, :models] = said.mean(axis=1, keepdims=True)
    values[:, : said.shape[1]] = said
    return values


def logistic(work: "Work", question: Question) -> Float64:
    """Answer by the features alone."""
    score = np.tanh(np.nan_to_num(question.features.astype(np.float64)).mean(axis=1) * 3)
    return np.column_stack([0.5 + 0.45 * score, 0.5 + 0.4 * score])


def eager(work: "Work", question: Question) -> Float64:
    """Agree with the votes, loudly: whatever the decision asks for, it gets."""
    up = work.core.core.inputs["votes"][question.rows, :CLASSICAL].sum(axis=1) >= 0
    return np.repeat(np.where(up, 0.9, 0.1)[:, None], 2, axis=1)


def silent(work: "Work", question: Question) -> Float64:
    """Give no answer."""
    return np.full((len(question.rows), 2), np.nan)


@dataclass(repr=False)
class Work:
    """A core, whoever answers its questions, and what it has said so far."""

    core: TradingCore
    models: Models = logistic
    keeps_log: bool = True
    questions: list[Question] = field(default_factory=list)
    digests: list[tuple[int, str]] = field(default_factory=list)
    """Before each question: its time, and the digest of all decisions before it."""
    logged: list[Logged] = field(default_factory=list)
    booked: list[np.void] = field(default_factory=list)
    """Events of the ledger."""
    full: int = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__} after {self.core.decisions} decisions"

    def take(self, ticks: Ticks | Iterable[Tick], first: int = 0, last: int | None = None) -> None:
        """Work through some ticks; do what the core asks for where it stops."""
        ticks = ticks if isinstance(ticks, Ticks) else ticks_of(ticks)
        last = len(ticks.time) if last is None else last
        done, event = first, Event.FULL
        while event is not Event.DONE:
            done, event = self.core.take(ticks, done, last)
            self.attend(event)
        assert done == last

    def reach(self, clock: int) -> None:
        """Let the clock get somewhere."""
        event = Event.FULL
        while event is not Event.DONE:
            event = self.core.reach(clock)
            self.attend(event)

    def attend(self, event: Event) -> None:
        """Answer, place and write down."""
        if event is Event.ASK:
            question = self.core.question()
            self.questions.append(question)
            self.digests.append((question.time, self.core.digest))
            self.core.answer(question.rows, whole(self.core, self.models(self, question)))
            event = self.core.decide()
        if event is Event.ACT:
            self.core.place_acts([act.row for act in self.core.acts()])
        self.full += event is Event.FULL
        self.write_down()

    def write_down(self) -> None:
        """Take the log and the ledger's events over."""
        money = self.core.core.ledger.money[0]
        self.booked += list(self.core.core.ledger.events[: money["events"]].copy())
        money["events"] = 0
        if self.keeps_log:
            self.logged += self.core.drain_log()
        else:
            self.core.forget_log()

    @property
    def clock(self) -> int:
        """Market time."""
        return self.core.clock[0]

    def quote(self, row: int = 0) -> tuple[float, float]:
        """Return where a symbol's newest bar closed, and an ask above it by its usual spread."""
        feature = self.core.core.features[row]
        return float(feature["close"]), float(feature["close"] + max(feature["spread_median"], self.point(row)))

    def point(self, row: int = 0) -> float:
        """Return the price of a point."""
        return self.core.spec.instruments[row].point

    def calm(self, seconds: int, *, rows: Sequence[int] = (0,), every: int = 1, after: int = 0) -> list[Tick]:
        """Return quiet ticks around the last close: a point up, a point down, from ``after`` seconds past the clock."""
        return [
            Tick(row, self.clock + second * SECOND_NS, bid + step * self.point(row), ask + step * self.point(row))
            for second in range(after + 1, after + seconds + 1, every)
            for row, (bid, ask), step in ((row, self.quote(row), second // every % 2) for row in rows)
        ]

    def out(self, row: int = 0) -> np.void:
        """Return a symbol's newest decision."""
        return self.core.core.out[row]

    def inputs(self, row: int = 0) -> np.void:
        """Return what it was made from."""
        return self.core.core.inputs[row]

    def lots(self, row: int = 0) -> float:
        """Return a symbol's position."""
        return float(self.core.core.ledger.positions["lots"][row])

    def traces(self) -> dict[str, Any]:
        """Return everything that must not depend on batches and restarts."""
        core = self.core
        return {
            "digest": core.digest,
            "decisions": core.counts(),
            "equity": core.core.ledger.money[["balance", "turnover", "commission", "swap", "refused"]].tobytes(),
            "positions": core.core.ledger.positions.tobytes(),
            "bars": core.core.forming.tobytes(),
            "features": core.core.features["values"].tobytes(),
            "inputs": core.core.inputs.tobytes(),
        }


def plain(array: NDArray[Any]) -> dict[str, bytes]:
    """Return an array's bytes by field, without those between the fields, which mean nothing."""
    if array.dtype.names is None:
        return {"": array.tobytes()}
    return {f"{name}.{inner}": data for name in array.dtype.names for inner, data in plain(array[name]).items()}


def remembered(core: TradingCore) -> dict[str, dict[str, bytes]]:
    """Return all that a core knows."""
    arrays = core._market_arrays() | core._session_arrays() | core._ledger_arrays()
    return {name: plain(array) for name, array in arrays.items()}


def new_work(spec: CoreSpec, models: Models = logistic, *, events: int = 512, keeps_log: bool = True) -> Work:
    """Return a core with an account of its own, before its first tick."""
    ledger = new_ledger(
        spec.instruments, CostSettings(), memory=np.zeros(1, dtype=MEMORY), balance=10_000.0, leverage=30.0,
        account_currency="USD", events=events,
    )  # fmt: skip
    return Work(TradingCore(spec, ledger), models, keeps_log)


def copy_ledger(source: Ledger, target: Ledger) -> None:
    """Make an account the other's equal."""
    for there, here in zip(source, target, strict=True):
        here[...] = there


@pytest.fixture(scope="session")
def config_of() -> Callable[..., StepConfig]:
    """Make a configuration of two simple models: ``config_of(base, changes, **risk)``."""

    def make(base: Timeframe = Timeframe.H1, changes: dict[str, Any] | None = None, **risk: Any) -> StepConfig:
        made = step_config(
            RiskSettings(**risk), CostSettings(), paper=True, timeframe=base, best_level=Level.SIMPLE_AI,
            deep_models=0, meta=False,
        )  # fmt: skip
        return made._replace(**(changes or {}))

    return make


@pytest.fixture(scope="session")
def spec_of(config_of: Callable[..., StepConfig]) -> Callable[..., CoreSpec]:
    """Make a spec: ``spec_of(*symbols, base=, start=, risk={}, **fields of CoreSpec)``."""

    def make(
        *symbols: str, base: Timeframe = Timeframe.M5, start: int = MADE_FROM, risk: dict[str, Any] | None = None,
        changes: dict[str, Any] | None = None, **fields: Any,
    ) -> CoreSpec:  # fmt: skip
        names = symbols or ("EURUSD",)
        return CoreSpec(
            instruments=tuple(instrument(name) for name in names),
            catalogue=feature_catalogue(base, cross_symbol=len(names) > 1),
            config=config_of(base, changes, **(risk or {})),
            start=start,
            **fields,
        )

    return make


class Market(NamedTuple):
    """What a source has of some symbols: their ticks as one tape, and all their closed bars."""

    symbols: tuple[str, ...]
    base: Timeframe
    start: int
    ticks: Ticks
    frames: dict[str, Frames]

    def history(self, until: int) -> History:
        """Return the closed bars of the past."""

        def bars(symbol: str, timeframe: Timeframe, count: int) -> pd.DataFrame:
            frame = self.frames[symbol][timeframe]
            closed = bar_close(frame["time"].to_numpy(), timeframe) <= until
            return frame[closed].tail(count)

        return bars

    def before(self, time: int) -> int:
        """Return how many ticks come before a moment."""
        return int(np.searchsorted(self.ticks.time, time))


def market_of(source: SampleSource | SimulatorSource, start: int, end: int) -> Market:
    """Return a source's ticks and bars in ``[start, end)``."""
    symbols, base = source.symbols(), source.base_timeframe()
    raw = {symbol: source.ticks(symbol, start, end) for symbol in symbols}
    frames = {
        symbol: build_timeframes(found, base, instrument(symbol).point, complete_until=end)
        for symbol, found in raw.items()
    }
    whole = [
        Tick(row, *values)
        for row, found in enumerate(raw.values())
        for values in zip(*(found[name].tolist() for name in ("time", "bid", "ask", "volume", "flags")), strict=True)
    ]
    return Market(symbols, base, start, ticks_of(sorted(whole, key=lambda tick: tick.time)), frames)


@pytest.fixture(scope="session")
def sample() -> Market:
    """EURUSD H1 of 2017, real."""
    source = SampleSource()
    return market_of(source, *source.span("EURUSD"))


@pytest.fixture(scope="session")
def made() -> Market:
    """Three symbols on M5, three weeks; gold has hours of its own."""
    source = SimulatorSource(
        ("EURUSD", "GBPUSD", "XAUUSD"), start=MADE_FROM, end=MADE_UNTIL + DAY_NS, timeframe=Timeframe.M5, seed=11
    )
    return market_of(source, MADE_FROM, MADE_UNTIL + DAY_NS)


@pytest.fixture(scope="session")
def only(made: Market) -> Callable[..., Market]:
    """Return the made market of some of its symbols."""

    def cut(*symbols: str) -> Market:
        places = [made.symbols.index(symbol) for symbol in symbols]
        kept = np.isin(made.ticks.symbol, places)
        place = np.argsort(places)[np.searchsorted(np.sort(places), made.ticks.symbol[kept])].astype(np.int32)
        ticks = Ticks(place, *(column[kept] for column in made.ticks[1:]))
        return made._replace(symbols=symbols, ticks=ticks, frames={name: made.frames[name] for name in symbols})

    return cut


@pytest.fixture(scope="session")
def warm_work(only: Callable[..., Market], spec_of: Callable[..., CoreSpec]) -> Callable[..., Work]:
    """Make a core that knows the made market until Tuesday morning and has not traded: ``warm_work(*symbols, …)``."""
    states: dict[tuple[str, ...], bytes] = {}

    def make(*symbols: str, models: Models = logistic, keeps_log: bool = True, **options: Any) -> Work:
        names = symbols or ("EURUSD",)
        if names not in states:
            market = only(*names)
            first = new_work(spec_of(*names, start=MADE_UNTIL))
            first.core.warm_up(market.history(MADE_UNTIL), MADE_UNTIL)
            states[names] = first.core.whole()
        work = new_work(spec_of(*names, start=MADE_UNTIL, **options), models, keeps_log=keeps_log)
        work.core.restore_whole(states[names])
        return work

    return make
