"""Triton's gRPC: one call a micro-batch for the live session, and the few calls that load models.

Every call has a deadline. What goes wrong is a :class:`~fx_dagster.models.service.ModelCallError` with its reason.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
from tritonclient.utils import InferenceServerException

from fx_dagster.errors import FeatureMismatchError, ReleaseError, ServerError
from fx_dagster.models.protocol import INPUT_NAME, OUTPUT_NAME, Float32
from fx_dagster.models.release import SIMPLE, ReleaseManifest
from fx_dagster.models.service import ModelAnswer, ModelCallError, UnavailableReason, validated

CANARY_TOLERANCE = 1e-5
CANARY_DEADLINE_S = 0.5
ADMIN_TIMEOUT_S = 60.0
BATCH_MAX = 1024
"""``max_batch_size`` of every served model."""

SECRET_HEADER = "triton-grpc-protocol-fx-key"  # noqa: S105 - a header's name

# A killed server comes back within seconds: do not let gRPC wait longer and longer before it tries again.
CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
]

_REASONS: Mapping[str, UnavailableReason] = {
    "StatusCode.UNAVAILABLE": UnavailableReason.UNREACHABLE,
    "StatusCode.DEADLINE_EXCEEDED": UnavailableReason.DEADLINE,
    "StatusCode.CANCELLED": UnavailableReason.DEADLINE,
}

_REFUSALS = ("unknown model", "no available versions", "is not ready", "maximum queue size", "server is stopping")
"""What Triton itself says under UNAVAILABLE, the status that gRPC also has for a server that is not there."""


class TritonModelService:
    """Answers of one release; implements :class:`fx_dagster.models.service.ModelService`.

    Args:
        url: ``host:port`` of the server's gRPC.
        manifest: the release that is asked.
    """

    def __init__(self, url: str, manifest: ReleaseManifest) -> None:
        self._manifest = manifest
        self._outputs = [grpc_aio.InferRequestedOutput(f"{OUTPUT_NAME}_{name}") for name in manifest.models]
        self._client = grpc_aio.InferenceServerClient(url, channel_args=CHANNEL_OPTIONS)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of an answer's columns."""
        return self._manifest.models

    @property
    def release(self) -> int:
        """Number of the release that answers."""
        return self._manifest.version

    @property
    def feature_hash(self) -> str:
        """Hash of the feature catalogue that the release was trained on."""
        return self._manifest.feature_hash

    async def predict(self, features: Float32, *, deadline_s: float) -> ModelAnswer:
        """Return the models' p(up) for float32 ``[n, F]``: one call of the release's ensemble for up to 1,024 rows.

        Raises:
            ModelCallError: no usable answer within ``deadline_s``.
            FeatureMismatchError: the rows have another number of features than the release.
        """
        began = time.perf_counter()
        self._require_width(features)
        if not len(features):
            return ModelAnswer(self.models, np.empty((0, len(self.models))), self.release, 0.0, (0,) * len(self.models))
        results = await self._results(features, deadline_s)
        outputs = {name: _joined([_array(result, name) for result in results]) for name in self.models}
        p_up, discarded = validated(outputs, self.models, len(features))
        latency_ms = (time.perf_counter() - began) * 1e3
        return ModelAnswer(self.models, p_up, self.release, latency_ms, discarded)

    async def _results(self, features: Float32, deadline_s: float) -> list[Any]:
        if len(features) <= BATCH_MAX:
            return [await self._call([_tensor(features)], deadline_s)]
        blocks = [features[first : first + BATCH_MAX] for first in range(0, len(features), BATCH_MAX)]
        return await asyncio.gather(*(self._call([_tensor(block)], deadline_s) for block in blocks))

    def _require_width(self, features: Float32) -> None:
        wanted = len(self._manifest.feature_names)
        if features.ndim != 2 or features.shape[1] != wanted:
            raise FeatureMismatchError(
                f"release {self.release} takes rows of {wanted} features, got {list(features.shape)}",
                mend="compute the features with the catalogue that the release was trained on",
            )

    async def bare_call_ms(self, features: Float32, *, deadline_s: float) -> float:
        """Return how long the call alone takes, in milliseconds: request built before, answer not looked at.

        Raises:
            ModelCallError: no answer within ``deadline_s``.
        """
        request = [_tensor(features)]
        began = time.perf_counter()
        await self._call(request, deadline_s)
        return (time.perf_counter() - began) * 1e3

    async def healthy(self) -> bool:
        """Whether the canary's recorded answers come back, to 1e-5."""
        canary = self._manifest.canary
        try:
            answer = await self.predict(canary.inputs(), deadline_s=CANARY_DEADLINE_S)
        except ModelCallError:
            return False
        difference = np.abs(answer.p_up - canary.answers(self.models))
        return bool((difference <= CANARY_TOLERANCE).all())

    async def close(self) -> None:
        """Release the connection."""
        await self._client.close()

    async def _call(self, inputs: Sequence[Any], deadline_s: float) -> Any:
        try:
            # gRPC's own deadline runs in its thread; ours also ends a call that this loop itself delays.
            async with asyncio.timeout(deadline_s):
                return await self._client.infer(
                    self._manifest.ensemble,
                    inputs,
                    model_version=str(self.release),
                    outputs=self._outputs,
                    client_timeout=deadline_s,
                )
        except TimeoutError as error:
            raise ModelCallError(UnavailableReason.DEADLINE, f"no answer within {deadline_s * 1e3:.0f} ms") from error
        except InferenceServerException as error:
            raise _call_error(error) from error
        except grpc.RpcError as error:
            raise ModelCallError(UnavailableReason.UNREACHABLE, f"{self._manifest.ensemble}: {error}") from error


