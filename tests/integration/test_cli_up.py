"""The real ``fx up`` in a home of its own: what runs, what comes back, and that nothing is left behind."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from resources.servers.ports import free_port
from resources.servers.selfcheck import require_loopback_only

pytestmark = pytest.mark.integration

FX = Path(sys.executable).with_name("fx")

DEFINITIONS = """
import os
import time
from pathlib import Path

import dagster as dg

@dg.asset
def numbers(context: dg.AssetExecutionContext) -> int:
    context.log.info("here")
    print("printed")
    return 1

@dg.op
def sleep_long(context: dg.OpExecutionContext) -> None:
    folder = Path(os.environ["FX_HOME"])
    try:
        (folder / "sleeping").touch()
        time.sleep(600)
    finally:
        (folder / "woken").touch()

@dg.job(executor_def=dg.in_process_executor)
def sleeping_job():
    sleep_long()

@dg.definitions
def defs():
    numbers_job = dg.define_asset_job("numbers_job", selection=[numbers])
    return dg.Definitions(assets=[numbers], jobs=[numbers_job, sleeping_job])
"""


def environment(home: Path, **extra: str) -> dict[str, str]:
    """Return our environment with this home and no other setting of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FX_", "DAGSTER_"))}
    return {**kept, "FX_HOME": str(home), **extra}


def fx(home: Path, *arguments: str, timeout_s: float = 90.0, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run an ``fx`` command to its end."""
    return subprocess.run(
        [FX, *arguments],
        env=environment(home, **extra),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd="/",
    )


def write_definitions(folder: Path, text: str = DEFINITIONS) -> Path:
    """Write small definitions and return their path."""
    path = folder / "small_definitions.py"
    path.write_text(text)
    return path


class Up:
    """A running ``fx up``."""

    def __init__(self, home: Path, definitions: Path, *options: str, **extra: str) -> None:
        self.home = home
        self.errors = home / "up.err"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [FX, "up", "--json", "--definitions", str(definitions), *options],
                env=environment(home, **extra),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd="/",
                start_new_session=True,
            )

    def listens(self) -> bool:
        """Whether it has handlers of its own for signals: Python has none for SIGTERM."""
        if sys.platform != "linux":
            return True
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    def wait_ready(self) -> dict[str, Any]:
        """Wait for the document that it prints when all servers run."""
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line
            if line == "}\n":
                document: dict[str, Any] = json.loads(text)
                return document
        raise AssertionError(f"fx up ended: {self.errors.read_text()}")

    def end(self, number: int = signal.SIGINT, timeout_s: float = 30.0) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        self.process.wait(timeout_s)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.returncode


def left_behind(home: Path) -> list[str]:
    """Return living processes of that home: named on their command line, in their environment, or working there."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            ours = any(str(home) in part for part in (*command, process.cwd(), process.environ().get("FX_HOME", "")))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(command)[:200]}")
        except (psutil.Error, OSError):
            continue
    return found


