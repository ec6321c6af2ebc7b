"""Measured drift of the live features in PostgreSQL: the drift asset adds rows, the live session goes by the newest.

Drift moves slowly and is measured once an hour; the session looks for a newer row every half minute, beside its
decisions. How old a measurement may be is counted in the market's time: a replay that runs a thousand times as fast as
the market leaves its measurements behind as fast.
"""

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from typing import Final, Self

import psycopg

from fx_dagster.errors import FxError
from fx_dagster.market.timeframes import DAY_NS
from fx_dagster.settings import Settings
from resources.postgres import connect

REFRESH_S: Final = 30.0
"""How often the live session looks for a newer measurement."""
RECORD: Final = """
INSERT INTO drift (account, release, feature_hash, symbol, measured_until, drift) VALUES (%s, %s, %s, %s, %s, %s)
"""
NEWEST: Final = """
SELECT measured_until, drift FROM drift
WHERE account = %s AND release = %s AND feature_hash = %s AND symbol = '' ORDER BY id DESC LIMIT 1
"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DriftMeasurement:
    """How far an account's live features have drifted from those that a release learned on.

    Attributes:
        account: whose decisions were looked at.
        release: number of the release.
        feature_hash: of its features.
        measured_until: market time (ns UTC) that the account's session had reached.
        drift: 0 none … 1 strong.
        symbol: of which; empty: all of the account together.
    """

    account: str
    release: int
    feature_hash: str
    measured_until: int
    drift: float
    symbol: str = ""

    def at(self, clock: int, *, age_max_ns: int) -> float:
        """Return the drift as known at market time ``clock`` (ns UTC); NaN where it is too old, or of later."""
        return self.drift if 0 <= clock - self.measured_until <= age_max_ns else math.nan


class DriftStore:
    """Measurements of one installation.

    Args:
        url: PostgreSQL, as in ``FX_POSTGRES_URL``. The tables must be there: :func:`resources.postgres.migrate`.

    Every method raises ServerError where the server does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def record(self, measured: DriftMeasurement) -> None:
        """Add a measurement, for good.

        Raises:
            psycopg.errors.CheckViolation: its drift is not in [0, 1].
        """
        values = (
            measured.account, measured.release, measured.feature_hash, measured.symbol, measured.measured_until,
            measured.drift,
        )  # fmt: skip
        with connect(self._url, name="fx drift") as connection:
            connection.execute(RECORD, values)

    def newest(self, account: str, release: int, feature_hash: str) -> DriftMeasurement | None:
        """Return the newest measurement of all symbols together; None: of that release and features there is none."""
        with connect(self._url, name="fx drift") as connection:
            row = connection.execute(NEWEST, (account, release, feature_hash)).fetchone()
        return DriftMeasurement(account, release, feature_hash, int(row[0]), float(row[1])) if row else None


class LiveDrift:
    """The newest measurement of an account, for its session.

    Args:
        store: has the measurements.
        account: whose session it is.
        age_max_ns: market time after which a measurement says nothing any more.
        refresh_s: how often a newer one is looked for.
    """

    def __init__(self, store: DriftStore, account: str, *, age_max_ns: int, refresh_s: float = REFRESH_S) -> None:
        self._store = store
        self._account = account
        self._age_max_ns = age_max_ns
        self._refresh_s = refresh_s
        self._of: tuple[int, str] | None = None
        self._measured: DriftMeasurement | None = None
        self._next_s = 0.0
        self._problem = ""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the drift of an installation's live account."""
        store = DriftStore(settings.postgres.url.get_secret_value())
        return cls(store, settings.live.account, age_max_ns=int(settings.drift.live_age_days * DAY_NS))

    async def refresh(self, release: int, feature_hash: str) -> None:
        """Look for a newer measurement of a release; what is known stays known while PostgreSQL is away."""
        wanted, now_s = (release, feature_hash), time.monotonic()
        if wanted == self._of and now_s < self._next_s:
            return
        try:
            found = await asyncio.to_thread(self._store.newest, self._account, release, feature_hash)
        except (FxError, psycopg.Error) as error:
            if not self._problem:
                _log.warning("the drift of the features cannot be read: %s", error)
            self._problem = str(error)
            return
        self._of, self._measured, self._next_s, self._problem = wanted, found, now_s + self._refresh_s, ""

    def at(self, clock: int, *, release: int, feature_hash: str) -> float:
        """Return the drift from what a release learned on, as known at market time ``clock`` (ns UTC), 0 … 1.

        NaN: nothing is known of that release and features, or what is known is too old.
        """
        if self._measured is None or self._of != (release, feature_hash):
            return math.nan
        return self._measured.at(clock, age_max_ns=self._age_max_ns)
