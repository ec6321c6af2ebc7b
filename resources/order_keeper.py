"""A real broker's orders in PostgreSQL, and the local log of exits beside it, for the live engine."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg

from fx_dagster.errors import JournalError
from fx_dagster.execution.lifecycle import OrderBook
from fx_dagster.execution.orders import OrderIntent, Transition
from resources import order_store
from resources.exit_log import ExitLog
from resources.order_store import Writer
from resources.postgres import connect_async, unreachable

_AFTER_RESTART = "restart, and reconcile"
"""What the log of exits says is to be done where it takes nothing more."""


class PostgresOrders:
    """Implements :class:`fx_dagster.live.protocols.OrderKeeper`. Made by :meth:`open`, ended by :meth:`close`.

    Args:
        url: of PostgreSQL.
        writer: the engine.
        log: the account's log of exits.
    """

    def __init__(self, url: str, writer: Writer, log: ExitLog) -> None:
        self._url, self._writer, self._log = url, writer, log
        self._broken = False

    @classmethod
    def open(cls, url: str, writer: Writer, folder: Path) -> Self:
        """Take the account's log of exits in ``folder``.

        Raises:
            FencedError: another process has it.
            JournalError: it is damaged, or there is no room for it.
        """
        return cls(url, writer, ExitLog.open(folder, writer.account))

    def close(self) -> None:
        """Free the log."""
        self._log.close()

    @property
    def epoch(self) -> int:
        """Of this engine."""
        return self._writer.epoch

    @property
    def broken(self) -> bool:
        """Whether the log takes nothing more before a restart."""
        return self._broken

    async def load(self, since_ns: int) -> OrderBook:
        """Join the log, and return the account's book; see the protocol."""
        await self.join()
        async with self._connected() as connection:
            return await order_store.load(connection, self._writer.account, since_ns=since_ns)

    def log_exit(self, intent: OrderIntent, *, position_lots: float, position_stop: float) -> None:
        """Have an exit on the local disk; see the protocol."""
        with self._noticing():
            self._log.append(intent, position_lots=position_lots, position_stop=position_stop)

    def log_change(self, reached: Transition) -> None:
        """Write a state that a logged exit reached; see the protocol."""
        with self._noticing():
            self._log.note(reached)

    async def join(self) -> int:
        """Join the log into the journal and begin a new one; see the protocol."""
        records = self._log.records()
        if records:
            async with self._connected() as connection:
                await order_store.rejoin(connection, self._log.log_id, records, self._writer)
            self._log.clear()
        return len(records)

    async def not_sent(self) -> tuple[int, ...]:
        """Return the keys that a person has decided; see the protocol."""
        async with self._connected() as connection:
            held = await order_store.held(connection, self._writer.account)
        return tuple(key for key, _, decided in held if decided)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except JournalError as error:
            self._broken = self._broken or error.mend == _AFTER_RESTART
            raise

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        connection = await connect_async(self._url, name=f"fx live {self._writer.account} orders")
        try:
            yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
            raise unreachable(error if isinstance(error, psycopg.Error) else psycopg.Error(str(error))) from error
        finally:
            await connection.close()
