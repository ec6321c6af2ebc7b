"""Drills on the engine itself: killed, stopped, and told to open nothing."""

import time

from fx_dagster.errors import ServerError
from resources.drills.findings import wait_for
from resources.drills.scene import EngineProcess, Scene, frozen, gone, kill, stopped_by_signal
from resources.live_store import StatusRow

BACK_S = 2.0
"""How soon a killed engine goes on."""
STOP_S = 5.0
"""For how long an engine is stopped: well under the age at which it is overtaken."""
SWITCH_S = 1.0
"""How soon the kill switch holds."""
FENCED_S = 15.0
"""How soon an engine that was overtaken has ended."""
WAIT_S = 200.0
"""How long a drill waits for an engine: the first start after an update compiles for up to 100 s."""
REASON = "drill"


def engine_kill(scene: Scene) -> None:
    """Kill the engine: another goes on with its session at once, and nothing is done twice."""
    engine = scene.engine(supervised=True)
    mark = scene.mark(engine)
    kill(engine.process)
    scene.findings.did(f"engine killed (pid {engine.process.pid}, SIGKILL)")
    row = _next_engine(scene, engine)
    seconds = max(row.beat_at.timestamp() - mark.at_s, 0.0) if row is not None else None
    scene.findings.took("another engine goes on", seconds, BACK_S, waited_s=WAIT_S)
    if row is None:
        return
    seen = f"session {row.session_id}, epoch {row.epoch} after {engine.row.epoch}"
    same = row.session_id == engine.row.session_id and row.epoch > engine.row.epoch
    scene.findings.found("it goes on with the session, under a higher epoch", same, seen)
    scene.went_on(row)
    scene.nothing_twice(mark)


def _next_engine(scene: Scene, engine: EngineProcess) -> StatusRow | None:
    pid = engine.process.pid
    return scene.beat(lambda row: row.pid != pid and row.status.get("state") == "running", WAIT_S)


def engine_stop(scene: Scene) -> None:
    """Stop the engine for a few seconds and let it go on: it does, or where it was overtaken, it is fenced."""
    engine = scene.engine()
    mark = scene.mark(engine)
    began_s = time.monotonic()
    with frozen([engine.process]):
        scene.findings.did(f"engine stopped for {STOP_S:g} s (pid {engine.process.pid}, SIGSTOP)")
        stopped = wait_for(lambda: stopped_by_signal(engine.process), 2.0)
        time.sleep(max(STOP_S - (time.monotonic() - began_s), 0.0))
        row = scene.live.status(scene.account)
        still = bool(stopped) and row is not None and row.age_s > STOP_S - 2.0
        seen = f"last heartbeat {row.age_s:.1f} s ago" if row is not None else "no heartbeat at all"
        scene.findings.found("its heartbeat stands still", still, seen)
    goes_on_s = time.time()
    row = scene.beat(lambda row: row.beat_at.timestamp() > goes_on_s and row.age_s < 2.0, WAIT_S)
    if row is None:
        scene.findings.found("an engine goes on", False, f"no heartbeat within {WAIT_S:g} s")
        return
    took = f"after {row.beat_at.timestamp() - goes_on_s:.1f} s"
    if row.pid == engine.process.pid:
        scene.findings.found("an engine goes on", True, f"the same one, {took}: nobody had overtaken it")
        scene.findings.found("its epoch is still its own", row.epoch == engine.row.epoch, f"epoch {row.epoch}")
    else:
        ended = bool(wait_for(lambda: gone(engine.process), FENCED_S))
        scene.findings.found("an engine goes on", True, f"another one, {took}: the stopped one was overtaken")
        seen = f"epoch {row.epoch} after {engine.row.epoch}; the stopped one " + (
            "has ended" if ended else "STILL RUNS"
        )
        scene.findings.found("the stopped one is fenced", ended and row.epoch > engine.row.epoch, seen)
    scene.went_on(row)
    scene.nothing_twice(mark)


def kill_switch(scene: Scene) -> None:
    """Turn the kill switch on: it holds at once and over a restart of the engine; then all is as it was before."""
    engine = scene.engine()
    if scene.live.kill_state(scene.account).engaged:
        raise ServerError(
            f"the kill switch of account {scene.account} is on already", mend="fx resume, if it may trade again"
        )
    reason = f"{REASON} by {scene.by_whom}"
    mark = scene.mark(engine)
    scene.live.kill(scene.account, reason=reason, flatten=False, by_whom=scene.by_whom)
    try:
        scene.findings.did("kill switch turned on")
        _holds(scene, engine, mark.at_s)
        if engine.supervised:
            _survives(scene, engine)
        else:
            scene.findings.found("it survives a restart", None, "fx live in the foreground is not started again")
    finally:
        mine = scene.store.release_switch(scene.account, reason=reason, by_whom=scene.by_whom)
        scene.findings.did("kill switch turned off" if mine else "kill switch left as a person has turned it")
    entries = [row for row in scene.decided(mark) if row.action == "open" and row.began_s > mark.at_s + SWITCH_S]
    off_s = time.time()
    if mine:
        row = scene.beat(lambda row: not row.status.get("killed") and row.age_s < 2.0, 15.0)
        scene.findings.found("the account may trade again", row is not None, "yes" if row is not None else "no")
    before = [one for one in entries if one.began_s < off_s - SWITCH_S]
    scene.findings.found("nothing is opened while it is on", not before, f"{len(before)} entries")


def _holds(scene: Scene, engine: EngineProcess, at_s: float) -> None:
    row = scene.beat(lambda row: bool(row.status.get("killed")), 15.0)
    seconds = max(row.beat_at.timestamp() - at_s, 0.0) if row is not None else None
    scene.findings.took("the engine says that it is on", seconds, SWITCH_S, waited_s=15.0)
    if row is not None:
        scene.findings.found("the engine lives on", row.pid == engine.process.pid, f"pid {row.pid}")


def _survives(scene: Scene, engine: EngineProcess) -> None:
    kill(engine.process)
    scene.findings.did(f"engine killed (pid {engine.process.pid}, SIGKILL)")
    row = _next_engine(scene, engine)
    if row is None:
        scene.findings.found("it survives a restart", False, f"no other engine within {WAIT_S:g} s")
        return
    held = bool(row.status.get("killed")) and scene.live.kill_state(scene.account).engaged
    scene.findings.found(
        "it survives a restart", held, f"the next engine (pid {row.pid}) says " + ("on" if held else "OFF")
    )
