"""Networks: purged validation, one seed one model, checks that name what is wrong, export with any number of rows."""

from dataclasses import replace

import numpy as np
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.models import networks
from fx_dagster.models.networks import Training
from fx_dagster.models.onnx_export import labelled, onnx_answers

QUICK = Training(epochs_max=3, rows_per_epoch=1_000, batch_rows=128, steps_min=4, learning_rate=1e-2)
INPUTS = ("sequence", "symbol")


def _network(standard):
    import torch

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.standard = standard
            self.dropout = torch.nn.Dropout(0.1)
            self.head = torch.nn.Linear(16, 1)

        def logit(self, sequence):
            return self.head(self.dropout(self.standard(sequence)[:, -1]))

        def forward(self, sequence, symbol):
            logit = self.logit(sequence)
            return torch.sigmoid(logit), logit * symbol

    return Small()


def _fit(rows, training=QUICK, *, factor=1.0, **options):
    import torch

    def build(fit):
        return _network(networks.standardiser(rows.take(fit).windows.sequence(), (0, 1)))

    def batch(index):
        return {**networks.tensors_of(rows.take(index), ("sequence",)), "y": rows.y[index].astype(np.float32)}

    def loss(module, tensors):
        logit = module.logit(tensors["sequence"])[:, 0] * factor
        return torch.nn.functional.binary_cross_entropy_with_logits(logit, tensors["y"], reduction="none")

    spec = rows.spec(seed=options.pop("seed", 7), threads=1)
    return networks.fit_network(
        "small", rows, spec, training, **{"build": build, "batch": batch, "loss": loss, **options}
    )


def _answers(fitted, rows):
    return networks.network_answers(fitted.module, rows, INPUTS, {"p_up": 1, "signed": 1})


def test_it_learns_and_the_same_seed_gives_the_same_weights(dataset):
    import torch

    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first, again, other = _fit(dataset), _fit(dataset), _fit(dataset, seed=8)
    said = _answers(first, dataset)["p_up"]
    assert np.corrcoef(said[:, 0], dataset.X[:, 0])[0, 1] > 0.5
    np.testing.assert_array_equal(said, _answers(again, dataset)["p_up"])
    assert np.abs(said - _answers(other, dataset)["p_up"]).max() > 0
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


def test_rows_held_back_are_the_newest_and_purged(dataset):
    fit, validation = networks.held_back("small", dataset, 0.1)
    assert len(validation) == pytest.approx(0.1 * len(dataset), abs=2)
    assert dataset.end_time[fit].max() <= dataset.time[validation].min()
    between = (dataset.time > dataset.time[fit].max()) & (dataset.time < dataset.time[validation].min())
    assert between.any(), "labels overlap, so rows must have been left out"
    with pytest.raises(TrainingError, match="leave 0 to fit"):
        networks.held_back("small", dataset.take(np.arange(2)), 0.1)


def test_means_and_scales_know_nothing_of_the_rows_that_choose_the_epoch(dataset):
    fitted = _fit(dataset)
    fit, everything = (
        rows.windows.sequence().mean(axis=(0, 1), keepdims=True, dtype=np.float64)
        for rows in (dataset.take(fitted.fitted), dataset)
    )
    mean = fitted.module.standard.mean.numpy()
    np.testing.assert_allclose(mean, fit, atol=1e-6)
    assert np.abs(mean - everything).max() > 1e-3


def test_the_best_epoch_is_kept_and_patience_ends_the_fit(dataset):
    seen = []
    hasty = replace(QUICK, epochs_max=30, patience=2, learning_rate=0.3)
    fitted = _fit(dataset, hasty, checkpoint=lambda epoch, weights: seen.append((epoch, weights)))
    best = fitted.to_dict()["best_epoch"]
    assert [epoch.number for epoch, _ in seen] == list(range(1, best + 3))
    np.testing.assert_array_equal(fitted.module.head.weight.detach(), seen[best - 1][1]["head.weight"])
    assert not fitted.module.head.weight.equal(seen[-1][1]["head.weight"])


