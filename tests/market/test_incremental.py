"""The gate and the forming bars: what they believe, and that they make the very bars of whole tables."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import SettingsError
from fx_dagster.market.bars import build_timeframes
from fx_dagster.market.calendar import bar_open_at
from fx_dagster.market.incremental import (
    BAR,
    CROSSED_STALE,
    QUARANTINE_GOOD_TICKS,
    SEEN_TICKS,
    SPIKE_PAUSE_NS,
    SPIKE_WARM_TICKS,
    Rows,
    TickVerdict,
    _rounded,
    add_tick,
    believable,
    check_tick,
    close_bars,
    load_forming,
    new_closed,
    new_forming,
    new_gates,
    unfinished_since,
)
from fx_dagster.market.schemas import BAR_TYPES, TickFlag, tick_frame
from fx_dagster.market.spikes import SPIKE_ROWS_MAX, WICK_SHARE
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS, Timeframe, bar_close
from resources.market.sample import SampleSource
from resources.market.simulator import SimulatorSource

POINT = 1e-5
Z = 25.0
quick = settings(max_examples=40, deadline=None)
GOOD, HELD, CONFIRMED = TickVerdict.GOOD, TickVerdict.HELD, TickVerdict.CONFIRMED
DUPLICATE, ORDER, SPIKE = TickVerdict.DUPLICATE, TickVerdict.ORDER, TickVerdict.SPIKE


class Tick(NamedTuple):
    time: int
    bid: float
    ask: float
    volume: float = 0.0
    flags: int = 0


def ns(text: str) -> int:
    return int(pd.Timestamp(text).as_unit("ns").value)


# --- the gate ---


def gate(spike_z: float = 1e9) -> Rows:
    return new_gates([POINT], spike_z)


def verdicts(gates: Rows, ticks: Sequence[Tick], closed_until: int = 0) -> list[TickVerdict]:
    return [TickVerdict(check_tick(gates[0], *tick, closed_until)) for tick in ticks]


def counted(gates: Rows) -> dict[TickVerdict, int]:
    return {verdict: int(gates["counts"][0, verdict]) for verdict in TickVerdict if gates["counts"][0, verdict]}


@pytest.mark.parametrize(
    ("bid", "ask", "volume", "verdict"),
    [
        (math.nan, 1.0, 0.0, TickVerdict.NOT_FINITE),
        (1.0, math.inf, 0.0, TickVerdict.NOT_FINITE),
        (1.0, 1.1, math.nan, TickVerdict.NOT_FINITE),
        (0.0, 1.0, 0.0, TickVerdict.NON_POSITIVE),
        (-1.0, 1.0, 0.0, TickVerdict.NON_POSITIVE),
        (1.0, 1.1, -1.0, TickVerdict.NON_POSITIVE),
        (1.2, 1.1, 0.0, TickVerdict.CROSSED),
    ],
)
def test_an_impossible_tick_is_rejected_and_counted(bid: float, ask: float, volume: float, verdict: TickVerdict):
    gates = gate()
    ticks = [Tick(5, 1.0, 1.1), Tick(6, bid, ask, volume), Tick(7, 1.0, 1.1)]
    assert verdicts(gates, ticks) == [GOOD, verdict, GOOD]
    assert counted(gates) == {GOOD: 2, verdict: 1}


def test_a_burst_in_one_moment_is_kept_once():
    gates = gate()
    burst = [Tick(5, 1.0 + number / 10, 2.0) for number in range(5)]
    assert verdicts(gates, burst) == [GOOD] * 5
    assert verdicts(gates, burst) == [DUPLICATE] * 5
    later = [burst[1]._replace(time=6), burst[0]._replace(time=6)]
    assert verdicts(gates, later) == [GOOD, GOOD], "a later moment may repeat quotes"


def test_a_flood_in_one_moment_is_kept_and_counted():
    gates = gate()
    flood = [Tick(5, 1.0, 2.0 + number) for number in range(SEEN_TICKS + 10)]
    assert verdicts(gates, flood) == [GOOD] * len(flood)
    assert gates["flooded"][0] == 10
    assert verdicts(gates, flood)[:SEEN_TICKS] == [DUPLICATE] * SEEN_TICKS


@pytest.mark.parametrize("changed", [{"bid": 1.01}, {"ask": 1.2}, {"volume": 2.0}, {"flags": 4}])
def test_a_tick_that_differs_in_one_column_is_no_duplicate(changed: dict[str, float]):
    tick = Tick(5, 1.0, 1.1, 1.0, 2)
    assert verdicts(gate(), [tick, tick._replace(**changed)]) == [GOOD, GOOD]


def test_an_earlier_tick_is_dropped_and_counted():
    gates = gate()
    assert verdicts(gates, [Tick(5, 1.0, 1.1), Tick(4, 1.0, 1.1), Tick(6, 1.0, 1.1)]) == [GOOD, ORDER, GOOD]
    assert counted(gates) == {GOOD: 2, ORDER: 1}


def test_a_tick_of_a_closed_bar_is_too_late():
    assert verdicts(gate(), [Tick(99, 1.0, 1.1), Tick(100, 1.0, 1.1)], closed_until=100) == [ORDER, GOOD]


def test_an_impossible_price_quarantines_its_symbol_until_enough_good_ticks():
    gates = new_gates([POINT, 0.01], Z)
    check_tick(gates[0], 1, -1.0, 1.0, 0.0, 0, 0)
    for number in range(QUARANTINE_GOOD_TICKS):
        assert not believable(gates[0])
        check_tick(gates[0], 2 + number, 1.0, 1.1, 0.0, 0, 0)
    assert believable(gates[0])
    assert believable(gates[1])


def test_many_crossed_quotes_make_a_symbol_stale_until_a_good_one():
    gates = gate()
    for number in range(CROSSED_STALE):
        assert believable(gates[0])
        verdicts(gates, [Tick(number, 1.2, 1.1)])
    assert not believable(gates[0])
    verdicts(gates, [Tick(50, 1.1, 1.2)])
    assert believable(gates[0])


PRICES = st.sampled_from([1.1, 1.2, 1.3, 0.0, -1.0, float("nan"), float("inf")])
TICKS = st.lists(
    st.builds(Tick, st.integers(1, 6), PRICES, PRICES, st.sampled_from([0.0, 1.0]), st.sampled_from([0, 2])),
    max_size=40,
)


def plain_gate(ticks: Sequence[Tick], closed_until: int) -> tuple[list[Tick], bool]:
    """The rules without spikes, as they are said: the good ticks, and whether the symbol is believable at the end."""
    good: list[Tick] = []
    quarantine = crossed = 0
    for tick in ticks:
        if not all(map(math.isfinite, tick)) or tick.bid <= 0 or tick.ask <= 0:
            quarantine = QUARANTINE_GOOD_TICKS
        elif tick.ask < tick.bid:
            crossed += 1
        elif tick.time >= closed_until and (not good or tick.time >= good[-1].time) and tick not in good:
            good.append(tick)
            quarantine, crossed = max(0, quarantine - 1), 0
    return good, quarantine == 0 and crossed < CROSSED_STALE


@quick
@given(ticks=TICKS, closed_until=st.integers(0, 4), cut=st.integers(0, 40))
def test_the_gate_follows_its_rules_and_a_copy_goes_on_as_it_would(ticks: list[Tick], closed_until: int, cut: int):
    gates = gate()
    found = verdicts(gates, ticks[:cut], closed_until)
    copied = gates.copy()
    found += verdicts(copied, ticks[cut:], closed_until)
    good, believed = plain_gate(ticks, closed_until)
    assert [tick for tick, verdict in zip(ticks, found, strict=True) if verdict is GOOD] == good
    assert believable(copied[0]) == believed
    verdicts(gates, ticks[cut:], closed_until)
    assert gates.tobytes() == copied.tobytes()


# --- spikes ---


def calm(rows: int = 100, start: int = SECOND_NS, bid: float = 1.1) -> list[Tick]:
    """A second apart, a point up and down, ten points of spread: a move of 250 points is doubted."""
    return [
        Tick(start + number * SECOND_NS, bid + number % 2 * POINT, bid + number % 2 * POINT + 10 * POINT)
        for number in range(rows)
    ]


def after_calm(rows: int = 100, spike_z: float = Z) -> tuple[Rows, int]:
    """Return a gate that has seen calm ticks, and the time of the next one."""
    gates = gate(spike_z)
    assert set(verdicts(gates, calm(rows))) == {GOOD}
    return gates, (rows + 1) * SECOND_NS


def quote(time: int, points: float, spread_points: float = 10) -> Tick:
    bid = 1.1 + points * POINT
    return Tick(time, bid, bid + spread_points * POINT)


def test_a_spike_is_held_and_refuted_by_the_tick_that_is_back():
    gates, time = after_calm()
    assert verdicts(gates, [quote(time, 900), quote(time + 1, 1)]) == [HELD, GOOD]
    assert counted(gates) == {GOOD: 101, HELD: 1, SPIKE: 1}


def test_a_leap_that_stays_is_confirmed_and_both_ticks_count():
    gates, time = after_calm()
    leap = quote(time, 900)
    assert verdicts(gates, [leap, quote(time + 1, 905), quote(time + 2, 890)]) == [HELD, CONFIRMED, GOOD]
    held = gates[0]
    assert (held["held_time"], held["held_bid"], held["held_ask"]) == leap[:3]
    assert counted(gates) == {GOOD: 103, HELD: 1, CONFIRMED: 1}


@pytest.mark.parametrize("points", [900, -900])
def test_a_spike_of_one_side_only_is_a_spike(points: int):
    gates, time = after_calm()
    spike = quote(time, 0)._replace(ask=1.1 + 900 * POINT) if points > 0 else quote(time, 0)._replace(bid=1.1 - 0.009)
    assert verdicts(gates, [spike, quote(time + 1, 1)]) == [HELD, GOOD]


def test_the_same_tick_again_confirms_nothing():
    gates, time = after_calm()
    spike = quote(time, 900)
    assert verdicts(gates, [spike, spike, quote(time + 1, 1)]) == [HELD, DUPLICATE, GOOD]
    assert counted(gates)[SPIKE] == 1


@pytest.mark.parametrize(("points", "verdict"), [(1, GOOD), (900, HELD)])
def test_a_tick_from_before_the_one_held_refutes_it(points: int, verdict: TickVerdict):
    gates, time = after_calm()
    assert verdicts(gates, [quote(time + 5, 900), quote(time, points)]) == [HELD, verdict]
    assert counted(gates)[SPIKE] == 1


def test_a_confirmed_tick_of_a_bar_that_has_closed_is_too_late():
    gates, time = after_calm()
    assert verdicts(gates, [quote(time, 900)]) == [HELD]
    assert verdicts(gates, [quote(time + 2, 900)], closed_until=time + 1) == [GOOD]
    assert counted(gates) == {GOOD: 101, HELD: 1, ORDER: 1}


def test_impossible_ticks_neither_confirm_nor_refute():
    gates, time = after_calm()
    broken = [Tick(time, math.nan, 1.0), Tick(time, 1.2, 1.1)]
    assert verdicts(gates, [quote(time, 900), *broken, quote(time + 1, 900)])[::3] == [HELD, CONFIRMED]


def test_nothing_is_a_spike_before_the_symbol_is_known_or_after_a_pause():
    gates, time = after_calm(SPIKE_WARM_TICKS)
    assert verdicts(gates, [quote(time, 900)]) == [GOOD], "one tick gives no move"
    gates, time = after_calm(SPIKE_WARM_TICKS + 1)
    assert verdicts(gates, [quote(time, 900)]) == [HELD]
    gates, time = after_calm()
    scale = float(gates["scale"][0])
    assert verdicts(gates, [quote(time + SPIKE_PAUSE_NS, 900)]) == [GOOD]
    assert gates["scale"][0] == scale, "a weekend's gap says nothing of the market's pace"


@pytest.mark.parametrize(("points", "verdict"), [(2_300, GOOD), (2_700, HELD)])
def test_the_first_moves_count_alike(points: int, verdict: TickVerdict):
    """A hundred points up and down, a point of spread: the scale is a hundred points as soon as it is known."""
    gates = gate(Z)
    rows = range(SPIKE_WARM_TICKS + 1)
    verdicts(gates, [quote((1 + number) * SECOND_NS, number % 2 * 100, 1) for number in rows])
    # The very first counts as 25 spreads at most.
    assert gates["scale"][0] == pytest.approx(97.5 * POINT)
    time = (len(rows) + 1) * SECOND_NS
    assert verdicts(gates, [quote(time, (rows[-1] % 2) * 100 + points, 1)]) == [verdict]


def test_one_leap_however_far_does_not_blind_the_gate():
    gates, time = after_calm()
    assert verdicts(gates, [quote(time, 90_000), quote(time + 1, 90_000)._replace(volume=1.0)]) == [HELD, CONFIRMED]
    assert verdicts(gates, [quote(time + 2, 90_900), quote(time + 3, 90_001)]) == [HELD, GOOD]


def test_a_held_tick_is_refuted_by_a_pause():
    gates, time = after_calm()
    assert verdicts(gates, [quote(time, 900), quote(time + SPIKE_PAUSE_NS + 1, 900)]) == [HELD, GOOD]
    assert counted(gates)[SPIKE] == 1


def test_a_bars_modelled_extremes_are_doubted_only_beyond_any_crash():
    gates, time = after_calm()
    wick = quote(time, 2_000)._replace(flags=int(TickFlag.MODELLED))
    assert verdicts(gates, [wick]) == [GOOD]
    far = wick._replace(time=time + 1, bid=wick.bid * (1 + 1.1 * WICK_SHARE), ask=wick.bid * (1 + 1.1 * WICK_SHARE))
    assert verdicts(gates, [far]) == [HELD]


@pytest.mark.parametrize("points", [300, 1_000, 100_000])
def test_a_run_of_real_volatility_locks_nobody_out(points: int):
    """Each tick leaps as far as no tick before, always on: at most a few in a row are lost, and soon none."""
    gates, time = after_calm()
    ticks = [quote(time + number, number * points) for number in range(1, 120)]
    found = verdicts(gates, ticks)
    kept = [verdict in (GOOD, CONFIRMED) for verdict in found]
    assert max(len(list(run)) for keep, run in itertools.groupby(kept) if not keep) <= SPIKE_ROWS_MAX
    assert all(kept[-20:])


def test_spikes_that_come_again_and_again_are_all_refuted():
    gates, time = after_calm()
    ticks = [quote(time + number, 5_000 if number % 3 == 0 else number % 2) for number in range(600)]
    found = verdicts(gates, [*ticks, quote(time + 600, 0)])
    assert found.count(HELD) == counted(gates)[SPIKE] == 200
    assert CONFIRMED not in found


LEAPS = st.sampled_from([0, 0, 0, 1, -1, 30, 260, -400, 2_000, -60_000])
STEPS = st.sampled_from([0, 0, 1, SECOND_NS, SECOND_NS, 20 * SECOND_NS, SPIKE_PAUSE_NS + 1])


@quick
@given(moves=st.lists(st.tuples(STEPS, LEAPS, st.integers(0, 40)), max_size=120), spike_z=st.sampled_from([3.0, Z]))
def test_every_tick_is_counted_once(moves: list[tuple[int, int, int]], spike_z: float):
    gates, time = after_calm(spike_z=spike_z)
    ticks = []
    for step, points, spread in moves:
        time += step
        ticks.append(quote(time, points, spread))
    found = verdicts(gates, ticks)
    row, counts = gates[0], counted(gates)
    events = {HELD, CONFIRMED}
    assert 100 + len(ticks) == sum(n for verdict, n in counts.items() if verdict not in events) + row["held_open"]
    assert counts.get(HELD, 0) == found.count(HELD) == found.count(CONFIRMED) + counts.get(SPIKE, 0) + row["held_open"]
    assert counts[GOOD] == 100 + found.count(GOOD) + 2 * found.count(CONFIRMED)


@pytest.mark.parametrize(("points", "spike_z"), [([POINT], 0.0), ([POINT], math.nan), ([0.0], Z), ([math.inf], Z)])
def test_a_gate_without_a_measure_is_refused(points: list[float], spike_z: float):
    with pytest.raises(SettingsError, match="→"):
        new_gates(points, spike_z)


# --- forming bars ---


class Builder:
    """A symbol's gate and forming bars, driven tick by tick as a session does."""

    def __init__(self, base: Timeframe, spike_z: float = Z) -> None:
        self.base, self.code = base, tuple(Timeframe).index(base)
        self.gates, self.forming = new_gates([POINT], spike_z), new_forming(1, base)[0]
        self.closed_until = 0
        self.closed = [np.zeros(0, dtype=BAR)]
        self.good: list[Tick] = []

    @property
    def bars(self) -> Rows:
        return np.concatenate(self.closed)

    def clock(self, until: int) -> None:
        if until < self.forming[0]["end"]:
            return
        out = new_closed(self.base)
        while written := close_bars(self.forming, self.code, until, POINT, out):
            self.closed.append(out[:written].copy())
        self.closed_until = max(self.closed_until, bar_open_at(until, self.code))

    def tick(self, tick: Tick) -> None:
        verdict = check_tick(self.gates[0], *tick, self.closed_until)
        if verdict == CONFIRMED:
            held = self.gates[0]
            names = ("time", "bid", "ask", "volume", "flags")
            self._add(Tick(*(held[f"held_{name}"].item() for name in names)))
        if verdict in (GOOD, CONFIRMED):
            self._add(tick)

    def _add(self, tick: Tick) -> None:
        self.clock(tick.time)
        add_tick(self.forming[0], self.code, *tick)
        self.good.append(tick)

    def frames(self) -> dict[Timeframe, pd.DataFrame]:
        bars, frames = self.bars, {}
        for code, timeframe in enumerate(self.base.coarser(), self.code):
            part = bars[bars["code"] == code]
            frames[timeframe] = pd.DataFrame({name: np.array(part[name]) for name in BAR_TYPES}).astype(BAR_TYPES)
        return frames

    def stored(self, until: int) -> dict[Timeframe, pd.DataFrame]:
        """Return what whole tables of the good ticks give."""
        columns = zip(*self.good, strict=True) if self.good else [[]] * 5
        ticks = tick_frame(*(np.array(column) for column in columns))
        return build_timeframes(ticks, self.base, POINT, complete_until=until)


