"""The whole recipe on simulated markets: it finds most of a planted signal, and nothing where none is.

Bars of the simulator, features, labels, purged walk-forward, models, judgement: all as in training. How much there is
to find is told by an oracle, which knows the simulator's momentum itself and not only prices.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.features.splits import walk_forward
from fx_dagster.market.timeframes import DAY_NS, Timeframe
from fx_dagster.models.canary import pipeline_dataset
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.families import FAMILIES
from fx_dagster.models.training import OutOfFold, cross_validate
from resources.market import simulator
from resources.market.simulator import SIGNAL_HORIZON_BARS, SIGNAL_PERSISTENCE, SimulatorSource, planted

SYMBOL, TIMEFRAME, DAYS = "EURUSD", Timeframe.M15, 90
START = int(np.datetime64("2024-01-01T22:00", "ns").astype(np.int64))
STRENGTH = 0.8
"""The best forecast is right 72 times in a hundred."""
SHARE_MIN = 0.6
"""Of the oracle's edge over a coin. Over 20 seeds the trees found 0.83 (XGBoost) and 0.91 (forest) in the median, 0.60
in the worst."""
FOLDS = 2
TREES = ("xgboost", "random_forest")


@dataclass(frozen=True)
class World:
    """The rows of a simulated market, and in which direction the oracle expects each to go."""

    rows: Dataset
    oracle_up: NDArray[np.bool_]

    def judged(self, family: str) -> OutOfFold:
        """Walk a family forward."""
        rows, embargo_ns = self.rows, SIGNAL_HORIZON_BARS * TIMEFRAME.nominal_ns
        folds = walk_forward(rows.time, rows.end_time, folds=FOLDS, embargo_ns=embargo_ns).folds
        splits = [(fold.train, fold.test) for fold in folds]
        return cross_validate(FAMILIES[family], rows.spec(seed=7, threads=1), rows, splits)

    def share_found(self, result: OutOfFold) -> float:
        """Return the edge over a coin as a share of the oracle's, on the tested rows."""
        right = (self.oracle_up == (self.rows.y == 1))[result.tested]
        return (result.metrics.accuracy - 0.5) / (float(right.mean()) - 0.5)


@cache
def world(strength: float, seed: int) -> World:
    """Simulate a market; the shocks that its moves are made of are overheard."""
    overheard: list[NDArray[np.float64]] = []

    def overhearing(shocks: NDArray[np.float64], wanted: float) -> NDArray[np.float64]:
        overheard.append(shocks)
        return planted(shocks, wanted)

    end = START + DAYS * DAY_NS
    source = SimulatorSource((SYMBOL,), start=START, end=end, timeframe=TIMEFRAME, seed=seed, signal=strength)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "planted", overhearing)
        bars = source.bars(SYMBOL, START, end)
    catalogue = feature_catalogue(TIMEFRAME, cross_symbol=False)
    rows = pipeline_dataset({SYMBOL: bars}, catalogue, horizon_bars=SIGNAL_HORIZON_BARS, barrier_atr=2.0)
    # The simulator's m[t] = φ m[t-1] + K c z[t]; K c > 0 does not change its sign.
    momentum = lfilter([1.0], [1.0, -SIGNAL_PERSISTENCE], overheard[0])
    at = np.searchsorted(bars["time"].to_numpy(), rows.time)
    assert len(momentum) == len(bars)
    return World(rows, momentum[at] > 0)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("family", TREES)
def test_trees_find_most_of_what_is_there(family: str, seed: int) -> None:
    market = world(STRENGTH, seed)
    result = market.judged(family)
    assert market.share_found(result) >= SHARE_MIN
    assert result.metrics.accuracy_low > result.metrics.majority_accuracy
    assert result.metrics.log_loss < result.metrics.base_log_loss


def test_a_network_finds_it_in_sequences() -> None:
    market = world(STRENGTH, 1)
    result = market.judged("attention")
    assert market.share_found(result) >= SHARE_MIN
    assert result.metrics.accuracy_low > result.metrics.majority_accuracy


@pytest.mark.parametrize(("family", "seed"), [*((tree, seed) for tree in TREES for seed in (1, 2)), ("attention", 1)])
def test_where_nothing_is_nothing_is_found(family: str, seed: int) -> None:
    metrics = world(0.0, seed).judged(family).metrics
    assert metrics.accuracy_low <= 0.5 <= metrics.accuracy_high
    assert metrics.log_loss > metrics.base_log_loss - 0.005


def test_a_recipe_that_looks_at_a_bar_of_the_day_before_does_not_find_it() -> None:
    """What the share is worth: the same rows with late features, and all else as it was, fall short of it."""
    market = world(STRENGTH, 1)
    late = DAY_NS // TIMEFRAME.nominal_ns
    behind = replace(market, rows=replace(market.rows, X=np.roll(market.rows.X, late, axis=0)))
    assert behind.share_found(behind.judged("xgboost")) < 0.5 * SHARE_MIN
