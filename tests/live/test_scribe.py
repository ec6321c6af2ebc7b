"""What is written down of decisions and orders: what was decided, and what stood around it."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fx_dagster.core.rows import Kind, Ticks
from fx_dagster.core.trading import Act, Logged, Question, TradingCore
from fx_dagster.decision.codes import Action, Command, Level
from fx_dagster.execution.orders import Purpose
from fx_dagster.live.model_desk import Asked
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.records import KillSwitch
from fx_dagster.live.scribe import Circumstances, Scribe, command_of, why
from fx_dagster.live_engine import trading_core
from fx_dagster.market.timeframes import SECOND_NS, Timeframe
from fx_dagster.models.answer import DIRECTIONS, EXTRAS
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.settings import Settings

BASE = Timeframe.M5
START = int(pd.Timestamp("2024-03-05 10:00").as_unit("ns").value)
END = START + BASE.nominal_ns
SYMBOLS = ("EURUSD", "GBPUSD")


@pytest.fixture
def core() -> TradingCore:
    info = FeedInfo(SYMBOLS, BASE, tick_spacing_s=60.0, lossless=True)
    return trading_core(Settings(), info, START)[0]


@pytest.fixture
def scribe(core: TradingCore) -> Scribe:
    return Scribe(core, account="paper", session=7, models=DIRECTIONS)


@pytest.fixture
def logged(core: TradingCore) -> list[Logged]:
    """The decisions about two symbols at the end of their first bar."""
    time = START + np.arange(1, 299) * SECOND_NS
    rows = np.tile(np.array([0, 1], dtype=np.int32), len(time) // 2)
    bid = 1.1 + rows * 0.15 + np.arange(len(time)) % 3 * 1e-5
    core.take(Ticks(rows, time, bid, bid + 1e-4, np.ones(len(time)), np.zeros(len(time), np.int32)), 0, len(time))
    core.reach(END)
    return [one for one in core.drain_log() if one.kind is Kind.BAR]


def act(action: Action = Action.OPEN, **changes: object) -> Act:
    made = Act(
        row=1, symbol="GBPUSD", action=action, target_lots=0.12, held_lots=0.0, stop=1.24, target=1.29, risk_money=25.0,
        time=END, decided_ns=END - 1, number=3,
    )  # fmt: skip
    return replace(made, **changes)


AROUND = Circumstances(None, None, "", 1.5, 42)


# -- orders -----------------------------------------------------------------------------------------------------------


def test_an_entry_is_protected_and_expires_after_a_bar(scribe: Scribe) -> None:
    (intent,) = scribe.intents([act()]).values()
    assert (intent.symbol, intent.purpose, intent.lots) == ("GBPUSD", Purpose.OPEN, 0.12)
    assert (intent.stop, intent.target, intent.risk_money) == (1.24, 1.29, 25.0)
    assert (intent.decided_ns, intent.expires_ns) == (END - 1, END + BASE.nominal_ns)
    assert intent.account == "paper"
    assert intent.epoch == 0, "the journal fences"


def test_a_close_is_the_whole_position_and_never_expires(scribe: Scribe) -> None:
    (intent,) = scribe.intents([act(Action.CLOSE, target_lots=0.0, held_lots=-0.3)]).values()
    assert (intent.purpose, intent.lots, intent.expires_ns) == (Purpose.CLOSE, 0.3, 0)
    assert (intent.stop, intent.target, intent.risk_money) == (0.0, 0.0, 0.0)


def test_a_tighter_stop_trades_nothing(scribe: Scribe) -> None:
    (intent,) = scribe.intents([act(Action.MODIFY, held_lots=0.12)]).values()
    assert (intent.purpose, intent.lots, intent.expires_ns) == (Purpose.MODIFY, 0.0, 0)
    assert (intent.stop, intent.target, intent.risk_money) == (1.24, 1.29, 0.0)


def test_keys_are_the_decisions_own_and_the_same_after_a_restart(core: TradingCore, scribe: Scribe) -> None:
    one = scribe.intents([act()])[1].client_order_id
    assert one == Scribe(core, account="paper", session=7, models=DIRECTIONS).intents([act()])[1].client_order_id
    others = [
        scribe.intents([act(number=4)])[1], scribe.intents([act(symbol="EURUSD")])[1],
        scribe.intents([act(Action.CLOSE, held_lots=0.1)])[1], scribe.intents([act(time=END + 1)])[1],
        Scribe(core, account="paper", session=8, models=DIRECTIONS).intents([act()])[1],
        Scribe(core, account="other", session=7, models=DIRECTIONS).intents([act()])[1],
    ]  # fmt: skip
    assert len({one, *(intent.client_order_id for intent in others)}) == 7
    assert all(0 < intent.client_order_id < 2**63 for intent in others)


def test_orders_go_by_their_symbols(scribe: Scribe) -> None:
    found = scribe.intents([act(), act(row=0, symbol="EURUSD", number=4)])
    assert {row: intent.symbol for row, intent in found.items()} == {0: "EURUSD", 1: "GBPUSD"}
    assert scribe.intents([]) == {}


# -- decisions --------------------------------------------------------------------------------------------------------


def test_a_record_says_what_was_decided_and_when(core: TradingCore, scribe: Scribe, logged: list[Logged]) -> None:
    records = scribe.records(logged, AROUND, {})
    assert [record.symbol for record in records] == list(SYMBOLS)
    for record, one in zip(records, logged, strict=True):
        assert (record.number, record.kind, record.time, record.bar_time) == (one.number, "bar", END, START)
        assert (record.level, record.action, record.score) == (one.said.level, one.said.action, one.said.score)
        assert record.outcome["p_up"] == [None] * len(DIRECTIONS)
        assert record.outcome["models"] == {}
        assert record.outcome["reasons"] == list(one.said.reasons)
        assert (record.feature_hash, record.release, record.client_order_id) == (core.spec.catalogue.hash, None, None)
        assert (record.latency_total_ms, record.latency_model_ms, record.decided_wall_ns) == (1.5, None, 42)
        assert len(record.features) == 0


def asked(rows: list[int], problem: str = "") -> Circumstances:
    n = len(rows)
    features = np.arange(n * 3, dtype=np.float32).reshape(n, 3)
    bare = np.zeros((n, 1), dtype=np.float32)
    inputs = ModelInputs(features, bare, bare, np.full(n, START), np.full(n, -1))
    question = Question(np.array(rows), tuple(SYMBOLS[row] for row in rows), inputs, END, Kind.BAR)
    explained = {
        "patterns": np.arange(n * 2.0).reshape(n, 2) / 3, "expected_return": np.full((n, 1), 1.23456789e-4),
        "attention_weights": np.full((n, 3), np.nan),
    }  # fmt: skip
    values = np.full((n, len(DIRECTIONS) + len(EXTRAS)), 0.6)
    return Circumstances(question, Asked(values, 4, 2.5, problem, explained, whole=True), "", 1.5, 42)


def test_features_and_answers_go_to_the_symbols_that_were_asked_about(scribe: Scribe, logged: list[Logged]) -> None:
    euro, pound = scribe.records(logged, asked([1]), {})
    assert (len(euro.features), euro.release, euro.latency_model_ms) == (0, None, None)
    assert (pound.features.tolist(), pound.release, pound.latency_model_ms) == ([0.0, 1.0, 2.0], 4, 2.5)
    euro, pound = scribe.records(logged, asked([1, 0]), {})
    assert (euro.features.tolist(), pound.features.tolist()) == ([3.0, 4.0, 5.0], [0.0, 1.0, 2.0])


@pytest.mark.parametrize("kind", [Kind.TICK, Kind.COMMAND])
def test_a_decision_that_asked_nothing_has_no_features(scribe: Scribe, logged: list[Logged], kind: Kind) -> None:
    record, _ = scribe.records([replace(one, kind=kind) for one in logged], asked([0, 1]), {})
    assert (record.kind, len(record.features), record.release) == (kind.name.lower(), 0, None)


def test_only_the_decision_that_acts_has_the_orders_key(scribe: Scribe, logged: list[Logged]) -> None:
    euro, pound = logged
    intents = scribe.intents([act()])
    quiet, acting = replace(pound, number=8), replace(pound, acts=True, number=9)
    keys = [record.client_order_id for record in scribe.records([euro, quiet, acting], AROUND, intents)]
    assert keys == [None, None, intents[1].client_order_id]


def test_probabilities_are_those_of_the_decision(scribe: Scribe, logged: list[Logged]) -> None:
    record, _ = scribe.records([replace(logged[0], p_up=[0.25, None]), logged[1]], asked([0]), {})
    assert record.outcome["p_up"] == [0.25, None]


def test_what_the_models_said_is_kept_by_name_and_rounded(scribe: Scribe, logged: list[Logged]) -> None:
    answer = [0.1234567, None, 0.7, 0.6, 0.55, 0.61, 3.0, -0.2, 1.25, 0.5, None, 0.25]
    euro, pound = scribe.records([replace(one, answer=answer) for one in logged], asked([1]), {})
    known = {
        "xgboost": 0.12346, "lstm": 0.7, "cnn": 0.6, "meta": 0.55, "confidence": 0.61, "regime": "high_volatility",
        "attention": -0.2, "size": 1.25, "enter": 0.5, "exit_short": 0.25,
    }  # fmt: skip
    assert euro.outcome["models"] == known, "nothing was asked about it now: what explains an older answer is gone"
    assert pound.outcome["models"] == known | {"patterns": [0.0, 0.33333], "expected_return": 0.00012346}
    assert json.loads(json.dumps(pound.outcome, allow_nan=False))["models"] == pound.outcome["models"]


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (Level.FULL_AI, ""), (Level.SIMPLE_AI, "drift; models: late"), (Level.TRADITIONAL, "drift; models: late"),
        (Level.EMERGENCY, "drift; models: late; journal: away"),
    ],
)  # fmt: skip
def test_a_level_says_what_stands_behind_it(logged: list[Logged], level: Level, words: str) -> None:
    said = replace(logged[0].said, level=int(level), level_reason="drift")
    assert why(said, "late", "away") == words


def test_causes_that_there_are_not_are_not_named(logged: list[Logged]) -> None:
    said = replace(logged[0].said, level=int(Level.EMERGENCY), level_reason="")
    assert why(said, "", "away") == "journal: away"
    assert why(said, "", "") == ""


def test_the_records_level_says_why_the_models_were_silent(scribe: Scribe, logged: list[Logged]) -> None:
    record, _ = scribe.records(logged, asked([0, 1], "no release is active"), {})
    assert record.level == Level.TRADITIONAL
    assert record.level_reason.endswith("models: no release is active")


@pytest.mark.parametrize(
    ("kill", "stopping", "command"),
    [
        (KillSwitch(), False, Command.RUN), (KillSwitch(), True, Command.CLOSE_ONLY),
        (KillSwitch(engaged=True), False, Command.CLOSE_ONLY),
        (KillSwitch(engaged=True, flatten=True), False, Command.FLATTEN),
        (KillSwitch(engaged=True, flatten=True), True, Command.FLATTEN),
        (KillSwitch(engaged=False, flatten=True), False, Command.RUN),
    ],
)  # fmt: skip
def test_what_a_person_orders(kill: KillSwitch, stopping: bool, command: Command) -> None:
    assert command_of(kill, stopping=stopping) is command