def assert_same(found: dict[Timeframe, pd.DataFrame], expected: dict[Timeframe, pd.DataFrame]) -> None:
    assert list(found) == list(expected)
    for timeframe, bars in expected.items():
        pd.testing.assert_frame_equal(found[timeframe], bars, check_exact=True, obj=str(timeframe))


def tape(seed: int, rows: int, span_ns: int, start: int) -> list[Tick]:
    """Ticks with gaps, bursts, repeats, late ones, impossible ones, crossed ones, spikes and modelled ones."""
    rng = np.random.default_rng(seed)
    steps = rng.exponential(span_ns / max(rows, 1), rows) * rng.choice([0.0, 0.2, 1.0, 3.0], rows)
    time = start + np.cumsum(steps.astype(np.int64)) - (rng.random(rows) < 0.05) * MINUTE_NS
    bid = np.round(1.1 + np.cumsum(rng.normal(0, 5e-5, rows)), 5) + (rng.random(rows) < 0.03) * 0.3
    bid[rng.random(rows) < 0.02] = np.nan
    bid[rng.random(rows) < 0.02] = 0.0
    ask = bid + rng.integers(-2, 40, rows) * POINT
    volume = np.round(rng.random(rows) * 50, 1)
    flags = np.where(rng.random(rows) < 0.3, int(TickFlag.MODELLED), 0)
    columns = [column.tolist() for column in (time, bid, ask, volume, flags)]
    ticks = [Tick(*row) for row in zip(*columns, strict=True)]
    return [tick for tick in ticks for _ in range(1 + (rng.random() < 0.1))]


