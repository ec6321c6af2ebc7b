"""What the summary says of a live session, found in its recorded decisions."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from fx_dagster.report.statistics import summarise_latency
from fx_dagster.report.summary import KillDrill, LiveSummary, level_counts


def summarise_live(
    decisions: pd.DataFrame,
    *,
    start: datetime,
    end: datetime,
    ticks: int,
    market_start: datetime | None = None,
    market_end: datetime | None = None,
    bare_call_ms: Sequence[float] = (),
    trades: int = 0,
    net_return: float | None = None,
    uptime: float | None = None,
    killed_at: datetime | None = None,
    server_back_at: datetime | None = None,
) -> LiveSummary:
    """Return the session's numbers; see :class:`fx_dagster.report.summary.LiveSummary` for the keys.

    Args:
        decisions: the DECISIONS frame of :class:`fx_dagster.report.inputs.ReportInputs`.
        start: wall-clock start of the session.
        end: its wall-clock end.
        ticks: taken in.
        market_start: market time of the first tick.
        market_end: market time of the last tick.
        bare_call_ms: durations of bare Triton calls.
        trades: closed paper trades.
        net_return: of the paper account.
        uptime: share of the time in which its market was open that the engine could decide.
        killed_at: when Triton was killed on purpose; None: it was not.
        server_back_at: when it answered again.
    """
    return LiveSummary(
        start=start,
        end=end,
        market_start=market_start,
        market_end=market_end,
        ticks=ticks,
        decisions=len(decisions),
        levels=level_counts(list(decisions["level"]), [str(reason or "") for reason in decisions["level_reason"]]),
        trades=trades,
        net_return=net_return,
        end_to_end=summarise_latency(_numbers(decisions["latency_total_ms"])),
        model_call=summarise_latency(_numbers(decisions["latency_model_ms"])),
        bare_call=summarise_latency(np.asarray(bare_call_ms, dtype=np.float64)),
        uptime=uptime,
        kill_drill=None if killed_at is None else find_drill(decisions, killed_at, server_back_at),
    )


def find_drill(decisions: pd.DataFrame, killed_at: datetime, server_back_at: datetime | None) -> KillDrill:
    """Find what the decisions did after the server was killed.

    The former level is that of the last decision before the kill. A decision that had begun before the kill and ended
    after it may still have had its answer: it is not counted as late.
    """
    killed_ns = int(killed_at.timestamp() * 1e6) * 1_000
    ordered = decisions.sort_values("decided_wall_ns", kind="stable", ignore_index=True)
    ended = ordered["decided_wall_ns"].to_numpy(dtype=np.int64)
    began = ended - (_numbers(ordered["latency_total_ms"]) * 1e6).astype(np.int64)
    level = ordered["level"].to_numpy(dtype=np.int64)
    before = np.flatnonzero(ended <= killed_ns)
    former = int(level[before[-1]]) if len(before) else 1
    after = np.flatnonzero(began > killed_ns)
    lower = after[level[after] > former]
    if not len(lower):
        return KillDrill(killed_at=killed_at, late=len(after), server_back_at=server_back_at)
    first = int(lower[0])
    back = after[(after > first) & (level[after] <= former)]
    return KillDrill(
        killed_at=killed_at,
        lower_at=_utc(ended[first]),
        lower_level=int(level[first]),
        lower_latency_ms=float(ordered["latency_total_ms"].iloc[first]),
        late=int(np.count_nonzero(after < first)),
        server_back_at=server_back_at,
        level_back_at=_utc(ended[back[0]]) if len(back) else None,
    )


def _numbers(column: pd.Series) -> np.ndarray:
    return np.asarray(pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan))


def _utc(wall_ns: np.int64) -> datetime:
    return datetime.fromtimestamp(int(wall_ns) / 1e9, tz=UTC)
