"""Colours of the report, in pairs: on the light page and on the dark one.

Figures are built with the light colours; the page's script exchanges each for its partner. Text colours have a contrast
of at least 4.5:1 against both backgrounds of their theme, graphic ones at least 3:1; system and control also differ in
line style, so that nothing depends on hue alone.
"""

from typing import Final, NamedTuple


class Pair(NamedTuple):
    """The same role on both pages."""

    light: str
    dark: str


PAGE: Final = Pair("#f5f6f8", "#0e1217")
CARD: Final = Pair("#ffffff", "#161b22")
TEXT: Final = Pair("#1b1f24", "#e6e9ed")
MUTED: Final = Pair("#57606a", "#9ba6b2")
GRID: Final = Pair("#e4e7eb", "#2a313a")
SYSTEM: Final = Pair("#0b62c4", "#5aa9ff")
CONTROL: Final = Pair("#ad5700", "#f0a04b")
THIRD: Final = Pair("#7548b8", "#b794f6")
FOURTH: Final = Pair("#0a6f80", "#4cc3d9")
GOOD: Final = Pair("#0f7656", "#3fc79a")
BAD: Final = Pair("#bf2f26", "#ff7b72")
CANDLE_UP: Final = Pair("#8795a4", "#7c8a99")
CANDLE_DOWN: Final = Pair("#57636f", "#55616d")
SYSTEM_FILL: Final = Pair("rgba(11,98,196,0.14)", "rgba(90,169,255,0.16)")
CONTROL_FILL: Final = Pair("rgba(173,87,0,0.12)", "rgba(240,160,75,0.14)")
CLEAR: Final = Pair("rgba(0,0,0,0)", "rgba(0,0,0,0)")

PAIRS: Final[dict[str, Pair]] = {
    "page": PAGE, "card": CARD, "text": TEXT, "muted": MUTED, "grid": GRID, "system": SYSTEM, "control": CONTROL,
    "third": THIRD, "fourth": FOURTH, "good": GOOD, "bad": BAD, "candle-up": CANDLE_UP, "candle-down": CANDLE_DOWN,
    "system-fill": SYSTEM_FILL, "control-fill": CONTROL_FILL, "clear": CLEAR,
}  # fmt: skip

SERIES: Final = (THIRD, FOURTH, SYSTEM, CONTROL, MUTED, GOOD, BAD)
"""Order in which series without a role of their own, such as models, take colours."""

LEVELS: Final = {1: GOOD, 2: SYSTEM, 3: CONTROL, 4: BAD}
"""Colour of each fallback level."""