STARTS = st.sampled_from(["2017-03-08 03:00", "2017-10-27 20:55", "2016-02-26 12:00", "2019-12-30 23:30"])
SPANS = st.sampled_from([MINUTE_NS, HOUR_NS, DAY_NS, 8 * DAY_NS, 100 * DAY_NS])
BASES = st.sampled_from(list(Timeframe))


@quick
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(0, 250),
    span=SPANS,
    start=STARTS,
    base=BASES,
    wait=st.sampled_from([0, HOUR_NS, 40 * DAY_NS]),
)
def test_bars_are_those_of_whole_tables(seed: int, rows: int, span: int, start: str, base: Timeframe, wait: int):
    builder = Builder(base)
    for tick in tape(seed, rows, span, ns(start)):
        builder.tick(tick)
    until = max([tick.time for tick in builder.good], default=ns(start)) + wait
    builder.clock(until)
    assert_same(builder.frames(), builder.stored(until))


def test_the_tapes_hold_all_that_can_happen_to_a_tick():
    builder = Builder(Timeframe.M1)
    for tick in tape(3, 2_000, 8 * HOUR_NS, ns("2017-03-08 03:00")):
        builder.tick(tick)
    assert set(counted(builder.gates)) == set(TickVerdict)


def clean_tape(seed: int, rows: int, span_ns: int, start: int) -> list[Tick]:
    """The ticks of a tape that a gate without spikes believes."""
    builder = Builder(Timeframe.M1, spike_z=1e9)
    for tick in tape(seed, rows, span_ns, start):
        builder.tick(tick)
    return builder.good