def _tensor(features: Float32) -> Any:
    tensor = grpc_aio.InferInput(INPUT_NAME, list(features.shape), "FP32")
    return tensor.set_data_from_numpy(np.ascontiguousarray(features, dtype=np.float32))


def _array(result: Any, model: str) -> object:
    """Return a model's output; what cannot be read as an array is no answer of that model."""
    try:
        return result.as_numpy(f"{OUTPUT_NAME}_{model}")
    except ValueError:
        return None


def _joined(parts: Sequence[object]) -> object:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) < len(parts):
        return None
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _call_error(error: InferenceServerException) -> ModelCallError:
    text = str(error.message())
    reason = _REASONS.get(str(error.status()), UnavailableReason.REFUSED)
    if any(phrase in text for phrase in _REFUSALS):
        reason = UnavailableReason.REFUSED
    return ModelCallError(reason, text, mend="fx status shows the server, its log says more")


class TritonAdmin:
    """Loads and unloads models; needs the server's secret.

    Args:
        url: ``host:port`` of the server's gRPC.
        secret: what the embedded server was started with; empty for a server that asks for none.
    """

    def __init__(self, url: str, secret: str = "") -> None:
        self._client = grpc_client.InferenceServerClient(url, channel_args=CHANNEL_OPTIONS)
        self._headers = {SECRET_HEADER: secret} if secret else None
        self.url = url

    def load(self, names: Sequence[str]) -> None:
        """Load models, in that order; a model that is loaded already and unchanged stays as it is.

        Raises:
            ReleaseError: the server refuses one; the message carries its reason.
            ServerError: the server does not answer.
        """
        for name in names:
            try:
                self._client.load_model(name, headers=self._headers, client_timeout=ADMIN_TIMEOUT_S)
            except InferenceServerException as error:
                if str(error.status()) in _REASONS:
                    raise self._away(error) from error
                raise ReleaseError(f"Triton refuses {name}: {error.message()}", mend="its log says more") from error

    def unload(self, names: Sequence[str]) -> None:
        """Unload models; one that is not loaded is no error.

        Raises:
            ServerError: the server does not answer or refuses.
        """
        for name in names:
            try:
                self._client.unload_model(name, headers=self._headers, client_timeout=ADMIN_TIMEOUT_S)
            except InferenceServerException as error:
                raise self._away(error) from error

    def ready(self, name: str, version: int) -> bool:
        """Whether that version answers requests.

        Raises:
            ServerError: the server does not answer.
        """
        try:
            return bool(self._client.is_model_ready(name, str(version), client_timeout=5.0))
        except InferenceServerException as error:
            raise self._away(error) from error

    def loaded(self) -> list[str]:
        """Return the names of the models that are loaded.

        Raises:
            ServerError: the server does not answer.
        """
        try:
            index = self._client.get_model_repository_index(headers=self._headers, client_timeout=5.0)
        except InferenceServerException as error:
            raise self._away(error) from error
        return sorted({model.name for model in index.models if model.state == "READY"})

    def version(self) -> str:
        """Return the server's version.

        Raises:
            ServerError: the server does not answer.
        """
        try:
            return str(self._client.get_server_metadata(client_timeout=5.0).version)
        except InferenceServerException as error:
            raise self._away(error) from error

    def close(self) -> None:
        """Release the connection."""
        self._client.close()

    def _away(self, error: InferenceServerException) -> ServerError:
        if "restricted" in str(error.message()):
            return ServerError(
                f"Triton at {self.url} does not take this secret: {error.message()}",
                mend="it was started anew, or by another FX_HOME: try again, or start it again with fx up",
            )
        return ServerError(f"Triton at {self.url}: {error.message()}", mend="fx status shows the servers")


