"""Asks the models for a micro-batch, and always has an answer in time: what they say, or why they say nothing.

Every decision has one deadline. The whole graph is asked first. Where it refuses at once, the simple models are asked
with the time that is left; where it lets the deadline pass, that decision stands without models, and from the next one
on the simple models alone are asked. After a few failures of these nothing is asked, so that decisions do not wait for
nothing. Meanwhile both are probed in the background, with the rows that were asked about last, until they are back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from fx_dagster.errors import FeatureMismatchError
from fx_dagster.live.protocols import Clock, ModelProvider
from fx_dagster.live.stuck import StuckWatch
from fx_dagster.models.answer import EXTRAS, SIMPLE_MODELS
from fx_dagster.models.inputs import UNKNOWN_SYMBOL, ModelInputs
from fx_dagster.models.protocol import Float64
from fx_dagster.models.service import (
    ModelAnswer,
    ModelCallError,
    ModelService,
    UnavailableReason,
    require_same_features,
)

FAILURES_MAX = 3
WATCH_S = 0.5
WARM_UP_S = 2.0
SECOND_SHARE = 0.25
"""Part of the deadline that must be left for a second question."""


@runtime_checkable
class BareCaller(Protocol):
    """A service that can time the bare call: request built before, answer not looked at."""

    async def bare_call_ms(self, inputs: ModelInputs, *, deadline_s: float) -> float:
        """Return the call's milliseconds; raises ModelCallError."""
        ...


@runtime_checkable
class Fronted(Protocol):
    """A service in front of another one, such as a cache."""

    @property
    def direct(self) -> ModelService:
        """The service behind: to learn whether it works, it has to be asked itself."""
        ...


