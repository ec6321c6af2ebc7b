"""Which of four regimes a market is in: bull, bear, high or low volatility, from the features of a row.

The regime of a row is defined by its symbol's own closes up to the row's close, and by nothing later:

===================  ==================================================================================
``high_volatility``  the volatility tracker lies above :data:`HIGH_ABOVE` of its own past
``low_volatility``   it lies below :data:`LOW_BELOW`, and the trend's t between ±:data:`TREND_MIN`
``bull``, ``bear``   otherwise, by the sign of the trend's t
===================  ==================================================================================

The tracker is an exponentially weighted mean of squared log returns (RiskMetrics, J.P. Morgan 1996); t is that of the
drift of a random walk over the last bars. The slope of prices on time by least squares has a t that grows with the
window even where there is no drift (Durlauf & Phillips 1988); this one does not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import CHART_BARS, PERCENTILE_WINDOW, RETURN_LAGS, VOLATILITY_SHORT
from fx_dagster.models.answer import REGIMES
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.protocol import INPUT_NAME, Answers, Float64, Int8, ModelCard, ModelSpec
from fx_dagster.models.rows import require_trainable

REGIME_NAME: Final = "regime"
HALF_LIFE_BARS: Final = VOLATILITY_SHORT
PAST_BARS: Final = PERCENTILE_WINDOW
"""Values of the tracker that its newest is ranked among; without as many a row has no regime. As far as the features
look back: a longer past could not be told from them."""
TREND_BARS: Final = RETURN_LAGS[-1]
"""Returns that the trend's t is made of."""
HIGH_ABOVE: Final = 0.75
LOW_BELOW: Final = 0.25
TREND_MIN: Final = 1.0
UNKNOWN: Final = -1
BULL, BEAR, HIGH, LOW = range(len(REGIMES))

PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType(
    {"n_estimators": 40, "max_depth": 8, "max_features": 0.5, "min_samples_leaf": 40}
)
"""The same for every data set, unless ``ModelSpec.parameters`` says otherwise: never tuned on what is reported."""
SAMPLES_MAX: Final = 30_000
"""Rows drawn for a tree at most: neighbouring bars have the same regime, more rows cost time and add little."""
ROWS_MIN: Final = 100
"""Fewest rows with a regime that are fitted on: what the past says takes far fewer than what the future does."""
_EPSILON: Final = 1e-7


@dataclass(frozen=True)
class RegimeMetrics:
    """Judgement of the forest's regimes, against those that the closes up to each row give.

    Attributes:
        rows: rows that have a regime.
        accuracy: share of them whose likeliest regime is theirs.
        majority_accuracy: what always saying the most frequent regime would reach.
        log_loss: mean negative log-likelihood of their regime, nats.
        base_log_loss: that of always saying the shares.
        shares: share of each regime.
        recall: share of each regime's rows that are told; NaN-free: 0 where it does not occur.
        mean_duration_bars: mean length of a run of one likeliest regime, in rows of a symbol.
        label_duration_bars: that of the regimes themselves.
    """

    rows: int
    accuracy: float
    majority_accuracy: float
    log_loss: float
    base_log_loss: float
    shares: Mapping[str, float]
    recall: Mapping[str, float]
    mean_duration_bars: float
    label_duration_bars: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def regime_labels(rows: Dataset) -> Int8:
    """Return each row's place in :data:`fx_dagster.models.answer.REGIMES`, int8 ``[n]``; -1: its past is too short.

    Only base bars that some row's chart shows are looked at, and for each row none behind its own. Where rows leave a
    gap, the past begins anew behind it.

    Raises:
        TrainingError: the rows have no windows, or a close is not a positive number.
    """
    labels = np.full(len(rows), UNKNOWN, dtype=np.int8)
    for index, place, close in _stretches(rows):
        labels[index] = regimes_of(close)[place]
    return labels


def regimes_of(close: Float64) -> Int8:
    """Return the regime of each bar of one symbol, int8 ``[m]``, from closes up to it; -1: its past is too short."""
    returns = pd.Series(np.diff(np.log(close), prepend=np.nan))
    variance = (returns**2).ewm(halflife=HALF_LIFE_BARS, min_periods=HALF_LIFE_BARS).mean()
    percentile = variance.rolling(PAST_BARS).rank(pct=True).to_numpy()
    window = returns.rolling(TREND_BARS)
    mean, deviation = window.mean().to_numpy(), window.std().to_numpy()
    moving = deviation > 0.0
    t = np.sqrt(TREND_BARS) * np.divide(mean, deviation, out=np.zeros(len(close)), where=moving)
    labels = np.where(t > 0.0, BULL, BEAR).astype(np.int8)
    labels[(percentile < LOW_BELOW) & (np.abs(t) < TREND_MIN)] = LOW
    labels[t == 0.0] = LOW  # closes that do not move at all
    labels[percentile > HIGH_ABOVE] = HIGH
    labels[~np.isfinite(percentile)] = UNKNOWN
    return labels


