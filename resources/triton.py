"""Triton's gRPC: one call a micro-batch for the live session, and the few calls that load models.

Every call has a deadline. What goes wrong is a :class:`~fx_dagster.models.service.ModelCallError` with its reason.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from fx_dagster.errors import FeatureMismatchError, ReleaseError, ServerError
from fx_dagster.models.graph import inputs_of
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.release import ENSEMBLE, SIMPLE, ReleaseManifest
from fx_dagster.models.service import ModelAnswer, ModelCallError, UnavailableReason, validated

CANARY_DEADLINE_S = 0.5
LOADED_DEADLINE_S = 5.0
"""For the first answer of a release that was just loaded."""
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
        self._identity = manifest.digest()
        self._canary = manifest.canary.inputs()
        self._parts = {
            True: _Part.of(manifest, manifest.ensemble, manifest.models, manifest.outputs()),
            False: _Part.of(manifest, manifest.simple, manifest.simple_models, manifest.outputs(whole=False)),
        }
        self._client = grpc_aio.InferenceServerClient(url, channel_args=CHANNEL_OPTIONS)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the direction models, in the order of an answer's columns."""
        return self._manifest.models

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols that the release was trained on."""
        return self._manifest.symbols

    @property
    def release(self) -> int:
        """Number of the release that answers."""
        return self._manifest.version

    @property
    def identity(self) -> str:
        """Digest of the release's manifest: a number may have been given twice, by different installations."""
        return self._identity

    @property
    def feature_hash(self) -> str:
        """Hash of the feature catalogue that the release was trained on."""
        return self._manifest.feature_hash

    async def predict(self, inputs: ModelInputs, *, deadline_s: float, whole: bool = True) -> ModelAnswer:
        """Return what the models say of N rows: one call of the release's graph for up to 1,024 rows.

        Args:
            inputs: the rows.
            deadline_s: seconds until the answer is of no use.
            whole: ask all models, where the release has more than the simple ones; else only these, and only
                ``features`` are sent.

        Raises:
            ModelCallError: no usable answer within ``deadline_s``.
            FeatureMismatchError: the rows have other shapes than the release takes.
        """
        began = time.perf_counter()
        whole = whole and self._manifest.has_ensemble
        part = self._parts[whole]
        outputs = await self._outputs(part, inputs, deadline_s)
        found = validated(outputs, part.models, len(inputs), part.outputs)
        latency_ms = (time.perf_counter() - began) * 1e3
        return ModelAnswer(
            part.models, found.p_up, found.extras, found.explained, self.release, latency_ms, found.discarded, whole
        )

    async def _outputs(self, part: "_Part", inputs: ModelInputs, deadline_s: float) -> dict[str, object]:
        """Return every tensor that came; without rows, empty ones."""
        self._require_shapes(part, inputs)
        if not len(inputs):
            return {name: np.empty((0, 1), dtype=np.float32) for name in part.outputs}
        blocks = [inputs]
        if len(inputs) > BATCH_MAX:
            places = np.arange(len(inputs))
            blocks = [inputs.take(places[first : first + BATCH_MAX]) for first in range(0, len(inputs), BATCH_MAX)]
        results = await asyncio.gather(*(self._call(part, part.request(block), deadline_s) for block in blocks))
        parts = [_arrays(result, part.outputs) for result in results]
        return {name: _joined([arrays.get(name) for arrays in parts]) for name in part.outputs}

    def _require_shapes(self, part: "_Part", inputs: ModelInputs) -> None:
        for name in part.inputs:
            wanted, given = getattr(self._canary, name).shape[1:], getattr(inputs, name).shape[1:]
            if wanted != given:
                raise FeatureMismatchError(
                    f"release {self.release} takes {name} of {list(wanted)} a row, got {list(given)}",
                    mend="compute the features with the catalogue that the release was trained on",
                )

    async def bare_call_ms(self, inputs: ModelInputs, *, deadline_s: float, whole: bool = True) -> float:
        """Return how long the call alone takes, in milliseconds: request built before, answer not looked at.

        Raises:
            ModelCallError: no answer within ``deadline_s``.
        """
        part = self._parts[whole]
        request = part.request(inputs)
        began = time.perf_counter()
        await self._call(part, request, deadline_s)
        return (time.perf_counter() - began) * 1e3

    async def healthy(self, *, whole: bool = True) -> bool:
        """Whether the canary's recorded answers come back, to the release's tolerance.

        Args:
            whole: of every model; else of the simple ones, which may still answer when others do not.
        """
        try:
            return await self.difference(deadline_s=CANARY_DEADLINE_S, whole=whole) <= self._manifest.tolerance
        except ModelCallError:
            return False

    async def difference(self, *, deadline_s: float, whole: bool = True) -> float:
        """Return by how much the canary's answers differ from the recorded ones, at most.

        Raises:
            ModelCallError: no answer within ``deadline_s``.
        """
        outputs = await self._outputs(self._parts[whole], self._canary, deadline_s)
        return self._manifest.canary.difference(outputs)

    async def close(self) -> None:
        """Release the connection."""
        await self._client.close()

    async def _call(self, part: "_Part", request: Sequence[Any], deadline_s: float) -> Any:
        try:
            # gRPC's own deadline runs in its thread; ours also ends a call that this loop itself delays.
            async with asyncio.timeout(deadline_s):
                return await self._client.infer(
                    part.name,
                    request,
                    model_version=str(self.release),
                    outputs=part.requested,
                    client_timeout=deadline_s,
                )
        except TimeoutError as error:
            raise ModelCallError(UnavailableReason.DEADLINE, f"no answer within {deadline_s * 1e3:.0f} ms") from error
        except InferenceServerException as error:
            raise _call_error(error) from error
        except grpc.RpcError as error:
            raise ModelCallError(UnavailableReason.UNREACHABLE, f"{part.name}: {error}") from error


