"""The loop: what happens in which order, when the models are asked, and what it survives."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.core.rows import Event, Kind, Ticks
from fx_dagster.core.state import LOG_ROWS, CoreSpec
from fx_dagster.core.trading import Question
from fx_dagster.decision.codes import Action, Breaker, Command, Level, Reason
from fx_dagster.execution.ledger import Entry
from fx_dagster.market.incremental import TickVerdict
from fx_dagster.market.timeframes import HOUR_NS, MINUTE_NS, SECOND_NS, Timeframe, to_server

from .conftest import MADE_UNTIL, Market, Tick, Work, eager, logistic, new_work, silent, ticks_of

BAR_NS = Timeframe.M5.nominal_ns
Make = Callable[..., Work]


def bar_end(work: Work) -> int:
    return work.clock // BAR_NS * BAR_NS + BAR_NS


def reasons(work: Work, row: int = 0) -> Reason:
    return Reason(int(work.out(row)["reasons"]))


def opened(work: Work) -> list[tuple[str, int]]:
    return [(one.kind.name, one.time) for one in work.logged if one.said.action == "open"]


def order(work: Work, command: Command) -> None:
    work.core.set_conditions(healthy=True, command=int(command))


# -- what happens in which order --------------------------------------------------------------------------------------


def test_a_bar_is_decided_at_its_end_before_the_tick_that_ends_it_is_looked_at(warm_work: Make) -> None:
    seen = []

    def watching(work: Work, question: Question) -> np.ndarray:
        core = work.core.core
        seen.append((question.kind, question.time, float(work.inputs()["bid"]), int(core.forming[0, 0]["count"])))
        return logistic(work, question)

    work = warm_work(models=watching)
    calm = work.calm(10)
    end = bar_end(work)
    last = Tick(0, end + 7 * SECOND_NS, calm[-1].bid + 0.0005, calm[-1].ask + 0.0005)
    work.take([*calm, last])
    kind, time, bid, count = next(one for one in seen if one[0] is Kind.BAR)
    assert (kind, time, bid, count) == (Kind.BAR, end, calm[-1].bid, 0)
    assert [one.time for one in work.logged if one.kind is Kind.BAR] == [end]
    closed = work.core.core.features[0]["close"]
    assert closed == calm[-1].bid


def test_a_tick_on_the_bars_end_belongs_to_the_next_bar(warm_work: Make) -> None:
    work = warm_work()
    calm = work.calm(5)
    end = bar_end(work)
    work.take([*calm, calm[-1]._replace(time=end)])
    assert work.core.closed_until == end
    assert work.core.core.forming[0, 0]["time"] == end
    assert work.core.core.forming[0, 0]["count"] == 1


def test_an_order_is_filled_by_a_later_quote_and_never_by_its_own(warm_work: Make) -> None:
    work = warm_work(models=eager)
    first, second = work.calm(2)
    work.take([first])
    assert opened(work) == [("RETRY", first.time)]
    work.take([first._replace(bid=first.bid + 3e-5, ask=first.ask + 3e-5)])
    assert work.lots() == 0.0, "a quote of the same moment is no later one"
    assert Reason.ORDER_PENDING in reasons(work)
    work.take([second])
    deal = work.booked[0]
    assert (deal["what"], deal["time"]) == (Entry.DEAL, second.time)
    price = second.ask + 2e-5 if deal["lots"] > 0 else second.bid - 2e-5
    assert deal["price"] == pytest.approx(price, abs=1e-9)


def test_the_account_sees_a_quote_before_the_decision_on_it(warm_work: Make) -> None:
    work = warm_work(models=eager)
    work.take(work.calm(2))
    assert work.lots() == work.out()["target_lots"] != 0.0, "decided as the position that the quote has just opened"
    assert work.core.core.account["margin_used"][0] > 0.0
    side = np.sign(work.lots())
    stop = float(work.core.core.ledger.positions["stop"][0])
    (tick,) = work.calm(1)
    beyond = stop - side * 1e-4
    work.take([tick._replace(bid=beyond, ask=beyond + tick.ask - tick.bid)])
    assert work.lots() == 0.0
    assert work.out()["target_lots"] == 0.0, "and flat by the quote that touched the stop"


def test_what_a_bars_end_decides_is_filled_by_a_quote_of_that_very_moment(warm_work: Make) -> None:
    work = warm_work(models=eager)
    order(work, Command.CLOSE_ONLY)
    calm = work.calm(290)
    work.take(calm)
    order(work, Command.RUN)
    end = bar_end(work)
    work.take([calm[-1]._replace(time=end)])
    assert opened(work) == [("BAR", end)]
    assert work.booked[0]["time"] == end
    assert work.lots() != 0.0


def test_an_entry_expires_after_a_bar(warm_work: Make) -> None:
    work = warm_work(models=eager)
    (tick,) = work.calm(1)
    work.take([tick, tick._replace(time=tick.time + BAR_NS)])
    assert [int(event["what"]) for event in work.booked] == [Entry.EXPIRED]
    assert work.lots() == 0.0


def test_acts_say_what_is_placed(warm_work: Make) -> None:
    work = warm_work("EURUSD", "GBPUSD", models=eager)
    ticks = ticks_of(work.calm(1, rows=(0, 1)))
    assert work.core.take(ticks, 0, 2) == (1, Event.ASK)
    question = work.core.question()
    work.core.answer(question.rows, eager(work, question))
    assert work.core.decide() is Event.ACT
    (act,) = work.core.acts()
    out = work.out()
    assert (act.row, act.symbol, act.action, act.number) == (0, "EURUSD", Action.OPEN, 1)
    assert (act.target_lots, act.stop, act.target) == (out["target_lots"], out["stop"], out["target"])
    assert act.time == act.decided_ns == ticks.time[0]
    work.core.place_acts([])
    assert not work.core.core.ledger.positions["pending"].any(), "left out"
    assert list(work.core.acts()) == []


# -- when the models are asked ----------------------------------------------------------------------------------------


def test_every_good_tick_and_every_bar_is_decided(made: Market, spec_of: Callable[..., CoreSpec]) -> None:
    work = new_work(spec_of(*made.symbols, stale_s=300.0), keeps_log=False)
    work.take(made.ticks, 0, 20_000)
    until = work.core.closed_until
    bars = sum(int((frames[made.base]["time"] + BAR_NS <= until).sum()) for frames in made.frames.values())
    counts = work.core.core.gate["counts"].sum(axis=0)
    assert counts[TickVerdict.GOOD] + counts[TickVerdict.SPIKE] == 20_000 - work.core.core.gate["held_open"].sum()
    # A tick that is confirmed later than it came shares the decision of the one that confirms it.
    assert work.core.decisions == counts[TickVerdict.GOOD] - counts[TickVerdict.CONFIRMED] + bars
    assert sum(work.core.core.control[0]["levels"]) == work.core.decisions


def test_symbols_whose_bars_close_together_are_asked_about_at_once(warm_work: Make) -> None:
    work = warm_work("EURUSD", "GBPUSD", "XAUUSD")
    work.take(work.calm(20, rows=(0, 1, 2)))
    work.questions.clear()
    end = bar_end(work)
    work.reach(end + SECOND_NS)
    (question,) = work.questions
    assert question.rows.tolist() == [0, 1, 2]
    assert question.features.shape == (3, len(work.core.spec.catalogue))
    assert (question.time, question.kind) == (end, Kind.BAR)
    assert [one.row for one in work.logged if one.kind is Kind.BAR] == [0, 1, 2]


def test_between_questions_the_last_answer_serves(warm_work: Make) -> None:
    work = warm_work(risk={"entry_score_min": 1.0})
    work.take(work.calm(1))
    said = work.inputs()["p_up"].copy()
    assert np.isfinite(said).all()
    work.take(work.calm(200))
    assert len(work.questions) == 1
    np.testing.assert_array_equal(work.inputs()["p_up"], said)
    assert work.out()["signals"][1] == pytest.approx(np.mean(2 * said - 1))


def test_before_its_bars_are_warm_a_symbol_asks_nothing(made: Market, spec_of: Callable[..., CoreSpec]) -> None:
    work = new_work(spec_of(*made.symbols, stale_s=300.0))
    work.take(made.ticks, 0, 2_000)
    assert work.core.decisions > 2_000
    assert work.questions == []
    assert {one.said.level for one in work.logged} == {Level.TRADITIONAL}


@pytest.mark.parametrize("refresh_s", [1.0, 10.0])
def test_after_a_refusal_the_models_are_asked_again_not_too_soon(warm_work: Make, refresh_s: float) -> None:
    work = warm_work(models=silent, refresh_s=refresh_s, risk={"entry_score_min": 1.0})
    work.take(work.calm(60))
    assert {question.kind for question in work.questions} == {Kind.RETRY}
    apart = np.diff([question.time for question in work.questions])
    assert (apart == refresh_s * SECOND_NS).all()
    assert len(apart) >= 60 / refresh_s - 2
    work.models = logistic
    work.take(work.calm(60))
    assert len(work.questions) == len(apart) + 2, "asked once more, and then never until the bar closes"


def test_a_question_after_a_refusal_is_about_every_symbol_that_lacks_an_answer(warm_work: Make) -> None:
    work = warm_work("EURUSD", "GBPUSD", models=silent, risk={"entry_score_min": 1.0})
    work.take(work.calm(3, rows=(0, 1)))
    work.models = logistic
    work.take(work.calm(3, rows=(0, 1)))
    assert work.questions[-1].rows.tolist() == [0, 1]
    assert np.isfinite(work.core.core.inputs["p_up"]).all()
    asked = len(work.questions)
    work.take(work.calm(3, rows=(0, 1)))
    assert len(work.questions) == asked


def test_a_far_move_asks_again_not_sooner_than_allowed(warm_work: Make) -> None:
    work = warm_work(move_atr=0.5, refresh_s=5.0, risk={"entry_score_min": 1.0})
    calm = work.calm(40)
    work.take(calm[:20])
    step = 0.6 * float(work.inputs()["atr"])
    work.questions.clear()
    moved = [
        tick._replace(bid=tick.bid + (1 + number) * step, ask=tick.ask + (1 + number) * step)
        for number, tick in enumerate(calm[20:])
    ]
    work.take(moved)
    assert {question.kind for question in work.questions} == {Kind.MOVE}
    assert (np.diff([question.time for question in work.questions]) >= 5 * SECOND_NS).all()
    assert len(work.questions) == 4
    assert work.questions[0].time == moved[0].time
    assert work.core.counts()["material_moves"] == 4
    assert [one.kind for one in work.logged if one.time == moved[0].time] == [Kind.MOVE]


# -- batches, and what comes later -------------------------------------------------------------------------------------


def stormy(market: Market, seed: int, hours: int) -> Ticks:
    """Return the made market's next hours with everything that may be wrong with ticks among them."""
    first, last = market.before(MADE_UNTIL), market.before(MADE_UNTIL + hours * HOUR_NS)
    noise = np.random.default_rng(seed)
    made = []
    for place in range(first, last):
        tick = Tick(*(column[place].item() for column in market.ticks))
        made.append(tick)
        match noise.integers(0, 40):
            case 0:
                made.append(tick)
            case 1:
                made.append(tick._replace(bid=float(noise.choice([np.nan, 0.0, -1.0, np.inf]))))
            case 2:
                made.append(tick._replace(ask=tick.bid * 0.999))
            case 3:
                made.append(tick._replace(time=tick.time - 17 * MINUTE_NS))
            case 4 | 5:
                leap = tick.bid * noise.choice([-0.01, 0.01])
                made.append(Tick(tick.row, tick.time, tick.bid + leap, tick.ask + leap, 1.0, 0))
    return ticks_of(made)


