"""A small attention network over the last bars: p(up), and how much it looked at each bar.

Every bar becomes a vector (its channels through one layer, plus a learned vector of its age); two learned queries weigh
the bars, and the direction is read from the weighted means: attention pooling, Bahdanau, Cho & Bengio (2015), with
scaled scores, Vaswani et al., "Attention Is All You Need" (2017), sections 3.2 and 3.5. There is one layer, so that the
weights are what the answer was made of; a decision record shows them. ``2·p_up - 1`` is the fourteenth indicator
(:func:`fx_dagster.models.answer.attention_scores`).
"""

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import SEQUENCE_BARS, SEQUENCE_CHANNELS
from fx_dagster.models.answer import ATTENTION
from fx_dagster.models.cnn import occlusion_shares
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.networks import (
    FittedNetwork,
    Int64,
    Module,
    Tensor,
    Tensors,
    Training,
    export_network,
    fit_network,
    network_answers,
    require_windows,
    sampled,
    standardiser,
    tensors_of,
    torch_session,
)
from fx_dagster.models.protocol import OUTPUT_NAME, Answers, Float32, Float64, ModelCard, ModelSpec
from fx_dagster.models.rows import require_trainable

WEIGHTS_NAME: Final = "weights"
WIDTH: Final = 24
"""Length of a bar's vector."""
HEADS: Final = 2
RECENCY: Final = (0.25, 0.03125)
"""What each head's scores fall by with a bar of age at first; learned from there on. Without it every bar starts with
the same weight, and what the newest bar says is diluted by all others. Source: Press, Smith & Lewis, "Train Short, Test
Long" (2022), whose slopes are fixed."""
HIDDEN: Final = 16
DROPOUT: Final = 0.2
TRAINING: Final = Training(epochs_max=10, rows_per_epoch=60_000, batch_rows=512, learning_rate=3e-3, patience=4)
OCCLUSION_ROWS: Final = 2_000

PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "width": WIDTH,
        "heads": HEADS,
        "recency": list(RECENCY),
        "hidden": HIDDEN,
        "dropout": DROPOUT,
        "training": asdict(TRAINING),
    }
)
"""The same for every data set: never tuned on what is reported."""