@dataclass(frozen=True)
class _Part:
    """An ensemble of a release: what it is asked and with what."""

    name: str
    models: tuple[str, ...]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    requested: list[Any]

    @classmethod
    def of(cls, manifest: ReleaseManifest, name: str, models: tuple[str, ...], outputs: tuple[str, ...]) -> "_Part":
        members = manifest.simple_models if name == manifest.simple else manifest.members
        requested = [grpc_aio.InferRequestedOutput(output) for output in outputs]
        return cls(name, models, outputs, inputs_of(members), requested)

    def request(self, inputs: ModelInputs) -> list[Any]:
        """Return the tensors that it takes, as gRPC sends them."""
        tensors = inputs.tensors()
        return [_tensor(name, tensors[name]) for name in self.inputs]


def _tensor(name: str, values: NDArray) -> Any:
    tensor = grpc_aio.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return tensor.set_data_from_numpy(values)


_DTYPES: Mapping[str, type] = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}


def _arrays(result: Any, names: Sequence[str]) -> dict[str, NDArray]:
    """Return the outputs that can be read as arrays; the client's own way looks through all of them for each."""
    response = result.get_response()
    arrays: dict[str, NDArray] = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        try:
            arrays[output.name] = np.frombuffer(raw, _DTYPES[output.datatype]).reshape(tuple(output.shape))
        except (KeyError, ValueError):  # another type, or not as many bytes as its shape says
            continue
    return {name: arrays[name] for name in names if name in arrays}


def _joined(parts: Sequence[NDArray | None]) -> object:
    arrays = [part for part in parts if part is not None]
    if len(arrays) < len(parts) or any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
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
    """Load a release and prove that all of it answers as recorded; return the largest difference.

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
        if not difference <= manifest.tolerance:
            admin.unload(tuple(reversed(manifest.served_names)))
            raise ReleaseError(
                f"release {manifest.version} answers otherwise than recorded: by {difference:.2e}, "
                f"allowed is {manifest.tolerance:.0e}",
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
    return name.startswith((f"{SIMPLE}-r", f"{ENSEMBLE}-r"))


def _load(admin: TritonAdmin, manifest: ReleaseManifest) -> None:
    try:
        admin.load(manifest.served_names)
    except ReleaseError:
        admin.unload(tuple(reversed(manifest.served_names)))
        raise


async def _canary_difference(url: str, manifest: ReleaseManifest) -> float:
    """Return the largest difference of the whole graph and of the simple models alone."""
    service = TritonModelService(url, manifest)
    try:
        return max([await service.difference(deadline_s=LOADED_DEADLINE_S, whole=whole) for whole in (True, False)])
    except ModelCallError as error:
        raise ReleaseError(f"release {manifest.version} does not answer: {error}", mend="see Triton's log") from error
    finally:
        await service.close()
