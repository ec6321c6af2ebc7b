"""A release's answers from the first cache level, in front of the server that gives them.

Rows that were answered in the last minute are answered from memory; only the others are asked. A decision does not
wait for the shared cache, with two exceptions: while this process has no answer yet, and when the server gave none, it
is looked, for :data:`READ_S` at most, whether another session was told something of the very same rows by the same
release.
"""

import time
from collections.abc import Sequence

import numpy as np

from fx_dagster.live.caches import (
    FEATURES,
    PREDICTIONS,
    Event,
    FeatureRow,
    Identified,
    Level,
    PredictedRow,
    answer_of,
    features_key,
    prediction_keys,
    rows_of,
)
from fx_dagster.live.model_desk import BareCaller
from fx_dagster.live.protocols import ModelProvider
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.service import ModelAnswer, ModelCallError, ModelService, UnavailableReason
from resources.cache import LiveCache

READ_S = 0.002
"""Longest that a decision waits for the shared cache."""


class CachedModels:
    """One release's answers; implements :class:`fx_dagster.models.service.ModelService`.

    Args:
        service: asked for rows that are not known.
        cache: keeps what it answered.
        identity: digest of the release's manifest (:class:`fx_dagster.live.caches.Identified`).
    """

    def __init__(self, service: ModelService, cache: LiveCache, *, identity: str) -> None:
        self._service = service
        self._cache = cache
        self._identity = identity
        self._published: dict[str, int] = {}

    @property
    def direct(self) -> ModelService:
        """The service behind: to learn whether it works, it has to be asked itself."""
        return self._service

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the release's direction models."""
        return self._service.models

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols that the release was trained on."""
        return self._service.symbols

    @property
    def release(self) -> int:
        """Number of the release that answers."""
        return self._service.release

    @property
    def feature_hash(self) -> str:
        """Hash of the feature catalogue that the release was trained on."""
        return self._service.feature_hash

    async def predict(self, inputs: ModelInputs, *, deadline_s: float, whole: bool = True) -> ModelAnswer:
        """Return what the models say of N rows, in their order: from memory, or as the server answers.

        Args:
            inputs: the rows.
            deadline_s: seconds until the answer is of no use.
            whole: ask the whole graph; else only the simple models. Each is kept apart.

        Raises:
            ModelCallError: no usable answer within ``deadline_s``, and none of every row that was not known.
        """
        began = time.perf_counter()
        if not len(inputs):
            return await self._service.predict(inputs, deadline_s=deadline_s, whole=whole)
        self._publish(inputs)
        keys = prediction_keys(
            inputs, identity=self._identity, release=self.release, feature_hash=self.feature_hash, whole=whole
        )
        rows = await self._known(keys, deadline_s)
        missing = [place for place, row in enumerate(rows) if row is None]
        doubted = None
        if missing:
            try:
                answer = await self._ask(inputs, missing, deadline_s - (time.perf_counter() - began), whole)
            except ModelCallError:
                self._fill(rows, missing, await self._others(keys, missing, deadline_s - (time.perf_counter() - began)))
                if any(row is None for row in rows):
                    raise
            else:
                told = rows_of(answer)
                self._keep(keys, missing, answer, told)
                if len(missing) == len(inputs):
                    return answer
                self._fill(rows, missing, dict(zip(missing, told, strict=True)))
                doubted = None if answer.complete else answer
        return answer_of([row for row in rows if row is not None], (time.perf_counter() - began) * 1e3, doubted)

    async def _known(self, keys: Sequence[str], deadline_s: float) -> list[PredictedRow | None]:
        """Return the row of each key that this process has; while it has none, also those of other sessions."""
        if not self._cache.is_empty(Level.PREDICTIONS):
            known = [self._cache.known(PREDICTIONS, key) for key in keys]
            return [row if row is not None and row.release == self.release else None for row in known]
        found = await self._fetched(keys, min(READ_S, 0.5 * deadline_s))
        return [found.get(key) for key in keys]

    async def _others(self, keys: Sequence[str], missing: Sequence[int], left_s: float) -> dict[int, PredictedRow]:
        """Return what other sessions were told of the missing rows, by place."""
        found = await self._fetched([keys[place] for place in missing], min(READ_S, left_s))
        return {place: found[keys[place]] for place in missing if keys[place] in found}

    async def _fetched(self, keys: Sequence[str], within_s: float) -> dict[str, PredictedRow]:
        found = await self._cache.fetch(PREDICTIONS, keys, within_s)
        usable = {key: row for key, row in found.items() if row.release == self.release}
        self._cache.counters.add(Level.PREDICTIONS, Event.SERVER_HIT, len(usable))
        return usable

    async def _ask(self, inputs: ModelInputs, missing: Sequence[int], left_s: float, whole: bool) -> ModelAnswer:
        self._cache.counters.add(Level.PREDICTIONS, Event.MISS, len(missing))
        asked = inputs if len(missing) == len(inputs) else inputs.take(np.array(missing))
        return await self._service.predict(asked, deadline_s=left_s, whole=whole)

    def _keep(
        self, keys: Sequence[str], missing: Sequence[int], answer: ModelAnswer, told: Sequence[PredictedRow]
    ) -> None:
        """Keep a complete answer of this release; what a model could not say now, it is asked again."""
        if answer.complete and answer.release == self.release and not np.isnan(answer.p_up).any():
            for place, row in zip(missing, told, strict=True):
                self._cache.keep(PREDICTIONS, keys[place], row)

    @staticmethod
    def _fill(rows: list[PredictedRow | None], missing: Sequence[int], found: dict[int, PredictedRow]) -> None:
        for place in missing:
            rows[place] = found.get(place)

    def _publish(self, inputs: ModelInputs) -> None:
        """Tell others the newest features of each symbol; of an older bar than before they are not."""
        for place, code in enumerate(inputs.symbol.tolist()):
            time_ns = int(inputs.time[place])
            if 0 <= code < len(self.symbols) and time_ns >= self._published.get(self.symbols[code], time_ns):
                symbol = self.symbols[code]
                self._published[symbol] = time_ns
                row = FeatureRow(symbol, time_ns, np.array(inputs.features[place], dtype=np.float32))
                self._cache.keep(FEATURES, features_key(self.feature_hash, self._cache.source, symbol), row)

    async def bare_call_ms(self, inputs: ModelInputs, *, deadline_s: float) -> float:
        """Return how long the bare call of the server takes, in milliseconds; no cache is looked at.

        Raises:
            ModelCallError: no answer within ``deadline_s``, or the service cannot tell.
        """
        service: object = self._service
        if isinstance(service, BareCaller):
            return await service.bare_call_ms(inputs, deadline_s=deadline_s)
        raise ModelCallError(UnavailableReason.REFUSED, "this service cannot time a bare call")

    async def healthy(self) -> bool:
        """Whether the server itself answers right."""
        return await self._service.healthy()

    async def close(self) -> None:
        """Close the service's connection; the cache may be another release's too, and stays open."""
        await self._service.close()


class CachedProvider:
    """A provider whose services are :class:`CachedModels`; implements ModelProvider.

    A service that does not tell which release it is (:class:`fx_dagster.live.caches.Identified`) is handed on as it is:
    its answers could be taken for another release's.

    Args:
        provider: knows the active release.
        cache: keeps what its services answer; None: nothing is kept.
    """

    def __init__(self, provider: ModelProvider, cache: LiveCache | None) -> None:
        self._provider = provider
        self._cache = cache
        self._behind: ModelService | None = None
        self._service: ModelService | None = None

    @property
    def service(self) -> ModelService | None:
        """The service of the active release, the same one as long as the release is."""
        behind = self._provider.service
        if behind is not self._behind:
            self._behind, self._service = behind, self._wrapped(behind)
        return self._service

    def _wrapped(self, behind: ModelService | None) -> ModelService | None:
        told: object = behind
        if behind is None or self._cache is None or not isinstance(told, Identified):
            return behind
        return CachedModels(behind, self._cache, identity=told.identity)

    @property
    def problem(self) -> str:
        """Why there is no service."""
        return self._provider.problem

    async def refresh(self) -> None:
        """Look which release is active."""
        await self._provider.refresh()
