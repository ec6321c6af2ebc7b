"""Price forecast: Prophet's trend and seasons, and an LSTM on what they leave.

Prophet says what a symbol's price does by the calendar (:mod:`fx_dagster.models.prophet`). The LSTM (Hochreiter and
Schmidhuber 1997) looks at the last bars' features and learns the rest: the forward return less Prophet's, in standard
deviations of the horizon's return. A second head says p(up); it sees the LSTM's state and Prophet's forecast. While
the network is fitted, Prophet's forecast of a row comes from a Prophet that saw only earlier rows.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import SEQUENCE_BARS, SEQUENCE_CHANNELS
from fx_dagster.models import prophet
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
)
from fx_dagster.models.protocol import OUTPUT_NAME, Answers, Float64, ModelCard, ModelSpec
from fx_dagster.models.rows import require_trainable

PARAMETERS: Mapping[str, Any] = MappingProxyType(
    {
        # Small and heavily regularised: the signal in price bars is weak beside the noise.
        "hidden": 32,
        "dropout": 0.3,
        "weight_decay": 0.05,
        "learning_rate": 2e-3,
        "epochs_max": 8,
        "patience": 3,
        # Labels of neighbouring bars overlap: a quarter of the rows tells almost as much as all of them.
        "rows_per_epoch": 50_000,
        "batch_rows": 512,
        "return_weight": 0.5,
        "target_max": 5.0,
    }
)
"""The same for every data set: never tuned on what is reported. ``target_max``: returns beyond so many deviations are
cut, ``return_weight``: weight of the return's Huber loss beside the direction's cross-entropy."""

_IMPORTANCE_ROWS = 2_000
_THREADS = 1
"""An LSTM goes through its bars one after the other; its steps are too small to be worth sharing out."""
PROPHET_RETURN = "prophet_return"
EXPECTED_RETURN = "expected_return"


class LstmModel:
    """Expected log return over the horizon, Prophet's part of it, and p(up)."""

    name = "lstm"
    inputs = ("sequence", "time", "symbol")
    outputs: ClassVar = MappingProxyType({OUTPUT_NAME: 1, EXPECTED_RETURN: 1, PROPHET_RETURN: 1})

    def __init__(self, spec: ModelSpec, parameters: Mapping[str, Any] | None = None) -> None:
        self.spec = spec
        self.parameters = {**PARAMETERS, **(parameters or {})}
        self._network: FittedNetwork | None = None
        self._importance: dict[str, float] = {}
        self._rows = 0
        self._up_share = 0.0

    def fit(self, rows: Dataset, sample_weight: Float64 | None = None) -> Self:
        """Fit on the sequences, closes and forward returns of training rows.

        Raises:
            TrainingError: see :func:`fx_dagster.models.rows.require_trainable`; no windows, a sequence or return that
                is not finite, or a fit that does not converge.
        """
        require_trainable(self.name, rows.X, rows.y, sample_weight, self.spec)
        require_windows(self.name, rows, "sequence")
        if not np.isfinite(rows.forward_return).all():
            raise TrainingError(f"{self.name}: forward returns are not finite", mend="materialise the labels again")
        volatility = prophet.horizon_volatility(rows)
        units = volatility[rows.symbol_code.astype(np.int64) + 1]
        expected = prophet.walked_forward(rows, volatility, seed=self.spec.seed) / units
        limit = self.parameters["target_max"]
        target = np.clip(rows.forward_return / units - expected, -limit, limit)
        columns = {
            "expected": expected.astype(np.float32)[:, None],
            "target": target.astype(np.float32),
            "up": rows.y.astype(np.float32),
        }
        forecast = prophet.fit_prophet(rows, volatility, seed=self.spec.seed)

        def build(fit: Int64) -> Module:
            sample = tensors_of(rows.take(sampled(fit)), ("sequence",))["sequence"]
            return forecast_network(
                standardiser(sample, (0, 1)), prophet.prophet_module(forecast), volatility, self.parameters
            )

        def batch(index: Int64) -> dict[str, Any]:
            drawn = tensors_of(rows.take(index), ("sequence",))
            return {**drawn, **{name: values[index] for name, values in columns.items()}}

        self._network = fit_network(
            self.name,
            rows,
            replace(self.spec, threads=_THREADS),
            self._training(),
            build=build,
            batch=batch,
            loss=self._loss,
            sample_weight=sample_weight,
        )
        self._rows, self._up_share = len(rows), float(np.mean(rows.y))
        self._importance = _importance(self._network.module, batch(sampled(self._network.fitted, _IMPORTANCE_ROWS)))
        return self

    def predict(self, rows: Dataset) -> Answers:
        """Return ``p_up``, ``expected_return`` and ``prophet_return`` (log returns), float64 ``[n, 1]`` each."""
        return network_answers(self._fitted().module, rows, self.inputs, self.outputs, threads=_THREADS)

    def importance(self) -> dict[str, float]:
        """Return each channel's and Prophet's share in the direction's logit, by gradient times input; sums to 1."""
        self._fitted()
        return dict(self._importance)

    def to_onnx(self) -> bytes:
        """Return the ONNX graph: Prophet's formula in double, standardiser and LSTM in single precision."""
        from fx_dagster.models.onnx_export import labelled

        example: dict[str, NDArray[Any]] = {
            "sequence": np.zeros((2, SEQUENCE_BARS, len(SEQUENCE_CHANNELS)), np.float32),
            "time": np.zeros((2, 1)),
            "symbol": np.zeros((2, 1), np.int64),
        }
        return labelled(export_network(self._fitted().module, example, tuple(self.outputs)), self.name, self.spec)

    def card(self) -> ModelCard:
        """Return the description of the fitted model."""
        import prophet as prophet_library
        import torch

        return ModelCard(
            name=self.name,
            feature_names=self.spec.feature_names,
            feature_hash=self.spec.feature_hash,
            rows=self._rows,
            up_share=self._up_share,
            seed=self.spec.seed,
            parameters={**self.parameters, "prophet": dict(prophet.PARAMETERS), "fit": self._fitted().to_dict()},
            importance=self.importance(),
            libraries={"torch": torch.__version__, "prophet": prophet_library.__version__},
        )

    def _training(self) -> Training:
        names = ("epochs_max", "rows_per_epoch", "batch_rows", "learning_rate", "weight_decay", "patience")
        return Training(**{name: self.parameters[name] for name in names})

    def _loss(self, module: Module, tensors: Tensors) -> Tensor:
        """Return cross-entropy of the direction plus Huber's loss of the return, ``[b]``."""
        from torch.nn import functional

        logit, residual = module.heads(tensors["sequence"], tensors["expected"])
        direction = functional.binary_cross_entropy_with_logits(logit[:, 0], tensors["up"], reduction="none")
        size = functional.huber_loss(residual[:, 0], tensors["target"], reduction="none")
        return direction + self.parameters["return_weight"] * size

    def _fitted(self) -> FittedNetwork:
        if self._network is None:
            raise TrainingError(f"{self.name} is not fitted yet", mend="call fit first")
        return self._network


