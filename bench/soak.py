"""The live engine for an hour under a hundred symbols' ticks, while its model server is killed again and again.

``python -m bench.soak --minutes 60 [--write]``. PostgreSQL, Valkey and Triton run as ``fx up`` starts them, with a
whole release served; the engine runs in its own process, supervised as the live job supervises it. Ticks come in real
time from a process of their own (:mod:`bench.live_market`), as from a terminal: the product's simulator makes four
ticks a bar, a three-hundredth of what is wanted here. That market does not wait: what the engine cannot take in time is
dropped, and counted. Triton is sent SIGKILL every five minutes.

A sample is taken every few seconds, of the processes from outside and of the engine's own status. At the end it is
judged whether memory stays flat, every tick is accounted for, files stay closed, the engine was never started again,
the models came back in time, and every decision can be made again from the recorded tapes, bit for bit. ``--write``
puts that into ``docs/reliability.md`` with a plot. Ctrl-C ends it early and reports on what there is.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.markup import escape

from bench.live_market import BASE, START, MadeFeed, made_ticks, symbols
from bench.sections import RELIABILITY, write_section
from bench.serving import made_rows, whole_release
from fx_dagster import live_engine
from fx_dagster.commands import console
from fx_dagster.commands.servers import load_active_release
from fx_dagster.core.tape import replay_tape
from fx_dagster.errors import FxError
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.live.engine import Ending, Engine, EngineParts
from fx_dagster.live.records import SessionState
from fx_dagster.live.supervisor import EXIT_FINISHED, EXIT_STOPPED, Outcome, Supervisor, SupervisorNews
from fx_dagster.market.timeframes import DAY_NS, SECOND_NS, Timeframe
from fx_dagster.settings import Settings, load_settings
from resources.live_store import LiveStore
from resources.model_repository import ModelRepository
from resources.postgres import connect
from resources.releases import ReleaseStore
from resources.servers import interrupts
from resources.servers.group import ServerEvent, ServerGroup
from resources.servers.process import ManagedProcess, child_environment, spawn
from resources.servers.triton import SHARED_MEMORY, SHARED_MEMORY_PREFIX
from resources.tapes import read_tape
from resources.triton import serve_release

SYMBOLS, RATE, SEED = 100, 18.0, 20240702
ASKING = {"FX_LIVE_MOVE_ATR": "0.6", "FX_TRITON_DEADLINE_MS": "45"}
"""Models are asked several times a second, not mostly at the minute's end, so that an outage is seen at once; and a
hundred rows have time on a machine that does other things too: with what else a tick takes, a decision stays in 50 ms.
"""
KILL_EVERY_S = 300.0
SAMPLE_S = 5.0
TAIL_S = 5
"""The market goes on for so long after the last whole minute, so that its bars close."""
QUIET_S = 90.0
"""No kill so shortly before the end: its outage could not be seen to its end."""
AI_BACK_S = 5.0
OPEN = {"files": "open files", "threads": "threads", "tasks": "tasks", "regions": "Triton's shared-memory regions"}
OPEN_CHECK = "open files, threads, tasks and shared memory do not grow"
FRAMES, GROWERS = 6, 40
"""Of a traced run: frames of each allocation, and how many lines are told."""
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
FLAT_SHARE_H = 0.01
"""Growth an hour, of the memory that is used, below which it counts as flat whatever the interval says."""
CONFIDENCE = 0.95
LEVELS = (1, 2, 3, 4)
TRADITIONAL = 3
ASKED_KINDS = ("bar", "move", "retry")
PLOT = RELIABILITY.parent / "img" / "soak.svg"
DRAWN = 180
"""Most points of a line of latency or levels in the plot."""

Floats = NDArray[np.float64]


# -- arithmetic ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trend:
    """How something grows: Theil-Sen slope an hour with its interval, and the median it is judged by."""

    per_hour: float
    low: float
    high: float
    median: float

    @property
    def flat(self) -> bool:
        """Whether it does not grow, or by less than a hundredth an hour."""
        return self.low <= 0.0 or self.per_hour <= FLAT_SHARE_H * self.median


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """Return the trend of the second half of ``values``, by time.

    Args:
        seconds: times of the values, in order.
        values: what was measured.

    Raises:
        ValueError: there are fewer than three values in the second half.
    """
    from scipy.stats import theilslopes

    t, v = np.asarray(seconds, dtype=np.float64), np.asarray(values, dtype=np.float64)
    late = t >= (t[0] + t[-1]) / 2 if len(t) else np.zeros(0, dtype=np.bool_)
    if late.sum() < 3:
        raise ValueError(f"{int(late.sum())} samples in the second half say nothing about growth")
    found = theilslopes(v[late], t[late] / 3600.0, alpha=CONFIDENCE)
    return Trend(float(found[0]), float(found[2]), float(found[3]), float(np.median(v[late])))


def grown(seconds: Sequence[float], counts: Sequence[int]) -> tuple[int, int]:
    """Return the usual (median) count of the second quarter and that of the last; the first quarter is warm-up."""
    t, n = np.asarray(seconds, dtype=np.float64), np.asarray(counts)
    quarter = np.clip((4 * (t - t[0]) / max(t[-1] - t[0], 1e-9)).astype(int), 0, 3)
    if not {1, 3} <= set(quarter.tolist()):
        raise ValueError("too few samples: a quarter is empty")
    return int(np.median(n[quarter == 1])), int(np.median(n[quarter == 3]))


def highest_bound(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], n: int, share: float) -> float:
    """Return the lowest bound (ms) below which ``share`` of ``n`` new durations lie; infinite: beyond all bounds.

    Args:
        before: bounds and how many durations lay below each, then.
        after: the same now; the first may be empty.
        n: how many came in between.
        share: 0 … 1.
    """
    known = {bound: count for bound, count in before}  # noqa: C416 - lists of two
    enough = (bound for bound, count in after if count - known.get(bound, 0) >= share * n)
    return float(next(iter(enough), math.inf))


@dataclass(frozen=True)
class Bill:
    """What became of the ticks that the market made."""

    made: int
    taken: int
    rejected: int
    held: int
    dropped: int

    @property
    def missing(self) -> int:
        """Ticks of which nothing is known."""
        return self.made - self.taken - self.rejected - self.held - self.dropped


@dataclass(frozen=True)
class Decided:
    """A journalled decision.

    Attributes:
        at_s: when, s since 1970.
        symbol: of which.
        level: at which fallback level.
        asked: whether models were to answer.
        answered: whether they did.
    """

    at_s: float
    symbol: str
    level: int
    asked: bool
    answered: bool


@dataclass(frozen=True)
class Outage:
    """What followed a kill, in seconds since it; None: it was not seen.

    Attributes:
        down_s: the first decision that had to do without models, at the traditional level; None: the server was back
            before one asked.
        answered_s: the first decision after that to which models answered again.
        risen_s: every symbol that had gone down to the traditional level is above it again.
        fallen: how many went down.
        wrong: decisions above the traditional level although nothing had answered them.
    """

    down_s: float | None
    answered_s: float | None
    risen_s: float | None
    fallen: int
    wrong: int


def outage(kill_s: float, until_s: float, decisions: Sequence[Decided], *, back_s: float = math.inf) -> Outage:
    """Return what followed a kill.

    Args:
        kill_s: when, s since 1970.
        until_s: what was decided from then on belongs to something else.
        decisions: in order.
        back_s: when the server had its models again: a decision that is without them later is so for another reason.
    """
    later = [one for one in decisions if kill_s <= one.at_s < until_s]
    down = next((one for one in later if one.asked and not one.answered and one.at_s <= back_s), None)
    if down is None:
        return Outage(None, None, None, 0, 0)
    after = [one for one in later if one.at_s >= down.at_s]
    back = next((one for one in after if one.asked and one.answered), None)
    end_s = back.at_s if back is not None else until_s
    fallen = {one.symbol for one in after if one.level >= TRADITIONAL and one.at_s <= end_s}
    risen: dict[str, float] = {}
    for one in after:
        if one.at_s >= end_s and one.level < TRADITIONAL and one.symbol in fallen:
            risen.setdefault(one.symbol, one.at_s)
    return Outage(
        down.at_s - kill_s,
        back.at_s - kill_s if back is not None else None,
        max(risen.values()) - kill_s if fallen and set(risen) == fallen else None,
        len(fallen),
        sum(one.asked and not one.answered and one.level < TRADITIONAL for one in after),
    )


def kill_s(number: int, every_s: float) -> float:
    """Return when the kill of that number (from 1) is due, s after the beginning: each at another second of a minute.

    At minutes' ends bars close and all models are asked at once; the golden section spreads the kills evenly over them.
    """
    return number * every_s + (number * GOLDEN % 1.0) * min(60.0, every_s / 2)


# -- the engine's process ------------------------------------------------------------------------------------------


class _MadeSource:
    """The made market as the source of a session: only what the session's window is made of."""

    name = "made market"
    has_ticks = True

    def symbols(self) -> tuple[str, ...]:
        return symbols(SYMBOLS)

    def base_timeframe(self) -> Timeframe:
        return BASE

    def span(self, symbol: str) -> tuple[int, int]:  # noqa: ARG002 - the same for all
        return START, START + DAY_NS


