"""How the two agents of :mod:`fx_dagster.models.ppo` learn, and what keeps the sum of their wishes in bounds.

**In turns.** An agent learns while the other one answers as it would be served, and then they change places. Either has
a market that stands still while it learns, which two that learn at once do not give each other; and since an answer
depends on the market alone, the other one's are computed for the whole history before a turn begins.

**What counts.** In most bars no action changes anything: nothing is held, and no entry is at hand. The advantages of
such steps are set to nothing, those of the others standardised among themselves; the value of a bar is learned from all
of them.

**The coordinator** scales down what all symbols of an account wish at one bar, so that together they never risk more
than a limit. In backtests and live trading the decision step's own limits do this, symbol after symbol.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import SettingsError, TrainingError
from fx_dagster.models.ppo import (
    AGENTS,
    SIZES,
    Answered,
    Policies,
    PolicyNet,
    PpoModel,
    Scaling,
    neutral,
    sizes_of,
    timing_of,
)
from fx_dagster.models.protocol import Float32, Float64, ModelSpec

if TYPE_CHECKING:
    from stable_baselines3 import PPO


@dataclass(frozen=True)
class AgentBudget:
    """How much and how agents learn.

    Attributes:
        steps: bars of single symbols that each agent acts in.
        turns: into which they are divided.
        walkers: symbols that are walked at once, about.
        rollout: bars of each between two updates.
        batch: steps a gradient is taken from.
        epochs: how often an update goes over its steps.
        bars: of an episode.
        learning_rate: of Adam.
        discount: of the reward a bar later.
        trace: λ of generalised advantage estimation (Schulman et al. 2016).
        clip: how far an update may move an action's probability ratio.
        entropy: weight of the entropy in the objective.
    """

    steps: int
    turns: int = 2
    walkers: int = 256
    rollout: int = 64
    batch: int = 2_048
    epochs: int = 4
    bars: int = 512
    learning_rate: float = 1e-3
    discount: float = 0.98
    trace: float = 0.95
    clip: float = 0.2
    entropy: float = 0.002

    def __post_init__(self) -> None:
        for name in ("steps", "turns", "walkers", "rollout", "batch", "epochs"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}", mend="give a number of at least 1")
        if self.bars < 2:
            raise SettingsError(f"bars is {self.bars}", mend="an episode has at least 2")


FULL: Final = AgentBudget(steps=600_000)
"""About half a minute a seed on one core."""
DEMO: Final = AgentBudget(steps=40_000, walkers=128, rollout=32, batch=1_024)
"""A few seconds a seed."""

HIDDEN: Final = (32, 32)
"""Units of the layers of each policy, and of each value function."""
_FIRST_INSIDE: Final = 2.0
"""Score of "in" over "out" that an agent begins with: it begins near what the step does alone."""
_FIRST_SIZE_SLOPE: Final = 2.0
"""What a size's first score loses with its distance from 1."""


def coordinated(size: Float64, risk: Float64, limit: Float64 | float) -> Float64:
    """Return sizes that together risk no more than a limit: all scaled by one factor where they wished for more.

    No size is ever raised, the sum of ``size × risk`` never exceeds the limit, and the order of the symbols does not
    matter.

    Args:
        size: wished factors ≥ 0, float64 ``[…, n]``.
        risk: what a factor of 1 risks at its stop, ≥ 0, ``[…, n]``; 0: no entry is at hand, its size stays.
        limit: ≥ 0, ``[…]``, in the unit of ``risk``.
    """
    wished = _ordered_sum(size * risk)
    limit = np.broadcast_to(np.asarray(limit, dtype=np.float64), wished.shape)
    over = wished > limit
    if not over.any():
        return size
    factor = np.where(over, limit / np.where(over, wished, 1.0), 1.0)[..., None]
    bound = risk > 0.0
    found = np.where(bound, size * factor, size)
    # Rounding may leave the sum a few units in the last place too large.
    while (over := _ordered_sum(found * risk) > limit).any():
        factor = np.where(over[..., None], factor * (1.0 - 1e-15) - np.finfo(float).tiny, factor).clip(min=0.0)
        found = np.where(bound, size * factor, size)
    return found


