"""The real Triton, in a folder with a space in its path: what it answers, and what happens when it does not."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from fx_dagster.errors import FeatureMismatchError, PortInUseError, ReleaseError, ServerError
from fx_dagster.models.families import FAMILIES
from fx_dagster.models.onnx_export import onnx_predict
from fx_dagster.models.protocol import Float32, Model, ModelArtifact, ModelSpec
from fx_dagster.models.release import Canary, ReleaseManifest
from fx_dagster.models.service import ModelCallError, UnavailableReason
from fx_dagster.settings import Settings, TritonSettings
from resources.model_provider import ReleasedModels
from resources.model_repository import ModelRepository
from resources.postgres import migrate
from resources.releases import ReleaseStore
from resources.servers.selfcheck import require_loopback_only
from resources.servers.triton import SHARED_MEMORY, TritonServer, clean_shared_memory, read_secret, secret_file
from resources.triton import TritonAdmin, TritonModelService, serve_release, unload_releases

pytestmark = pytest.mark.integration

F = 24
SPEC = ModelSpec(tuple(f"feature_{number}" for number in range(F)), "c0ffee", seed=1, threads=1, rows_min=100)
X = np.random.default_rng(0).standard_normal((2_600, F)).astype(np.float32)
TOLERANCE = 1e-5
PATIENT_S = 5.0
T = TypeVar("T")
DEADLINE_S = 0.02


@dataclass
class Bench:
    """A running server with release 1, and what it was made of."""

    settings: Settings
    server: TritonServer
    repository: ModelRepository
    fitted: list[Model]
    artifacts: list[ModelArtifact]
    manifest: ReleaseManifest

    def serve(self, manifest: ReleaseManifest) -> float:
        return serve_release(self.server.url, self.server.secret, manifest)

    def build(self) -> ReleaseManifest:
        version = self.repository.versions()[-1] + 1
        return self.repository.build(version, self.artifacts, X, metrics={}, lineage={})

    def admin(self) -> contextlib.closing[TritonAdmin]:
        return contextlib.closing(TritonAdmin(self.server.url, self.server.secret))


@pytest.fixture(scope="module")
def running() -> Iterator[Bench]:
    home = Path(tempfile.mkdtemp(prefix="fx triton "))
    settings = Settings(home=home)
    y = (X[:, 0] + X[:, 1] > 0).astype(np.int8)
    fitted = [factory(SPEC).fit(X, y) for factory in FAMILIES.values()]
    artifacts = [ModelArtifact.of(model) for model in fitted]
    repository = ModelRepository(settings.model_repository)
    manifest = repository.build(1, artifacts, X, metrics={}, lineage={})
    server = TritonServer(settings)
    try:
        server.start()
        yield Bench(settings, server, repository, fitted, artifacts, manifest)
    finally:
        server.stop()
        shutil.rmtree(home)


@pytest.fixture
def bench(running: Bench) -> Bench:
    """The server with release 1 loaded and nothing else, whatever an earlier test did."""
    if not running.server.healthy():
        running.server.stop()
        running.server.start()
    running.serve(running.manifest)
    unload_releases(running.server.url, running.server.secret, [running.manifest])
    return running


def ask(bench: Bench, question: Callable[[TritonModelService], Awaitable[T]]) -> T:
    async def asked() -> T:
        service = TritonModelService(bench.server.url, bench.manifest)
        try:
            return await question(service)
        finally:
            await service.close()

    return asyncio.run(asked())


def refused(bench: Bench, rows: Float32, deadline_s: float) -> tuple[ModelCallError, float]:
    """Return the error of a call over a warm connection, and how long it took, in seconds."""

    async def question(service: TritonModelService) -> tuple[ModelCallError, float]:
        began = time.perf_counter()
        with pytest.raises(ModelCallError) as caught:
            await service.predict(rows, deadline_s=deadline_s)
        return caught.value, time.perf_counter() - began

    return ask(bench, question)


def stubs(bench: Bench) -> list[psutil.Process]:
    return [child for child in psutil.Process(bench.server.pid).children(recursive=True) if "stub" in child.name()]


class TestAnswers:
    @pytest.mark.parametrize("rows", [1, 7, 100, 2_600])
    def test_equal_those_of_the_fitted_models_and_of_onnx_runtime(self, bench: Bench, rows: int) -> None:
        answer = ask(bench, lambda service: service.predict(X[:rows], deadline_s=PATIENT_S))
        assert answer.models == ("xgboost", "random_forest")
        assert (answer.release, answer.discarded, answer.complete) == (1, (0, 0), True)
        assert answer.p_up.shape == (rows, 2)
        assert answer.latency_ms > 0
        fitted = np.column_stack([model.predict(X[:rows]) for model in bench.fitted])
        local = np.column_stack([onnx_predict(artifact.onnx, X[:rows]) for artifact in bench.artifacts])
        assert np.abs(answer.p_up - fitted).max() <= TOLERANCE
        assert np.abs(answer.p_up - local).max() <= TOLERANCE

    def test_no_rows_need_no_server(self, bench: Bench) -> None:
        answer = ask(bench, lambda service: service.predict(X[:0], deadline_s=DEADLINE_S))
        assert answer.p_up.shape == (0, 2)

    def test_several_calls_at_once_get_their_own_answers(self, bench: Bench) -> None:
        parts = [X[start : start + 5] for start in range(0, 200, 5)]

        async def question(service: TritonModelService) -> list[np.ndarray]:
            answers = await asyncio.gather(*(service.predict(part, deadline_s=PATIENT_S) for part in parts))
            return [answer.p_up for answer in answers]

        found = np.concatenate(ask(bench, question))
        expected = np.column_stack([model.predict(X[:200]) for model in bench.fitted])
        assert np.abs(found - expected).max() <= TOLERANCE

    def test_no_call_of_a_long_row_of_calls_is_stalled(self, bench: Bench) -> None:
        """With a queue policy, Triton's batcher loses a wake-up once in 300 calls and answers 500 ms later."""

        async def question(service: TritonModelService) -> list[float]:
            return [(await service.predict(X[:6], deadline_s=PATIENT_S)).latency_ms for _ in range(1_000)]

        latencies_ms = ask(bench, question)
        assert max(latencies_ms) < 400
        assert np.median(latencies_ms) < 20

    def test_memory_of_the_model_processes_does_not_grow(self, bench: Bench) -> None:
        async def question(service: TritonModelService) -> list[int]:
            sizes = []
            for _ in range(3):
                for _ in range(150):
                    await service.predict(X[:1_000], deadline_s=PATIENT_S)
                sizes.append(sum(stub.memory_info().rss for stub in stubs(bench)))
            return sizes

        _, warm, after = ask(bench, question)
        # 150 calls carry 15 MB of features and answers to each process.
        assert after - warm < 8 * 1024 * 1024

    def test_health_is_a_known_answer(self, bench: Bench) -> None:
        assert ask(bench, lambda service: service.healthy())
        canary = bench.manifest.canary
        wrong = replace(bench.manifest, canary=Canary(canary.features, {**canary.p_up, "xgboost": (0.5,) * 4}))
        assert not ask(replace(bench, manifest=wrong), lambda service: service.healthy())


