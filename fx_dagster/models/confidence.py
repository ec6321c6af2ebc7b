"""Confidence: the calibrated probability that the combined signal's direction is right.

The signal is the meta model's p(up) against 1/2. A logistic regression tells from what is known beside it whether it
will be right: how strong it is, whether the base models agree, the regime, and a few features of the moment. Every
coefficient is drawn towards 0 by a normal prior as wide as such things are worth in markets (:data:`COLUMN_DEVIATION`:
1.25 points of accuracy a standard deviation), and the likelihood counts only labels that do not overlap. So confidence
is 1/2 where there is no evidence, and leaves it as evidence grows.

Whether Platt's calibration (1999) follows is decided on the last part of the training rows, which the regression and
Platt's line were not fitted on: it does if the expected calibration error there is larger than chance makes it, and
Platt's line lowers it by :data:`PLATT_GAIN_MIN`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.answer import BASE_MODELS, META, REGIMES
from fx_dagster.models.calibration import (
    calibration_of,
    expected_calibration_error,
    fit_logistic,
    fit_platt,
    logit,
    sigmoid,
)
from fx_dagster.models.canary import independent_labels
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.meta import logit_nodes
from fx_dagster.models.protocol import INPUT_NAME, Answers, Float64, Int8, ModelCard, ModelSpec
from fx_dagster.models.stack import STACKED, StackedRows, require_stackable, require_stacked

CONFIDENCE: Final = "confidence"
META_TENSOR: Final = f"p_up_{META}"
SEEN_FEATURES: Final = ("volatility_percentile", "volatility_ratio", "spread_atr", "hour_sin", "hour_cos")
"""Features that are looked at, where the catalogue has them."""
STRENGTH_DEVIATION: Final = 0.5
"""Prior deviation of the coefficient of the signal's own logit; 1 would take the meta model at its word."""
COLUMN_DEVIATION: Final = 0.05
"""That of every other column, in standard deviations of the column."""
LEVEL_DEVIATION: Final = 0.1
"""That of the intercept."""
SEEN_MAX: Final = 5.0
"""Where a standardised column is clipped."""
PLATT_GAIN_MIN: Final = 0.005
SPLITS: Final = (0.6, 0.8)
"""Shares of the times at which the parts of the decision for or against Platt's calibration end."""
SCALE_MIN: Final = 1e-6

PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "strength_deviation": STRENGTH_DEVIATION,
        "column_deviation": COLUMN_DEVIATION,
        "level_deviation": LEVEL_DEVIATION,
        "platt_gain_min": PLATT_GAIN_MIN,
    }
)
"""The same for every data set, unless ``ModelSpec.parameters`` says otherwise: never tuned on what is reported."""


@dataclass(frozen=True)
class _Fitted:
    """A fitted confidence: standardisation of the columns, and the coefficients on them, the intercept last."""

    mean: Float64
    scale: Float64
    coefficients: Float64
    platt: tuple[float, float] = (1.0, 0.0)

    def scores(self, columns: Float64) -> Float64:
        """Return the logit of the confidence before Platt's line, ``[n]``."""
        seen = np.clip((columns - self.mean) / self.scale, -SEEN_MAX, SEEN_MAX)
        return np.asarray(seen @ self.coefficients[:-1] + self.coefficients[-1], dtype=np.float64)

    def confidence(self, columns: Float64) -> Float64:
        """Return the confidence, ``[n]``."""
        slope, intercept = self.platt
        return sigmoid(slope * self.scores(columns) + intercept)


def is_right(rows: StackedRows) -> Int8:
    """Return 1 where the meta model's direction came true, int8 ``[n]``; p(up) of exactly 1/2 counts as down.

    Raises:
        TrainingError: nothing is known of the meta model.
    """
    stacked = require_stacked(CONFIDENCE, rows, meta=True)
    if stacked.meta is None:  # for the type checker: required above
        raise TrainingError("no meta model", mend="train it first")
    return np.asarray((stacked.meta.astype(np.float32) > 0.5) == (stacked.y == 1), dtype=np.int8)