@quick
@given(seed=st.integers(0, 10**6), span=SPANS, start=STARTS, base=BASES, clocks=st.integers(1, 20))
def test_a_clock_that_runs_ahead_of_the_ticks_changes_no_bar(
    seed: int, span: int, start: str, base: Timeframe, clocks: int
):
    lazy, eager = Builder(base, spike_z=1e9), Builder(base, spike_z=1e9)
    rng = np.random.default_rng(seed)
    ticks = clean_tape(seed, 100, span, ns(start))
    before = ticks[0].time
    for tick in ticks:
        for until in np.sort(rng.integers(before, max(tick.time, before) + 1, clocks)):
            eager.clock(int(until))
        before = max(before, tick.time)
        lazy.tick(tick)
        eager.tick(tick)
    assert lazy.good == eager.good
    until = before + 40 * DAY_NS
    lazy.clock(until)
    eager.clock(until)
    assert lazy.bars.tobytes() == eager.bars.tobytes(), "the same bars in the same order"


@quick
@given(seed=st.integers(0, 10**6), span=SPANS, start=STARTS, base=BASES)
def test_bars_close_in_the_order_in_which_they_end_and_longer_ones_before_the_base_bar(
    seed: int, span: int, start: str, base: Timeframe
):
    builder = Builder(base)
    for tick in tape(seed, 150, span, ns(start)):
        builder.tick(tick)
    builder.clock(2 * ns(start))
    bars = builder.bars
    known = bars["end"].copy()
    if base is Timeframe.W1:
        # A month is complete with the week that it ends in.
        months = bars["code"] == 8
        known[months] = bar_close(np.array([bar_open_at(int(end) - 1, 7) for end in bars["end"][months]]), base)
    order = list(zip(known.tolist(), (-bars["code"]).tolist(), strict=True))
    assert order == sorted(order)
    for timeframe, part in builder.frames().items():
        assert (bar_close(part["time"].to_numpy(), timeframe)[:-1] <= part["time"].to_numpy()[1:]).all()


