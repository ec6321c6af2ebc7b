"""Two agents that learned by proximal policy optimisation (Schulman et al. 2017): how large an entry is, and when.

Each is a small network over what the other models say of a bar, a few features, and the side of the position; nothing
else of the account. The graph asks both for every side that matters, so that its answer depends on the market alone:
it can be computed for whole histories beforehand, and is served in one call.

=========  =======================================================================================
output     meaning
=========  =======================================================================================
size       factor of an entry's size in [0, 1.5]: the mean of :data:`SIZES` under the sizing agent
timing     probability of entering while flat, of leaving a long position, of leaving a short one
=========  =======================================================================================

The timing agent has two actions, out and in: "in" enters while flat and holds otherwise, so that one preference, being
in the market or not, is learned from all sides. Training is :mod:`fx_dagster.models.agents`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.answer import BASE_MODELS, META, REGIMES, SIZE_MAX
from fx_dagster.models.protocol import INPUT_NAME, Answers, Float32, Float64, HasTensors, ModelCard, ModelSpec

if TYPE_CHECKING:
    from fx_dagster.models.dataset import Dataset

PROBABILITIES: Final = (*(f"p_up_{name}" for name in (*BASE_MODELS, META)), "confidence")
"""Tensors ``[N, 1]`` that are seen as signals 2 p − 1."""
SEEN_FEATURES: Final = (
    "volatility_ratio", "volatility_percentile", "spread_atr", "trend_strength", "return_1", "hour_sin", "hour_cos",
)  # fmt: skip
"""Features that the agents see, where the catalogue has them."""
SIZES: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, SIZE_MAX)
"""Actions of the sizing agent; 1 is the size that the step would take without it."""
SIDES: Final = 2
"""Inputs that tell the position's side: 1 if long, 1 if short; none while flat."""
SEEN_MAX: Final = 5.0
"""Where a standardised input is clipped."""
AGENTS: Final = ("timing", "sizing")
ACTIONS: Final[Mapping[str, int]] = MappingProxyType({"timing": 2, "sizing": len(SIZES)})
SIZE, TIMING = "size", "timing"
SCALE_MIN: Final = 1e-6


@dataclass(frozen=True)
class ObservationRows:
    """Rows as the agents see them, out of fold.

    Attributes:
        said: p(up) of :data:`fx_dagster.models.answer.BASE_MODELS`, float64 ``[n, B]``.
        meta: p(up) of the meta model, float64 ``[n]``.
        confidence: float64 ``[n]``.
        regime: probabilities of :data:`fx_dagster.models.answer.REGIMES`, float64 ``[n, 4]``.
        features: float32 ``[n, F]``.
    """

    said: Float64
    meta: Float64
    confidence: Float64
    regime: Float64
    features: Float32

    def __len__(self) -> int:
        return len(self.features)

    def take(self, index: NDArray[np.intp]) -> "ObservationRows":
        """Return the rows at ``index``."""
        return ObservationRows(
            self.said[index], self.meta[index], self.confidence[index], self.regime[index], self.features[index]
        )

    def tensors(self) -> dict[str, NDArray]:
        """Return what the agents' graph takes, float32, by name."""
        columns = np.column_stack([self.said, self.meta, self.confidence])
        tensors: dict[str, NDArray] = {name: columns[:, place, None] for place, name in enumerate(PROBABILITIES)}
        tensors |= {"regime": self.regime, INPUT_NAME: self.features}
        return {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in tensors.items()}


def seen_features(feature_names: Sequence[str]) -> tuple[str, ...]:
    """Return those of :data:`SEEN_FEATURES` that there are."""
    return tuple(name for name in SEEN_FEATURES if name in feature_names)


