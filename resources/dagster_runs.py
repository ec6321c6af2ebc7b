"""Launches Dagster runs through the web server's GraphQL and follows them in the instance."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from fx_dagster.errors import ServerError
from fx_dagster.settings import Settings
from resources.servers.process import dagster_environment

POLL_S = 0.4


@dataclass(frozen=True)
class StepNews:
    """What a run has just reported: a step that began or ended, an asset that was written."""

    run_id: str
    symbol: str
    text: str


@dataclass(frozen=True)
class CheckOutcome:
    """Latest evaluation of one asset check."""

    asset: str
    check: str
    passed: bool
    severity: str
    description: str
    symbol: str = ""


class RunLauncher:
    """Submits jobs to a running Dagster and waits for them.

    Args:
        instance: the instance that the web server uses.
        host: web server's host.
        port: web server's port.
    """

    def __init__(self, instance: dg.DagsterInstance, *, host: str, port: int) -> None:
        from dagster_graphql import DagsterGraphQLClient

        self.instance = instance
        self._client = DagsterGraphQLClient(host, port_number=port)

    def add_symbols(self, symbols: Sequence[str]) -> None:
        """Make partitions of these symbols, where there are none yet."""
        self.instance.add_dynamic_partitions("symbol", list(symbols))

    def submit(self, job: str, tags: Mapping[str, str] | None = None) -> str:
        """Queue one run of a job and return its id.

        Raises:
            ServerError: Dagster refuses; the message carries its reason.
        """
        from dagster_graphql import DagsterGraphQLClientError

        try:
            return self._client.submit_job_execution(job, tags=dict(tags or {}))
        except DagsterGraphQLClientError as error:
            raise ServerError(f"Dagster refused to start {job}: {error}", mend="look at the Dagster page") from error

    def wait(self, run_ids: Sequence[str], *, timeout_s: float, on_news: Callable[[StepNews], None]) -> None:
        """Wait until all runs have succeeded.

        Raises:
            ServerError: a run failed, was cancelled or did not end in time; names the step and its error.
        """
        deadline = time.monotonic() + timeout_s
        seen = dict.fromkeys(run_ids, -1)
        pending = set(run_ids)
        while pending:
            for run_id in sorted(pending):
                seen[run_id] = self._report(run_id, seen[run_id], on_news)
                if self._finished(run_id):
                    self._report(run_id, seen[run_id], on_news)
                    pending.discard(run_id)
            if pending and time.monotonic() > deadline:
                raise ServerError(
                    f"run {min(pending)} did not end within {timeout_s:.0f} s", mend="look at it on the Dagster page"
                )
            time.sleep(POLL_S if pending else 0)

    def _finished(self, run_id: str) -> bool:
        run = self.instance.get_run_by_id(run_id)
        if run is None:
            raise ServerError(f"run {run_id} is gone", mend="look at the Dagster page")
        if run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
            raise ServerError(f"{run.job_name} {run.status.value.lower()}: {self._why(run_id)}")
        return run.status is dg.DagsterRunStatus.SUCCESS

    def _report(self, run_id: str, cursor: int, on_news: Callable[[StepNews], None]) -> int:
        records = self.instance.get_records_for_run(
            run_id,
            of_type={dg.DagsterEventType.STEP_START, dg.DagsterEventType.ASSET_MATERIALIZATION},
        ).records
        for record in records:
            if record.storage_id <= cursor:
                continue
            cursor = record.storage_id
            event = record.event_log_entry
            if event.dagster_event is None:
                continue
            kind = event.dagster_event.event_type
            verb = "began" if kind is dg.DagsterEventType.STEP_START else "wrote"
            name = event.dagster_event.step_key or ""
            if verb == "wrote" and event.dagster_event.asset_key:
                name = event.dagster_event.asset_key.to_user_string()
            on_news(StepNews(run_id, self._symbol(run_id), f"{verb} {name}"))
        return cursor

    def _why(self, run_id: str) -> str:
        failures = self.instance.get_records_for_run(
            run_id, of_type={dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
        ).records
        for record in failures:
            event = record.event_log_entry.dagster_event
            if event is None:
                continue
            data = event.event_specific_data
            error = getattr(data, "error", None)
            if error is not None:
                # Dagster wraps what the asset raised, and that sentence names the file, row or field.
                while error.cause is not None and (error.cls_name or "").startswith("Dagster"):
                    error = error.cause
                return f"{event.step_key or 'run'}: {error.message.strip()}"
            if event.message:
                return event.message
        return "no step reported why; see the run's log on the Dagster page"

    def _symbol(self, run_id: str) -> str:
        """Return the symbol of a run over one symbol's months; empty for any other."""
        run = self.instance.get_run_by_id(run_id)
        return run.tags.get("dagster/asset_partition_range_end", "").partition("|")[2] if run else ""

    def checks(self, run_ids: Sequence[str]) -> list[CheckOutcome]:
        """Return what every asset check said in these runs."""
        outcomes = []
        for run_id in run_ids:
            symbol = self._symbol(run_id)
            records = self.instance.get_records_for_run(
                run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
            ).records
            for record in records:
                event = record.event_log_entry.dagster_event
                if event is None:
                    continue
                data = event.asset_check_evaluation_data
                outcomes.append(
                    CheckOutcome(
                        asset=data.asset_key.to_user_string(),
                        check=data.check_name,
                        passed=data.passed,
                        severity=data.severity.value,
                        description=data.description or "",
                        symbol=symbol,
                    )
                )
        return outcomes


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Open the instance of this home: the one that its servers use.

    The environment of this process is pointed at it, since Dagster's configuration reads it there.
    """
    os.environ.update(dagster_environment(settings))
    os.environ["FX_POSTGRES_URL"] = settings.postgres.url.get_secret_value()
    return dg.DagsterInstance.from_config(str(settings.dagster_home))