def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until something is so; return whether it became so in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home for the whole module: its PostgreSQL is created once."""
    folder = Path(tempfile.mkdtemp(prefix="fx-up-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_definitions(tmp_path_factory.mktemp("definitions"))


@pytest.fixture(scope="module")
def running(home: Path, definitions: Path) -> Iterator[dict[str, Any]]:
    """A running ``fx up``, and what it printed."""
    up = Up(home, definitions)
    try:
        yield up.wait_ready()
    finally:
        up.end()


def _pid(home: Path, server: str) -> int:
    document = json.loads((home / "run" / "servers.json").read_text())
    return int(next(one["pid"] for one in document["servers"] if one["name"] == server))


class TestWhileUp:
    """With the servers of one ``fx up``."""

    def test_all_run_on_loopback_and_status_says_so(self, home: Path, running: dict[str, Any]) -> None:
        done = fx(home, "status", "--json")
        assert done.returncode == 0
        status = json.loads(done.stdout)
        assert status["running"]
        assert status["page"] == running["page"]
        names = [server["name"] for server in status["servers"] if server["alive"]]
        assert names == ["PostgreSQL", "Valkey", "Triton", "Dagster code", "Dagster daemon", "Dagster page", "Control"]
        owner = psutil.Process(int((home / "run" / "fx.lock").read_text().split()[0]))
        assert len(require_loopback_only(owner.children(recursive=True))) >= 6
        assert running["page"] in fx(home, "status").stdout

    def test_secrets_are_private(self, home: Path, running: dict[str, Any]) -> None:
        for name in ("run/servers.json", "run/valkey.conf", "postgres/password"):
            assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
        password = (home / "postgres" / "password").read_text().strip()
        shown = fx(home, "status").stdout + fx(home, "settings").stdout + fx(home, "doctor").stdout
        assert password not in shown
        assert password not in (home / "up.err").read_text()
        assert not [log for log in (home / "logs").glob("*.log") if password in log.read_text(errors="replace")]

    def test_second_up_is_refused_in_one_line(self, home: Path, running: dict[str, Any]) -> None:
        done = fx(home, "up")
        assert done.returncode == 1
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert f"the servers of {home} are run by fx up (pid " in line
        assert "fx down" in line
        assert json.loads(fx(home, "status", "--json").stdout)["running"]

    def test_doctor_sees_them(self, home: Path, running: dict[str, Any]) -> None:
        document = json.loads(fx(home, "doctor", "--json").stdout)
        (servers,) = [finding for finding in document["findings"] if finding["check"] == "servers"]
        assert servers["state"] == "ok"
        assert running["page"] in servers["text"]

    def test_env_leads_dagster_to_the_instance(self, home: Path, running: dict[str, Any]) -> None:
        script = 'eval "$("$1" env)" && "$2" instance info'
        done = subprocess.run(
            ["/bin/sh", "-c", script, "sh", str(FX), str(FX.with_name("dagster"))],
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "PostgresEventLogStorage" in done.stdout + done.stderr
        assert str(home / "dagster") in done.stdout + done.stderr

    # dagster_graphql 1.13 calls gql 4 in the way of gql 3.
    @pytest.mark.filterwarnings("ignore:Using variable_values and operation_name:DeprecationWarning")
    def test_a_run_succeeds_and_writes_below_home(self, home: Path, running: dict[str, Any]) -> None:
        from dagster import DagsterRunStatus
        from dagster_graphql import DagsterGraphQLClient

        port = int(running["page"].rpartition(":")[2])
        client = DagsterGraphQLClient("127.0.0.1", port_number=port)
        run_id = client.submit_job_execution("numbers_job")
        over = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE)
        assert until(lambda: client.get_run_status(run_id) in over, 90)
        assert client.get_run_status(run_id) is DagsterRunStatus.SUCCESS
        printed = [path.read_text() for path in (home / "dagster" / "storage").rglob("*.out")]
        assert "printed\n" in printed

    @pytest.mark.parametrize(
        ("server", "number", "within_s"),
        [
            ("Triton", signal.SIGKILL, 5.0),
            ("Triton", signal.SIGSTOP, 12.0),
            ("Valkey", signal.SIGKILL, 5.0),
            ("PostgreSQL", signal.SIGKILL, 5.0),
            ("Dagster code", signal.SIGKILL, 15.0),
        ],
    )
    def test_dead_or_hanging_server_is_back(
        self, home: Path, running: dict[str, Any], server: str, number: int, within_s: float
    ) -> None:
        before = _pid(home, server)
        os.kill(before, number)
        began = time.monotonic()
        assert until(lambda: _pid(home, server) != before, within_s + 20)
        took_s = time.monotonic() - began
        assert psutil.Process(_pid(home, server)).is_running()
        assert not psutil.pid_exists(before)
        assert took_s < within_s * _patience(), f"{took_s:.1f} s"

    def test_down_ends_everything(self, home: Path, running: dict[str, Any]) -> None:
        began = time.monotonic()
        done = fx(home, "down")
        assert done.returncode == 0
        assert "were run by fx up" in done.stderr
        assert time.monotonic() - began < 20
        assert left_behind(home) == []
        assert not (home / "run" / "servers.json").exists()
        assert fx(home, "status").returncode == 1
        assert "none ran" in fx(home, "down").stderr


def _patience() -> float:
    """Return how much slower than alone this machine is now."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.parametrize(
    ("number", "after_s"),
    [
        (signal.SIGINT, 0.5),
        (signal.SIGKILL, 1.2),
        (signal.SIGINT, 1.8),
        (signal.SIGTERM, 3.0),
        (signal.SIGINT, 4.5),
        (signal.SIGKILL, 6.0),
        (signal.SIGINT, 7.0),
    ],
)
def test_interrupted_start_leaves_no_process(home: Path, definitions: Path, number: int, after_s: float) -> None:
    up = Up(home, definitions)
    assert until(up.listens, 20), up.errors.read_text()
    time.sleep(after_s)
    began = time.monotonic()
    code = up.end(number)
    assert time.monotonic() - began < 15
    assert code == (-number if number == signal.SIGKILL else 128 + number), up.errors.read_text()
    assert until(lambda: not left_behind(home), 10), left_behind(home)