def mean_duration(regimes: Int8, symbol_code: NDArray) -> float:
    """Return the mean length of runs of one regime, in rows; 0 without rows. Rows of a symbol are in order of time."""
    runs = 0
    for code in np.unique(symbol_code):
        own = regimes[symbol_code == code]
        runs += 1 + int(np.count_nonzero(np.diff(own)))
    return len(regimes) / runs if runs else 0.0


def regime_metrics(labels: Int8, probabilities: Float64, symbol_code: NDArray) -> RegimeMetrics:
    """Judge probabilities float64 ``[n, 4]`` of regimes; rows without a label are left out.

    Raises:
        TrainingError: no row has a label.
    """
    known = labels != UNKNOWN
    if not known.any():
        raise TrainingError("no row has a regime to judge by", mend="use a longer history")
    truth, told, code = labels[known], probabilities[known], symbol_code[known]
    likeliest = told.argmax(axis=1).astype(np.int8)
    counts = np.bincount(truth, minlength=len(REGIMES))
    shares = counts / len(truth)
    hits = np.bincount(truth[truth == likeliest], minlength=len(REGIMES))
    present = shares[shares > 0]
    return RegimeMetrics(
        rows=len(truth),
        accuracy=float(np.mean(truth == likeliest)),
        majority_accuracy=float(shares.max()),
        log_loss=float(-np.mean(np.log(np.maximum(told[np.arange(len(truth)), truth], _EPSILON)))),
        base_log_loss=float(-(present * np.log(present)).sum()),
        shares=dict(zip(REGIMES, shares.tolist(), strict=True)),
        recall=dict(zip(REGIMES, (hits / np.maximum(counts, 1)).tolist(), strict=True)),
        mean_duration_bars=mean_duration(likeliest, code),
        label_duration_bars=mean_duration(truth, code),
    )


