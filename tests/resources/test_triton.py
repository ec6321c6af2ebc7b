"""What can be said of Triton's adapter without a server."""

import asyncio
import platform
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from fx_dagster.errors import FeatureMismatchError, ServerError, UnsupportedPlatformError
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.release import Canary, ReleaseManifest
from fx_dagster.models.service import ModelCallError, UnavailableReason
from fx_dagster.settings import Settings, TritonSettings
from resources.servers import triton as server
from resources.triton import TritonModelService, _call_error, serve_release

ROW = ModelInputs(
    features=np.zeros((1, 2), dtype=np.float32),
    sequence=np.zeros((1, 3, 2), dtype=np.float32),
    chart=np.zeros((1, 1, 5, 4), dtype=np.float32),
    time=np.zeros(1, dtype=np.int64),
    symbol=np.zeros(1, dtype=np.int64),
)
MANIFEST = ReleaseManifest(
    version=1,
    created_at="2017-12-29T22:00:00+00:00",
    models=("xgboost", "cnn"),
    members=("xgboost", "cnn"),
    symbols=("EURUSD",),
    quantised=(),
    device="cpu",
    feature_names=("a", "b"),
    feature_hash="c0ffee",
    files={},
    canary=Canary.of(ROW, dict.fromkeys(("p_up_xgboost", "p_up_cnn", "patterns"), np.full((1, 1), 0.5))),
    metrics={},
    lineage={},
    cards={},
)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def failed(url: str, deadline_s: float) -> tuple[UnavailableReason, float]:
    service = TritonModelService(url, MANIFEST)
    began = time.perf_counter()
    with pytest.raises(ModelCallError) as caught:
        await service.predict(ROW, deadline_s=deadline_s)
    elapsed_s = time.perf_counter() - began
    assert not await service.healthy()
    assert not await service.healthy(whole=False)
    await service.close()
    return caught.value.reason, elapsed_s


def test_no_server_is_unreachable_or_late_but_never_slower_than_the_deadline() -> None:
    reason, elapsed_s = asyncio.run(failed(f"127.0.0.1:{closed_port()}", 1.0))
    assert reason is UnavailableReason.UNREACHABLE
    assert elapsed_s < 1.2


def test_a_socket_that_never_answers_costs_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        reason, elapsed_s = asyncio.run(failed(f"127.0.0.1:{silent.getsockname()[1]}", 0.1))
    assert reason is UnavailableReason.DEADLINE
    assert 0.09 < elapsed_s < 0.4


def test_rows_of_other_shapes_are_refused_before_any_call() -> None:
    async def asked(rows: ModelInputs, *, whole: bool) -> None:
        service = TritonModelService("127.0.0.1:9", MANIFEST)
        try:
            await service.predict(rows, deadline_s=0.1, whole=whole)
        finally:
            await service.close()

    with pytest.raises(FeatureMismatchError, match=r"release 1 takes features of \[2\] a row, got \[5\]"):
        asyncio.run(asked(replace(ROW, features=np.zeros((1, 5), np.float32)), whole=False))
    narrow = replace(ROW, chart=np.zeros((1, 1, 5, 3), np.float32))
    with pytest.raises(FeatureMismatchError, match=r"takes chart of \[1, 5, 4\] a row, got \[1, 5, 3\]"):
        asyncio.run(asked(narrow, whole=True))
    # The simple models do not look at charts.
    with pytest.raises(ModelCallError):
        asyncio.run(asked(narrow, whole=False))


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        ("StatusCode.UNAVAILABLE", "failed to connect to all addresses", UnavailableReason.UNREACHABLE),
        ("StatusCode.UNAVAILABLE", "Socket closed", UnavailableReason.UNREACHABLE),
        ("StatusCode.UNAVAILABLE", "Request for unknown model: 'x' is not found", UnavailableReason.REFUSED),
        ("StatusCode.UNAVAILABLE", "Exceeds maximum queue size", UnavailableReason.REFUSED),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", UnavailableReason.DEADLINE),
        ("StatusCode.INVALID_ARGUMENT", "unexpected shape", UnavailableReason.REFUSED),
        ("StatusCode.INTERNAL", "ONNX Runtime: …", UnavailableReason.REFUSED),
    ],
)
def test_reasons(status: str, message: str, reason: UnavailableReason) -> None:
    assert _call_error(InferenceServerException(message, status=status)).reason is reason


def test_serving_without_a_server_is_a_server_error() -> None:
    with pytest.raises(ServerError, match="Triton at 127"):
        serve_release(f"127.0.0.1:{closed_port()}", "", MANIFEST)


def test_external_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(ServerError, match=r"does not answer within 0\.2 s → correct FX_TRITON_URL"):
        server.require_external(f"127.0.0.1:{closed_port()}", timeout_s=0.2)


def test_other_machines_are_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "aarch64")
        with pytest.raises(UnsupportedPlatformError, match="this is linux aarch64 → set FX_TRITON_URL"):
            server.require_runtime()
    with monkeypatch.context() as patch:
        patch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
        with pytest.raises(UnsupportedPlatformError, match=r"needs glibc 2\.35, this is 2\.31"):
            server.require_runtime()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "prefix", str(tmp_path))
        with pytest.raises(UnsupportedPlatformError, match=r"no Triton runtime in .* → make setup"):
            server.require_runtime()


def test_secret_of_no_server(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no embedded Triton runs here → start it: fx up"):
        server.read_secret(Settings(home=tmp_path))
    assert server.read_secret(Settings(home=tmp_path, triton=TritonSettings(url="gpu.example:8001"))) == ""


def test_shared_memory_of_the_dead_is_removed_and_of_the_living_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SHARED_MEMORY", tmp_path)
    for name in ("fx_triton_999999999_8001_a", "fx_triton_1_8001_b", "fx_triton_x_8001_c", "other"):
        (tmp_path / name).touch()
    server.clean_shared_memory()
    assert {path.name for path in tmp_path.iterdir()} == {"fx_triton_1_8001_b", "fx_triton_x_8001_c", "other"}
