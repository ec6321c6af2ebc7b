"""Frames between the bridge and its worker: a name and a body, over a pipe."""

import struct
from typing import IO, Final

from fx_dagster.errors import ServerError

CONFIGURE: Final = "configure"
BEAT: Final = "beat"
OK: Final = "ok"
INVALID: Final = "invalid"
"""The question cannot be asked; nothing was done."""
ERROR: Final = "error"
REFUSED: Final = "refused"
"""The worker does not start on this account, and would not the next time either."""
HELD: Final = "held"
"""Another process owns the keys."""

_HEAD = struct.Struct("<BI")
BODY_BYTES_MAX: Final = 32 * 1024 * 1024


def write_frame(pipe: IO[bytes], name: str, body: bytes) -> None:
    """Write a frame whole.

    Raises:
        OSError: the other side has gone.
    """
    text = name.encode("ascii")
    pipe.write(_HEAD.pack(len(text), len(body)) + text + body)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> tuple[str, bytes] | None:
    """Read a frame; None: the other side has gone.

    Raises:
        ServerError: it is too long to be one.
    """
    head = _read(pipe, _HEAD.size)
    if head is None:
        return None
    name_length, body_length = _HEAD.unpack(head)
    if body_length > BODY_BYTES_MAX:
        raise ServerError(f"a frame of {body_length} bytes", mend="only the bridge and its worker may use their pipe")
    name = _read(pipe, name_length)
    body = _read(pipe, body_length)
    return None if name is None or body is None else (name.decode("ascii", "replace"), body)


def _read(pipe: IO[bytes], count: int) -> bytes | None:
    parts: list[bytes] = []
    while count:
        part = pipe.read(count)
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