@quick
@given(seed=st.integers(0, 10**6), span=SPANS, start=STARTS, base=BASES, cut=st.integers(0, 200))
def test_a_copy_of_the_records_goes_on_as_they_would(seed: int, span: int, start: str, base: Timeframe, cut: int):
    ticks = tape(seed, 180, span, ns(start))
    old, new = Builder(base), Builder(base)
    for tick in ticks[:cut]:
        old.tick(tick)
    new.gates, new.forming, new.closed_until = old.gates.copy(), old.forming.copy(), old.closed_until
    before = len(old.bars)
    for tick in ticks[cut:]:
        old.tick(tick)
        new.tick(tick)
    assert old.bars[before:].tobytes() == new.bars.tobytes()


@quick
@given(seed=st.integers(0, 10**6), span=SPANS, start=STARTS, base=BASES, cut=st.integers(1, 200))
def test_a_warm_start_goes_on_as_if_it_had_seen_the_ticks(seed: int, span: int, start: str, base: Timeframe, cut: int):
    ticks = clean_tape(seed, 180, span, ns(start))
    cold, warm = Builder(base), Builder(base)
    until = bar_open_at(ticks[min(cut, len(ticks) - 1)].time, cold.code)
    for tick in ticks:
        if tick.time < until:
            cold.tick(tick)
    cold.clock(until)
    own = cold.bars[cold.bars["code"] == cold.code]
    load_forming(warm.forming, warm.code, own[own["time"] >= unfinished_since(warm.code, until)], until)
    warm.gates, warm.closed_until = cold.gates.copy(), cold.closed_until
    before = len(cold.bars)
    for builder in (cold, warm):
        for tick in ticks:
            if tick.time >= until:
                builder.tick(tick)
        builder.clock(until + 500 * DAY_NS)
    assert cold.bars[before:].tobytes() == warm.bars.tobytes()


