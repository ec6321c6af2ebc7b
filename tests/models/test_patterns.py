"""Patterns: hand-drawn prices, mirrors, scale, and how often chance draws them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import DataError
from fx_dagster.features.catalogue import CHART_BARS
from fx_dagster.models.patterns import PATTERNS, label_patterns

MIRRORS = {
    "double_top": "double_bottom",
    "head_and_shoulders": "inverse_head_and_shoulders",
    "ascending_triangle": "descending_triangle",
    "symmetric_triangle": "symmetric_triangle",
    "bull_flag": "bear_flag",
    "breakout_up": "breakout_down",
    "engulfing_bull": "engulfing_bear",
}

Knots = list[tuple[int, float]]
DRAWN: dict[str, Knots] = {
    "double_top": [(0, 0), (14, 10), (22, 4), (30, 10.2), (40, 5)],
    "head_and_shoulders": [(0, 0), (8, 8), (14, 4), (21, 11), (28, 4.3), (34, 8.3), (41, 4)],
    "ascending_triangle": [(0, 0), (10, 9), (17, 2), (25, 9.2), (31, 5), (37, 7.5)],
    "symmetric_triangle": [(0, 0), (9, 10), (17, 2), (25, 8), (32, 4), (37, 5.5)],
    "bull_flag": [(0, 0), (28, 1), (34, 9), (44, 7.5)],
    "breakout_up": [(0, 0), (4, 1), (8, 0), (12, 1), (16, 0), (20, 1), (24, 0), (28, 1), (32, 0.2), (33, 3)],
}
"""Bars and closes of each pattern's corners, ending at the newest bar; closes between are on straight lines."""


def drawn(knots: Knots, wick: float = 0.15) -> np.ndarray:
    """Return float64 [W, 5]; the drawing is shifted so that its last corner is the newest bar."""
    shift = CHART_BARS - 1 - knots[-1][0]
    close = 100 + 0.1 * np.interp(np.arange(CHART_BARS) - shift, *zip(*knots, strict=True))
    return candles(close, 0.1 * wick)


def candles(close: np.ndarray, wick: float) -> np.ndarray:
    opens = np.concatenate([close[:1], close[:-1]])
    high, low = np.maximum(opens, close) + wick, np.minimum(opens, close) - wick
    return np.column_stack([opens, high, low, close, np.full(len(close), 100.0)])


def mirrored(window: np.ndarray, around: float = 200.0) -> np.ndarray:
    """Return prices upside down: highs become lows."""
    out = window.copy()
    out[..., :4] = around - window[..., [0, 2, 1, 3]]
    return out


def found(window: np.ndarray) -> set[str]:
    (row,) = label_patterns(window[None])
    return {name for name, present in zip(PATTERNS, row, strict=True) if present}


def walks(count: int, seed: int) -> np.ndarray:
    """Return windows [count, W, 5] of a random walk that is looked at 32 times a bar."""
    steps = 1e-4 * np.random.default_rng(seed).standard_normal((count, CHART_BARS, 32))
    path = np.exp(steps.reshape(count, -1).cumsum(axis=1)).reshape(steps.shape)
    prices = [path[:, :, 0], path.max(axis=2), path.min(axis=2), path[:, :, -1], np.full(path.shape[:2], 32.0)]
    return np.stack(prices, axis=2)


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_pattern_is_found_and_so_is_its_mirror(name: str) -> None:
    window = drawn(DRAWN[name])
    assert name in found(window)
    assert MIRRORS[name] in found(mirrored(window))


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("double_top", [(0, 0), (14, 10), (22, 4), (30, 13), (40, 5)]),  # tops of different height
        ("double_top", [(0, 0), (14, 10), (22, 8.5), (30, 10.2), (40, 5)]),  # no valley
        ("double_top", [(0, 0), (14, 10), (22, 4), (30, 10.2), (33, 9.5)]),  # has not turned down yet
        ("double_top", [(0, 0), (6, 10), (12, 4), (18, 10.2), (40, 5)]),  # long ago
        ("head_and_shoulders", [(0, 0), (8, 8), (14, 4), (21, 8.2), (28, 4.3), (34, 8.3), (41, 4)]),  # no head
        ("head_and_shoulders", [(0, 0), (8, 8), (14, 4), (21, 11), (28, 4.3), (34, 10.8), (41, 4)]),  # high shoulder
        ("ascending_triangle", [(0, 0), (10, 9), (17, 2), (25, 9.2), (31, 2), (37, 7.5)]),  # lows do not rise
        ("ascending_triangle", [(0, 0), (10, 9), (17, 2), (25, 9.2), (31, 5), (37, 12)]),  # broken out
        ("symmetric_triangle", [(0, 0), (9, 8), (17, 2), (25, 8), (32, 4), (37, 5.5)]),  # highs do not fall
        ("bull_flag", [(0, 0), (28, 1), (34, 9), (44, 2)]),  # gave the pole back
        ("bull_flag", [(0, 0), (28, 8.2), (34, 9), (44, 8)]),  # no pole
        ("bull_flag", [(0, 0), (28, 1), (34, 9), (35, 7), (44, 8.8)]),  # rises
        ("breakout_up", [*DRAWN["breakout_up"][:-1], (33, 0.9)]),  # still inside
        ("breakout_up", [(0, 0), (12, 9), (24, 0), (32, 9), (33, 12)]),  # no narrow channel
    ],
)
def test_one_broken_rule_is_enough_to_refuse(name: str, broken: Knots) -> None:
    assert name in found(drawn(DRAWN[name]))
    assert name not in found(drawn(broken))