def _ordered_sum(values: Float64) -> Float64:
    """Return sums over the last axis that do not depend on the order of the values, to the last bit."""
    return np.asarray(np.sort(values, axis=-1).sum(axis=-1))


class AgentEnvironment(Protocol):
    """What an agent learns in: a stable-baselines3 ``VecEnv`` with two things more.

    See :func:`fx_dagster.backtest.environment.agent_environment`.
    """

    relevant: NDArray[np.bool_]
    """Whether the newest action of each environment could change anything."""

    def answer(self, said: Sequence[Answered]) -> None:
        """Set what the other agent says of each piece of history, ``[t, n]`` and ``[t, n, 3]``."""
        ...


EnvironmentMaker = Callable[[str, Scaling, AgentBudget, int], AgentEnvironment]
"""Makes the environment of an agent by its name, the scaling of observations, the budget and a seed."""


def train_agents(
    make_environment: EnvironmentMaker, seen: Sequence[Float32], spec: ModelSpec, *, budget: AgentBudget = FULL,
    up_share: float, about: Mapping[str, Any] | None = None,
) -> PpoModel:  # fmt: skip
    """Train both agents in turns.

    Args:
        make_environment: where they learn.
        seen: observations of each piece of history, float32 ``[t, n, K]``, out of fold; NaN where unknown.
        spec: names the features; its seed makes every random choice.
        budget: how much they learn.
        up_share: share of the bars in which price rose, for the card.
        about: what else the card shall tell of the training; plain values.

    Raises:
        TrainingError: no bar has a whole observation, or a policy is not finite.
    """
    scaling = Scaling.of(np.concatenate([item.reshape(-1, item.shape[-1]) for item in seen]))
    learners = {
        agent: _Learner(agent, make_environment(agent, scaling, budget, spec.seed + place), budget, spec.seed + place)
        for place, agent in enumerate(AGENTS)
    }
    with _one_thread():
        for turn in range(budget.turns):
            for agent in AGENTS:
                other = learners[AGENTS[1 - AGENTS.index(agent)]]
                learners[agent].learn(turn, [other.answer(scaling, item) for item in seen])
    policies = Policies(scaling, learners["timing"].net, learners["sizing"].net)
    rows = int(sum(np.isfinite(item).all(axis=-1).sum() for item in seen))
    return PpoModel.from_policies(
        spec, policies, rows=rows, up_share=up_share,
        parameters={**asdict(budget), "hidden": list(HIDDEN), **(about or {})},
        metrics={f"reward_curve_{agent}": learner.curve for agent, learner in learners.items()},
    )  # fmt: skip


