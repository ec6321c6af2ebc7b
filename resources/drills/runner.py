"""Which drills there are, and runs one: refused where it must not be, one at a time, with a record of how it ended."""

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psutil
import psycopg

from fx_dagster.errors import FxError, ServerError, SettingsError
from fx_dagster.settings import Settings
from resources.control.protocols import Drill, DrillOutcome
from resources.drill_store import DrillStore
from resources.drills import bridge, engine, servers
from resources.drills.findings import Check, Findings
from resources.drills.scene import FRESH_S, Scene
from resources.live_store import StatusRow
from resources.postgres import migrate
from resources.servers.private_files import make_own_folder

RECORD_WITHIN_S: Final = 60.0
"""How long the end of a drill is tried to be written down: PostgreSQL may be what it has taken away."""


@dataclass(frozen=True)
class _Entry:
    drill: Drill
    run: Callable[[Scene], None]


def _entry(name: str, what: str, expected: str, run: Callable[[Scene], None]) -> tuple[str, _Entry]:
    return name, _Entry(Drill(name, what, expected), run)


_ALL: Final[Mapping[str, _Entry]] = dict(
    (
        _entry(
            "triton-kill",
            "kills Triton (SIGKILL)",
            "the next decision is a level down; Triton is back with its models within 5 s",
            servers.triton_kill,
        ),
        _entry(
            "triton-stop",
            "stops Triton (SIGSTOP), which keeps its connections open",
            "decisions wait no longer than their deadline; the watchdog has another one up within 10 s",
            servers.triton_stop,
        ),
        _entry(
            "cache-down",
            "kills the cache (SIGKILL)",
            "decisions go on without it; it is back within 5 s",
            servers.cache_down,
        ),
        _entry(
            "postgres-down",
            "stops PostgreSQL for 4 s (SIGSTOP) and lets it go on; then kills it (SIGKILL)",
            "no entries while it is away, journal_problem in the status; joined afterwards by the same engine",
            servers.postgres_down,
        ),
        _entry(
            "engine-kill",
            "kills the engine (SIGKILL)",
            "another goes on with the session within 2 s; nothing is decided twice",
            engine.engine_kill,
        ),
        _entry(
            "engine-stop",
            "stops the engine for 5 s (SIGSTOP) and lets it go on",
            "it goes on, or is fenced where another has overtaken it; nothing is decided twice",
            engine.engine_stop,
        ),
        _entry(
            "kill-switch",
            "turns the kill switch on, kills the engine, and turns it off again",
            "it holds within 1 s and over the restart; then the account trades as before",
            engine.kill_switch,
        ),
        _entry(
            "bridge-kill",
            "kills the bridge's worker, which holds the terminal (SIGKILL)",
            "the bridge starts another; the engine lives on, no order is in doubt",
            bridge.bridge_kill,
        ),
    )
)

SCHEDULED: Final = ("triton-kill", "triton-stop", "cache-down", "engine-kill", "engine-stop", "kill-switch")
"""What a schedule runs: PostgreSQL is also what Dagster keeps its runs in, and is left to an operator."""


@dataclass(frozen=True)
class DrillResult:
    """How a drill ended.

    Attributes:
        id: of its record.
        name: of the drill.
        passed: whether something was seen, and all that was seen was as expected.
        seconds: how long it took.
        text: what was seen, in one line.
        checks: what was expected and seen.
    """

    id: int
    name: str
    passed: bool
    seconds: float
    text: str
    checks: tuple[Check, ...]