def _with_last(bars: list[tuple[float, float, float, float]], *, trend: float) -> np.ndarray:
    """Return a trend of candles of body 0.1, closed by ``bars`` (open, high, low, close around the trend's end)."""
    before = candles(100 + trend * np.arange(CHART_BARS - len(bars)), 0.02)
    end = before[-1, 3]
    return np.vstack([before, [[*(end + np.array(bar)), 100.0] for bar in bars]])


CANDLES = {
    "engulfing_bull": _with_last([(0.0, 0.01, -0.11, -0.1), (-0.12, 0.06, -0.13, 0.05)], trend=-0.1),
    "hammer": _with_last([(-0.03, 0.001, -0.4, 0.0)], trend=-0.1),
    "shooting_star": _with_last([(0.05, 0.5, 0.049, 0.08)], trend=0.1),
    "morning_star": _with_last(
        [(0.0, 0.01, -0.31, -0.3), (-0.34, -0.33, -0.37, -0.36), (-0.3, -0.05, -0.31, -0.06)], trend=-0.1
    ),
    "evening_star": _with_last([(0.0, 0.31, -0.01, 0.3), (0.34, 0.37, 0.33, 0.36), (0.3, 0.31, 0.05, 0.06)], trend=0.1),
}


@pytest.mark.parametrize("name", CANDLES)
def test_candle_is_found_at_the_newest_bar_only(name: str) -> None:
    window = CANDLES[name]
    assert name in found(window)
    after = candles(np.full(1, window[-1, 3]), 0.02)
    assert name not in found(np.vstack([window[1:], after]))


def test_engulfing_mirrors() -> None:
    assert "engulfing_bear" in found(mirrored(CANDLES["engulfing_bull"]))


def test_every_pattern_has_an_example() -> None:
    assert {*DRAWN, *(MIRRORS[name] for name in DRAWN), *CANDLES, "engulfing_bear"} == set(PATTERNS)
    assert len(set(PATTERNS)) == len(PATTERNS)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-4, 1e5))
def test_the_scale_of_prices_and_the_volume_do_not_matter(seed: int, scale: float) -> None:
    windows = walks(20, seed)
    scaled = windows * np.array([scale, scale, scale, scale, 7.0])
    assert np.array_equal(label_patterns(scaled), label_patterns(windows))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_mirrored_walks_swap_the_patterns(seed: int) -> None:
    windows = walks(50, seed)
    # A candle without a body is white to TA-Lib, and so is its mirror.
    bodies = np.abs(windows[:, -2:, 3] - windows[:, -2:, 0]).min(axis=1)
    windows = windows[bodies > 1e-3 * (windows[:, :, 1] - windows[:, :, 2]).mean(axis=1)]
    there, back = label_patterns(windows), label_patterns(mirrored(windows, 2.0))
    for name, other in MIRRORS.items():
        assert np.array_equal(there[:, PATTERNS.index(name)], back[:, PATTERNS.index(other)])
        assert np.array_equal(back[:, PATTERNS.index(name)], there[:, PATTERNS.index(other)])


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    windows = walks(60, 5)
    windows[::2, :, :4] *= 3_000.0
    together = label_patterns(windows)
    assert np.array_equal(np.concatenate([label_patterns(window[None]) for window in windows]), together)


def test_chance_draws_each_pattern_sometimes_and_none_often() -> None:
    share = label_patterns(walks(6_000, 3)).mean(axis=0)
    assert (share > 0.001).all()
    assert (share < 0.1).all()


def test_flat_windows_have_no_pattern() -> None:
    flat = np.ones((2, CHART_BARS, 5))
    assert not label_patterns(flat).any()
    assert label_patterns(flat[:0]).shape == (0, len(PATTERNS))


@pytest.mark.parametrize("price", [np.nan, np.inf, 0.0, -1.0])
def test_a_price_that_is_none_is_refused(price: float) -> None:
    window = drawn(DRAWN["double_top"])
    window[3, 1] = price
    with pytest.raises(DataError, match="not finite and positive"):
        label_patterns(window[None])


def test_another_shape_is_refused() -> None:
    with pytest.raises(DataError, match="shape"):
        label_patterns(np.ones((3, 10, 5)))
