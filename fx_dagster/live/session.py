"""What a session remembers between two engines, as bytes."""

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

from fx_dagster.errors import DataError

FORMAT = "fx-live-session-1"


@dataclass(frozen=True)
class Memory:
    """State at a checkpoint.

    Attributes:
        decision: snapshot of the decision step.
        account: snapshot of the paper desk.
        gate: state of the tick gate.
        closed_until: market time (ns UTC) up to which bars are closed.
        resumed_ns: the last ``fx resume`` that was acted upon.
        halted: whether the drawdown halted trading until a person resumes it.
        counts: decisions, orders, deals and ticks so far.
    """

    decision: bytes
    account: str
    gate: dict[str, Any]
    closed_until: int
    resumed_ns: int
    halted: bool
    counts: dict[str, int]

    def pack(self) -> bytes:
        """Return it as bytes."""
        body = {
            "format": FORMAT,
            "decision": base64.b64encode(self.decision).decode(),
            "account": self.account,
            "gate": self.gate,
            "closed_until": self.closed_until,
            "resumed_ns": self.resumed_ns,
            "halted": self.halted,
            "counts": self.counts,
        }
        return zlib.compress(json.dumps(body).encode(), 1)


def unpack(data: bytes) -> Memory:
    """Read :meth:`Memory.pack`.

    Raises:
        DataError: it is not one, or of another version.
    """
    try:
        body = json.loads(zlib.decompress(data))
        if body.pop("format") != FORMAT:
            raise DataError("the session's snapshot is of another version", mend="begin anew: fx live --restart")
        return Memory(**{**body, "decision": base64.b64decode(body["decision"])})
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"the session's snapshot cannot be read: {error}", mend="begin anew: fx live --restart"
        ) from error
