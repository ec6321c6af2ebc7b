"""The ``MetaTrader5`` module's functions over a simulated terminal that is a process of its own, as a real one is.

Plain JSON over a socket or pipe of this machine: nothing that is read is ever executed. What the terminal does is its
own affair: it goes on when the one who asked is killed, and its answers then go nowhere. A lost connection is what it
is with the module: ``None`` (or ``False``), and an IPC code in ``last_error``.
"""

import base64
import json
from multiprocessing.connection import Client, Connection
from typing import Any, Final

import numpy as np

from resources.mt5 import structures
from resources.mt5.constants import Mt5Constants

FUNCTIONS: Final = frozenset({
    "initialize", "shutdown", "terminal_info", "account_info", "symbols_get", "symbol_select", "symbol_info",
    "symbol_info_tick", "copy_rates_from_pos", "copy_ticks_from", "order_send", "orders_get", "positions_get",
    "history_orders_get", "history_deals_get",
})  # fmt: skip
"""What may be asked of the terminal."""
NOW: Final = "now_ns"
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
_ROWS: Final = {"RATE": structures.RATE_DTYPE, "TICK": structures.TICK_DTYPE}
_TUPLES: Final = {
    name: kind for name, kind in vars(structures).items() if isinstance(kind, type) and issubclass(kind, tuple)
}


def pack(value: Any) -> Any:
    """Return what JSON has for an answer of the terminal.

    Raises:
        TypeError: the terminal has no such answers.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        name = next(name for name, kind in _ROWS.items() if kind == value.dtype)
        return {"rows": name, "bytes": base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()}
    if isinstance(value, tuple) and type(value).__name__ in _TUPLES:
        return {"tuple": type(value).__name__, "values": [pack(item) for item in value]}
    if isinstance(value, tuple | list):
        return [pack(item) for item in value]
    raise TypeError(f"the terminal has no answers of type {type(value).__name__}")


def unpack(value: Any) -> Any:
    """Return the terminal's answer; inverse of :func:`pack`, lists become tuples."""
    if isinstance(value, list):
        return tuple(unpack(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "rows" in value:
        return np.frombuffer(base64.b64decode(value["bytes"]), dtype=_ROWS[value["rows"]])
    return _TUPLES[value["tuple"]](*(unpack(item) for item in value["values"]))


class SimulatedModule:
    """Has the functions of the module that the bridge uses.

    Args:
        address: of the terminal's socket or pipe.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: Connection | None = None
        self._error: tuple[int, str] = (Mt5Constants.RES_S_OK, "Success")

    def __getattr__(self, name: str) -> Any:
        if name not in FUNCTIONS:
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, args, kwargs)

        return call

    def last_error(self) -> tuple[int, str]:
        """Return the code and text of the last call."""
        return self._error

    def now_ns(self) -> int:
        """Return the simulated market's present, ns UTC; 0: the terminal does not answer."""
        return int(self._call(NOW, (), {}) or 0)

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nothing = False if name in ("initialize", "shutdown", "symbol_select") else None
        try:
            if self._connection is None:
                self._connection = Client(self._address)
            self._connection.send_bytes(json.dumps([name, args, kwargs]).encode())
            answer, error = json.loads(self._connection.recv_bytes(MESSAGE_BYTES_MAX))
            value, self._error = unpack(answer), (int(error[0]), str(error[1]))
        except (OSError, EOFError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as lost:
            self._connection = None
            self._error = (Mt5Constants.RES_E_INTERNAL_FAIL_CONNECT, f"No IPC connection: {type(lost).__name__}")
            return nothing
        return value
