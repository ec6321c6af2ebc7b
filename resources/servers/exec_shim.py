"""Runs between fork and exec of a server: ties its life to its parent's, resets signals, drops privileges.

Started as a script, with nothing but the standard library::

    python -I -S exec_shim.py '{"parent": 1, "death_signal": 9, "uid": null, "gid": null}' program argument …

Done here, and not in a ``preexec_fn``, because code between fork and exec of a process with threads may deadlock.
"""

import ctypes
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
CANNOT_EXECUTE = 127
PARENT_GONE = 126


def _drop_privileges(uid: int | None, gid: int | None) -> None:
    if uid is None or gid is None:
        return
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _die_with_parent(parent: int, death_signal: int) -> None:
    """Ask the kernel for a signal at the parent's death. Must follow setuid, which clears the request."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before we asked
        sys.exit(PARENT_GONE)


def _reset_signals() -> None:
    """Undo ignored and blocked signals: a job started with ``&`` from a script ignores SIGINT, and so would we."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # Python lists real-time signals that the C library keeps for itself and refuses.
        if number < signal.SIGRTMIN if hasattr(signal, "SIGRTMIN") else True:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def main(arguments: list[str]) -> None:
    """Prepare this process and become the program."""
    options = json.loads(arguments[0])
    program = arguments[1:]
    try:
        _drop_privileges(options["uid"], options["gid"])
        _reset_signals()
        _die_with_parent(options["parent"], options["death_signal"])
        os.execv(program[0], program)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"cannot execute {program[0]}: {error}\n")
        sys.exit(CANNOT_EXECUTE)


if __name__ == "__main__":
    main(sys.argv[1:])
