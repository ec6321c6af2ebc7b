"""What a person sees: one console, steps with a spinner, tables. Plain lines where nobody looks on."""

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

out = Console(highlight=False)
"""For results."""

err = Console(stderr=True, highlight=False)
"""For progress and errors, so that results can be piped."""

GOOD = "[green]✓[/green]"
BAD = "[red]✗[/red]"
WARN = "[yellow]![/yellow]"
_PLAIN_EVERY_S = 10.0


class Step:
    """A step under way. Set :attr:`result` to what its last line shall say."""

    def __init__(self, text: str, status: Status | None) -> None:
        self.text = text
        self.result = ""
        self.began_s = time.monotonic()
        self._status = status
        self._spoke_s = self.began_s
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        """Say how far it is; without a terminal, at most every 10 s."""
        if self._status is not None:
            self._status.update(f"{escape(self.text)} [dim]· {escape(text)}[/dim]")
            return
        with self._lock:
            now = time.monotonic()
            if now - self._spoke_s >= _PLAIN_EVERY_S:
                self._spoke_s = now
                err.print(f"  {self.text}: {text}", markup=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Print a line that stays; ``text`` is markup."""
        err.print(f"  {text}", soft_wrap=True)

    @property
    def elapsed(self) -> str:
        """Time since it began, for reading."""
        seconds = time.monotonic() - self.began_s
        return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


@contextmanager
def step(text: str) -> Iterator[Step]:
    """Show a step: a spinner while it runs in a terminal, a plain line before and after elsewhere."""
    status = err.status(escape(text), spinner="dots") if err.is_terminal else None
    current = Step(text, status)
    if status is None:
        err.print(f"… {text}", markup=False, soft_wrap=True)
    else:
        status.start()
    mark = BAD
    try:
        yield current
        mark = GOOD
    finally:
        if status is not None:
            status.stop()
        said = f" · {escape(current.result)}" if current.result else ""
        err.print(f"{mark} {escape(text)}{said} [dim]{current.elapsed}[/dim]", soft_wrap=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print a table; the cells are plain text."""
    shown = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(escape(str(cell)) for cell in row))
    out.print(shown)


def print_json(data: Any) -> None:
    """Print data for a program: one JSON document, nothing else."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a line of markup to the person."""
    err.print(text, soft_wrap=True)
