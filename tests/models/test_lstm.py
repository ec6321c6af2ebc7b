"""The price forecast: finds what is planted, says the same as its graph, looks at training rows only."""

from dataclasses import replace

import numpy as np
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import SEQUENCE_CHANNELS
from fx_dagster.models.canary import looks_elsewhere
from fx_dagster.models.lstm import LstmModel
from fx_dagster.models.onnx_export import PARITY_MAX, onnx_answers, onnx_parity

QUICK = {"epochs_max": 2, "hidden": 16, "learning_rate": 8e-3}


def _model(spec, **parameters):
    return LstmModel(spec, {**QUICK, **parameters})


@pytest.fixture(scope="module")
def fitted(dataset) -> LstmModel:
    return _model(dataset.spec(seed=7, threads=1), epochs_max=4).fit(dataset)


@pytest.fixture(scope="module")
def small(make_dataset):
    return make_dataset(600, symbols=1)


@pytest.fixture(scope="module")
def graph(fitted) -> bytes:
    return fitted.to_onnx()


def test_it_finds_the_planted_signal_in_later_rows(dataset):
    train, test = np.arange(1_800), np.arange(1_850, 2_400)
    model = LstmModel(dataset.spec(seed=7, threads=1), {"epochs_max": 4, "hidden": 16}).fit(dataset.take(train))
    said = model.predict(dataset.take(test))
    signal = dataset.X[test, 0]
    assert np.corrcoef(said["p_up"][:, 0], signal)[0, 1] > 0.5
    assert np.corrcoef(said["expected_return"][:, 0], signal)[0, 1] > 0.5
    assert max(model.importance(), key=model.importance().get) == SEQUENCE_CHANNELS[0]


def test_answers_have_the_promised_form(fitted, dataset):
    said = fitted.predict(dataset)
    assert list(said) == list(fitted.outputs) == ["p_up", "expected_return", "prophet_return"]
    for name, values in said.items():
        assert values.dtype == np.float64
        assert values.shape == (len(dataset), fitted.outputs[name])
        assert np.isfinite(values).all()
    assert ((said["p_up"] > 0) & (said["p_up"] < 1)).all()
    assert fitted.predict(dataset.take(np.arange(0)))["p_up"].shape == (0, 1)


def test_prophet_finds_little_in_a_random_walk(fitted, dataset):
    said = fitted.predict(dataset)["prophet_return"]
    assert 0 < np.abs(said).mean() < 0.5 * dataset.forward_return.std()


@pytest.mark.parametrize("count", [1, 300])
def test_the_graph_says_what_the_model_says(fitted, graph, dataset, count):
    rows = dataset.take(np.arange(count))
    assert onnx_parity(fitted, rows, content=graph) <= PARITY_MAX
    said, expected = onnx_answers(graph, rows.tensors()), fitted.predict(rows)
    for name in ("expected_return", "prophet_return"):
        np.testing.assert_allclose(said[name], expected[name], rtol=0, atol=1e-9)


def test_a_symbol_that_is_not_known_gets_the_mean_scale_and_no_season(fitted, graph, dataset):
    rows = dataset.take(np.arange(64))
    unknown = rows.inputs().with_symbol(np.full(64, -1))
    said = onnx_answers(graph, unknown.tensors())
    assert (said["prophet_return"] == 0.0).all()
    expected = fitted.predict(replace(rows, symbol_code=np.full(64, -1, np.int16)))
    for name, values in expected.items():
        np.testing.assert_allclose(said[name], values, atol=1e-6)


def test_the_same_seed_gives_the_same_model(small):
    first, again, other = (_model(small.spec(seed=seed)).fit(small) for seed in (7, 7, 8))
    assert np.abs(first.predict(small)["p_up"] - other.predict(small)["p_up"]).max() > 0
    assert first.to_onnx() == again.to_onnx()
    assert first.card().to_dict() == again.card().to_dict()


def test_it_looks_at_training_rows_only(small):
    split = (np.arange(520), np.arange(530, 600))
    assert looks_elsewhere(_model, small.spec(seed=7), small, split) == 0.0


def test_the_card_tells_what_was_fitted(fitted, dataset):
    card = fitted.card()
    assert (card.name, card.rows, card.up_share) == ("lstm", len(dataset), pytest.approx(dataset.y.mean()))
    assert set(card.importance) == {*SEQUENCE_CHANNELS, "prophet_return"}
    assert sum(card.importance.values()) == pytest.approx(1.0)
    assert set(card.libraries) == {"torch", "prophet"}
    assert card.parameters["fit"]["rows_fitted"] < len(dataset)


def _spoiled_sequence(rows):
    channels = rows.windows.channels.copy()
    channels[rows.windows.at[7, 0], 2] = np.nan
    return replace(rows, windows=replace(rows.windows, channels=channels))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows.take(np.arange(400)), "400 training rows, 500 are needed"),
        (lambda rows: rows.with_labels(np.ones(len(rows), np.int8)), "both 0 and 1"),
        (lambda rows: replace(rows, windows=None), "no windows for a sequence"),
        (_spoiled_sequence, "NaN or infinite values in the sequence"),
        (lambda rows: replace(rows, forward_return=rows.forward_return * np.nan), "forward returns are not finite"),
        (lambda rows: replace(rows, X=rows.X * np.nan), "NaN or infinite values in signal"),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused(dataset, change, told):
    with pytest.raises(TrainingError, match=f"lstm: .*{told}"):
        LstmModel(dataset.spec(seed=7, threads=1)).fit(change(dataset))


def test_a_loss_that_is_not_finite_is_refused(dataset):
    with pytest.raises(TrainingError, match="lstm: the loss is not finite"):
        _model(dataset.spec(seed=7, threads=1), return_weight=float("inf")).fit(dataset.take(np.arange(600)))


def test_a_model_that_is_not_fitted_says_so(dataset):
    model = LstmModel(dataset.spec(seed=7))
    for call in (lambda: model.predict(dataset), model.to_onnx, model.card, model.importance):
        with pytest.raises(TrainingError, match="lstm is not fitted yet"):
            call()