@dataclass(frozen=True)
class Asked:
    """What came back.

    Attributes:
        values: float64 ``[n, M + 7]``: p(up) of the desk's models, then :data:`fx_dagster.models.answer.EXTRAS`; NaN:
            absent.
        release: number of the release that answered; None: none did.
        latency_ms: how long the decision waited; None: nothing was asked.
        problem: why some or all are absent; empty: none is.
        explained: what else the models tell a person, float64 ``[n, w]`` by name.
        whole: whether the whole graph answered.
    """

    values: Float64
    release: int | None
    latency_ms: float | None
    problem: str
    explained: Mapping[str, Float64] = field(default_factory=dict)
    whole: bool = False


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
        self.models = models
        self._provider = provider
        self._feature_hash = feature_hash
        self._deadline_s = deadline_s
        self._clock = clock
        self._failures = 0
        self._problem = ""
        self._whole_problem = ""
        self._judged: ModelService | None = None
        self._judgement = self._lacking = ""
        self._places: dict[str, int] = {}
        self._last: ModelInputs | None = None
        self._stuck = StuckWatch()
        self.failed_calls = 0

    @property
    def problem(self) -> str:
        """Why the models, or some of them, do not answer now or say nothing, as far as is known; empty: they do."""
        standing = "; ".join(cause for cause in (self._lacking, self._stuck.problem) if cause)
        return self._refusal() or self._problem or self._whole_problem or standing

    async def ask(self, inputs: ModelInputs, symbols: Sequence[str]) -> Asked:
        """Return what the models say of some rows, or why they say nothing, within the deadline.

        Args:
            inputs: the rows; their ``symbol`` is not looked at.
            symbols: the rows' canonical symbols.
        """
        service = self._provider.service
        refusal = self._refusal()
        if service is None or refusal or not len(inputs):
            return self._without(inputs, refusal)
        if self._failures >= FAILURES_MAX:
            return self._without(inputs, f"not asked after {self._failures} failures: {self._problem}")
        began = self._clock.monotonic_ns()
        self._last = placed = self._placed(inputs, symbols)
        asks_whole, answer = not self._whole_problem, None
        if asks_whole:
            answer = await self._ask_whole(service, placed)
        left_s = self._deadline_s - self._since(began) / 1e3
        if answer is None and (not asks_whole or left_s >= SECOND_SHARE * self._deadline_s):
            answer = await self._ask_simple(service, placed, left_s)
        if answer is None:
            return self._without(inputs, self._problem or self._whole_problem, self._since(began))
        values = self._values(answer)
        self._stuck.look(placed.features, answer)
        problem = self._judge_answer(answer)
        return Asked(values, answer.release, self._since(began), problem, answer.explained, answer.whole)

    async def _ask_whole(self, service: ModelService, inputs: ModelInputs) -> ModelAnswer | None:
        try:
            return await service.predict(inputs, deadline_s=self._deadline_s)
        except ModelCallError as error:
            self.failed_calls += 1
            self._whole_problem = f"{error.reason}: the whole graph of release {service.release} gave no answer"
            if error.reason is UnavailableReason.DEADLINE:
                self._whole_problem += f" within {self._deadline_s * 1e3:.0f} ms"
            return None

    async def _ask_simple(self, service: ModelService, inputs: ModelInputs, left_s: float) -> ModelAnswer | None:
        try:
            return await service.predict(inputs, deadline_s=left_s, whole=False)
        except ModelCallError as error:
            self._fail(f"{error.reason}: release {service.release} gave no answer")
            return None

    def _judge_answer(self, answer: ModelAnswer) -> str:
        """Return why the answer is not complete; a simple model that answers nonsense is a failure."""
        discarded = f"bad_answer: discarded {', '.join(answer.discarded)}" if answer.discarded else ""
        if not _has_simple(answer):
            self._fail(discarded or f"bad_answer: release {answer.release} lacks a simple model's probabilities")
            discarded = self._problem
        else:
            self._failures, self._problem = 0, ""
            self.failed_calls += bool(discarded)
        causes = (discarded, "" if answer.whole else self._whole_problem, self._lacking)
        return "; ".join(cause for cause in causes if cause)

    def _values(self, answer: ModelAnswer) -> Float64:
        """Return an answer in the decision's columns; models that are not in it are absent."""
        values = np.full((len(answer.p_up), len(self.models) + len(EXTRAS)), np.nan)
        for column, name in enumerate(self.models):
            if name in answer.models:
                values[:, column] = answer.p_up[:, answer.models.index(name)]
        values[:, len(self.models) :] = answer.extras
        return values

    def _without(self, inputs: ModelInputs, problem: str, waited_ms: float | None = None) -> Asked:
        return Asked(np.full((len(inputs), len(self.models) + len(EXTRAS)), np.nan), None, waited_ms, problem)

    def _placed(self, inputs: ModelInputs, symbols: Sequence[str]) -> ModelInputs:
        """Return the rows with their symbols' places in the release that is asked."""
        places = [self._places.get(symbol, UNKNOWN_SYMBOL) for symbol in symbols]
        return inputs.with_symbol(np.array(places, dtype=np.int64))

    async def warm_up(self, inputs: ModelInputs, symbols: Sequence[str]) -> None:
        """Open the connection with patience, so that the first decision does not pay for it; counts for nothing."""
        await self._provider.refresh()
        service = self._provider.service
        if service is None or self._refusal() or not len(inputs):
            return
        placed = self._placed(inputs, symbols)
        for whole in (True, False):  # the smaller one is asked in need, when there is no time for a beginning
            try:
                await _direct(service).predict(placed, deadline_s=WARM_UP_S, whole=whole)
            except ModelCallError as error:
                self._problem = f"{error.reason}: release {service.release} gave no answer"

    async def bare_call_ms(self, inputs: ModelInputs, symbols: Sequence[str]) -> float | None:
        """Time one bare call with the decisions' own client; None where that is not possible now."""
        caller: object = self._provider.service
        if isinstance(caller, BareCaller) and not self._refusal() and not (self._failures or self._whole_problem):
            try:
                return await caller.bare_call_ms(self._placed(inputs, symbols), deadline_s=self._deadline_s)
            except ModelCallError:
                return None  # the next decision asks anyway, and says what is wrong
        return None

    async def watch(self) -> None:
        """Look for release changes, and probe models that failed; runs beside the engine."""
        while True:
            await self._provider.refresh()
            service = self._provider.service
            if service is not None and not self._refusal():
                await self._probe(service)
            await self._clock.sleep(WATCH_S)

    async def _probe(self, service: ModelService) -> None:
        """Ask again, for nothing but to know whether it works: the known answer, then the rows of the last question."""
        if self._whole_problem and await service.healthy() and await self._answers(service, whole=True):
            self._failures, self._problem, self._whole_problem = 0, "", ""
        if self._failures >= FAILURES_MAX and await self._answers(service, whole=False):
            self._failures, self._problem = 0, ""

    async def _answers(self, service: ModelService, *, whole: bool) -> bool:
        if self._last is None:
            return True
        try:
            answer = await _direct(service).predict(self._last, deadline_s=self._deadline_s, whole=whole)
        except ModelCallError:
            return False
        return service is self._provider.service and _has_simple(answer)

    def _refusal(self) -> str:
        service = self._provider.service
        if service is None:
            return self._provider.problem or "no release is active"
        if service is not self._judged:
            # A service is of one release for good, and a new one has failed nobody yet.
            self._judged, self._judgement = service, self._judge(service)
            self._failures, self._problem, self._whole_problem = 0, "", ""
            self._places = {symbol: place for place, symbol in enumerate(service.symbols)}
            self._last = None
            self._stuck.forget()
            lacking = [name for name in self.models if name not in service.models]
            self._lacking = f"release {service.release} has no {', '.join(lacking)}" if lacking else ""
        return self._judgement

    def _judge(self, service: ModelService) -> str:
        try:
            require_same_features(
                release=service.release, trained_hash=service.feature_hash, live_hash=self._feature_hash
            )
        except FeatureMismatchError as error:
            return f"feature_mismatch: {error}"
        missing = [name for name in self.models if name in SIMPLE_MODELS and name not in service.models]
        if missing:
            return f"refused: release {service.release} has no model {missing[0]}"
        return ""

    def _fail(self, problem: str) -> None:
        self._failures += 1
        self.failed_calls += 1
        self._problem = problem

    def _since(self, began_ns: int) -> float:
        return (self._clock.monotonic_ns() - began_ns) / 1e6


def _direct(service: ModelService) -> ModelService:
    return service.direct if isinstance(service, Fronted) else service


def _has_simple(answer: ModelAnswer) -> bool:
    """Return whether every simple model's probabilities stand."""
    simple = [answer.models.index(name) for name in SIMPLE_MODELS if name in answer.models]
    return len(simple) == len(SIMPLE_MODELS) and not np.isnan(answer.p_up[:, simple]).any()
