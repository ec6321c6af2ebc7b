"""Releases switched and rolled back under load on the embedded Triton: what is lost, what is late, how soon it counts.

``python -m bench.blue_green [--quick]``. A process of its own asks for one row at a time through the live session's own
way to the models: the release table, looked at twice a second, and one connection for each release. Meanwhile this
process promotes and rolls back as ``fx release`` does: the release is loaded and proved beside the other, one row
switches, and what is no longer wanted is unloaded. A call's time counts from the moment that it was due.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.live import servers
from bench.serving import made_rows, whole_release
from bench.session import Session
from bench.table import Figure, Limit, Row, cells
from fx_dagster.errors import ServerError
from fx_dagster.live.model_desk import WATCH_S
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.graph import run_graph
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.protocol import ModelArtifact
from fx_dagster.models.random_forest import RandomForestModel
from fx_dagster.models.release import ReleaseManifest
from fx_dagster.models.service import ModelCallError
from fx_dagster.models.xgboost import XGBoostModel
from fx_dagster.settings import Settings, load_settings
from resources.model_provider import ReleasedModels
from resources.model_repository import ModelRepository
from resources.releases import ReleaseStore
from resources.servers.process import base_environment
from resources.servers.triton import TritonServer
from resources.signing import ReleaseKeys
from resources.triton import serve_release, unload_releases

RATE, SWITCHES, CLIENTS = 500.0, 20, 16
RATES_OF_THE_WHOLE = (1_000.0, 800.0, 650.0, 500.0, 400.0, 300.0, 200.0, 150.0, 100.0, 50.0)
STEADY_S, PAUSE_S, SETTLE_S = 15.0, 1.5, 1.0
HOLDS_S, HOLDS_SHARE, HOLDS_SWITCHES = 8.0, 0.01, 4
"""A rate is held when no call is lost and at most this share is over the deadline: of so many seconds without a switch,
or of the calls during so many switches."""
TRIED = (
    "a call is late where the processes of a loading release start, one after another, on the two cores on which all"
    " else runs, the load's own process too. Tried: a connection that is warm before it is used, which changed nothing"
    " that shows; SCHED_BATCH and SCHED_IDLE for a model's process until it is ready, which helped at a full machine"
    " only, and from the latter an ordinary user's process cannot come back"
)
DEADLINE_MS, PATIENT_S = 20.0, 5.0
ASKED_ROWS, WARM_CALLS = 64, 200
TOLERANCE = 1e-5
"""Of an answer beside ONNX Runtime's own."""
START_S = 60.0


def simple_release(rows: Dataset) -> list[ModelArtifact]:
    """Return the two simple models."""
    spec = rows.spec(seed=1, threads=1)
    return [ModelArtifact.of(family(spec).fit(rows)) for family in (XGBoostModel, RandomForestModel)]


# -- the two releases ----------------------------------------------------------------------------------------------


@dataclass
class Deployment:
    """Two recorded releases on running servers, of which the first is live.

    Attributes:
        settings: of the home.
        postgres_url: where the releases are recorded.
        triton: serves them.
        store: says which answers.
        manifests: by version.
        whole: whether the load asks the whole graph.
    """

    settings: Settings
    postgres_url: str
    triton: TritonServer
    store: ReleaseStore
    manifests: dict[int, ReleaseManifest] = field(default_factory=dict)
    whole: bool = False

    @property
    def questions(self) -> Path:
        """The file with the rows that are asked and what each release must answer."""
        return self.settings.home / "questions.npz"

    def environment(self) -> dict[str, str]:
        """Return what the load's process is told."""
        own = {
            "FX_HOME": str(self.settings.home), "FX_POSTGRES_URL": self.postgres_url, "FX_TRITON_URL": self.triton.url
        }  # fmt: skip
        return {**base_environment(), **own}

    def promote(self, version: int) -> "Switch":
        """Load and prove a release beside the live one, and switch to it."""
        began = time.monotonic_ns()
        self._serve(version)
        at = time.monotonic_ns()
        self.store.activate(version, reason="measured")
        return Switch(version, at, (at - began) / 1e9)

    def roll_back(self) -> "Switch":
        """Go back to the release before, as ``fx release rollback``."""
        version = self.store.previous()
        if version is None:
            raise ServerError("there is no release to go back to", mend="promote one first")
        began = time.monotonic_ns()
        self._serve(version)
        at = time.monotonic_ns()
        self.store.rollback(to=version)
        return Switch(version, at, (at - began) / 1e9)

    def unload(self) -> None:
        """Unload what is neither live nor what a rollback would go to."""
        wanted = (self.store.active(), self.store.previous())
        kept = [self.manifests[version] for version in wanted if version is not None]
        unload_releases(self.triton.url, self.triton.secret, kept)

    def _serve(self, version: int) -> None:
        serve_release(self.triton.url, self.triton.secret, self.manifests[version])