class AttentionModel:
    """p(up) and attention weights from the sequence of the last bars."""

    name = ATTENTION
    inputs = ("sequence",)
    outputs: ClassVar = MappingProxyType({OUTPUT_NAME: 1, WEIGHTS_NAME: SEQUENCE_BARS})

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._network: FittedNetwork | None = None
        self._importance: dict[str, float] = {}
        self._example: Float32 = np.empty((0, SEQUENCE_BARS, len(SEQUENCE_CHANNELS)), dtype=np.float32)
        self._rows = 0
        self._up_share = 0.0

    def fit(self, rows: Dataset, sample_weight: Float64 | None = None) -> Self:
        """Fit on the sequences of training rows.

        Raises:
            TrainingError: see :func:`fx_dagster.models.rows.require_trainable`; no windows, a window that is not
                finite, or a fit that does not converge.
        """
        require_trainable(self.name, rows.X, rows.y, sample_weight, self.spec)
        require_windows(self.name, rows, "sequence")

        def build(fit: Int64) -> Module:
            return _network(_sequences(rows, sampled(fit)))

        def batch(index: Int64) -> dict[str, NDArray[Any]]:
            return {"sequence": _sequences(rows, index), "y": rows.y[index].astype(np.float32)}

        self._network = fit_network(
            self.name, rows, self.spec, TRAINING, build=build, batch=batch, loss=_loss, sample_weight=sample_weight
        )
        self._rows, self._up_share = len(rows), float(np.mean(rows.y))
        self._example = _sequences(rows, np.arange(2))
        self._importance = self._occluded(_sequences(rows, sampled(np.arange(len(rows)), OCCLUSION_ROWS)))
        return self

    def predict(self, rows: Dataset) -> Answers:
        """Return ``p_up`` float64 ``[n, 1]`` and ``weights`` ``[n, L]``: one a bar, the newest last; they sum to 1.

        Raises:
            TrainingError: not fitted, or no windows.
        """
        module = self._fitted().module
        require_windows(self.name, rows, "sequence")
        with torch_session(self.spec):
            return network_answers(module, rows, self.inputs, self.outputs)

    def importance(self) -> dict[str, float]:
        """Return how much p(up)'s logit moves without each channel, as shares; they sum to 1."""
        self._fitted()
        return dict(self._importance)

    def to_onnx(self) -> bytes:
        """Return the ONNX graph; see :mod:`fx_dagster.models.onnx_export`."""
        from fx_dagster.models.onnx_export import labelled

        graph = export_network(self._fitted().module, {"sequence": self._example}, tuple(self.outputs))
        return labelled(graph, self.name, self.spec)

    def card(self) -> ModelCard:
        """Return the description of the fitted model."""
        import torch

        fitted = self._fitted()
        return ModelCard(
            name=self.name,
            feature_names=self.spec.feature_names,
            feature_hash=self.spec.feature_hash,
            rows=self._rows,
            up_share=self._up_share,
            seed=self.spec.seed,
            parameters={**PARAMETERS, "fit": fitted.to_dict()},
            importance=self.importance(),
            libraries={"torch": torch.__version__},
        )

    def _occluded(self, sequences: Float32) -> dict[str, float]:
        module = self._fitted().module
        cells = {channel: (..., column) for column, channel in enumerate(SEQUENCE_CHANNELS)}
        with torch_session(self.spec):
            return occlusion_shares(module.scale, lambda seen: module.attended(seen)[0], sequences, cells)

    def _fitted(self) -> FittedNetwork:
        if self._network is None:
            raise TrainingError(f"{self.name} is not fitted yet", mend="call fit first")
        return self._network


def _sequences(rows: Dataset, index: Int64) -> Float32:
    sequences: Float32 = tensors_of(rows.take(index), AttentionModel.inputs)["sequence"]
    return sequences


def _loss(module: Module, tensors: Tensors) -> Tensor:
    """Return the direction's binary cross-entropy, one a row."""
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    logit, _ = module.attended(module.scale(tensors["sequence"]))
    return cross_entropy(logit, tensors["y"], reduction="none")


def _network(sample: Float32) -> Module:
    """Return the network over sequences like ``sample`` ``[k, L, C]``."""
    import torch
    from torch import nn

    bars, channels = sample.shape[1:]

    class AttentionNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = standardiser(sample, axes=(0, 1))
            self.bar = nn.Linear(channels, WIDTH)
            self.age = nn.Parameter(0.1 * torch.randn(bars, WIDTH))
            self.keys = nn.Linear(WIDTH, WIDTH, bias=False)
            self.query = nn.Parameter(torch.randn(HEADS, WIDTH // HEADS))
            older = torch.arange(bars - 1, -1, -1, dtype=torch.float32)[:, None]
            self.recency = nn.Parameter(-older * torch.tensor(RECENCY))
            self.values = nn.Linear(WIDTH, WIDTH)
            self.dropout = nn.Dropout(DROPOUT)
            self.answer = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

        def attended(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
            """Return the logit ``[b]`` and each head's weights ``[b, L, heads]``."""
            seen = torch.relu(self.bar(sequence) + self.age)
            split = (-1, bars, HEADS, WIDTH // HEADS)
            scores = (self.keys(seen).reshape(split) * self.query).sum(dim=3) / (WIDTH / HEADS) ** 0.5
            weights = torch.softmax(scores + self.recency, dim=1)
            pooled = (weights[..., None] * self.values(seen).reshape(split)).sum(dim=1).reshape(-1, WIDTH)
            return self.answer(self.dropout(pooled))[:, 0], weights

        def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
            logit, weights = self.attended(self.scale(sequence))
            return torch.sigmoid(logit)[:, None], weights.mean(dim=2)

    return AttentionNetwork()
