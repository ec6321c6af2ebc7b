"""The cache of compiled code: used, never stale, never in the way."""

import subprocess
import sys
import textwrap
from typing import NamedTuple

import numpy as np
import pytest
from numba.core.errors import NumbaError

from fx_dagster import compiled as module
from fx_dagster.core import loop
from fx_dagster.execution import ledger

PROGRAM = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
sys.path.insert(0, {folder!r})
from kernels import twice
print(twice(21.0), sum(twice.stats.cache_hits.values()))
"""
KERNEL = """
from fx_dagster.compiled import compiled

@compiled
def twice(x):
    return {factor} * x
"""


def run(folder, factor, **environment):
    (folder / "kernels.py").write_text(textwrap.dedent(KERNEL.format(factor=factor)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(folder=str(folder))],
        capture_output=True, text=True, check=True, timeout=120, env={"PATH": "", "HOME": str(folder), **environment},
    )  # fmt: skip
    return done.stdout


def test_code_is_kept_and_a_corrupt_cache_is_compiled_anew(tmp_path):
    cache = tmp_path / "cache"
    assert "42.0 0" in run(tmp_path, 2, NUMBA_CACHE_DIR=str(cache))
    assert "42.0 1" in run(tmp_path, 2, NUMBA_CACHE_DIR=str(cache))
    for index in cache.rglob("*.nbi"):
        index.write_bytes(b"\x80\x05garbage")
    assert "42.0 0" in run(tmp_path, 2, NUMBA_CACHE_DIR=str(cache))


def test_without_any_folder_it_compiles_in_memory(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    out = run(
        tmp_path, 2, NUMBA_CACHE_DIR=str(blocked / "below"), NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator"
    )
    assert "42.0 0" in out
    assert "compiling in memory" in out


def test_a_folder_that_fills_up_costs_only_the_cache(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))

    def thrice(x):
        return 3 * x

    function = module.compiled(thrice)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert function(2.0) == 6.0
    assert "not kept" in caplog.text


def test_the_stamp_covers_what_a_source_imports_and_nothing_else(tmp_path, monkeypatch):
    package = tmp_path / "fx_dagster"
    (package / "deep").mkdir(parents=True)
    sources = {
        "step.py": "from fx_dagster.sizing import lots\n",
        "sizing.py": "import fx_dagster.deep.grid\n",
        "deep/grid.py": "x = 1\n",
        "apart.py": "x = 1\n",
    }
    for name, text in sources.items():
        (package / name).write_text(text)
    monkeypatch.setattr(module, "_PACKAGE", package)

    def stamp():
        module._source_stamp.cache_clear()
        return module._source_stamp(package / "step.py")

    stamps = [stamp()]
    for name, changes in {"step.py": 1, "sizing.py": 1, "deep/grid.py": 1, "apart.py": 0}.items():
        (package / name).write_text(sources[name] + "y = 2\n")
        stamps.append(stamp())
        assert (stamps[-1] != stamps[-2]) == bool(changes), name
    module._source_stamp.cache_clear()


def test_the_stamp_covers_the_rules_of_the_zones(tmp_path, monkeypatch):
    source = tmp_path / "kernels.py"
    source.write_text("x = 1\n")

    def stamp():
        module._source_stamp.cache_clear()
        return module._source_stamp(source)

    zones = tmp_path / "zones"
    for zone in module._ZONES:
        (zones / zone).parent.mkdir(parents=True, exist_ok=True)
        (zones / zone).write_bytes(module._zone_rules(zone))
    before = stamp()
    monkeypatch.setattr("zoneinfo.TZPATH", (str(zones),))
    assert stamp() == before
    (zones / "Europe/London").write_bytes(b"TZif: no summer time any more")
    assert stamp() != before
    module._source_stamp.cache_clear()


def test_without_the_systems_zones_the_packages_count(monkeypatch):
    monkeypatch.setattr("zoneinfo.TZPATH", ())
    assert module._zone_rules("Europe/London").startswith(b"TZif")


class Bundle(NamedTuple):
    """Arrays that are handed on together."""

    values: np.ndarray
    sums: np.ndarray


def _add(bundle, place):
    bundle.sums[0] += bundle.values[place]


def _counts(dispatcher):
    return "NRT_incref" in next(iter(dispatcher.inspect_asm().values()))


def _walker(kind, add):
    def walk(bundle):
        for place in range(bundle.values.shape[0]):
            add(bundle, place)

    return kind(walk)


@pytest.mark.parametrize(("kind", "counts"), [(module.compiled, True), (module.uncounted, False)])
def test_handing_a_bundle_on_counts_references_or_does_not(kind, counts):
    walk, bundle = _walker(kind, kind(_add)), Bundle(np.arange(5.0), np.zeros(1))
    walk(bundle)
    assert bundle.sums[0] == 10.0
    assert _counts(walk) is counts


def test_what_makes_an_array_must_count():
    @module.uncounted
    def make(count):
        return np.zeros(count).sum()

    with pytest.raises(NumbaError, match="returning of array"):
        make(3)


def test_nothing_is_counted_on_the_way_of_a_tick():
    for function in (loop.take_ticks, loop.take_clock, ledger.place, ledger.modify):
        assert function.targetoptions["_nrt"] is False
