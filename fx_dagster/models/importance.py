"""What features are worth on rows that a model has not seen: how much worse it gets when they are shuffled.

A family's own importance is measured on the rows that it was fitted on, and shares out among correlated features what
each of them could do alone. Here groups of features are shuffled together, and the log-loss of test rows tells (Breiman
2001; grouped as in Gregorutti, Michel & Saint-Pierre 2015).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import FeatureCatalogue
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.protocol import INPUT_NAME, OUTPUT_NAME, Float64, Int8, Model, ModelFactory, ModelSpec
from fx_dagster.models.training import Index, Progress, Split, require_no_leak

Groups = Mapping[str, tuple[str, ...]]
"""Names of features by the name of their group; a feature may be in several."""

TRADITIONAL = "traditional indicators"
"""All features that come from indicators, of every timeframe."""

REPEATS = 3
ROWS_MAX = 20_000
"""Test rows of a fold that are asked, at most: each group asks all of them again."""

_EPSILON = 1e-7
_LEVELS = frozenset({"support", "resistance"})
_FROM_INDICATORS = frozenset({"indicator", "context"})


@dataclass(frozen=True)
class GroupImportance:
    """What one group of features is worth.

    Attributes:
        group: its name.
        features: number of its features.
        increase: mean increase of the log-loss (nats) when it is shuffled, over folds and repeats.
        low: lower bound of its 95 % interval.
        high: upper bound.
        by_fold: mean over the repeats in each fold.
    """

    group: str
    features: int
    increase: float
    low: float
    high: float
    by_fold: tuple[float, ...]


@dataclass(frozen=True)
class ImportanceResult:
    """What every group is worth to one family, the most important first.

    Attributes:
        name: the family.
        log_loss: mean log-loss of the test rows that were asked, nothing shuffled, nats.
        groups: one entry a group.
    """

    name: str
    log_loss: float
    groups: tuple[GroupImportance, ...]

    def frame(self) -> pd.DataFrame:
        """Return one row a group: ``family, group, features, increase, low, high, folds_worse``."""
        return pd.DataFrame(
            [
                {
                    "family": self.name,
                    "group": one.group,
                    "features": one.features,
                    "increase": one.increase,
                    "low": one.low,
                    "high": one.high,
                    "folds_worse": sum(value > 0 for value in one.by_fold),
                }
                for one in self.groups
            ]
        )


def feature_groups(catalogue: FeatureCatalogue) -> dict[str, tuple[str, ...]]:
    """Return the groups of a catalogue: its own, all features from indicators, and those of each indicator.

    An indicator's group holds its features of every timeframe.
    """
    found: dict[str, list[str]] = {TRADITIONAL: []}
    for feature in catalogue.features:
        found.setdefault(feature.group, []).append(feature.name)
        if feature.group in _FROM_INDICATORS:
            found[TRADITIONAL].append(feature.name)
            stem = feature.name.removeprefix(f"{feature.timeframe}_").split("_")[0]
            found.setdefault(f"indicator {'levels' if stem in _LEVELS else stem}", []).append(feature.name)
    return {group: tuple(names) for group, names in found.items() if names}


def permutation_importance(
    factory: ModelFactory,
    spec: ModelSpec,
    dataset: Dataset,
    splits: Iterable[Split],
    groups: Groups,
    *,
    repeats: int = REPEATS,
    rows_max: int = ROWS_MAX,
    progress: Progress | None = None,
) -> ImportanceResult:
    """Fit one model a split and shuffle groups of features of its test rows.

    The columns of a group are shuffled by the same order, so that what they say together stays as it was. The interval
    is Student's over the folds: their test rows are others, so that it tells whether a group matters at any time. Folds
    share training rows, which makes it a little too narrow.

    Args:
        factory: a family whose only input are features.
        spec: of its models.
        dataset: n rows.
        splits: two or more, as of a walk-forward.
        groups: what is shuffled together.
        repeats: orders that each group is shuffled by.
        rows_max: test rows of a fold that are asked, at most, drawn by ``spec.seed``.
        progress: told after each fold.

    Raises:
        TrainingError: there are fewer than two splits, one leaks, a group names an unknown feature, the family looks at
            more than features, or a fit is refused.
    """
    places = _places(spec, groups)
    pairs = list(splits)
    if len(pairs) < 2:
        raise TrainingError(f"{len(pairs)} folds tell no interval", mend="use at least 2 folds")
    base, worse, name = [], [], ""
    for number, (train, test) in enumerate(pairs):
        require_no_leak(dataset, train, test, number)
        model = factory(spec)
        _require_features_only(model)
        model.fit(dataset.take(train))
        rng = np.random.default_rng((spec.seed, number))
        asked = dataset.take(_drawn(test, rows_max, rng))
        usual, shuffled = _increases(model, asked, places, repeats, rng)
        base.append(usual)
        worse.append(shuffled)
        name = model.name
        if progress is not None:
            progress(name, number + 1, len(pairs))
    found = [_weighed(group, len(places[group]), np.array([fold[group] for fold in worse])) for group in places]
    return ImportanceResult(name, float(np.mean(base)), tuple(sorted(found, key=lambda one: -one.increase)))


def _places(spec: ModelSpec, groups: Groups) -> dict[str, list[int]]:
    place = {name: number for number, name in enumerate(spec.feature_names)}
    unknown = sorted({name for names in groups.values() for name in names} - set(place))
    if unknown:
        raise TrainingError(f"no feature is named {', '.join(unknown[:5])}", mend="take the groups of its catalogue")
    return {group: [place[name] for name in names] for group, names in groups.items()}


def _require_features_only(model: Model) -> None:
    if tuple(model.inputs) != (INPUT_NAME,):
        raise TrainingError(
            f"{model.name} looks at {', '.join(model.inputs)}: shuffled features leave the rest as it was",
            mend="ask a family whose only input are features",
        )


def _drawn(test: Index, rows_max: int, rng: np.random.Generator) -> Index:
    return test if len(test) <= rows_max else np.sort(rng.choice(test, rows_max, replace=False))


def _increases(
    model: Model, rows: Dataset, places: Mapping[str, list[int]], repeats: int, rng: np.random.Generator
) -> tuple[float, dict[str, float]]:
    """Return the log-loss of the rows, and by how much it grows on average when each group is shuffled."""
    usual = log_loss(rows.y, model.predict(rows)[OUTPUT_NAME][:, 0])
    orders = [rng.permutation(len(rows)) for _ in range(repeats)]
    grown = {}
    for group, columns in places.items():
        losses = []
        for order in orders:
            X = rows.X.copy()
            X[:, columns] = rows.X[order][:, columns]
            losses.append(log_loss(rows.y, model.predict(replace(rows, X=X))[OUTPUT_NAME][:, 0]))
        grown[group] = float(np.mean(losses)) - usual
    return usual, grown


def log_loss(y: Int8, p_up: Float64) -> float:
    """Return the mean negative log-likelihood, nats; of one class only too."""
    said = np.clip(np.where(y == 1, p_up, 1 - p_up), _EPSILON, 1.0)
    return float(-np.mean(np.log(said)))


def _weighed(group: str, features: int, by_fold: Float64) -> GroupImportance:
    """Return a group's mean with Student's interval over the folds."""
    from scipy.stats import t

    mean, half = float(by_fold.mean()), 0.0
    deviation = float(by_fold.std(ddof=1))
    if deviation > 0:
        half = float(t.ppf(0.975, len(by_fold) - 1)) * deviation / len(by_fold) ** 0.5
    return GroupImportance(group, features, mean, mean - half, mean + half, tuple(by_fold.tolist()))
