"""How long the whole graph of a release takes on the embedded Triton, beside the simple models; and what INT8 saves.

``python -m bench.serving [--quick]``. The models are the product's own, fitted to made bars for a few seconds: what an
answer costs hangs on their shapes, not on what they learnt. Only the agents are not trained: their networks have random
weights.
"""

import argparse
import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.session import Session
from bench.table import Figure, Limit, Row, cells
from fx_dagster.features.catalogue import SEQUENCE_CHANNELS, feature_catalogue
from fx_dagster.features.windows import Windows
from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from fx_dagster.models.answer import BASE_MODELS, REGIMES
from fx_dagster.models.attention import AttentionModel
from fx_dagster.models.cnn import CnnModel
from fx_dagster.models.confidence import ConfidenceModel
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.lstm import LstmModel
from fx_dagster.models.meta import MetaModel
from fx_dagster.models.ppo import ACTIONS, AGENTS, SIDES, Policies, PolicyNet, PpoModel, Scaling, observation_names
from fx_dagster.models.protocol import ModelArtifact, ModelSpec
from fx_dagster.models.quantise import compared, quantise
from fx_dagster.models.random_forest import RandomForestModel
from fx_dagster.models.regime import RegimeModel
from fx_dagster.models.release import ReleaseManifest
from fx_dagster.models.stack import StackedRows
from fx_dagster.models.xgboost import XGBoostModel
from fx_dagster.settings import Settings, TritonSettings
from resources.model_repository import ModelRepository
from resources.servers.triton import TritonServer
from resources.triton import TritonModelService, serve_release

FAMILIES = (XGBoostModel, RandomForestModel, LstmModel, CnnModel, AttentionModel, RegimeModel)
NETWORKS = ("lstm", "cnn", "attention")
TRAINING_ROWS, HISTORY = 1_600, 400
CALLS, ROUNDS = 500, 5
ASKED_ROWS = (1, 8, 100)
P50_MAX_MS, P99_MAX_MS = 6.0, 15.0
ENTRY = 0.02
"""Distance of p(up) from one half from which decisions are compared."""
AGENT_WIDTH = 64


def made_rows(seed: int = 1) -> Dataset:
    """Return rows of made bars of two symbols, with windows, on the features of H1."""
    catalogue = feature_catalogue(Timeframe.H1, cross_symbol=True)
    rng, n, m = np.random.default_rng(seed), TRAINING_ROWS, TRAINING_ROWS + HISTORY
    X = rng.standard_normal((n, len(catalogue))).astype(np.float32)
    returns = 1e-3 * (0.3 * X[:, 0] + rng.standard_normal(n))
    at = HISTORY + np.tile(np.arange(n)[:, None], (1, 1 + len(catalogue.timeframes)))
    windows = Windows(
        rng.standard_normal((m, len(SEQUENCE_CHANNELS))).astype(np.float32),
        tuple(_bars(rng, m) for _ in catalogue.timeframes),
        at,
    )
    time_ns = 1_483_228_800_000_000_000 + np.arange(n) // 2 * HOUR_NS
    return Dataset(
        X=X, y=(returns > 0).astype(np.int8), time=time_ns, end_time=time_ns + 4 * HOUR_NS,
        symbol_code=(np.arange(n) % 2).astype(np.int16), forward_return=returns, cost=np.full(n, 1e-4),
        symbols=("EURUSD", "XAUUSD"), feature_names=catalogue.names, feature_hash=catalogue.hash, horizon_bars=4,
        windows=windows,
    )  # fmt: skip


