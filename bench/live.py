"""How long a live tick waits for its decision: the production engine on a made market, beside Triton and PostgreSQL.

``python -m bench.live [--minutes 10] [--only a,b,c,d]``. Each session runs in a process of its own
(:mod:`bench.live_session`); ticks come from another (:mod:`bench.live_market`). A tick's latency counts from the moment
it was due, so that what the market's process, the pipe and the queue cost is in it, to the end of its decision.

a) one symbol, 18 ticks a second, models asked through Triton: decisions that ask them, beside the bare call that the
   same client makes between decisions.
b) 100 symbols at 18 ticks a second each, M1 bars that close together, models asked.
c) 1,000 symbols at 5 ticks a second each, without a model server.
d) processor time of the engine's process a tick, by number of symbols.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.live_market import BASE
from bench.live_session import Plan
from bench.serving import made_rows, whole_release
from bench.table import Figure, Limit, Rival, Row, cells
from fx_dagster.errors import ServerError
from fx_dagster.features.catalogue import FeatureCatalogue, feature_catalogue
from fx_dagster.models.dataset import Dataset
from fx_dagster.settings import PostgresSettings, Settings, TritonSettings
from resources.model_repository import ModelRepository
from resources.postgres import migrate
from resources.releases import ReleaseStore
from resources.servers.postgres import PostgresServer
from resources.servers.triton import TritonServer
from resources.signing import ReleaseKeys
from resources.triton import serve_release

LATENCY_MS = 50.0
CALLS = 1.5
"""Calls that a decision which asks may take."""
MEMORY = 1.05
START_S = 600
"""A thousand symbols warm up in half a minute, and compile for another one the first time."""
WIDTHS = (66, 14, 20, 8, 8, 26, 4)
GROWTH = (1, 10, 100, 1_000)
OFTEN = {"FX_LIVE_MOVE_ATR": "0.02", "FX_LIVE_REFRESH_S": "0.1"}
"""So that one symbol asks several times a second; the defaults are 1 ATR and 1 s."""
TRIED = (
    "beside the call a decision takes about 0.9 ms, spread over waking, the pipe of the ticks, the queue, the tick "
    "itself, the question, its tensor and the answer: after 55 ms of rest all of it is cold (the tick takes 122 µs, "
    "10 µs where the caches are warm). At p99 it is what else ran on the machine. Tried: intake woken by the feed "
    "instead of a poll (2.4 to 1.5 times at p50), no garbage collection of what stays, bookkeeping after the decision, "
    "one compiled question, which all stay; uvloop, which changed nothing"
)
FREQTRADE_MS = Figure(78.0, 76.0, 81.0)


Show = Callable[[Plan, Mapping[str, Any]], None]
"""What is to be done with all that a session measured."""


@dataclass
class Servers:
    """PostgreSQL and Triton of a home of their own, and the release that answers each number of symbols."""

    settings: Settings
    postgres: PostgresServer
    triton: TritonServer
    releases: dict[bool, int] = field(default_factory=dict)
    on_report: Show = lambda _plan, _report: None

    def run(self, plan: Plan, *, models: bool) -> dict[str, Any]:
        """Run one session in a process of its own."""
        environment = {
            "FX_HOME": str(self.settings.home), "FX_POSTGRES_URL": self.postgres.url,
            "FX_TRITON_URL": self.triton.url if models else "", **plan.environment,
        }  # fmt: skip
        if models:
            self._activate(cross_symbol=plan.symbols > 1)
        whole = Plan(plan.symbols, plan.rate, plan.seconds, environment, plan.seed)
        done = subprocess.run(
            [sys.executable, "-m", "bench.live_session"], input=json.dumps(asdict(whole)) + "\n", text=True,
            capture_output=True, timeout=plan.seconds + START_S, check=False,
        )  # fmt: skip
        if done.returncode:
            telling = (done.stderr.splitlines() or ["no word"])[-1]
            raise ServerError(f"a session of {plan.symbols} symbols ends with {done.returncode}: {telling}")
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.on_report(plan, report)
        return report

    def _activate(self, *, cross_symbol: bool) -> None:
        store = ReleaseStore(self.postgres.url, ReleaseKeys.of(self.settings))
        if cross_symbol not in self.releases:
            repository = ModelRepository(self.settings.model_repository)
            version = store.next_version()
            catalogue = feature_catalogue(BASE, cross_symbol=cross_symbol)
            rows = _training_rows(catalogue, version)
            manifest = repository.build(
                version, whole_release(rows), rows.take(np.arange(100)).inputs(), symbols=rows.symbols, metrics={},
                lineage={},
            )  # fmt: skip
            serve_release(self.triton.url, self.triton.secret, manifest)
            store.record(manifest)
            self.releases[cross_symbol] = version
        store.activate(self.releases[cross_symbol], reason="measured")


def _training_rows(catalogue: FeatureCatalogue, seed: int) -> Dataset:
    """Return made rows of the catalogue; what an answer costs hangs on its shape, not on what was learnt."""
    rows = made_rows(seed)
    X = np.random.default_rng(seed).standard_normal((len(rows), len(catalogue))).astype(np.float32)
    return replace(rows, X=X, base=catalogue.base, feature_names=catalogue.names, feature_hash=catalogue.hash)


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """Start PostgreSQL and Triton on loopback, and end them."""
    home = Path(tempfile.mkdtemp(prefix="fx-bench-"))
    home.chmod(0o711)  # PostgreSQL may run as a user of its own
    settings = Settings(home=home, postgres=PostgresSettings(), triton=TritonSettings())
    postgres, triton = PostgresServer(home, logs=settings.logs), TritonServer(settings)
    try:
        postgres.start()
        migrate(postgres.url)
        triton.start()
        yield Servers(settings, postgres, triton)
    finally:
        triton.stop()
        postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


# -- the cases -----------------------------------------------------------------------------------------------------


def _one_symbol(where: Servers, seconds: int) -> list[Row]:
    found = where.run(Plan(1, 18.0, seconds, OFTEN), models=True)
    asked, bare = found["asked_ms"], found["bare_ms"]
    note = f"{asked['n']} decisions that ask, {bare['n']} bare calls between them; {_words(OFTEN)}"
    freqtrade = Rival("freqtrade + FreqAI", FREQTRADE_MS, "one candle analysed, measured elsewhere")
    return [
        Row(
            f"one symbol, tick to decision through Triton, {name}", _single(asked[name]), "ms",
            Limit(1 / CALLS, beside=True), rivals=(Rival("the bare call", _single(bare[name])), freqtrade), note=note,
            tried=TRIED,
        )
        for name in ("p50", "p99")
    ]  # fmt: skip


def _hundred_symbols(where: Servers, seconds: int) -> list[Row]:
    found = where.run(Plan(100, 18.0, seconds), models=True)
    first, last = found["rss_mb"]
    work = "100 symbols at 18 ticks/s, through Triton"
    return [
        Row(f"{work}, p99", _single(found["every_ms"]["p99"]), "ms", Limit(LATENCY_MS), note=_counted(found)),
        Row(f"{work}, ticks lost", _single(float(_lost(found))), "ticks", Limit(0.0)),
        Row(
            f"{work}, memory at the end over the beginning", _single(last / first), "times", Limit(MEMORY),
            note=f"last third over first, {last:.0f} MB",
        ),
    ]  # fmt: skip


def _thousand_symbols(where: Servers, seconds: int) -> list[Row]:
    found = where.run(Plan(1_000, 5.0, seconds), models=False)
    work = "1,000 symbols at 5 ticks/s, indicators alone"
    return [
        Row(f"{work}, p99", _single(found["every_ms"]["p99"]), "ms", Limit(LATENCY_MS), note=_counted(found)),
        Row(f"{work}, ticks lost", _single(float(_lost(found))), "ticks", Limit(0.0)),
    ]


def _growth(where: Servers, seconds: int) -> list[Row]:
    costs = {count: where.run(Plan(count, 5.0, seconds), models=False) for count in GROWTH}
    alone = Rival("one symbol", _single(costs[1]["cpu_us_a_tick"]))
    return [
        Row(
            f"live engine, processor time a tick, {count:,} symbols", _single(found["cpu_us_a_tick"]), "µs",
            Limit(1.0, beside=True), rivals=(alone,),
            note=f"whole process, 5 ticks/s a symbol, {found['cpu_share']:.0%} of a core",
        )
        for count, found in costs.items()
        if count > 1
    ]  # fmt: skip


CASES = {"a": _one_symbol, "b": _hundred_symbols, "c": _thousand_symbols, "d": _growth}


def rows(minutes: float = 10.0, only: str = "abcd", on_report: Show | None = None) -> list[Row]:
    """Return the rows of the cases; (b) runs for ``minutes``, (a) and (c) for half of it, (d) a twentieth each."""
    shares: Mapping[str, float] = {"a": 0.5, "b": 1.0, "c": 0.5, "d": 0.05}
    found = []
    with servers() as where:
        where.on_report = on_report or where.on_report
        for name in only:
            # A few seconds more, so that the last minute's bars close too.
            found += CASES[name](where, max(15, round(60 * minutes * shares[name])) + 5)
    return found


def _single(value: float) -> Figure:
    return Figure(value, value, value)


def _lost(found: Mapping[str, Any]) -> int:
    known = found["taken"] + sum(found["rejected"].values()) + found["held"]
    return int(found["sent"] - known) + int(found["dropped"])


def _counted(found: Mapping[str, Any]) -> str:
    every = found["every_ms"]
    return (
        f"{found['sent']:,} ticks: {found['taken']:,} taken, {sum(found['rejected'].values())} rejected with a reason; "
        f"p50 {every['p50']:.2f}, p99.9 {every['p999']:.1f}, at most {every['max']:.1f} ms; "
        f"{found['cpu_share']:.0%} of a core"
    )


def _words(environment: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in environment.items())


def _print(plan: Plan, report: Mapping[str, Any]) -> None:
    print(f"{plan.symbols} symbols: {json.dumps(report)}", file=sys.stderr)  # noqa: T201


def _main() -> None:
    parser = argparse.ArgumentParser(description="Live latency of the production engine.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", default="abcd", help="some of the letters a, b, c, d")
    parser.add_argument("--verbose", action="store_true", help="show all that was measured, as JSON")
    options = parser.parse_args()
    only = "".join(name for name in options.only if name in CASES)
    for row in rows(options.minutes, only, _print if options.verbose else None):
        for line in cells(row):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, WIDTHS, strict=False)).rstrip())  # noqa: T201
        if row.note:
            print(f"    {row.note}")  # noqa: T201


if __name__ == "__main__":
    _main()
