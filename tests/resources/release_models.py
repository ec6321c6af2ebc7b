"""Models of a whole release, small: two fitted trees, and untrained networks that have the right tensors."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fx_dagster.features.catalogue import CHART_BARS, CHART_ROWS, SEQUENCE_BARS, SEQUENCE_CHANNELS
from fx_dagster.models.answer import BASE_MODELS
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.protocol import Model, ModelArtifact, ModelCard, ModelSpec
from fx_dagster.models.random_forest import RandomForestModel
from fx_dagster.models.release import Canary
from fx_dagster.models.xgboost import XGBoostModel

SYMBOLS = ("EURUSD", "GBPUSD", "XAUUSD")
TIMEFRAMES, PATTERNS, C = 2, 3, len(SEQUENCE_CHANNELS)
START_NS, HOUR_NS = 1_483_228_800_000_000_000, 3_600_000_000_000
NETWORKS = ("lstm", "cnn", "attention", "regime", "meta", "confidence")


def spec(features: int) -> ModelSpec:
    names = tuple(f"feature_{number}" for number in range(features))
    return ModelSpec(names, "c0ffee", seed=1, threads=1, rows_min=100, symbols=SYMBOLS)


def inputs(rows: int, features: int, *, seed: int = 0) -> ModelInputs:
    rng = np.random.default_rng(seed)
    return ModelInputs(
        features=rng.standard_normal((rows, features)).astype(np.float32),
        sequence=rng.standard_normal((rows, SEQUENCE_BARS, C)).astype(np.float32),
        chart=rng.standard_normal((rows, TIMEFRAMES, CHART_ROWS, CHART_BARS)).astype(np.float32),
        time=START_NS + np.arange(rows, dtype=np.int64) * HOUR_NS,
        symbol=np.arange(rows, dtype=np.int64) % len(SYMBOLS),
    )


def simple_canary(rows: Sequence[float], p_up: Sequence[float]) -> Canary:
    """Return a canary of rows with one feature each, without windows, and what xgboost answers."""
    count = len(rows)
    without_windows = ModelInputs(
        features=np.array(rows, dtype=np.float32).reshape(count, 1),
        sequence=np.zeros((count, 0, 0), np.float32),
        chart=np.zeros((count, 0, 0, 0), np.float32),
        time=np.full(count, START_NS, dtype=np.int64),
        symbol=np.zeros(count, dtype=np.int64),
    )
    return Canary.of(without_windows, {"p_up_xgboost": np.array(p_up, dtype=np.float64).reshape(count, 1)})


def trees(features: int) -> list[Model]:
    """Fit both tree models to rows whose first two features tell the direction."""
    X, n = inputs(600, features).features, 600
    time = START_NS + np.arange(n, dtype=np.int64) * HOUR_NS
    own = spec(features)
    rows = Dataset(
        X=X, y=(X[:, 0] + X[:, 1] > 0).astype(np.int8), time=time, end_time=time + HOUR_NS,
        symbol_code=np.zeros(n, np.int16), forward_return=np.zeros(n), cost=np.zeros(n), symbols=SYMBOLS,
        feature_names=own.feature_names, feature_hash=own.feature_hash,
    )  # fmt: skip
    return [XGBoostModel(own).fit(rows), RandomForestModel(own).fit(rows)]


def networks(features: int, *, ppo: bool = False) -> list[ModelArtifact]:
    names = (*NETWORKS, "ppo") if ppo else NETWORKS
    return [artifact(name, MAKERS[name](features), features) for name in names]


def artifact(name: str, content: bytes, features: int) -> ModelArtifact:
    own = spec(features)
    card = ModelCard(name, own.feature_names, own.feature_hash, 600, 0.5, 1, {}, {}, {})
    return ModelArtifact(name, content, card)


class Net:
    """A graph under construction; every method returns the name of the tensor that it adds."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, values: object, dtype: type = np.float32) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def weights(self, *shape: int) -> str:
        return self.constant(self._rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1])))

    def __call__(self, kind: str, *taken: str, named: str = "", outputs: int = 1, **attributes: object) -> str:
        names = [f"tensor_{len(self._nodes)}_{place}" for place in range(outputs)]
        names[-1] = named or names[-1]
        self._nodes.append(helper.make_node(kind, taken, names, **attributes))
        return names[-1]

    def done(self, name: str, inputs: dict[str, tuple], outputs: dict[str, int]) -> bytes:
        kinds = {"time": TensorProto.DOUBLE, "symbol": TensorProto.INT64}
        graph = helper.make_graph(
            self._nodes, name,
            [helper.make_tensor_value_info(k, kinds.get(k, TensorProto.FLOAT), ["N", *s]) for k, s in inputs.items()],
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, ["N", w]) for k, w in outputs.items()],
            self._constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def lstm(features: int = 0, *, hidden: int = 8) -> bytes:
    net = Net(1)
    steps = net("Transpose", "sequence", perm=[1, 0, 2])
    own = [net.weights(1, 4 * hidden, size) for size in (C, hidden)]
    last = net("Squeeze", net("LSTM", steps, *own, outputs=2, hidden_size=hidden), net.constant([0], np.int64))
    told = net("MatMul", last, net.weights(hidden, 1))
    # Place 0 of the table is the unknown symbol's.
    place = net("Add", "symbol", net.constant(1, np.int64))
    known = net("Gather", net.weights(len(SYMBOLS) + 1), place)
    season = net("Cast", net("Sin", net("Mul", "time", net.constant(2 * np.pi / 7, np.float64))), to=TensorProto.FLOAT)
    return _lstm_outputs(net, net("Add", told, known), season)


