"""Run the simulation over many seeds, or show one.

::

    python -m tests.simulation --seeds 1000 --workers 2
    python -m tests.simulation --seed 123 --show
    python -m tests.simulation --seed 123 --smallest
"""

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence

from .engines import Outcome, simulate, smallest, warm_up
from .plan import plan_of

PROGRESS_S = 5.0
COLLECT_EVERY = 8
FAILING_MAX = 20
"""Failing seeds that are told with their reasons."""


def outcome_of(seed: int) -> Outcome:
    """Run one seed; its record is kept as a digest only."""
    made = simulate(plan_of(seed))
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    return Outcome(**{**vars(made), "lines": ()})


def outcomes(seeds: Sequence[int], workers: int) -> Iterator[Outcome]:
    """Run seeds, in processes of their own where there are several workers; in any order."""
    if workers <= 1:
        yield from map(outcome_of, seeds)
        return
    # Forked, so that what is compiled and made once is there already.
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap_unordered(outcome_of, seeds, chunksize=4)


def run(seeds: Sequence[int], workers: int) -> int:
    """Run seeds and say how it went; return the exit code."""
    began = told = time.monotonic()
    faults, failing, count = 0, [], 0
    for one in outcomes(seeds, workers):
        count, faults = count + 1, faults + one.faults
        if one.violations:
            failing.append(one.seed)
            if len(failing) <= FAILING_MAX:
                say(f"seed {one.seed}: {len(one.violations)} violations, first: {one.violations[0]}")
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            pace = count / (told - began)
            say(f"{count} of {len(seeds)} seeds, {faults} faults, {len(failing)} failing, {pace:.1f} a second")
    if failing:
        say(f"failing: {' '.join(map(str, sorted(failing)))}")
        say(f"one alone: python -m tests.simulation --seed {min(failing)} --show (or --smallest)")
        say(f"{count} seeds, {faults} faults, {len(failing)} seeds with violations")
        return 1
    say(f"{count} seeds, {faults} faults, 0 violations")
    return 0


def show(seed: int, *, least: bool) -> int:
    """Show a seed's faults, what happened and what was violated; return the exit code."""
    plan = smallest(plan_of(seed)) if least else plan_of(seed)
    say(f"seed {seed}: {plan.speed} market seconds a second")
    for fault in plan.faults:
        say(f"  {fault!r}")
    made = simulate(plan)
    say(*made.lines)
    say(f"{made.faults} faults, {made.deals} deals, {made.lives} engines, record {made.digest}")
    say(*(f"VIOLATION {text}" for text in made.violations))
    return 1 if made.violations else 0


def say(*lines: str) -> None:
    """Write lines to the standard output, at once."""
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("SEEDS", "1000")), help="how many (SEEDS)")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="one seed alone")
    parser.add_argument("--show", action="store_true", help="show what happens in it")
    parser.add_argument("--smallest", action="store_true", help="leave out the faults that it fails without")
    chosen = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)  # whatever matters is in the record
    warm_up()
    gc.collect()
    gc.freeze()  # what is the same for all seeds is not looked at again
    gc.disable()
    if chosen.seed is not None:
        if chosen.show or chosen.smallest:
            return show(chosen.seed, least=chosen.smallest)
        return run([chosen.seed], 1)
    return run(range(chosen.first, chosen.first + chosen.seeds), chosen.workers)


if __name__ == "__main__":
    sys.exit(main())