def _bars(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    moves = 5e-4 * rng.standard_normal(count)
    close = np.exp(np.cumsum(moves))
    opens = close / np.exp(moves)
    high, low = np.maximum(opens, close) * 1.0001, np.minimum(opens, close) / 1.0001
    return np.column_stack([opens, high, low, close, rng.integers(50, 150, count)]).astype(np.float64)


def whole_release(rows: Dataset) -> list[ModelArtifact]:
    """Return every model of a release."""
    spec = rows.spec(seed=1, threads=1)
    fitted = [ModelArtifact.of(family(spec).fit(rows)) for family in FAMILIES]
    rng = np.random.default_rng(2)
    said = {name: np.clip(0.5 + 0.05 * rng.standard_normal(len(rows)), 0.01, 0.99) for name in BASE_MODELS}
    regime = rng.dirichlet(np.ones(len(REGIMES)), len(rows))
    stacked = StackedRows.of(rows, said, regime, said["xgboost"])
    above = [ModelArtifact.of(family(spec).fit(stacked)) for family in (MetaModel, ConfidenceModel)]
    return [*fitted, *above, ModelArtifact.of(_agents(spec, rng))]


def _agents(spec: ModelSpec, rng: np.random.Generator) -> PpoModel:
    seen = len(observation_names(spec.feature_names))

    def net(agent: str) -> PolicyNet:
        widths = (seen + SIDES, AGENT_WIDTH, AGENT_WIDTH, ACTIONS[agent])
        weights = [rng.normal(0.0, a**-0.5, (b, a)).astype(np.float32) for a, b in pairwise(widths)]
        return PolicyNet(tuple(weights), tuple(np.zeros(len(each), np.float32) for each in weights))

    timing, sizing = (net(agent) for agent in AGENTS)
    policies = Policies(Scaling(np.zeros(seen), np.ones(seen)), timing, sizing)
    return PpoModel.from_policies(spec, policies, rows=0, up_share=0.5, parameters={}, metrics={})


@dataclass
class Served:
    """A release on a server of its own."""

    server: TritonServer
    manifest: ReleaseManifest
    inputs: ModelInputs
    loaded_s: float

    def processes(self) -> list[psutil.Process]:
        """Return the models' processes."""
        children = psutil.Process(self.server.pid).children(recursive=True)
        return [child for child in children if "stub" in child.name()]


@contextlib.contextmanager
def served(artifacts: Sequence[ModelArtifact], rows: Dataset) -> Iterator[Served]:
    """Start Triton on loopback with a release, and end it."""
    home = Path(tempfile.mkdtemp(prefix="fx-bench-"))
    settings = Settings(home=home, triton=TritonSettings())
    server, inputs = TritonServer(settings), rows.take(np.arange(max(ASKED_ROWS))).inputs()
    try:
        repository = ModelRepository(settings.model_repository)
        manifest = repository.build(1, artifacts, inputs, symbols=rows.symbols, metrics={}, lineage={})
        server.start()
        began = time.perf_counter()
        serve_release(server.url, server.secret, manifest)
        yield Served(server, manifest, inputs, time.perf_counter() - began)
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def _latencies_ms(where: Served, rows: int, calls: int, *, whole: bool) -> list[NDArray[np.float64]]:
    """Return what a client waited in each of some rounds, in milliseconds."""
    inputs = where.inputs.take(np.arange(rows))

    async def asked() -> list[NDArray[np.float64]]:
        service = TritonModelService(where.server.url, where.manifest)
        try:
            for _ in range(calls // 5):
                await service.predict(inputs, deadline_s=5.0, whole=whole)
            found = []
            for _ in range(ROUNDS):
                answers = [await service.predict(inputs, deadline_s=5.0, whole=whole) for _ in range(calls)]
                found.append(np.array([answer.latency_ms for answer in answers]))
            return found
        finally:
            await service.close()

    return asyncio.run(asked())


def rows(session: Session) -> Iterator[Row]:
    """Measure the graph, its processes, and the INT8 versions of the networks."""
    session.note("fitting a release")
    dataset = made_rows()
    artifacts = whole_release(dataset)
    with served(artifacts, dataset) as where:
        for count in ASKED_ROWS:
            for whole in (True, False):
                yield from _latency_rows(session, where, count, whole=whole)
        resident = [process.memory_info().rss / 1e6 for process in where.processes()]
        note = f"{len(resident)} processes; loading and warming all of them took {where.loaded_s:.1f} s"
        yield Row("serving: memory of a model's process", Figure.of(resident), "MB", note=note)
    told = dataset.take(np.arange(256)).tensors()
    for artifact in artifacts:
        if artifact.name in NETWORKS:
            session.note(f"INT8 of {artifact.name}")
            yield _int8_row(artifact, told)


def _latency_rows(session: Session, where: Served, count: int, *, whole: bool) -> Iterator[Row]:
    work = f"{'the whole graph' if whole else 'the simple models'}, {count} {'row' if count == 1 else 'rows'}"
    session.note(work)
    found = _latencies_ms(where, count, session.size(CALLS), whole=whole)
    for share, limit in ((50, P50_MAX_MS), (99, P99_MAX_MS)):
        figure = Figure.of([float(np.percentile(each, share)) for each in found])
        bound = Limit(limit) if whole and count == 1 else None
        yield Row(f"serving: {work}, p{share}", figure, "ms", limit=bound)


def _int8_row(artifact: ModelArtifact, told: dict[str, Any]) -> Row:
    reports = [
        compared(artifact, quantise(artifact, told, per_channel=each), told, threshold=ENTRY, per_channel=each)
        for each in (False, True)
    ]
    report = max(reports, key=lambda each: each.unchanged)
    note = (
        f"{report.method}: {report.bytes:,} to {report.int8_bytes:,} bytes ({report.smaller:.1%} smaller), "
        f"{report.faster_many:.2f} times as fast with 100 rows, p(up) off by {report.difference:.1e} at most, "
        f"{report.unchanged:.1%} of decisions unchanged; served: {'yes' if report.to_dict()['served'] else 'no'}"
    )
    speeds = [each.faster_one for each in reports]
    return Row(f"INT8 of {artifact.name}, one row", Figure.of(speeds), "times", more_is_better=True, note=note)


def main() -> None:
    """Measure and print; nothing is written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    session = Session(quick=parser.parse_args().quick, note=lambda text: print(f"… {text}", flush=True))  # noqa: T201
    for row in rows(session):
        print(" · ".join((row.work, cells(row)[0][1], row.note)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
