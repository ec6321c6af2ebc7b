"""Parameters of the tree families by search, nested inside what is reported.

The search sees only rows before the first test fold of the walk-forward: whatever it chooses, no row that a model is
judged on has had a say in it. Inside those rows it is judged by a purged walk-forward of its own. The sampler is the
tree-structured Parzen estimator (Bergstra et al. 2011) of Optuna; a set of parameters that is worse than the median
after a fold is given up.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import pandas as pd

from fx_dagster.errors import DataError, TrainingError
from fx_dagster.features.splits import walk_forward
from fx_dagster.models import random_forest, xgboost
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.importance import log_loss
from fx_dagster.models.protocol import OUTPUT_NAME, ModelFactory, ModelSpec
from fx_dagster.models.training import Split, require_no_leak

INNER_FOLDS = 3
STARTUP_TRIALS = 10
"""Sets drawn at random before the sampler learns from them."""

_COMPARED_MIN = 5
"""Sets that went through all folds before one is given up for being worse than they."""


@dataclass(frozen=True)
class Span:
    """Values from ``low`` to ``high``, both included; ``log``: by orders of magnitude, ``step``: whole numbers only."""

    low: float
    high: float
    log: bool = False
    step: int = 0

    def holds(self, value: Any) -> bool:
        """Return whether a value may be chosen."""
        inside = self.low <= value <= self.high
        return bool(inside and (not self.step or (value - self.low) % self.step == 0))


Space = Mapping[str, Span | tuple[Any, ...]]
"""What each parameter may be: a span, or one of some values."""


@dataclass(frozen=True)
class Tunable:
    """A family whose parameters are searched: its factory, its own parameters, and what they may become."""

    factory: ModelFactory
    own: Mapping[str, Any]
    space: Space

    @property
    def own_searched(self) -> dict[str, Any]:
        """The family's own values of the parameters that are searched."""
        return {name: self.own[name] for name in self.space}


TUNABLE: Mapping[str, Tunable] = MappingProxyType(
    {
        xgboost.XGBoostModel.name: Tunable(
            xgboost.XGBoostModel,
            xgboost.PARAMETERS,
            {
                "n_estimators": Span(100, 400, step=50),
                "max_depth": Span(2, 6, step=1),
                "learning_rate": Span(0.01, 0.1, log=True),
                "subsample": Span(0.3, 0.9),
                "colsample_bytree": Span(0.3, 0.9),
                "min_child_weight": Span(10, 300, log=True, step=1),
                "reg_lambda": Span(1.0, 100.0, log=True),
            },
        ),
        random_forest.RandomForestModel.name: Tunable(
            random_forest.RandomForestModel,
            random_forest.PARAMETERS,
            # More trees are never worse, only slower.
            {
                "max_depth": Span(4, 12, step=1),
                "max_features": ("log2", "sqrt", 0.2),
                "min_samples_leaf": Span(20, 400, log=True, step=1),
            },
        ),
    }
)
"""The families that are quick enough to be fitted a hundred times."""


@dataclass(frozen=True)
class Looked:
    """One set of parameters that was tried; ``log_loss`` is the mean of the folds that it went through, nats."""

    family: str
    number: int
    parameters: Mapping[str, Any]
    log_loss: float
    given_up: bool


