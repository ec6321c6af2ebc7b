"""What models said of rows that they had not seen, as tables of the lake, and back beside the rows.

One table a model, ``out_of_fold_<model>``: ``time, symbol, fold`` and what it answers. A direction model's probability
is ``p_up_<model>``; a confidence is ``confidence``; the regime's probabilities are ``regime_<name>``.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fx_dagster.errors import DataError, TrainingError
from fx_dagster.models.answer import ATTENTION, BASE_MODELS, DIRECTIONS, REGIMES, attention_scores, regime_codes
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.protocol import Float64
from fx_dagster.models.stack import StackedRows
from fx_dagster.models.training import NOT_TESTED
from resources.lake import Lake

KEYS = ["time", "symbol", "fold"]
REGIME, CONFIDENCE, AGENTS = "regime", "confidence", "ppo"
REGIME_COLUMNS = [f"regime_{name}" for name in REGIMES]
AGENT_COLUMNS = ["size", "enter", "exit_long", "exit_short"]


def table_of(name: str) -> str:
    """Return the name of a model's table."""
    return f"out_of_fold_{name}"


def keep_predictions(
    lake: Lake, name: str, rows: Dataset, fold: np.ndarray, columns: Mapping[str, Float64], metadata: Mapping[str, str]
) -> None:
    """Write what a model said of the rows that it was tested on.

    Args:
        lake: where.
        name: the model's name.
        rows: n rows.
        fold: int32 ``[n]``; rows with -1 are left out.
        columns: float64 ``[n]`` by name.
        metadata: texts beside the table.
    """
    tested = np.flatnonzero(fold != NOT_TESTED)
    frame = pd.DataFrame(
        {
            "time": rows.time[tested],
            "symbol": np.asarray(rows.symbols, dtype=object)[rows.symbol_code[tested]],
            "fold": fold[tested],
            **{column: values[tested] for column, values in columns.items()},
        }
    )
    lake.write(table_of(name), frame, metadata=dict(metadata))


def read_predictions(lake: Lake, names: Sequence[str]) -> pd.DataFrame:
    """Return what several models said of the rows that all of them were tested on.

    Raises:
        DataError: there are no predictions of one of them.
    """
    tables = [lake.read(table_of(name)) for name in names]
    absent = [name for name, table in zip(names, tables, strict=True) if table.empty]
    if absent:
        raise DataError(
            f"the lake has no out-of-fold predictions of {', '.join(absent)}",
            mend="train first: training_job on Dagster's page, or fx train",
        )
    joined = tables[0]
    for table in tables[1:]:
        joined = joined.merge(table, on=KEYS, validate="one_to_one")
    return joined.sort_values(["time", "symbol"], ignore_index=True)


def read_stacked(lake: Lake, dataset: Dataset, *, meta: bool) -> tuple[StackedRows, np.ndarray]:
    """Return the rows that every base model was tested on with what was said of them, and their folds, int32 ``[m]``.

    Args:
        lake: where the predictions are.
        dataset: rows that they were made of.
        meta: whether the meta model's are needed too; its first fold has none.

    Raises:
        DataError: a model has no predictions.
        TrainingError: predictions are of rows that the data set does not have: features changed since.
    """
    frame = read_predictions(lake, [*BASE_MODELS, REGIME, *(["meta"] if meta else [])])
    places = _places(frame, dataset)
    rows = StackedRows.of(
        dataset.take(places),
        {name: frame[f"p_up_{name}"].to_numpy(np.float64) for name in BASE_MODELS},
        frame[REGIME_COLUMNS].to_numpy(np.float64),
        frame["p_up_meta"].to_numpy(np.float64) if meta else None,
    )
    return rows, frame["fold"].to_numpy(np.int32)


def _places(frame: pd.DataFrame, dataset: Dataset) -> np.ndarray:
    """Return the place of each of the frame's rows in the data set."""
    index = pd.MultiIndex.from_arrays([dataset.time, dataset.symbol_code])
    known = {symbol: code for code, symbol in enumerate(dataset.symbols)}
    code = frame["symbol"].map(known).fillna(-1).astype(np.int16)
    places = np.asarray(index.get_indexer(pd.MultiIndex.from_arrays([frame["time"], code])))
    if (places < 0).any():
        raise TrainingError(
            f"{int((places < 0).sum())} out-of-fold predictions are of rows that the features do not have",
            mend="features changed since: run the whole training job again",
        )
    return places


def answers_frame(lake: Lake) -> pd.DataFrame:
    """Return PREDICTIONS for the decision step: probabilities and extras of every row that all models were tested on.

    The agents' columns are NaN where they were not tested: they learn on the first part of these rows.

    Raises:
        DataError: a model has no predictions.
    """
    frame = read_predictions(lake, [*BASE_MODELS, REGIME, "meta", CONFIDENCE])
    answers = frame[[*KEYS, *(f"p_up_{name}" for name in DIRECTIONS), "confidence"]].assign(
        regime=regime_codes(frame[REGIME_COLUMNS].to_numpy(np.float64)),
        attention=attention_scores(frame[f"p_up_{ATTENTION}"].to_numpy(np.float64)),
    )
    agents = lake.read(table_of(AGENTS))
    if agents.empty:
        return answers.assign(**dict.fromkeys(AGENT_COLUMNS, np.nan))
    return answers.merge(
        agents[["time", "symbol", *AGENT_COLUMNS]], on=["time", "symbol"], how="left", validate="one_to_one"
    )
