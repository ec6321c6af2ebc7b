"""Structured arrays as bytes and back: exact, checked, and refused where they are of another making."""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import DataError

FORMAT = "fx-state-1"
_MEND = "leave it out: the state is then built again from history"

Arrays = Mapping[str, NDArray[Any]]
Found = Mapping[str, tuple[str, tuple[int, ...], bytes]]
"""Description, shape and bytes of each array of a snapshot."""


SMALL, FAST = 1, 0
"""How hard bytes are pressed: a little, or not at all, which is twenty times as fast."""


def pack(arrays: Arrays, facts: Mapping[str, Any], level: int = SMALL) -> bytes:
    """Return arrays and a few JSON facts about them as compressed bytes."""
    described = [[name, _description(array.dtype), list(array.shape)] for name, array in arrays.items()]
    header = json.dumps({"format": FORMAT, "facts": dict(facts), "arrays": described}).encode()
    # Array by array, without a copy of the whole: other threads go on meanwhile.
    squeezer = zlib.compressobj(level)
    parts = [squeezer.compress(len(header).to_bytes(4, "big") + header)]
    parts += [squeezer.compress(as_bytes(array).data) for array in arrays.values()]
    return b"".join([*parts, squeezer.flush()])


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array's bytes, in C order; a view where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def unpack(data: bytes) -> tuple[dict[str, Any], Found]:
    """Return the facts, and each array's description, shape and bytes.

    Raises:
        DataError: the bytes are not a snapshot, are cut off, or are of another version.
    """
    try:
        body = zlib.decompress(data)
        size = int.from_bytes(body[:4], "big")
        header = json.loads(body[4 : 4 + size])
        if header["format"] != FORMAT:
            raise DataError(f"snapshot of format {header['format']!r}, this version reads {FORMAT}", mend=_MEND)
        arrays, at = {}, 4 + size
        for name, description, shape in header["arrays"]:
            length = int(np.prod(shape, dtype=np.int64)) * int(description[0])
            arrays[name] = (json.dumps(description), tuple(int(edge) for edge in shape), body[at : at + length])
            if len(arrays[name][2]) != length:
                raise DataError(f"snapshot ends inside {name}", mend=_MEND)
            at += length
        return dict(header["facts"]), arrays
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"snapshot cannot be read: {error}", mend=_MEND) from error


def fill(target: Arrays, found: Found, rows: Sequence[tuple[int, int]] | None = None) -> None:
    """Copy the arrays of a snapshot into ``target``, in place; all or nothing.

    Args:
        target: any arrays; with ``rows``, such whose first axis is the symbols', or of one record.
        found: from :func:`unpack`.
        rows: pairs (row here, row there) of the symbols that both have; None: each array as a whole.

    Raises:
        DataError: an array is missing or has another type or shape.
    """
    read = {name: _read(name, array, found) for name, array in target.items()}
    last = max((there for _, there in rows or ()), default=-1)
    for name, array in target.items():
        if (rows is None and array.shape != read[name].shape) or (
            rows is not None and not _single(array, read[name]) and last >= len(read[name])
        ):
            raise DataError(f"snapshot: {name} is of another layout", mend=_MEND)
    for name, array in target.items():
        if rows is None or _single(array, read[name]):
            array[...] = read[name]
            continue
        for here, there in rows:
            array[here] = read[name][there]


def _single(here: NDArray[Any], there: NDArray[Any]) -> bool:
    """Whether both are of one record, which is no symbol's."""
    return here.shape[0] == 1 and there.shape[0] == 1


def _read(name: str, array: NDArray[Any], found: Found) -> NDArray[Any]:
    if name not in found:
        raise DataError(f"snapshot has no {name}", mend=_MEND)
    description, shape, data = found[name]
    if description != json.dumps(_description(array.dtype)) or shape[1:] != array.shape[1:]:
        raise DataError(f"snapshot: {name} is of another layout", mend=_MEND)
    return np.frombuffer(data, dtype=array.dtype).reshape(shape)


def _description(dtype: np.dtype[Any]) -> list[Any]:
    """Return size and fields of a type as JSON values; equal for equal layouts only."""
    if dtype.fields is None:
        return [dtype.itemsize, dtype.str]
    fields = [[name, kind.base.str, list(kind.shape), offset] for name, (kind, offset, *_) in dtype.fields.items()]
    return [dtype.itemsize, fields]
