import os
import signal

import pytest

from src.training import interruption


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request):
    before = signal.getsignal(request.param)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_within_the_block_is_noted_and_does_nothing_else(number):
    handled = []
    signal.signal(number, lambda *_: handled.append(number))
    with interruption.noted() as interrupted:
        assert interrupted.signal is None
        os.kill(os.getpid(), number)
        assert interrupted.signal == number and handled == []
    os.kill(os.getpid(), number)
    assert handled == [number]


def test_a_signal_that_was_ignored_stays_so(number):
    """As SIGINT is in a shell's background job: Ctrl-C is then meant for another command."""
    signal.signal(number, signal.SIG_IGN)
    with interruption.noted() as interrupted:
        os.kill(os.getpid(), number)
    assert interrupted.signal is None and signal.getsignal(number) == signal.SIG_IGN
