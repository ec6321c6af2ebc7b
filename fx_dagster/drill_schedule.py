"""Drills as a Dagster job: started by a person on any paper or demo account, and once a week by itself on paper.

The schedule runs from the beginning where the live account is on paper, and stands still where a broker fills its
orders: there a person who wants it turns it on. On a real account it launches nothing even then, and the job refuses.
PostgreSQL is left to an operator (``fx drill postgres-down``), since Dagster keeps the very run in it.
"""

import dagster as dg
import psycopg
from pydantic import Field

from fx_dagster.errors import FxError
from fx_dagster.settings import Settings, load_settings
from resources.drills.findings import Findings
from resources.drills.runner import SCHEDULED, DrillResult, LocalDrills, account_kind, require_harmless
from resources.drills.scene import Scene

JOB_NAME = "drill_job"
SETTLE_S = 150.0
"""How long to wait between two drills until decisions are made with models again: a level needs 60 s to rise."""


class DrillConfig(dg.Config):
    """Which drills are run, one after the other; see ``fx drill list``."""

    names: list[str] = Field(list(SCHEDULED), description="In the order in which they are run.")


@dg.op(name="drills", description="Break one thing after the other on purpose, and see whether each comes back.")
def run_drills(context: dg.OpExecutionContext, config: DrillConfig) -> None:
    """Run the drills; the run fails where one was not passed. One that is refused says why, and is none."""
    settings = load_settings()
    require_harmless(settings)
    steps: list[str] = []
    drills = LocalDrills(settings, on_step=steps.append)
    failed, refused = list[str](), dict[str, str]()
    for name in config.names:
        steps.clear()
        try:
            result = drills.carry_out(name, by_whom=f"{JOB_NAME} {context.run_id[:8]}")
        except KeyError:
            refused[name] = "there is no such drill here"
        except FxError as error:
            refused[name] = str(error)
        else:
            failed += [] if result.passed else [f"{name}: {result.text}"]
            _tell(context, result, steps)
        if name != config.names[-1]:
            drills.settle(SETTLE_S)
    for name, why in refused.items():
        context.log.warning(f"drill {name} is refused: {why}")
    context.add_output_metadata({"failed": failed, "refused": refused, "asked": config.names})
    if failed:
        raise dg.Failure("not passed: " + " | ".join(failed), allow_retries=False)


def _tell(context: dg.OpExecutionContext, result: DrillResult, steps: list[str]) -> None:
    # Afterwards: while a drill runs, what the log is written to may be away.
    verdict = "passed" if result.passed else "NOT passed"
    context.log.info(f"drill {result.name} {verdict} after {result.seconds:.1f} s\n" + "\n".join(steps))


@dg.job(
    name=JOB_NAME,
    executor_def=dg.in_process_executor,
    description="Drills: Triton, the cache and the engine are killed and stopped on purpose; on paper or demo.",
)
def drill_job() -> None:
    """Run the drills."""
    run_drills()


def _default_status() -> dg.DefaultScheduleStatus:
    """Return whether the schedule runs from the beginning: on paper only."""
    try:
        paper = account_kind(load_settings()) == "paper"
    except FxError:
        paper = False  # whatever is wrong with the settings, who needs them says so
    return dg.DefaultScheduleStatus.RUNNING if paper else dg.DefaultScheduleStatus.STOPPED


@dg.schedule(
    job=drill_job,
    cron_schedule="0 10 * * 3",
    execution_timezone="UTC",
    default_status=_default_status(),
    description=(
        "On Wednesday, while London trades: break Triton, the cache and the engine on purpose. Turned on by itself on a"
        " paper account only; never on a real one."
    ),
)
def weekly_drills() -> dg.RunRequest | dg.SkipReason:
    """Ask for a run while an engine is alive on an account that may be drilled on."""
    why_not = hindrance(load_settings())
    return dg.SkipReason(why_not) if why_not else dg.RunRequest()


def hindrance(settings: Settings) -> str:
    """Say why no drill can be run now; empty: they can."""
    if not settings.postgres.url.get_secret_value():
        return "FX_POSTGRES_URL is not set: there is no live session to drill"
    try:
        require_harmless(settings)
        Scene(settings, Findings()).engine()
    except (FxError, psycopg.Error) as error:
        return str(error)
    return ""
