"""A random forest of classification trees (scikit-learn)."""

from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from fx_dagster.errors import TrainingError
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.protocol import INPUT_NAME, OUTPUT_NAME, Answers, Float64, ModelCard, ModelSpec
from fx_dagster.models.rows import require_trainable

PARAMETERS: dict[str, Any] = {
    "n_estimators": 120,
    "max_depth": 8,
    "max_features": "sqrt",
    "min_samples_leaf": 60,
}
"""The same for every data set, unless ``ModelSpec.parameters`` says otherwise: never tuned on what is reported."""

SAMPLES_MAX = 30_000
"""Rows drawn for a tree at most: overlapping labels repeat themselves, more rows cost time and add little."""


class RandomForestModel:
    """p(up) from a forest.

    Raises:
        TrainingError: the specification names a parameter that is not among ``PARAMETERS``.
    """

    name = "random_forest"
    inputs = (INPUT_NAME,)
    outputs: ClassVar = MappingProxyType({OUTPUT_NAME: 1})

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._parameters = spec.parameters_of(self.name, PARAMETERS)
        self._forest: Any = None
        self._rows = 0
        self._up_share = 0.0

    def fit(self, rows: Dataset, sample_weight: Float64 | None = None) -> Self:
        """Fit on the features of training rows.

        Raises:
            TrainingError: see :func:`fx_dagster.models.rows.require_trainable`.
        """
        from sklearn.ensemble import RandomForestClassifier

        require_trainable(self.name, rows.X, rows.y, sample_weight, self.spec)
        forest = RandomForestClassifier(
            **self._parameters,
            max_samples=min(len(rows), SAMPLES_MAX),
            random_state=self.spec.seed,
            n_jobs=self.spec.jobs,
        )
        # Threads would add up the trees' answers in any order, and the last bits of an answer with them.
        self._forest = forest.fit(rows.X, rows.y, sample_weight=sample_weight).set_params(n_jobs=1)
        self._rows, self._up_share = len(rows), float(np.mean(rows.y))
        return self

    def predict(self, rows: Dataset) -> Answers:
        """Return ``p_up`` float64 ``[n, 1]``."""
        return {OUTPUT_NAME: np.asarray(self._fitted().predict_proba(rows.X)[:, 1:], dtype=np.float64)}

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the decrease in impurity; sums to 1."""
        shares = np.asarray(self._fitted().feature_importances_, dtype=np.float64)
        if shares.sum() <= 0:
            shares = np.full(len(shares), 1 / len(shares))
        return dict(zip(self.spec.feature_names, shares.tolist(), strict=True))

    def to_onnx(self) -> bytes:
        """Return the ONNX graph; see :mod:`fx_dagster.models.onnx_export`.

        Trees compare float32 features with float64 thresholds; the converter rounds a threshold down where rounding to
        the nearest would move a float32 value to its other side, so that decisions stay the same.
        """
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType

        from fx_dagster.models.onnx_export import TARGET_OPSET, TARGET_OPSET_ML, finished

        forest = self._fitted()
        converted = convert_sklearn(
            forest,
            initial_types=[(INPUT_NAME, FloatTensorType([None, len(self.spec.feature_names)]))],
            options={id(forest): {"zipmap": False}},
            target_opset={"": TARGET_OPSET, "ai.onnx.ml": TARGET_OPSET_ML},
        )
        return finished(converted, "probabilities", self.name, self.spec)

    def card(self) -> ModelCard:
        """Return the description of the fitted model."""
        import sklearn

        return ModelCard(
            name=self.name,
            feature_names=self.spec.feature_names,
            feature_hash=self.spec.feature_hash,
            rows=self._rows,
            up_share=self._up_share,
            seed=self.spec.seed,
            parameters={**self._parameters, "max_samples": min(self._rows, SAMPLES_MAX)},
            importance=self.importance(),
            libraries={"scikit-learn": sklearn.__version__},
        )

    def _fitted(self) -> Any:
        if self._forest is None:
            raise TrainingError(f"{self.name} is not fitted yet", mend="call fit first")
        return self._forest
