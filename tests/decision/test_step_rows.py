"""The step over listed rows: the same decisions whatever is listed beside them, kept or derived anew."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.decision.codes import Action
from fx_dagster.decision.config import step_config
from fx_dagster.decision.instruments import instrument_table
from fx_dagster.decision.rows import ACCOUNT, DECISION, POSITION, config_row, input_dtype
from fx_dagster.decision.state import forget_derived, new_state
from fx_dagster.decision.step import decide, decide_rows
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import HOUR_NS, SECOND_NS
from fx_dagster.settings import CostSettings, RiskSettings

from .conftest import START, fill, fill_extras

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD")
N = len(SYMBOLS)
MODELS = {"simple_models": 2, "deep_models": 1, "meta": True, "best_level": 1}
MANY = [-0.5, 0.2, 0.6, 0.9, 1.4, np.nan]


class Desk:
    """The packed rows of four symbols, and one account."""

    def __init__(self, **risk):
        config = step_config(RiskSettings(**risk), CostSettings(), paper=True, **MODELS)
        self.config = config_row(config)
        self.table = instrument_table([instrument(symbol) for symbol in SYMBOLS], 30.0)
        self.inputs = np.zeros(N, input_dtype(4))
        for name in ("agreement", "correlation_shift", "drift", "size", "timing"):
            self.inputs[name] = np.nan
        for row, item in enumerate(instrument(symbol) for symbol in SYMBOLS):
            price = {"USDJPY": 150.0, "XAUUSD": 1_900.0}.get(item.symbol, 1.1)
            fill(self.inputs.view(np.recarray), row, price=price, point=item.point)
            fill_extras(self.inputs.view(np.recarray), row, regime=1 + row)
        self.inputs["conversion"] = 1.0, 1.0, 1 / 150, 1.0
        self.inputs["market_open"] = self.inputs["active"] = True
        self.inputs["bar_time"] = START
        self.account = np.zeros(1, ACCOUNT)
        self.account["time"], self.account["healthy"], self.account["commission_rate"] = START + HOUR_NS, True, 1.0
        self.account["balance"] = self.account["equity"] = 10_000.0
        self.positions = np.zeros(N, POSITION)
        self.states, self.memory = new_state(N, config.horizon_bars)
        self.out = np.zeros(N, DECISION)
        self.returns = np.random.default_rng(1).normal(0.0, 0.001, (240, N))

    def decide_rows(self, rows):
        decide_rows(*self._arrays(), np.asarray(rows, dtype=np.int64), self._open(), self.returns)

    def decide(self):
        decide(*self._arrays(), self._open(), self.returns)

    def _arrays(self):
        return (
            self.config, self.table, self.inputs, self.account, self.positions, self.states, self.memory, self.out,
        )  # fmt: skip

    def _open(self):
        return int(np.count_nonzero(self.positions["lots"]))

    def remembered(self):
        """All fields of state and memory but which version they were derived from."""
        states = bits(self.states)
        return {name: states[name] for name in states if name != "derived.version"}, bits(self.memory)


def bits(rows, prefix=""):
    """Bytes of each field; those between the fields mean nothing."""
    found = {}
    for name in rows.dtype.names:
        if rows.dtype[name].names:
            found |= bits(rows[name], f"{name}.")
        else:
            found[prefix + name] = np.ascontiguousarray(rows[name]).tobytes()
    return found


def change(desk, rng, row):
    """Change one row as a market would; return whether it is a change that raises the version."""
    inputs, kind = desk.inputs, rng.integers(0, 10)
    raised = kind < 4 or kind == 9
    if kind == 0:
        inputs["votes"][row] = rng.uniform(-1, 1, 14)
        inputs["votes"][row, rng.integers(0, 14)] = rng.choice([np.nan, np.inf, 2.0])
    elif kind == 1:
        inputs["p_up"][row] = rng.choice([0.2, 0.5, 0.7, 0.9, np.nan, 1.5], 4, p=[0.1, 0.1, 0.3, 0.3, 0.1, 0.1])
    elif kind == 2:
        inputs["agreement"][row], inputs["confidence"][row] = rng.choice([0.3, 0.8, -0.8, 1.0, np.nan], 2)
        inputs["regime"][row] = rng.integers(0, 5)
    elif kind == 3:
        inputs["bar_time"][row] += HOUR_NS
    elif kind == 4:
        inputs["drift"][row] = rng.choice([0.0, 0.4, 0.7, 0.9, np.nan])
    elif kind == 5:
        inputs["fresh"][row] = not inputs["fresh"][row]
    elif kind == 6:
        inputs["market_open"][row] = not inputs["market_open"][row]
    elif kind == 9:
        inputs["size"][row], inputs["timing"][row] = rng.choice(MANY), rng.choice(MANY, 3)
    elif kind == 7:
        desk.account["healthy"] = not desk.account["healthy"][0]
    else:
        move = rng.normal(0, 0.002)
        inputs["bid"][row] *= 1 + move
        inputs["ask"][row] *= 1 + move
    return bool(raised)


def tick(desk, rng):
    """Let time go on and a row change; return the row."""
    row = int(rng.integers(0, N))
    desk.account["time"] += int(rng.integers(1, 40)) * SECOND_NS
    desk.account["equity"] = 10_000 + rng.uniform(-400, 50)
    for _ in range(int(rng.integers(0, 3))):
        if change(desk, rng, row):
            desk.inputs["version"][row] += 1
    if rng.random() < 0.1:
        held = rng.choice([0.0, 0.05, -0.05])
        desk.positions["lots"][row], desk.positions["entry_price"][row] = held, desk.inputs["bid"][row]
        desk.positions["stop"][row] = 0.98 * desk.inputs["bid"][row]
    return row


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 1, 2]))
def test_what_is_kept_between_ticks_is_what_would_be_derived_anew(seed, combine):
    kept, anew = Desk(explore_risk=0.01), Desk(explore_risk=0.01)
    rngs = np.random.default_rng(seed), np.random.default_rng(seed)
    for desk in (kept, anew):
        desk.config["combine"] = combine
    for _ in range(60):
        rows = [tick(desk, rng) for desk, rng in zip((kept, anew), rngs, strict=True)]
        forget_derived(anew.states)
        kept.decide_rows(rows[:1])
        anew.decide_rows(rows[:1])
        assert bits(kept.out) == bits(anew.out)
        assert kept.states["log_loss"].tobytes() == anew.states["log_loss"].tobytes()
    forget_derived(kept.states)
    forget_derived(anew.states)
    assert kept.remembered() == anew.remembered()


def test_a_version_that_stays_is_believed():
    desk = Desk()
    desk.decide_rows([0])
    score = desk.out["score"][0]
    desk.inputs["votes"][0] = -0.5
    desk.decide_rows([0])
    assert desk.out["score"][0] == score
    desk.inputs["version"][0] += 1
    desk.decide_rows([0])
    assert desk.out["score"][0] < score


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.booleans(), min_size=N, max_size=N))
def test_listed_rows_are_decided_as_active_ones(seed, active):
    one, other = Desk(explore_risk=0.01), Desk(explore_risk=0.01)
    for desk in (one, other):
        rng = np.random.default_rng(seed)
        for _ in range(10):
            tick(desk, rng)
        desk.inputs["active"] = active
    one.decide_rows(np.flatnonzero(active))
    other.decide()
    assert bits(one.out[active]) == bits(other.out[active])
    assert one.remembered() == other.remembered()


def test_other_rows_are_not_touched():
    desk = Desk()
    desk.out["score"] = 7.0
    states, out = desk.states.copy(), desk.out.copy()
    desk.decide_rows([2, 0])
    for row in (1, 3):
        assert bits(desk.out[row]) == bits(out[row])
        assert bits(desk.states[row]) == bits(states[row])
    assert set(desk.out["action"][[0, 2]]) == {Action.OPEN}
    before = bits(desk.memory)
    desk.decide_rows([])
    assert bits(desk.memory) == before


def test_rows_are_decided_in_the_order_in_which_they_are_listed():
    sizes = []
    for rows in ([0, 1], [1, 0]):
        desk = Desk(explore_risk=0.01, margin_used_max=0.06)
        desk.inputs["bid"][:2], desk.inputs["ask"][:2] = 1.1, 1.1001
        desk.decide_rows(rows)
        sizes.append(desk.out["target_lots"][:2].tolist())
    assert sizes[0] == sizes[1][::-1]
    assert sizes[0][0] > sizes[0][1]


def test_the_order_of_returns_is_of_no_account():
    sizes = []
    for shift in (0, 77):
        desk = Desk(explore_risk=0.01)
        desk.positions["lots"][1], desk.positions["entry_price"][1] = 0.05, 1.1
        desk.returns = np.roll(desk.returns, shift, axis=0)
        desk.decide_rows([0, 2, 3])
        sizes.append(desk.out["sizes"].copy())
    np.testing.assert_allclose(sizes[0], sizes[1], rtol=1e-12)
    assert (desk.out["action"][[0, 2, 3]] == Action.OPEN).all()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_nan_anywhere_brings_a_nan_or_an_entry_out_of_nowhere(data):
    desk = Desk(explore_risk=0.01)
    bad = st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e300, -1e300])
    numbers = [name for name in desk.inputs.dtype.names if desk.inputs[name].dtype == np.float64]
    for name in data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=4)):
        desk.inputs[name][data.draw(st.integers(0, N - 1))] = data.draw(bad)
    if data.draw(st.booleans()):
        desk.returns[data.draw(st.integers(0, 239)), data.draw(st.integers(0, N - 1))] = data.draw(bad)
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(["lots", "entry_price", "stop", "target", "foreign_lots"]))
        desk.positions[name][data.draw(st.integers(0, N - 1))] = data.draw(bad)
    name = data.draw(st.sampled_from(["balance", "equity", "margin_used", "commission_rate"]))
    if data.draw(st.booleans()):
        desk.account[name] = data.draw(bad)
    desk.decide_rows(range(N))
    for field in desk.out.dtype.names:
        assert np.isfinite(desk.out[field]).all(), field
    for row in np.flatnonzero(desk.out["action"] == Action.OPEN):
        inputs, account = desk.inputs[row], desk.account[0]
        needed = [inputs[name] for name in ("bid", "ask", "atr", "conversion")]
        assert np.isfinite([*needed, *(account[name] for name in ("balance", "equity", "margin_used"))]).all()
        assert desk.out["stop"][row] > 0
        assert abs(desk.out["target_lots"][row]) * 100 >= 1
