"""Signals that ask a training to end: the first is noted, a second Ctrl-C ends at once, and handlers are restored."""

import signal
import subprocess
import sys
import threading

import pytest

from mixar.training.stopping import NOTICE, signals_as_wishes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_only_asks_and_the_handlers_are_restored(number):
    before = signal.getsignal(number)

    with signals_as_wishes() as wish:
        assert wish() == 0
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert wish() == number

    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_ends_at_once_after_a_notice():
    code = (
        "import signal; from mixar.training.stopping import signals_as_wishes\n"
        "with signals_as_wishes():\n"
        "    signal.raise_signal(signal.SIGINT); print('still here', flush=True); signal.raise_signal(signal.SIGINT)"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)

    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"still here\n", NOTICE)


def test_a_process_that_ignores_ctrl_c_still_ignores_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_as_wishes() as wish:
            signal.raise_signal(signal.SIGINT)
            assert wish() == 0 and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_no_handler_is_set():
    found = []

    def work():
        with signals_as_wishes() as wish:
            found.append((wish(), signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert found == [(0, before)]