def serve_release(url: str, secret: str, manifest: ReleaseManifest) -> float:
    """Load a release and prove that it answers as recorded; return the largest difference.

    What was loaded before stays loaded. The caller has verified the files:
    :meth:`resources.model_repository.ModelRepository.verify`.

    Raises:
        ReleaseError: a model does not load, or answers otherwise than it did when the release was made; its models are
            unloaded again.
        ServerError: the server does not answer.
    """
    admin = TritonAdmin(url, secret)
    try:
        _load(admin, manifest)
        difference = asyncio.run(_canary_difference(url, manifest))
        if not difference <= CANARY_TOLERANCE:
            admin.unload(tuple(reversed(manifest.served_names)))
            raise ReleaseError(
                f"release {manifest.version} answers otherwise than recorded: by {difference:.2e}, "
                f"allowed is {CANARY_TOLERANCE:.0e}",
                mend="the earlier release goes on serving; train and release again",
            )
    finally:
        admin.close()
    return difference


def unload_releases(url: str, secret: str, keep: Collection[ReleaseManifest]) -> list[str]:
    """Unload every model that belongs to none of the releases to keep; return the names.

    Raises:
        ServerError: the server does not answer.
    """
    kept = {name for manifest in keep for name in manifest.served_names}
    admin = TritonAdmin(url, secret)
    try:
        # Ensembles first: none may be left without its members.
        names = sorted((name for name in admin.loaded() if name not in kept), key=lambda name: not _is_ensemble(name))
        admin.unload(names)
    finally:
        admin.close()
    return names


def _is_ensemble(name: str) -> bool:
    return name.startswith(f"{SIMPLE}-r")


def _load(admin: TritonAdmin, manifest: ReleaseManifest) -> None:
    try:
        admin.load(manifest.served_names)
    except ReleaseError:
        admin.unload(tuple(reversed(manifest.served_names)))
        raise


async def _canary_difference(url: str, manifest: ReleaseManifest) -> float:
    service = TritonModelService(url, manifest)
    try:
        answer = await service.predict(manifest.canary.inputs(), deadline_s=5.0)
    except ModelCallError as error:
        raise ReleaseError(f"release {manifest.version} does not answer: {error}", mend="see Triton's log") from error
    finally:
        await service.close()
    difference = np.abs(answer.p_up - manifest.canary.answers(manifest.models))
    return float(np.nan_to_num(difference, nan=np.inf).max())
