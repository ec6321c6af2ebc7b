"""What needs a person: pure rules over what is seen of a session, and when each is told again.

Times are seconds: ``now_s`` counts on any clock that never goes back, ages are of this machine. Nothing is asked or
sent here.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from fx_dagster.decision.codes import Level, Stage

HOUR_S = 3_600.0


class Severity(IntEnum):
    """How soon a person should look."""

    INFO = 0
    WARNING = 1
    """Today."""
    CRITICAL = 2
    """Now."""


@dataclass(frozen=True)
class Alert:
    """Something that needs a person.

    Attributes:
        key: what it is about; the same while it lasts.
        severity: how soon.
        text: what is the matter, in a line.
        mend: what to do about it.
    """

    key: str
    severity: Severity
    text: str
    mend: str


@dataclass(frozen=True)
class Limits:
    """From where on a person is called: seconds, and shares from 0 to 1."""

    heartbeat_stale_s: float = 45.0
    emergency_s: float = 60.0
    drift_strong: float = 0.8
    disk_free_min: float = 0.05


@dataclass(frozen=True)
class View:
    """What is seen of an account from outside.

    Attributes:
        account: its name.
        store_problem: why PostgreSQL could not be asked; then the rest is unknown.
        status: the engine's newest status; None: there never was one.
        heartbeat_age_s: age of that status.
        running: whether the session is unfinished, so that an engine should be alive.
        market_open: whether the market that it trades is open.
        kill_reason: why a person stopped the account; None: nobody did.
        level_age_s: how long the level has been what it is; None: unknown.
        decisions: of each symbol the newest decision's ``breakers``, ``stage`` and ``drift``.
        doubtful: orders in state ``unknown`` or ``held``, with ``client_order_id``, ``symbol``, ``state``.
        disk_free: free share of the disk that everything is written to; None: unknown.
    """

    account: str
    store_problem: str = ""
    status: Mapping[str, Any] | None = None
    heartbeat_age_s: float = 0.0
    running: bool = False
    market_open: bool = True
    kill_reason: str | None = None
    level_age_s: float | None = None
    decisions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    doubtful: Sequence[Mapping[str, Any]] = ()
    disk_free: float | None = None


def alerts(view: View, limits: Limits = Limits()) -> tuple[Alert, ...]:
    """Return what needs a person now, the most urgent first, then in order of key."""
    found = _of_disk(view, limits)
    if view.store_problem:
        text = f"PostgreSQL cannot be asked about account {view.account}: {view.store_problem}"
        found.append(Alert("store", Severity.CRITICAL, text, "fx status shows the servers, fx up starts them"))
    else:
        found += _of_session(view, limits) + _of_decisions(view, limits) + _of_orders(view)
    return tuple(sorted(found, key=lambda alert: (-alert.severity, alert.key)))


def _of_disk(view: View, limits: Limits) -> list[Alert]:
    if view.disk_free is None or view.disk_free >= limits.disk_free_min:
        return []
    text = f"the disk of FX_HOME has {view.disk_free:.1%} left"
    return [Alert("disk", Severity.CRITICAL, text, "free some: old reports, tapes and logs below FX_HOME")]


def _of_session(view: View, limits: Limits) -> list[Alert]:
    found, account = [], view.account
    killed = view.kill_reason is not None
    if killed:
        why = f": {view.kill_reason}" if view.kill_reason else ""
        found.append(
            Alert("kill", Severity.CRITICAL, f"account {account} is stopped{why}", "fx resume when it may trade")
        )
    status = view.status
    if status is None:
        return found
    # While the switch is on nothing starts a session, and a closed market has nothing to miss.
    if view.running and view.market_open and not killed and view.heartbeat_age_s > limits.heartbeat_stale_s:
        text = f"account {account}: no heartbeat for {view.heartbeat_age_s:.0f} s while the market is open"
        found.append(Alert("heartbeat", Severity.CRITICAL, text, "look at the run on Dagster's page, and at fx status"))
    if not view.running or view.heartbeat_age_s > limits.heartbeat_stale_s:
        return found  # what it last said is not how it is now
    if status.get("level") == Level.EMERGENCY and (view.level_age_s or 0.0) > limits.emergency_s:
        text = f"account {account} has been at level 4 for {view.level_age_s:.0f} s: {status.get('level_reason', '')}"
        found.append(
            Alert("level", Severity.CRITICAL, text.removesuffix(": "), "mend what it names; fx explain says more")
        )
    return found + _of_status(account, status)


def _of_status(account: str, status: Mapping[str, Any]) -> list[Alert]:
    """Return what a living engine says of itself."""
    found = []
    if problem := str(status.get("journal_problem") or ""):
        text = f"account {account}: the journal cannot be trusted: {problem}"
        found.append(
            Alert("journal", Severity.CRITICAL, text, "fx status; without a journal there are no new positions")
        )
    found += _of_broker(account, status) + _of_market(account, status)
    return found + _of_models(account, str(status.get("model_problem") or ""))


def _of_market(account: str, status: Mapping[str, Any]) -> list[Alert]:
    found = []
    if problem := str(status.get("clock_problem") or status.get("feed_remark") or ""):
        mend = "have this machine's clock kept by NTP; trading goes by the market's own"
        found.append(Alert("clock", Severity.WARNING, f"account {account}: {problem}", mend))
    if halted := status.get("symbols_halted"):
        which = _some([f"{symbol} ({halted[symbol]})" for symbol in sorted(halted)])
        text = f"account {account}: nothing is opened in {which}"
        found.append(Alert("symbols", Severity.WARNING, text, "see the broker's quotes and contracts; fx explain"))
    return found


def _of_models(account: str, problem: str) -> list[Alert]:
    mend = "fx release show, then fx release promote or rollback"
    if _refused(problem):
        return [Alert("release", Severity.WARNING, f"account {account}: a release is refused: {problem}", mend)]
    if "stuck: " in problem:
        text = f"account {account}: a model says the same whatever it is asked: {problem}"
        return [Alert("stuck model", Severity.WARNING, text, mend)]
    return []


def _of_broker(account: str, status: Mapping[str, Any]) -> list[Alert]:
    found = []
    if problem := str(status.get("broker_problem") or ""):
        text = f"account {account}: nothing can be opened at the broker: {problem}"
        mend = "see that the terminal runs, is connected, and has automated trading switched on: fx bridge health"
        found.append(Alert("broker", Severity.CRITICAL, text, mend))
    if problem := str(status.get("feed_problem") or ""):
        text = f"account {account}: no ticks: {problem}"
        found.append(Alert("feed", Severity.CRITICAL, text, "fx bridge health; look at the terminal"))
    return found


def _refused(problem: str) -> bool:
    """Whether a release was refused, rather than no model server being there, or none having been released yet."""
    return any(
        word in problem for word in ("refused", "the active release is not known", "was altered", "feature hash")
    )


def _of_decisions(view: View, limits: Limits) -> list[Alert]:
    if not view.running:
        return []
    tripped: dict[str, list[str]] = {}
    stage, drifted = 0, {}
    for symbol, said in sorted(view.decisions.items()):
        for breaker in said.get("breakers") or ():
            tripped.setdefault(str(breaker), []).append(symbol)
        name = str(said.get("stage") or "").upper()
        stage = max(stage, int(Stage[name]) if name in Stage.__members__ else 0)
        drift = said.get("drift")
        if isinstance(drift, int | float) and drift >= limits.drift_strong:
            drifted[symbol] = float(drift)
    found = [
        Alert(
            f"breaker {name}", Severity.WARNING, f"breaker {name.replace('_', ' ')} has tripped: {_some(symbols)}",
            "nothing, unless it should not have: it resets itself; fx explain says why",
        )
        for name, symbols in tripped.items()
    ]  # fmt: skip
    if stage >= Stage.CLOSE_ONLY:
        halted = stage >= Stage.HALT
        mend = "look at the losses, then fx resume" if halted else "nothing is opened; look at the losses"
        text = f"account {view.account}: drawdown stage {stage}, {Stage(stage).name.lower().replace('_', ' ')}"
        found.append(Alert("drawdown", Severity.CRITICAL, text, mend))
    if drifted:
        worst = max(drifted.values())
        text = f"features have drifted ({worst:.2f}): {_some(list(drifted))}"
        found.append(Alert("drift", Severity.WARNING, text, "train and release again: fx train"))
    return found


def _of_orders(view: View) -> list[Alert]:
    found = []
    for order in view.doubtful:
        key, state = str(order.get("client_order_id")), str(order.get("state"))
        held = state == "held"
        text = (
            f"order {key} ({order.get('symbol')}) is {'held for a person' if held else 'unknown to the broker so far'}"
        )
        mend = "compare it with the broker's orders and deals by that key before anything is sent"
        found.append(Alert(f"order {key}", Severity.CRITICAL if held else Severity.WARNING, text, mend))
    return found


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# -- what is told, and when again --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Notice:
    """One message: an alert that is new, lasts, or has cleared."""

    alert: Alert
    kind: str
    """``new``, ``reminder`` or ``cleared``."""


@dataclass
class _Told:
    alert: Alert
    told_s: float
    seen_s: float


class Suppressor:
    """Says what to tell: each alert once until it clears, again after an hour, and never too many together.

    What was not told for want of room stays due; the most urgent goes first.

    Args:
        reminder_s: pause before what lasts is told again.
        clear_after_s: absence after which an alert has cleared: one that comes and goes is told once.
        per_hour_max: messages in any hour.
    """

    def __init__(self, *, reminder_s: float = HOUR_S, clear_after_s: float = 60.0, per_hour_max: int = 30) -> None:
        self._reminder_s = reminder_s
        self._clear_after_s = clear_after_s
        self._per_hour_max = per_hour_max
        self._told: dict[str, _Told] = {}
        self._sent_s: deque[float] = deque(maxlen=per_hour_max)

    def due(self, found: Sequence[Alert], now_s: float) -> tuple[Notice, ...]:
        """Return what is to be told now; each that was told is to be reported with :meth:`sent`."""
        present = {alert.key: alert for alert in found}
        notices = []
        for key, alert in present.items():
            told = self._told.get(key)
            if told is None:
                notices.append(Notice(alert, "new"))
                continue
            told.seen_s = now_s
            # What has become more urgent is news.
            worse = alert.severity > told.alert.severity
            if worse or now_s - told.told_s >= self._reminder_s:
                notices.append(Notice(alert, "new" if worse else "reminder"))
        notices += [
            Notice(told.alert, "cleared")
            for key, told in self._told.items()
            if key not in present and now_s - told.seen_s >= self._clear_after_s
        ]
        notices.sort(key=lambda notice: (notice.kind == "cleared", -notice.alert.severity, notice.alert.key))
        return tuple(notices[: self._room(now_s)])

    def _room(self, now_s: float) -> int:
        while self._sent_s and now_s - self._sent_s[0] >= HOUR_S:
            self._sent_s.popleft()
        return self._per_hour_max - len(self._sent_s)

    def sent(self, notice: Notice, now_s: float) -> None:
        """Remember that a notice has been told."""
        self._sent_s.append(now_s)
        if notice.kind == "cleared":
            self._told.pop(notice.alert.key, None)
        else:
            self._told[notice.alert.key] = _Told(notice.alert, now_s, now_s)
