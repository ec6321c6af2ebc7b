"""A small convolutional network over charts: p(up), and which named patterns stand on the base timeframe.

Inside its graph every timeframe's chart is written as candles (:data:`CHANNELS`) and standardised. Charts have no
units, so that a double top looks the same on every timeframe: three causal convolutions, the last two of which halve
the number of bars, read all of them with the same weights. Patterns are told from the base timeframe's columns, the
direction from the mean, the maximum and the newest column of every timeframe.

The fit has two stages, because the two tasks differ in what they bear. Patterns follow rules and are learned over many
epochs. The direction is mostly noise, and what many epochs learn of it is the training rows: it is learned from there
on, slowly, together with the patterns (multi-task learning: Caruana, Machine Learning 28, 1997), and the epoch is
chosen by the direction's loss alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import CHART_BARS, CHART_ROWS
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
from fx_dagster.models.patterns import PATTERNS, Int8, label_patterns
from fx_dagster.models.protocol import OUTPUT_NAME, Answers, Float32, Float64, ModelCard, ModelSpec
from fx_dagster.models.rows import require_trainable

CHANNELS: Final = ("level", "volume", "body", "upper_wick", "lower_wick", "step")
"""What a chart is written as: close, log volume, close - open, both wicks, close - close before; prices in extents."""
FILTERS: Final = (16, 24, 32)
KERNEL_FIRST: Final = 5
COLUMNS: Final = CHART_BARS // 4
"""Columns that are left of the chart's bars."""
HIDDEN_PATTERNS: Final = 48
HIDDEN_DIRECTION: Final = 16
DROPOUT_PATTERNS: Final = 0.1
DROPOUT_DIRECTION: Final = 0.5
PATTERN_WEIGHT: Final = 2.0
"""Weight of the patterns' mean loss beside the direction's."""
PATTERN_TRAINING: Final = Training(epochs_max=10, rows_per_epoch=60_000, learning_rate=3e-3, patience=3)
DIRECTION_TRAINING: Final = Training(
    epochs_max=4, rows_per_epoch=60_000, learning_rate=1e-3, weight_decay=0.1, patience=2
)
OCCLUSION_ROWS: Final = 2_000

PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "filters": list(FILTERS),
        "kernel_first": KERNEL_FIRST,
        "hidden_patterns": HIDDEN_PATTERNS,
        "hidden_direction": HIDDEN_DIRECTION,
        "dropout_patterns": DROPOUT_PATTERNS,
        "dropout_direction": DROPOUT_DIRECTION,
        "pattern_weight": PATTERN_WEIGHT,
        "pattern_training": asdict(PATTERN_TRAINING),
        "direction_training": asdict(DIRECTION_TRAINING),
    }
)
"""The same for every data set; how they were chosen is told in ``docs/models/cnn.md``."""