@pytest.fixture(scope="module")
def storm(only: Callable[..., Market]) -> Ticks:
    return stormy(only("EURUSD", "GBPUSD", "XAUUSD"), seed=4, hours=5)


def battered(warm_work: Make, **options: object) -> Work:
    return warm_work("EURUSD", "GBPUSD", "XAUUSD", models=eager, move_atr=0.7, **options)


@pytest.fixture(scope="module")
def expected(warm_work: Make, storm: Ticks) -> Work:
    work = battered(warm_work)
    work.take(storm)
    counts = work.core.counts()
    assert {"duplicate", "order", "crossed", "spike"} <= counts["ticks_rejected"].keys()
    assert work.booked
    assert counts["material_moves"]
    return work


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 1)), max_size=25))
def test_it_does_not_matter_how_ticks_are_put_into_batches(
    warm_work: Make, storm: Ticks, expected: Work, cuts: list[tuple[int, float]]
) -> None:
    """Empty batches, clocks that advance alone, one tick at a time: the same decisions, account and bars."""
    work = battered(warm_work)
    done, newest = 0, 0
    for cut, share in sorted((place % (len(storm.time) + 1), share) for place, share in cuts):
        work.take(storm, done, cut)
        newest = int(storm.time[:cut].max(initial=work.clock))
        following = int(storm.time[cut:].min(initial=newest))
        work.reach(newest + int(share * max(0, following - newest)))
        done = cut
    work.take(storm, done)
    assert work.traces() == expected.traces()
    assert [one.said for one in work.logged] == [one.said for one in expected.logged]
    assert [bytes(event) for event in work.booked] == [bytes(event) for event in expected.booked]


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(1, 10_000), seed=st.integers(0, 10_000), size=st.sampled_from([1e-4, 3e-3, 0.3]))
def test_what_comes_later_changes_nothing(
    warm_work: Make, storm: Ticks, expected: Work, cut: int, seed: int, size: float
) -> None:
    """Every later tick is another one, and some are missing: no bit of what was decided before is."""
    time = int(storm.time[: cut % (len(storm.time) - 300) + 1].max())
    after, noise = storm.time > time, np.random.default_rng(seed)
    factor = np.where(after, np.exp(noise.normal(0.0, size, len(after))), 1.0)
    kept = ~after | (noise.random(len(after)) > 0.2)
    later = Ticks(*(column[kept] for column in storm._replace(bid=storm.bid * factor, ask=storm.ask * factor)))
    # Late ticks may follow later ones, of which some are missing: both tapes are the same up to the first later one.
    first = int(np.flatnonzero(after)[0])
    work, other = battered(warm_work), battered(warm_work)
    work.take(later, 0, first)
    other.take(storm, 0, first)
    assert work.traces() == other.traces()
    work.take(later, first)

    def until(one: Work) -> list[object]:
        return [
            [found for found in one.digests if found[0] <= time],
            [(question.time, question.features.tobytes()) for question in one.questions if question.time <= time],
            [found.said for found in one.logged if found.time <= time],
        ]

    assert until(work) == until(expected)


