"""What the small neural networks of several families share: checks, the loop that fits them, answers and export.

A family brings a torch module whose ``forward`` takes raw tensors, in the order of ``Model.inputs``, and returns one
tensor ``[b, w]`` for each of ``Model.outputs``, in their order::

    require_windows(name, rows, "sequence")
    def build(fit):                        # int64 positions of the rows that weights are fitted on
        sample = tensors_of(rows.take(sampled(fit, rng)), ("sequence",))["sequence"]
        return network(standardiser(sample, axes=(0, 1)))       # means and scales [1, 1, C], as buffers
    def batch(index):                      # everything that the loss needs, gathered for these rows only
        return {**tensors_of(rows.take(index), inputs), "y": rows.y[index].astype(np.float32)}
    def loss(module, tensors):             # float32 [b], one a row
        return binary_cross_entropy_with_logits(module.logits(tensors["sequence"]), tensors["y"], reduction="none")
    fitted = fit_network(name, rows, spec, Training(), build=build, batch=batch, loss=loss)
    network_answers(fitted.module, rows, inputs, outputs)       # float64 [n, w] by output
    export_network(fitted.module, tensors_of(few, inputs), tuple(outputs))      # then onnx_export.labelled

Classes that derive from ``torch.nn.Module`` are made inside functions, because torch is imported only when needed.
"""

import copy
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import CHART_BARS, SEQUENCE_BARS
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.inputs import days
from fx_dagster.models.onnx_export import TARGET_OPSET
from fx_dagster.models.protocol import Float32, Float64, ModelSpec

if TYPE_CHECKING:
    import onnx

Int64 = NDArray[np.int64]
Module = Any
"""A ``torch.nn.Module``."""
Tensor = Any
"""A ``torch.Tensor``."""
Tensors = Mapping[str, Tensor]

SAMPLE_ROWS: Final = 20_000
"""Rows that means and scales are estimated from, at most."""
STANDARD_CLIP: Final = 8.0
"""Standardised inputs are clipped here: one bad bar must not drive a network."""
SCALE_FLOOR: Final = 1e-6
DIVERGENCE_MAX: Final = 2.0
"""An epoch whose mean training loss is this many times the first epoch's does not converge."""
BATCH_ROWS_MIN: Final = 32
_WARMUP_SHARE = 0.1
_RATE_LAST = 0.02
_PART_ROWS = 4_096