class ConfidenceModel:
    """The probability that the meta model's direction is right.

    Raises:
        TrainingError: the specification names a parameter that is not among ``PARAMETERS``.
    """

    name = CONFIDENCE
    outputs: ClassVar = MappingProxyType({CONFIDENCE: 1})

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._parameters = spec.parameters_of(self.name, PARAMETERS)
        self._features = tuple(name for name in SEEN_FEATURES if name in spec.feature_names)
        self.inputs = (*STACKED, META_TENSOR, *((INPUT_NAME,) if self._features else ()))
        self._model: _Fitted | None = None
        self._decision: dict[str, Any] = {}
        self._importance: dict[str, float] = {}
        self._rows = 0
        self._evidence = 0.0
        self._right_share = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what it looks at, in order."""
        return ("strength", "agreement", "dispersion", *(f"regime_{name}" for name in REGIMES), *self._features)

    def fit(self, rows: Dataset, sample_weight: Float64 | None = None) -> Self:
        """Fit on :class:`fx_dagster.models.stack.StackedRows` whose answers, the meta model's too, are out of fold.

        Raises:
            TrainingError: other rows, fewer than ``spec.rows_min``, an answer or feature that is not finite, or a
                signal that is always right or always wrong.
        """
        right = is_right(require_stacked(self.name, rows, meta=True))
        stacked = require_stackable(self.name, rows, right, self.spec, meta=True)
        columns = self._columns(stacked)
        usable: list[bool] = [bool(np.isfinite(column).all()) for column in columns.T]
        broken = [name for name, good in zip(self.columns, usable, strict=True) if not good]
        if broken:
            raise TrainingError(
                f"{self.name}: NaN or infinite values in {', '.join(broken)}",
                mend="the feature checks show the rows; leave warm-up rows out",
            )
        platt = self._decided(stacked, columns, right, sample_weight)
        fitted = self._regression(stacked, columns, right, sample_weight)
        self._model = _Fitted(fitted.mean, fitted.scale, fitted.coefficients, platt)
        self._rows, self._right_share = len(stacked), float(np.mean(right))
        self._evidence = _evidence(stacked)
        seen = (columns - fitted.mean) / fitted.scale
        moved = np.abs(seen * fitted.coefficients[:-1]).mean(axis=0)
        shares = moved / moved.sum() if moved.sum() > 0 else np.full(len(moved), 1.0 / len(moved))
        self._importance = dict(zip(self.columns, shares.tolist(), strict=True))
        return self

    def predict(self, rows: Dataset) -> Answers:
        """Return ``confidence`` float64 ``[n, 1]``, in [0, 1].

        Raises:
            TrainingError: not fitted, or nothing was said of the rows.
        """
        columns = self._columns(require_stacked(self.name, rows, meta=True))
        return {CONFIDENCE: self._fitted().confidence(columns)[:, None]}

    def importance(self) -> dict[str, float]:
        """Return how much each column moves the logit on average, as shares that sum to 1."""
        self._fitted()
        return dict(self._importance)

    def to_onnx(self) -> bytes:
        """Return the ONNX graph from :attr:`inputs` to ``confidence`` float32 ``[N, 1]``."""
        from onnx import TensorProto, helper

        from fx_dagster.models.onnx_export import TARGET_OPSET, labelled

        fitted = self._fitted()
        slope, intercept = fitted.platt
        nodes, constants, places = self._column_nodes()
        constants |= {
            "mean": fitted.mean,
            "scale": fitted.scale,
            "seen_least": -SEEN_MAX,
            "seen_most": SEEN_MAX,
            "coefficients": slope * fitted.coefficients[:-1, None],
            "level": slope * fitted.coefficients[-1:] + intercept,
        }
        nodes += [
            helper.make_node("Sub", ["columns", "mean"], ["centred"], name="centre"),
            helper.make_node("Div", ["centred", "scale"], ["standardised"], name="standardise"),
            helper.make_node("Clip", ["standardised", "seen_least", "seen_most"], ["seen_clipped"], name="clip"),
            # An operator that clips may take a NaN for a bound; this is NaN where one was, and 0 elsewhere.
            helper.make_node("Mul", ["standardised", "zero"], ["nothing"], name="keep_nan"),
            helper.make_node("Add", ["seen_clipped", "nothing"], ["seen"], name="whole"),
            helper.make_node("Gemm", ["seen", "coefficients", "level"], ["score"], name="weigh"),
            helper.make_node("Sigmoid", ["score"], [CONFIDENCE], name="probability"),
        ]
        widths = dict.fromkeys(self.inputs, 1) | {"regime": len(REGIMES), INPUT_NAME: len(self.spec.feature_names)}
        floats = [
            helper.make_tensor(name, TensorProto.FLOAT, np.shape(values), np.ravel(values).astype(np.float32))
            for name, values in constants.items()
        ]
        integers = [
            helper.make_tensor(name, TensorProto.INT64, [len(values)], values) for name, values in places.items()
        ]
        graph = helper.make_graph(
            nodes,
            self.name,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", widths[name]]) for name in self.inputs],
            [helper.make_tensor_value_info(CONFIDENCE, TensorProto.FLOAT, ["N", 1])],
            [*floats, *integers],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", TARGET_OPSET)], ir_version=8)
        return labelled(model, self.name, self.spec)

    def card(self) -> ModelCard:
        """Return the description of the fitted model; ``up_share`` is the share of rows whose signal was right."""
        import scipy

        fitted = self._fitted()
        names = (*self.columns, "level")
        return ModelCard(
            name=self.name,
            feature_names=self.spec.feature_names,
            feature_hash=self.spec.feature_hash,
            rows=self._rows,
            up_share=self._right_share,
            seed=self.spec.seed,
            parameters={
                **self._parameters,
                "independent_rows": self._evidence,
                "coefficients": dict(zip(names, fitted.coefficients.tolist(), strict=True)),
                "platt": self._decision,
            },
            importance=self.importance(),
            libraries={"scipy": scipy.__version__},
        )

    def _columns(self, rows: StackedRows) -> Float64:
        """Return what it looks at, float64 ``[n, K]``, of what the graph is given: float32."""
        said = rows.said.astype(np.float32)
        meta = np.zeros(len(rows), np.float32) if rows.meta is None else rows.meta.astype(np.float32)
        logits = logit(said)
        same_side = np.sign(said - np.float32(0.5)) * np.sign(meta - np.float32(0.5))[:, None]
        places = [self.spec.feature_names.index(name) for name in self._features]
        return np.column_stack(
            [
                np.abs(logit(meta)),
                same_side.mean(axis=1, dtype=np.float64),
                np.abs(logits - logits.mean(axis=1, keepdims=True)).mean(axis=1),
                rows.regime.astype(np.float32),
                rows.X[:, places],
            ]
        ).astype(np.float64)

    def _column_nodes(self) -> tuple[list[Any], dict[str, Any], dict[str, list[int]]]:
        """Return the nodes that make ``columns`` float32 ``[N, K]``, their constants and their whole numbers."""
        from onnx import helper

        def node(kind: str, taken: list[str], given: str, **attributes: Any) -> Any:
            return helper.make_node(kind, taken, [given], name=f"make_{given}", **attributes)

        base, base_constants = logit_nodes([f"p_up_{name}" for name in BASE_MODELS], "base")
        own, _ = logit_nodes([META_TENSOR], "signal")
        nodes = [
            *base, *own,
            node("Abs", ["signal"], "strength"),
            node("Sub", ["base_p", "half"], "base_lean"),
            node("Sub", ["signal_p", "half"], "signal_lean"),
            node("Sign", ["base_lean"], "base_side"),
            node("Sign", ["signal_lean"], "signal_side"),
            node("Mul", ["base_side", "signal_side"], "same_side"),
            node("ReduceMean", ["same_side"], "agreement", axes=[1], keepdims=1),
            node("ReduceMean", ["base"], "base_mean", axes=[1], keepdims=1),
            node("Sub", ["base", "base_mean"], "base_apart"),
            node("Abs", ["base_apart"], "base_distance"),
            node("ReduceMean", ["base_distance"], "dispersion", axes=[1], keepdims=1),
        ]  # fmt: skip
        parts, places = ["strength", "agreement", "dispersion", "regime"], {}
        if self._features:
            places["feature_places"] = [self.spec.feature_names.index(name) for name in self._features]
            nodes.append(node("Gather", [INPUT_NAME, "feature_places"], "moment", axis=1))
            parts.append("moment")
        nodes.append(node("Concat", parts, "columns", axis=1))
        return nodes, {**base_constants, "half": 0.5}, places

    def _regression(self, rows: StackedRows, columns: Float64, right: Int8, weight: Float64 | None) -> _Fitted:
        """Fit the regression; the strength of the signal is left in its own unit, the logit."""
        spread = columns.std(axis=0)
        mean, scale = columns.mean(axis=0), np.where(spread > SCALE_MIN, spread, 1.0)
        mean[0], scale[0] = 0.0, 1.0
        mean, scale = (values.astype(np.float32).astype(np.float64) for values in (mean, scale))
        seen = np.clip((columns - mean) / scale, -SEEN_MAX, SEEN_MAX)
        deviations = np.full(columns.shape[1] + 1, self._parameters["column_deviation"])
        deviations[0], deviations[-1] = self._parameters["strength_deviation"], self._parameters["level_deviation"]
        found = fit_logistic(
            np.column_stack([seen, np.ones(len(seen))]),
            right,
            prior=np.zeros(len(deviations)),
            precision=deviations**-2,
            evidence=_evidence(rows),
            weight=weight,
        )
        return _Fitted(mean, scale, found)

    def _decided(self, rows: StackedRows, columns: Float64, right: Int8, weight: Float64 | None) -> tuple[float, float]:
        """Return Platt's slope and intercept, or 1 and 0 where they do not lower the error on the last part."""
        first, second, third = _parts(rows)
        self._decision = {"chosen": False}
        if min(len(first), len(second), len(third)) < 2 or len(np.unique(right[first])) < 2:
            return 1.0, 0.0
        own = None if weight is None else weight[first]
        early = self._regression(rows.take(first), columns[first], right[first], own)
        slope, intercept = fit_platt(
            right[second], early.scores(columns[second]), evidence=_evidence(rows.take(second))
        )
        scores, last = early.scores(columns[third]), rows.take(third)
        plain = calibration_of(right[third], sigmoid(scores), last.time, last.end_time, seed=self.spec.seed)
        after = expected_calibration_error(right[third], sigmoid(slope * scores + intercept))
        chosen = not plain.calibrated and plain.error - after >= self._parameters["platt_gain_min"]
        self._decision = {
            "chosen": chosen, "slope": slope, "intercept": intercept, "error_without": plain.error,
            "error_by_chance": plain.error_by_chance, "error_with": after, "rows": len(third),
        }  # fmt: skip
        return (slope, intercept) if chosen else (1.0, 0.0)

    def _fitted(self) -> _Fitted:
        if self._model is None:
            raise TrainingError(f"{self.name} is not fitted yet", mend="call fit first")
        return self._model


def _evidence(rows: StackedRows) -> float:
    return float(min(independent_labels(rows), len(rows)))


def _parts(rows: StackedRows) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return three parts of the rows in time; a part's labels are known before the next one begins."""
    times = np.unique(rows.time)
    edges = [int(times[int(share * len(times))]) for share in SPLITS]
    first = rows.end_time <= edges[0]
    second = (rows.time >= edges[0]) & (rows.end_time <= edges[1])
    return np.flatnonzero(first), np.flatnonzero(second), np.flatnonzero(rows.time >= edges[1])