class LocalDrills:
    """The drills of one home; implements :class:`resources.control.protocols.Drills`.

    Args:
        settings: with the addresses of the running servers.
        real_account: name of a real account that the caller explicitly risks; empty: paper and demo accounts only.
        on_step: told of everything as it happens.
    """

    def __init__(
        self, settings: Settings, *, real_account: str = "", on_step: Callable[[str], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self._real_account = real_account
        self._on_step = on_step

    def list(self) -> Sequence[Drill]:
        """Return the drills that can be run here."""
        with_bridge = self._settings.live.broker == "mt5"
        return tuple(entry.drill for name, entry in _ALL.items() if name != "bridge-kill" or with_bridge)

    def run(self, name: str, *, by_whom: str) -> DrillOutcome:
        """Run one and return when it is over; see the protocol."""
        result = self.carry_out(name, by_whom=by_whom)
        return DrillOutcome(result.passed, result.text, result.seconds)

    def carry_out(self, name: str, *, by_whom: str) -> DrillResult:
        """Run one, keep its record, and return it.

        Raises:
            KeyError: there is no such drill here.
            SettingsError: the account is a real one, and nobody said that it may be risked.
            ServerError: what it needs is not there, or another drill runs.
        """
        if name not in {drill.name for drill in self.list()}:
            raise KeyError(name)
        require_harmless(self._settings, self._real_account)
        url, account = self._settings.postgres.url.get_secret_value(), self._settings.live.account
        with _alone(self._settings):
            migrate(url)
            store, findings = DrillStore(url), Findings(self._on_step)
            scene = Scene(self._settings, findings, by_whom)
            scene.engine()  # refuses before anything is written down
            drill, began_s = store.begin(account, name, by_whom=by_whom), time.monotonic()
            try:
                _ALL[name].run(scene)
            except BaseException as error:
                if isinstance(error, FxError) and not findings.touched:
                    store.forget(drill)
                    raise
                findings.broke(error)
                _end(store, drill, findings, time.monotonic() - began_s, patience_s=_patience_s(error))
                if isinstance(error, psutil.Error):
                    raise ServerError(f"drill {name}: {error}", mend="run it as the user of the servers") from error
                raise
            seconds = time.monotonic() - began_s
            _end(store, drill, findings, seconds)
        return DrillResult(drill, name, findings.passed, seconds, findings.text, tuple(findings.checks))

    def settle(self, timeout_s: float) -> bool:
        """Wait until the engine decides with models and has no problem, as the next drill wants it; False: it does not.

        How long that takes is not judged here.
        """
        scene = Scene(self._settings, Findings())

        def sound(row: StatusRow) -> bool:
            problems = (row.status.get(name) for name in ("journal_problem", "broker_problem", "feed_problem"))
            return row.age_s < FRESH_S and row.status.get("level") in (1, 2) and not any(problems)

        return scene.beat(sound, timeout_s) is not None


def _patience_s(error: BaseException) -> float:
    """Return how long to try to write down an end: whoever interrupts does not want to wait."""
    return RECORD_WITHIN_S if isinstance(error, Exception) else 2.0


def _end(
    store: DrillStore, drill: int, findings: Findings, seconds: float, *, patience_s: float = RECORD_WITHIN_S
) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            store.end(drill, passed=findings.passed, seconds=seconds, text=findings.text, checks=findings.rows())
        except (FxError, psycopg.Error) as error:
            if time.monotonic() > deadline:
                findings.did(f"the end of drill {drill} is not recorded: {error}")
                return
            time.sleep(0.5)
        else:
            return


def account_kind(settings: Settings) -> str:
    """Return what money the live account trades: ``paper``, ``demo`` or ``real``."""
    return "paper" if settings.live.broker == "paper" else settings.bridge.mode


def require_harmless(settings: Settings, real_account: str = "") -> None:
    """Refuse a real account that nobody said may be risked.

    Raises:
        SettingsError: it is one.
    """
    account = settings.live.account
    if account_kind(settings) == "real" and real_account != account:
        raise SettingsError(
            f"account {account} is a real one: a drill stops what protects its money",
            mend=f"drill on paper or a demo account; to do it all the same: fx drill NAME --real-account {account}",
        )


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Keep other drills of this home out; the system lets go, however this process ends.

    Raises:
        ServerError: another runs.
    """
    path = settings.run_folder / "drill.lock"
    make_own_folder(path.parent)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerError("another drill runs in this home", mend="wait until it is over: fx drill log") from None
        yield
