"""The sizing and timing agents: trained in the bar replay on answers of models that had not seen the bars."""

from dataclasses import replace
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.history import RESUME_AFTER_HOURS, read_history
from assets.metadata import frame_table, model_card
from assets.models import GROUP, OWNERS, read_dataset, spec_of
from assets.predictions import AGENT_COLUMNS, AGENTS, CONFIDENCE, keep_predictions, read_predictions, read_stacked
from assets.run_shape import RunShape
from assets.stacked_models import confidence_model, record_training
from fx_dagster.backtest.agents import AgentComparison, compare_agents, train_on
from fx_dagster.backtest.environment import Conditions, Piece
from fx_dagster.backtest.prepare import History
from fx_dagster.decision.config import paper_config
from fx_dagster.errors import DataError
from fx_dagster.models.agents import DEMO, FULL
from fx_dagster.models.onnx_export import require_parity
from fx_dagster.models.ppo import ObservationRows, PpoModel, observations
from fx_dagster.models.protocol import Float32, ModelArtifact
from fx_dagster.models.stack import StackedRows
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource, TrialsResource
from resources.lake import Lake

SEEDS = 5
LEARNED_SHARE = 0.6
"""Share of the out-of-fold bars that agents learn on; the later ones judge them."""
FULL_ROWS = 50_000
"""Rows from which agents have their whole budget: fewer teach nothing more."""
PROVED_ROWS = 2_000


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"onnx", "pytorch"},
    deps=[confidence_model],
    description="""Two agents (PPO): how large a position is, and when to enter and to leave it.

They learn in the backtest's own compiled step, on the first part of the out-of-fold bars, with several seeds; the later
part holds each seed's agents against fixed fractional sizing. The first seed's agents are released. They only ever
change an entry's size before the limits cut it, keep an entry away, or close a position.""",
)
def ppo_model(
    context: dg.AssetExecutionContext,
    market: MarketResource,
    lake: LakeResource,
    settings: SettingsResource,
    trials: TrialsResource,
) -> dg.MaterializeResult:
    """Train with every seed, compare on later bars, and keep what the first seed's agents say of them."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    rows, observed = read_observed(store, shape, chosen)
    seen = observations(observed, rows.feature_names)
    piece = Piece(history := read_history(store, shape, chosen), _on_grid(rows, seen, history))
    cut = int(history.market.time[int(LEARNED_SHARE * len(history.market.time))])
    conditions = _conditions(chosen, shape)
    models = _trained(context, piece.window(None, cut), conditions, rows, chosen)
    later = piece.window(cut)
    compared = _compared(later, models, conditions, chosen)
    artifact = proved_agents(models[0], observed.take(_spread(len(rows)))).with_metrics(
        {"against_fixed_sizing": _told(compared)}
    )
    number, fingerprint = record_training(trials, context, shape, artifact, chosen, rows)
    artifact.save(chosen.candidates)
    _keep(store, models[0], rows, seen, cut, fingerprint)
    return dg.MaterializeResult(
        metadata={
            "trial": number,
            "learned_until": f"{pd.Timestamp(cut, tz='UTC'):%Y-%m-%d %H:%M} UTC",
            "verdict": compared if isinstance(compared, str) else compared.verdict,
            "onnx_parity": artifact.card.metrics["onnx_parity"],
            "card": model_card(artifact.card),
            **({} if isinstance(compared, str) else {"seeds": frame_table(compared.to_frame())}),
        }
    )


def read_observed(lake: Lake, shape: RunShape, settings: Settings) -> tuple[StackedRows, ObservationRows]:
    """Return the rows that have a confidence out of fold, and what agents see of them."""
    rows, _ = read_stacked(lake, read_dataset(lake, shape, settings), meta=True)
    known = read_predictions(lake, [CONFIDENCE])
    index = pd.MultiIndex.from_arrays([rows.time, np.asarray(rows.symbols, dtype=object)[rows.symbol_code]])
    places = np.asarray(index.get_indexer(pd.MultiIndex.from_frame(known[["time", "symbol"]])))
    if (places < 0).any():
        raise DataError("confidences are of rows without a stacked answer", mend="run the whole training job again")
    rows = rows.take(places)
    assert rows.meta is not None  # noqa: S101 - read with meta=True
    return rows, ObservationRows(rows.said, rows.meta, known["confidence"].to_numpy(np.float64), rows.regime, rows.X)


def _on_grid(rows: StackedRows, seen: Float32, history: History) -> Float32:
    """Return observations ``[t, n, K]`` on the history's bars; NaN where there is none."""
    table = np.full((*history.market.inputs.shape, seen.shape[1]), np.nan, dtype=np.float32)
    column = np.array([history.symbols.index(symbol) for symbol in rows.symbols])
    place = np.searchsorted(history.market.time, rows.time)
    inside = (place < len(history.market.time)) & (history.market.time[np.minimum(place, len(table) - 1)] == rows.time)
    table[place[inside], column[rows.symbol_code[inside]]] = seen[inside]
    return table


def _conditions(settings: Settings, shape: RunShape) -> Conditions:
    config = paper_config(settings, shape.base)._replace(agents=True)
    return Conditions(config, settings.risk.initial_balance, settings.risk.leverage, settings.cost)


def _trained(
    context: dg.AssetExecutionContext, piece: Piece, conditions: Conditions, rows: StackedRows, settings: Settings
) -> list[PpoModel]:
    full = FULL if len(rows) >= FULL_ROWS else DEMO
    budget = replace(
        full, steps=max(full.walkers * full.rollout * full.turns, round(full.steps * settings.training.effort))
    )
    models = []
    for number in range(SEEDS):
        spec = replace(spec_of(rows, settings), seed=settings.training.seed + number, threads=1)
        models.append(train_on([piece], conditions, spec, budget=budget))
        context.log.info(f"agents: seed {number + 1} of {SEEDS}")
    return models


def _compared(
    later: Piece, models: list[PpoModel], conditions: Conditions, settings: Settings
) -> AgentComparison | str:
    """Hold the agents against fixed sizing; why not, where the later bars are too few."""
    try:
        return compare_agents(
            later, models, conditions, seed=settings.training.seed, resume_after_hours=RESUME_AFTER_HOURS
        )
    except DataError as error:
        return f"not compared: {error}"


def _told(compared: AgentComparison | str) -> dict[str, Any]:
    return {"verdict": compared} if isinstance(compared, str) else compared.to_dict()


def proved_agents(model: PpoModel, rows: ObservationRows) -> ModelArtifact:
    """Export agents; the card's ``onnx_parity`` is the largest difference of their graph on some rows.

    Raises:
        TrainingError: the graph's answers differ.
    """
    content = model.to_onnx()
    parity = require_parity(model, rows, content)
    return ModelArtifact(model.name, content, model.card()).with_metrics({"onnx_parity": parity})


def _spread(rows: int) -> np.ndarray:
    return np.linspace(0, rows - 1, min(rows, PROVED_ROWS)).astype(np.intp)


def _keep(lake: Lake, model: PpoModel, rows: StackedRows, seen: Float32, cut: int, fingerprint: str) -> None:
    """Keep what the agents say of the bars that they did not learn on."""
    said = model.policies.answer(seen)
    columns = dict(zip(AGENT_COLUMNS, [said.size.ravel(), *said.timing.reshape(len(seen), 3).T], strict=True))
    keep_predictions(lake, AGENTS, rows, np.where(rows.time >= cut, 0, -1), columns, {"training": fingerprint})
