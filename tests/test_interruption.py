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
    came = []
    signal.signal(number, lambda *_: came.append(number))
    with interruption.noted() as found:
        assert found.signal is None
        os.kill(os.getpid(), number)
        assert found.signal == number and came == []
    os.kill(os.getpid(), number)
    assert came == [number]


def test_a_signal_that_was_ignored_stays_so(number):
    """As SIGINT is where a shell started the command in the background: Ctrl-C is then meant for another one."""
    signal.signal(number, signal.SIG_IGN)
    with interruption.noted() as found:
        os.kill(os.getpid(), number)
    assert found.signal is None and signal.getsignal(number) == signal.SIG_IGN
