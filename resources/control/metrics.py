"""Metrics in Prometheus's format, made from the newest status and decisions at each question; nothing is kept here.

Triton's own metrics are at its own port (``FX_TRITON_METRICS_PORT``): let Prometheus ask it directly.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from fx_dagster.decision.codes import Breaker, Stage
from fx_dagster.errors import FxError
from resources.alerts import outcome_of
from resources.control.reads import SessionReads
from resources.control.store import ControlStore
from resources.live_store import LiveStore

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
QUANTILES = {"0.5": "p50_ms", "0.9": "p90_ms", "0.99": "p99_ms", "1": "max_ms"}

_GAUGES = {
    "level": ("fx_level", "Fallback level: 1 all models … 4 emergency."),
    "equity": ("fx_equity", "Equity, in the account's currency."),
    "balance": ("fx_balance", "Balance, in the account's currency."),
    "positions": ("fx_positions", "Open positions."),
    "release": ("fx_release", "Release of models that answered last; 0: none."),
    "ticks_waiting": ("fx_queue_ticks", "Ticks that wait in the engine's queue."),
    "orders_open": ("fx_orders_open", "Orders at a real broker that are not at their end."),
    "orders_unknown": ("fx_orders_unknown", "Orders that the real broker may have or not."),
    "orders_held": ("fx_orders_held", "Orders that wait for a person's word."),
    "ticks_waiting_max": ("fx_queue_ticks_max", "Most ticks that ever waited in the engine's queue."),
}
_COUNTERS = {
    "decisions": ("fx_decisions", "Decisions of the session."),
    "orders": ("fx_orders", "Orders of the session."),
    "deals": ("fx_deals", "Deals of the session."),
    "orders_withheld": ("fx_orders_withheld", "Orders not sent: the journal did not confirm them in time."),
    "ticks": ("fx_ticks", "Ticks taken in."),
    "ticks_dropped": ("fx_ticks_dropped", "Ticks dropped from the engine's full queue."),
    "questions": ("fx_model_questions", "Questions to the models."),
    "model_failures": ("fx_model_failures", "Questions that the models did not answer in time and in range."),
    "gaps": ("fx_gaps", "Gaps of the tick stream inside sessions."),
}
_PROBLEMS = ("journal_problem", "model_problem", "feed_problem", "feed_remark", "broker_problem")


class SessionCollector:
    """Asks for the newest status when it is asked.

    Args:
        reads: rows of the account.
        live: its kill switch.
        store: its ceiling.
    """

    def __init__(self, reads: SessionReads, live: LiveStore, store: ControlStore) -> None:
        self._reads, self._live, self._store = reads, live, store

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is, depends on the session."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        account = self._reads.account
        try:
            row, kill = self._reads.status(), self._live.kill_state(account)
            ceiling = self._store.ceiling(account)
            decisions = self._reads.newest_by_symbol(int(row["session_id"])) if row else {}
        except FxError:
            yield _gauge("fx_store_up", "Whether PostgreSQL answers.", account, 0)
            return
        yield _gauge("fx_store_up", "Whether PostgreSQL answers.", account, 1)
        yield _gauge("fx_kill_switch", "Whether a person stopped the account.", account, int(kill.engaged))
        yield _gauge("fx_level_ceiling", "Best level that a person allows; 1: any.", account, ceiling.level)
        if row is None:
            return
        yield _gauge("fx_heartbeat_age_seconds", "Age of the engine's last heartbeat.", account, row["age_s"])
        yield _gauge(
            "fx_session_running", "Whether the session is unfinished.", account, int(row["session_state"] == "running")
        )
        yield from _of_status(account, row["status"])
        yield from _of_decisions(account, decisions)


def _gauge(name: str, text: str, account: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["account"])
    family.add_metric([account], value)
    return family


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _of_status(account: str, status: Mapping[str, Any]) -> Iterable[Metric]:
    for key, (name, text) in _GAUGES.items():
        if (value := _number(status.get(key))) is not None:
            yield _gauge(name, text, account, value)
    if (clock_ns := _number(status.get("clock_ns"))) is not None:
        text = "Market's clock, seconds since 1970; time() less this is the lag of ticks, in a live market."
        yield _gauge("fx_market_clock_seconds", text, account, clock_ns / 1e9)
    for key, (name, text) in _COUNTERS.items():
        if (value := _number(status.get(key))) is not None:
            counter = CounterMetricFamily(name, text, labels=["account"])
            counter.add_metric([account], value)
            yield counter
    levels = CounterMetricFamily(
        "fx_decisions_by_level", "Decisions of the session by level.", labels=["account", "level"]
    )
    for level in range(1, 5):
        if (value := _number(status.get(f"level_{level}"))) is not None:
            levels.add_metric([account, str(level)], value)
    yield levels
    rejected = CounterMetricFamily("fx_ticks_rejected", "Ticks not believed, by reason.", labels=["account", "reason"])
    for reason, count in sorted(_mapping(status.get("ticks_rejected")).items()):
        rejected.add_metric([account, str(reason)], _number(count) or 0.0)
    yield rejected
    problems = GaugeMetricFamily("fx_problem", "Whether the engine reports a problem.", labels=["account", "of"])
    for key in _PROBLEMS:
        problems.add_metric([account, key.removesuffix("_problem")], int(bool(status.get(key))))
    yield problems
    halted = status.get("symbols_halted")
    yield _gauge(
        "fx_symbols_halted",
        "Symbols whose quotes do not count.",
        account,
        len(halted) if isinstance(halted, list | tuple | dict) else 0,
    )
    yield from _latency(account, _mapping(status.get("latency")))
    yield from _caches(account, _mapping(status.get("caches")))


def _latency(account: str, stages: Mapping[str, Any]) -> Iterable[Metric]:
    """Quantiles as the engine has them and, where it hands its buckets over, the histogram.

    ``buckets`` are pairs of an upper bound in milliseconds and how many durations lie below it; ``sum_ms`` their sum.
    """
    quantiles = GaugeMetricFamily(
        "fx_latency_quantile_seconds", "Durations of the session by stage; tick: from its arrival to its decision.",
        labels=["account", "stage", "quantile"],
    )  # fmt: skip
    counts = CounterMetricFamily("fx_latency_observations", "Durations measured.", labels=["account", "stage"])
    histogram = HistogramMetricFamily("fx_latency_seconds", "Durations by stage.", labels=["account", "stage"])
    for stage, said in sorted(stages.items()):
        summary = _mapping(said)
        counts.add_metric([account, stage], _number(summary.get("n")) or 0.0)
        for quantile, key in QUANTILES.items():
            if (value := _number(summary.get(key))) is not None:
                quantiles.add_metric([account, stage, quantile], value / 1000)
        if isinstance(pairs := summary.get("buckets"), list) and pairs:
            bounds = [(f"{float(bound) / 1000:g}", float(count)) for bound, count in pairs]
            total = _number(summary.get("n")) or 0.0
            histogram.add_metric(
                [account, stage], [*bounds, ("+Inf", total)], (_number(summary.get("sum_ms")) or 0.0) / 1000
            )
    yield quantiles
    yield counts
    yield histogram


def _caches(account: str, caches: Mapping[str, Any]) -> Iterable[Metric]:
    rates = GaugeMetricFamily("fx_cache_hit_rate", "Hits over questions, 0 … 1.", labels=["account", "cache"])
    counts = CounterMetricFamily("fx_cache_events", "What the caches did.", labels=["account", "cache", "event"])
    for cache, said in sorted(caches.items()):
        for event, value in sorted(_mapping(said).items()):
            number = _number(value)
            if number is None:
                continue
            if event == "hit_rate":
                rates.add_metric([account, cache], number)
            else:
                counts.add_metric([account, cache, event], number)
    yield rates
    yield counts


def _of_decisions(account: str, decisions: Mapping[str, Mapping[str, Any]]) -> Iterable[Metric]:
    breakers = GaugeMetricFamily(
        "fx_breaker_symbols", "Symbols whose newest decision saw the breaker tripped.", labels=["account", "breaker"]
    )
    said = [outcome_of(row) for row in decisions.values()]
    for breaker in Breaker:
        name = (breaker.name or "").lower()
        breakers.add_metric([account, name], sum(name in (one.get("breakers") or ()) for one in said))
    yield breakers
    stages = [Stage[name] for one in said if (name := str(one.get("stage") or "").upper()) in Stage.__members__]
    yield _gauge("fx_drawdown_stage", "Drawdown stage: 0 none … 4 halt.", account, max(stages, default=0))
    drift = GaugeMetricFamily("fx_drift", "Drift of the features, 0 … 1.", labels=["account", "symbol"])
    for symbol, row in sorted(decisions.items()):
        if (value := _number(outcome_of(row).get("drift"))) is not None:
            drift.add_metric([account, symbol], value)
    yield drift


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


class ExtraCollector:
    """Numbers of the control server itself, as gauges.

    Args:
        ask: returns name and value; each name begins with ``fx_control_``.
    """

    def __init__(self, ask: "Any") -> None:
        self._ask = ask

    def describe(self) -> Iterable[Metric]:
        """Return nothing."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return them as they are now."""
        for name, (text, value) in self._ask().items():
            yield GaugeMetricFamily(name, text, value=value)


def exposition(*collectors: Any) -> bytes:
    """Return what the collectors say as Prometheus reads it."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry)