class CnnModel:
    """p(up) and named patterns from the charts of T timeframes; T is the training rows'."""

    name = "cnn"
    inputs = ("chart",)
    outputs: ClassVar = MappingProxyType({OUTPUT_NAME: 1, "patterns": len(PATTERNS)})

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._stages: tuple[FittedNetwork, FittedNetwork] | None = None
        self._importance: dict[str, float] = {}
        self._pattern_shares: dict[str, float] = {}
        self._example: Float32 = np.empty((0, 0, CHART_ROWS, CHART_BARS), dtype=np.float32)
        self._rows = 0
        self._up_share = 0.0

    def fit(self, rows: Dataset, sample_weight: Float64 | None = None) -> Self:
        """Fit on the charts of training rows, labelled with direction and patterns.

        Raises:
            TrainingError: see :func:`fx_dagster.models.rows.require_trainable`; no windows, a window that is not
                finite, or a fit that does not converge.
            DataError: a price that is not positive.
        """
        require_trainable(self.name, rows.X, rows.y, sample_weight, self.spec)
        require_windows(self.name, rows, "chart")
        patterns = _patterns_of(rows)
        base_rates = patterns.mean(axis=0)

        def build(fit: Int64) -> Module:
            return _network(_charts(rows, sampled(fit)), base_rates)

        def batch(index: Int64) -> dict[str, NDArray[Any]]:
            return {
                "chart": _charts(rows, index),
                "y": rows.y[index].astype(np.float32),
                "patterns": patterns[index].astype(np.float32),
            }

        fit = partial(fit_network, self.name, rows, self.spec, batch=batch, sample_weight=sample_weight)
        first = fit(PATTERN_TRAINING, build=build, loss=_pattern_loss)
        second = fit(
            DIRECTION_TRAINING, build=lambda _: first.module, loss=_both_losses, validation_loss=_direction_loss
        )
        self._stages = (first, second)
        self._rows, self._up_share = len(rows), float(np.mean(rows.y))
        self._pattern_shares = dict(zip(PATTERNS, base_rates.tolist(), strict=True))
        self._example = _charts(rows, np.arange(2))
        self._importance = self._occluded(_charts(rows, sampled(np.arange(len(rows)), OCCLUSION_ROWS)))
        return self

    def predict(self, rows: Dataset) -> Answers:
        """Return ``p_up`` float64 ``[n, 1]`` and ``patterns`` ``[n, P]``, probabilities in the order of ``PATTERNS``.

        Raises:
            TrainingError: not fitted, no windows, or charts of another number of timeframes.
        """
        module = self._fitted()[1].module
        require_windows(self.name, rows, "chart")
        timeframes, found = self._example.shape[1], 0 if rows.windows is None else len(rows.windows.bars)
        if found != timeframes:
            raise TrainingError(
                f"{self.name}: charts of {found} timeframes, fitted on {timeframes}", mend="train the model again"
            )
        with torch_session(self.spec):
            return network_answers(module, rows, self.inputs, self.outputs)

    def importance(self) -> dict[str, float]:
        """Return how much p(up)'s logit moves without each timeframe's channel, as shares; they sum to 1.

        Timeframes are numbered as the catalogue's, the base first: ``chart_0_body`` is that of the base timeframe.
        """
        self._fitted()
        return dict(self._importance)

    def to_onnx(self) -> bytes:
        """Return the ONNX graph; see :mod:`fx_dagster.models.onnx_export`."""
        from fx_dagster.models.onnx_export import labelled

        graph = export_network(self._fitted()[1].module, {"chart": self._example}, tuple(self.outputs))
        return labelled(graph, self.name, self.spec)

    def card(self) -> ModelCard:
        """Return the description of the fitted model."""
        import torch

        patterns, direction = self._fitted()
        return ModelCard(
            name=self.name,
            feature_names=self.spec.feature_names,
            feature_hash=self.spec.feature_hash,
            rows=self._rows,
            up_share=self._up_share,
            seed=self.spec.seed,
            parameters={
                **PARAMETERS,
                "timeframes": self._example.shape[1],
                "pattern_shares": self._pattern_shares,
                "pattern_fit": patterns.to_dict(),
                "direction_fit": direction.to_dict(),
            },
            importance=self.importance(),
            libraries={"torch": torch.__version__},
        )

    def _occluded(self, charts: Float32) -> dict[str, float]:
        module = self._fitted()[1].module
        cells = {
            f"chart_{slot}_{channel}": (slice(None), slot, column)
            for slot in range(charts.shape[1])
            for column, channel in enumerate(CHANNELS)
        }
        with torch_session(self.spec):
            return occlusion_shares(module.standardised, module.direction_of, charts, cells)

    def _fitted(self) -> tuple[FittedNetwork, FittedNetwork]:
        """Return both stages; they share the module, whose weights are those of the second."""
        if self._stages is None:
            raise TrainingError(f"{self.name} is not fitted yet", mend="call fit first")
        return self._stages


def occlusion_shares(
    standardised: Callable[[Tensor], Tensor],
    logit: Callable[[Tensor], Tensor],
    raw: Float32,
    cells: Mapping[str, tuple[Any, ...]],
) -> dict[str, float]:
    """Return how much a logit moves on average when a part of the input is at its mean, as shares that sum to 1.

    Source: occlusion, Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (2014), section 4.2.

    Args:
        standardised: from raw tensors to those that a network reads, where 0 is the mean of training rows.
        logit: from these to ``[n]``.
        raw: some rows.
        cells: by name, the index of the part that is hidden.
    """
    import torch

    moved = {}
    with torch.no_grad():
        seen = standardised(torch.from_numpy(raw))
        usual = logit(seen)
        for name, cell in cells.items():
            hidden = seen.clone()
            hidden[cell] = 0.0
            moved[name] = float((logit(hidden) - usual).abs().double().mean())
    total = sum(moved.values())
    return {name: value / total if total > 0 else 1 / len(moved) for name, value in moved.items()}


def _charts(rows: Dataset, index: Int64) -> Float32:
    charts: Float32 = tensors_of(rows.take(index), CnnModel.inputs)["chart"]
    return charts


def _patterns_of(rows: Dataset) -> Int8:
    """Return the patterns of the base timeframe's charts, int8 ``[n, P]``."""
    return np.concatenate([label_patterns(part.windows.window(0)) for part in rows.parts() if part.windows is not None])


def _pattern_loss(module: Module, tensors: Tensors) -> Tensor:
    """Return the mean binary cross-entropy of the patterns, ``[b]``."""
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    patterns = module.patterns_of(module.standardised(tensors["chart"]))
    return cross_entropy(patterns, tensors["patterns"], reduction="none").mean(dim=1)


