"""Who may trade an account: one engine, held by a PostgreSQL advisory lock and an epoch.

The lock keeps a second engine out while the first one is connected. The epoch rises with each engine that takes the
account, and every write checks it: an engine that was stopped, overtaken and continued writes nothing, although a
stopped process keeps its lock. An engine whose heartbeat is older than the sensor's patience is overtaken: its
connection is ended by the server, which frees the lock.
"""

import asyncio
import hashlib
import time

import psycopg

from fx_dagster.errors import FencedError

_RETRY_S = 0.05


def lock_key(account: str) -> int:
    """Return the key of the account's advisory lock: a signed 64-bit number."""
    return int.from_bytes(hashlib.sha256(f"fx_dagster account {account}".encode()).digest()[:8], "big", signed=True)


async def take(connection: psycopg.AsyncConnection, account: str, *, stale_s: float, wait_s: float = 1.0) -> int:
    """Take the account and return this engine's epoch.

    Args:
        connection: in autocommit; holds the lock until it ends.
        account: account name.
        stale_s: age of a heartbeat from which its engine is overtaken.
        wait_s: how long a lock may need to fall, as after a kill.

    Raises:
        FencedError: a living engine has it.
    """
    await _lock(connection, account, stale_s=stale_s, wait_s=wait_s)
    cursor = await connection.execute(
        "INSERT INTO live_account AS a (account, epoch) VALUES (%s, 1)"
        " ON CONFLICT (account) DO UPDATE SET epoch = a.epoch + 1, taken_at = now() RETURNING epoch",
        (account,),
    )
    return int((await _one(cursor))[0])


async def retake(connection: psycopg.AsyncConnection, account: str, epoch: int, *, wait_s: float = 5.0) -> None:
    """Take the lock again on a new connection after the server was away.

    Raises:
        FencedError: another engine took the account meanwhile.
    """
    await check(connection, account, epoch)
    await _lock(connection, account, stale_s=float("inf"), wait_s=wait_s)
    await check(connection, account, epoch)


async def check(connection: psycopg.AsyncConnection, account: str, epoch: int) -> None:
    """Refuse to go on with an epoch that is no longer the account's; a taking engine waits for this transaction.

    Raises:
        FencedError: it is not.
    """
    cursor = await connection.execute("SELECT epoch FROM live_account WHERE account = %s FOR SHARE", (account,))
    row = await cursor.fetchone()
    if row is None or row[0] != epoch:
        raise FencedError(
            f"account {account}: epoch {epoch} of this engine is over, {row[0] if row else 'none'} is current",
            mend="nothing to do: another engine trades the account",
        )


async def _lock(connection: psycopg.AsyncConnection, account: str, *, stale_s: float, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    overtaken = False
    while True:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (lock_key(account),))
        if (await _one(cursor))[0]:
            return
        if not overtaken and stale_s != float("inf"):
            overtaken = await _overtake(connection, account, stale_s)
        if time.monotonic() > deadline:
            raise FencedError(
                f"account {account} is traded by another engine{await _holder(connection, account)}",
                mend="one engine an account: stop that one first, or set FX_LIVE_ACCOUNT to another account",
            )
        await asyncio.sleep(_RETRY_S)


async def _overtake(connection: psycopg.AsyncConnection, account: str, stale_s: float) -> bool:
    cursor = await connection.execute(
        "SELECT greatest(a.taken_at, s.beat_at) < now() - make_interval(secs => %s)"
        " FROM live_account a LEFT JOIN live_status s USING (account) WHERE account = %s",
        (stale_s, account),
    )
    row = await cursor.fetchone()
    if row is None or not row[0]:
        return False
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND ((classid::bigint << 32) | objid::bigint) = %s AND pid <> pg_backend_pid()",
        (lock_key(account),),
    )
    return True


async def _holder(connection: psycopg.AsyncConnection, account: str) -> str:
    cursor = await connection.execute(
        "SELECT pid, host, round(extract(epoch FROM now() - beat_at)) FROM live_status WHERE account = %s", (account,)
    )
    row = await cursor.fetchone()
    return f" (process {row[0]} on {row[1]}, last heartbeat {row[2]} s ago)" if row else ""


async def _one(cursor: psycopg.AsyncCursor) -> tuple:
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - the statement always returns one row
    return row