# -- what it survives --------------------------------------------------------------------------------------------------


def test_after_a_gap_there_are_no_entries_before_the_bar_that_forms_has_closed(warm_work: Make) -> None:
    work = warm_work(models=eager)
    order(work, Command.CLOSE_ONLY)
    work.take(work.calm(10))
    order(work, Command.RUN)
    end = bar_end(work)
    work.take(work.calm(100, after=121))
    assert work.clock < end
    assert work.core.counts()["gaps"] == 1
    assert Reason.NOT_TRADABLE in reasons(work)
    assert opened(work) == []
    work.reach(end)
    assert opened(work) == [("BAR", end)]


def test_a_pause_that_is_usual_is_no_gap(warm_work: Make) -> None:
    work = warm_work(models=eager)
    order(work, Command.CLOSE_ONLY)
    work.take(work.calm(10))
    order(work, Command.RUN)
    work.take(work.calm(10, after=119))
    assert work.core.counts()["gaps"] == 0
    assert len(opened(work)) == 1


def test_weekends_and_breaks_are_no_gaps_but_holes_are(made: Market, spec_of: Callable[..., CoreSpec]) -> None:
    spec = spec_of(*made.symbols, stale_s=300.0)
    whole = new_work(spec, keeps_log=False)
    whole.take(made.ticks)
    assert whole.core.counts()["gaps"] == 0
    hour = to_server(made.ticks.time) % (24 * HOUR_NS) // HOUR_NS
    hole = (hour == 11) & (made.ticks.symbol != 0)
    holed = new_work(spec, keeps_log=False)
    holed.take(Ticks(*(column[~hole] for column in made.ticks)))
    days = len(np.unique(made.ticks.time[hole] // (24 * HOUR_NS)))
    assert holed.core.counts()["gaps"] == 2 * days


@pytest.mark.parametrize(("seconds", "stale"), [(170, True), (200, False)])
def test_a_stale_feed_is_an_emergency_in_an_open_market(warm_work: Make, seconds: int, stale: bool) -> None:
    """The last tick is 130 or 100 seconds before the bar's end; 120 are allowed."""
    work = warm_work("EURUSD", "GBPUSD", models=eager)
    order(work, Command.CLOSE_ONLY)
    work.take(work.calm(seconds, rows=(0, 1)))
    order(work, Command.RUN)
    end = bar_end(work)
    work.take([tick for tick in work.calm(299 - seconds, rows=(1,)) if tick.time < end])
    work.reach(end)
    level = Level.EMERGENCY if stale else Level.SIMPLE_AI
    assert (work.out()["level"], work.out(1)["level"]) == (level, Level.SIMPLE_AI)
    assert (Reason.STALE in reasons(work)) == stale
    entered = {one.row for one in work.logged if one.said.action == "open" and one.time == end}
    assert entered.isdisjoint({0}) == stale
    assert work.core.silent(end).tolist() == [stale, False]


def test_a_closed_market_is_idle_and_no_emergency(made: Market, spec_of: Callable[..., CoreSpec]) -> None:
    work = new_work(spec_of(*made.symbols, stale_s=300.0), keeps_log=False)
    friday = made.start + 5 * 24 * HOUR_NS - 2 * HOUR_NS
    assert to_server(np.array([friday]))[0] % (24 * HOUR_NS) == 0
    work.take(made.ticks, 0, made.before(friday))
    for hours in range(0, 47):
        work.reach(friday + hours * HOUR_NS)
        assert not work.core.silent(work.clock).any()
    assert Level.EMERGENCY not in {int(level) for level in work.core.core.watch["level"]}
    assert not any(work.core.core.inputs["market_open"])


def test_a_spread_that_blows_out_keeps_entries_away_as_long_as_it_lasts(warm_work: Make) -> None:
    work = warm_work(models=eager)
    calm = work.calm(20)
    wide = 4.5 * float(work.inputs()["spread_median"])
    for tick in calm[:10]:
        work.take([tick._replace(ask=tick.bid + wide)])
        assert work.out()["breakers"] == Breaker.SPREAD
        assert work.out()["action"] == Action.NONE
    work.take(calm[10:11])
    assert work.out()["breakers"] == 0
    assert opened(work) == [("TICK", calm[10].time)]


def test_an_unhealthy_journal_or_broker_keeps_entries_away(warm_work: Make) -> None:
    work = warm_work(models=eager)
    assert work.core.set_conditions(healthy=False, command=int(Command.RUN))
    assert not work.core.set_conditions(healthy=False, command=int(Command.RUN)), "no news"
    work.take(work.calm(20))
    assert work.out()["level"] == Level.EMERGENCY
    assert opened(work) == []


def test_close_only_lets_exits_through_and_flatten_makes_them(warm_work: Make) -> None:
    work = warm_work(models=eager)
    work.take(work.calm(3))
    assert work.lots() != 0.0
    order(work, Command.CLOSE_ONLY)
    work.take(work.calm(3))
    assert work.lots() != 0.0
    order(work, Command.FLATTEN)
    event = work.core.decide_now([0], work.clock)
    assert event is Event.ACT
    work.attend(event)
    assert work.logged[-1].kind is Kind.COMMAND
    work.take(work.calm(60))
    assert work.lots() == 0.0
    assert len(opened(work)) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([np.nan, 0.7], Reason.MODEL_ABSENT), ([np.inf, 0.7], Reason.MODEL_OUT_OF_RANGE),
        ([0.7, 1.0000001], Reason.MODEL_OUT_OF_RANGE), ([-0.1, 0.7], Reason.MODEL_OUT_OF_RANGE),
    ],
)  # fmt: skip
def test_a_nonsensical_answer_is_discarded_and_the_level_drops_at_once(
    warm_work: Make, answer: list[float], reason: Reason
) -> None:
    work = warm_work(models=lambda work, question: np.full((len(question.rows), 2), 0.7))
    order(work, Command.CLOSE_ONLY)
    work.take(work.calm(250))
    assert work.out()["level"] == Level.SIMPLE_AI
    work.models = lambda work, question: np.tile(np.array(answer), (len(question.rows), 1))
    work.reach(bar_end(work))
    out = work.out()
    assert out["level"] == Level.TRADITIONAL
    assert reason in reasons(work)
    assert out["score"] == out["signals"][0]
    assert out["weights"].tolist() == [1.0, 0.0, 0.0]
    logged = work.logged[-1]
    assert (logged.kind, logged.said.level) == (Kind.BAR, Level.TRADITIONAL)
    assert logged.p_up == [p if np.isfinite(p) else None for p in answer]


