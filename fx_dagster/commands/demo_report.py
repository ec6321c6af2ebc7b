"""Puts together what the demo found: the summary, and the report for a browser."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pandas as pd
from pydantic import SecretStr

from assets.evaluation import SUMMARY
from assets.lake_frames import query_table
from fx_dagster.commands.live_watch import LiveOutcome
from fx_dagster.errors import ServerError
from fx_dagster.market.source import MarketSource
from fx_dagster.models.answer import SIMPLE_MODELS
from fx_dagster.models.evaluate import Metrics
from fx_dagster.models.release import ReleaseManifest
from fx_dagster.report.backtests import utc
from fx_dagster.report.files import publish, report_folder
from fx_dagster.report.inputs import ReportInputs
from fx_dagster.report.measures import success_measures
from fx_dagster.report.sessions import summarise_live
from fx_dagster.report.statistics import summarise_model
from fx_dagster.report.summary import (
    BacktestSummary,
    CheckOutcome,
    ChecksSummary,
    DataSummary,
    LiveSummary,
    Places,
    Step,
    Summary,
    Versions,
    package_versions,
)
from fx_dagster.settings import Settings, variables
from resources import dagster_runs
from resources.availability_store import AvailabilityStore
from resources.lake import Lake
from resources.live_store import LiveStore
from resources.releases import ReleaseStore
from resources.triton import TritonAdmin

UI_COMMAND = "fx up"
TABLES = ("ticks", "bars", "indicators", "features", "labels")


def write_report(
    settings: Settings,
    market: MarketSource,
    checks: Sequence[dagster_runs.CheckOutcome],
    outcome: LiveOutcome,
    seconds: Mapping[str, float],
) -> Summary:
    """Write summary.json and report.html, switch ``latest`` to them and return the summary."""
    lake = Lake(settings.lake_url)
    store = LiveStore(settings.postgres.url.get_secret_value())
    releases = ReleaseStore.of(settings)
    active = releases.active()
    manifest = releases.manifest(active) if active is not None else None
    decisions = _decisions(store, outcome)
    baselines = store.baselines(outcome.session.session_id)
    judged = {
        name: Metrics.from_dict(found.metrics[name]["out_of_fold"])
        for found in ([manifest] if manifest else [])
        for name in found.models
    }
    models = tuple(summarise_model(name, metrics) for name, metrics in judged.items())
    backtest = BacktestSummary.model_validate_json((settings.evaluation / SUMMARY).read_text())
    live = _live(store, outcome, decisions, baselines, settings)
    created = datetime.now(UTC)
    summary = Summary(
        created=created,
        data=_data(lake, market),
        checks=ChecksSummary.of([_check(found) for found in checks]),
        models=models,
        backtest=backtest,
        live=live,
        measures=success_measures(models, backtest, live),
        versions=_versions(manifest, settings),
        timings=tuple(Step(name=name, seconds=value) for name, value in seconds.items()),
        places=Places(folder="", html="", ui_command=UI_COMMAND, ui_url=""),
    )
    folder = report_folder(settings.reports, summary)
    latest = settings.reports / "latest"
    places = Places(folder=str(latest), html=str(latest / "report.html"), ui_command=UI_COMMAND, ui_url="")
    summary = summary.model_copy(update={"places": places})
    publish(_inputs(summary, lake, market, settings, judged, manifest, decisions, baselines), folder)
    return summary


def _data(lake: Lake, market: MarketSource) -> DataSummary:
    base = market.base_timeframe()
    symbols = market.symbols()
    wanted = set(symbols)
    rows: dict[str, int] = {}
    for table in TABLES:
        found = query_table(
            lake,
            table,
            f"SELECT symbol, {_timeframe(table)} AS timeframe, count(*) AS n FROM {table} GROUP BY ALL",  # noqa: S608
        )
        for row in found.itertuples():
            if row.symbol in wanted:
                name = f"{table}/{row.timeframe}" if row.timeframe else table
                rows[name] = rows.get(name, 0) + int(row.n)
    put_aside = query_table(lake, "quarantine", "SELECT reason, count(*) AS n FROM quarantine GROUP BY ALL")
    spans = [market.span(symbol) for symbol in symbols]
    return DataSummary(
        source=market.name,
        symbols=symbols,
        left_out=market.left_out(),
        base_timeframe=base.value,
        ticks_modelled=not market.has_ticks,
        start=utc(min(start for start, _ in spans)),
        end=utc(max(end for _, end in spans)),
        rows=rows,
        quarantined={str(row.reason): int(row.n) for row in put_aside.itertuples()},
    )


def _timeframe(table: str) -> str:
    return "timeframe" if table in ("bars", "indicators") else "''"


def _check(found: dagster_runs.CheckOutcome) -> CheckOutcome:
    failed = "warned" if found.severity == "WARN" else "failed"
    return CheckOutcome(
        asset=found.asset,
        name=found.check,
        outcome="passed" if found.passed else failed,
        symbol=found.symbol,
        detail=found.description,
    )


def _decisions(store: LiveStore, outcome: LiveOutcome) -> pd.DataFrame:
    frame = store.decisions(outcome.session.session_id)
    at = pd.to_datetime(frame["decided_at"], utc=True).dt.as_unit("ns").astype("int64")
    return frame.assign(decided_wall_ns=at).sort_values("decided_wall_ns", ignore_index=True)


def _live(
    store: LiveStore, outcome: LiveOutcome, decisions: pd.DataFrame, baselines: pd.DataFrame, settings: Settings
) -> LiveSummary:
    session = outcome.session
    equity = store.equity(session.session_id)
    deals = store.deals(session.session_id)
    status = store.status(settings.live.account)
    return summarise_live(
        decisions,
        start=session.started_at,
        end=session.finished_at or session.updated_at,
        market_start=utc(session.replay_start),
        market_end=utc(session.clock),
        ticks=int(status.status.get("ticks", 0)) if status else 0,
        bare_call_ms=tuple(baselines["latency_ms"].astype(float)),
        trades=int(deals["closing"].sum()) if len(deals) else 0,
        net_return=float(equity["equity"].iloc[-1] / settings.risk.initial_balance - 1) if len(equity) else None,
        uptime=AvailabilityStore(settings.postgres.url.get_secret_value())
        .of_session(settings.live.account, session.session_id)
        .decision,
        killed_at=outcome.killed_at,
        server_back_at=outcome.server_back_at,
    )


def _triton_version(settings: Settings) -> str:
    if not settings.triton.url:
        return ""
    admin = TritonAdmin(settings.triton.url)
    try:
        return admin.version()
    except ServerError:
        return ""
    finally:
        admin.close()


def _versions(manifest: ReleaseManifest | None, settings: Settings) -> Versions:

    return Versions(
        release=manifest.version if manifest else None,
        feature_hash=manifest.feature_hash if manifest else "",
        python=platform.python_version(),
        triton=_triton_version(settings),
        packages=package_versions(),
    )


def _inputs(
    summary: Summary,
    lake: Lake,
    market: MarketSource,
    settings: Settings,
    judged: Mapping[str, Metrics],
    manifest: ReleaseManifest | None,
    decisions: pd.DataFrame,
    baselines: pd.DataFrame,
) -> ReportInputs:
    base = market.base_timeframe()
    bars = {symbol: lake.read("bars", symbol=symbol, timeframe=base.value) for symbol in market.symbols()[:8]}
    return ReportInputs(
        summary=summary,
        equity=lake.read("backtest_equity"),
        bars=bars,
        trades=lake.read("backtest_trades_system"),
        importance=_importance(manifest),
        metrics=judged,
        decisions=decisions,
        bare_call_ms=tuple(baselines["latency_ms"].astype(float)),
        settings=_changed_settings(settings),
    )


def _importance(manifest: ReleaseManifest | None) -> pd.DataFrame:
    rows = [
        {"model": name, "feature": feature, "importance": share}
        for name in SIMPLE_MODELS
        if manifest is not None and name in manifest.cards
        for feature, share in manifest.cards[name]["importance"].items()
    ]
    return pd.DataFrame(rows, columns=["model", "feature", "importance"])


def _changed_settings(settings: Settings) -> dict[str, str]:
    """Return the settings that differ from their defaults; addresses and secrets are left out."""
    private = {name for name, (_, default) in variables().items() if isinstance(default, SecretStr)} | {"FX_TRITON_URL"}
    defaults = {name: str(default) for name, (_, default) in variables().items()}
    return {
        name: value
        for name, value in settings.environment().items()
        if name not in private and not name.endswith("_PORT") and defaults.get(name) != value
    }
