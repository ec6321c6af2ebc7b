"""The drill on the bridge to a MetaTrader 5 terminal: the process that alone talks to the terminal is killed."""

import json
import time
from typing import TYPE_CHECKING

import psutil

from fx_dagster.errors import FxError, ServerError
from fx_dagster.settings import Settings
from resources.drills.findings import wait_for
from resources.drills.scene import Scene, gone, kill

if TYPE_CHECKING:
    from resources.mt5.bridge.client import BridgeHealth
    from resources.mt5.bridge.settings import BridgeSettings


def bridge_kill(scene: Scene) -> None:
    """Kill the bridge's worker, which holds the terminal: the bridge starts another, and the engine lives on."""
    settings = local_bridge(scene.settings)
    engine = scene.engine()
    worker = _worker(settings)
    before = _health(settings)
    if not before.ready:
        raise ServerError(f"the bridge is not ready: {before.reason}", mend="fx bridge health")
    mark = scene.mark(engine)
    kill(worker)
    scene.findings.did(f"the bridge's worker killed (pid {worker.pid}, SIGKILL)")

    def back() -> "BridgeHealth | None":
        health = _health(settings)
        return health if gone(worker) and health.ready and health.worker_starts > before.worker_starts else None

    limit_s = settings.start_limit_s + settings.heartbeat_s
    found = wait_for(back, limit_s + 10.0, poll_s=0.1)
    seconds = time.time() - mark.at_s if found is not None else None
    scene.findings.took("the bridge has another worker and is ready", seconds, limit_s, waited_s=limit_s + 10.0)
    row = scene.beat(lambda row: row.age_s < 2.0 and not row.status.get("broker_problem"), 60.0)
    same = row is not None and (row.pid, row.epoch) == (engine.row.pid, engine.row.epoch)
    seen = "no sound heartbeat" if row is None else f"pid {row.pid}, epoch {row.epoch}, no broker_problem any more"
    scene.findings.found("the engine lives on and has its broker again", same, seen)
    if row is not None:
        unknown = int(row.status.get("orders_unknown", 0))
        scene.findings.found("no order is in doubt for it", unknown == 0, f"{unknown} unknown")
    scene.nothing_twice(mark)


def bridge_of(settings: Settings) -> "BridgeSettings":
    """Return the settings of the bridge to the account's terminal.

    Raises:
        SettingsError: one of them is impossible.
    """
    from resources.mt5.bridge.settings import bridge_settings

    own: BridgeSettings | None = getattr(settings, "bridge", None)
    return own if own is not None else bridge_settings()


def local_bridge(of: Settings) -> "BridgeSettings":
    """Return the settings of the bridge, which must be on this machine.

    Raises:
        ServerError: it is on another.
        SettingsError: a setting of it is impossible.
    """
    from resources.mt5.bridge.settings import is_loopback

    settings = bridge_of(of)
    if not is_loopback(settings.host):
        raise ServerError(f"the bridge runs on {settings.host}", mend="run the drill there")
    return settings


def _health(settings: "BridgeSettings") -> "BridgeHealth":
    from resources.mt5.bridge.client import open_client

    with open_client(settings) as client:
        return client.health(5.0)


def _worker(settings: "BridgeSettings") -> psutil.Process:
    """Return the worker that the bridge has written down.

    Raises:
        ServerError: there is none that lives.
    """
    from resources.mt5.bridge.settings import bridge_folder

    path = bridge_folder(settings) / "worker.json"
    try:
        noted = json.loads(path.read_text())
        process = psutil.Process(int(noted["pid"]))
        if abs(process.create_time() - float(noted["created"])) < 0.5:
            return process
        raise ServerError(f"{path} is of another process", mend="fx bridge health")
    except FxError:
        raise
    except (OSError, ValueError, KeyError, TypeError, psutil.Error) as error:
        raise ServerError(f"no worker of the bridge is known: {error}", mend="start it: fx bridge serve") from None