def _direction_loss(module: Module, tensors: Tensors) -> Tensor:
    """Return the binary cross-entropy of the direction, ``[b]``."""
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    direction = module.direction_of(module.standardised(tensors["chart"]))
    return cross_entropy(direction, tensors["y"], reduction="none")


def _both_losses(module: Module, tensors: Tensors) -> Tensor:
    """Return the direction's loss and the weighted one of the patterns, ``[b]``."""
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    direction, patterns = module.heads(module.standardised(tensors["chart"]))
    named = cross_entropy(patterns, tensors["patterns"], reduction="none").mean(dim=1)
    return cross_entropy(direction, tensors["y"], reduction="none") + PATTERN_WEIGHT * named


def _as_candles(chart: Tensor) -> Tensor:
    """Return charts ``[b, T, 5, W]`` as :data:`CHANNELS`, ``[b, T, 6, W]``: a candle's wicks beside levels 50 away."""
    import torch

    opens, high, low, close, volume = (chart[:, :, row] for row in range(CHART_ROWS))
    step = close - torch.cat([close[..., :1], close[..., :-1]], dim=2)
    upper, lower = high - torch.maximum(opens, close), torch.minimum(opens, close) - low
    return torch.stack([close, volume, close - opens, upper, lower, step], dim=2)


def _convolutions() -> Module:
    """Return the network of one chart: candles ``[b, 6, W]`` to columns ``[b, 32, W/4]``, newest last."""
    import torch
    from torch import nn

    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first, second, third = FILTERS
            self.look = nn.Conv1d(len(CHANNELS), first, KERNEL_FIRST, padding=KERNEL_FIRST - 1)
            # What it makes of a bar may depend on the bar's age.
            self.age = nn.Parameter(torch.zeros(first, CHART_BARS))
            # Of an even number of bars, a stride of 2 reads the padding on the older side only.
            self.rest = nn.Sequential(
                nn.BatchNorm1d(first), nn.ReLU(),
                nn.Conv1d(first, second, 3, stride=2, padding=1), nn.BatchNorm1d(second), nn.ReLU(),
                nn.Conv1d(second, third, 3, stride=2, padding=1), nn.BatchNorm1d(third), nn.ReLU(),
            )  # fmt: skip

        def forward(self, candles: Tensor) -> Tensor:
            # Without the columns that end behind the newest bar: causal.
            return self.rest(self.look(candles)[:, :, :CHART_BARS] + self.age)

    return Convolutions()


def _network(sample: Float32, base_rates: Float64) -> Module:
    """Return the network over charts like ``sample`` ``[k, T, 5, W]``; pattern answers start at their base rates."""
    import torch
    from torch import nn

    timeframes, width = sample.shape[1], FILTERS[-1]

    class ChartNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = standardiser(_as_candles(torch.from_numpy(sample)).numpy(), axes=(0, 3))
            self.convolutions = _convolutions()
            self.patterns = _head(COLUMNS * width, HIDDEN_PATTERNS, len(PATTERNS), DROPOUT_PATTERNS)
            self.direction = _head(3 * width * timeframes, HIDDEN_DIRECTION, 1, DROPOUT_DIRECTION)
            rates = torch.from_numpy(base_rates.clip(1e-4, 1.0 - 1e-4))
            self.patterns[-1].bias.data.copy_(torch.logit(rates))

        def standardised(self, chart: Tensor) -> Tensor:
            return self.scale(_as_candles(chart))

        def patterns_of(self, candles: Tensor) -> Tensor:
            """Return the patterns' logits ``[b, P]``; only the base timeframe is read."""
            return self.patterns(self.convolutions(candles[:, 0]).flatten(1))

        def direction_of(self, candles: Tensor) -> Tensor:
            """Return the direction's logit ``[b]``."""
            return self.heads(candles)[0]

        def heads(self, candles: Tensor) -> tuple[Tensor, Tensor]:
            columns = self.convolutions(candles.flatten(0, 1))
            pooled = torch.cat([columns.mean(dim=2), columns.amax(dim=2), columns[:, :, -1]], dim=1)
            direction = self.direction(pooled.reshape(-1, timeframes * 3 * width))[:, 0]
            base = columns.reshape(-1, timeframes, width, COLUMNS)[:, 0]
            return direction, self.patterns(base.flatten(1))

        def forward(self, chart: Tensor) -> tuple[Tensor, Tensor]:
            direction, patterns = self.heads(self.standardised(chart))
            return torch.sigmoid(direction)[:, None], torch.sigmoid(patterns)

    return ChartNetwork()


def _head(inputs: int, hidden: int, outputs: int, dropout: float) -> Module:
    from torch import nn

    return nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
