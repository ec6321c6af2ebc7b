"""What fuzzing is made of: how many examples, bytes that are nearly right, and what an error must be.

In the usual run the examples are the same each time; under ``FX_TEST_PROFILE=night`` they are others and many more.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from fx_dagster.errors import FxError

DEEP = b"[" * 20_000
"""JSON that no parser may follow to its end."""
NIGHT = os.environ.get("FX_TEST_PROFILE") == "night"
_TIMES = 20


def budget(examples: int) -> Callable[[Any], Any]:
    """Return how many examples a test gets: so many, and twenty times as many at night."""
    return settings(
        max_examples=examples * _TIMES if NIGHT else examples, derandomize=not NIGHT, deadline=None, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, whole: bytes | st.SearchStrategy[bytes], changes_max: int = 4) -> bytes:
    """Return ``whole`` with a few changes: bits turned, bytes cut out, put in or repeated, an end cut off."""
    data = bytearray(whole if isinstance(whole, bytes) else draw(whole))
    for _ in range(draw(st.integers(1, changes_max))):
        kind = draw(st.sampled_from(("bit", "byte", "cut", "insert", "remove", "repeat")))
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 24))
        if kind == "insert" or not data:
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif kind == "bit":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


def numbers() -> st.SearchStrategy[Any]:
    """Return numbers as JSON may hold them, the odd ones among them."""
    return st.integers() | st.floats() | st.sampled_from((0, -1, 2**31, 2**63, -(2**63), 10**30, 1e308, True))


def json_values(leaves: int = 12) -> st.SearchStrategy[Any]:
    """Return JSON values of any shape."""
    texts = st.text(max_size=12)
    leaf = st.none() | st.booleans() | numbers() | texts
    return st.recursive(leaf, lambda part: st.lists(part, max_size=4) | st.dictionaries(texts, part, max_size=4),
                        max_leaves=leaves)  # fmt: skip


@st.composite
def altered(draw: st.DrawFn, good: Any) -> Any:
    """Return a JSON value with one place changed, left out or added to, however deep."""
    if isinstance(good, dict) and good and draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(good)))
        kind = draw(st.sampled_from(("deeper", "deeper", "without", "other", "more")))
        if kind == "deeper":
            return {**good, name: draw(altered(good[name]))}
        if kind == "without":
            return {key: value for key, value in good.items() if key != name}
        return {**good, (name if kind == "other" else draw(st.text(max_size=8))): draw(json_values(4))}
    if isinstance(good, list) and good and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(good) - 1))
        kind = draw(st.sampled_from(("deeper", "deeper", "without", "twice")))
        middle = {"deeper": [draw(altered(good[at]))], "without": [], "twice": [good[at]] * 2}[kind]
        return [*good[:at], *middle, *good[at + 1 :]]
    return draw(json_values(4))


@contextmanager
def refused(*kinds: type[FxError], names: str = "") -> Iterator[list[FxError]]:
    """Let one of these errors pass, of one line that holds ``names``; yield where it is told."""
    told: list[FxError] = []
    try:
        yield told
    except FxError as error:
        told.append(error)
    for one in told:
        assert isinstance(one, kinds), f"{type(one).__name__} is not what is documented: {one}"
        assert str(one).strip(), "an error without words"
        assert names in str(one), f"{one} does not say {names!r}"


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
