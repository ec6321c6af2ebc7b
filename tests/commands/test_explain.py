"""``fx explain`` over a real PostgreSQL, the lake's pattern history and the newest features in a cache."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
import pytest

from assets.run_shape import RunShape
from fx_dagster import cli
from fx_dagster.commands.explain import seen_patterns
from fx_dagster.live.caches import FEATURES, FeatureRow, features_key
from fx_dagster.models.patterns import PATTERNS
from fx_dagster.settings import Settings, load_settings
from resources.cache import PATTERN_HISTORY, SharedCache, source_of
from resources.lake import Lake
from resources.market import open_source
from resources.postgres import migrate, psycopg_url

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]
START = 1_512_338_400_000_000_000
CHANCES = [0.9 if name == "engulfing_bull" else 0.1 for name in PATTERNS]


@pytest.fixture
def settings(free_home: Path, database_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FX_POSTGRES_URL", database_url)
    monkeypatch.setenv("FX_REDIS_URL", valkey_url)
    monkeypatch.setenv("FX_SOURCE_KIND", "simulator")
    monkeypatch.setenv("FX_SOURCE_SIMULATOR_DAYS", "10")
    monkeypatch.setenv("FX_SOURCE_SIMULATOR_TIMEFRAME", "H1")
    migrate(database_url)
    return load_settings()


@pytest.fixture
def run(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["explain", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def decided(url: str, number: int, features: np.ndarray, feature_hash: str, action: str) -> None:
    """Write a decision of the account's one session."""
    outcome = {
        "reasons": ["score_low"], "breakers": [], "votes": {"rsi": 1.0, "attention": None}, "confidence": 0.61,
        "validation": 0.8, "regime": "ranging", "stage": "normal", "sizes": {"kelly": 0.12}, "weights": {"meta": 1.0},
        "models": {"xgboost": 0.52, "patterns": CHANCES},
    }  # fmt: skip
    with psycopg.connect(psycopg_url(url), options="-c search_path=fx") as connection:
        connection.execute("INSERT INTO live_account (account) VALUES ('paper') ON CONFLICT DO NOTHING")
        row = (
            connection.execute("SELECT session_id FROM live_session").fetchone()
            or connection.execute(
                "INSERT INTO live_session (account, fingerprint, replay_start, replay_end, position, clock)"
                " VALUES ('paper', 'tape', 0, 1, 0, 0) RETURNING session_id"
            ).fetchone()
        )
        assert row is not None
        connection.execute(
            "INSERT INTO decision (account, session_id, symbol, number, kind, time_ns, bar_time, level, level_reason,"
            " action, score, outcome, features, feature_hash, release, latency_total_ms, epoch, decided_at)"
            " VALUES ('paper', %s, 'EURUSD', %s, 'bar', %s, %s, 1, '', %s, 0.1, %s, %s, %s, 3, 1, 1, now())",
            (
                row[0], number, START + number, START + number, action, json.dumps(outcome),
                features.astype("<f4").tobytes(), feature_hash,
            ),
        )  # fmt: skip


def history(settings: Settings, feature_hash: str) -> None:
    """Write what followed a pattern and any bar."""
    row = {
        "symbol": "EURUSD", "horizon_bars": 12, "count": 40, "independent": 30, "rises": 22, "share": 0.55, "low": 0.4,
        "high": 0.7, "mean_return": 1e-4, "long_return": 5e-5, "short_return": -2e-4,
    }  # fmt: skip
    table = pd.DataFrame([{"pattern": name, **row} for name in ("engulfing_bull", "hammer", "every_bar")])
    Lake(settings.lake_url).write(PATTERN_HISTORY, table, metadata={"feature_hash": feature_hash})


def test_the_newest_decision_is_told_with_what_was_seen_and_what_followed(settings: Settings, run: Run) -> None:
    catalogue = RunShape.of(open_source(settings.source)).catalogue
    url = settings.postgres.url.get_secret_value()
    features = np.arange(len(catalogue.names), dtype=np.float32)
    decided(url, 1, features, catalogue.hash, "enter_long")
    decided(url, 2, features, catalogue.hash, "wait")
    history(settings, catalogue.hash)
    code, out, err = run("EURUSD", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["number"], told["action"], told["release"]) == (2, "wait", 3)
    assert told["patterns_seen"] == {"engulfing_bull": 0.9}
    assert [fact["pattern"] for fact in told["pattern_history"]] == ["engulfing_bull", "every_bar"]
    assert told["features"] == {name: float(place) for place, name in enumerate(catalogue.names)}
    code, out, _ = run("EURUSD")
    assert code == 0
    for said in ("EURUSD", "wait", "release 3", "score_low", "xgboost 0.52", "engulfing_bull", "55.0%", "absent"):
        assert said in out


def test_without_features_of_its_own_the_newest_that_were_asked_about_are_told(settings: Settings, run: Run) -> None:
    catalogue = RunShape.of(open_source(settings.source)).catalogue
    decided(settings.postgres.url.get_secret_value(), 1, np.zeros(0), catalogue.hash, "wait")
    assert json.loads(run("EURUSD", "--json")[1])["features"] == {}
    cache = SharedCache.of(settings)
    assert cache is not None
    row = FeatureRow("EURUSD", START, np.full(len(catalogue.names), 2.0, dtype=np.float32))
    cache.put(FEATURES, features_key(catalogue.hash, source_of(settings), "EURUSD"), row)
    cache.close()
    told = json.loads(run("EURUSD", "--json")[1])
    assert set(told["features"].values()) == {2.0}
    assert told["pattern_history"] == []


def test_features_of_another_catalogue_are_not_given_todays_names(settings: Settings, run: Run) -> None:
    decided(settings.postgres.url.get_secret_value(), 1, np.ones(5), "c0ffee", "wait")
    assert json.loads(run("EURUSD", "--json")[1])["features"] == {}


def test_nothing_decided_is_said_and_who_did(settings: Settings, run: Run) -> None:
    code, out, err = run("XAUUSD")
    assert (code, out) == (1, "")
    assert "paper has decided nothing about XAUUSD → look at the symbol's name" in err
    decided(settings.postgres.url.get_secret_value(), 1, np.zeros(0), "c0ffee", "wait")
    assert "--account paper has" in run("EURUSD", "--account", "other")[2]


def test_absent_chances_are_no_patterns() -> None:
    assert seen_patterns({}) == {}
    assert seen_patterns({"patterns": [None] * len(PATTERNS)}) == {}
    assert list(seen_patterns({"patterns": [0.6, 0.8] + [0.0] * (len(PATTERNS) - 2)})) == [PATTERNS[1], PATTERNS[0]]
