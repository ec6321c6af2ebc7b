"""The direction models that look at the market themselves, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from fx_dagster.models.attention import AttentionModel
from fx_dagster.models.cnn import CnnModel
from fx_dagster.models.lstm import LstmModel
from fx_dagster.models.protocol import ModelFactory
from fx_dagster.models.random_forest import RandomForestModel
from fx_dagster.models.xgboost import XGBoostModel

FAMILIES: Mapping[str, ModelFactory] = MappingProxyType(
    {family.name: family for family in (XGBoostModel, RandomForestModel, LstmModel, CnnModel, AttentionModel)}
)
"""In the order of :data:`fx_dagster.models.answer.BASE_MODELS`."""