@dataclass(frozen=True)
class TunedParameters:
    """What a search chose, and what it was allowed to see. Plain values only: it is written as JSON.

    Attributes:
        family: whose parameters.
        parameters: the chosen ones; empty: the family's own.
        log_loss: mean over the inner folds, nats; None: nothing was tried.
        own_log_loss: that of the family's own parameters; None: not tried to the end.
        trials: sets that were tried.
        given_up: those among them that did not go through all folds.
        rows: rows that the search saw.
        start: first row's time, ns UTC.
        end: when the last label that the search saw was known, ns UTC.
        feature_hash: hash of the feature catalogue.
        symbols: canonical symbols.
        base: timeframe of the rows.
        horizon_bars: bars after which a label is known.
        seed: of sampler and models.
        study: name of the search in its storage.
        note: why nothing was tried.
    """

    family: str
    parameters: Mapping[str, Any]
    log_loss: float | None
    own_log_loss: float | None
    trials: int
    given_up: int
    rows: int
    start: int
    end: int
    feature_hash: str
    symbols: tuple[str, ...]
    base: str
    horizon_bars: int
    seed: int
    study: str
    note: str = ""

    def save(self, folder: Path) -> None:
        """Write ``<family>.json`` into ``folder``, aside and then renamed."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.family}.json"
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False))
        aside.replace(path)

    @classmethod
    def load(cls, folder: Path, family: str) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            TrainingError: the file is missing or not readable; the message names it.
        """
        path = folder / f"{family}.json"
        try:
            plain = json.loads(path.read_bytes())
            return cls(**{**plain, "symbols": tuple(plain["symbols"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise TrainingError(
                f"{path}: no tuned parameters ({error})",
                mend="materialise the asset hyperparameters, or set FX_TRAINING_TUNED=false",
            ) from error

    def require_fits(self, spec: ModelSpec, test_start: int) -> None:
        """Refuse parameters that were chosen on other features, or by rows that are reported on.

        Args:
            spec: of the models that would use them.
            test_start: beginning of the first test fold, ns UTC.

        Raises:
            TrainingError: they do not fit; the message says what differs.
        """
        mine = (self.feature_hash, self.symbols, self.base, self.horizon_bars)
        other = (spec.feature_hash, spec.symbols, spec.base.value, spec.horizon_bars)
        names = ("features", "symbols", "timeframe", "horizon")
        differs = [name for name, a, b in zip(names, mine, other, strict=True) if a != b]
        if differs:
            raise TrainingError(
                f"parameters of {self.family} were tuned on other {', '.join(differs)}",
                mend="materialise the asset hyperparameters again, or set FX_TRAINING_TUNED=false",
            )
        if self.end > test_start:
            raise TrainingError(
                f"parameters of {self.family} were tuned on labels known until {_utc(self.end)}, the first test fold "
                f"begins {_utc(test_start)}",
                mend="materialise the asset hyperparameters again, or set FX_TRAINING_TUNED=false",
            )

    def require_bounds(self) -> None:
        """Refuse parameters that the search could not have chosen.

        Raises:
            TrainingError: one is unknown or out of bounds; the message names it.
        """
        space = TUNABLE[self.family].space
        wrong = [name for name, value in self.parameters.items() if name not in space or not _holds(space[name], value)]
        if wrong:
            raise TrainingError(
                f"parameters of {self.family} are out of bounds: {', '.join(wrong)}",
                mend="materialise the asset hyperparameters again",
            )


def _holds(what: Span | tuple[Any, ...], value: Any) -> bool:
    return value in what if isinstance(what, tuple) else what.holds(value)


def _utc(time_ns: int) -> str:
    return f"{pd.Timestamp(time_ns, tz='UTC'):%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class Search:
    """What came of a search: the chosen parameters, and one row a set of parameters that was tried.

    ``trials`` has ``number, log_loss, given_up`` and the parameters' names as columns.
    """

    tuned: TunedParameters
    trials: pd.DataFrame


def with_tuned(spec: ModelSpec, family: str, folder: Path, test_start: int) -> ModelSpec:
    """Return the specification with the family's tuned parameters; unchanged for a family that is not tuned.

    Args:
        spec: of the family's models.
        family: its name.
        folder: where :meth:`TunedParameters.save` wrote.
        test_start: beginning of the first test fold, ns UTC.

    Raises:
        TrainingError: there are none, or they do not fit.
    """
    if family not in TUNABLE:
        return spec
    found = TunedParameters.load(folder, family)
    found.require_fits(spec, test_start)
    return replace(spec, parameters=found.parameters)


def search(
    family: str, spec: ModelSpec, rows: Dataset, *, trials: int, embargo_ns: int,
    storage: Any = None, looked: Callable[[Looked], None] | None = None,
) -> Search:  # fmt: skip
    """Search a family's parameters by the log-loss of an inner purged walk-forward.

    The family's own parameters are tried first. A search of the same rows that its storage has already is gone on with:
    sets that were tried count, and the next one is the same as if nothing had been interrupted.

    Args:
        family: one of :data:`TUNABLE`.
        spec: of its models; its ``parameters`` are not looked at.
        rows: all that the search may see: training rows of the first outer fold.
        trials: sets that are tried, at most.
        embargo_ns: see :func:`fx_dagster.features.splits.walk_forward`.
        storage: an Optuna storage; None: in memory.
        looked: told after each set.

    Returns:
        What was chosen. Where the rows are too few for the inner folds, nothing is tried, the family's own parameters
        stay, and ``note`` says so.

    Raises:
        TrainingError: a fit is refused.
    """
    import optuna

    tunable = TUNABLE[family]
    study_name = _study_name(family, spec, rows, tunable.space, embargo_ns)
    folds = _inner_folds(spec, rows, embargo_ns)
    if isinstance(folds, str):
        return Search(_tuned(family, spec, rows, study_name, note=folds), pd.DataFrame())
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=study_name,
        storage=storage,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_COMPARED_MIN),
        load_if_exists=True,
    )
    _enqueue_own(study, tunable.own_searched)
    for number in range(len(_finished(study)), trials):
        # A seed a set, not one for all: a search that goes on must not draw its first sets again.
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, seed=_seed(spec.seed, number), constant_liar=False
        )
        study.optimize(lambda trial: _objective(trial, tunable, spec, rows, folds), n_trials=1)
        if looked is not None:
            looked(_looked(family, _finished(study)[-1]))
    return _chosen(study, family, spec, rows, tunable)


def _inner_folds(spec: ModelSpec, rows: Dataset, embargo_ns: int) -> list[Split] | str:
    """Return the folds inside the rows, or why there are none."""
    try:
        made = walk_forward(rows.time, rows.end_time, folds=INNER_FOLDS, embargo_ns=embargo_ns).folds
    except DataError as error:
        return f"{len(rows)} rows before the first test fold are too few to search on: {error}"
    fewest = min(len(fold.train) for fold in made)
    if fewest < spec.rows_min:
        return (
            f"{len(rows)} rows before the first test fold are too few to search on: the first of {INNER_FOLDS} inner "
            f"folds would be fitted on {fewest}, {spec.rows_min} are needed"
        )
    return [(fold.train, fold.test) for fold in made]


def _objective(trial: Any, tunable: Tunable, spec: ModelSpec, rows: Dataset, folds: list[Split]) -> float:
    from optuna import TrialPruned

    chosen = replace(spec, parameters={name: _suggest(trial, name, what) for name, what in tunable.space.items()})
    losses: list[float] = []
    for number, (train, test) in enumerate(folds):
        require_no_leak(rows, train, test, number)
        tested = rows.take(test)
        p_up = tunable.factory(chosen).fit(rows.take(train)).predict(tested)[OUTPUT_NAME][:, 0]
        losses.append(log_loss(tested.y, p_up))
        trial.report(float(np.mean(losses)), number)
        if number + 1 < len(folds) and trial.should_prune():
            raise TrialPruned
    return float(np.mean(losses))


def _suggest(trial: Any, name: str, what: Span | tuple[Any, ...]) -> Any:
    if isinstance(what, tuple):
        return trial.suggest_categorical(name, what)
    if what.step:
        return trial.suggest_int(name, int(what.low), int(what.high), step=what.step, log=what.log)
    return trial.suggest_float(name, what.low, what.high, log=what.log)


def _enqueue_own(study: Any, own: Mapping[str, Any]) -> None:
    """Have the family's own parameters tried, unless they were or are about to be."""
    from optuna.trial import TrialState

    tried = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if not waiting and not any(one.params == dict(own) for one in tried):
        study.enqueue_trial(dict(own))


def _finished(study: Any) -> list[Any]:
    """Return the sets that were tried, given up or not, in order: one that an interrupt cut short does not count."""
    from optuna.trial import TrialState

    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _looked(family: str, trial: Any) -> Looked:
    given_up = trial.state.name == "PRUNED"
    loss = trial.intermediate_values[max(trial.intermediate_values)] if given_up else trial.value
    return Looked(family, trial.number, dict(trial.params), float(loss), given_up)


def _chosen(study: Any, family: str, spec: ModelSpec, rows: Dataset, tunable: Tunable) -> Search:
    found = [_looked(family, one) for one in _finished(study)]
    through = [one for one in found if not one.given_up]
    # The lowest; of equal ones the one tried first, which may be the family's own.
    best = min(through, key=lambda one: (one.log_loss, one.number))
    own = [one.log_loss for one in through if one.parameters == tunable.own_searched]
    tuned = _tuned(family, spec, rows, study.study_name)
    tuned = replace(
        tuned,
        parameters=best.parameters,
        log_loss=best.log_loss,
        own_log_loss=own[0] if own else None,
        trials=len(found),
        given_up=len(found) - len(through),
    )
    table = [
        {"number": one.number, "log_loss": one.log_loss, "given_up": one.given_up} | dict(one.parameters)
        for one in found
    ]
    return Search(tuned, pd.DataFrame(table))


def _tuned(family: str, spec: ModelSpec, rows: Dataset, study: str, *, note: str = "") -> TunedParameters:
    """Return a choice of nothing: the family's own parameters."""
    return TunedParameters(
        family=family,
        parameters={},
        log_loss=None,
        own_log_loss=None,
        trials=0,
        given_up=0,
        rows=len(rows),
        start=int(rows.time.min()),
        end=int(rows.end_time.max()),
        feature_hash=spec.feature_hash,
        symbols=spec.symbols,
        base=spec.base.value,
        horizon_bars=spec.horizon_bars,
        seed=spec.seed,
        study=study,
        note=note,
    )


def _study_name(family: str, spec: ModelSpec, rows: Dataset, space: Space, embargo_ns: int) -> str:
    """Return a name that changes with whatever decides a set's log-loss: rows, features, space and seed."""
    digest = hashlib.sha256()
    for array in (rows.X, rows.y, rows.time, rows.end_time, rows.symbol_code):
        digest.update(np.ascontiguousarray(array).tobytes())
    plain = (space.items(), spec.feature_hash, spec.symbols, spec.seed, embargo_ns, INNER_FOLDS, STARTUP_TRIALS)
    digest.update(repr(plain).encode())
    return f"{family}-{digest.hexdigest()[:16]}"


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
