"""End a long computation between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 120  # seconds for the step to end after a signal


class Interruption:
    """`signal` is the number of the first SIGINT or SIGTERM, or None."""

    signal: int | None = None

    def note(self, number: int, frame: object) -> None:
        if self.signal is None:
            self.signal = number
            signal.alarm(PATIENCE)

    def give_up(self, number: int, frame: object) -> None:
        """Exit from a step that does not end."""
        print(
            f"\ninterrupted, but the step did not end within {PATIENCE} s. "
            f"The last checkpoint is unchanged",
            file=sys.stderr,
        )
        sys.exit(128 + (self.signal or number))

    def step_ended(self) -> None:
        """Cancel the deadline: saving may take any time."""
        signal.alarm(0)


@contextmanager
def noted() -> Iterator[Interruption]:
    """Record SIGINT and SIGTERM during the block instead of acting on them. Main thread only.

    The caller checks `signal` after each step, and calls `step_ended` before it saves. If it does
    not within PATIENCE, the process exits. A signal that was ignored before stays ignored: shells
    ignore SIGINT in background jobs.
    """
    interruption = Interruption()
    numbers = (signal.SIGINT, signal.SIGTERM)
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interruption.note) for number in heeded}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, interruption.give_up)
    try:
        yield interruption
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