def test_a_level_rises_after_a_minute_of_health_only(warm_work: Make) -> None:
    work = warm_work(models=silent)
    order(work, Command.CLOSE_ONLY)
    work.take(work.calm(5))
    assert work.out()["level"] == Level.TRADITIONAL
    work.models = logistic
    calm = work.calm(70)
    levels = []
    for tick in calm:
        work.take([tick])
        levels.append(int(work.out()["level"]))
    assert levels[:60] == [Level.TRADITIONAL] * 60
    assert levels[-1] == Level.SIMPLE_AI


def test_drifted_features_take_weight_from_the_models(warm_work: Make) -> None:
    weights, levels = [], []
    for drift in (np.nan, 0.2, 0.45, 0.7, 0.9):
        work = warm_work()
        work.core.set_conditions(healthy=True, command=int(Command.CLOSE_ONLY), drift=drift)
        work.take(work.calm(3))
        weights.append(float(work.out()["weights"][1]))
        levels.append(int(work.out()["level"]))
    assert weights[0] == weights[1] > weights[2] > weights[3] > weights[4] == 0.0
    assert levels == [2, 2, 2, 2, 3]
    assert Reason.FEATURES_DRIFTED in reasons(work)


def test_drift_is_told_to_every_symbol_and_is_news_once(warm_work: Make) -> None:
    work = warm_work("EURUSD", "GBPUSD")

    def told(drift: float) -> bool:
        return work.core.set_conditions(healthy=True, command=int(Command.RUN), drift=drift)

    assert np.isnan(work.core.drift)
    assert [told(drift) for drift in (np.nan, 0.4, 0.4, 0.0, 0.0, np.nan, np.nan, 0.4)] == [
        False, True, False, True, False, True, False, True,
    ]  # fmt: skip
    assert work.core.drift == 0.4
    assert work.core.core.inputs["drift"].tolist() == [0.4, 0.4]
    assert not work.core.set_conditions(healthy=True, command=int(Command.RUN), drift=0.4)
    assert work.core.set_conditions(healthy=True, command=int(Command.RUN)), "left out, it is unknown"
    assert np.isnan(work.core.core.inputs["drift"]).all()


