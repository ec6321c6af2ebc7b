"""Drills in which a server goes: Triton, PostgreSQL, the cache."""

import time

import psutil

from fx_dagster.decision.codes import Level
from resources.drill_store import DecidedRow
from resources.drills.findings import wait_for
from resources.drills.scene import (
    EngineProcess,
    Mark,
    Scene,
    family,
    frozen,
    gone,
    kill,
    lately,
    stopped_by_signal,
)
from resources.live_store import StatusRow

RETURN_S = 5.0
"""How long a server of ``fx up`` may be away that was killed."""
PAUSE_S = 4.0
"""For how long PostgreSQL is stopped: its silence is noticed after 1.5 s, its watchdog's patience is longer."""
WAIT_S = 45.0
"""How long a drill waits for something that must come about; its limit is another number."""
RISE_S = 20.0
"""How long a level may take to rise on top of the health that it needs."""
RISE_S_MAX = 120.0
DEADLINE_SLACK_MS = 15.0
"""What a busy machine adds to a deadline before the waiting decision has its turn again."""


def triton_kill(scene: Scene) -> None:
    """Kill Triton: the next decision is a level down, and it is back by itself, with its models."""
    engine, triton, loaded = _served(scene)
    mark = scene.mark(engine)
    kill(triton)
    scene.findings.did(f"Triton killed (pid {triton.pid}, SIGKILL)")
    _comes_back(scene, triton, loaded, mark.at_s)
    _levels(scene, engine, mark)


def triton_stop(scene: Scene) -> None:
    """Stop Triton: only the deadline helps the decisions, and the watchdog starts another."""
    engine, triton, loaded = _served(scene)
    mark = scene.mark(engine)
    with frozen([triton]):
        scene.findings.did(f"Triton stopped (pid {triton.pid}, SIGSTOP)")
        stopped = bool(wait_for(lambda: stopped_by_signal(triton) or gone(triton), 2.0))
        scene.findings.found("it is stopped, its connections stay open", stopped, "yes" if stopped else "no")
        _comes_back(scene, triton, loaded, mark.at_s, found_out_s=scene.settings.triton.restart_within_s)
    _levels(scene, engine, mark)
    _waits(scene, mark)


def _served(scene: Scene) -> tuple[EngineProcess, psutil.Process, frozenset[str]]:
    engine = scene.engine()
    triton = scene.server("Triton")
    scene.with_models(engine)
    return engine, triton, _loaded(scene)


def _loaded(scene: Scene) -> frozenset[str]:
    """Return the models that Triton has loaded.

    Raises:
        ServerError: it does not answer.
    """
    from resources.servers.triton import read_secret
    from resources.triton import TritonAdmin

    admin = TritonAdmin(scene.settings.triton.url, read_secret(scene.settings))
    try:
        return frozenset(admin.loaded())
    finally:
        admin.close()


def _comes_back(
    scene: Scene, triton: psutil.Process, loaded: frozenset[str], at_s: float, *, found_out_s: float = 0.0
) -> None:
    """Wait until another Triton answers with the same models; silence, unlike death, has to be found out first."""

    def back() -> bool:
        return gone(triton) and loaded <= _loaded(scene)

    seconds = time.time() - at_s if wait_for(back, WAIT_S) else None
    limit_s = scene.settings.triton.restart_within_s + found_out_s
    scene.findings.took("Triton answers again with its models", seconds, limit_s, waited_s=WAIT_S)
    # The owner of the servers writes down the new process a moment later: whoever looks next must find it.
    wait_for(lambda: scene.pid_of("Triton") not in {0, triton.pid}, WAIT_S)


def _levels(scene: Scene, engine: EngineProcess, mark: Mark) -> None:
    """Keep whether the next decision was lower, and whether decisions are as good as before again."""
    live = scene.settings.live
    speed = live.replay_speed if live.broker == "paper" else 1.0
    rise_s = min(live.recover_after_s / speed + RISE_S, RISE_S_MAX)
    former = engine.level

    def risen() -> list[DecidedRow] | None:
        rows = scene.decided(mark)
        lower = next((place for place, row in enumerate(rows) if row.level > former), None)
        return rows if lower is not None and any(row.level <= former for row in rows[lower:]) else None

    rows = wait_for(risen, rise_s, poll_s=0.2) or scene.decided(mark)
    lower = next((place for place, row in enumerate(rows) if row.level > former), None)
    what = "the next decision is at a lower level"
    if lower is None:
        seen = f"{len(rows)} decisions asked for a level, all at {former} or better" if rows else "none was asked for"
        scene.findings.found(what, False if rows and _all_soon(rows, mark) else None, seen)
        return
    first = rows[lower]
    seen = f"level {first.level} ({first.level_reason}) in {first.latency_total_ms:.1f} ms, {lower} decisions late"
    scene.findings.found(what, lower == 0, seen)
    back = next((row for row in rows[lower:] if row.level <= former), None)
    what = f"decisions are at level {former} again"
    if back is not None:
        scene.findings.found(what, True, f"after {back.ended_at.timestamp() - mark.at_s:.1f} s")
    else:
        scene.findings.found(what, None, f"not within {rise_s:.0f} s; it needs {live.recover_after_s:g} s of health")


def _all_soon(rows: list[DecidedRow], mark: Mark) -> bool:
    """Whether the first decision came while Triton was surely away: half a second is the quickest start."""
    return rows[0].began_s - mark.at_s < 0.5