class RegimeModel:
    """Probabilities of the four regimes from a random forest.

    Raises:
        TrainingError: the specification names a parameter that is not among ``PARAMETERS``.
    """

    name = REGIME_NAME
    inputs = (INPUT_NAME,)
    outputs: ClassVar = MappingProxyType({REGIME_NAME: len(REGIMES)})

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._parameters = spec.parameters_of(self.name, PARAMETERS)
        self._forest: Any = None
        self._shares: dict[str, float] = {}
        self._duration = 0.0
        self._rows = 0
        self._up_share = 0.0

    def fit(self, rows: Dataset, sample_weight: Float64 | None = None) -> Self:
        """Fit on the features of training rows, labelled by :func:`regime_labels` of these rows.

        Raises:
            TrainingError: the rows have no windows, fewer than ``spec.rows_min`` have a regime, there is one regime
                only, or a feature is constant or not finite.
        """
        from sklearn.ensemble import RandomForestClassifier

        labels = regime_labels(rows)
        known = np.flatnonzero(labels != UNKNOWN)
        own, truth = rows.take(known), labels[known]
        weight = None if sample_weight is None else sample_weight[known]
        # Whether a row is of the first regime that occurs: both answers are there if two regimes are.
        first = (truth == truth.min(initial=len(REGIMES))).astype(np.int8)
        spec = replace(self.spec, rows_min=min(self.spec.rows_min, ROWS_MIN))
        require_trainable(self.name, own.X, first, weight, spec)
        forest = RandomForestClassifier(
            **self._parameters,
            max_samples=min(len(own), SAMPLES_MAX),
            random_state=self.spec.seed,
            n_jobs=self.spec.jobs,
        )
        # Threads would add up the trees' answers in any order, and the last bits of an answer with them.
        self._forest = forest.fit(own.X, truth, sample_weight=weight).set_params(n_jobs=1)
        counts = np.bincount(truth, minlength=len(REGIMES))
        self._shares = dict(zip(REGIMES, (counts / len(truth)).tolist(), strict=True))
        self._duration = mean_duration(truth, own.symbol_code)
        self._rows, self._up_share = len(own), float(np.mean(own.y))
        return self

    def predict(self, rows: Dataset) -> Answers:
        """Return ``regime`` float64 ``[n, 4]`` in the order of ``REGIMES``; a regime never seen has 0."""
        told = np.zeros((len(rows), len(REGIMES)))
        told[:, self._fitted().classes_] = self._fitted().predict_proba(rows.X)
        return {REGIME_NAME: told}

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the decrease in impurity; sums to 1."""
        shares = np.asarray(self._fitted().feature_importances_, dtype=np.float64)
        if shares.sum() <= 0:
            shares = np.full(len(shares), 1 / len(shares))
        return dict(zip(self.spec.feature_names, shares.tolist(), strict=True))

    def to_onnx(self) -> bytes:
        """Return the ONNX graph ``features`` float32 ``[N, F]`` → ``regime`` float32 ``[N, 4]``.

        The forest's columns are put in the places of their regimes by a product with a matrix of zeros and ones.
        """
        from onnx import TensorProto, helper
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType

        from fx_dagster.models.onnx_export import TARGET_OPSET, TARGET_OPSET_ML, labelled

        forest = self._fitted()
        converted = convert_sklearn(
            forest,
            initial_types=[(INPUT_NAME, FloatTensorType([None, len(self.spec.feature_names)]))],
            options={id(forest): {"zipmap": False}},
            target_opset={"": TARGET_OPSET, "ai.onnx.ml": TARGET_OPSET_ML},
        )
        graph = converted.graph
        kept = [node for node in graph.node if "probabilities" in node.output]
        places = np.zeros((len(forest.classes_), len(REGIMES)), dtype=np.float32)
        places[np.arange(len(forest.classes_)), forest.classes_] = 1.0
        graph.initializer.append(helper.make_tensor("places", TensorProto.FLOAT, places.shape, places.ravel()))
        kept.append(helper.make_node("MatMul", ["probabilities", "places"], [REGIME_NAME], name="place_regimes"))
        del graph.node[:], graph.input[:], graph.output[:]
        graph.node.extend(kept)
        shape = ["N", len(self.spec.feature_names)]
        graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape))
        graph.output.append(helper.make_tensor_value_info(REGIME_NAME, TensorProto.FLOAT, ["N", len(REGIMES)]))
        if all(entry.domain for entry in converted.opset_import):  # a converter lists only the domains it used itself
            converted.opset_import.append(helper.make_opsetid("", TARGET_OPSET))
        return labelled(converted, self.name, self.spec)

    def card(self) -> ModelCard:
        """Return the description of the fitted model; ``parameters`` tell its labels' shares and mean duration."""
        import sklearn

        labels = {
            "half_life_bars": HALF_LIFE_BARS,
            "past_bars": PAST_BARS,
            "trend_bars": TREND_BARS,
            "high_above": HIGH_ABOVE,
            "low_below": LOW_BELOW,
            "trend_min": TREND_MIN,
            "shares": self._shares,
            "mean_duration_bars": self._duration,
        }
        return ModelCard(
            name=self.name,
            feature_names=self.spec.feature_names,
            feature_hash=self.spec.feature_hash,
            rows=self._rows,
            up_share=self._up_share,
            seed=self.spec.seed,
            parameters={**self._parameters, "max_samples": min(self._rows, SAMPLES_MAX), "labels": labels},
            importance=self.importance(),
            libraries={"scikit-learn": sklearn.__version__},
        )

    def _fitted(self) -> Any:
        if self._forest is None:
            raise TrainingError(f"{self.name} is not fitted yet", mend="call fit first")
        return self._forest


def _stretches(rows: Dataset) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64], Float64]]:
    """Yield rows of a symbol between which every base bar is shown: their positions, places, and the bars' closes."""
    if rows.windows is None:
        raise TrainingError("regime: the rows have no windows", mend="build them with from_frames")
    store, newest = rows.windows.bars[0], rows.windows.at[:, 1]
    for code in np.unique(rows.symbol_code):
        own = np.flatnonzero(rows.symbol_code == code)
        own = own[np.argsort(newest[own], kind="stable")]
        for index in np.split(own, 1 + np.flatnonzero(np.diff(newest[own]) > CHART_BARS)):
            begin = int(newest[index[0]]) - (CHART_BARS - 1)
            close = store[begin : int(newest[index[-1]]) + 1, 3]
            if not (np.isfinite(close) & (close > 0)).all():
                raise TrainingError(
                    f"regime: {rows.symbols[code]} has closes that are not positive numbers", mend="check its bars"
                )
            yield index, newest[index] - begin, close