def _lstm_outputs(net: Net, told: str, season: str) -> bytes:
    net("Sigmoid", net("Add", told, season), named="p_up")
    net("Mul", net("Tanh", told), net.constant(0.01), named="expected_return")
    net("Mul", season, net.constant(0.001), named="prophet_return")
    taken = {"sequence": (SEQUENCE_BARS, C), "time": (1,), "symbol": (1,)}
    return net.done("lstm", taken, {"p_up": 1, "expected_return": 1, "prophet_return": 1})


def cnn(features: int = 0, *, channels: int = 8) -> bytes:
    net = Net(2)
    rows = TIMEFRAMES * CHART_ROWS
    flat = net("Reshape", "chart", net.constant([0, rows, CHART_BARS], np.int64))
    seen = net("Relu", net("Conv", flat, net.weights(channels, rows, 5), kernel_shape=[5]))
    seen = net("Relu", net("Conv", seen, net.weights(channels, channels, 3), kernel_shape=[3], strides=[2]))
    pooled = net("Flatten", net("GlobalAveragePool", seen))
    net("Sigmoid", net("Gemm", pooled, net.weights(channels, 1)), named="p_up")
    net("Sigmoid", net("Gemm", pooled, net.weights(channels, PATTERNS)), named="patterns")
    return net.done("cnn", {"chart": (TIMEFRAMES, CHART_ROWS, CHART_BARS)}, {"p_up": 1, "patterns": PATTERNS})


def attention(features: int = 0) -> bytes:
    net = Net(3)
    last = net.constant([-1], np.int64)
    weights = net(
        "Softmax", net("Squeeze", net("MatMul", "sequence", net.weights(C, 1)), last), named="weights", axis=1
    )
    seen = net("MatMul", net("Unsqueeze", weights, net.constant([1], np.int64)), "sequence")
    net("Sigmoid", net("MatMul", net("Squeeze", seen, net.constant([1], np.int64)), net.weights(C, 1)), named="p_up")
    return net.done("attention", {"sequence": (SEQUENCE_BARS, C)}, {"p_up": 1, "weights": SEQUENCE_BARS})


def regime(features: int) -> bytes:
    net = Net(4)
    net("Softmax", net("Gemm", "features", net.weights(features, 4)), named="regime", axis=1)
    return net.done("regime", {"features": (features,)}, {"regime": 4})


def meta(features: int = 0) -> bytes:
    return _stacked("meta", _said(), {"p_up": 1})


def confidence(features: int) -> bytes:
    return _stacked("confidence", _said() | {"p_up_meta": (1,), "features": (features,)}, {"confidence": 1})


def ppo(features: int = 0) -> bytes:
    """Two agents that take a part of what they may."""
    return _stacked("ppo", {"p_up_meta": (1,), "confidence": (1,), "regime": (4,)}, {"size": 1, "timing": 3})


def _said() -> dict[str, tuple]:
    return {**{f"p_up_{name}": (1,) for name in BASE_MODELS}, "regime": (4,)}


def _stacked(name: str, taken: dict[str, tuple], outputs: dict[str, int]) -> bytes:
    net = Net(5)
    together = net("Concat", *taken, axis=1)
    for output, width in outputs.items():
        net("Sigmoid", net("Gemm", together, net.weights(sum(size for (size,) in taken.values()), width)), named=output)
    return net.done(name, taken, outputs)


MAKERS = {
    "lstm": lstm, "cnn": cnn, "attention": attention, "regime": regime, "meta": meta, "confidence": confidence,
    "ppo": ppo,
}  # fmt: skip


def replaced(artifacts: Sequence[ModelArtifact], name: str, content: bytes) -> list[ModelArtifact]:
    """Return the artifacts with one model's graph exchanged."""
    return [ModelArtifact(a.name, content, a.card) if a.name == name else a for a in artifacts]
