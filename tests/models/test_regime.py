"""Regimes: labels that know nothing of the future, a forest that tells them on rows it has not seen, one graph."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import CHART_BARS
from fx_dagster.features.windows import Windows
from fx_dagster.models.answer import REGIMES
from fx_dagster.models.canary import looks_elsewhere
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.onnx_export import PARITY_MAX, onnx_answers, onnx_parity
from fx_dagster.models.regime import (
    BEAR,
    BULL,
    HALF_LIFE_BARS,
    HIGH,
    HIGH_ABOVE,
    LOW,
    LOW_BELOW,
    PAST_BARS,
    TREND_BARS,
    TREND_MIN,
    UNKNOWN,
    RegimeModel,
    mean_duration,
    regime_labels,
    regime_metrics,
    regimes_of,
)

BEFORE = CHART_BARS - 1
HOUR_NS = 3_600_000_000_000


def closes(bars: int, seed: int) -> np.ndarray:
    """Return closes whose volatility and drift come in turns."""
    rng = np.random.default_rng(seed)
    turns = -(-bars // 80)
    volatility = np.repeat(np.exp(rng.normal(0.0, 0.7, turns)), 80)[:bars]
    drift = np.repeat(rng.normal(0.0, 0.15, turns), 80)[:bars]
    return np.exp(1e-3 * np.cumsum(volatility * (drift + rng.standard_normal(bars))))


def told(close: np.ndarray, seed: int) -> np.ndarray:
    """Return features such as a catalogue has: volatility's percentile and ratio, returns, and noise."""
    returns = pd.Series(np.diff(np.log(close), prepend=np.nan))
    short, usual = returns.rolling(24).std(), returns.rolling(240).std()
    rng = np.random.default_rng(seed)
    columns = [short.rolling(250).rank(pct=True), np.log(short / usual)]
    columns += [returns.rolling(lag).sum() / (short * np.sqrt(lag)) for lag in (12, 48)]
    columns += [pd.Series(rng.standard_normal(len(close))) for _ in range(2)]
    return np.nan_to_num(np.column_stack(columns)).astype(np.float32)


def market(bars: int = 1_400, symbols: int = 2, seed: int = 1) -> Dataset:
    prices = [closes(bars, 10 * seed + symbol) for symbol in range(symbols)]
    X = np.concatenate([told(close, seed + 50) [BEFORE:] for seed, close in enumerate(prices)])  # fmt: skip
    count = bars - BEFORE
    code = np.repeat(np.arange(symbols), count).astype(np.int16)
    newest = np.concatenate([symbol * bars + BEFORE + np.arange(count) for symbol in range(symbols)])
    time = 1_483_228_800_000_000_000 + np.tile(np.arange(count), symbols) * HOUR_NS
    store = np.repeat(np.concatenate(prices)[:, None], 5, axis=1)
    rng = np.random.default_rng(seed)
    forward = 1e-3 * rng.standard_normal(len(code))
    rows = Dataset(
        X=X,
        y=(forward > 0).astype(np.int8),
        time=time,
        end_time=time + 4 * HOUR_NS,
        symbol_code=code,
        forward_return=forward,
        cost=np.full(len(code), 1e-4),
        symbols=tuple(f"SIM{number}" for number in range(symbols)),
        feature_names=("volatility_percentile", "volatility_ratio", "return_12", "return_48", "noise_a", "noise_b"),
        feature_hash="0123456789abcdef",
        horizon_bars=4,
        windows=Windows(np.zeros((len(store), 16), np.float32), (store,), np.column_stack([newest, newest])),
    )
    return rows.take(np.lexsort((code, time)))


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return market()


@pytest.fixture(scope="module")
def model(rows: Dataset) -> RegimeModel:
    return RegimeModel(rows.spec(seed=3, threads=1)).fit(rows)


