import json

import numpy as np

from fx_dagster.decision.codes import Regime
from fx_dagster.decision.record import explain, inputs_hash, level_reason
from fx_dagster.indicators.catalogue import INDICATOR_NAMES

from .conftest import CONFIDENCE, FULL, fill_extras


def test_a_decision_explains_itself_in_json(bench):
    b = bench("EURUSD", "GBPUSD")
    b.inputs.p_up[1, 0] = np.nan
    b.inputs.drift[1] = 0.9
    b.inputs.votes[0, 5] = np.nan
    out = b.decide()
    first, second = (
        explain(symbol, out[row], b.inputs[row], b.account[0], b.positions[row]) for row, symbol in enumerate(b.symbols)
    )
    body = json.loads(json.dumps(first.as_json(), allow_nan=False))
    assert body["action"] == "open"
    assert body["reasons"] == ["correlation_absent", "exploring", "enter"]
    assert list(body["sizes"]) == [
        "kelly", "volatility", "confidence", "agent", "drawdown", "risk_cap", "regime_cap", "margin_cap",
        "currency_cap", "correlation_cap", "var_cap", "rounded",
    ]  # fmt: skip
    assert body["level_reason"] == "no better level is configured"
    assert body["drift"] is None
    assert list(body["votes"]) == [*INDICATOR_NAMES, "attention"]
    assert body["votes"]["attention"] is None
    assert body["regime"] == "unknown"
    assert body["agents"] == dict.fromkeys(("size", "enter", "exit_long", "exit_short"))
    assert body["votes"]["rsi_14"] is None
    assert body["votes"]["sma_20"] == b.inputs.votes[0, 0]
    assert second.drift == 0.9
    assert body["sizes"]["var_cap"] > 0
    assert second.level == 3
    assert second.level_reason == "model_absent, features_drifted"
    assert first.inputs_hash != second.inputs_hash


def test_a_full_answer_is_explained(bench):
    b = bench(models=FULL)
    fill_extras(b.inputs, 0, regime=Regime.HIGH_VOLATILITY)
    b.inputs["size"][0], b.inputs.timing[0] = 0.5, (0.4, np.nan, 0.1)
    body = explain("EURUSD", b.decide()[0], b.inputs[0], b.account[0], b.positions[0]).as_json()
    assert (body["level"], body["regime"], body["confidence"]) == (1, "high_volatility", CONFIDENCE)
    assert body["votes"]["attention"] == 0.5
    assert body["agents"] == {"size": 0.5, "enter": 0.4, "exit_long": None, "exit_short": 0.1}
    assert "timing_wait" in body["reasons"]
    # A regime that did not count is not told: its limits were not those that held.
    b.inputs.p_up[0, 3] = np.nan
    assert explain("EURUSD", b.decide()[0], b.inputs[0], b.account[0], b.positions[0]).regime == "unknown"


def test_the_hash_covers_every_input_but_the_count_of_changes(bench):
    b = bench()
    b.decide()
    records = b.inputs[0], b.account[0], b.positions[0]
    seen = {inputs_hash(*records)}
    for place, record in enumerate(records):
        for name in record.dtype.names:
            changed = record.copy()
            changed[name] = not changed[name] if record.dtype[name].kind == "b" else 7
            seen.add(inputs_hash(*records[:place], changed, *records[place + 1 :]))
    assert len(seen) == sum(len(record.dtype.names) for record in records)
    b.inputs.version[0] += 1
    assert inputs_hash(*records) in seen


def test_recovery_is_a_reason():
    assert level_reason(3, 2, 0, 0) == "recovering"
    assert level_reason(4, 4, 0, 4) == "halted"
    assert level_reason(1, 1, 0, 0) == ""
