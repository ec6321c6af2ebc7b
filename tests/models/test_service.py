import numpy as np
import pytest

from fx_dagster.errors import FeatureMismatchError, ModelUnavailableError
from fx_dagster.models.answer import EXTRAS
from fx_dagster.models.graph import GRAPH, outputs_of
from fx_dagster.models.service import ModelCallError, UnavailableReason, require_same_features, validated

MODELS = ("xgboost", "random_forest")
GOOD = np.array([[0.25], [0.5], [1.0]], dtype=np.float32)
BROKEN = np.full((3, 1), np.nan, dtype=np.float32)
ALL = outputs_of(GRAPH)
DIRECTIONS = ("xgboost", "random_forest", "lstm", "cnn", "meta")


def whole() -> dict[str, np.ndarray]:
    """Return a good answer of every tensor for three rows."""
    said = dict.fromkeys(ALL, GOOD)
    regime = np.array([[0.1, 0.7, 0.1, 0.1], [0.4, 0.2, 0.2, 0.2], [0.0, 0.0, 0.0, 1.0]], dtype=np.float32)
    returns = np.array([[-0.02], [0.0], [3.0]], dtype=np.float32)
    wide = np.tile(GOOD, (1, 3))
    return {
        **said,
        "regime": regime,
        "expected_return": returns,
        "size": 1.5 * GOOD,
        "timing": np.column_stack([GOOD, 1 - GOOD, GOOD / 2]),
        "patterns": wide,
        "attention_weights": wide,
    }


def test_good_columns_stand() -> None:
    found = validated({"p_up_xgboost": GOOD, "p_up_random_forest": GOOD[:, 0]}, MODELS, 3)
    assert found.p_up.tolist() == [[0.25, 0.25], [0.5, 0.5], [1.0, 1.0]]
    assert found.discarded == ()
    assert found.extras.shape == (3, len(EXTRAS))
    assert np.isnan(found.extras).all()


def test_a_whole_answer_fills_every_column() -> None:
    found = validated(whole(), DIRECTIONS, 3, ALL)
    extras = dict(zip(EXTRAS, found.extras.T.tolist(), strict=True))
    assert found.p_up.shape == (3, 5)
    assert found.discarded == ()
    assert extras["regime"] == [2.0, 1.0, 4.0]
    assert extras["attention"] == [-0.5, 0.0, 1.0]
    assert extras["confidence"] == [0.25, 0.5, 1.0]
    assert extras["size"] == [0.375, 0.75, 1.5]
    assert [extras["enter"][0], extras["exit_long"][0], extras["exit_short"][0]] == [0.25, 0.75, 0.125]
    assert set(found.explained) == {"regime", "expected_return", "prophet_return", "patterns", "attention_weights"}
    assert found.explained["patterns"].shape == (3, 3)
    assert found.explained["patterns"].dtype == np.float64


@pytest.mark.parametrize(
    "output",
    [
        np.array([[0.2], [np.nan], [0.4]], dtype=np.float32),
        np.array([[0.2], [np.inf], [-np.inf]], dtype=np.float32),
        np.array([[0.2], [1.01], [0.4]], dtype=np.float32),
        np.array([[-0.01], [0.2], [0.4]], dtype=np.float32),
        np.array([[0.2], [0.4]], dtype=np.float32),
        np.full((3, 2), 0.5, dtype=np.float32),
        np.empty((3, 0), dtype=np.float32),
        np.array([[0], [1], [1]], dtype=np.int64),
        np.float32(0.5),
        None,
    ],
)
def test_a_bad_model_loses_its_column_and_no_other(output: np.ndarray | None) -> None:
    found = validated({"p_up_xgboost": output, "p_up_random_forest": GOOD}, MODELS, 3)
    assert np.isnan(found.p_up[:, 0]).all()
    assert found.p_up[:, 1].tolist() == [0.25, 0.5, 1.0]
    assert found.discarded == ("p_up_xgboost",)


@pytest.mark.parametrize(
    ("name", "output", "columns"),
    [
        ("confidence", GOOD + np.float32(0.5), ("confidence",)),
        ("size", 2 * GOOD, ("size",)),
        ("timing", np.full((3, 3), -0.1), ("enter", "exit_long", "exit_short")),
        ("timing", np.full((3, 2), 0.1), ("enter", "exit_long", "exit_short")),
        ("regime", np.full((3, 4), np.nan), ("regime",)),
        ("p_up_attention", BROKEN, ("attention",)),
        ("expected_return", np.full((3, 1), np.inf), ()),
        ("patterns", 1 + np.tile(GOOD, (1, 3)), ()),
    ],
)
def test_a_bad_output_is_named_and_all_else_stands(name: str, output: np.ndarray, columns: tuple[str, ...]) -> None:
    good, found = validated(whole(), DIRECTIONS, 3, ALL), validated({**whole(), name: output}, DIRECTIONS, 3, ALL)
    assert found.discarded == (name,)
    assert np.array_equal(found.p_up, good.p_up)
    lost = [EXTRAS[place] for place in range(len(EXTRAS)) if np.isnan(found.extras[:, place]).all()]
    assert tuple(lost) == columns
    assert np.isnan(found.extras).sum() == 3 * len(columns)
    assert name not in found.explained


def test_what_a_release_does_not_have_is_absent_but_not_discarded() -> None:
    names = outputs_of(("xgboost", "random_forest", "regime"))
    found = validated(whole(), MODELS, 3, names)
    assert found.discarded == ()
    assert [name for name, column in zip(EXTRAS, found.extras.T, strict=True) if np.isfinite(column).all()] == [
        "regime"
    ]


def test_deep_models_alone_are_no_answer() -> None:
    with pytest.raises(ModelCallError, match="no usable probability from xgboost, random_forest for 3 rows") as caught:
        validated({**whole(), "p_up_xgboost": BROKEN, "p_up_random_forest": BROKEN}, DIRECTIONS, 3, ALL)
    assert caught.value.reason is UnavailableReason.BAD_ANSWER
    assert isinstance(caught.value, ModelUnavailableError)


def test_no_rows_are_an_answer() -> None:
    found = validated({name: np.empty((0, 1), np.float32) for name in ALL}, DIRECTIONS, 0, ALL)
    assert (found.p_up.shape, found.extras.shape) == ((0, 5), (0, len(EXTRAS)))


def test_other_features_are_refused_and_the_first_difference_is_named() -> None:
    require_same_features(release=3, trained_hash="a", live_hash="a")
    with pytest.raises(FeatureMismatchError, match=r"release 3 .* first difference: 'rsi' in the release, 'macd' here"):
        require_same_features(
            release=3, trained_hash="a", live_hash="b", trained_names=("atr", "rsi"), live_names=("atr", "macd")
        )
