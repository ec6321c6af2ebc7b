"""The meta model: stacks what the base models say, with weights of each regime.

In each regime r the logit of a rise is a linear combination of the base models' logits,

    logit p_r = c_r + Σ_i w_ri · logit(p_i),        logit p = Σ_r P(regime r) · logit p_r,

fitted to labels that the base models had not seen (Wolpert, "Stacked generalization", 1992). With few independent
labels the best of all weights is hard to know and equal weights are hard to beat (Stock & Watson 2004); so every
regime's weights are drawn towards ``1/B``, the mean of the logits, by normal priors in three steps:

=====================  ===========================================================  ==============
what                   weight                                                        prior deviation
=====================  ===========================================================  ==============
all models alike       ``s/B`` in every regime, s around 1                           :data:`SCALE_DEVIATION`
one model              ``d_i`` in every regime, around 0                             :data:`MODEL_DEVIATION`
one model in a regime  ``v_ri``, around 0                                            :data:`REGIME_DEVIATION`
intercepts             ``c + b_r``, around 0                                         :data:`DRIFT_DEVIATION`
=====================  ===========================================================  ==============

Labels overlap: the likelihood counts as many rows as there are labels that do not.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import numpy as np

from fx_dagster.errors import TrainingError
from fx_dagster.models.answer import BASE_MODELS, META, REGIMES
from fx_dagster.models.calibration import LOGIT_MAX, fit_logistic, logit, sigmoid
from fx_dagster.models.canary import independent_labels
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.protocol import OUTPUT_NAME, Answers, Float64, ModelCard, ModelSpec
from fx_dagster.models.stack import STACKED, StackedRows, require_stackable, require_stacked

SCALE_DEVIATION: Final = 1.0
MODEL_DEVIATION: Final = 0.3
REGIME_DEVIATION: Final = 0.3
DRIFT_DEVIATION: Final = 0.1

PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "scale_deviation": SCALE_DEVIATION,
        "model_deviation": MODEL_DEVIATION,
        "regime_deviation": REGIME_DEVIATION,
        "drift_deviation": DRIFT_DEVIATION,
    }
)
"""The same for every data set, unless ``ModelSpec.parameters`` says otherwise: never tuned on what is reported."""


class MetaModel:
    """p(up) from the base models' p(up) and the regime's probabilities.

    Raises:
        TrainingError: the specification names a parameter that is not among ``PARAMETERS``.
    """

    name = META
    inputs = STACKED
    outputs: ClassVar = MappingProxyType({OUTPUT_NAME: 1})

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._parameters = spec.parameters_of(self.name, PARAMETERS)
        self._weights: Float64 | None = None  # [regimes, B + 1], the intercept last
        self._importance: dict[str, float] = {}
        self._rows = 0
        self._evidence = 0.0
        self._up_share = 0.0

    def fit(self, rows: Dataset, sample_weight: Float64 | None = None) -> Self:
        """Fit on :class:`fx_dagster.models.stack.StackedRows` whose answers are out of fold.

        Raises:
            TrainingError: other rows, fewer than ``spec.rows_min``, an answer that is no probability, or one class.
        """
        stacked = require_stackable(self.name, rows, rows.y, self.spec)
        said, regime = _seen(stacked)
        self._evidence = float(min(independent_labels(stacked), len(stacked)))
        deviations = self._deviations()
        found = fit_logistic(
            _design(said, regime),
            stacked.y,
            prior=np.eye(1, len(deviations))[0],
            precision=deviations**-2,
            evidence=self._evidence,
            weight=sample_weight,
        )
        # What the graph computes with, so that both do the same.
        self._weights = _by_regime(found).astype(np.float32).astype(np.float64)
        self._rows, self._up_share = len(stacked), float(np.mean(stacked.y))
        moved = np.abs(said * (regime @ self._weights[:, :-1])).mean(axis=0)
        shares = moved / moved.sum() if moved.sum() > 0 else np.full(len(moved), 1.0 / len(moved))
        self._importance = dict(zip(STACKED, shares.tolist(), strict=False))
        return self

    def predict(self, rows: Dataset) -> Answers:
        """Return ``p_up`` float64 ``[n, 1]``.

        Raises:
            TrainingError: not fitted, or nothing was said of the rows.
        """
        said, regime = _seen(require_stacked(self.name, rows))
        weights = self._fitted()
        by_regime = said @ weights[:, :-1].T + weights[:, -1]
        return {OUTPUT_NAME: sigmoid((regime * by_regime).sum(axis=1))[:, None]}

    def importance(self) -> dict[str, float]:
        """Return how much each base model moves the logit on average, as shares that sum to 1, by its tensor."""
        self._fitted()
        return dict(self._importance)

    def to_onnx(self) -> bytes:
        """Return the ONNX graph ``p_up_<model>`` float32 ``[N, 1]`` and ``regime`` ``[N, 4]`` → ``p_up`` ``[N, 1]``."""
        from onnx import TensorProto, helper

        from fx_dagster.models.onnx_export import TARGET_OPSET, labelled

        weights = self._fitted()
        nodes, constants = logit_nodes(list(self.inputs[:-1]), "logits")
        constants |= {"weights": weights[:, :-1].T, "intercepts": weights[:, -1]}
        nodes += [
            helper.make_node("Gemm", ["logits", "weights", "intercepts"], ["by_regime"], name="weigh"),
            helper.make_node("Mul", ["by_regime", "regime"], ["shares"], name="by_probability"),
            helper.make_node("ReduceSum", ["shares", "columns"], ["logit"], name="together", keepdims=1),
            helper.make_node("Sigmoid", ["logit"], [OUTPUT_NAME], name="probability"),
        ]
        taken = dict.fromkeys(self.inputs[:-1], 1) | {self.inputs[-1]: len(REGIMES)}
        floats = [
            helper.make_tensor(name, TensorProto.FLOAT, np.shape(values), np.ravel(values).astype(np.float32))
            for name, values in constants.items()
        ]
        graph = helper.make_graph(
            nodes,
            self.name,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in taken.items()],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", 1])],
            [*floats, helper.make_tensor("columns", TensorProto.INT64, [1], [1])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", TARGET_OPSET)], ir_version=8)
        return labelled(model, self.name, self.spec)

    def card(self) -> ModelCard:
        """Return the description of the fitted model; ``parameters`` has the weights of each regime."""
        import scipy

        weights = self._fitted()
        table = {
            regime: {**dict(zip(BASE_MODELS, row[:-1].tolist(), strict=True)), "intercept": float(row[-1])}
            for regime, row in zip(REGIMES, weights, strict=True)
        }
        return ModelCard(
            name=self.name,
            feature_names=self.spec.feature_names,
            feature_hash=self.spec.feature_hash,
            rows=self._rows,
            up_share=self._up_share,
            seed=self.spec.seed,
            parameters={**self._parameters, "independent_rows": self._evidence, "weights": table},
            importance=self.importance(),
            libraries={"scipy": scipy.__version__},
        )

    def _deviations(self) -> Float64:
        models, regimes, own = len(BASE_MODELS), len(REGIMES), self._parameters
        return np.concatenate(
            [
                [own["scale_deviation"]],
                np.full(models, own["model_deviation"]),
                np.full(models * regimes, own["regime_deviation"]),
                np.full(1 + regimes, own["drift_deviation"]),
            ]
        )

    def _fitted(self) -> Float64:
        if self._weights is None:
            raise TrainingError(f"{self.name} is not fitted yet", mend="call fit first")
        return self._weights


def logit_nodes(probabilities: list[str], name: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the nodes that make ``name`` float32 ``[N, B]`` of B tensors ``[N, 1]``, and their constants.

    The same arithmetic as :func:`fx_dagster.models.calibration.logit`. A NaN among the answers stays one: an operator
    that clips may take it for a bound, so that what was clipped off is put back, which is NaN there and 0 elsewhere.
    """
    from onnx import helper

    least = np.float32(1.0 / (1.0 + np.exp(LOGIT_MAX)))
    nodes = [
        helper.make_node("Concat", probabilities, [f"{name}_p"], name=f"{name}_concat", axis=1),
        helper.make_node("Clip", [f"{name}_p", "p_least", "p_most"], [f"{name}_up"], name=f"{name}_clip"),
        helper.make_node("Sub", ["one", f"{name}_up"], [f"{name}_down"], name=f"{name}_complement"),
        helper.make_node("Log", [f"{name}_up"], [f"{name}_log_up"], name=f"{name}_log"),
        helper.make_node("Log", [f"{name}_down"], [f"{name}_log_down"], name=f"{name}_log_complement"),
        helper.make_node("Sub", [f"{name}_log_up", f"{name}_log_down"], [f"{name}_clipped"], name=f"{name}_logit"),
        helper.make_node("Mul", [f"{name}_p", "zero"], [f"{name}_nothing"], name=f"{name}_keep_nan"),
        helper.make_node("Add", [f"{name}_clipped", f"{name}_nothing"], [name], name=f"{name}_whole"),
    ]
    return nodes, {"p_least": least, "p_most": np.float32(1.0) - least, "one": 1.0, "zero": 0.0}


def _seen(rows: StackedRows) -> tuple[Float64, Float64]:
    """Return logits ``[n, B]`` and regime probabilities ``[n, 4]`` of what the graph is given: float32."""
    return logit(rows.said.astype(np.float32)), rows.regime.astype(np.float32).astype(np.float64)


def _design(said: Float64, regime: Float64) -> Float64:
    """Return the columns of scale, models, models in regimes, and intercepts: ``[n, 1 + B + 4·B + 5]``."""
    each = (regime[:, :, None] * said[:, None, :]).reshape(len(said), -1)
    return np.column_stack([said.mean(axis=1), said, each, np.ones(len(said)), regime])


def _by_regime(found: Float64) -> Float64:
    """Return each regime's weights and, last, its intercept: ``[4, B + 1]``; a regime's probabilities sum to 1."""
    models, regimes = len(BASE_MODELS), len(REGIMES)
    scale, own, each, drift = np.split(found, np.cumsum([1, models, models * regimes]))
    weights = scale / models + own + each.reshape(regimes, models)
    return np.column_stack([weights, drift[0] + drift[1:]])
