"""What a session remembers between two engines, as bytes."""

import json
import zlib
from dataclasses import dataclass

from fx_dagster.errors import DataError

FORMAT = "fx-live-session-2"


@dataclass(frozen=True)
class Memory:
    """State at a checkpoint.

    Attributes:
        core: what was decided: :meth:`fx_dagster.core.trading.TradingCore.session_state`.
        account: the paper account.
        orders: the orders that are followed, as JSON text.
        resumed_ns: the last ``fx resume`` that was acted upon.
        counts: orders and deals so far.
    """

    core: bytes
    account: bytes
    orders: str
    resumed_ns: int
    counts: dict[str, int]

    def pack(self) -> bytes:
        """Return it as bytes: the length of a JSON head, the head, the account and the core's state."""
        head = {
            "format": FORMAT, "orders": self.orders, "resumed_ns": self.resumed_ns, "counts": self.counts,
            "account_bytes": len(self.account),
        }  # fmt: skip
        packed = zlib.compress(json.dumps(head).encode(), 1)
        return len(packed).to_bytes(4, "big") + packed + self.account + self.core


def unpack(data: bytes) -> Memory:
    """Read :meth:`Memory.pack`.

    Raises:
        DataError: it is not one, or of another version.
    """
    try:
        start = 4 + int.from_bytes(data[:4], "big")
        head = json.loads(zlib.decompress(data[4:start]))
        if head.pop("format") != FORMAT:
            raise DataError("the session's snapshot is of another version", mend="begin anew: fx live --restart")
        length = head.pop("account_bytes")
        if not isinstance(length, int) or not 0 <= length <= len(data) - start:
            raise ValueError(f"its account has {length!r:.40} bytes")
        seam = start + length
        return _checked(Memory(core=data[seam:], account=data[start:seam], **head))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"the session's snapshot cannot be read: {error}", mend="begin anew: fx live --restart"
        ) from error


def _checked(memory: Memory) -> Memory:
    """Return it if its fields are what they must be; ValueError names the one that is not."""
    counts = memory.counts
    kinds = (
        ("orders", isinstance(memory.orders, str)),
        ("resumed_ns", isinstance(memory.resumed_ns, int) and not isinstance(memory.resumed_ns, bool)),
        ("counts", isinstance(counts, dict) and all(isinstance(count, int) for count in counts.values())),
    )
    for name, right in kinds:
        if not right:
            raise ValueError(f"its {name} is of another type")
    return memory
