"""From ticks to features: those of the stored bars, whatever the symbols, with nothing impossible in between."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.core.intake import peek_features
from fx_dagster.core.rows import Kind
from fx_dagster.core.state import CoreSpec
from fx_dagster.execution.ledger import PLACED, Order, place
from fx_dagster.features.batch import compute_features
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.market.bars import ticks_to_bars
from fx_dagster.market.incremental import TickVerdict
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import SECOND_NS, Timeframe

from .conftest import Market, Tick, Work, logistic, new_work

M5 = Timeframe.M5
Make = Callable[..., Work]


def batch_features(market: Market, symbol: str) -> pd.DataFrame:
    """Features as the stored ones are made."""
    catalogue = feature_catalogue(market.base, cross_symbol=len(market.symbols) > 1)
    peers = {other: market.frames[other][market.base] for other in market.symbols if other != symbol}
    return compute_features(
        market.frames[symbol], catalogue, instrument=instrument(symbol), peers=peers if len(peers) else None
    )


def worked(market: Market, spec: CoreSpec) -> Work:
    work = new_work(spec, logistic, keeps_log=False)
    work.take(market.ticks)
    return work


def asked_features(work: Work, row: int) -> dict[int, np.ndarray]:
    """What the models were asked at a symbol's bar closes, by the moment of the close."""
    found = {}
    for question in work.questions:
        if question.kind is Kind.BAR:
            for place in np.flatnonzero(question.rows == row):
                assert question.time not in found, "asked twice about one bar"
                found[question.time] = question.features[place]
    return found


def assert_same_features(work: Work, market: Market, *, fewest: int) -> None:
    for row, symbol in enumerate(market.symbols):
        batch = batch_features(market, symbol)
        expected = dict(zip(batch["time"].tolist(), batch.iloc[:, 1:].to_numpy(), strict=True))
        asked = asked_features(work, row)
        openings = market.frames[symbol][market.base]["time"].to_numpy()
        ends = openings + market.base.nominal_ns
        known = [opening for opening, end in zip(openings.tolist(), ends.tolist(), strict=True) if end in asked]
        assert len(known) >= fewest
        # The last bars may not have ended for the core: no tick came after them.
        assert known == [time for time in batch["time"].tolist() if time <= known[-1]]
        got = np.array([asked[opening + market.base.nominal_ns] for opening in known])
        np.testing.assert_array_equal(got, np.array([expected[opening] for opening in known]), err_msg=symbol)


def test_real_ticks_give_the_features_of_the_stored_bars(sample: Market, spec_of: Callable[..., CoreSpec]) -> None:
    """A whole year of EURUSD, bit for bit in float32, changes of the clock and holidays included."""
    spec = spec_of("EURUSD", base=Timeframe.H1, start=sample.start, stale_s=3_600.0)
    work = worked(sample, spec)
    assert_same_features(work, sample, fewest=4_500)
    assert work.core.counts()["ticks"] == len(sample.ticks.time)


def test_several_symbols_give_the_features_of_the_stored_bars(made: Market, spec_of: Callable[..., CoreSpec]) -> None:
    """The comparison between symbols included, although gold rests for an hour a day."""
    work = worked(made, spec_of(*made.symbols, stale_s=300.0))
    assert_same_features(work, made, fewest=2_000)
    gold, euro = (len(asked_features(work, made.symbols.index(name))) for name in ("XAUUSD", "EURUSD"))
    assert gold < euro


def test_a_question_at_a_move_is_about_the_bar_as_it_would_close_now(
    sample: Market, spec_of: Callable[..., CoreSpec]
) -> None:
    """The features at a material move are the batch's over history and the ticks of the hour so far."""
    work = new_work(spec_of("EURUSD", base=Timeframe.H1, start=sample.start, stale_s=3_600.0, move_atr=0.3), logistic)
    work.keeps_log = False
    work.take(sample.ticks, 0, 12_000)
    moves = [question for question in work.questions if question.kind is Kind.MOVE]
    checked = 0
    for question in moves[-40::8]:
        base = sample.frames["EURUSD"][Timeframe.H1]
        opening = question.time // Timeframe.H1.nominal_ns * Timeframe.H1.nominal_ns
        if (opening + Timeframe.H1.nominal_ns) % Timeframe.H4.nominal_ns in (0, 2 * Timeframe.H1.nominal_ns):
            continue  # a longer bar may end with this one: as of its last closed one it is another
        first, last = sample.before(opening), sample.before(question.time + 1)
        frame = pd.DataFrame({name: column[first:last] for name, column in sample.ticks._asdict().items()})
        now = ticks_to_bars(frame.drop(columns="symbol"), Timeframe.H1, 1e-5, complete_until=2**62)
        bars = {
            timeframe: (
                pd.concat([base[base["time"] < opening], now], ignore_index=True)
                if timeframe is Timeframe.H1
                else found[found["time"] + timeframe.nominal_ns <= question.time]
            )
            for timeframe, found in sample.frames["EURUSD"].items()
        }
        catalogue = feature_catalogue(Timeframe.H1, cross_symbol=False)
        expected = compute_features(bars, catalogue, instrument=instrument("EURUSD")).iloc[-1, 1:].to_numpy(np.float32)
        np.testing.assert_allclose(question.features[0], expected, rtol=1e-6, atol=1e-7)
        checked += 1
    assert checked >= 2


