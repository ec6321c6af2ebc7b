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
from fx_dagster.models.answer import EXTRAS
from fx_dagster.models.graph import run_graph
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.protocol import ModelArtifact
from fx_dagster.models.quantise import quantise
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

# Test modules import their helper beside them; importmode=importlib does not look there.
sys.path.insert(0, str(Path(__file__).parents[1] / "resources"))
from release_models import SYMBOLS, inputs, networks, trees

pytestmark = pytest.mark.integration

F = 24
ROWS = inputs(2_600, F)
TOLERANCE = 1e-5
PATIENT_S = 5.0
T = TypeVar("T")
DEADLINE_S = 0.02


def runs(pid: int) -> bool:
    """Return whether a process runs, and is not only waiting to be reaped."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def own_regions() -> int:
    """Return how many regions of shared memory the servers of this process have."""
    return len(list(SHARED_MEMORY.glob(f"fx_triton_{os.getpid()}_*")))


@dataclass
class Bench:
    """A running server with release 1, and what it was made of."""

    settings: Settings
    server: TritonServer
    repository: ModelRepository
    artifacts: list[ModelArtifact]
    manifest: ReleaseManifest

    def serve(self, manifest: ReleaseManifest) -> float:
        return serve_release(self.server.url, self.server.secret, manifest)

    def build(self, artifacts: list[ModelArtifact] | None = None) -> ReleaseManifest:
        version = self.repository.versions()[-1] + 1
        return made(self.repository, version, artifacts or self.artifacts)

    def admin(self) -> contextlib.closing[TritonAdmin]:
        return contextlib.closing(TritonAdmin(self.server.url, self.server.secret))


def made(repository: ModelRepository, version: int, artifacts: list[ModelArtifact]) -> ReleaseManifest:
    return repository.build(version, artifacts, ROWS, symbols=SYMBOLS, metrics={}, lineage={})


def part(rows: int) -> ModelInputs:
    return ROWS.take(np.arange(rows))


@pytest.fixture(scope="module")
def running() -> Iterator[Bench]:
    home = Path(tempfile.mkdtemp(prefix="fx triton "))
    settings = Settings(home=home)
    artifacts = [*(ModelArtifact.of(model) for model in trees(F)), *networks(F, ppo=True)]
    repository = ModelRepository(settings.model_repository)
    manifest = made(repository, 1, artifacts)
    server = TritonServer(settings)
    try:
        server.start()
        yield Bench(settings, server, repository, artifacts, manifest)
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


def refused(bench: Bench, rows: ModelInputs, deadline_s: float) -> tuple[ModelCallError, float]:
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
    def test_one_call_of_the_whole_graph_equals_onnx_runtime(self, bench: Bench, rows: int) -> None:
        answer = ask(bench, lambda service: service.predict(part(rows), deadline_s=PATIENT_S))
        local = run_graph(bench.artifacts, part(rows).tensors())
        assert answer.models == ("xgboost", "random_forest", "lstm", "cnn", "meta")
        assert (answer.release, answer.discarded, answer.complete, answer.whole) == (1, (), True, True)
        assert answer.latency_ms > 0
        p_up = np.column_stack([local[f"p_up_{name}"] for name in answer.models])
        assert np.abs(answer.p_up - p_up).max() <= TOLERANCE
        extras = dict(zip(EXTRAS, answer.extras.T, strict=True))
        assert np.array_equal(extras["regime"], 1 + local["regime"].argmax(axis=1))
        assert np.abs(extras["attention"] - (2 * local["p_up_attention"][:, 0] - 1)).max() <= TOLERANCE
        for name, tensor, column in (
            ("confidence", "confidence", 0), ("size", "size", 0),
            ("enter", "timing", 0), ("exit_long", "timing", 1), ("exit_short", "timing", 2),
        ):  # fmt: skip
            assert np.abs(extras[name] - local[tensor][:, column]).max() <= TOLERANCE
        assert set(answer.explained) == {
            "regime", "expected_return", "prophet_return", "patterns", "attention_weights",
        }  # fmt: skip
        for name, values in answer.explained.items():
            assert np.abs(values - local[name]).max() <= TOLERANCE

    def test_all_models_are_asked_in_one_call_each(self, bench: Bench) -> None:
        """Triton's own scheduler runs the graph: a client's call is one inference of each member."""

        def counts() -> dict[str, int]:
            headers = {"triton-grpc-protocol-fx-key": bench.server.secret}
            with contextlib.closing(grpc_client.InferenceServerClient(bench.server.url)) as client:
                found = client.get_inference_statistics(headers=headers).model_stats
            return {model.name: int(model.inference_stats.success.count) for model in found}

        before = counts()
        ask(bench, lambda service: service.predict(part(3), deadline_s=PATIENT_S))
        after = counts()
        asked = {*bench.manifest.served_names} - {bench.manifest.simple}
        assert {name: after[name] - before[name] for name in after} == {name: int(name in asked) for name in after}

    def test_the_simple_models_are_asked_alone(self, bench: Bench) -> None:
        answer = ask(bench, lambda service: service.predict(part(9), deadline_s=PATIENT_S, whole=False))
        local = run_graph(bench.artifacts, part(9).tensors())
        assert (answer.models, answer.whole, answer.complete) == (("xgboost", "random_forest"), False, True)
        p_up = np.column_stack([local[f"p_up_{name}"] for name in answer.models])
        assert np.abs(answer.p_up - p_up).max() <= TOLERANCE
        assert np.isnan(answer.extras).all()
        assert not answer.explained

    def test_an_unknown_symbol_is_answered(self, bench: Bench) -> None:
        rows = part(6)
        unknown = rows.with_symbol(np.full(6, -1, dtype=np.int64))
        answers = [
            ask(bench, lambda service, asked=asked: service.predict(asked, deadline_s=PATIENT_S))
            for asked in (rows, unknown)
        ]
        assert answers[1].complete
        lstm = answers[1].models.index("lstm")
        assert (answers[0].p_up[:, lstm] != answers[1].p_up[:, lstm]).all()

    def test_nan_from_one_model_costs_what_stands_on_it_and_no_more(self, bench: Bench) -> None:
        chart = ROWS.chart[:4].copy()
        chart[2] = np.nan
        rows = replace(part(4), chart=chart)
        answer = ask(bench, lambda service: service.predict(rows, deadline_s=PATIENT_S))
        good = ask(bench, lambda service: service.predict(part(4), deadline_s=PATIENT_S))
        assert set(answer.discarded) == {"p_up_cnn", "patterns", "p_up_meta", "confidence", "size", "timing"}
        places = [answer.models.index(name) for name in ("xgboost", "random_forest", "lstm")]
        assert np.array_equal(answer.p_up[:, places], good.p_up[:, places])
        assert np.isnan(np.delete(answer.p_up, places, axis=1)).all()
        stands = [EXTRAS.index(name) for name in ("regime", "attention")]
        assert np.array_equal(answer.extras[:, stands], good.extras[:, stands])
        assert np.isnan(np.delete(answer.extras, stands, axis=1)).all()

    def test_a_bare_call_takes_less_than_a_whole_question(self, bench: Bench) -> None:
        bare_ms = ask(bench, lambda service: service.bare_call_ms(part(2), deadline_s=PATIENT_S))
        assert 0 < bare_ms < PATIENT_S * 1e3

    @pytest.mark.parametrize("whole", [True, False])
    def test_no_rows_need_no_server(self, bench: Bench, *, whole: bool) -> None:
        answer = ask(bench, lambda service: service.predict(part(0), deadline_s=DEADLINE_S, whole=whole))
        assert answer.p_up.shape == (0, 5 if whole else 2)

    def test_several_calls_at_once_get_their_own_answers(self, bench: Bench) -> None:
        parts = [ROWS.take(np.arange(start, start + 5)) for start in range(0, 200, 5)]

        async def question(service: TritonModelService) -> list[np.ndarray]:
            answers = await asyncio.gather(*(service.predict(part, deadline_s=PATIENT_S) for part in parts))
            return [answer.p_up for answer in answers]

        found = np.concatenate(ask(bench, question))
        local = run_graph(bench.artifacts, part(200).tensors())
        names = ("xgboost", "random_forest", "lstm", "cnn", "meta")
        assert np.abs(found - np.column_stack([local[f"p_up_{name}"] for name in names])).max() <= TOLERANCE

    def test_no_call_of_a_long_row_of_calls_is_stalled(self, bench: Bench) -> None:
        """With a queue policy, Triton's batcher loses a wake-up once in 300 requests and answers 500 ms later."""

        async def question(service: TritonModelService) -> list[float]:
            rows = part(6)
            return [(await service.predict(rows, deadline_s=PATIENT_S)).latency_ms for _ in range(400)]

        latencies_ms = ask(bench, question)
        assert max(latencies_ms) < 400
        assert np.median(latencies_ms) < 20

    def test_memory_of_the_model_processes_does_not_grow(self, bench: Bench) -> None:
        async def question(service: TritonModelService) -> list[int]:
            sizes, thousand = [], part(1_000)
            for _ in range(3):
                for _ in range(60):
                    await service.predict(thousand, deadline_s=PATIENT_S)
                sizes.append(sum(stub.memory_info().rss for stub in stubs(bench)))
            return sizes

        _, warm, after = ask(bench, question)
        # 60 calls carry 180 MB of sequences to lstm and attention alone.
        assert after - warm < 16 * 1024 * 1024

    def test_health_is_a_known_answer(self, bench: Bench) -> None:
        assert ask(bench, lambda service: service.healthy())
        canary = bench.manifest.canary
        half = [[0.5]] * 4
        wrong = replace(bench.manifest, canary=Canary(canary.tensors, {**canary.outputs, "p_up_cnn": half}))
        assert not ask(replace(bench, manifest=wrong), lambda service: service.healthy())
        assert ask(replace(bench, manifest=wrong), lambda service: service.healthy(whole=False))
        wrong = replace(bench.manifest, canary=Canary(canary.tensors, {**canary.outputs, "p_up_xgboost": half}))
        assert not ask(replace(bench, manifest=wrong), lambda service: service.healthy(whole=False))


