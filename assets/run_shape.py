"""What a run is about: the source's symbols, its base timeframe and the feature catalogue that follows."""

from dataclasses import dataclass

from fx_dagster.features.catalogue import FeatureCatalogue, feature_catalogue
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import Timeframe


@dataclass(frozen=True)
class RunShape:
    """Symbols and timeframes of everything computed from one source."""

    source: str
    symbols: tuple[str, ...]
    base: Timeframe
    catalogue: FeatureCatalogue

    @classmethod
    def of(cls, source: MarketSource) -> "RunShape":
        """Derive the shape from a source."""
        base = source.base_timeframe()
        symbols = source.symbols()
        return cls(source.name, symbols, base, feature_catalogue(base, cross_symbol=len(symbols) > 1))
