import os
import signal
import time

import pytest

from src.training import interruption


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request):
    before = signal.signal(request.param, signal.SIG_DFL)  # ignored where a shell's job runs this
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


def test_a_step_that_never_ends_is_left_in_the_end(number, monkeypatch, capsys):
    monkeypatch.setattr(interruption, "PATIENCE", 1)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(SystemExit) as left, interruption.noted():
        os.kill(os.getpid(), number)
        time.sleep(60)
    assert left.value.code == 128 + number
    assert "the step did not end within 1 s" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_step_that_ended_leaves_time_to_save(number, monkeypatch):
    monkeypatch.setattr(interruption, "PATIENCE", 1)
    with interruption.noted() as interrupted:
        os.kill(os.getpid(), number)
        interrupted.step_ended()
        time.sleep(1.5)
    assert interrupted.signal == number


def test_a_signal_that_was_ignored_stays_so(number):
    """As SIGINT is in a shell's background job: Ctrl-C is then meant for another command."""
    signal.signal(number, signal.SIG_IGN)
    with interruption.noted() as interrupted:
        os.kill(os.getpid(), number)
    assert interrupted.signal is None and signal.getsignal(number) == signal.SIG_IGN
