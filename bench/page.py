"""The page of results, ``docs/benchmarks.md``: machine, versions, the table, notes, and what is not reached and why."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

from bench.peers import FREQTRADE, NAUTILUS, POLARS, VECTORBT
from bench.table import COLUMNS, Row, cells

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_OWN_PACKAGES = ("numpy", "numba", "pandas", "ta-lib")
_INTRODUCTION = """# Benchmarks

Written by `make bench`, which makes the peers' environments on demand, measures this project and its peers in turns, in
one run on one machine, and judges each figure by its limit. Figures are medians, with the smallest and the largest run
in brackets; every first run, which compiles, is left out. A ratio says how many times as good this project is: above 1
it is ahead. Peers do the nearest work that they have; the notes say where it is not the same.
"""
_COMMANDS = """## Commands

```sh
make bench                            # half an hour, most of it live, and the peers' set-up once; writes this page
make bench ARGS='--live-minutes 1'    # the same with short live sessions: ten minutes
make bench ARGS=--quick               # a tenth of the work, for development; writes nothing
make bench ARGS='--only signals'      # one group; writes nothing
```

Two variables matter: `FX_BENCH_HOME` is where the peers' environments are kept (else the user's cache folder), and
`FX_TEST_DATA` a folder with `mt5_export/XAUUSD_H1.csv.gz`; without that, hours of gold are a seeded walk, and the notes
say which it was.
"""


def machine() -> dict[str, str]:
    """Return what this was measured on."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "not known"
    return {
        "processor": f"{_processor()}, {psutil.cpu_count(logical=False)} cores, {psutil.cpu_count()} threads",
        "memory": f"{psutil.virtual_memory().total / 1024**3:.0f} GiB",
        "system": f"{_system()}, {platform.machine()}",
        "load before": load,
        "Python": platform.python_version(),
        "this project on": ", ".join(f"{name} {metadata.version(name)}" for name in _OWN_PACKAGES),
        "peers": "; ".join(
            ", ".join(pin.replace("==", " ") for pin in environment.pins)
            for environment in (NAUTILUS, VECTORBT, POLARS, FREQTRADE)
        ),
    }


def text(rows: Sequence[Row], facts: dict[str, str], left_out: Sequence[str] = ()) -> str:
    """Return the page.

    Args:
        rows: what was measured.
        facts: of the machine, taken before.
        left_out: what could not be measured, one sentence each.
    """
    day = datetime.now(UTC).date().isoformat()
    parts = [
        _INTRODUCTION,
        "\n".join([f"| {day} | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts.items())]),
        "## Results\n\n" + _table(rows),
        *(["## Notes\n\n" + _list({row.work: row.note for row in rows if row.note})]),
    ]
    missed = {row.work: row.tried or "the cause is not known yet" for row in rows if row.reached is False}
    if missed:
        parts.append("## Not reached\n\n" + _list(missed))
    if left_out:
        parts.append("## Not measured\n\n" + "\n".join(f"- {one}" for one in left_out))
    return "\n\n".join(part.strip() for part in (*parts, _COMMANDS)) + "\n"


def _table(rows: Sequence[Row]) -> str:
    lines = [line for row in rows for line in cells(row)]
    shown = [" | ".join(line) for line in (COLUMNS, ["---"] * len(COLUMNS), *lines)]
    return "\n".join(f"| {line} |" for line in shown)


def _list(texts: dict[str, str]) -> str:
    return "\n".join(f"- **{work}**: {said}" for work, said in texts.items())


def _processor() -> str:
    """Return the processor's name; Linux keeps it in a file, elsewhere the platform module knows."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return f"{platform.system()} {platform.release()}"
