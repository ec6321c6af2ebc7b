"""What the models of a release say of a row, in the columns that a decision reads.

First p(up) of the simple models, then of the deep ones, then of the meta model; after these, :data:`EXTRAS`. NaN is an
answer that is absent.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

SIMPLE_MODELS: Final = ("xgboost", "random_forest")
"""Needed from fallback level 2 on; the smaller ensemble."""
DEEP_MODELS: Final = ("lstm", "cnn")
"""Further direction models that level 1 needs."""
META: Final = "meta"
ATTENTION: Final = "attention"
"""Its score is the fourteenth indicator: a vote, not a path of its own."""
BASE_MODELS: Final = (*SIMPLE_MODELS, *DEEP_MODELS, ATTENTION)
"""Direction models that the meta model stacks."""
DIRECTIONS: Final = (*SIMPLE_MODELS, *DEEP_MODELS, META)
"""Columns of p(up) of a whole release, in order."""

EXTRAS: Final = ("confidence", "regime", "attention", "size", "enter", "exit_long", "exit_short")
"""Columns behind the probabilities.

============  =========================================================================================
confidence    calibrated probability that the combined signal is right
regime        code of :class:`fx_dagster.decision.codes.Regime`
attention     score of the fourteenth indicator in [-1, 1]
size          factor of the position's size that the sizing agent wants, in [0, 1.5]
enter         the timing agent's probability of entering now, in [0, 1]
exit_long     its probability of leaving a long position now
exit_short    and a short one
============  =========================================================================================
"""

SIZE_MAX: Final = 1.5
REGIMES: Final = ("bull", "bear", "high_volatility", "low_volatility")
"""Columns of the regime model's probabilities; the code of each is its place plus 1, 0 is unknown."""


def regime_codes(probabilities: Float64) -> Float64:
    """Return the likeliest regime's code of each row of ``[n, 4]``; NaN where a probability is not one."""
    usable = ((probabilities >= 0.0) & (probabilities <= 1.0)).all(axis=1) if len(probabilities) else np.zeros(0, bool)
    codes = np.full(len(probabilities), np.nan)
    codes[usable] = 1.0 + probabilities[usable].argmax(axis=1)
    return codes


def attention_scores(p_up: Float64) -> Float64:
    """Return the fourteenth indicator's votes in [-1, 1]; NaN where p(up) is no probability."""
    return np.where((p_up >= 0.0) & (p_up <= 1.0), 2.0 * p_up - 1.0, np.nan)