def test_looking_at_the_forming_bar_changes_nothing(warm_work: Make) -> None:
    work = warm_work("EURUSD", "GBPUSD")
    work.take(work.calm(90, rows=(0, 1)))
    before = work.core.whole()
    rows, out = np.array([0, 1]), np.empty((2, len(work.core.spec.catalogue)), dtype=np.float32)
    peek_features(work.core.core, rows, out)
    assert np.isfinite(out).all()
    assert work.core.whole() == before


# -- impossible ticks -------------------------------------------------------------------------------------------------

NONSENSE = st.sampled_from(
    [
        (np.nan, 1.1), (1.1, np.nan), (np.inf, np.inf), (-np.inf, 1.1), (0.0, 0.0), (-1.1, 1.1), (1.1, -1.1),
        (1.2, 1.1), (1e300, 1.1),
    ]
)  # fmt: skip
quick = settings(max_examples=25, deadline=None)


@quick
@given(data=st.data())
def test_impossible_ticks_reach_neither_bars_nor_account_nor_decision(warm_work: Make, data: st.DataObject) -> None:
    clean, dirty = warm_work("EURUSD"), warm_work("EURUSD")
    good = clean.calm(400, every=2)
    clean.take(good)
    bad = data.draw(st.lists(st.tuples(st.integers(1, len(good) - 1), NONSENSE), min_size=1, max_size=12))
    mixed = []
    for at, tick in enumerate(good):
        mixed += [tick._replace(bid=bid, ask=ask) for where, (bid, ask) in bad if where == at]
        mixed.append(tick)
    for tick in mixed:
        dirty.take([tick])
        assert all(np.isfinite(dirty.out()[name]).all() for name in dirty.out().dtype.names)
        assert 0 < dirty.inputs()["bid"] <= dirty.inputs()["ask"] < 2
    assert dirty.core.core.forming.tobytes() == clean.core.core.forming.tobytes()
    assert dirty.core.core.features.tobytes() == clean.core.core.features.tobytes()
    held, kept = (one.core.core.ledger.helds[0] for one in (dirty, clean))
    assert (held["bid"], held["ask"], held["time"]) == (kept["bid"], kept["ask"], kept["time"])
    counts = dirty.core.counts()
    assert counts["ticks"] == len(good)
    assert sum(counts["ticks_rejected"].values()) == len(bad)


@quick
@given(data=st.data())
def test_duplicates_and_latecomers_leave_features_unchanged(warm_work: Make, data: st.DataObject) -> None:
    clean, dirty = warm_work("EURUSD"), warm_work("EURUSD")
    good = clean.calm(700, every=7)
    mixed, late = [], 0
    for at, tick in enumerate(good):
        mixed.append(tick)
        again = data.draw(st.integers(0, 2)) if at % 5 == 0 else 0
        mixed += [tick] * again
        if at > 2 and data.draw(st.booleans()):
            mixed.append(good[at - 2]._replace(bid=tick.bid - 0.01))
            late += 1
    clean.take(good)
    dirty.take(mixed)
    assert dirty.core.core.features.tobytes() == clean.core.core.features.tobytes()
    assert dirty.core.core.forming.tobytes() == clean.core.core.forming.tobytes()
    assert dirty.core.digest == clean.core.digest, "no decision is made on a tick that does not count"
    rejected = dirty.core.counts()["ticks_rejected"]
    assert rejected.get("order", 0) == late
    assert rejected.get("duplicate", 0) == len(mixed) - len(good) - late


def test_a_burst_within_a_millisecond_is_kept_once(warm_work: Make) -> None:
    work = warm_work("EURUSD")
    bid, ask = work.quote()
    burst = [Tick(0, work.clock + SECOND_NS, bid + step * 1e-5, ask + step * 1e-5) for step in range(20)]
    work.take([*burst, *burst])
    assert work.core.core.forming[0, 0]["count"] == 20
    assert work.core.counts()["ticks_rejected"] == {"duplicate": 20}