def observation_names(feature_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the K columns of an observation's market part, in order."""
    return (*PROBABILITIES, *(f"regime_{name}" for name in REGIMES), *seen_features(feature_names))


def observations(rows: HasTensors, feature_names: Sequence[str]) -> Float32:
    """Return the market part of what the agents see, float32 ``[n, K]``, not yet standardised; NaN is unknown."""
    tensors = rows.tensors()
    signals = [2.0 * tensors[name] - 1.0 for name in PROBABILITIES]
    places = [list(feature_names).index(name) for name in seen_features(feature_names)]
    return np.concatenate([*signals, tensors["regime"], tensors[INPUT_NAME][:, places]], axis=1, dtype=np.float32)


class Scaling(NamedTuple):
    """How observations are standardised."""

    mean: Float64
    """``[K]`` of the training rows."""
    scale: Float64
    """``[K]`` their standard deviation; 1 where a column does not vary."""

    @classmethod
    def of(cls, seen: Float32) -> "Scaling":
        """Measure training rows ``[…, K]``; rows with a NaN are left out.

        Raises:
            TrainingError: no row is complete.
        """
        rows = seen.reshape(-1, seen.shape[-1])
        rows = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
        if not len(rows):
            raise TrainingError("no bar has a whole observation", mend="train the models that the agents look at first")
        spread = rows.std(axis=0)
        # Rounded to what the graph computes with, so that both do the same.
        mean, scale = (
            np.asarray(values.astype(np.float32), dtype=np.float64)
            for values in (rows.mean(axis=0), np.where(spread > SCALE_MIN, spread, 1.0))
        )
        return cls(mean, scale)

    def apply(self, seen: Float32) -> Float32:
        """Return standardised observations ``[…, K]``, clipped at ±:data:`SEEN_MAX`."""
        return np.clip((seen - self.mean) / self.scale, -SEEN_MAX, SEEN_MAX).astype(np.float32)


class PolicyNet(NamedTuple):
    """A policy: layers of tanh, then one of scores a action; ``weights[k]`` is ``[out, in]``."""

    weights: tuple[Float32, ...]
    biases: tuple[Float32, ...]

    @classmethod
    def of(cls, policy: Any) -> "PolicyNet":
        """Copy the acting half of a stable-baselines3 ``ActorCriticPolicy`` of tanh layers."""
        from torch.nn import Linear

        layers = [layer for layer in policy.mlp_extractor.policy_net if isinstance(layer, Linear)]
        layers.append(policy.action_net)
        arrays = [
            (layer.weight.detach().cpu().numpy().copy(), layer.bias.detach().cpu().numpy().copy()) for layer in layers
        ]
        return cls(*(tuple(part) for part in zip(*arrays, strict=True)))

    def probabilities(self, scaled: Float32, side: int) -> Float64:
        """Return the probability of each action, float64 ``[n, A]``, on one side: 1 long, -1 short, 0 flat."""
        hidden: NDArray = scaled.astype(np.float64) @ self.weights[0][:, :-SIDES].T + self._first_bias(side)
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            hidden = np.tanh(hidden) @ weight.T + bias
        raised = np.exp(hidden - hidden.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float64)

    def _first_bias(self, side: int) -> Float32:
        """Return the first layer's bias with the side's inputs in it."""
        if side == 0:
            return self.biases[0]
        return self.biases[0] + self.weights[0][:, -2 if side > 0 else -1]


class Answered(NamedTuple):
    """What agents say of n rows."""

    size: Float64
    """``[n]``."""
    timing: Float64
    """``[n, 3]``: enter, exit long, exit short."""


def neutral(*shape: int) -> Answered:
    """Return what changes nothing: size 1, enter, never leave."""
    timing = np.zeros((*shape, 3))
    timing[..., 0] = 1.0
    return Answered(np.ones(shape), timing)


def sizes_of(net: PolicyNet, scaled: Float32) -> Float64:
    """Return the sizing agent's factors, float64 ``[n]``, of standardised observations ``[n, K]``."""
    return np.clip(net.probabilities(scaled, 0) @ np.array(SIZES), 0.0, SIZE_MAX)


def timing_of(net: PolicyNet, scaled: Float32) -> Float64:
    """Return the timing agent's probabilities, float64 ``[n, 3]``, of standardised observations ``[n, K]``."""
    inside = [net.probabilities(scaled, side)[:, 1] for side in (0, 1, -1)]
    return np.column_stack([inside[0], 1.0 - inside[1], 1.0 - inside[2]])


@dataclass(frozen=True)
class Policies:
    """Both agents as they were trained.

    Attributes:
        scaling: of their observations.
        timing: two actions: out, in.
        sizing: one action a factor of :data:`SIZES`.
    """

    scaling: Scaling
    timing: PolicyNet
    sizing: PolicyNet

    def answer(self, seen: Float32) -> Answered:
        """Return what the agents say of observations ``[…, K]``, shapes ``[…]`` and ``[…, 3]``; NaN where one is."""
        flat = seen.reshape(-1, seen.shape[-1])
        known = np.isfinite(flat).all(axis=1)
        size, timing = np.full(len(flat), np.nan), np.full((len(flat), 3), np.nan)
        scaled = self.scaling.apply(flat[known])
        size[known], timing[known] = sizes_of(self.sizing, scaled), timing_of(self.timing, scaled)
        return Answered(size.reshape(seen.shape[:-1]), timing.reshape(*seen.shape[:-1], 3))


class PpoModel:
    """Size and timing from two agents; made by :meth:`from_policies`, since they learn in a market, not from rows."""

    name = "ppo"
    inputs = (*PROBABILITIES, "regime", INPUT_NAME)
    outputs: ClassVar = MappingProxyType({SIZE: 1, TIMING: 3})

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._policies: Policies | None = None
        self._rows = 0
        self._up_share = 0.0
        self._parameters: Mapping[str, Any] = {}
        self._metrics: Mapping[str, Any] = {}

    @classmethod
    def from_policies(
        cls, spec: ModelSpec, policies: Policies, *, rows: int, up_share: float, parameters: Mapping[str, Any],
        metrics: Mapping[str, Any],
    ) -> Self:  # fmt: skip
        """Return the model of trained agents.

        Args:
            spec: names the features that rows have; its seed is the agents'.
            policies: the agents.
            rows: bars of all symbols that they were trained on.
            up_share: share of these bars in which price rose.
            parameters: how they were trained.
            metrics: how their rewards went.

        Raises:
            TrainingError: the policies do not fit the features.
        """
        width = len(observation_names(spec.feature_names))
        if not all(len(item) == width for item in policies.scaling) or any(
            net.weights[0].shape[1] != width + SIDES or net.weights[-1].shape[0] != ACTIONS[agent]
            for agent, net in zip(AGENTS, (policies.timing, policies.sizing), strict=True)
        ):
            raise TrainingError(
                f"{cls.name}: the policies are not of {width} observations", mend="train the agents on these features"
            )
        model = cls(spec)
        model._policies, model._rows, model._up_share = policies, rows, up_share
        model._parameters, model._metrics = dict(parameters), dict(metrics)
        return model

    @property
    def policies(self) -> Policies:
        """The agents.

        Raises:
            TrainingError: there are none yet.
        """
        if self._policies is None:
            raise TrainingError(f"{self.name} is not trained yet", mend="call train_agents")
        return self._policies

    def fit(self, rows: "Dataset", sample_weight: Float64 | None = None) -> Self:  # noqa: ARG002
        """Refuse: agents learn from what their actions bring, and rows do not act.

        Raises:
            TrainingError: always.
        """
        raise TrainingError(
            f"{self.name} cannot be fitted on {len(rows)} rows", mend="train it with fx_dagster.models.agents"
        )

    def predict(self, rows: HasTensors) -> Answers:
        """Return ``size`` float64 ``[n, 1]`` and ``timing`` ``[n, 3]`` of rows whose tensors hold all of ``inputs``."""
        said = self.policies.answer(observations(rows, self.spec.feature_names))
        return {SIZE: said.size[:, None], TIMING: said.timing}

    def importance(self) -> dict[str, float]:
        """Return nothing: a network has no such numbers."""
        return {}

    def to_onnx(self) -> bytes:
        """Return the graph from ``inputs`` to ``size`` and ``timing``; scaler and sides are part of it."""
        return _graph(self.policies, self.name, self.spec)

    def card(self) -> ModelCard:
        """Return the description of the trained agents; ``metrics`` has the curves of their rewards."""
        import stable_baselines3

        _ = self.policies
        return ModelCard(
            name=self.name,
            feature_names=self.spec.feature_names,
            feature_hash=self.spec.feature_hash,
            rows=self._rows,
            up_share=self._up_share,
            seed=self.spec.seed,
            parameters=self._parameters,
            importance={},
            libraries={"stable-baselines3": stable_baselines3.__version__},
            metrics=self._metrics,
        )


class _Builder:
    """Collects nodes and constants of a graph."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), name))
        return name

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"make_{name}", **attributes))
        return name

    def dense(self, value: str, weight: Float32, bias: Float32) -> str:
        product = self.node("MatMul", value, self.constant(weight.T))
        return self.node("Add", product, self.constant(bias))

    def policy(self, scaled: str, net: PolicyNet, side: int) -> str:
        """Add a policy on one side; return its scores ``[N, A]``."""
        value = self.dense(scaled, net.weights[0][:, :-SIDES], net._first_bias(side))
        for weight, bias in zip(net.weights[1:], net.biases[1:], strict=True):
            value = self.dense(self.node("Tanh", value), weight, bias)
        return value


def _graph(policies: Policies, name: str, spec: ModelSpec) -> bytes:
    from onnx import TensorProto, helper

    from fx_dagster.models.onnx_export import TARGET_OPSET, labelled

    build = _Builder()
    scaled = _scaled(build, policies.scaling, spec.feature_names)
    shares = build.node("Softmax", build.policy(scaled, policies.sizing, 0), axis=1)
    mean = build.node("MatMul", shares, build.constant(np.array(SIZES)[:, None]))
    # Rounded shares may sum to a little more than 1, and a size beyond its bound would be refused.
    build.node("Clip", mean, build.constant(0.0), build.constant(SIZE_MAX), out=SIZE)
    # Probability of the first action, out, over the second, in: enter is the second one while flat.
    places = [build.constant([place], np.int64) for place in (1, 0)]
    told = []
    for side, place in ((0, places[0]), (1, places[1]), (-1, places[1])):
        shares = build.node("Softmax", build.policy(scaled, policies.timing, side), axis=1)
        told.append(build.node("Gather", shares, place, axis=1))
    build.node("Concat", *told, out=TIMING, axis=1)
    widths = {**dict.fromkeys(PROBABILITIES, 1), "regime": len(REGIMES), INPUT_NAME: len(spec.feature_names)}
    ends = [
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, ["N", width]) for key, width in side.items()]
        for side in (widths, PpoModel.outputs)
    ]
    graph = helper.make_graph(build.nodes, name, *ends, build.constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", TARGET_OPSET)], ir_version=8)
    return labelled(made, name, spec)


def _scaled(build: _Builder, scaling: Scaling, feature_names: Sequence[str]) -> str:
    """Add what :func:`observations` and :class:`Scaling` do; return the tensor ``[N, K]``."""
    together = build.node("Concat", *PROBABILITIES, axis=1)
    signals = build.node("Sub", build.node("Mul", together, build.constant(2.0)), build.constant(1.0))
    parts = [signals, "regime"]
    places = [list(feature_names).index(name) for name in seen_features(feature_names)]
    if places:
        parts.append(build.node("Gather", INPUT_NAME, build.constant(places, np.int64), axis=1))
    centred = build.node("Sub", build.node("Concat", *parts, axis=1), build.constant(scaling.mean))
    scaled = build.node("Div", centred, build.constant(scaling.scale))
    return build.node("Clip", scaled, build.constant(-SEEN_MAX), build.constant(SEEN_MAX))