@dataclass(frozen=True)
class Switch:
    """One switch: to which release, when its row was about to be written (monotonic ns), how long loading took."""

    version: int
    at_ns: int
    loading_s: float


@contextlib.contextmanager
def deployed(
    releases: Sequence[Sequence[ModelArtifact]], rows: Dataset, *, whole: bool = False
) -> Iterator[Deployment]:
    """Start PostgreSQL and Triton on loopback with some releases, of which the first is live and loaded.

    Args:
        releases: models of each, numbered from 1.
        rows: what is asked, at least :data:`ASKED_ROWS`.
        whole: whether the load asks the whole graph.
    """
    inputs = rows.take(np.arange(ASKED_ROWS)).inputs()
    with servers() as where:
        store = ReleaseStore(where.postgres.url, ReleaseKeys.of(where.settings))
        found = Deployment(where.settings, where.postgres.url, where.triton, store, whole=whole)
        repository, answers = ModelRepository(where.settings.model_repository), {}
        for version, artifacts in enumerate(releases, start=1):
            manifest = repository.build(version, artifacts, inputs, symbols=rows.symbols, metrics={}, lineage={})
            store.record(manifest)
            found.manifests[version] = manifest
            told = run_graph(artifacts, inputs.tensors())
            models = manifest.models if whole else manifest.simple_models
            answers[f"p_up_{version}"] = np.column_stack([told[f"p_up_{model}"][:, 0] for model in models])
        asked = {name: getattr(inputs, name) for name in ("features", "sequence", "chart", "time", "symbol")}
        np.savez(found.questions, allow_pickle=False, **asked, **answers)
        found.promote(1)
        yield found


# -- the load ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What the load's process does: so many calls a second until it is told to stop."""

    rate: float
    whole: bool
    questions: str
    record: str


