"""The agents' graph says what the policies say, for every side of a position."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.models.onnx_export import PARITY_MAX, onnx_answers, require_parity
from fx_dagster.models.ppo import (
    ACTIONS,
    PROBABILITIES,
    SEEN_FEATURES,
    SIDES,
    SIZES,
    ObservationRows,
    Policies,
    PolicyNet,
    PpoModel,
    Scaling,
    neutral,
    observation_names,
    observations,
)
from fx_dagster.models.protocol import ModelArtifact, ModelSpec

ROWS = 200
FEATURES = ("noise", *SEEN_FEATURES, "rest")


def spec(*names: str) -> ModelSpec:
    return ModelSpec(names or FEATURES, "0123456789abcdef", seed=3, symbols=("EURUSD",))


def rows(width: int = len(FEATURES), seed: int = 1, scale: float = 1.0) -> ObservationRows:
    rng = np.random.default_rng(seed)
    return ObservationRows(
        said=rng.random((ROWS, 5)),
        meta=rng.random(ROWS),
        confidence=rng.random(ROWS),
        regime=rng.dirichlet(np.ones(4), ROWS),
        features=(scale * rng.standard_normal((ROWS, width))).astype(np.float32),
    )


def net(actions: int, width: int, seed: int, strength: float = 1.0) -> PolicyNet:
    rng = np.random.default_rng(seed)
    shapes = [(32, width + SIDES), (32, 32), (actions, 32)]
    return PolicyNet(
        tuple((strength * rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32) for shape in shapes),
        tuple((0.3 * rng.standard_normal(shape[0])).astype(np.float32) for shape in shapes),
    )


def model(*names: str, strength: float = 1.0) -> PpoModel:
    names = names or FEATURES
    width = len(observation_names(names))
    scaling = Scaling.of(observations(rows(len(names)), names))
    policies = Policies(scaling, net(ACTIONS["timing"], width, 1, strength), net(ACTIONS["sizing"], width, 2, strength))
    return PpoModel.from_policies(
        spec(*names), policies, rows=10, up_share=0.5, parameters={"steps": 1}, metrics={"reward_curve_timing": [0.1]}
    )


@pytest.mark.parametrize("names", [FEATURES, ("noise", "hour_sin"), ("noise",)])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_the_graph_says_what_the_policies_say(names, scale):
    agents, asked = model(*names), rows(len(names), seed=2, scale=scale)
    content = agents.to_onnx()
    assert require_parity(agents, asked, content) <= PARITY_MAX
    said = onnx_answers(content, asked.tensors())
    assert {name: values.shape for name, values in said.items()} == {"size": (ROWS, 1), "timing": (ROWS, 3)}
    assert np.ptp(said["size"]) > 0.1
    assert (np.ptp(said["timing"], axis=0) > 0.1).all()


def test_a_row_is_answered_alone_as_among_others():
    agents, asked = model(), rows(seed=4)
    content = agents.to_onnx()
    together = onnx_answers(content, asked.tensors())
    alone = onnx_answers(content, {name: values[7:8] for name, values in asked.tensors().items()})
    for name, values in alone.items():
        np.testing.assert_allclose(values[0], together[name][7], atol=1e-6)


@pytest.mark.parametrize("strength", [1.0, 50.0])
def test_answers_lie_in_their_ranges(strength):
    """A size a rounding error above its bound would be refused by the decision."""
    agents = model(strength=strength)
    net = agents.policies.sizing
    largest = PolicyNet(net.weights, (*net.biases[:-1], np.array([0, 0, 0, 0, 0, 0, 90], dtype=np.float32)))
    for policies in (agents.policies, replace(agents.policies, sizing=largest)):
        made = PpoModel.from_policies(spec(), policies, rows=1, up_share=0.5, parameters={}, metrics={})
        for said in (made.predict(rows(seed=5)), onnx_answers(made.to_onnx(), rows(seed=5).tensors())):
            assert ((said["size"] >= 0.0) & (said["size"] <= SIZES[-1])).all()
            assert ((said["timing"] >= 0.0) & (said["timing"] <= 1.0)).all()


def test_sides_are_asked_one_by_one():
    agents, asked = model(), rows(seed=6)
    scaled = agents.policies.scaling.apply(observations(asked, FEATURES))
    timing = agents.predict(asked)["timing"]
    for column, (long, short) in enumerate([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]):
        value = np.column_stack([scaled, np.full(ROWS, long), np.full(ROWS, short)])
        net = agents.policies.timing
        for weight, bias in zip(net.weights[:-1], net.biases[:-1], strict=True):
            value = np.tanh(value @ weight.T + bias)
        scores = value @ net.weights[-1].T + net.biases[-1]
        inside = 1.0 / (1.0 + np.exp(scores[:, 0] - scores[:, 1]))
        np.testing.assert_allclose(timing[:, column], inside if column == 0 else 1.0 - inside, atol=1e-6)


def test_a_policy_is_copied_whole():
    import torch
    from gymnasium.spaces import Box, Discrete
    from stable_baselines3.common.policies import ActorCriticPolicy

    torch.manual_seed(1)
    policy = ActorCriticPolicy(
        Box(-5, 5, (6,), np.float32), Discrete(7), lambda _: 1e-3, net_arch={"pi": [32, 32], "vf": [32, 32]},
        activation_fn=torch.nn.Tanh,
    )  # fmt: skip
    with torch.no_grad():
        policy.action_net.weight.mul_(100.0)
    copied, seen = PolicyNet.of(policy), np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    for side, flags in ((0, (0, 0)), (1, (1, 0)), (-1, (0, 1))):
        asked = torch.from_numpy(np.column_stack([seen, np.tile(flags, (30, 1))]).astype(np.float32))
        expected = policy.get_distribution(asked).distribution.probs.detach().numpy()
        np.testing.assert_allclose(copied.probabilities(seen, side), expected, atol=1e-6)
    with torch.no_grad():
        policy.action_net.weight.zero_()
    assert np.abs(copied.weights[-1]).max() > 0


def test_an_unknown_answer_leaves_the_agents_silent():
    agents, asked = model(), rows(seed=7)
    asked.said[3, 2] = np.nan
    said = agents.predict(asked)
    for values in said.values():
        assert np.isnan(values[3]).all()
        assert np.isfinite(np.delete(values, 3, axis=0)).all()
    served = onnx_answers(agents.to_onnx(), asked.tensors())
    assert all(np.isnan(values[3]).all() for values in served.values())


def test_scaling_is_of_the_whole_rows():
    seen = np.random.default_rng(1).normal(3.0, 2.0, (50, 4, 6)).astype(np.float32)
    seen[..., 5] = 1.25
    seen[3, 1, 2] = np.nan
    scaling = Scaling.of(seen)
    kept = seen[np.isfinite(seen).all(axis=2)]
    np.testing.assert_allclose(scaling.mean, kept.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scaling.scale[:5], kept.std(axis=0)[:5], rtol=1e-4)
    assert scaling.scale[5] == 1.0
    assert np.abs(scaling.apply(1e9 * seen[0])).max() == 5.0
    with pytest.raises(TrainingError, match="whole observation"):
        Scaling.of(np.full((3, 2), np.nan, np.float32))


def test_an_artifact_keeps_the_agents(tmp_path):
    agents = model()
    artifact = ModelArtifact.of(agents)
    artifact.save(tmp_path)
    loaded = ModelArtifact.load(tmp_path, "ppo")
    assert loaded == artifact
    assert loaded.card.metrics["reward_curve_timing"] == [0.1]
    assert loaded.card.seed == 3
    assert json.loads((tmp_path / "ppo.json").read_text())["card"]["parameters"] == {"steps": 1}


def test_what_cannot_be():
    agents = model()
    with pytest.raises(TrainingError, match="16 observations"):
        PpoModel.from_policies(
            spec(*FEATURES[:-3]), agents.policies, rows=1, up_share=0.5, parameters={}, metrics={}
        )  # fmt: skip
    with pytest.raises(TrainingError, match="not trained"):
        PpoModel(spec()).predict(rows())
    with pytest.raises(TrainingError, match="fitted"):
        PpoModel(spec()).fit(rows())


def test_neutral_answers_change_nothing():
    said = neutral(2, 3)
    assert said.size.tolist() == [[1.0] * 3] * 2
    assert said.timing[0, 0].tolist() == [1.0, 0.0, 0.0]
    assert set(PROBABILITIES) <= set(PpoModel.inputs)
