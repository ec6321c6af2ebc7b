"""What the terminal's return codes mean for an order: one table, and the typed answer."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """How an order was answered."""

    ACCEPTED = "accepted"
    PARTIAL = "partial"
    REFUSED = "refused"
    """Definite: the broker does not have it."""
    REQUOTE = "requote"
    """Definite as well; a new decision with a new key may follow."""
    UNKNOWN = "unknown"
    """To be reconciled, never to be sent again."""


KINDS: dict[int, Kind] = {
    10008: Kind.ACCEPTED,
    10009: Kind.ACCEPTED,
    10010: Kind.PARTIAL,
    **dict.fromkeys(
        (10006, *range(10013, 10020), 10022, 10026, 10027, 10030, *range(10032, 10036), 10038, *range(10042, 10046)),
        Kind.REFUSED,
    ),
    **dict.fromkeys((10004, 10020, 10021), Kind.REQUOTE),
}
"""Every code that is not here is unknown."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to one intent.

    Attributes:
        kind: what it means.
        retcode: the terminal's return code; 0: the gate itself answered, or the terminal gave none.
        order: the broker's ticket of the order; 0: none.
        deal: the broker's ticket of the deal; 0: none.
        volume: lots executed.
        price: of the deal; 0: none.
        text: why, for a person.
        working: of a partial answer: the rest waits at the broker; else it is gone.
    """

    kind: Kind
    retcode: int = 0
    order: int = 0
    deal: int = 0
    volume: float = 0.0
    price: float = 0.0
    text: str = ""
    working: bool = False


def kind_of(retcode: int) -> Kind:
    """Return what a return code means; unknown for every code that the table does not have."""
    return KINDS.get(retcode, Kind.UNKNOWN)


def read_answer(result: Any, last_error: tuple[int, str], *, rests: bool = False) -> Answer:
    """Return the answer of ``order_send``; its None is unknown, whatever ``last_error`` says.

    Args:
        result: what ``order_send`` returned.
        last_error: of the terminal.
        rests: whether the request's filling leaves an unfilled rest waiting.
    """
    if result is None:
        return Answer(Kind.UNKNOWN, text=f"no answer: {last_error[1]} ({last_error[0]})")
    code = int(result.retcode)
    return Answer(
        kind_of(code), code, int(result.order), int(result.deal), float(result.volume), float(result.price),
        str(result.comment), rests and kind_of(code) is Kind.PARTIAL,
    )  # fmt: skip
