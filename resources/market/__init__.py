"""Market sources: one adapter a module, all behind :class:`fx_dagster.market.source.MarketSource`.

=============  ================================================================  =====================
kind           what it reads                                                     ticks
=============  ================================================================  =====================
`sample`       EURUSD H1 of 2017 that ships with ``gym-anytrading``              modelled from H1
`mt5_export`   files of MetaTrader 5's History Center                            modelled from the base
`histdata`     HistData ticks, HistData M1, M1 bid/ask pairs                     real; modelled from M1
`dukascopy`    Dukascopy's M1 bid and ask bars, over the internet                modelled from M1
`simulator`    any number of made symbols, seeded                                modelled from its bars
=============  ================================================================  =====================
"""

from pathlib import Path

from fx_dagster.errors import SettingsError
from fx_dagster.market.source import MarketSource
from fx_dagster.settings import SourceSettings
from resources.market.selection import SelectedSource, parse_day, split_symbols

__all__ = ["MarketSource", "open_source"]


def open_source(settings: SourceSettings) -> MarketSource:
    """Return the market source that the settings name, narrowed to their symbols and days.

    ``start`` and ``end`` are trading days: a day begins at 17:00 New York on the calendar day before.

    Raises:
        SettingsError: a day does not parse, the range is empty, or a source that needs a folder was given none.
        SourceError: the source's files or servers cannot be read as they are.
        UnknownSymbolError: a symbol of the setting is not in the source; the message names the nearest.
    """
    symbols = split_symbols(settings.symbols)
    start, end = parse_day("FX_SOURCE_START", settings.start), parse_day("FX_SOURCE_END", settings.end)
    if start is not None and end is not None and end <= start:
        raise SettingsError(
            f"FX_SOURCE_END {settings.end} is not after FX_SOURCE_START {settings.start}", mend="swap or widen them"
        )
    source = _open(settings, symbols, start, end)
    return SelectedSource(source, symbols=symbols, start=start, end=end)


def _open(settings: SourceSettings, symbols: tuple[str, ...], start: int | None, end: int | None) -> MarketSource:
    match settings.kind:
        case "sample":
            from resources.market.sample import SampleSource

            return SampleSource()
        case "mt5_export":
            from resources.market.mt5_export import Mt5ExportSource

            return Mt5ExportSource(_folder(settings), symbols=symbols)
        case "histdata":
            from resources.market.histdata import open_histdata

            return open_histdata(_folder(settings), symbols=symbols)
        case "dukascopy":
            from resources.market.dukascopy import DukascopySource

            return DukascopySource(symbols or ("EURUSD",), start=start, end=end)
        case "simulator":
            from resources.market.simulator import SimulatorSource

            return SimulatorSource.from_settings(settings, symbols=symbols, start=start, end=end)


def _folder(settings: SourceSettings) -> Path:
    if settings.path is None:
        raise SettingsError(
            f"source {settings.kind} reads files, and FX_SOURCE_PATH names no folder", mend="set it, or pass --data DIR"
        )
    return settings.path
