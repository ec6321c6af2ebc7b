"""The model families by name."""

from collections.abc import Mapping
from types import MappingProxyType

from fx_dagster.models.protocol import ModelFactory
from fx_dagster.models.random_forest import RandomForestModel
from fx_dagster.models.xgboost import XGBoostModel

FAMILIES: Mapping[str, ModelFactory] = MappingProxyType(
    {XGBoostModel.name: XGBoostModel, RandomForestModel.name: RandomForestModel}
)
"""In the order of a release's models and of an answer's columns."""
