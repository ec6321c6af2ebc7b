"""``fx release`` over a real PostgreSQL and a model repository on disk."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from assets.run_shape import RunShape
from fx_dagster import cli
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS
from fx_dagster.models.promotion import Stage
from fx_dagster.models.release import ReleaseManifest
from fx_dagster.settings import Settings, load_settings
from resources.market import open_source
from resources.postgres import migrate, psycopg_url
from resources.releases import ReleaseStore
from resources.servers.ports import free_port
from tests.resources.release_models import simple_canary

pytestmark = pytest.mark.integration

GOOD = {
    "rows": 900, "accuracy": 0.5432, "majority_accuracy": 0.51, "break_even_accuracy": 0.52, "log_loss": 0.6812,
    "brier": 0.24, "mean_net_return": 2e-5,
}  # fmt: skip

Run = Callable[..., tuple[int, str, str]]
Release = Callable[..., ReleaseManifest]


@pytest.fixture
def settings(free_home: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FX_POSTGRES_URL", database_url)
    monkeypatch.setenv("FX_SOURCE_KIND", "simulator")
    monkeypatch.setenv("FX_SOURCE_SIMULATOR_DAYS", "10")
    monkeypatch.setenv("FX_SOURCE_SIMULATOR_SYMBOLS", "1")
    monkeypatch.setenv("FX_SOURCE_SIMULATOR_TIMEFRAME", "H1")
    migrate(database_url)
    return load_settings()


@pytest.fixture
def store(settings: Settings) -> ReleaseStore:
    return ReleaseStore.of(settings)


@pytest.fixture
def release(settings: Settings, store: ReleaseStore) -> Release:
    """Return a maker of recorded releases with a file on disk."""
    source = open_source(settings.source)
    shape = RunShape.of(source)
    newest = source.span(shape.symbols[0])[1]

    def make(
        version: int, *, net: float = 2e-5, age_days: int = 3, feature_hash: str = "", **lineage: Any
    ) -> ReleaseManifest:
        root = settings.model_repository
        place = f"xgboost-r{version}/{version}/model.onnx"
        content = f"weights of {version}".encode()
        (root / place).parent.mkdir(parents=True)
        (root / place).write_bytes(content)
        facts = {
            "source": shape.source, "symbols": list(shape.symbols), "last": newest - age_days * DAY_NS,
            "checks": {"xgboost_model onnx_is_the_model": True},
        }  # fmt: skip
        manifest = ReleaseManifest(
            version=version, created_at="2024-01-10T22:00:00+00:00", models=("xgboost",), members=("xgboost",),
            symbols=shape.symbols, quantised=(), device="cpu", feature_names=shape.catalogue.names,
            feature_hash=feature_hash or shape.catalogue.hash, files={place: hashlib.sha256(content).hexdigest()},
            canary=simple_canary([0.1], [0.5]),
            metrics={"xgboost": {"holdout": {**GOOD, "mean_net_return": net}}}, lineage={**facts, **lineage},
            cards={"xgboost": {"rows": 5000, "seed": 7, "parameters": {"max_depth": 4}}},
        )  # fmt: skip
        (root / "releases").mkdir(exist_ok=True)
        (root / "releases" / f"{version}.json").write_text(manifest.to_json())
        store.record(manifest)
        return manifest

    return make


def write_session(url: str, account: str, *, growth: float, release: int, hours: int) -> None:
    """Write a session of whole hours, from a market Monday on: a state, a closed trade and a decision an hour."""
    start = 1_512_338_400_000_000_000
    with psycopg.connect(psycopg_url(url), options="-c search_path=fx") as connection:
        connection.execute("INSERT INTO live_account (account) VALUES (%s) ON CONFLICT DO NOTHING", (account,))
        row = connection.execute(
            "INSERT INTO live_session (account, fingerprint, replay_start, replay_end, position, clock)"
            " VALUES (%s, 'tape', %s, %s, %s, %s) RETURNING session_id",
            (account, start, start + hours * HOUR_NS, start, start),
        ).fetchone()
        assert row is not None
        values = {"id": row[0], "start": start, "hour": HOUR_NS, "account": account, "release": release}
        values |= {"growth": growth, "hours": hours}
        for statement in (
            "INSERT INTO account_state SELECT %(id)s, %(start)s + n * %(hour)s, 'USD', 1e4,"
            " 1e4 * power(1 + %(growth)s::float8, n::float8), 0, '[]' FROM generate_series(1, %(hours)s) n",
            "INSERT INTO deal SELECT %(id)s, n, %(account)s, 0, 'EURUSD', %(start)s + n * %(hour)s, 0.1, 1.1, 0, 0, 1,"
            " 'target', true, 10 FROM generate_series(1, %(hours)s) n",
            "INSERT INTO decision (account, session_id, symbol, number, kind, time_ns, bar_time, level, level_reason,"
            " action, outcome, features, feature_hash, release, latency_total_ms, epoch, decided_at)"
            " SELECT %(account)s, %(id)s, 'EURUSD', n, 'bar', %(start)s + n * %(hour)s - 1,"
            " %(start)s + (n - 1) * %(hour)s, 1, '', 'wait', '{}', '', 'c0ffee', %(release)s, 1, 1, now()"
            " FROM generate_series(1, %(hours)s) n",
        ):
            connection.execute(statement.encode(), values)


@pytest.fixture
def fx(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["release", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def paper(settings: Settings) -> Callable[[float], None]:
    """Return a writer of 60 whole paired days: release 1 live, release 2 in shadow with so much more an hour."""

    def write(ahead: float) -> None:
        url = settings.postgres.url.get_secret_value()
        write_session(url, "paper", growth=0.0, release=1, hours=24 * 62)
        write_session(url, "paper-shadow", growth=ahead, release=2, hours=24 * 62)

    return write


def test_without_servers_it_says_so(free_home: Path, fx: Run) -> None:
    code, out, err = fx("list")
    assert (code, out) == (1, "")
    assert "no servers run in" in err
    assert "fx up" in err


def test_list_shows_stage_live_and_figures(store: ReleaseStore, release: Release, fx: Run) -> None:
    for version in (1, 2, 3):
        release(version)
        store.introduce(version, reason="trained")
    code, out, _ = fx("list", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["release"], row["stage"], row["live"]) for row in rows] == [
        (3, "shadow", False), (2, "shadow", False), (1, "live", True),
    ]  # fmt: skip
    assert (rows[0]["holdout_accuracy"], rows[0]["holdout_log_loss"]) == (GOOD["accuracy"], GOOD["log_loss"])
    code, out, _ = fx("list")
    assert "54.32%" in out
    assert "0.6812" in out


def test_a_release_that_cannot_be_read_is_listed_with_the_reason(settings: Settings, release: Release, fx: Run) -> None:
    release(1)
    with psycopg.connect(psycopg_url(settings.postgres.url.get_secret_value())) as connection:
        connection.execute("UPDATE fx.releases SET signature = NULL, key_id = NULL")
    code, out, _ = fx("list", "--json")
    assert code == 0
    assert "has no signature" in json.loads(out)[0]["problem"]
    code, _, err = fx("show", "1")
    assert code == 1
    assert "release 1 in PostgreSQL has no signature" in err


def test_show_tells_signature_cards_figures_and_files(
    settings: Settings, store: ReleaseStore, release: Release, fx: Run
) -> None:
    manifest = release(1)
    signature = store.signature(1)
    assert signature is not None
    code, out, _ = fx("show", "1")
    assert code == 0
    for said in (signature.key_id, "max_depth=4", "simulator", "54.32%", "All files are the recorded ones"):
        assert said in out
    (settings.model_repository / "xgboost-r1" / "1" / "model.onnx").write_text("other weights")
    code, out, _ = fx("show", "1", "--json")
    document = json.loads(out)
    assert document["signed_with"] == signature.key_id
    assert document["manifest"] == json.loads(manifest.to_json())
    assert "not the file of release 1" in document["files_problem"]
    assert fx("show", "9")[0] == 1


def test_the_first_release_is_promoted_without_a_comparison(store: ReleaseStore, release: Release, fx: Run) -> None:
    release(1)
    code, out, err = fx("promote", "1")
    assert code == 0
    for gate in ("checks", "features", "files", "data", "costs", "sequential test"):
        assert f"✓ {gate}" in out
    assert "Release 1 is live" in err
    assert store.active() == 1
    code, _, err = fx("promote", "1")
    assert code == 1
    assert "release 1 is live already" in err


def test_a_challenger_that_is_not_better_stays_in_shadow(
    store: ReleaseStore, release: Release, fx: Run, paper: Callable[[float], None]
) -> None:
    for version in (1, 2):
        release(version)
        store.introduce(version, reason="trained")
    code, out, err = fx("promote", "2")
    assert code == 1
    assert "✗ sequential test" in out
    assert "release 2 is not promoted: sequential test: undecided: no common trading day yet" in err
    paper(0.0)
    code, out, _ = fx("promote", "2", "--json")
    document = json.loads(out)
    assert code == 1
    assert document["promoted"] is False
    assert document["refused"][0].startswith("sequential test: undecided")
    assert store.active() == 1


def test_a_better_challenger_goes_live_and_comes_back(
    store: ReleaseStore, release: Release, fx: Run, paper: Callable[[float], None]
) -> None:
    for version in (1, 2):
        release(version)
        store.introduce(version, reason="trained")
    paper(3e-4)
    code, out, _ = fx("promote", "2", "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["promoted"], document["before"], document["refused"]) == (True, 1, [])
    assert store.active() == 2
    code, out, _ = fx("compare", "1", "2", "--json")
    paired = json.loads(out)["paired"]
    assert (paired["verdict"], paired["days"]) == ("better", 60)
    code, out, _ = fx("compare", "1", "2")
    assert "release 2 is better" in out
    code, out, _ = fx("rollback", "--reason", "nerves", "--json")
    assert code == 0
    assert json.loads(out) == {"release": 1, "before": 2, "reason": "nerves"}
    assert store.active() == 1


def test_compare_without_paper_trading_says_so(release: Release, fx: Run) -> None:
    release(1)
    release(2, net=-1e-5)
    code, out, _ = fx("compare", "1", "2")
    assert code == 0
    assert "no whole trading day" in out
    assert "-0.00100%" in out
    document = json.loads(fx("compare", "1", "2", "--json")[1])
    assert document["paired"]["mean"] is None
    assert document["figures"]["release 1"]["xgboost"]["holdout"]["accuracy"] == GOOD["accuracy"]


def test_a_person_overrules_costs_with_a_reason_that_is_kept(
    settings: Settings, store: ReleaseStore, release: Release, fx: Run
) -> None:
    release(1, net=-1e-5)
    code, _, err = fx("promote", "1")
    assert code == 1
    assert "costs: -0.00100% a bar after costs" in err
    code, _, err = fx("promote", "1", "--force")
    assert code == 1
    assert "--force without a reason" in err
    code, out, _ = fx("promote", "1", "--force", "--reason", "a trial on paper")
    assert code == 0
    assert "(overruled)" in out
    with psycopg.connect(psycopg_url(settings.postgres.url.get_secret_value())) as connection:
        kept = connection.execute("SELECT reason, forced FROM fx.release_switches").fetchall()
    assert kept == [("a trial on paper", True)]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"feature_hash": "decaf"}, "features: made with catalogue decaf"),
        ({"age_days": 500}, "data: newest row 500 days"),
        ({"checks": {"leak": False}}, "checks: failed: leak"),
        ({"source": "histdata"}, "data: trained on source histdata"),
    ],
)
def test_integrity_is_never_overruled(
    store: ReleaseStore, release: Release, fx: Run, facts: dict[str, Any], reason: str
) -> None:
    release(1, **facts)
    code, _, err = fx("promote", "1", "--force", "--reason", "now")
    assert code == 1
    assert reason in err
    assert store.active() is None


def test_an_altered_file_is_never_promoted_nor_gone_back_to(
    settings: Settings, store: ReleaseStore, release: Release, fx: Run
) -> None:
    for version in (1, 2):
        release(version)
        store.activate(version, reason="released")
    (settings.model_repository / "xgboost-r1" / "1" / "model.onnx").write_text("other weights")
    code, _, err = fx("rollback")
    assert code == 1
    assert "release 1 cannot be gone back to" in err
    code, _, err = fx("promote", "1", "--force", "--reason", "now")
    assert code == 1
    assert "files: " in err
    assert store.active() == 2


def test_a_release_that_cannot_be_proved_never_goes_live_but_the_way_back_stays_open(
    store: ReleaseStore, release: Release, fx: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        release(version)
        store.activate(version, reason="released")
    release(3)
    monkeypatch.setenv("FX_TRITON_URL", f"127.0.0.1:{free_port()}")
    code, _, err = fx("promote", "3", "--force", "--reason", "now")
    assert code == 1
    assert "error: " in err
    assert store.active() == 2
    code, _, err = fx("rollback")
    assert code == 0
    assert "Triton does not answer; release 1 is loaded when it does" in err
    assert store.active() == 1


def test_rollback_without_an_earlier_release_is_refused(store: ReleaseStore, release: Release, fx: Run) -> None:
    release(1)
    store.activate(1, reason="released")
    code, _, err = fx("rollback")
    assert code == 1
    assert "no earlier release" in err


def test_challengers_are_staged_and_retired_by_hand(store: ReleaseStore, release: Release, fx: Run) -> None:
    for version in (1, 2, 3):
        release(version)
    store.activate(1, reason="released")
    fx("stage", "2")
    code, _, err = fx("stage", "3")
    assert code == 0
    assert "release 2 has the shadow account, 3 wait" in err
    code, out, _ = fx("retire", "2", "--json")
    assert json.loads(out) == {"release": 2, "challengers": [3]}
    assert {row.version: row.stage for row in store.list()}[2] is Stage.RETIRED