def test_a_quarantined_symbol_does_not_enter_until_it_is_believed(warm_work: Make) -> None:
    work = warm_work("EURUSD")
    calm = work.calm(40)
    work.take([*calm[:3], calm[3]._replace(bid=-1.0)])
    levels = []
    for tick in calm[4:]:
        work.take([tick])
        levels.append(int(work.out()["level"]))
    assert levels[:9] == [4] * 9
    assert work.inputs()["fresh"]
    assert work.core.believable().all()


# -- spikes -----------------------------------------------------------------------------------------------------------


def quiet_with_position(warm_work: Make, *symbols: str) -> Work:
    """Return a core that has seen enough calm ticks to know a spike, with a long position of the first symbol."""
    work = warm_work(*symbols, risk={"entry_score_min": 1.0})
    rows = tuple(range(len(work.core.symbols)))
    work.take(work.calm(60, rows=rows))
    bid, _ = work.quote()
    ledger = work.core.core.ledger
    assert place(ledger, 0, int(Order.OPEN), 0.1, bid - 0.003, bid + 0.02, 30.0, work.clock, 0, 1) == PLACED
    work.take(work.calm(5, rows=rows))
    assert work.lots() == 0.1
    return work


def test_a_spike_waits_for_the_next_tick(warm_work: Make) -> None:
    work = quiet_with_position(warm_work)
    bars, decisions = work.core.core.forming.tobytes(), work.core.decisions
    (tick,) = work.calm(1)
    work.take([tick._replace(bid=tick.bid + 0.01, ask=tick.ask + 0.01)])
    assert work.core.core.forming.tobytes() == bars
    assert work.core.decisions == decisions
    work.take(work.calm(1))
    assert work.core.counts()["ticks_rejected"] == {"spike": 1}
    assert work.core.core.forming[0, 0]["high"] < tick.bid + 0.005


def test_a_leap_that_is_confirmed_counts_with_both_ticks(warm_work: Make) -> None:
    work = quiet_with_position(warm_work)
    count = work.core.core.forming[0, 0]["count"]
    work.take([tick._replace(bid=tick.bid + 0.01, ask=tick.ask + 0.01) for tick in work.calm(2)])
    assert work.core.core.forming[0, 0]["count"] == count + 2
    assert work.core.core.gate[0]["counts"][TickVerdict.CONFIRMED] == 1


def test_a_stop_works_on_a_spike(warm_work: Make) -> None:
    work = quiet_with_position(warm_work)
    (tick,) = work.calm(1)
    work.take([tick._replace(bid=tick.bid - 0.01, ask=tick.ask - 0.01)])
    assert work.lots() == 0.0
    assert work.booked[-1]["price"] <= tick.bid - 0.01
    work.take(work.calm(1))
    assert work.core.counts()["ticks_rejected"] == {"spike": 1}


def test_a_spike_is_no_price_to_decide_or_to_value_anything_at(warm_work: Make) -> None:
    """Neither the decision about another symbol nor the one at the bar's end knows it."""
    work, calm = (quiet_with_position(warm_work, "EURUSD", "GBPUSD") for _ in range(2))
    until = int(work.core.core.forming[0, 0]["end"])
    euro, pound = work.calm(1, rows=(0, 1))
    work.take([euro._replace(bid=euro.bid + 0.015, ask=euro.ask + 0.015), pound])
    calm.take([pound])
    assert work.core.core.account["equity"][0] == calm.core.core.account["equity"][0]
    work.reach(until)
    calm.reach(until)
    assert work.inputs()["bid"] == calm.inputs()["bid"]
    assert work.core.digest == calm.core.digest


def test_an_exit_is_not_filled_at_a_spike(warm_work: Make) -> None:
    work = quiet_with_position(warm_work)
    place(work.core.core.ledger, 0, int(Order.CLOSE), -0.1, 0.0, 0.0, 0.0, work.clock, 0, 2)
    spike, after = work.calm(2)
    work.take([spike._replace(bid=spike.bid + 0.015, ask=spike.ask + 0.015)])
    assert work.lots() == 0.1
    work.take([after])
    assert work.lots() == 0.0
    assert work.booked[-1]["price"] < spike.bid + 0.005


# -- one symbol beside others -----------------------------------------------------------------------------------------


def test_a_bar_closes_for_all_symbols_that_had_one(warm_work: Make) -> None:
    work = warm_work("EURUSD", "GBPUSD", "XAUUSD")
    work.take(work.calm(60, rows=(0, 2)))
    work.questions.clear()
    gold = work.core.core.watch[2]["bar_time"]
    work.reach(work.clock // M5.nominal_ns * M5.nominal_ns + M5.nominal_ns)
    assert [question.rows.tolist() for question in work.questions] == [[0, 2]]
    assert work.core.core.watch[2]["bar_time"] == gold + M5.nominal_ns
