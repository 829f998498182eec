"""End a long computation between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """`signal` is the number of the first SIGINT or SIGTERM, or None."""

    signal: int | None = None

    def note(self, number: int, frame: object) -> None:
        self.signal = self.signal or number


@contextmanager
def noted() -> Iterator[Interruption]:
    """Record SIGINT and SIGTERM during the block instead of acting on them. Main thread only.

    A signal that was ignored before stays ignored: shells ignore SIGINT in background jobs.
    """
    interruption = Interruption()
    numbers = (signal.SIGINT, signal.SIGTERM)
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interruption.note) for number in heeded}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