class TestLabels:
    def test_by_hand(self) -> None:
        """The definition, bar by bar and without pandas."""
        close = closes(700, 4)
        labels = regimes_of(close)
        returns = np.diff(np.log(close))
        decay = 0.5 ** (1.0 / HALF_LIFE_BARS)
        track = np.full(len(close), np.nan)
        for bar in range(HALF_LIFE_BARS, len(close)):
            weights = decay ** np.arange(bar)[::-1]
            track[bar] = weights @ returns[:bar] ** 2 / weights.sum()
        for bar in range(HALF_LIFE_BARS + PAST_BARS - 1, len(close), 7):
            past = track[bar - PAST_BARS + 1 : bar + 1]
            percentile = np.mean(past <= track[bar])
            window = returns[bar - TREND_BARS : bar]
            t = np.sqrt(TREND_BARS) * window.mean() / window.std(ddof=1)
            calm = percentile < LOW_BELOW and abs(t) < TREND_MIN
            expected = HIGH if percentile > HIGH_ABOVE else LOW if calm else BULL if t > 0 else BEAR
            assert labels[bar] == expected, bar
        assert (labels[: HALF_LIFE_BARS + PAST_BARS - 1] == UNKNOWN).all()

    def test_every_regime_occurs_and_few_rows_have_none(self, rows: Dataset) -> None:
        labels = regime_labels(rows)
        counts = np.bincount(labels[labels != UNKNOWN], minlength=4)
        assert (counts > 100).all()
        assert np.count_nonzero(labels == UNKNOWN) == 2 * (HALF_LIFE_BARS + PAST_BARS - 1 - BEFORE)

    def test_prices_that_rise_are_bull_that_fall_bear_that_stand_low(self) -> None:
        noise = 1e-4 * np.random.default_rng(1).standard_normal(600)
        for drift, expected in ((3e-4, BULL), (-3e-4, BEAR)):
            labels = regimes_of(np.exp(np.cumsum(drift + noise)))
            assert set(np.unique(labels[labels != UNKNOWN])) <= {expected, HIGH}
        assert set(regimes_of(np.ones(400))[300:]) == {LOW}

    def test_a_burst_is_high_volatility(self) -> None:
        returns = 1e-4 * np.random.default_rng(2).standard_normal(500)
        returns[450:] *= 20
        assert (regimes_of(np.exp(np.cumsum(returns)))[455:] == HIGH).all()

    @settings(deadline=None, max_examples=15)
    @given(cut=st.integers(320, 1_300), seed=st.integers(0, 100))
    def test_nothing_of_the_future_is_known(self, cut: int, seed: int) -> None:
        close = closes(1_400, seed)
        changed = np.concatenate([close[:cut], 100.0 * closes(1_400, seed + 1)[cut:]])
        assert np.array_equal(regimes_of(close)[:cut], regimes_of(changed)[:cut])
        assert np.array_equal(regimes_of(close)[:cut], regimes_of(close[:cut]))

    def test_later_rows_and_other_symbols_change_nothing(self, rows: Dataset) -> None:
        labels = regime_labels(rows)
        assert np.array_equal(regime_labels(rows.take(np.arange(1_500))), labels[:1_500])
        own = np.flatnonzero(rows.symbol_code == 1)
        assert np.array_equal(regime_labels(rows.take(own)), labels[own])
        mixed = np.random.default_rng(1).permutation(len(rows))
        assert np.array_equal(regime_labels(rows.take(mixed)), labels[mixed])

    def test_a_row_left_out_does_not_break_the_past(self, rows: Dataset) -> None:
        every = np.arange(0, len(rows), 20)  # ten bars of each symbol
        assert np.array_equal(regime_labels(rows.take(every)), regime_labels(rows)[every])

    def test_the_past_begins_anew_behind_bars_that_no_row_shows(self, rows: Dataset) -> None:
        apart = np.concatenate([np.arange(1_000), np.arange(1_400, len(rows))])
        labels = regime_labels(rows.take(apart))
        assert np.array_equal(labels[:1_000], regime_labels(rows)[:1_000])
        assert (labels[1_000:1_400] == UNKNOWN).all()

    def test_duration_is_the_mean_run_within_a_symbol(self) -> None:
        regimes = np.array([0, 2, 0, 2, 0, 2, 1, 3], dtype=np.int8)
        code = np.array([0, 1, 0, 1, 0, 1, 0, 1])
        assert mean_duration(regimes, code) == 2.0
        assert mean_duration(regimes[:0], code[:0]) == 0.0