class TestRefusals:
    def test_rows_of_another_width(self, bench: Bench) -> None:
        with pytest.raises(FeatureMismatchError, match=r"takes rows of 24 features, got \[3, 20\]"):
            ask(bench, lambda service: service.predict(X[:3, :20], deadline_s=DEADLINE_S))

    def test_a_release_that_is_not_loaded(self, bench: Bench) -> None:
        missing = replace(bench, manifest=replace(bench.manifest, version=77))
        error, _ = refused(missing, X[:1], PATIENT_S)
        assert error.reason is UnavailableReason.REFUSED
        assert "simple-r77" in str(error)

    @pytest.mark.parametrize(("rows", "kind"), [(X[:2].astype(np.float64), "FP64"), (X[:2, :5], "FP32")])
    def test_wrong_tensors_spoil_no_other_request(self, bench: Bench, rows: np.ndarray, kind: str) -> None:
        with contextlib.closing(grpc_client.InferenceServerClient(bench.server.url)) as client:
            tensor = grpc_client.InferInput("features", list(rows.shape), kind).set_data_from_numpy(rows)
            with pytest.raises(InferenceServerException, match="features"):
                client.infer(bench.manifest.ensemble, [tensor], client_timeout=PATIENT_S)
        assert ask(bench, lambda service: service.healthy())


