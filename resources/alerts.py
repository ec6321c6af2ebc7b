"""Sends alerts through Apprise (e-mail, Telegram, Slack, webhooks …), and watches for them.

The addresses hold secrets: they come from ``FX_ALERT_URLS`` or a file that only its owner reads, are never logged and
never part of an error. A message that cannot be sent is tried again a few times, and stays due after that.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fx_dagster.errors import FxError, SettingsError
from fx_dagster.live.alerts import Alert, Limits, Notice, Severity, Suppressor, View, alerts
from fx_dagster.live.disk import disk_usage
from fx_dagster.settings import AlertSettings, Settings
from resources.control.reads import SessionReads
from resources.live_store import LiveStore
from resources.servers.private_files import read_private

if TYPE_CHECKING:
    from apprise import Apprise

TRIES = 3
TIMEOUT_S = 10.0
DAY_S = 86_400.0
_log = logging.getLogger("fx_dagster.alerts")


def addresses(settings: AlertSettings) -> tuple[str, ...]:
    """Return where alerts go.

    Raises:
        SettingsError: the file of addresses cannot be read, or others may read it.
    """
    found = settings.urls.get_secret_value().split()
    if settings.urls_file is not None:
        lines = read_private(settings.urls_file, setting="FX_ALERT_URLS_FILE").splitlines()
        found += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return tuple(dict.fromkeys(found))


class AlertSender:
    """Sends messages to all addresses.

    Args:
        urls: Apprise's addresses.
        tries: attempts at one message and address.
        wait_s: pause before the second attempt; it doubles with each.

    Raises:
        SettingsError: one is none of Apprise's; the message names its place in the list and its scheme only.
    """

    def __init__(self, urls: Sequence[str], *, tries: int = TRIES, wait_s: float = 1.0) -> None:
        from apprise import Apprise, AppriseAsset

        # Apprise's own log would repeat addresses and servers' answers.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        asset = AppriseAsset(app_id="fx_dagster", app_desc="fx_dagster alerts", secure_logging=True)
        self._services: list[Apprise] = []
        for place, url in enumerate(urls, start=1):
            service = Apprise(asset=asset)
            if not service.add(url):
                scheme = url.partition("://")[0][:16] if "://" in url else "no scheme"
                raise SettingsError(
                    f"alert address {place} ({scheme}) is not one that can be sent to",
                    mend="write it as Apprise has it: json://host/path, tgram://token/chat, mailto://…",
                )
            self._services.append(service)
        self._tries = tries
        self._wait_s = wait_s

    def __len__(self) -> int:
        return len(self._services)

    def send(self, notice: Notice, stop: threading.Event | None = None) -> bool:
        """Send one message to every address, each tried again where it fails; whether any took it.

        Args:
            notice: what to say.
            stop: set from elsewhere to try no more.
        """
        title, body = message(notice)
        taken = [self._send(place, title, body, notice, stop) for place in range(len(self._services))]
        return any(taken)

    def _send(self, place: int, title: str, body: str, notice: Notice, stop: threading.Event | None) -> bool:
        import tenacity

        attempts = tenacity.Retrying(
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self._tries), *((tenacity.stop_when_event_set(stop),) if stop else ())
            ),
            wait=tenacity.wait_exponential(multiplier=self._wait_s, max=10.0),
            sleep=_pause(stop),
            retry=tenacity.retry_if_result(lambda taken: not taken),
            retry_error_callback=lambda _: False,
        )
        taken = bool(attempts(self._once, self._services[place], title, body, notice.alert.severity))
        if not taken:
            _log.warning("alert %r did not reach address %d", notice.alert.key, place + 1)
        return taken

    def _once(self, service: "Apprise", title: str, body: str, severity: Severity) -> bool:
        from apprise import NotifyType

        kinds = {
            Severity.INFO: NotifyType.INFO,
            Severity.WARNING: NotifyType.WARNING,
            Severity.CRITICAL: NotifyType.FAILURE,
        }
        try:
            return bool(service.notify(body=body, title=title, notify_type=kinds[severity], timeout=TIMEOUT_S))
        except Exception as error:  # noqa: BLE001 - a hundred services, each with errors of its own: it is tried again
            _log.warning("an alert's service failed with %s", type(error).__name__)
            return False


def _pause(stop: threading.Event | None) -> Callable[[float], None]:
    def pause(seconds: float) -> None:
        if stop is None:
            time.sleep(seconds)
        else:
            stop.wait(seconds)

    return pause


def message(notice: Notice) -> tuple[str, str]:
    """Return title and body of a notice."""
    alert = notice.alert
    if notice.kind == "cleared":
        return f"fx: cleared: {alert.key}", f"No longer so: {alert.text}"
    again = " (still)" if notice.kind == "reminder" else ""
    return f"fx {alert.severity.name.lower()}: {alert.key}{again}", f"{alert.text}\n\nWhat to do: {alert.mend}"


class AlertWatch:
    """Looks at an account again and again, and has a person told.

    Args:
        settings: of the installation.
        group: of the alerts.
        sender: of the messages.
        clock: seconds that never go back.
    """

    def __init__(
        self, settings: Settings, group: AlertSettings, sender: AlertSender, clock: Callable[[], float] = time.monotonic
    ) -> None:
        url, account = settings.postgres.url.get_secret_value(), settings.live.account
        self._reads, self._store = SessionReads(url, account), LiveStore(url)
        self._home, self._every_s = settings.home, group.every_s
        self._limits = Limits(
            heartbeat_stale_s=settings.live.heartbeat_stale_s,
            emergency_s=group.emergency_s,
            drift_strong=settings.risk.drift_strong,
            disk_free_min=group.disk_free_min,
        )
        self._sender = sender
        self._clock = clock
        self._suppressor = Suppressor(
            reminder_s=group.reminder_s, clear_after_s=group.clear_after_s, per_hour_max=group.per_hour_max
        )
        self._stop = threading.Event()
        self.current: tuple[Alert, ...] = ()
        """What needs a person, as of the last look."""

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                await asyncio.to_thread(self.look)
                await asyncio.sleep(self._every_s)
        finally:
            self._stop.set()

    def look(self) -> None:
        """Look once, and tell what is due."""
        self.current = alerts(self.view(), self._limits)
        if not len(self._sender):
            return
        for notice in self._suppressor.due(self.current, self._clock()):
            if self._stop.is_set():
                return
            if self._sender.send(notice, self._stop):
                self._suppressor.sent(notice, self._clock())

    def view(self) -> View:
        """Return what is seen now; PostgreSQL being away is part of it."""
        account, disk = self._reads.account, disk_free(self._home)
        try:
            return self._view(account, disk)
        except FxError as error:
            return View(account, store_problem=str(error.args[0]), disk_free=disk)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from looking is itself what a person is told
            return View(account, store_problem=type(error).__name__, disk_free=disk)

    def _view(self, account: str, disk: float | None) -> View:
        kill, row = self._store.kill_state(account), self._reads.status()
        if row is None:
            return View(account, kill_reason=kill.reason if kill.engaged else None, disk_free=disk)
        session = int(row["session_id"])
        newest = self._reads.newest_by_symbol(session)
        levels = [one for one in self._reads.events(session, limit=500) if one["kind"] == "level"]
        return View(
            account,
            status=row["status"],
            heartbeat_age_s=row["age_s"],
            running=row["session_state"] == "running",
            market_open=market_open(row["status"].get("clock_ns"), time.time_ns()),
            kill_reason=kill.reason if kill.engaged else None,
            level_age_s=_age_s(levels[0]["at"]) if levels else None,
            decisions={symbol: outcome_of(one) for symbol, one in newest.items()},
            doubtful=self._store.doubtful_orders(account),
            disk_free=disk,
        )


def outcome_of(decision: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a decision's row says beside its columns."""
    outcome = decision.get("outcome")
    return outcome if isinstance(outcome, Mapping) else {}


def _age_s(at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()


def disk_free(folder: Path) -> float | None:
    """Return the free share of the disk that a folder is, or would be, on; None: it cannot be asked."""
    usage = disk_usage(folder)
    return usage.free / usage.total if usage is not None and usage.total else None


def market_open(clock_ns: object, now_ns: int) -> bool:
    """Return whether a session's market is open: by the hours of currencies; a replay's always is.

    Args:
        clock_ns: market's clock of the session, ns UTC.
        now_ns: this machine's time, ns since 1970 UTC.
    """
    import numpy as np

    from fx_dagster.market.instruments import instrument

    # Over a weekend a live market's clock stands still for two days, longer at the turn of the year.
    if not isinstance(clock_ns, int) or abs(now_ns - clock_ns) > 5 * DAY_S * 1e9:
        return True
    return bool(instrument("EURUSD").session.is_open(np.array([now_ns], dtype=np.int64))[0])