class TestForest:
    def test_tells_regimes_of_rows_that_it_has_not_seen(self, model: RegimeModel) -> None:
        unseen = market(seed=2)
        told = model.predict(unseen)["regime"]
        assert told.shape == (len(unseen), len(REGIMES))
        assert told.sum(axis=1) == pytest.approx(np.ones(len(unseen)))
        found = regime_metrics(regime_labels(unseen), told, unseen.symbol_code)
        assert found.accuracy > found.majority_accuracy + 0.25
        assert found.log_loss < 0.7 * found.base_log_loss
        assert min(found.recall.values()) > 0.4

    def test_importance_sums_to_one_and_ranks_noise_last(self, model: RegimeModel) -> None:
        importance = model.importance()
        assert sum(importance.values()) == pytest.approx(1.0)
        assert set(sorted(importance, key=importance.__getitem__)[:2]) == {"noise_a", "noise_b"}

    def test_the_same_seed_fits_the_same_model(self, rows: Dataset, model: RegimeModel) -> None:
        again = RegimeModel(rows.spec(seed=3, threads=2)).fit(rows)
        assert np.array_equal(again.predict(rows)["regime"], model.predict(rows)["regime"])
        assert again.to_onnx() == model.to_onnx()

    def test_a_fit_looks_at_nothing_but_its_rows(self, rows: Dataset) -> None:
        split = np.arange(1_600), np.arange(1_700, len(rows))
        assert looks_elsewhere(RegimeModel, rows.spec(seed=3, threads=1), rows, split) == 0.0

    def test_a_regime_that_never_occurs_has_probability_zero(self, rows: Dataset) -> None:
        others = np.flatnonzero(regime_labels(rows) != BEAR)
        fitted = RegimeModel(rows.spec(seed=3, threads=1)).fit(rows.take(others))
        assert fitted.card().parameters["labels"]["shares"]["bear"] == 0.0
        some = rows.take(np.arange(100))
        assert (fitted.predict(some)["regime"][:, BEAR] == 0.0).all()
        assert onnx_parity(fitted, some) <= PARITY_MAX
        assert (onnx_answers(fitted.to_onnx(), some.tensors())["regime"][:, BEAR] == 0.0).all()


class TestGraph:
    def test_has_the_fixed_form_and_is_small(self, model: RegimeModel, rows: Dataset) -> None:
        content = model.to_onnx()
        graph = onnx.load_from_string(content)
        shapes = {
            entry.name: [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]
            for entry in (*graph.graph.input, *graph.graph.output)
        }
        assert shapes == {"features": ["N", rows.X.shape[1]], "regime": ["N", 4]}
        assert [node.op_type for node in graph.graph.node] == ["TreeEnsembleClassifier", "MatMul"]
        assert len(content) < 500_000
        assert {entry.key: entry.value for entry in graph.metadata_props}["feature_hash"] == rows.feature_hash
        assert next(entry.version for entry in graph.opset_import if not entry.domain) == 15

    @pytest.mark.parametrize("scale", [1.0, 1e6])
    def test_agrees_with_the_model(self, model: RegimeModel, rows: Dataset, scale: float) -> None:
        assert onnx_parity(model, replace(rows, X=rows.X * np.float32(scale))) <= PARITY_MAX

    def test_card_is_plain_json_and_tells_how_long_a_regime_lasts(self, model: RegimeModel, rows: Dataset) -> None:
        card = json.loads(json.dumps(model.card().to_dict(), allow_nan=False))
        labels = regime_labels(rows)
        assert card["rows"] == np.count_nonzero(labels != UNKNOWN)
        assert sum(card["parameters"]["labels"]["shares"].values()) == pytest.approx(1.0)
        assert 2.0 < card["parameters"]["labels"]["mean_duration_bars"] < 100.0


class TestRefusals:
    def test_no_windows(self, rows: Dataset) -> None:
        with pytest.raises(TrainingError, match="regime: the rows have no windows"):
            RegimeModel(rows.spec(seed=1)).fit(replace(rows, windows=None))

    def test_a_past_that_is_too_short(self, rows: Dataset) -> None:
        with pytest.raises(TrainingError, match="regime: 0 training rows, 100 are needed"):
            RegimeModel(rows.spec(seed=1)).fit(rows.take(np.arange(200)))

    @pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
    def test_a_close_that_is_no_price(self, rows: Dataset, value: float) -> None:
        assert rows.windows is not None
        store = rows.windows.bars[0].copy()
        store[100, 3] = value
        broken = replace(rows, windows=replace(rows.windows, bars=(store,)))
        with pytest.raises(TrainingError, match="SIM0 has closes that are not positive numbers"):
            regime_labels(broken)

    def test_a_constant_feature(self, rows: Dataset) -> None:
        X = rows.X.copy()
        X[:, 4] = 1.0
        with pytest.raises(TrainingError, match="regime: one value only in noise_a"):
            RegimeModel(rows.spec(seed=1)).fit(replace(rows, X=X))

    def test_an_unknown_parameter(self, rows: Dataset) -> None:
        with pytest.raises(TrainingError, match="regime has no parameter trees"):
            RegimeModel(replace(rows.spec(seed=1), parameters={"trees": 3}))

    def test_before_a_fit(self, rows: Dataset) -> None:
        with pytest.raises(TrainingError, match="regime is not fitted yet"):
            RegimeModel(rows.spec(seed=1)).predict(rows)

    def test_nothing_to_judge_by(self) -> None:
        with pytest.raises(TrainingError, match="no row has a regime"):
            regime_metrics(np.full(3, UNKNOWN, np.int8), np.full((3, 4), 0.25), np.zeros(3))