class TestRelease:
    def test_an_altered_model_is_not_loaded_and_the_old_release_serves_on(self, bench: Bench) -> None:
        manifest = bench.build()
        path = bench.repository.root / f"xgboost-r{manifest.version}" / str(manifest.version) / "model.onnx"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(ReleaseError, match=r"model\.onnx"):
            bench.repository.verify(manifest.version)
        with pytest.raises(ReleaseError, match=r"Triton refuses xgboost-r\d+: .*SHA-256"):
            bench.serve(manifest)
        with bench.admin() as admin:
            assert admin.loaded() == sorted(bench.manifest.served_names)
        assert ask(bench, lambda service: service.healthy())

    def test_other_answers_than_the_recorded_ones_are_refused(self, bench: Bench) -> None:
        manifest = bench.build()
        p_up = {**manifest.canary.p_up, "random_forest": tuple(np.array(manifest.canary.p_up["random_forest"]) + 1e-4)}
        with pytest.raises(ReleaseError, match=r"answers otherwise than recorded: by 1\.00e-04"):
            bench.serve(replace(manifest, canary=Canary(manifest.canary.features, p_up)))
        with bench.admin() as admin:
            assert admin.loaded() == sorted(bench.manifest.served_names)

    def test_no_request_fails_while_a_release_is_loaded_beside(self, bench: Bench) -> None:
        manifest = bench.build()

        async def question(service: TritonModelService) -> int:
            loading = asyncio.create_task(asyncio.to_thread(bench.serve, manifest))
            answered = 0
            while not loading.done() or answered < 50:
                assert (await service.predict(X[:3], deadline_s=PATIENT_S)).complete
                answered += 1
            assert await loading <= TOLERANCE
            return answered

        assert ask(bench, question) >= 50
        with bench.admin() as admin:
            assert set(admin.loaded()) == {*bench.manifest.served_names, *manifest.served_names}
        assert ask(replace(bench, manifest=manifest), lambda service: service.healthy())

    def test_the_provider_follows_activation_and_rollback(self, bench: Bench, database_url: str) -> None:
        newer = bench.build()
        bench.serve(newer)
        migrate(database_url)
        store = ReleaseStore(database_url)
        for manifest in (bench.manifest, newer):
            store.record(manifest)

        async def followed() -> list[int | None]:
            provider = ReleasedModels(store, bench.server.url)
            seen: list[int | None] = []

            async def look() -> None:
                await provider.refresh()
                answer = await provider.service.predict(X[:2], deadline_s=PATIENT_S) if provider.service else None
                seen.append(answer.release if answer else None)

            await look()
            assert provider.problem == "no release is active"
            for version in (1, newer.version):
                store.activate(version, reason="test")
                await look()
            store.rollback()
            await look()
            await provider.close()
            return seen

        assert asyncio.run(followed()) == [None, 1, newer.version, 1]

    def test_without_postgresql_the_provider_says_why_there_is_no_service(self, bench: Bench) -> None:
        async def looked() -> str:
            provider = ReleasedModels(ReleaseStore("postgresql+psycopg2://fx:secret@127.0.0.1:9/fx"), bench.server.url)
            await provider.refresh()
            assert provider.service is None
            return provider.problem

        problem = asyncio.run(looked())
        assert problem.startswith("the active release is not known")
        assert "secret" not in problem


class TestLockedDown:
    def test_nothing_listens_beyond_loopback(self, bench: Bench) -> None:
        server = psutil.Process(bench.server.pid)
        found = require_loopback_only([server, *server.children(recursive=True)])
        assert {listener.port for listener in found} == {bench.server.port, bench.server.metrics_port}

    @pytest.mark.parametrize("secret", ["", "guessed"])
    def test_models_are_loaded_with_the_secret_only(self, bench: Bench, secret: str) -> None:
        manifest = bench.build()
        with contextlib.closing(TritonAdmin(bench.server.url, secret)) as admin:
            with pytest.raises(ServerError, match="does not take this secret"):
                admin.load(manifest.served_names)
            with pytest.raises(ServerError, match="does not take this secret"):
                admin.unload(bench.manifest.served_names)
        with bench.admin() as admin:
            assert admin.loaded() == sorted(bench.manifest.served_names)

    @pytest.mark.parametrize(
        "call",
        [
            lambda client: client.get_model_config("simple-r1"),
            lambda client: client.get_inference_statistics(),
            lambda client: client.get_system_shared_memory_status(),
            lambda client: client.register_system_shared_memory("region", "/region", 8),
            lambda client: client.get_trace_settings(),
            lambda client: client.update_log_settings({"log_verbose_level": 1}),
        ],
        ids=["model-config", "statistics", "shared-memory", "register", "trace", "logging"],
    )
    def test_protocols_beyond_inference_are_restricted(
        self, bench: Bench, call: Callable[[grpc_client.InferenceServerClient], object]
    ) -> None:
        with (
            contextlib.closing(grpc_client.InferenceServerClient(bench.server.url)) as client,
            pytest.raises(InferenceServerException, match=r"restricted|header"),
        ):
            call(client)

    def test_the_secret_is_for_its_owner_and_in_no_log(self, bench: Bench) -> None:
        assert read_secret(bench.settings) == bench.server.secret
        assert secret_file(bench.settings).stat().st_mode & 0o077 == 0
        assert bench.server.log.stat().st_mode & 0o077 == 0
        assert bench.server.secret not in bench.server.log.read_text()