@dataclass(frozen=True)
class Training:
    """How a network is fitted.

    Attributes:
        epochs_max: epochs at most; the learning rate's schedule is as long.
        rows_per_epoch: rows that an epoch looks at, drawn anew without replacement. Labels of neighbouring bars
            overlap, so a part of the rows tells almost as much as all of them.
        batch_rows: rows of a step, at most.
        steps_min: steps of an epoch; where there are few rows, batches become smaller for it, down to
            :data:`BATCH_ROWS_MIN`.
        learning_rate: highest rate; it rises over the first tenth of the steps and falls as a cosine.
        weight_decay: AdamW's.
        gradient_norm_max: gradients are scaled down to this norm.
        patience: epochs without a better validation loss after which the fit ends.
        validation_share: newest part of the training rows, held back to choose the best epoch.
        validation_rows_max: rows of it that are looked at, evenly spaced.
    """

    epochs_max: int = 10
    rows_per_epoch: int = 60_000
    batch_rows: int = 512
    steps_min: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    gradient_norm_max: float = 1.0
    patience: int = 3
    validation_share: float = 0.1
    validation_rows_max: int = 20_000

    def scaled(self, effort: float) -> "Training":
        """Return the same with a share of the epochs and of each epoch's steps, at least one of each."""
        return replace(
            self,
            epochs_max=max(1, round(self.epochs_max * effort)),
            rows_per_epoch=max(1, round(self.rows_per_epoch * effort)),
            steps_min=max(1, round(self.steps_min * effort)),
        )

    def rows_of(self, fitted: int) -> tuple[int, int]:
        """Return the rows of an epoch and of a step where weights are fitted on ``fitted`` rows."""
        rows = min(self.rows_per_epoch, fitted)
        return rows, min(self.batch_rows, max(rows // self.steps_min, BATCH_ROWS_MIN))


@dataclass(frozen=True)
class Epoch:
    """What one epoch reached: mean losses, and whether it is the best one so far."""

    number: int
    training_loss: float
    validation_loss: float
    best: bool


@dataclass(frozen=True)
class FittedNetwork:
    """A fitted module on the CPU, in evaluation mode, with the weights of its best epoch.

    Attributes:
        module: the network.
        history: every epoch.
        fitted: positions of the rows that weights were fitted on.
        validated: positions of the rows that chose the epoch.
    """

    module: Module
    history: tuple[Epoch, ...]
    fitted: Int64
    validated: Int64

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values for a card."""
        best = min(self.history, key=lambda epoch: epoch.validation_loss)
        return {
            "epochs": len(self.history),
            "best_epoch": best.number,
            "validation_loss": best.validation_loss,
            "training_loss": best.training_loss,
            "rows_fitted": len(self.fitted),
            "rows_validated": len(self.validated),
        }


Build = Callable[[Int64], Module]
"""From the positions of the rows that weights are fitted on to a network; called after seeding."""
Batch = Callable[[Int64], Mapping[str, NDArray[Any]]]
"""From positions ``[b]`` to all arrays that the loss needs, inputs and targets, by name."""
Loss = Callable[[Module, Tensors], Tensor]
"""From a network and a batch's tensors to one loss a row, ``[b]``."""
Checkpoint = Callable[[Epoch, Mapping[str, Tensor]], None]
"""Called after every epoch with what it reached and a copy of the weights."""


def require_windows(name: str, rows: Dataset, what: Literal["sequence", "chart"]) -> None:
    """Check the windows that rows show; nothing is gathered, so it is cheap.

    Raises:
        TrainingError: the data set has no windows, or one that a row shows is not finite.
    """
    if rows.windows is None:
        raise TrainingError(f"{name}: the rows have no windows for a {what}", mend="build them with from_frames")
    windows = rows.windows
    sequence = what == "sequence"
    stores: tuple[NDArray[Any], ...] = (windows.channels,) if sequence else windows.bars
    reach = SEQUENCE_BARS if sequence else CHART_BARS
    broken = np.zeros(len(rows), dtype=bool)
    for column, store in enumerate(stores, start=0 if sequence else 1):
        bad = np.concatenate([[0], np.cumsum(~np.isfinite(store).all(axis=1))])
        newest = windows.at[:, column]
        broken |= bad[newest + 1] > bad[newest + 1 - reach]
    if broken.any():
        first = int(np.flatnonzero(broken)[0])
        raise TrainingError(
            f"{name}: NaN or infinite values in the {what} of {int(broken.sum())} rows, the first is row {first} "
            f"({rows.symbols[rows.symbol_code[first]]}, {np.datetime64(int(rows.time[first]), 'ns')})",
            mend="the feature checks show the bars; leave warm-up rows out",
        )


def tensors_of(rows: Dataset, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the named tensors of rows, in that order, as a graph takes them; no other window is gathered.

    Args:
        rows: few enough that their windows fit into memory, with windows where they are asked for.
        names: of :data:`fx_dagster.models.inputs.TENSORS`.
    """
    return {name: _TENSOR_OF[name](rows) for name in names}


_TENSOR_OF: Final[Mapping[str, Callable[[Any], NDArray[Any]]]] = {
    "features": lambda rows: np.ascontiguousarray(rows.X, dtype=np.float32),
    "sequence": lambda rows: rows.windows.sequence(),
    "chart": lambda rows: rows.windows.chart(),
    "time": lambda rows: days(rows.time)[:, None],
    "symbol": lambda rows: rows.symbol_code.astype(np.int64)[:, None],
}


def sampled(index: Int64, rows_max: int = SAMPLE_ROWS) -> Int64:
    """Return at most ``rows_max`` of some positions, evenly spaced."""
    if len(index) <= rows_max:
        return index
    return index[np.linspace(0, len(index) - 1, rows_max).astype(np.int64)]


def standardiser(sample: Float32, axes: tuple[int, ...]) -> Module:
    """Return a module that centres and scales raw tensors and clips them at ±:data:`STANDARD_CLIP`.

    Args:
        sample: training rows, float32 ``[k, …]``.
        axes: what means and scales are taken over; 0 is one of them. They are buffers, 1 long on these axes.
    """
    import torch

    class Standardiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            mean = sample.mean(axis=axes, keepdims=True, dtype=np.float64)
            scale = np.maximum(sample.std(axis=axes, keepdims=True, dtype=np.float64), SCALE_FLOOR)
            self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
            self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))

        def forward(self, raw: Tensor) -> Tensor:
            return ((raw - self.mean) / self.scale).clamp(-STANDARD_CLIP, STANDARD_CLIP)

    return Standardiser()


def held_back(name: str, rows: Dataset, share: float) -> tuple[Int64, Int64]:
    """Return positions of the rows that weights are fitted on, and of the newest ones, which choose the epoch.

    They are purged: no label of the first part is known only after the second has begun.

    Raises:
        TrainingError: one of the two would be empty.
    """
    first = np.sort(rows.time)[int((1.0 - share) * len(rows))]
    fit, validation = np.flatnonzero(rows.end_time <= first), np.flatnonzero(rows.time >= first)
    if not len(fit) or not len(validation):
        raise TrainingError(
            f"{name}: {len(rows)} rows leave {len(fit)} to fit and {len(validation)} to stop on",
            mend="use a longer history or a shorter horizon",
        )
    return fit.astype(np.int64), validation.astype(np.int64)


@contextmanager
def torch_session(spec: ModelSpec) -> Iterator[Any]:
    """Yield the device to fit on, with torch seeded and its threads set; both are as before afterwards.

    One thread: networks of this size lose more to handing work over than they gain, above all where other processes
    want the cores too.

    Raises:
        TrainingError: the GPU has too little memory.
    """
    import torch

    with torch_threads(1), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(spec.seed)
        try:
            yield torch.device("cuda" if torch.cuda.is_available() else "cpu")
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the GPU has too little memory to fit a network: {str(error).splitlines()[0]}",
                mend="end what else uses it, or fit on the CPU: set CUDA_VISIBLE_DEVICES to nothing",
            ) from error


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use so many threads of one operator meanwhile; 0: as many as it does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_network(
    name: str,
    rows: Dataset,
    spec: ModelSpec,
    training: Training,
    *,
    build: Build,
    batch: Batch,
    loss: Loss,
    validation_loss: Loss | None = None,
    sample_weight: Float64 | None = None,
    checkpoint: Checkpoint | None = None,
) -> FittedNetwork:
    """Fit a network with AdamW and keep the epoch with the best validation loss.

    The same seed, rows and threads give the same weights on a CPU.

    Args:
        name: the family, for messages.
        rows: training rows; ``batch`` gathers from them by position.
        spec: seed and threads.
        training: how long and how fast.
        build: makes the network.
        batch: gathers what a step needs.
        loss: one loss a row; what is minimised is its weighted mean.
        validation_loss: what chooses the epoch; None: ``loss``.
        sample_weight: weight of each row.
        checkpoint: called after every epoch.

    Raises:
        TrainingError: too few rows to hold some back, a loss that is not finite, or one that grows.
    """
    training = training.scaled(spec.effort)
    fit, validation = held_back(name, rows, training.validation_share)
    validation = sampled(validation, training.validation_rows_max)
    weight = np.ones(len(rows)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    with torch_session(spec) as device:
        rng = np.random.default_rng(spec.seed)
        module = build(fit).to(device)
        epoch_rows, batch_rows = training.rows_of(len(fit))
        steps = training.epochs_max * len(_batches(np.arange(epoch_rows), batch_rows))
        run_epoch = _epoch_runner(name, module, training, steps)
        history: list[Epoch] = []
        weights: dict[str, Tensor] = {}
        for number in range(1, training.epochs_max + 1):
            chosen = rng.permutation(fit)[:epoch_rows]
            learned = run_epoch(_batches(chosen, batch_rows), batch, loss, weight)
            judged = _mean_loss(module, validation, batch, validation_loss or loss, weight)
            history.append(_epoch(name, number, learned, judged, history))
            state = {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
            if history[-1].best:
                weights = state
            if checkpoint is not None:
                checkpoint(history[-1], state)
            if number - max(epoch.number for epoch in history if epoch.best) >= training.patience:
                break
        module.load_state_dict(weights)
        return FittedNetwork(module.cpu().eval(), tuple(history), fit, validation)


def network_answers(
    module: Module, rows: Dataset, inputs: Sequence[str], outputs: Mapping[str, int], *, threads: int = 1
) -> dict[str, Float64]:
    """Return what a network says of rows, float64 ``[n, w]`` by output; gathered in parts.

    Args:
        module: its ``forward`` takes ``inputs`` and returns one tensor for each of ``outputs``.
        rows: any number.
        inputs: names of its tensors, in order.
        outputs: columns of each of its outputs, in order.
        threads: torch's threads meanwhile; 0: as they are.
    """
    import torch

    said: dict[str, list[Float64]] = {name: [np.empty((0, width))] for name, width in outputs.items()}
    with torch_threads(threads), torch.no_grad():
        for part in rows.parts(_PART_ROWS):
            found = module(*(torch.from_numpy(values) for values in tensors_of(part, inputs).values()))
            for name, tensor in zip(outputs, found, strict=True):
                said[name].append(tensor.double().numpy().reshape(len(part), outputs[name]))
    return {name: np.concatenate(parts) for name, parts in said.items()}


def export_network(
    module: Module, example: Mapping[str, NDArray[Any]], outputs: Sequence[str], opset: int = TARGET_OPSET
) -> "onnx.ModelProto":
    """Return a network's graph with any number of rows; hand it to :func:`fx_dagster.models.onnx_export.labelled`.

    Torch's tracing exporter is used: the newer one needs a package that is not installed with torch and writes newer
    operators than the oldest served ONNX Runtime knows. ``forward`` must not branch on values or on the number of rows.

    Args:
        module: takes the tensors of ``example`` in order, returns a tensor or a tuple of them.
        example: two or more rows, by input name.
        outputs: names of its outputs, in order.
        opset: of the graph.
    """
    import onnx
    import torch

    content = io.BytesIO()
    with warnings.catch_warnings():
        for message in _EXPORT_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        torch.onnx.export(
            copy.deepcopy(module).cpu().eval(),
            tuple(torch.from_numpy(np.ascontiguousarray(values)) for values in example.values()),
            content,
            input_names=list(example),
            output_names=list(outputs),
            dynamic_axes={name: {0: "N"} for name in (*example, *outputs)},
            opset_version=opset,
            dynamo=False,
        )
    return onnx.load_from_string(content.getvalue())


_EXPORT_WARNINGS = (
    # The exporter's own end of life; torch is pinned.
    "You are using the legacy TorchScript-based ONNX export",
    "The feature will be removed",
    # Shape checks inside torch's layers; the number of rows stays free, which a test of each family proves.
    "Converting a tensor to a Python boolean",
    "Exporting a model to ONNX with a batch_size other than 1",
)


def _batches(index: Int64, rows: int) -> list[Int64]:
    """Return batches of ``rows``; a last one of less than half is left out, because its gradient is mostly noise."""
    parts = [index[first : first + rows] for first in range(0, len(index), rows)]
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) < rows / 2 else parts


def _on_device(arrays: Mapping[str, NDArray[Any]], module: Module) -> dict[str, Tensor]:
    import torch

    device = next(module.parameters()).device
    return {name: torch.from_numpy(np.ascontiguousarray(values)).to(device) for name, values in arrays.items()}


def _epoch_runner(name: str, module: Module, training: Training, steps: int) -> Callable[..., float]:
    """Return what runs one epoch and returns its mean loss; ``steps`` are those of all epochs."""
    import torch

    optimiser = torch.optim.AdamW(module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda number: _rate(number, steps))

    def epoch(batches: Sequence[Int64], batch: Batch, loss: Loss, weight: Float64) -> float:
        module.train()
        total = share = 0.0
        for index in batches:
            own = torch.from_numpy(weight[index].astype(np.float32)).to(next(module.parameters()).device)
            mean = (loss(module, _on_device(batch(index), module)) * own).sum() / own.sum()
            if not math.isfinite(float(mean.detach())):
                raise TrainingError(f"{name}: the loss is not finite", mend="lower the learning rate, check the inputs")
            optimiser.zero_grad(set_to_none=True)
            mean.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), training.gradient_norm_max)
            optimiser.step()
            schedule.step()
            total += float(mean.detach()) * float(own.sum())
            share += float(own.sum())
        return total / share

    return epoch


def _rate(number: int, steps: int) -> float:
    """Return the learning rate's factor at a step: a linear rise, then a cosine down to :data:`_RATE_LAST`."""
    warmup = max(int(_WARMUP_SHARE * steps), 1)
    if number < warmup:
        return (number + 1) / warmup
    phase = min((number - warmup) / max(steps - warmup, 1), 1.0)
    return _RATE_LAST + (1.0 - _RATE_LAST) * 0.5 * (1.0 + math.cos(math.pi * phase))


def _mean_loss(module: Module, index: Int64, batch: Batch, loss: Loss, weight: Float64) -> float:
    import torch

    module.eval()
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(index), _PART_ROWS):
            part = index[first : first + _PART_ROWS]
            values = loss(module, _on_device(batch(part), module)).double().cpu().numpy()
            total += float(values @ weight[part])
    return total / float(weight[index].sum())


def _epoch(name: str, number: int, learned: float, judged: float, history: Sequence[Epoch]) -> Epoch:
    if not math.isfinite(judged):
        raise TrainingError(f"{name}: the validation loss is not finite", mend="lower the learning rate")
    first = history[0].training_loss if history else learned
    if learned > first + (DIVERGENCE_MAX - 1.0) * abs(first):
        raise TrainingError(
            f"{name}: does not converge, the loss grew from {first:.4g} to {learned:.4g} in epoch {number}",
            mend="lower the learning rate",
        )
    best = not history or judged < min(epoch.validation_loss for epoch in history)
    return Epoch(number, learned, judged, best)