def test_earlier_bars_do_a_warm_start_no_harm():
    ticks = clean_tape(1, 400, 100 * DAY_NS, ns("2017-03-08 03:00"))
    builder = Builder(Timeframe.H1)
    for tick in ticks:
        builder.tick(tick)
    own = builder.bars[builder.bars["code"] == builder.code]
    until = int(own["end"][-1])
    few, many = new_forming(1, Timeframe.H1)[0], new_forming(1, Timeframe.H1)[0]
    load_forming(few, builder.code, own[own["time"] >= unfinished_since(builder.code, until)], until)
    load_forming(many, builder.code, own, until)
    assert few["count"].tolist() == many["count"].tolist()
    assert few[few["count"] > 0].tobytes() == many[many["count"] > 0].tobytes()
    assert few["count"][-1] > 1


def test_only_a_known_end_closes_the_base_bar():
    builder = Builder(Timeframe.M1)
    start = ns("2017-03-15 09:00")
    builder.tick(Tick(start, 1.1, 1.2))
    builder.clock(start + MINUTE_NS - 1)
    assert len(builder.bars) == 0
    builder.clock(start + MINUTE_NS)
    assert builder.bars["end"].tolist() == [start + MINUTE_NS]


def test_bars_that_end_together_come_longest_first_and_the_base_bar_last():
    builder = Builder(Timeframe.M15)
    builder.tick(Tick(ns("2017-03-31 20:50"), 1.1, 1.2))
    builder.clock(ns("2017-03-31 21:00"))
    names = [tuple(Timeframe)[code] for code in builder.bars["code"]]
    assert names == ["MN1", "D1", "H4", "H1", "M30", "M15"], "a month ends with a Friday; its week two days later"
    assert len(builder.closed) == 2, "in one call"