class TestFaults:
    def test_stopped_server_costs_the_deadline_and_no_more(self, bench: Bench) -> None:
        assert bench.server.pid is not None
        os.kill(bench.server.pid, signal.SIGSTOP)
        try:
            error, elapsed_s = refused(bench, X[:5], DEADLINE_S)
        finally:
            os.kill(bench.server.pid, signal.SIGCONT)
        assert error.reason is UnavailableReason.DEADLINE
        # One scheduler's hiccup of a busy machine beside the deadline.
        assert elapsed_s < DEADLINE_S + 0.15
        assert ask(bench, lambda service: service.healthy())

    def test_killed_server_is_unreachable_at_once_and_back_on_the_same_port(self, bench: Bench) -> None:
        children, port = stubs(bench), bench.server.port
        assert len(children) >= 2

        async def question(service: TritonModelService) -> tuple[ModelCallError, float]:
            await service.predict(X[:1], deadline_s=PATIENT_S)
            bench.server.kill()
            began = time.perf_counter()
            with pytest.raises(ModelCallError) as caught:
                await service.predict(X[:1], deadline_s=PATIENT_S)
            elapsed_s = time.perf_counter() - began
            assert not await service.healthy()
            await asyncio.to_thread(bench.server.start)
            await asyncio.to_thread(bench.serve, bench.manifest)
            restarted = time.perf_counter()
            while not await service.healthy():
                assert time.perf_counter() - restarted < 5.0
                await asyncio.sleep(0.05)
            return caught.value, elapsed_s

        error, elapsed_s = ask(bench, question)
        assert error.reason is UnavailableReason.UNREACHABLE
        assert elapsed_s < 1.0
        assert bench.server.port == port
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def test_dead_model_process_is_noticed_and_reloaded(self, bench: Bench) -> None:
        """ModelReady may stay true: only an inference with a known answer tells."""
        stubs(bench)[0].kill()
        assert not ask(bench, lambda service: service.healthy())
        with bench.admin() as admin:
            admin.unload(tuple(reversed(bench.manifest.served_names)))
        bench.serve(bench.manifest)
        assert ask(bench, lambda service: service.healthy())

    def test_nothing_of_it_outlives_a_killed_owner(self, running: Bench, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys, psutil\n"
            "from pathlib import Path\n"
            "from fx_dagster.settings import Settings\n"
            "from resources.model_repository import ModelRepository\n"
            "from resources.servers.triton import TritonServer\n"
            "from resources.triton import serve_release\n"
            "settings = Settings(home=Path(sys.argv[1]))\n"
            "repository = Path(sys.argv[2])\n"
            "server = TritonServer(settings, repository)\n"
            "server.start()\n"
            "serve_release(server.url, server.secret, ModelRepository(repository).manifest(1))\n"
            "print(server.pid, *(c.pid for c in psutil.Process(server.pid).children(recursive=True)), flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        # No pipe: the server would inherit nothing of it, but a hanging one must not hang the test.
        said = tmp_path / "pids"
        with said.open("w") as out:
            arguments = [sys.executable, "-c", code, str(tmp_path), str(running.settings.model_repository)]
            done = subprocess.run(arguments, stdout=out, cwd=Path(__file__).parents[2], timeout=60)
        assert done.returncode == -signal.SIGKILL
        pids = [int(word) for word in said.read_text().split()]
        assert len(pids) >= 3
        deadline = time.monotonic() + 10
        while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            assert time.monotonic() < deadline, f"still running: {pids}"
            time.sleep(0.1)
        clean_shared_memory()
        own = f"_{os.getpid()}_"
        left = [path.name for path in SHARED_MEMORY.glob("fx_triton_*") if own not in path.name]
        assert [name for name in left if not psutil.pid_exists(int(name.split("_")[2]))] == []

    def test_taken_port_is_named(self, bench: Bench, tmp_path: Path) -> None:
        settings = Settings(home=tmp_path, triton=TritonSettings(port=bench.server.port))
        with pytest.raises(PortInUseError, match=rf"port {bench.server.port} is taken by tritonserver.*FX_TRITON_PORT"):
            TritonServer(settings).start()

    def test_server_that_cannot_start_says_why(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server = TritonServer(Settings(home=tmp_path))
        monkeypatch.setattr(
            TritonServer, "_arguments", lambda self, runtime: [str(runtime / "bin" / "tritonserver"), "--nonsense"]
        )
        with pytest.raises(
            ServerError, match=r"Triton ended with exit code 1: .*nonsense.* → its log is .*triton\.log"
        ):
            server.start()
        assert not server.alive
