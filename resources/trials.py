"""The ledger of trials in PostgreSQL: rows are added and never changed, which the database itself sees to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from fx_dagster.backtest.overfitting import moments
from fx_dagster.backtest.trials import NO_DAYS, Daily, Origin, Trial, TrialKind
from resources.postgres import connect

RECORD = """
INSERT INTO trial (
    kind, asset, run_id, source, symbols, timeframe, feature_hash, fingerprint, configuration, trainings, span_start,
    span_end, metrics, days, sharpe, skewness, kurtosis, day_numbers, system_returns, control_returns
) VALUES (
    %(kind)s, %(asset)s, %(run_id)s, %(source)s, %(symbols)s, %(timeframe)s, %(feature_hash)s, %(fingerprint)s,
    %(configuration)s, %(trainings)s, %(span_start)s, %(span_end)s, %(metrics)s, %(days)s, %(sharpe)s, %(skewness)s,
    %(kurtosis)s, %(day_numbers)s, %(system_returns)s, %(control_returns)s
) ON CONFLICT (run_id, kind, asset) DO NOTHING
"""
NUMBER = "SELECT id FROM trial WHERE (run_id, kind, asset) = (%(run_id)s, %(kind)s, %(asset)s)"
LIST = """
SELECT id, recorded_at, kind, asset, run_id, source, symbols, timeframe, feature_hash, configuration, span_start,
    span_end, metrics, fingerprint, trainings, day_numbers, system_returns, control_returns
FROM trial WHERE source = %s AND timeframe = %s ORDER BY id
"""


@dataclass(frozen=True)
class TrialRow:
    """One recorded materialisation."""

    id: int
    recorded_at: datetime
    trial: Trial


class TrialLedger:
    """Trials of one installation.

    Args:
        url: PostgreSQL, as in ``FX_POSTGRES_URL``. The tables must be there: :func:`resources.postgres.migrate`.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def record(self, trial: Trial) -> int:
        """Record a materialisation and return its number; the same one again (run, kind, asset) keeps its first.

        Raises:
            ServerError: the server does not answer.
        """
        row = _row(trial)
        with self._connect() as connection:
            connection.execute(RECORD, row)
            return int(connection.execute(NUMBER, row).fetchall()[0][0])

    def list(self, source: str, timeframe: str) -> "list[TrialRow]":
        """Return all materialisations of a source and base timeframe, the newest last.

        Raises:
            ServerError: the server does not answer.
        """
        with self._connect() as connection:
            return [_read(row) for row in connection.execute(LIST, (source, timeframe)).fetchall()]

    def _connect(self) -> psycopg.Connection:
        return connect(self._url, name="fx trials")


def _row(trial: Trial) -> dict[str, Any]:
    origin, daily, found = trial.origin, trial.daily, moments(trial.daily.system)
    tried = trial.kind is TrialKind.BACKTEST
    return {
        "kind": trial.kind.value,
        "asset": origin.asset,
        "run_id": origin.run_id,
        "source": origin.source,
        "symbols": list(origin.symbols),
        "timeframe": origin.timeframe,
        "feature_hash": origin.feature_hash,
        "fingerprint": trial.fingerprint,
        "configuration": Jsonb(trial.configuration),
        "trainings": list(trial.trainings),
        "span_start": trial.start,
        "span_end": trial.end,
        "metrics": Jsonb(trial.metrics),
        "days": len(daily.day) if tried else None,
        "sharpe": found.sharpe if found else None,
        "skewness": found.skewness if found else None,
        "kurtosis": found.kurtosis if found else None,
        "day_numbers": daily.day.astype("<i8").tobytes() if tried else None,
        "system_returns": daily.system.astype("<f8").tobytes() if tried else None,
        "control_returns": daily.control.astype("<f8").tobytes() if tried else None,
    }


def _read(row: Sequence[Any]) -> TrialRow:
    number, at, kind, asset, run_id, source, symbols, timeframe, feature_hash, *rest = row
    configuration, start, end, metrics, fingerprint, trainings, *days = rest
    trial = Trial(
        kind=TrialKind(kind),
        origin=Origin(asset, run_id, source, tuple(symbols), timeframe, feature_hash),
        configuration=configuration,
        start=start,
        end=end,
        metrics=metrics,
        fingerprint=fingerprint,
        trainings=tuple(trainings),
        daily=NO_DAYS if days[0] is None else Daily(*map(np.frombuffer, days, ("<i8", "<f8", "<f8"))),
    )
    return TrialRow(int(number), at, trial)
