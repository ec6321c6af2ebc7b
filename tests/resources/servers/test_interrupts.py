"""Signals that ask to end."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from resources.servers import interrupts

_PROGRAM = """
    import os, signal, sys, time
    from resources.servers import interrupts
    interrupts.install()
    try:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        time.sleep(5)
    except KeyboardInterrupt as error:
        print(error.number, interrupts.received())
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("ignored", [True, False])
def test_each_ending_signal_interrupts(name: str, ignored: bool) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN) if ignored else signal.getsignal(number)
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_PROGRAM), name],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            restore_signals=False,
        )
    finally:
        signal.signal(number, before)
    assert done.stdout.split() == [str(int(number))] * 2


def test_an_interrupt_that_is_lost_in_a_finaliser_comes_again() -> None:
    program = """
        import os, signal, time
        from resources.servers import interrupts
        interrupts.install()

        class Dying:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
                print("not interrupted")

        try:
            Dying()
            time.sleep(20)
            print("lost")
        except KeyboardInterrupt as error:
            print(error.number)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=15, check=True
    )
    assert (done.stdout.split(), done.stderr) == ([str(int(signal.SIGTERM))], "")


def test_cleaning_up_is_not_interrupted_but_hurried() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts.patient() as hurry:
        assert not hurry.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert hurry.wait(2)
    assert signal.getsignal(signal.SIGINT) is before
