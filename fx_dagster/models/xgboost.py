"""Gradient-boosted trees (XGBoost, histogram method)."""

from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from fx_dagster.errors import TrainingError
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.protocol import INPUT_NAME, OUTPUT_NAME, Answers, Float64, ModelCard, ModelSpec
from fx_dagster.models.rows import require_trainable

PARAMETERS: dict[str, Any] = {
    # Shallow, slow and heavily regularised: the signal in price bars is weak beside the noise.
    "n_estimators": 200,
    "max_depth": 4,
    "learning_rate": 0.03,
    "subsample": 0.5,
    "colsample_bytree": 0.5,
    "min_child_weight": 50,
    "reg_lambda": 10.0,
    "max_bin": 64,
}
"""The same for every data set, unless ``ModelSpec.parameters`` says otherwise: never tuned on what is reported."""


class XGBoostModel:
    """p(up) from boosted trees.

    Raises:
        TrainingError: the specification names a parameter that is not among ``PARAMETERS``.
    """

    name = "xgboost"
    inputs = (INPUT_NAME,)
    outputs: ClassVar = MappingProxyType({OUTPUT_NAME: 1})

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._parameters = spec.parameters_of(self.name, PARAMETERS)
        self._booster: Any = None
        self._rows = 0
        self._up_share = 0.0

    def fit(self, rows: Dataset, sample_weight: Float64 | None = None) -> Self:
        """Fit on the features of training rows.

        Raises:
            TrainingError: see :func:`fx_dagster.models.rows.require_trainable`.
        """
        import xgboost

        require_trainable(self.name, rows.X, rows.y, sample_weight, self.spec)
        classifier = xgboost.XGBClassifier(
            **self._parameters,
            objective="binary:logistic",
            tree_method="hist",
            # Given, not estimated: the graph then holds exactly this prior.
            base_score=0.5,
            random_state=self.spec.seed,
            n_jobs=self.spec.jobs,
        )
        self._booster = classifier.fit(rows.X, rows.y, sample_weight=sample_weight)
        self._rows, self._up_share = len(rows), float(np.mean(rows.y))
        return self

    def predict(self, rows: Dataset) -> Answers:
        """Return ``p_up`` float64 ``[n, 1]``."""
        return {OUTPUT_NAME: np.asarray(self._fitted().predict_proba(rows.X)[:, 1:], dtype=np.float64)}

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the total gain; sums to 1."""
        gains = np.asarray(self._fitted().feature_importances_, dtype=np.float64)
        total = gains.sum()
        shares = gains / total if total > 0 else np.full(len(gains), 1 / len(gains))
        return dict(zip(self.spec.feature_names, shares.tolist(), strict=True))

    def to_onnx(self) -> bytes:
        """Return the ONNX graph; see :mod:`fx_dagster.models.onnx_export`."""
        from onnxmltools import convert_xgboost
        from onnxmltools.convert.common.data_types import FloatTensorType

        from fx_dagster.models.onnx_export import TARGET_OPSET, finished

        inputs = [(INPUT_NAME, FloatTensorType([None, len(self.spec.feature_names)]))]
        converted = convert_xgboost(self._fitted(), initial_types=inputs, target_opset=TARGET_OPSET)
        return finished(converted, "probabilities", self.name, self.spec)

    def card(self) -> ModelCard:
        """Return the description of the fitted model."""
        import xgboost

        return ModelCard(
            name=self.name,
            feature_names=self.spec.feature_names,
            feature_hash=self.spec.feature_hash,
            rows=self._rows,
            up_share=self._up_share,
            seed=self.spec.seed,
            parameters=self._parameters,
            importance=self.importance(),
            libraries={"xgboost": xgboost.__version__},
        )

    def _fitted(self) -> Any:
        if self._booster is None:
            raise TrainingError(f"{self.name} is not fitted yet", mend="call fit first")
        return self._booster
