import json

import numpy as np

from fx_dagster.decision.arrays import AccountState
from fx_dagster.decision.record import explain, inputs_hash, level_reason


def test_a_decision_explains_itself_in_json(bench):
    b = bench("EURUSD", "GBPUSD")
    b.inputs.p_up[1, 0] = np.nan
    b.inputs.drift[1] = 0.9
    out = b.decide()
    account = AccountState(b.balance, b.equity, b.margin_used, b.healthy, int(b.command))
    first, second = (
        explain(symbol, row, out, b.inputs, account, b.positions) for row, symbol in enumerate(b.step.symbols)
    )
    body = json.loads(json.dumps(first.as_json(), allow_nan=False))
    assert body["action"] == "open"
    assert body["reasons"] == ["correlation_absent", "exploring", "enter"]
    assert list(body["sizes"]) == [
        "kelly", "volatility", "confidence", "drawdown", "risk_cap", "regime_cap", "margin_cap",
        "currency_cap", "correlation_cap", "var_cap", "rounded",
    ]  # fmt: skip
    assert body["level_reason"] == "no better level is configured"
    assert body["drift"] is None
    assert second.drift == 0.9
    assert body["sizes"]["var_cap"] > 0
    assert second.level == 3
    assert second.level_reason == "model_absent, features_drifted"
    assert first.inputs_hash != second.inputs_hash


def test_the_hash_covers_every_input(bench):
    b = bench()
    b.decide()
    account = AccountState(b.balance, b.equity, b.margin_used, b.healthy, int(b.command))
    seen = {inputs_hash(b.inputs, account, b.positions, 0)}
    assert inputs_hash(b.inputs, account, b.positions, 0) in seen
    for name in b.inputs._fields:
        value = getattr(b.inputs, name)
        if isinstance(value, np.ndarray):
            changed = value.copy()
            changed.reshape(-1)[0] = not changed.reshape(-1)[0] if changed.dtype == bool else 7
        else:
            changed = value + 1
        seen.add(inputs_hash(b.inputs._replace(**{name: changed}), account, b.positions, 0))
    for name in account._fields:
        seen.add(inputs_hash(b.inputs, account._replace(**{name: 3}), b.positions, 0))
    for column in b.positions:
        column[0] = not column[0] if column.dtype == bool else 5
        seen.add(inputs_hash(b.inputs, account, b.positions, 0))
    assert len(seen) == 1 + len(b.inputs) + len(account) + len(b.positions)


def test_recovery_is_a_reason():
    assert level_reason(3, 2, 0, 0) == "recovering"
    assert level_reason(4, 4, 0, 4) == "halted"
    assert level_reason(1, 1, 0, 0) == ""
