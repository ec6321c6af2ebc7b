"""Search of parameters: nested, bounded, the same when it is interrupted and gone on with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.importance import log_loss
from fx_dagster.models.protocol import ModelSpec
from fx_dagster.models.random_forest import RandomForestModel
from fx_dagster.models.tuning import TUNABLE, Looked, Span, TunedParameters, search, with_tuned
from fx_dagster.models.xgboost import PARAMETERS, XGBoostModel

EMBARGO_NS = 6 * 3_600_000_000_000
TRIALS = 7


@pytest.fixture(scope="module")
def rows(make_dataset) -> Dataset:
    return make_dataset(800)


@pytest.fixture(scope="module")
def spec(rows: Dataset) -> ModelSpec:
    return rows.spec(seed=3, threads=1, rows_min=100)


@pytest.fixture(scope="module")
def whole(rows, spec):
    looked: list[Looked] = []
    return search("xgboost", spec, rows, trials=TRIALS, embargo_ns=EMBARGO_NS, looked=looked.append), looked


def test_every_set_is_told_of_and_the_own_parameters_come_first(whole) -> None:
    found, looked = whole
    assert [one.number for one in looked] == list(range(TRIALS))
    assert looked[0].parameters == TUNABLE["xgboost"].own_searched
    assert len({json.dumps(one.parameters) for one in looked}) == TRIALS
    assert found.tuned.trials == len(found.trials) == TRIALS
    assert found.tuned.own_log_loss == looked[0].log_loss


def test_the_best_set_that_went_through_is_chosen(whole) -> None:
    found, looked = whole
    best = min((one for one in looked if not one.given_up), key=lambda one: one.log_loss)
    assert found.tuned.parameters == best.parameters
    assert found.tuned.log_loss == best.log_loss <= found.tuned.own_log_loss
    assert found.tuned.given_up == sum(one.given_up for one in looked)
    found.tuned.require_bounds()


def test_a_sets_log_loss_is_that_of_purged_inner_folds(rows, spec, whole) -> None:
    from fx_dagster.features.splits import walk_forward

    losses = []
    for fold in walk_forward(rows.time, rows.end_time, folds=3, embargo_ns=EMBARGO_NS).folds:
        test = rows.take(fold.test)
        model = XGBoostModel(replace(spec, parameters=whole[0].tuned.parameters)).fit(rows.take(fold.train))
        losses.append(log_loss(test.y, model.predict(test)["p_up"][:, 0]))
    assert whole[0].tuned.log_loss == pytest.approx(np.mean(losses), abs=1e-12)


def test_a_search_that_is_gone_on_with_ends_like_one_that_was_not_interrupted(rows, spec, whole, tmp_path) -> None:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = str(tmp_path / "studies.log")
    told: list[int] = []

    def interrupt(one: Looked) -> None:
        told.append(one.number)
        if one.number == 3:
            raise KeyboardInterrupt

    keywords = {"trials": TRIALS, "embargo_ns": EMBARGO_NS, "looked": interrupt}
    with pytest.raises(KeyboardInterrupt):
        search("xgboost", spec, rows, storage=JournalStorage(JournalFileBackend(path)), **keywords)
    found = search("xgboost", spec, rows, storage=JournalStorage(JournalFileBackend(path)), **keywords)
    assert told == list(range(TRIALS))
    assert found.tuned == whole[0].tuned
    # Nothing is left to do, and other rows are another search.
    again = search("xgboost", spec, rows, storage=JournalStorage(JournalFileBackend(path)), **keywords)
    assert told == list(range(TRIALS))
    assert again.tuned == found.tuned
    fewer = search("xgboost", spec, rows.take(np.arange(700)), trials=1, embargo_ns=EMBARGO_NS)
    assert fewer.tuned.study != found.tuned.study


def test_a_set_worse_than_the_median_is_given_up(rows, spec) -> None:
    looked: list[Looked] = []
    search("random_forest", replace(spec, seed=1), rows, trials=12, embargo_ns=EMBARGO_NS, looked=looked.append)
    assert any(one.given_up for one in looked[5:])
    assert not any(one.given_up for one in looked[:5])


def test_too_few_rows_keep_the_familys_own_parameters(rows, spec) -> None:
    for few, why in ((replace(spec, rows_min=500), "500 are needed"), (spec, "too few to search on")):
        part = rows if few.rows_min == 500 else rows.take(np.arange(8))
        found = search("xgboost", few, part, trials=3, embargo_ns=EMBARGO_NS)
        assert why in found.tuned.note
        assert found.tuned.parameters == {}
        assert (found.tuned.trials, found.tuned.log_loss) == (0, None)
        json.dumps(found.tuned.parameters)


def test_the_choice_is_kept_and_used(rows, spec, whole, tmp_path: Path) -> None:
    tuned = whole[0].tuned
    tuned.save(tmp_path)
    assert TunedParameters.load(tmp_path, "xgboost") == tuned
    assert list(tmp_path.iterdir()) == [tmp_path / "xgboost.json"]
    later = with_tuned(spec, "xgboost", tmp_path, tuned.end)
    card = XGBoostModel(later).fit(rows).card()
    assert card.parameters == {**PARAMETERS, **tuned.parameters}
    assert with_tuned(spec, "lstm", tmp_path, tuned.end) is spec


def test_a_choice_that_saw_rows_which_are_reported_is_refused(spec, whole, tmp_path: Path) -> None:
    tuned = whole[0].tuned
    tuned.save(tmp_path)
    with pytest.raises(TrainingError, match="tuned on labels known until 2017-01-17"):
        with_tuned(spec, "xgboost", tmp_path, tuned.end - 1)


@pytest.mark.parametrize(
    ("change", "names"),
    [({"feature_hash": "f" * 16}, "features"), ({"symbols": ("XAUUSD",)}, "symbols"), ({"horizon_bars": 9}, "horizon")],
)
def test_a_choice_made_on_something_else_is_refused(spec, whole, tmp_path: Path, change, names) -> None:
    whole[0].tuned.save(tmp_path)
    with pytest.raises(TrainingError, match=f"tuned on other {names}"):
        with_tuned(replace(spec, **change), "xgboost", tmp_path, whole[0].tuned.end)


def test_a_choice_that_is_missing_broken_or_out_of_bounds_is_refused(spec, whole, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"xgboost.json: no tuned parameters"):
        with_tuned(spec, "xgboost", tmp_path, 0)
    (tmp_path / "xgboost.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"xgboost.json: no tuned parameters"):
        with_tuned(spec, "xgboost", tmp_path, 0)
    for wrong in ({"max_depth": 40}, {"max_depth": 2.5}, {"moon": 1}):
        with pytest.raises(TrainingError, match=f"out of bounds: {next(iter(wrong))}"):
            replace(whole[0].tuned, parameters=wrong).require_bounds()


def test_own_parameters_lie_inside_the_space() -> None:
    for tunable in TUNABLE.values():
        for name, what in tunable.space.items():
            own = tunable.own[name]
            assert what.holds(own) if isinstance(what, Span) else own in what


@pytest.mark.parametrize(
    ("family", "name", "value"), [(XGBoostModel, "learning_rate", 0.05), (RandomForestModel, "max_depth", 2)]
)
def test_a_family_takes_parameters_from_its_specification(family, name, value, rows, spec) -> None:
    model, own = family(replace(spec, parameters={name: value})).fit(rows), family(spec).fit(rows)
    assert model.card().parameters[name] == value != own.card().parameters[name]
    assert not np.array_equal(model.predict(rows)["p_up"], own.predict(rows)["p_up"])
    with pytest.raises(TrainingError, match=f"{family.name} has no parameter moon, tide"):
        family(replace(spec, parameters={"tide": 1, "moon": 1, name: value}))