class Asking:
    """Some clients that ask for one row after another, each when it is due, and note every answer."""

    def __init__(self, load: Load, provider: ReleasedModels) -> None:
        with np.load(load.questions) as stored:
            arrays = dict(stored)
        self._answers = {int(name[5:]): values for name, values in arrays.items() if name.startswith("p_up_")}
        inputs = ModelInputs(**{name: values for name, values in arrays.items() if not name.startswith("p_up_")})
        self._questions = [inputs.take(np.array([row])) for row in range(ASKED_ROWS)]
        self._load = load
        self._provider = provider
        self.rows: list[tuple[int, int, int, bool]] = []
        self.failures: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until ``stop``; what was asked by then is still waited for."""
        began = time.monotonic_ns()
        await asyncio.gather(*(self._client(number, began, stop) for number in range(CLIENTS)))

    async def _client(self, number: int, began: int, stop: asyncio.Event) -> None:
        call = number
        while not stop.is_set():
            due = began + int(call / self._load.rate * 1e9)
            await asyncio.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
            release, right = await self._asked(call % ASKED_ROWS)
            self.rows.append((due, time.monotonic_ns(), release, right))
            call += CLIENTS

    async def _asked(self, row: int) -> tuple[int, bool]:
        """Return which release answered, 0: none, and whether it said what it must."""
        service, task = self._provider.service, asyncio.current_task()
        if service is None:
            self.failures[self._provider.problem] += 1
            return 0, False
        try:
            answer = await service.predict(self._questions[row], deadline_s=PATIENT_S, whole=self._load.whole)
        except ModelCallError as error:
            self.failures[str(error)] += 1
            return 0, False
        except asyncio.CancelledError:
            if task is None or task.cancelling():
                raise
            self.failures["the call was cancelled under its caller"] += 1
            return 0, False
        told = self._answers[answer.release][row]
        right = answer.p_up.shape == (1, len(told)) and bool(np.abs(answer.p_up[0] - told).max() <= TOLERANCE)
        return answer.release, right and answer.complete


async def _loaded(load: Load, settings: Settings) -> None:
    provider = ReleasedModels(ReleaseStore.of(settings), settings.triton.url)
    await provider.refresh()
    asking, stop, loop = Asking(load, provider), asyncio.Event(), asyncio.get_running_loop()
    for call in range(WARM_CALLS):
        await asking._asked(call % ASKED_ROWS)
    watch = asyncio.create_task(_watch(provider))

    def told_to_stop() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=told_to_stop, daemon=True).start()
    sys.stdout.write("started\n")
    sys.stdout.flush()
    await asking.run(stop)
    watch.cancel()
    await provider.close()
    due, done, release, right = (np.array(column) for column in zip(*asking.rows, strict=True))
    np.savez(load.record, allow_pickle=False, due=due, done=done, release=release, right=right)
    sys.stdout.write(json.dumps(dict(asking.failures)) + "\n")


async def _watch(provider: ReleasedModels) -> None:
    """Look which release is live, as often as the live session does."""
    while True:
        await asyncio.sleep(WATCH_S)
        await provider.refresh()


# -- one measurement -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of every call; n calls.

    Attributes:
        due: when a call was due, monotonic ns, int64 ``[n]``.
        latency_ms: from then until its answer was there and checked, ``[n]``.
        release: which answered, 0: none, int64 ``[n]``.
        right: whether the answer was the release's own, bool ``[n]``.
        seconds: how long calls were due.
        switches: in order.
        first_ms: from a switch to the first answer of its release, one for each switch; NaN: there was none.
        failures: how many calls failed, by reason.
    """

    due: NDArray[np.int64]
    latency_ms: NDArray[np.float64]
    release: NDArray[np.int64]
    right: NDArray[np.bool_]
    switches: tuple[Switch, ...]
    first_ms: tuple[float, ...]
    failures: dict[str, int]

    @property
    def lost(self) -> int:
        """Calls without an answer."""
        return int(np.count_nonzero(self.release == 0))

    @property
    def wrong(self) -> int:
        """Answers that are not what their release says of the row."""
        return int(np.count_nonzero((self.release != 0) & ~self.right))

    @property
    def switching(self) -> NDArray[np.bool_]:
        """Which calls were due from the beginning of the first load to a pause after the last switch, bool ``[n]``."""
        if not self.switches:
            return np.zeros(len(self.due), dtype=np.bool_)
        first, last = self.switches[0], self.switches[-1]
        return (self.due >= first.at_ns - first.loading_s * 1e9) & (self.due <= last.at_ns + PAUSE_S * 1e9)

    def late(self, which: NDArray[np.bool_]) -> tuple[int, int]:
        """Return how many of some calls were over the deadline or lost, and of how many."""
        over = (self.latency_ms > DEADLINE_MS) | (self.release == 0)
        return int(np.count_nonzero(over & which)), int(np.count_nonzero(which))

    def percentile_ms(self, share: float, which: NDArray[np.bool_]) -> float:
        """Return a percentile of the answered calls among some; NaN: there is none."""
        found = self.latency_ms[which & (self.release != 0)]
        return float(np.percentile(found, share)) if len(found) else float("nan")


def measure(where: Deployment, *, rate: float, switches: int, steady_s: float, pause_s: float = PAUSE_S) -> Outcome:
    """Load the live release, switch to the other and back, and return what became of every call.

    Args:
        where: release 1 is live in it, and is at the end of an even number of switches.
        rate: calls a second.
        switches: every other is a rollback.
        steady_s: without switches, half of it before and half after them.
        pause_s: after each switch; longer than the live session takes to see one.

    Raises:
        ServerError: the load's process could not begin or end.
    """
    record = where.settings.home / "record.npz"
    load = Load(rate, where.whole, str(where.questions), str(record))
    done: list[Switch] = []
    with _load_process(where, load) as process:
        time.sleep(SETTLE_S + steady_s / 2)
        for number in range(switches):
            if number % 2 == 0:
                where.unload()
                done.append(where.promote(2))
            else:
                done.append(where.roll_back())
            time.sleep(pause_s)
        time.sleep(steady_s / 2)
        failures, _ = process.communicate("", timeout=START_S)
    if process.returncode:
        raise ServerError(f"the load's process ended with {process.returncode}", mend="see what it printed")
    with np.load(record) as stored:
        arrays = {name: stored[name] for name in ("due", "done", "release", "right")}
    return _outcome(arrays, tuple(done), json.loads(failures))


@contextlib.contextmanager
def _load_process(where: Deployment, load: Load) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.blue_green", "--load", json.dumps(vars(load))],
        env=where.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    try:
        if process.stdout is None or process.stdout.readline() != "started\n":
            raise ServerError("the load's process did not begin", mend="see what it printed")
        yield process
    finally:
        process.kill()
        process.wait(START_S)


