"""Sums that are moved on row by row: the same as sums made anew, for any pattern of bars, over any length."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.features.cross_incremental import LONG, SHORT, compare, new_cross, push_grid

FLOOR = 1e-6


def tape(seed, rows, symbols, missing, style="walk"):
    noise = np.random.default_rng(seed)
    scale = np.where(noise.random(rows) < 0.01, 0.05, 3e-4) if style == "jumps" else 3e-4
    moves = noise.normal(0.0, 1.0, (rows, symbols)) * np.atleast_1d(scale)[:, None]
    moves[:, 1:] += 0.5 * moves[:, :1]
    if style == "still":
        moves[rows // 3 : 2 * rows // 3, 0] = 0.0
    close = np.exp(np.cumsum(moves, axis=0))
    close[noise.random((rows, symbols)) < missing] = np.nan
    return close


def run(close, signals):
    n = close.shape[1]
    cross, features, agreement, shift = new_cross(n), np.empty((n, 4)), np.empty(n), np.empty(n)
    for row in close:
        push_grid(cross, row)
    compare(cross, signals, features, agreement, shift)
    return cross, features, agreement, shift


def by_the_book(close, signals):
    """The definitions, with NumPy, from the whole tape."""
    known = np.empty_like(close)
    last = np.full(close.shape[1], np.nan)
    for row, values in enumerate(close):
        last = np.where(np.isfinite(values), values, last)
        known[row] = last
    moves = np.diff(np.log(known), axis=0)
    counts = np.isfinite(moves).sum(axis=0)
    n = close.shape[1]
    strong = moves[-24:].sum(axis=0) / np.maximum(np.sqrt((moves[-LONG:] ** 2).sum(axis=0) / LONG), FLOOR) / np.sqrt(24)

    def rho(i, j, window):
        x, y = moves[-window:, i], moves[-window:, j]
        dx, dy = x - x.mean(), y - y.mean()
        still = min(dx @ dx, dy @ dy) <= window * FLOOR**2
        return 0.0 if still else float(np.clip(dx @ dy / np.sqrt((dx @ dx) * (dy @ dy)), -1.0, 1.0))

    features, agreement, shift = np.full((n, 4), np.nan), np.full(n, np.nan), np.full(n, np.nan)
    for i in range(n):
        others = [j for j in range(n) if j != i and counts[j] >= LONG]
        if counts[i] < LONG:
            continue
        fast, slow = ({j: rho(i, j, window) for j in others} for window in (SHORT, LONG))
        some = max(len(others), 1)
        features[i] = (
            sum(fast.values()) / some,
            sum(abs(value) for value in fast.values()) / some,
            strong[i] - sum(strong[j] for j in others) / some if others else 0.0,
            sum(fast[j] * strong[j] for j in others) / some,
        )
        said = [slow[j] * signals[j] for j in others if np.isfinite(signals[j])]
        if sum(map(abs, said)) > 0:
            agreement[i] = sum(said) / sum(map(abs, said))
        if others:
            shift[i] = sum(abs(fast[j] - slow[j]) for j in others) / len(others)
    return features, agreement, shift


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 5), st.integers(200, 700), st.sampled_from([0.0, 0.1, 0.6]),
    st.sampled_from(["walk", "jumps", "still"]),
)  # fmt: skip
def test_it_is_what_the_definitions_say(seed, symbols, rows, missing, style):
    close = tape(seed, rows, symbols, missing, style)
    signals = np.random.default_rng(seed).uniform(-1, 1, symbols)
    signals[seed % symbols] = np.nan
    _, *found = run(close, signals)
    for got, expected in zip(found, by_the_book(close, signals), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_a_long_way_gathers_no_error():
    close = tape(3, 30_000, 3, 0.2, "jumps")
    signals = np.array([0.5, -0.2, 0.3])
    _, *found = run(close, signals)
    for got, expected in zip(found, by_the_book(close, signals), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def test_a_symbol_added_later_counts_when_it_is_known():
    close = tape(5, 600, 3, 0.0)
    close[:400, 2] = np.nan
    _, features, _, _ = run(close, np.zeros(3))
    assert np.isnan(features[2]).all()
    _, without, _, _ = run(close[:, :2], np.zeros(2))
    np.testing.assert_allclose(features[:2], without, rtol=1e-9)


def test_the_ring_holds_the_newest_returns():
    close = tape(6, 500, 2, 0.0)
    cross, *_ = run(close, np.zeros(2))
    expected = np.diff(np.log(close), axis=0)[-LONG:]
    np.testing.assert_allclose(np.sort(cross.returns, axis=0), np.sort(expected, axis=0), rtol=1e-9)


def test_of_many_symbols_the_leading_ones_are_looked_at():
    close = tape(8, 500, 6, 0.1)
    signals = np.linspace(-1, 1, 6)
    features, agreement, shift = np.empty((6, 4)), np.empty(6), np.empty(6)
    cross = new_cross(6, [1, 4])
    for row in close:
        push_grid(cross, row)
    compare(cross, signals, features, agreement, shift)
    for i in range(6):
        # With the leaders alone, and itself in front of them where it is none.
        places = [1, 4] if i in (1, 4) else [i, 1, 4]
        own = places.index(i)
        expected = by_the_book(close[:, places], signals[places])
        np.testing.assert_allclose(features[i], expected[0][own], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose((agreement[i], shift[i]), (expected[1][own], expected[2][own]), rtol=1e-9)
