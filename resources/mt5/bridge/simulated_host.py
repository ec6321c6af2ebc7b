"""A simulated terminal as a process of its own, which outlives the bridge's worker as a real terminal does.

``python -m resources.mt5.bridge.simulated_host ADDRESS`` replays the market source of ``FX_SOURCE_…`` from
``FX_LIVE_REPLAY_DAYS`` before its end, at ``FX_LIVE_REPLAY_SPEED``; the account is that of ``FX_BRIDGE_LOGIN`` and
``FX_BRIDGE_SERVER``. It answers several connections, one call at a time.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import threading
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from resources.mt5.bridge.simulated_module import FUNCTIONS, MESSAGE_BYTES_MAX, NOW, pack
from resources.mt5.clock import Clock

_LOG = logging.getLogger("fx.bridge.simulated")


def answer(terminal: Any, clock: Clock, text: bytes) -> bytes:
    """Return the answer to one call.

    Raises:
        ValueError: it is no call of the list.
    """
    name, args, kwargs = json.loads(text)
    if name == NOW:
        return json.dumps([clock.now_ns(), [1, "Success"]]).encode()
    if name not in FUNCTIONS:
        raise ValueError(f"{str(name)[:40]!r} is no function of the terminal")
    value = getattr(terminal, name)(*args, **kwargs)
    return json.dumps([pack(value), list(terminal.last_error())]).encode()


def serve_one(terminal: Any, clock: Clock, connection: Connection, turn: threading.Lock) -> None:
    """Answer a connection's calls until it ends; what was begun for a caller who has gone is done all the same."""
    with contextlib.closing(connection):
        try:
            while True:
                asked = connection.recv_bytes(MESSAGE_BYTES_MAX)
                with turn:
                    told = answer(terminal, clock, asked)
                connection.send_bytes(told)
        except (EOFError, OSError):
            return  # whoever asked has gone
        except Exception as error:  # noqa: BLE001 - whatever a message made of it, this connection alone ends
            _LOG.warning("a connection was ended: %s: %s", type(error).__name__, error)


def serve(terminal: Any, clock: Clock, address: str) -> None:
    """Serve connections, for ever."""
    turn = threading.Lock()
    if os.name == "posix":
        Path(address).unlink(missing_ok=True)  # of one that was killed
    with Listener(address) as listener:
        if os.name == "posix":
            Path(address).chmod(0o600)
        _LOG.info("simulated terminal at %s", address)
        while True:
            try:
                connection = listener.accept()
            except OSError:
                continue  # it went before it was let in
            threading.Thread(target=serve_one, args=(terminal, clock, connection, turn), daemon=True).start()


def open_simulated() -> tuple[Any, Clock]:
    """Return the simulated terminal of the settings, and its clock."""
    from fx_dagster.market.timeframes import DAY_NS
    from fx_dagster.settings import LiveSettings, RiskSettings, SourceSettings
    from resources.market import open_source
    from resources.mt5.bridge.settings import bridge_settings, require_account
    from resources.mt5.clock import ReplayClock
    from resources.mt5.simulated import SimulatedTerminal
    from resources.mt5.trading import BrokerOptions

    bridge, live, risk = bridge_settings(), LiveSettings(), RiskSettings()
    require_account(bridge)
    source = open_source(SourceSettings())
    spans = [source.span(symbol) for symbol in source.symbols()]
    end = max(stop for _, stop in spans)
    start = max(min(first for first, _ in spans), end - int(live.replay_days * DAY_NS))
    clock = ReplayClock(start, end, live.replay_speed)
    terminal = SimulatedTerminal(
        source, clock=clock, balance=risk.initial_balance, currency=risk.account_currency, leverage=int(risk.leverage),
        options=BrokerOptions(login=int(bridge.login), server=bridge.server),
    )  # fmt: skip
    return terminal, clock


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # until whoever started it has gone
    os._exit(0)


def main() -> None:
    """Run until it is ended."""
    parser = argparse.ArgumentParser(description="A simulated MetaTrader 5 terminal.")
    parser.add_argument("address", help="path of the socket (on Windows: name of the pipe)")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    given = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if given.with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    terminal, clock = open_simulated()
    serve(terminal, clock, given.address)


if __name__ == "__main__":
    main()
