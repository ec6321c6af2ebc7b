"""Many configurations of the step over one history."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from fx_dagster.backtest.prepare import History
from fx_dagster.backtest.replay import replay
from fx_dagster.decision.config import StepConfig


def sweep(
    history: History, configs: Sequence[StepConfig], *, initial_balance: float, leverage: float,
    resume_after_hours: float = 0.0, threads: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Replay every configuration with an account of its own, and return what each is worth.

    The compiled replay lets other threads run, so that every core replays a configuration of its own. Only as many
    whole results as there are threads are in memory at a time.

    Args:
        history: shared by all and not changed.
        configs: of the step.
        initial_balance: of each account.
        leverage: of each account.
        resume_after_hours: see :func:`fx_dagster.backtest.replay.replay`.
        threads: 0: one a core.

    Returns:
        one row a configuration in the order given: first the numbers of the configuration in which they differ, then
        the metrics of :mod:`fx_dagster.backtest.metrics`, ``halts`` and ``rejected`` orders.

    Raises:
        SettingsError: a configuration is impossible.
        DataError: the history is empty.
    """

    def worth(config: StepConfig) -> dict[str, float]:
        result = replay(
            history, config, initial_balance=initial_balance, leverage=leverage, resume_after_hours=resume_after_hours
        )
        return {**result.metrics, "halts": float(result.halts), "rejected": float(result.rejected)}

    with ThreadPoolExecutor(max_workers=threads or os.cpu_count() or 1) as pool:
        rows = list(pool.map(worth, configs))
    return pd.concat([_what_differs(configs), pd.DataFrame(rows)], axis=1)


def _what_differs(configs: Sequence[StepConfig]) -> pd.DataFrame:
    names = [name for name in StepConfig._fields if len({getattr(config, name) for config in configs}) > 1]
    return pd.DataFrame(
        {name: [getattr(config, name) for config in configs] for name in names}, index=range(len(configs))
    )