def test_sample_weights_choose_what_is_learned(dataset):
    turned = dataset.with_labels(np.where(np.arange(len(dataset)) % 4 < 2, dataset.y, 1 - dataset.y).astype(np.int8))
    weight = np.where(np.arange(len(dataset)) % 4 < 2, 1.0, 1e-3)
    said = _answers(_fit(turned, replace(QUICK, epochs_max=8), sample_weight=weight), dataset)["p_up"][:, 0]
    assert np.corrcoef(said, dataset.X[:, 0])[0, 1] > 0.5


def test_a_loss_that_is_not_finite_is_refused(dataset):
    with pytest.raises(TrainingError, match="small: the loss is not finite"):
        _fit(dataset, factor=float("nan"))


def test_a_loss_that_grows_is_refused(dataset):
    with pytest.raises(TrainingError, match=r"small: does not converge, the loss grew from .* in epoch 2"):
        _fit(dataset, replace(QUICK, learning_rate=1e3, gradient_norm_max=1e6, epochs_max=10, patience=10))


def test_a_gpu_without_memory_is_named_and_torch_is_as_before(dataset):
    import torch

    threads, state = torch.get_num_threads(), torch.random.get_rng_state()

    def batch(index):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB\nmore")

    with pytest.raises(TrainingError, match=r"too little memory .* 20\.00 MiB → .*CUDA_VISIBLE_DEVICES"):
        _fit(dataset, batch=batch)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_few_rows_make_smaller_batches():
    assert Training().rows_of(1_000_000) == (60_000, 512)
    assert Training().rows_of(4_800) == (4_800, 150)
    assert Training().rows_of(100) == (100, networks.BATCH_ROWS_MIN)


@pytest.mark.parametrize(("what", "column"), [("sequence", 0), ("chart", 2)])
def test_windows_that_are_missing_or_not_finite_are_named(dataset, what, column):
    networks.require_windows("small", dataset, what)
    with pytest.raises(TrainingError, match=f"small: the rows have no windows for a {what}"):
        networks.require_windows("small", replace(dataset, windows=None), what)
    windows = dataset.windows
    stores = [windows.channels.copy(), *(store.copy() for store in windows.bars)]
    stores[column][windows.at[100, column], 3] = np.nan
    broken = replace(dataset, windows=replace(windows, channels=stores[0], bars=tuple(stores[1:])))
    with pytest.raises(TrainingError, match=rf"small: NaN or infinite values in the {what} of 48 rows.* row 100 .SIM"):
        networks.require_windows("small", broken, what)
    networks.require_windows("small", broken.take(np.arange(100)), what)


def test_the_standardiser_centres_and_clips():
    import torch

    sample = np.random.default_rng(1).normal([3.0, -2.0], [0.5, 7.0], (500, 9, 2)).astype(np.float32)
    sample[..., 1] = 4.0
    module = networks.standardiser(sample, (0, 1))
    out = module(torch.from_numpy(sample)).numpy()
    assert out[..., 0].mean() == pytest.approx(0.0, abs=1e-3)
    assert out[..., 0].std() == pytest.approx(1.0, abs=1e-2)
    assert (out[..., 1] == 0.0).all()
    assert module(torch.full((1, 9, 2), 1e9)).max() == networks.STANDARD_CLIP


@pytest.mark.parametrize("count", [1, 300])
def test_the_graph_says_what_the_network_says(dataset, count):
    fitted = _fit(dataset, replace(QUICK, epochs_max=1))
    graph = networks.export_network(
        fitted.module, networks.tensors_of(dataset.take(np.arange(2)), INPUTS), ("p_up", "signed")
    )
    content = labelled(graph, "small", dataset.spec(seed=7))
    rows = dataset.take(np.arange(count))
    said, expected = onnx_answers(content, rows.tensors()), _answers(fitted, rows)
    for name, values in expected.items():
        assert values.shape == said[name].shape == (count, 1)
        np.testing.assert_allclose(said[name], values, atol=1e-6)