def _waits(scene: Scene, mark: Mark) -> None:
    waits = [row.latency_model_ms for row in scene.decided(mark) if row.latency_model_ms is not None]
    deadline_ms = scene.settings.triton.deadline_ms
    what = f"no decision waits longer than its deadline of {deadline_ms:g} ms"
    if not waits:
        scene.findings.found(what, None, "none waited for the models")
        return
    scene.findings.found(what, max(waits) <= deadline_ms + DEADLINE_SLACK_MS, f"{max(waits):.1f} ms at most")


# -- the cache -------------------------------------------------------------------------------------------------------


def cache_down(scene: Scene) -> None:
    """Kill the cache: the session goes on without it, and it is back by itself."""
    from resources.servers.valkey import answers

    engine, cache = scene.engine(), scene.server("Valkey")
    mark = scene.mark(engine)
    kill(cache)
    scene.findings.did(f"Valkey killed (pid {cache.pid}, SIGKILL)")
    url = scene.settings.redis.url.get_secret_value()
    back = wait_for(lambda: gone(cache) and answers(url, 1.0), WAIT_S)
    seconds = time.time() - mark.at_s if back else None
    scene.findings.took("Valkey answers again", seconds, RETURN_S, waited_s=WAIT_S)
    wait_for(lambda: scene.pid_of("Valkey") not in {0, cache.pid}, WAIT_S)
    _same_engine(scene, engine)
    rows = scene.decided(mark)
    if engine.level == Level.EMERGENCY or not rows:
        seen = "they were stopped before" if rows else "none was asked for"
        scene.findings.found("no decision is stopped by it", None, seen)
    else:
        stopped = [row for row in rows if row.level == Level.EMERGENCY]
        seen = f"{len(stopped)} of {len(rows)}" + (f": {stopped[0].level_reason}" if stopped else "")
        scene.findings.found("no decision is stopped by it", not stopped, seen)
    scene.went_on(engine.row)


def _same_engine(scene: Scene, engine: EngineProcess, *, timeout_s: float = 15.0) -> StatusRow | None:
    """Keep whether the very engine lives on: its heartbeat is fresh, its process and epoch are the same."""
    row = scene.beat(lambda row: row.beat_at > engine.row.beat_at and row.age_s < 3.0, timeout_s)
    same = row is not None and (row.pid, row.epoch) == (engine.row.pid, engine.row.epoch)
    seen = "no fresh heartbeat" if row is None else f"pid {row.pid}, epoch {row.epoch}, {row.age_s:.1f} s old"
    scene.findings.found("the engine lives on", same, seen)
    return row


# -- PostgreSQL ------------------------------------------------------------------------------------------------------


def postgres_down(scene: Scene) -> None:
    """Stop PostgreSQL and let it go on, then kill it: nothing is opened meanwhile, and what was decided is joined."""
    _postgres_away(scene, killed=False)
    # The engine must have written what waited before it is cut off again.
    scene.beat(lambda row: row.age_s < 2.0 and not row.status.get("journal_problem"), WAIT_S)
    _postgres_away(scene, killed=True)


def _postgres_away(scene: Scene, *, killed: bool) -> None:
    engine, postmaster = scene.engine(), scene.server("PostgreSQL")
    mark = scene.mark(engine)
    if killed:
        how = "killed"
        kill(postmaster)
        scene.findings.did(f"PostgreSQL killed (pid {postmaster.pid}, SIGKILL)")
        back = wait_for(lambda: gone(postmaster) and scene.live.status(scene.account), WAIT_S)
        back_s = time.time()
        seconds = back_s - mark.at_s if back else None
        scene.findings.took("killed: PostgreSQL answers again", seconds, RETURN_S, waited_s=WAIT_S)
        wait_for(lambda: scene.pid_of("PostgreSQL") not in {0, postmaster.pid}, WAIT_S)
    else:
        how = "stopped"
        with frozen(family(postmaster)):
            scene.findings.did(f"PostgreSQL stopped for {PAUSE_S:g} s (pid {postmaster.pid} and its own, SIGSTOP)")
            time.sleep(PAUSE_S)
        back_s = time.time()
    row = scene.beat(lambda row: row.beat_at.timestamp() > back_s and not row.status.get("journal_problem"), WAIT_S)
    if row is None:
        scene.findings.found(f"{how}: the engine joins again", False, f"no sound heartbeat within {WAIT_S:g} s")
        return
    same = (row.pid, row.epoch) == (engine.row.pid, engine.row.epoch)
    seen = f"after {max(row.beat_at.timestamp() - back_s, 0):.1f} s, pid {row.pid}, epoch {row.epoch}"
    scene.findings.found(f"{how}: the same engine joins again", same, seen)
    _noticed(scene, how, mark, row, back_s, must=not killed)
    scene.nothing_twice(mark)
    scene.went_on(engine.row)


def _noticed(scene: Scene, how: str, mark: Mark, row: StatusRow, back_s: float, *, must: bool) -> None:
    """Keep whether the engine knew that its journal was away, and opened nothing while it knew."""
    problem, since_s = lately(row)
    noticed = since_s >= mark.at_s
    seen = f"after {since_s - mark.at_s:.1f} s: {problem}" if noticed else "it was back too soon to be missed"
    scene.findings.found(f"{how}: the status says journal_problem", noticed if must or noticed else None, seen)
    if not noticed:
        return
    away = [one for one in scene.decided(mark) if since_s < one.began_s < back_s]
    entries = [one for one in away if one.action == "open"]
    what = f"{how}: no entries while it is away"
    if not away:
        scene.findings.found(what, None, "no decision was asked for")
        return
    levels = sorted({one.level for one in away})
    seen = f"{len(entries)} of {len(away)} decisions, at level {', '.join(map(str, levels))}; all of them are recorded"
    scene.findings.found(what, not entries, seen)
