import numpy as np

from bench import crossover


def test_the_timed_work_is_the_whole_replay(monkeypatch):
    """Every repeat computes averages, trades and the account anew, beside one run that is not counted."""
    calls = []

    def counted(name, original):
        return lambda *given, **named: calls.append(name) or original(*given, **named)

    for name in ("crossover", "replay_targets", "sweep_crossovers"):
        monkeypatch.setattr(crossover, name, counted(name, getattr(crossover, name)))
    close = 1.1 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.001, 500)))
    assert crossover.crossover_bars_per_s(close) > 0
    assert crossover.sweep_bars_per_s(close, [3, 5], [20, 30]) > 0
    repeats = crossover.REPEATS + 1
    assert calls == ["crossover", "replay_targets"] * repeats + ["sweep_crossovers"] * repeats