def test_a_longer_bar_without_its_last_base_bars_closes_before_the_next_base_bar():
    builder = Builder(Timeframe.M5)
    builder.tick(Tick(ns("2017-03-15 09:01"), 1.1, 1.2))
    builder.tick(Tick(ns("2017-03-15 10:01"), 1.3, 1.4))
    assert [tuple(Timeframe)[code] for code in builder.bars["code"]] == ["M5", "M15", "M30", "H1"]


def test_a_month_waits_for_the_week_that_it_ends_in():
    builder = Builder(Timeframe.W1)
    builder.tick(Tick(ns("2017-01-30 12:00"), 1.1, 1.2))
    builder.clock(ns("2017-02-02"))
    assert len(builder.bars) == 0
    builder.tick(Tick(ns("2017-02-02 12:00"), 1.4, 1.5))
    builder.clock(ns("2017-02-05 22:00"))
    assert [tuple(Timeframe)[code] for code in builder.bars["code"]] == ["MN1", "W1"]
    assert builder.bars["high"].tolist() == [1.4, 1.4]
    assert_same(builder.frames(), builder.stored(ns("2017-02-05 22:00")))
    assert builder.stored(ns("2017-02-05 21:59"))[Timeframe.MN1].empty


@settings(max_examples=300, deadline=None)
@given(st.floats(-1e9, 1e9))
def test_spreads_are_rounded_as_numpy_does(spread: float):
    assert _rounded(spread) == np.round(spread, 3)


