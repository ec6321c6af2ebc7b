"""Which release the live session asks, the connection to it, and how far the features have drifted from it.

One row in PostgreSQL says which release is active. It is read beside the decisions, never by one; a switch takes
effect at the next decision after it was seen. The old connection is closed only when no call can wait on it any more.
What was measured of one release's drift says nothing of another's: from the switch on it is unknown, until the next
measurement.
"""

import asyncio
import math
import time
from typing import Final

import psycopg

from fx_dagster.errors import FxError
from fx_dagster.models.service import ModelService
from resources.drift_store import LiveDrift
from resources.releases import ReleaseStore
from resources.triton import TritonModelService

GRACE_S: Final = 5.0
"""A connection that was replaced stays open so long: beyond every deadline, of a warm-up too."""


class ReleasedModels:
    """Implements ModelProvider and DriftGauge of :mod:`fx_dagster.live.protocols` over PostgreSQL and Triton.

    Args:
        store: knows the active release.
        triton_url: ``host:port`` of Triton's gRPC; empty: there is no server.
        pinned: release that is asked whatever is active, as in a trial in shadow; None: the active one.
        drift: knows what was measured of the account; None: nobody looks, and drift is unknown.
    """

    def __init__(
        self, store: ReleaseStore, triton_url: str, *, pinned: int | None = None, drift: LiveDrift | None = None
    ) -> None:
        self._pinned = pinned
        self._drift = drift
        self._retired: list[tuple[float, TritonModelService]] = []
        self._store = store
        self._triton_url = triton_url
        self._service: TritonModelService | None = None
        self._problem = "" if triton_url else "no model server: FX_TRITON_URL is not set"

    @property
    def service(self) -> ModelService | None:
        """The service of the active release."""
        return self._service

    @property
    def problem(self) -> str:
        """Why there is no service; empty: there is, or nobody looked yet."""
        return self._problem

    def drift_at(self, clock: int) -> float:
        """Return the features' drift from what the release that is asked learned on, at ``clock`` (ns UTC), 0 … 1.

        NaN: unknown.
        """
        service = self._service
        if service is None or self._drift is None:
            return math.nan
        return self._drift.at(clock, release=service.release, feature_hash=service.feature_hash)

    async def refresh(self) -> None:
        """Look which release is active, and for its drift; what is known stays in use while PostgreSQL is away."""
        await self._close_retired()
        if not self._triton_url:
            return
        try:
            version = self._pinned or await asyncio.to_thread(self._store.active)
            if version is None:
                await self._use(None, "no release is active")
            elif self._service is None or self._service.release != version:
                manifest = await asyncio.to_thread(self._store.manifest, version)
                await self._use(TritonModelService(self._triton_url, manifest), "")
        except (FxError, psycopg.Error) as error:
            if self._service is None:
                self._problem = f"the active release is not known: {error}"
        service = self._service
        if service is not None and self._drift is not None:
            await self._drift.refresh(service.release, service.feature_hash)

    async def _use(self, service: TritonModelService | None, problem: str) -> None:
        old, self._service, self._problem = self._service, service, problem
        if old is not None:
            self._retired.append((time.monotonic(), old))

    async def _close_retired(self, grace_s: float = GRACE_S) -> None:
        """Close connections that were replaced so long ago that every call over them has had its deadline."""
        until = time.monotonic() - grace_s
        over = [service for since, service in self._retired if since <= until]
        self._retired = [(since, service) for since, service in self._retired if since > until]
        for service in over:
            await service.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._use(None, self._problem)
        await self._close_retired(0.0)
