"""Asks the models for a micro-batch, and always has an answer in time: probabilities, or why there are none.

Every call has the deadline. After a few failures in a row the desk stops asking, so that decisions do not wait for
nothing, and probes with the canary in the background until the models are back.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from fx_dagster.errors import FeatureMismatchError
from fx_dagster.live.protocols import Clock, ModelProvider
from fx_dagster.models.protocol import Float32, Float64
from fx_dagster.models.service import ModelCallError, ModelService, require_same_features

FAILURES_MAX = 3
WATCH_S = 0.5
WARM_UP_S = 2.0


@runtime_checkable
class BareCaller(Protocol):
    """A service that can time the bare call: request built before, answer not looked at."""

    async def bare_call_ms(self, features: Float32, *, deadline_s: float) -> float:
        """Return the call's milliseconds; raises ModelCallError."""
        ...


@dataclass(frozen=True)
class Asked:
    """What came back.

    Attributes:
        p_up: float64 ``[n, m]``; NaN: absent.
        release: number of the release that answered; None: none did.
        latency_ms: how long the decision waited; None: nothing was asked.
        problem: why some or all are absent; empty: none is.
    """

    p_up: Float64
    release: int | None
    latency_ms: float | None
    problem: str


class ModelDesk:
    """Between the engine and whoever serves the models.

    Args:
        provider: knows the active release's service.
        feature_hash: of the catalogue that this engine computes; a release of another is refused.
        models: names that the decision step wants, in the order of its columns.
        deadline_s: longest that a decision waits.
        clock: this machine's time.
    """

    def __init__(
        self, provider: ModelProvider, *, feature_hash: str, models: tuple[str, ...], deadline_s: float, clock: Clock
    ) -> None:
        self._provider = provider
        self._feature_hash = feature_hash
        self._models = models
        self._deadline_s = deadline_s
        self._clock = clock
        self._failures = 0
        self._problem = ""
        self._judged: ModelService | None = None
        self._judgement = ""
        self.failed_calls = 0

    @property
    def problem(self) -> str:
        """Why the models do not answer now, as far as is known; empty: they do."""
        return self._refusal() or self._problem

    async def ask(self, features: Float32) -> Asked:
        """Return the models' probabilities for float32 ``[n, F]``, or why there are none, within the deadline."""
        service = self._provider.service
        refusal = self._refusal()
        if service is None or refusal:
            return self._without(features, refusal)
        if self._failures >= FAILURES_MAX:
            return self._without(features, f"not asked after {self._failures} failures: {self._problem}")
        began = self._clock.monotonic_ns()
        try:
            answer = await service.predict(features, deadline_s=self._deadline_s)
        except ModelCallError as error:
            self._fail(f"{error.reason}: release {service.release} gave no answer")
            return self._without(features, self._problem, self._since(began))
        if not answer.complete:
            names = [name for name, bad in zip(answer.models, answer.discarded, strict=True) if bad]
            self._fail(f"bad_answer: discarded {', '.join(names)}")
        else:
            self._failures, self._problem = 0, ""
        p_up = answer.p_up
        if answer.models != self._models:
            p_up = p_up[:, [answer.models.index(name) for name in self._models]]
        return Asked(p_up, answer.release, self._since(began), self._problem)

    def _without(self, features: Float32, problem: str, waited_ms: float | None = None) -> Asked:
        return Asked(np.full((len(features), len(self._models)), np.nan), None, waited_ms, problem)

    async def warm_up(self, features: Float32) -> None:
        """Open the connection with patience, so that the first decision does not pay for it; counts for nothing."""
        await self._provider.refresh()
        service = self._provider.service
        if service is None or self._refusal():
            return
        try:
            await service.predict(features, deadline_s=WARM_UP_S)
        except ModelCallError as error:
            self._problem = f"{error.reason}: release {service.release} gave no answer"

    async def bare_call_ms(self, features: Float32) -> float | None:
        """Time one bare call with the decisions' own client; None where that is not possible now."""
        caller: object = self._provider.service
        if isinstance(caller, BareCaller) and not self._refusal() and not self._failures:
            try:
                return await caller.bare_call_ms(features, deadline_s=self._deadline_s)
            except ModelCallError:
                return None  # the next decision asks anyway, and says what is wrong
        return None

    async def watch(self) -> None:
        """Look for release changes, and probe models that failed; runs beside the engine."""
        while True:
            await self._provider.refresh()
            service = self._provider.service
            if self._failures >= FAILURES_MAX and service is not None and not self._refusal():
                await self._probe(service)
            await self._clock.sleep(WATCH_S)

    async def _probe(self, service: ModelService) -> None:
        if await service.healthy():
            self._failures, self._problem = 0, ""

    def _refusal(self) -> str:
        service = self._provider.service
        if service is None:
            return self._provider.problem or "no release is active"
        if service is not self._judged:
            # A service is of one release for good.
            self._judged, self._judgement = service, self._judge(service)
        return self._judgement

    def _judge(self, service: ModelService) -> str:
        try:
            require_same_features(
                release=service.release, trained_hash=service.feature_hash, live_hash=self._feature_hash
            )
        except FeatureMismatchError as error:
            return f"feature_mismatch: {error}"
        missing = [name for name in self._models if name not in service.models]
        if missing:
            return f"refused: release {service.release} has no model {missing[0]}"
        return ""

    def _fail(self, problem: str) -> None:
        self._failures += 1
        self.failed_calls += 1
        self._problem = problem

    def _since(self, began_ns: int) -> float:
        return (self._clock.monotonic_ns() - began_ns) / 1e6