def test_a_flood_is_decided_tick_by_tick(warm_work: Make) -> None:
    work = warm_work(models=eager)
    bid, ask = work.quote()
    step = 40 * work.point()
    flood = [
        Tick(0, work.clock + 1 + number * 5_000, bid + number % 7 * work.point(), ask + number % 7 * work.point())
        for number in range(50_000)
    ]
    work.take(flood)
    assert work.core.counts()["ticks"] == 50_000
    assert work.core.decisions == 50_000
    assert work.core.core.forming[0, 0]["count"] == 50_000
    assert abs(work.inputs()["bid"] - flood[-1].bid) < step


def test_when_the_log_is_full_it_is_drained_and_nothing_is_lost(warm_work: Make) -> None:
    """Every tick trips or resets the spread's breaker, so that every decision is worth a record."""
    works = [warm_work("EURUSD", "GBPUSD"), warm_work("EURUSD", "GBPUSD")]
    wide = 5 * float(works[0].core.core.features[0]["spread_median"])
    calm = [
        tick._replace(time=tick.time // 1_000, ask=tick.bid + wide if number % 2 else tick.ask)
        for number, tick in enumerate(works[0].calm(3 * LOG_ROWS))
    ]
    shifted = [tick._replace(time=works[0].clock + (number + 1) * SECOND_NS // 20) for number, tick in enumerate(calm)]
    works[0].take(shifted)
    for tick in shifted:
        works[1].take([tick])
    assert works[0].full >= 2
    assert works[1].full == 0
    numbers = [one.number for one in works[0].logged]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 3 * LOG_ROWS
    assert [one.said for one in works[0].logged] == [one.said for one in works[1].logged]
    assert works[0].traces() == works[1].traces()


def test_a_clock_that_goes_back_changes_nothing(warm_work: Make) -> None:
    work = warm_work("EURUSD", "GBPUSD")
    work.take(work.calm(20))
    before = work.core.whole()
    work.reach(work.clock - HOUR_NS)
    assert work.core.whole() == before
    late = work.calm(1, rows=(1,))[0]._replace(time=work.clock - 5 * SECOND_NS)
    clock = work.clock
    work.take([late])
    assert work.clock == clock
    assert work.core.core.forming[1, 0]["count"] == 1, "older than another symbol's, but this one's newest"