def forecast_network(
    standard: Module, prophet_return: Module, volatility: Float64, parameters: Mapping[str, Any]
) -> Module:
    """Return the network; ``forward`` takes ``sequence``, ``time`` and ``symbol`` as a graph does.

    Args:
        standard: standardises a sequence.
        prophet_return: from time and symbol to the expected log return, in double.
        volatility: of the horizon's log return, float64 ``[1 + S]``; the first is of a symbol that is not known.
        parameters: see :data:`PARAMETERS`.
    """
    import torch

    class ForecastNetwork(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            hidden = parameters["hidden"]
            self.standard = standard
            self.prophet_return = prophet_return
            self.register_buffer("volatility", torch.from_numpy(volatility))
            self.lstm = torch.nn.LSTM(len(SEQUENCE_CHANNELS), hidden, batch_first=True)
            self.dropout = torch.nn.Dropout(parameters["dropout"])
            self.direction = torch.nn.Linear(hidden + 1, 1)
            self.residual = torch.nn.Linear(hidden, 1)

        def heads(self, sequence: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
            """Return the direction's logit and the rest of the return in standard deviations, ``[b, 1]`` each."""
            return self.standardised_heads(self.standard(sequence), expected)

        def standardised_heads(self, sequence: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
            state = self.dropout(self.lstm(sequence)[0][:, -1])
            return self.direction(torch.cat([state, expected], dim=1)), self.residual(state)

        def forward(self, sequence: Tensor, time: Tensor, symbol: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            calendar = self.prophet_return(time, symbol)
            unit = self.volatility[symbol[:, 0] + 1][:, None]
            logit, residual = self.heads(sequence, (calendar / unit).float())
            return torch.sigmoid(logit), (calendar + unit * residual.double()).float(), calendar.float()

    return ForecastNetwork()


def _importance(module: Module, arrays: Mapping[str, Any]) -> dict[str, float]:
    """Return mean |gradient · input| of the direction's logit by channel, summed over bars, as shares."""
    import torch

    sequence = module.standard(torch.from_numpy(arrays["sequence"])).requires_grad_()
    expected = torch.from_numpy(arrays["expected"]).requires_grad_()
    logit, _ = module.standardised_heads(sequence, expected)
    by_sequence, by_prophet = torch.autograd.grad(logit.sum(), (sequence, expected))
    shares = (by_sequence * sequence).detach().abs().sum(dim=1).mean(dim=0).double().tolist()
    shares.append(float((by_prophet * expected).detach().abs().mean()))
    total = sum(shares)
    names = (*SEQUENCE_CHANNELS, PROPHET_RETURN)
    return {name: share / total if total > 0 else 1 / len(names) for name, share in zip(names, shares, strict=True)}
