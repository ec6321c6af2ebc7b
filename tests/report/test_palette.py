import pytest

from fx_dagster.report import palette


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    """Return WCAG 2's contrast ratio."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("ground", [palette.PAGE, palette.CARD])
@pytest.mark.parametrize("name", ["text", "muted", "system", "control", "third", "fourth", "good", "bad"])
def test_what_is_read_stands_out_on_both_pages(name: str, ground: palette.Pair) -> None:
    pair = palette.PAIRS[name]
    assert _contrast(pair.light, ground.light) >= 4.5
    assert _contrast(pair.dark, ground.dark) >= 4.5


@pytest.mark.parametrize("name", ["candle-up", "candle-down"])
def test_candles_can_be_seen(name: str) -> None:
    pair = palette.PAIRS[name]
    assert _contrast(pair.light, palette.CARD.light) >= 3
    assert _contrast(pair.dark, palette.CARD.dark) >= 2.5


def test_a_light_colour_has_one_partner_only() -> None:
    light = [pair.light for pair in palette.PAIRS.values()]
    assert len(light) == len(set(light))