@pytest.mark.filterwarnings("ignore:Using variable_values and operation_name:DeprecationWarning")
def test_a_long_run_is_ended_politely_and_kill_9_leaves_no_process(home: Path, definitions: Path) -> None:
    from dagster import DagsterRunStatus
    from dagster_graphql import DagsterGraphQLClient

    def client(page: str) -> DagsterGraphQLClient:
        return DagsterGraphQLClient("127.0.0.1", port_number=int(page.rpartition(":")[2]))

    up = Up(home, definitions)
    run_id = client(up.wait_ready()["page"]).submit_job_execution("sleeping_job")
    assert until((home / "sleeping").exists, 90)
    began = time.monotonic()
    assert up.end(signal.SIGINT) == 130
    assert time.monotonic() - began < 16
    assert left_behind(home) == []
    assert (home / "woken").exists()  # it was asked, and could clean up

    again = Up(home, definitions)
    # The run was told of its end while PostgreSQL still ran: it does not hang as started for ever.
    assert client(again.wait_ready()["page"]).get_run_status(run_id) is DagsterRunStatus.FAILURE
    again.end(signal.SIGKILL)
    assert until(lambda: not left_behind(home), 10), left_behind(home)
    assert fx(home, "status").returncode == 1


def test_error_in_the_definitions_is_one_line(home: Path, tmp_path: Path) -> None:
    broken = write_definitions(tmp_path, "raise ValueError('the telling words')\n")
    done = fx(home, "up", "--definitions", str(broken))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Dagster cannot load the definitions" in line
    assert "the telling words" in line
    assert left_behind(home) == []


