"""What the measurements share: how much is done, where rivals run, and real data if there are any."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import Peers
from bench.table import Figure, Rival
from bench.timing import Contender, Unit, in_turns

RUNS, QUICK_RUNS = 9, 3
QUICK_SHARE = 10
SLOW_RUNS = 5


@dataclass
class Session:
    """One run of the bench.

    Attributes:
        quick: a tenth of the work and fewer runs, for development.
        test_data: folder of real market data; None: there is none.
        note: shows what is being measured.
        peers: the rivals.
    """

    quick: bool = False
    test_data: Path | None = None
    note: Callable[[str], None] = lambda _: None
    peers: Peers = field(default_factory=Peers)

    def size(self, full: int) -> int:
        """Return how many items are worked through."""
        return full // QUICK_SHARE if self.quick else full

    def in_turns(
        self, work: str, ours: Contender, rivals: Mapping[str, Contender], unit: Unit, runs: int = RUNS
    ) -> tuple[Figure, tuple[Rival, ...]]:
        """Measure a piece of work; see :func:`bench.timing.in_turns`."""
        self.note(work)
        return in_turns(ours, rivals, unit, min(runs, QUICK_RUNS) if self.quick else runs)
