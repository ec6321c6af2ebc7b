import numpy as np
import pytest

from fx_dagster.errors import FeatureMismatchError, ModelUnavailableError
from fx_dagster.models.service import ModelCallError, UnavailableReason, require_same_features, validated

MODELS = ("xgboost", "random_forest")
GOOD = np.array([[0.25], [0.5], [1.0]], dtype=np.float32)


def test_good_columns_stand() -> None:
    p_up, discarded = validated({"xgboost": GOOD, "random_forest": GOOD[:, 0]}, MODELS, 3)
    assert p_up.tolist() == [[0.25, 0.25], [0.5, 0.5], [1.0, 1.0]]
    assert discarded == (0, 0)


@pytest.mark.parametrize(
    ("output", "bad"),
    [
        (np.array([[0.2], [np.nan], [0.4]], dtype=np.float32), 1),
        (np.array([[0.2], [np.inf], [-np.inf]], dtype=np.float32), 2),
        (np.array([[0.2], [1.01], [0.4]], dtype=np.float32), 1),
        (np.array([[-0.01], [0.2], [0.4]], dtype=np.float32), 1),
        (np.array([[0.2], [0.4]], dtype=np.float32), 3),
        (np.array([[0], [1], [1]], dtype=np.int64), 3),
        (None, 3),
    ],
)
def test_a_bad_model_loses_its_column_and_no_other(output: np.ndarray | None, bad: int) -> None:
    p_up, discarded = validated({"xgboost": output, "random_forest": GOOD}, MODELS, 3)
    assert np.isnan(p_up[:, 0]).all()
    assert p_up[:, 1].tolist() == [0.25, 0.5, 1.0]
    assert discarded == (bad, 0)


def test_no_usable_model_is_an_error_with_its_reason() -> None:
    broken = np.full((3, 1), np.nan, dtype=np.float32)
    with pytest.raises(ModelCallError, match="no usable probability") as caught:
        validated({"xgboost": broken, "random_forest": broken}, MODELS, 3)
    assert caught.value.reason is UnavailableReason.BAD_ANSWER
    assert isinstance(caught.value, ModelUnavailableError)


def test_other_features_are_refused_and_the_first_difference_is_named() -> None:
    require_same_features(release=3, trained_hash="a", live_hash="a")
    with pytest.raises(FeatureMismatchError, match=r"release 3 .* first difference: 'rsi' in the release, 'macd' here"):
        require_same_features(
            release=3, trained_hash="a", live_hash="b", trained_names=("atr", "rsi"), live_names=("atr", "macd")
        )