class _Feed(MadeFeed):
    """The made market; for an engine that was started again what is left of it."""

    def start(self, position: int, clock: int) -> None:
        self._seconds = max(1, self._seconds - (position - START) // SECOND_NS)
        super().start(position, clock)


class _Probe:
    """Writes the engine's status, and what is not in it, a line of JSON every few seconds and at the end."""

    def __init__(self, path: Path, growth: "_Growth | None" = None) -> None:
        self._path, self._growth, self._next_s = path, growth, 0.0
        self.parts: EngineParts | None = None
        self.feed: MadeFeed | None = None

    def __call__(self, status: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if self.parts is None or self.feed is None or (status["state"] == "running" and now < self._next_s):
            return
        self._next_s = now + SAMPLE_S
        own = {
            "at_s": time.time(), "sent": self.feed.sent, "pending": getattr(self.parts.journal, "pending", 0),
            "held": int(self.parts.core.core.gate["held_open"].sum()), "tasks": len(asyncio.all_tasks()),
            "began": self.feed.offset != 0,
        }  # fmt: skip
        with self._path.open("a") as file:
            file.write(json.dumps({**status, **own}) + "\n")
        if self._growth is not None and own["began"]:
            self._growth(time.monotonic())


class _Growth:
    """What Python has allocated at the end and had not after the first quarter, by line, beside the probe's file."""

    def __init__(self, seconds: int, path: Path) -> None:
        self._seconds, self._path = seconds, path
        self._began_s = 0.0
        self._first: tracemalloc.Snapshot | None = None
        self._done = False
        tracemalloc.start(FRAMES)

    def __call__(self, now_s: float) -> None:
        self._began_s = self._began_s or now_s
        share = (now_s - self._began_s) / self._seconds
        if self._first is None and share >= 0.25:
            self._first = tracemalloc.take_snapshot()
        elif self._first is not None and not self._done and share >= 0.95:
            self._done = True
            found = tracemalloc.take_snapshot().compare_to(self._first, "traceback")
            told = ("\n".join([str(one), *one.traceback.format()]) for one in found[:GROWERS])
            self._path.write_text("\n\n".join(told) + "\n")


async def _run_engine(seconds: int, probe: _Probe) -> int:
    """Run the production engine, its source of ticks replaced and a probe beside it."""

    class Observed(Engine):
        def __init__(self, parts: EngineParts, session: SessionState) -> None:
            super().__init__(parts, session)
            probe.parts = parts

    def feed(*_: object, **__: object) -> MadeFeed:
        probe.feed = _Feed(SYMBOLS, RATE, seconds, SEED)
        return probe.feed

    replaced: dict[str, object] = {"open_source": lambda _: _MadeSource(), "ReplayFeed": feed, "Engine": Observed}
    for name, by in replaced.items():
        setattr(live_engine, name, by)
    try:
        options = live_engine.RunOptions(on_status=probe)
        ending = await live_engine.run_engine(load_settings(), options)
    finally:
        if probe.feed is not None:
            probe.feed.close()
    return EXIT_FINISHED if ending is Ending.FINISHED else EXIT_STOPPED


def _engine_main(seconds: int, path: Path, *, trace: bool) -> int:
    growth = _Growth(seconds, path.with_name("growth.txt")) if trace else None
    try:
        return asyncio.run(_run_engine(seconds, _Probe(path, growth)))
    except FxError as error:
        sys.stderr.write(f"{error}\n")
        return live_engine.exit_code(error)


# -- the run -------------------------------------------------------------------------------------------------------


@dataclass
class Record:
    """What a soak saw.

    Attributes:
        seconds: how long the market was to last.
        kill_every_s: between two kills of Triton.
        samples: one a few seconds: the engine's status, and the processes from outside.
        kills: when Triton was killed, s since 1970.
        events: when what happened to a server: time, server, kind, text.
        starts: how often the engine was started.
        decisions: all that were journalled, in order.
        bars: by symbol, how many different bars were decided.
        balances: of the account as its status says, and as its deals add up.
        journalled: orders and deals in the journal, and whether the session is marked finished there.
        replayed: decisions compared, places compared at, places that differ; None: not replayed.
        cut: whether it was ended early.
        problem: what ended it otherwise.
    """

    seconds: int
    kill_every_s: float
    samples: list[dict[str, Any]] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    events: list[tuple[float, str, str, str]] = field(default_factory=list)
    starts: int = 0
    decisions: list[Decided] = field(default_factory=list)
    bars: dict[str, int] = field(default_factory=dict)
    balances: tuple[float, float] = (math.nan, math.nan)
    journalled: tuple[int, int, bool] = (0, 0, False)
    replayed: tuple[int, int, int] | None = None
    cut: bool = False
    problem: str = ""

    @property
    def running(self) -> list[dict[str, Any]]:
        """Samples since the market began."""
        return [one for one in self.samples if one["began"]]


class Watcher:
    """Called by the supervisor twice a second: the heartbeat, samples, kills, and what is shown."""

    def __init__(
        self, group: ServerGroup, record: Record, *, probe: Path, step: console.Step,
        heartbeat: Callable[[SupervisorNews], bool],
    ) -> None:  # fmt: skip
        self._group, self._record, self._probe, self._step = group, record, probe, step
        self._heartbeat = heartbeat
        self._began_s = self._read = 0.0

    def __call__(self, news: SupervisorNews) -> bool:
        """Do what is due; False: the engine hangs."""
        self._record.starts = news.starts
        alive = self._heartbeat(news)
        self.sample(news.pid)
        now = time.time()
        every_s = self._record.kill_every_s
        due_s = self._began_s + kill_s(len(self._record.kills) + 1, every_s)
        if self._began_s and due_s <= now < self._began_s + self._record.seconds - min(QUIET_S, every_s / 2):
            self._kill_triton()
        return alive

    def _kill_triton(self) -> None:
        pid = self._group.triton.pid if self._group.triton is not None else None
        if pid is None:
            return
        self._record.kills.append(time.time())
        os.kill(pid, signal.SIGKILL)
        self._step.line(f"[dim]{self._elapsed()}[/dim] Triton is sent SIGKILL, number {len(self._record.kills)}")

    def sample(self, pid: int | None) -> None:
        """Take up what the engine has said since the last call, with what its processes use now."""
        said = self._said()
        if not said:
            return
        for one in said[:-1]:
            self._record.samples.append(one)
        newest = said[-1] | self._used(pid)
        self._record.samples.append(newest)
        if newest["began"] and not self._began_s:
            self._began_s = newest["at_s"]
        self._step.note(f"{self._elapsed()} of {_clock(self._record.seconds)} · {_words(self._record)}")

    def _said(self) -> list[dict[str, Any]]:
        """Return the engine's new lines; a torn one waits for its rest."""
        if not self._probe.exists():
            return []
        with self._probe.open("rb") as file:
            file.seek(int(self._read))
            whole, _, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + 1 if whole else 0
        return [json.loads(line) for line in whole.splitlines()]

    def _used(self, pid: int | None) -> dict[str, Any]:
        group = self._group
        servers = {"triton_mb": group.triton, "postgres_mb": group.postgres, "valkey_mb": group.valkey}
        used = {
            name: _tree_mb(server.process.pid if server is not None and server.process is not None else None)
            for name, server in servers.items()
        }
        return {**_engine_use(pid), **used, "regions": _regions(), "load": psutil.getloadavg()[0]}

    def _elapsed(self) -> str:
        return _clock(time.time() - self._began_s) if self._began_s else "00:00"


def _engine_use(pid: int | None) -> dict[str, Any]:
    try:
        process = psutil.Process(pid or -1)
        with process.oneshot():
            cpu = process.cpu_times()
            return {
                "engine_mb": process.memory_info().rss / 1e6, "threads": process.num_threads(),
                "files": process.num_fds(), "cpu_s": cpu.user + cpu.system,
            }  # fmt: skip
    except (psutil.Error, ValueError):
        return {}


def _tree_mb(pid: int | None) -> float | None:
    """Return the memory of a process and its children; what they share counts once where the system tells."""
    total = 0.0
    try:
        top = psutil.Process(pid) if pid is not None else None
        family = [top, *top.children(recursive=True)] if top is not None else []
    except psutil.Error:
        return None
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            try:
                total += process.memory_full_info().pss / 1e6
            except psutil.AccessDenied:
                total += process.memory_info().rss / 1e6
    return total or None


def _regions() -> int:
    """Return how many regions of shared memory our Triton has, or has left behind."""
    prefix = f"{SHARED_MEMORY_PREFIX}{os.getpid()}_*"
    return len(list(SHARED_MEMORY.glob(prefix))) if SHARED_MEMORY.is_dir() else 0


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def _words(record: Record) -> str:
    newest, running = record.samples[-1], record.running
    rate = _rates(running[-2:])[-1] if len(running) > 1 else 0.0
    p99 = newest["latency"]["tick"]["p99_ms"]
    return (
        f"{rate:,.0f} ticks/s · level {newest['level']} · p99 {p99 or 0.0:.1f} ms · "
        f"engine {newest.get('engine_mb', 0.0):.0f} MB · {newest['ticks_dropped']} dropped · {len(record.kills)} kills"
    )


def _rates(samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return ticks a second between each two samples."""
    pairs = pairwise(samples)
    return [(b["ticks"] - a["ticks"]) / max(b["at_s"] - a["at_s"], 1e-9) for a, b in pairs]


@contextlib.contextmanager
def _home(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    home = Path(tempfile.mkdtemp(prefix="fx-soak-"))
    home.chmod(0o711)  # PostgreSQL may run as a user of its own
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _serve_models(settings: Settings, secret: str) -> None:
    """Build a whole release for the session's features, and make it the live one."""
    store, repository = ReleaseStore.of(settings), ModelRepository.of(settings)
    version = store.next_version()
    catalogue = feature_catalogue(BASE, cross_symbol=True)
    rows = made_rows(version)
    X = np.random.default_rng(version).standard_normal((len(rows), len(catalogue))).astype(np.float32)
    rows = replace(
        rows, X=X, base=catalogue.base, feature_names=catalogue.names, feature_hash=catalogue.hash
    )  # fmt: skip
    manifest = repository.build(
        version, whole_release(rows), rows.take(np.arange(100)).inputs(), symbols=rows.symbols, metrics={}, lineage={}
    )
    serve_release(settings.triton.url, secret, manifest)
    store.record(manifest)
    store.activate(version, reason="soak")


def soak(home: Path, seconds: int, kill_every_s: float, *, trace: bool = False) -> Record:
    """Run it and return what was seen; Ctrl-C ends it early."""
    nothing = {"FX_POSTGRES_URL": "", "FX_REDIS_URL": "", "FX_TRITON_URL": "", "FX_SOURCE_KIND": "simulator"}
    settings = load_settings({"FX_HOME": str(home), "FX_SOURCE_SIMULATOR_SYMBOLS": str(SYMBOLS), **nothing, **ASKING})
    record = Record(seconds, kill_every_s)

    def note(event: ServerEvent) -> None:
        record.events.append((time.time(), event.server, event.kind, event.text))

    try:
        with ServerGroup(settings, on_event=note, on_triton_start=_load_quietly, dagster=False) as group:
            with console.step("A whole release, built and served") as step:
                _serve_models(group.settings_for_children(), group.triton.secret if group.triton is not None else "")
            with console.step(f"{SYMBOLS} symbols at {RATE:g} ticks/s each for {_clock(seconds)}") as step:
                _supervise(group, record, step, trace=trace)
                step.result = _words(record) if record.samples else "no word from the engine"
            with console.step("Reading the journal"):
                _read_journal(group.settings_for_children(), record)
    except KeyboardInterrupt:
        record.cut = True
    with console.step("Deciding everything again from the tapes") as step:
        record.replayed = _replay(settings, step)
    return record


def _load_quietly(settings: Settings) -> None:
    with console.err.capture():
        load_active_release(settings)


def _supervise(group: ServerGroup, record: Record, step: console.Step, *, trace: bool) -> None:
    from fx_dagster.live_job import Heartbeat  # Dagster takes seconds to import

    settings = group.settings_for_children()
    probe = settings.home / "soak.jsonl"
    store = LiveStore(settings.postgres.url.get_secret_value())
    heartbeat = Heartbeat(settings, store, observe=lambda _: None, run_is_over=lambda: False)
    watcher = Watcher(group, record, probe=probe, step=step, heartbeat=heartbeat)

    tracing = ["--trace"] if trace else []

    def start() -> ManagedProcess:
        return spawn(
            [sys.executable, "-m", "bench.soak", "--engine", str(probe), str(record.seconds), *tracing],
            env=child_environment(settings), log=settings.logs / "live.log", name="live engine",
        )  # fmt: skip

    supervisor = Supervisor(
        start, restart_delay_s=settings.live.restart_delay_s,
        restarts_per_minute_max=settings.live.restarts_per_minute_max, on_tick=watcher,
    )  # fmt: skip
    try:
        if supervisor.run() is not Outcome.FINISHED:
            record.problem = "the engine lost its account"
    except KeyboardInterrupt:
        record.cut = True
    except FxError as error:
        record.problem = str(error)
    record.starts = supervisor.news.starts
    watcher.sample(None)


def _read_journal(settings: Settings, record: Record) -> None:
    account = settings.live.account
    with connect(settings.postgres.url.get_secret_value(), name="fx soak") as connection:
        rows = connection.execute(
            "SELECT extract(epoch FROM decided_at)::float8, symbol, level, kind, release IS NOT NULL FROM decision"
            " WHERE account = %s ORDER BY number",
            (account,),
        ).fetchall()
        bars = connection.execute(
            "SELECT symbol, count(DISTINCT bar_time), count(*) FROM decision WHERE account = %s AND kind = 'bar'"
            " GROUP BY symbol",
            (account,),
        ).fetchall()
        totals = connection.execute(
            "SELECT (SELECT coalesce(sum(profit - commission + swap), 0)::float8 FROM deal WHERE account = %(who)s),"
            " (SELECT count(*) FROM trade_order WHERE account = %(who)s),"
            " (SELECT count(*) FROM deal WHERE account = %(who)s),"
            " (SELECT bool_and(state = 'finished') FROM live_session WHERE account = %(who)s)",
            {"who": account},
        ).fetchone()
    dealt, orders, deals, finished = totals or (math.nan, 0, 0, False)
    record.decisions = [
        Decided(at, symbol, level, kind in ASKED_KINDS, there) for at, symbol, level, kind, there in rows
    ]
    record.bars = {symbol: count if count == every else -1 for symbol, count, every in bars}
    said = record.samples[-1]["balance"] if record.samples else math.nan
    record.balances = (said, settings.risk.initial_balance + dealt)
    record.journalled = (orders, deals, bool(finished))


def _replay(settings: Settings, step: console.Step) -> tuple[int, int, int] | None:
    """Decide all recorded stretches again; return decisions, places compared at, and how many of these differ."""
    decisions = compared = different = 0
    folders = sorted((settings.live_state / "tapes").glob("session-*"))
    for number, folder in enumerate(folders, start=1):
        step.note(f"stretch {number} of {len(folders)}")
        tape, facts = read_tape(folder)
        marks = replay_tape(live_engine.recorded_core(facts), tape)
        decisions = max([decisions, *(mark.decisions for mark in marks)])
        compared += len(marks)
        different += sum(not mark.same for mark in marks)
    step.result = f"{decisions:,} decisions, compared at {compared:,} places, {different} differ"
    return (decisions, compared, different) if compared else None


# -- what is said of it --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    holds: bool
    said: str


def checks(record: Record, made: int | None) -> list[Check]:
    """Return what must hold of a soak that ran; ``made`` is how many ticks its market had, None: cut short."""
    running, last = record.running, record.samples[-1]
    bill = bill_of(last, last["sent"] if made is None else made)
    found = [
        _memory(running),
        Check(
            "no tick lost", bill.missing == 0 and (made is None or made == last["sent"]),
            f"{bill.made:,} made = {bill.taken:,} taken + {bill.rejected:,} rejected with a reason + {bill.held} held"
            f" + {bill.dropped:,} dropped" + (f" + {bill.missing:,} missing" if bill.missing else ""),
        ),
        Check("none dropped", bill.dropped == 0, f"longest queue {last['ticks_waiting_max']:,} ticks"),
        _open(running),
        Check("the engine was started once", record.starts == 1, f"{record.starts} start(s)"),
    ]  # fmt: skip
    outages = outages_of(record)
    if outages:
        found.append(_models_back(outages))
    return [*found, *_consistent(record, last, whole=made is not None)]


def bill_of(status: Mapping[str, Any], made: int) -> Bill:
    """Return what became of the ticks, by an engine's last status."""
    rejected = sum(status["ticks_rejected"].values())
    return Bill(made, status["ticks"], rejected, status["held"], status["ticks_dropped"])


def outages_of(record: Record) -> list[Outage]:
    """Return what followed each kill."""
    found = []
    for kill, end, after in zip(record.kills, [*record.kills[1:], math.inf], started_again(record), strict=True):
        back_s = kill + after if after is not None else math.inf
        found.append(outage(kill, end, record.decisions, back_s=back_s))
    return found


def _column(samples: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[Any]]:
    having = [one for one in samples if one.get(name) is not None]
    return [one["at_s"] for one in having], [one[name] for one in having]


def _memory(running: Sequence[Mapping[str, Any]]) -> Check:
    name = "the engine's memory is flat"
    try:
        found = trend(*_column(running, "engine_mb"))
    except ValueError as error:
        return Check(name, False, str(error))
    return Check(
        name, found.flat,
        f"{found.per_hour:+.2f} MB an hour ({found.low:+.2f} … {found.high:+.2f}) at {found.median:.0f} MB",
    )  # fmt: skip


def _open(running: Sequence[Mapping[str, Any]]) -> Check:
    told, holds = [], True
    for column, name in OPEN.items():
        try:
            early, late = grown(*_column(running, column))
        except ValueError as error:
            return Check(OPEN_CHECK, False, str(error))
        holds = holds and late <= early
        told.append(f"{name} {early} → {late}")
    return Check(OPEN_CHECK, holds, "; ".join(told))


def _models_back(outages: Sequence[Outage]) -> Check:
    noticed = [one for one in outages if one.down_s is not None]
    known = [one.answered_s for one in noticed if one.answered_s is not None]
    slowest = max(known, default=math.nan)
    holds = 0 < len(known) == len(noticed) and slowest < AI_BACK_S and not any(one.wrong for one in outages)
    return Check(
        f"models answer again within {AI_BACK_S:g} s of each kill", holds,
        f"after {len(known)} of {len(noticed)} that decisions noticed, the slowest after {slowest:.2f} s",
    )  # fmt: skip


def _consistent(record: Record, last: Mapping[str, Any], *, whole: bool) -> list[Check]:
    levels = sum(last[f"level_{level}"] for level in LEVELS)
    bars = set(record.bars.values())
    every = len(record.bars) == SYMBOLS and bars == {record.seconds // 60}
    decisions, compared, different = record.replayed or (0, 0, 0)
    balance, dealt = record.balances
    return [
        Check("every decision has a level", levels == last["decisions"], f"{last['decisions']:,} decisions"),
        *([Check("every symbol's every bar was decided once", every, _bar_words(bars))] if whole else []),
        Check("the balance is what the deals add up to", abs(balance - dealt) < 0.01, f"{balance:.2f}, {dealt:.2f}"),
        Check(
            "replayed from the tapes, the same bit for bit", compared > 0 and not different,
            f"{decisions:,} decisions, compared at {compared:,} places",
        ),
        Check(
            "the journal holds every order and deal", record.journalled == (last["orders"], last["deals"], whole),
            f"{record.journalled[0]} of {last['orders']} orders, {record.journalled[1]} of {last['deals']} deals",
        ),
    ]  # fmt: skip


def _bar_words(bars: set[int]) -> str:
    return f"{min(bars)} bars each" if len(bars) == 1 else f"{sorted(bars)} bars"


def made_count(seconds: int) -> int:
    """Return how many ticks the market of so many seconds has, made anew."""
    return sum(len(rows) for rows in made_ticks(SYMBOLS, RATE, SEED, START, seconds))


def figures(record: Record) -> dict[str, str]:
    """Return what was measured, by name, in words."""
    running, last = record.running, record.samples[-1]
    tick, model = last["latency"]["tick"], last["latency"]["model"]
    elapsed = max(running[-1]["at_s"] - running[0]["at_s"], 1e-9)
    levels = {level: last[f"level_{level}"] / max(last["decisions"], 1) for level in LEVELS}
    cpu = _column(running, "cpu_s")
    share = (cpu[1][-1] - cpu[1][0]) / max(cpu[0][-1] - cpu[0][0], 1e-9) if len(cpu[0]) > 1 else math.nan
    return {
        "market": f"{SYMBOLS} symbols, {last['ticks'] / elapsed:,.0f} ticks/s taken, {_clock(elapsed)} min",
        "decisions": f"{last['decisions']:,}, {last['decisions'] / elapsed:,.0f} a second; "
        f"{last['questions']:,} questions to the models",
        "tick to decision": f"p50 {tick['p50_ms']:.2f}, p99 {tick['p99_ms']:.2f}, at most {tick['max_ms']:.1f} ms",
        "models' answer": f"p50 {model['p50_ms']:.1f}, p99 {model['p99_ms']:.1f} ms" if model["n"] else "never asked",
        "decided at level": ", ".join(f"{level}: {part:.1%}" for level, part in levels.items() if part > 0.0),
        "engine": f"{share:.0%} of a core, {_range(running, 'engine_mb')} MB",
        "Triton": f"{_range(running, 'triton_mb')} MB, {len(record.kills)} kills",
        "PostgreSQL": f"{_range(running, 'postgres_mb')} MB",
        "Valkey": f"{_range(running, 'valkey_mb', 1)} MB",
        "journal": f"at most {max(one['pending'] for one in running)} entries waiting",
        "account": f"{last['orders']:,} orders, {last['deals']:,} deals",
    }


def _range(samples: Sequence[Mapping[str, Any]], name: str, digits: int = 0) -> str:
    """Return the least and the greatest after the first quarter."""
    values = _column(samples, name)[1]
    late = values[len(values) // 4 :]
    return f"{min(late):.{digits}f} … {max(late):.{digits}f}" if late else "unknown"


def section(record: Record, found: Sequence[Check], minutes: float, plot: str) -> str:
    """Return the part of the page."""
    day, memory = datetime.now(UTC).date().isoformat(), psutil.virtual_memory().total / 1024**3
    loads = _column(record.running, "load")[1]
    load = f", load {np.median(loads):.1f} (at most {max(loads):.1f}) with what else ran there" if loads else ""
    lines = [
        f"`python -m bench.soak --minutes {minutes:g} --write`, {day}, {psutil.cpu_count()} cores, {memory:.0f} GiB"
        f"{load}. The production engine under its supervisor, PostgreSQL, Valkey and Triton as `fx up` starts them; "
        "ticks in real time from a process of their own; Triton killed (SIGKILL) every "
        f"{record.kill_every_s / 60:g} minutes." + (" Ended early." if record.cut else ""),
        "",
        "| measured | |",
        "| --- | --- |",
        *(f"| {name} | {said} |" for name, said in figures(record).items()),
        "",
        "| must hold | holds | |",
        "| --- | --- | --- |",
        *(f"| {check.name} | {'yes' if check.holds else '**no**'} | {check.said} |" for check in found),
        "",
        *_outage_lines(outages_of(record), started_again(record)),
        f"![memory, latency and level over the run]({plot})",
    ]
    return "\n".join(lines)


def started_again(record: Record) -> list[float | None]:
    """Return how long after each kill Triton ran again with all its models loaded; None: not seen."""
    back = [at for at, server, kind, _ in record.events if server == "Triton" and kind == "restarted"]
    ends = [*record.kills[1:], math.inf]
    pairs = zip(record.kills, ends, strict=True)
    return [next((at - kill for at in back if kill < at < end), None) for kill, end in pairs]


def _outage_lines(outages: Sequence[Outage], started: Sequence[float | None]) -> list[str]:
    if not outages:
        return []
    noticed = [one for one in outages if one.down_s is not None]
    names = {
        "Triton runs again, its release loaded": started,
        "first decision without models": [one.down_s for one in noticed],
        "models answer again": [one.answered_s for one in noticed],
        "last symbol is up again (60 s of health are demanded)": [one.risen_s for one in noticed],
    }
    rows = [f"| {name} | {_spread(values)} |" for name, values in names.items()]
    return [
        f"| after a kill ({len(outages)} kills, {len(noticed)} noticed by decisions) | median (least … most) |",
        "| --- | --- |",
        *rows,
        "",
    ]


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    missing = f", not seen {len(values) - len(known)} times" if len(known) < len(values) else ""
    if not known:
        return "never seen"
    return f"{np.median(known):.2f} s ({min(known):.2f} … {max(known):.2f}){missing}"


def draw(record: Record, path: Path) -> None:
    """Draw memory, latency and levels over the run, with the kills."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    running = record.running
    began = running[0]["at_s"]
    rare = running[:: math.ceil(len(running) / DRAWN)]
    minutes = [(one["at_s"] - began) / 60 for one in rare]
    with mpl.rc_context({"svg.hashsalt": "soak", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (memory, latency, levels) = plt.subplots(3, 1, figsize=(7.0, 5.4), sharex=True, layout="constrained")
        for name, label in (("engine_mb", "engine"), ("triton_mb", "Triton"), ("postgres_mb", "PostgreSQL")):
            at, values = _column(running, name)
            memory.plot([(one - began) / 60 for one in at], values, label=label, linewidth=1.0)
        memory.set_ylabel("memory, MB")
        memory.set_ylim(bottom=0)
        memory.legend(loc="center", frameon=False, ncols=3)
        steps = _bounds(rare)
        latency.step(minutes[1:], steps[0.5], where="post", label="p50", linewidth=1.0)
        latency.step(minutes[1:], steps[0.99], where="post", label="p99", linewidth=1.0)
        latency.set_yscale("log")
        latency.set_ylabel("tick to decision,\nat most, ms")
        latency.legend(loc="upper left", frameon=False, ncols=2)
        levels.stackplot(minutes[1:], *_level_shares(rare), labels=[f"level {n}" for n in LEVELS],
                         colors=("#4c9f70", "#f2c14e", "#f78154", "#b4436c"))  # fmt: skip
        levels.set_ylabel("share of decisions")
        levels.set_xlabel("minutes")
        levels.set_ylim(0, 1)
        levels.legend(loc="lower right", ncols=4)
        for axes in (memory, latency, levels):
            for kill in record.kills:
                axes.axvline((kill - began) / 60, color="#888888", linewidth=0.6, linestyle=":")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _bounds(running: Sequence[Mapping[str, Any]]) -> dict[float, list[float]]:
    """Return for each share, between each two samples, the bound below which that share of the durations lay."""
    found: dict[float, list[float]] = {0.5: [], 0.99: []}
    for a, b in pairwise(running):
        before, after = a["latency"]["tick"], b["latency"]["tick"]
        for share, bounds in found.items():
            n = after["n"] - before["n"]
            bound = highest_bound(before.get("buckets", []), after.get("buckets", []), n, share) if n else math.nan
            bounds.append(bound if math.isfinite(bound) else math.nan)
    return found


def _level_shares(running: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    pairs = list(pairwise(running))
    return [
        [(b[f"level_{level}"] - a[f"level_{level}"]) / max(b["decisions"] - a["decisions"], 1) for a, b in pairs]
        for level in LEVELS
    ]


def _report(record: Record, minutes: float, *, write: bool) -> bool:
    """Show what there is, write it down if asked, and return whether everything holds."""
    if len(record.running) < 2:
        console.say(f"{console.BAD} The market did not begin: {escape(record.problem or 'ended early')}")
        return False
    finished = not (record.cut or record.problem)
    with console.step("Counting the ticks that the market made"):
        made = made_count(record.seconds) if finished else None
    found = checks(record, made)
    console.table(("measured", ""), list(figures(record).items()))
    for line in _outage_lines(outages_of(record), started_again(record))[2:-1]:
        console.say("  " + escape(line.strip("| ").replace(" | ", ": ")))
    for check in found:
        console.say(f"{console.GOOD if check.holds else console.BAD} {check.name} [dim]· {escape(check.said)}[/dim]")
    if write:
        draw(record, PLOT)
        text = section(record, found, minutes, PLOT.relative_to(RELIABILITY.parent).as_posix())
        write_section(RELIABILITY, "soak", text)
        console.say(f"{console.GOOD} docs/reliability.md is written")
    bad = [check.name for check in found if not check.holds]
    if record.problem:
        console.say(f"{console.BAD} {escape(record.problem)}")
    if record.cut:
        console.say(f"{console.WARN} Ended early")
    if bad or record.problem:
        console.say(f"{console.BAD} Does not hold: {', '.join(bad) or 'the run'}")
        return False
    console.say(
        f"{console.GOOD} {_clock(record.running[-1]['at_s'] - record.running[0]['at_s'])} min: everything holds"
    )
    return True


def main() -> int:
    """Run the soak of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--kill-every", type=float, default=KILL_EVERY_S, help="seconds between two kills of Triton")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    parser.add_argument("--keep", type=Path, help="folder for everything that is written, and stays")
    parser.add_argument(
        "--trace", action="store_true", help="write into the kept folder's growth.txt what memory grew by; much slower"
    )
    parser.add_argument("--engine", nargs=2, metavar=("PROBE", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        return _engine_main(int(options.engine[1]), Path(options.engine[0]), trace=options.trace)
    interrupts.install()
    with _home(options.keep) as home:
        record = soak(home, round(60 * options.minutes) + TAIL_S, options.kill_every, trace=options.trace)
        if options.keep:
            (home / "record.json").write_text(json.dumps(asdict(record)))
        return 0 if _report(record, options.minutes, write=options.write) else 1


if __name__ == "__main__":
    sys.exit(main())
