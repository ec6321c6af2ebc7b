from bench.timing import RivalError, in_turns, microseconds, millions_a_second, timed


def test_all_run_in_turns_and_the_first_round_does_not_count():
    order = []

    def contender(name, values):
        return lambda: order.append(name) or values.pop(0)

    ours, (peer,) = in_turns(
        contender("ours", [9.0, 1.0, 3.0, 2.0]), {"peer": contender("peer", [9.0, 4.0, 6.0, 5.0])}, microseconds, 3
    )
    assert order == ["ours", "peer"] * 4
    assert ours == (2e6, 1e6, 3e6)
    assert peer.figure == (5e6, 4e6, 6e6)


def test_a_peer_that_fails_is_left_out_and_says_why():
    def fails():
        raise RivalError("could not be installed here")

    ours, (peer,) = in_turns(lambda: 1.0, {"peer": fails}, microseconds, 2)
    assert ours.median == 1e6
    assert peer == ("peer", None, "could not be installed here")


def test_seconds_are_those_of_an_item():
    assert 0.0 < timed(lambda: sum(range(1_000)), 1_000)() < 1e-3


def test_rates_turn_seconds_around():
    assert millions_a_second(1e-6) == 1.0
