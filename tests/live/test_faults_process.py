"""An engine that runs out of memory, by itself or by the kernel's hand: it is started again."""

import sys
from pathlib import Path

import pytest

from fx_dagster.live.supervisor import Outcome

from .test_supervisor import Starter, supervisor

OUT_OF_MEMORY = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
bytearray(2**30)
"""
KILLED_FOR_MEMORY = """
import os, pathlib, signal
pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
os.kill(os.getpid(), signal.SIGKILL)
"""
"""The kernel ends whom it chooses with SIGKILL, at any moment."""


@pytest.mark.skipif(sys.platform != "linux", reason="limits and scores of Linux")
@pytest.mark.parametrize(("program", "exit_words"), [(OUT_OF_MEMORY, "exit code 1"), (KILLED_FOR_MEMORY, "signal 9")])
def test_an_engine_without_memory_is_started_again(tmp_path: Path, program: str, exit_words: str) -> None:
    start = Starter(tmp_path, program, "")
    one = supervisor(start)
    assert one.run() is Outcome.FINISHED
    assert (one.news.starts, one.news.last_exit) == (2, exit_words)
    assert start.leftovers() == []