class TestRefusals:
    def test_rows_of_another_width(self, bench: Bench) -> None:
        narrow = replace(part(3), features=ROWS.features[:3, :20])
        with pytest.raises(FeatureMismatchError, match=r"takes features of \[24\] a row, got \[20\]"):
            ask(bench, lambda service: service.predict(narrow, deadline_s=DEADLINE_S))

    def test_a_release_that_is_not_loaded(self, bench: Bench) -> None:
        missing = replace(bench, manifest=replace(bench.manifest, version=77))
        error, _ = refused(missing, part(1), PATIENT_S)
        assert error.reason is UnavailableReason.REFUSED
        assert "ensemble-r77" in str(error)

    @pytest.mark.parametrize(
        ("rows", "kind"), [(ROWS.features[:2].astype(np.float64), "FP64"), (ROWS.features[:2, :5], "FP32")]
    )
    def test_wrong_tensors_spoil_no_other_request(self, bench: Bench, rows: np.ndarray, kind: str) -> None:
        with contextlib.closing(grpc_client.InferenceServerClient(bench.server.url)) as client:
            tensor = grpc_client.InferInput("features", list(rows.shape), kind).set_data_from_numpy(rows)
            with pytest.raises(InferenceServerException, match="features"):
                client.infer(bench.manifest.simple, [tensor], client_timeout=PATIENT_S)
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

    def test_a_model_that_triton_refuses_leaves_the_old_release_untouched(self, bench: Bench) -> None:
        manifest = bench.build()
        path = bench.repository.root / f"attention-r{manifest.version}" / "config.pbtxt"
        path.write_text(path.read_text().replace("dims: 48", "dims: 47"))
        with pytest.raises(ReleaseError, match=r"Triton refuses attention-r\d+: .*sequence.* is tensor\(float\)"):
            bench.serve(manifest)
        with bench.admin() as admin:
            assert admin.loaded() == sorted(bench.manifest.served_names)
        assert ask(bench, lambda service: service.healthy())

    def test_without_one_member_the_simple_models_answer(self, bench: Bench) -> None:
        with bench.admin() as admin:
            admin.unload([bench.manifest.served_name("cnn")])
        error, _ = refused(bench, part(2), PATIENT_S)
        assert error.reason is UnavailableReason.REFUSED
        assert not ask(bench, lambda service: service.healthy())
        assert ask(bench, lambda service: service.healthy(whole=False))
        assert ask(bench, lambda service: service.predict(part(2), deadline_s=PATIENT_S, whole=False)).complete

    def test_a_release_of_the_simple_models_alone(self, bench: Bench) -> None:
        simple = replace(bench, manifest=bench.build(bench.artifacts[:2]))
        bench.serve(simple.manifest)
        answer = ask(simple, lambda service: service.predict(part(3), deadline_s=PATIENT_S))
        assert (answer.models, answer.whole, answer.complete) == (("xgboost", "random_forest"), False, True)
        assert ask(simple, lambda service: service.healthy())

    def test_int8_networks_are_served(self, bench: Bench) -> None:
        told = part(64).tensors()
        small = [
            quantise(each, told).with_metrics({"int8": {"served": True}}) if each.name in ("lstm", "cnn") else each
            for each in bench.artifacts
        ]
        manifest = bench.build(small)
        assert bench.serve(manifest) <= TOLERANCE
        assert manifest.quantised == ("lstm", "cnn")
        answers = [
            ask(replace(bench, manifest=each), lambda service: service.predict(part(20), deadline_s=PATIENT_S))
            for each in (bench.manifest, manifest)
        ]
        difference = np.abs(answers[0].p_up - answers[1].p_up).max(axis=0)
        assert 0 < difference[2] < 0.05
        assert 0 < difference[3] < 0.05
        assert difference[:2].max() == 0

    def test_other_answers_than_the_recorded_ones_are_refused(self, bench: Bench) -> None:
        manifest = bench.build()
        told = manifest.canary.answers() | {"p_up_meta": manifest.canary.answers()["p_up_meta"] + 1e-4}
        wrong = Canary.of(manifest.canary.inputs(), told)
        with pytest.raises(ReleaseError, match=r"answers otherwise than recorded: by 1\.00e-04"):
            bench.serve(replace(manifest, canary=wrong))
        with bench.admin() as admin:
            assert admin.loaded() == sorted(bench.manifest.served_names)

    def test_no_request_fails_while_a_release_is_loaded_beside(self, bench: Bench) -> None:
        manifest = bench.build()

        async def question(service: TritonModelService) -> int:
            loading = asyncio.create_task(asyncio.to_thread(bench.serve, manifest))
            answered = 0
            while not loading.done() or answered < 50:
                assert (await service.predict(part(3), deadline_s=PATIENT_S)).complete
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
                answer = await provider.service.predict(part(2), deadline_s=PATIENT_S) if provider.service else None
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
            lambda client: client.get_model_config("ensemble-r1"),
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
            error, elapsed_s = refused(bench, part(5), DEADLINE_S)
        finally:
            os.kill(bench.server.pid, signal.SIGCONT)
        assert error.reason is UnavailableReason.DEADLINE
        # One scheduler's hiccup of a busy machine beside the deadline.
        assert elapsed_s < DEADLINE_S + 0.15
        assert ask(bench, lambda service: service.healthy())

    def test_killed_server_is_unreachable_at_once_and_back_on_the_same_port(self, bench: Bench) -> None:
        deadline = time.monotonic() + 60.0
        while len(children := stubs(bench)) != len(bench.artifacts):  # those of a release before may still be ending
            assert time.monotonic() < deadline, [child.cmdline() for child in children]
            time.sleep(0.1)
        port, regions = bench.server.port, own_regions()

        async def question(service: TritonModelService) -> tuple[ModelCallError, float]:
            await service.predict(part(1), deadline_s=PATIENT_S)
            bench.server.kill()
            began = time.perf_counter()
            with pytest.raises(ModelCallError) as caught:
                await service.predict(part(1), deadline_s=PATIENT_S)
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
        assert own_regions() <= regions, "the killed one's shared memory is still there"

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
        deadline = time.monotonic() + 60  # a model's process notices by itself, when it gets to run
        while left := [pid for pid in pids if runs(pid)]:
            assert time.monotonic() < deadline, f"still running: {left}"
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