class _Learner:
    """One agent: its policy and how its rewards went."""

    def __init__(self, agent: str, environment: Any, budget: AgentBudget, seed: int) -> None:
        self.agent, self._environment, self._budget = agent, environment, budget
        self._ppo = _new_ppo(environment, budget, seed)
        self.curve: list[float] = []
        self._started = False
        _begin_neutral(self._ppo, agent)

    @property
    def net(self) -> PolicyNet:
        """The policy as it is now."""
        return PolicyNet.of(self._ppo.policy)

    def answer(self, scaling: Scaling, seen: Float32) -> Answered:
        """Return what it says of ``[t, n, K]``, neutral where it says nothing."""
        shape = seen.shape[:-1]
        said, known = neutral(*shape), np.isfinite(seen).all(axis=-1)
        if self._started:
            scaled = scaling.apply(seen[known])
            if self.agent == "timing":
                said.timing[known] = timing_of(self.net, scaled)
            else:
                said.size[known] = sizes_of(self.net, scaled)
        return said

    def learn(self, turn: int, other: Sequence[Answered]) -> None:
        """Take a turn beside what the other agent says."""
        self._environment.answer(other)
        steps = max(self._budget.steps // self._budget.turns, 1)
        self._ppo.learn(steps, callback=_curve_callback(self.curve), reset_num_timesteps=turn == 0)
        self._started = True
        if not all(np.isfinite(values).all() for part in self.net for values in part):
            raise TrainingError(f"the {self.agent} agent's policy is not finite", mend="lower its learning rate")


def _new_ppo(environment: Any, budget: AgentBudget, seed: int) -> "PPO":
    from stable_baselines3 import PPO
    from torch import nn

    return PPO(
        "MlpPolicy", environment, learning_rate=budget.learning_rate, n_steps=budget.rollout,
        batch_size=_even_batch(budget, environment.num_envs), n_epochs=budget.epochs,
        gamma=budget.discount, gae_lambda=budget.trace, clip_range=budget.clip, ent_coef=budget.entropy,
        normalize_advantage=False, rollout_buffer_class=_relevant_buffer(environment), seed=seed, device="cpu",
        policy_kwargs={"net_arch": {"pi": list(HIDDEN), "vf": list(HIDDEN)}, "activation_fn": nn.Tanh}, verbose=0,
    )  # fmt: skip


def _even_batch(budget: AgentBudget, walkers: int) -> int:
    """Return a batch size near the budget's that leaves no remainder of a rollout."""
    parts = [bars for bars in range(1, budget.rollout + 1) if budget.rollout % bars == 0]
    return walkers * max((bars for bars in parts if bars * walkers <= budget.batch), default=1)


def _begin_neutral(ppo: "PPO", agent: str) -> None:
    """Set the scores that an agent begins with: in, and a size of 1."""
    import torch

    scores = [0.0, _FIRST_INSIDE] if agent == "timing" else [-_FIRST_SIZE_SLOPE * abs(size - 1.0) for size in SIZES]
    with torch.no_grad():
        ppo.policy.action_net.bias.copy_(torch.tensor(scores))


def _relevant_buffer(environment: AgentEnvironment) -> type:
    """Return the class of a rollout buffer in which steps that changed nothing have no advantage."""
    from stable_baselines3.common.buffers import RolloutBuffer

    class RelevantBuffer(RolloutBuffer):
        """Steps of a rollout, and which of them mattered."""

        def reset(self) -> None:
            self.relevant = np.zeros((self.buffer_size, self.n_envs), dtype=np.bool_)
            super().reset()

        def add(self, *args: Any, **kwargs: Any) -> None:
            self.relevant[self.pos] = environment.relevant
            super().add(*args, **kwargs)

        def compute_returns_and_advantage(self, last_values: Any, dones: NDArray) -> None:
            super().compute_returns_and_advantage(last_values, dones)
            self.advantages: Float32 = standardised_among(self.advantages, self.relevant)

    return RelevantBuffer


def standardised_among(advantages: Float32, relevant: NDArray[np.bool_]) -> Float32:
    """Return advantages of mean 0 and deviation 1 among the relevant ones, weighted up by their rarity; 0 elsewhere."""
    own = advantages[relevant].astype(np.float64)
    out = np.zeros_like(advantages)
    if len(own) > 1:
        out[relevant] = (own - own.mean()) / (own.std() + 1e-8) * min(advantages.size / len(own), _RARITY_MAX)
    return out


_RARITY_MAX: Final = 20.0
"""Weight of a relevant step at most."""


def _curve_callback(curve: list[float]) -> Any:
    """Return a callback that notes the mean reward of a bar and symbol in each rollout."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Curve(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            curve.append(float(self.model.rollout_buffer.rewards.mean()))

    return Curve()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch on one thread meanwhile: for networks this small more are slower, and sums keep their order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