def test_plain_dagster_dev_loads_the_project(home: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    before = set(root.iterdir())
    up = Up(home, Path("unused"), "--no-dagster")
    dev: subprocess.Popen[bytes] | None = None
    page_port = free_port()
    log = tmp_path / "dev.log"
    question = "{workspaceOrError{... on Workspace{locationEntries{name locationOrLoadError{__typename}}}}}"
    try:
        assert up.wait_ready()["page"] == ""
        script = 'eval "$("$1" env)" && exec "$2" dev --port "$3"'
        with log.open("w") as output:
            dev = subprocess.Popen(
                ["/bin/sh", "-c", script, "sh", str(FX), str(FX.with_name("dagster")), str(page_port)],
                env=environment(home),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=root,
            )

        def entries() -> list[dict[str, Any]]:
            body = json.dumps({"query": question}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{page_port}/graphql", body, {"Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                    found: list[dict[str, Any]] = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
                    return found
            except OSError:
                return []

        assert until(lambda: dev.poll() is not None or bool(entries()), 90), log.read_text()
        assert entries() == [{"name": "fx_dagster", "locationOrLoadError": {"__typename": "RepositoryLocation"}}], (
            log.read_text()
        )
    finally:
        if dev is not None:
            dev.send_signal(signal.SIGINT)
            dev.wait(60)
        up.end()
        # `dagster dev` leaves the workers of its runs: the sensor may have started a live session by now.
        for process in left_behind(home):
            with suppress(ProcessLookupError):
                os.kill(int(process.split()[0]), signal.SIGKILL)
    assert set(root.iterdir()) == before


def _group_script(home: Path, body: str, **extra: str) -> str:
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from fx_dagster.settings import load_settings\nfrom resources.servers.group import ServerGroup\n"
        "from resources.servers import triton\n" + body
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(home, **extra),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_triton_the_group_goes_on(home: Path) -> None:
    out = _group_script(
        home,
        "triton.runtime_folder = lambda: Path('/nowhere')\n"
        "with ServerGroup(load_settings(), dagster=False) as group:\n"
        "    print(group.skipped['Triton'])\n"
        "    print(repr(group.settings_for_children().triton.url))\n"
        "    print(group.postgres.healthy(), group.valkey.healthy())\n",
    )
    why, url, healthy = out.splitlines()
    assert "no Triton runtime" in why
    assert url == "''"
    assert healthy == "True True"


def test_servers_of_the_users_own_are_used_and_left_alone(home: Path, database_url: str, valkey_url: str) -> None:
    out = _group_script(
        home,
        "with ServerGroup(load_settings(), dagster=False) as group:\n"
        "    inner = group.settings_for_children()\n"
        "    print(inner.postgres.url.get_secret_value())\n"
        "    print(inner.redis.url.get_secret_value())\n"
        "    print(inner.triton.url, len(group.skipped))\n",
        FX_POSTGRES_URL=database_url,
        FX_REDIS_URL=valkey_url,
        FX_TRITON_URL="127.0.0.1:1",
    )
    assert out.splitlines() == [database_url, valkey_url, "127.0.0.1:1 3"]


def test_server_of_the_users_own_that_is_away_is_an_error(home: Path) -> None:
    done = fx(home, "up", FX_POSTGRES_URL="postgresql+psycopg2://me:secret@127.0.0.1:1/db")
    assert done.returncode == 1
    assert "PostgreSQL at 127.0.0.1:1 does not answer" in done.stderr
    assert "secret" not in done.stderr
    assert left_behind(home) == []


def test_release_is_loaded_again_with_every_start_of_triton(home: Path) -> None:
    out = _group_script(
        home,
        "import time\n"
        "from fx_dagster.errors import ReleaseError\n"
        "calls = []\n"
        "def load(settings):\n"
        "    calls.append(settings.triton.url)\n"
        "    if len(calls) == 2:\n"
        "        raise ReleaseError('not now')\n"
        "with ServerGroup(load_settings(), dagster=False, on_triton_start=load) as group:\n"
        "    group.triton.process.kill()\n"
        "    deadline = time.monotonic() + 40\n"
        "    while len(calls) < 3 and time.monotonic() < deadline:\n"
        "        time.sleep(0.05)\n"
        "    print(calls == 3 * [group.triton.url])\n",
    )
    assert out == "True\n"


def test_taken_page_port_is_an_error_that_names_the_setting(home: Path, definitions: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = fx(home, "up", "--definitions", str(definitions), FX_UI_PORT=str(port))
    assert done.returncode == 1
    assert f"Dagster's page: port {port} is taken by" in done.stderr
    assert "FX_UI_PORT" in done.stderr
    assert left_behind(home) == []
