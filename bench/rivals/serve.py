"""What every rival's script ends with: one run for each line that comes in, its seconds as a line that goes out.

Runs in the rival's own environment, on the standard library alone. Whatever else a rival writes goes to standard error;
an error ends it.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any


def serve(items: int, run: Callable[..., object], prepare: Callable[[], Any] | None = None) -> None:
    """Run whenever a line is read from standard input, until it ends.

    Args:
        items: that a run works through.
        run: what is timed; it gets what ``prepare`` returns, if that is given.
        prepare: called before each run, outside the time.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answers.write(json.dumps({"ready": items}) + "\n")
    for _ in sys.stdin:
        given = () if prepare is None else (prepare(),)
        gc.collect()
        began = perf_counter()
        run(*given)
        seconds = perf_counter() - began
        answers.write(json.dumps({"seconds": seconds / items}) + "\n")