def _outcome(arrays: Mapping[str, NDArray[Any]], switches: tuple[Switch, ...], failures: dict[str, int]) -> Outcome:
    # The first second, in which all clients begin at once, says nothing of switches.
    settled = (arrays["due"] >= arrays["due"].min() + SETTLE_S * 1e9) | (arrays["release"] == 0)
    arrays = {name: values[settled] for name, values in arrays.items()}
    done, release = arrays["done"], arrays["release"]
    first = [done[(release == one.version) & (done > one.at_ns)] for one in switches]
    return Outcome(
        due=arrays["due"],
        latency_ms=(done - arrays["due"]) / 1e6,
        release=release,
        right=arrays["right"],
        switches=switches,
        first_ms=tuple(
            (float(found.min()) - one.at_ns) / 1e6 if len(found) else float("nan")
            for one, found in zip(switches, first, strict=True)
        ),
        failures=failures,
    )


# -- the table -----------------------------------------------------------------------------------------------------


def rows(session: Session) -> Iterator[Row]:
    """Measure the simple models at a fixed rate, and the whole graph at the highest that it holds."""
    session.note("fitting two releases of the simple models")
    datasets = [made_rows(seed) for seed in (1, 2)]
    with deployed([simple_release(each) for each in datasets], datasets[0]) as where:
        yield from _switched(session, where, "the simple models", RATE)
    session.note("fitting two whole releases")
    with deployed([whole_release(each) for each in datasets], datasets[0], whole=True) as where:
        steady = _held(session, where, RATES_OF_THE_WHOLE, switches=0)
        note = f"at most {HOLDS_SHARE:.0%} of the calls over {DEADLINE_MS:g} ms; rates up to {RATES_OF_THE_WHOLE[0]:g}"
        yield Row("blue/green: rate that the whole graph holds", steady, "requests/s", more_is_better=True, note=note)
        lower = [rate for rate in RATES_OF_THE_WHOLE if rate <= steady.median]
        held = _held(session, where, lower, switches=HOLDS_SWITCHES)
        yield Row("blue/green: the same while releases switch", held, "requests/s", more_is_better=True, note=note)
        if held.median:
            yield from _switched(session, where, "the whole graph", held.median)


def _held(session: Session, where: Deployment, rates: Sequence[float], *, switches: int) -> Figure:
    """Return the first of some rates, highest first, that is held; 0: none is."""
    for rate in rates:
        session.note(f"{rate:g} requests/s, {switches} switches")
        found = measure(where, rate=rate, switches=switches, steady_s=HOLDS_S if not switches else PAUSE_S)
        late, calls = found.late(found.switching if switches else ~found.switching)
        if not found.lost and late <= HOLDS_SHARE * calls:
            return Figure.of([rate])
    return Figure.of([0.0])


def _switched(session: Session, where: Deployment, what: str, rate: float) -> Iterator[Row]:
    switches = 4 if session.quick else SWITCHES
    work = f"blue/green: {what} at {rate:g} requests/s, {switches} switches"
    session.note(work)
    found = measure(where, rate=rate, switches=switches, steady_s=STEADY_S / 3 if session.quick else STEADY_S)
    switching = found.switching
    (late, calls), (steady_late, steady_calls) = found.late(switching), found.late(~switching)
    reasons = "; ".join(f"{count} times {reason}" for reason, count in found.failures.items())
    counts = f"{calls + steady_calls:,} calls, {found.wrong} wrong answers{f'; {reasons}' if reasons else ''}"
    yield Row(f"{work}, requests lost", Figure.of([float(found.lost)]), "requests", Limit(0.0), note=counts)
    steady = 100 * steady_late / max(1, steady_calls)
    p50, p99 = ([found.percentile_ms(share, part) for part in (switching, ~switching)] for share in (50, 99))
    note = (
        f"{late} of {calls:,} calls, {steady_late} of {steady_calls:,} without switches; p50 {p50[0]:.1f} ms"
        f" (without {p50[1]:.1f}), p99 {p99[0]:.1f} ms (without {p99[1]:.1f})"
    )
    over = Figure.of([100 * late / max(1, calls)])
    yield Row(f"{work}, over {DEADLINE_MS:g} ms", over, "%", Limit(steady), note=note, tried=TRIED)
    loading = Figure.of([one.loading_s for one in found.switches if one.version == 2])
    note = f"the release table is looked at every {WATCH_S:g} s; loading and proving took {loading.median:.1f} s"
    yield Row(f"{work}, from the switch to its first answer", Figure.of(found.first_ms), "ms", note=note)


def main() -> None:
    """Measure and print; nothing is written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few switches")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        asyncio.run(_loaded(Load(**json.loads(arguments.load)), load_settings()))
        return
    session = Session(quick=arguments.quick, note=lambda text: print(f"… {text}", flush=True))  # noqa: T201
    for row in rows(session):
        print(" · ".join((row.work, *cells(row)[0][1:2], *cells(row)[0][-2:], row.note)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