def drive_all(ticks: pd.DataFrame, base: Timeframe) -> Builder:
    builder = Builder(base)
    for row in zip(*(ticks[name].tolist() for name in ticks), strict=True):
        builder.tick(Tick(*row))
    return builder


def test_the_sample_year_forms_its_stored_bars():
    source = SampleSource()
    start, end = source.span("EURUSD")
    ticks = source.ticks("EURUSD", start, end)
    builder = drive_all(ticks, Timeframe.H1)
    builder.clock(end)
    assert counted(builder.gates) == {GOOD: len(ticks)}
    assert_same(builder.frames(), build_timeframes(ticks, Timeframe.H1, POINT, complete_until=end))
    pd.testing.assert_frame_equal(builder.frames()[Timeframe.H1], source.bars("EURUSD", start, end))


def test_simulated_weeks_over_a_switch_form_their_stored_bars():
    start, end = ns("2024-02-28"), ns("2024-03-18")
    source = SimulatorSource(("EURUSD",), start=start, end=end)
    ticks = source.ticks("EURUSD", start, end)
    builder = drive_all(ticks, Timeframe.M1)
    builder.clock(end)
    assert counted(builder.gates) == {GOOD: len(ticks)}
    assert_same(builder.frames(), build_timeframes(ticks, Timeframe.M1, POINT, complete_until=end))


def test_real_ticks_are_believed_and_form_their_stored_bars(test_data: Path):
    file = next(Path(test_data, "ticks").glob("EURUSD_*_histdata.csv.gz"))
    raw = pd.read_csv(file, names=["time", "bid", "ask", "volume"])
    time = pd.to_datetime(raw["time"], format="%Y%m%d %H%M%S%f").astype("datetime64[ns]").astype("int64") + 5 * HOUR_NS
    ticks = tick_frame(time.to_numpy(), raw["bid"], raw["ask"], raw["volume"], np.zeros(len(raw)))
    builder = drive_all(ticks, Timeframe.M1)
    until = int(time.iloc[-1]) + DAY_NS
    builder.clock(until)
    rejected = len(ticks) - len(builder.good)
    assert rejected == counted(builder.gates).get(DUPLICATE, 0)
    assert_same(builder.frames(), builder.stored(until))
