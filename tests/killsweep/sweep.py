"""Many cases at once, and what they came to."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.killsweep import life, world
from tests.killsweep.cases import Case, Operation, Outcome, Point
from tests.killsweep.slot import Slot, servers
from tests.killsweep.verdict import Verdict

COMMAND = "python -m tests.killsweep"
SILENCE_S = 400.0
"""Longest time in which some case must end."""


_ABOUT = (
    "PostgreSQL, the bridge and its worker are real processes, the terminal is the simulated one in a process of its "
    "own; the engine's order path is that of production, killed with SIGKILL. Another process takes up, in half of "
    "the cases decides the same once more, and goes on until nothing is in doubt. Then the terminal's own requests, "
    "orders, deals and positions are compared with PostgreSQL."
)


@dataclass
class Result:
    """What a sweep came to.

    Attributes:
        verdicts: of each case; None: it could not be run to its end.
        errors: of those.
        took_s: the whole.
    """

    verdicts: dict[Case, Verdict | None] = field(default_factory=dict)
    errors: dict[Case, str] = field(default_factory=dict)
    took_s: float = 0.0

    def faults(self) -> dict[Case, list[str]]:
        """Return what is wrong, by case."""
        found = {case: [f"not ended: {text}"] for case, text in self.errors.items()}
        return found | {case: v.faults for case, v in self.verdicts.items() if v is not None and v.faults}

    def counts(self) -> dict[str, int]:
        """Return what the last line says."""
        judged = [verdict for verdict in self.verdicts.values() if verdict is not None]
        return {
            "cases": len(self.verdicts),
            "duplicate": sum(len(v.duplicates) for v in judged),
            "lost": sum(len(v.lost) for v in judged),
            "undecided": sum(len(v.undecided) for v in judged),
            "wrong": sum(len(v.wrong) for v in judged),
            "not run to the end": len(self.errors),
            "held for a person": sum(v.held for v in judged),
            "killed at the point": sum(v.met for v in judged),
            "order reached the terminal": sum(v.reached for v in judged),
        }

    def line(self) -> str:
        """Return one line that says it all."""
        counts = self.counts()
        rest = ", ".join(f"{count:,} {name}" for name, count in counts.items() if name != "cases")
        return f"{counts['cases']:,} cases: {rest}; {self.took_s / 60:.1f} min"

    def table(self, *, short: bool = False) -> tuple[list[str], list[list[str]]]:
        """Return head and rows by point: cases by operation, what was met, and faults by outcome."""

        def words(one: Point | Operation | Outcome) -> str:
            return one.name.lower().replace("_", " ") if short else str(one)

        head = ["killed", *map(words, Operation), "at the point", *map(words, Outcome)]
        faults, rows = self.faults(), []
        for point in Point:
            mine = {case: verdict for case, verdict in self.verdicts.items() if case.point is point}
            if not mine:
                continue
            ran = [str(sum(case.operation is one for case in mine)) for one in Operation]
            met = f"{sum(1 for verdict in mine.values() if verdict is not None and verdict.met) / len(mine):.0%}"
            wrong = [str(sum(case in faults for case in mine if case.outcome is one)) for one in Outcome]
            rows.append([words(point), *ran, met, *wrong])
        return head, rows

    def markdown(self, command: str, when: str) -> str:
        """Return it for a page."""
        head, rows = self.table()
        lines = [
            f"`{command}`, {when}, {os.cpu_count()} CPUs.", "",
            f"**{self.line()}**", "", _ABOUT, "",
            "Cases by operation; of how many the process died at that very point (in the others the point does not "
            "come up, as no deal follows a refusal: it died at its end); and cases with a fault, by outcome.", "",
            f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows),
        ]  # fmt: skip
        return "\n".join(lines)


def run(
    todo: Sequence[Case], *, slots: int, tell: Callable[[Result, Case], None] = lambda *_: None,
    minutes: float = float("inf"),
) -> Result:  # fmt: skip
    """Run cases, several at once, until all are done, the time is over or an interrupt comes.

    Args:
        todo: the cases.
        slots: worlds at once.
        tell: called after each.
        minutes: longest time.
    """
    home = Path(tempfile.mkdtemp(prefix="fx-ks-"))
    home.chmod(0o711)  # PostgreSQL may be another user
    result, began = Result(), time.monotonic()
    try:
        with servers(home / "pg") as url, contextlib.closing(_verdicts(todo, url, home, slots)) as verdicts:
            for case, verdict in verdicts:
                result.verdicts[case] = verdict if isinstance(verdict, Verdict) else None
                if isinstance(verdict, str):
                    result.errors[case] = verdict
                result.took_s = time.monotonic() - began
                tell(result, case)
                if result.took_s > minutes * 60.0:
                    break
    except KeyboardInterrupt:
        pass  # what there is is reported
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return result


def _verdicts(
    todo: Sequence[Case], url: str, home: Path, slots: int
) -> Generator[tuple[Case, Verdict | str], None, None]:
    life.warm_up()
    world.prepared()
    # Forked before any channel is made, and with queues that need no thread: each forks its victims in turn.
    context = multiprocessing.get_context("fork")
    told: Any = context.SimpleQueue()
    following = context.Value("i", 0)
    processes = [
        context.Process(target=_work, args=(list(todo), following, told, home / f"s{number}", url), daemon=False)
        for number in range(min(slots, len(todo)))
    ]
    for process in processes:
        process.start()
    whole = False
    try:
        for _ in todo:
            deadline = time.monotonic() + SILENCE_S
            while told.empty():
                if time.monotonic() > deadline or not any(process.is_alive() for process in processes):
                    raise AssertionError("the sweep hangs, or its worlds have ended")
                time.sleep(0.02)
            yield told.get()
        whole = True
    finally:
        for process in processes:
            if not whole and process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)
            process.join(60.0)


def _work(todo: list[Case], following: Any, told: Any, folder: Path, url: str) -> None:
    """Run cases in a world of their own until there are none."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has it ignored
    with contextlib.suppress(KeyboardInterrupt), Slot(folder, url) as slot:
        while True:
            with following.get_lock():
                number, following.value = following.value, following.value + 1
            if number >= len(todo):
                return
            case = todo[number]
            try:
                told.put((case, slot.run(case)))
            except Exception as error:  # noqa: BLE001 - the sweep goes on, and says so
                told.put((case, f"{type(error).__name__}: {error}"))
