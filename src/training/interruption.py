"""Ending a long computation between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """`signal` is the number of the first SIGINT or SIGTERM that came in, None before."""

    signal: int | None = None

    def note(self, number: int, frame: object) -> None:
        self.signal = self.signal or number


@contextmanager
def noted() -> Iterator[Interruption]:
    """Within the block SIGINT and SIGTERM do nothing but appear in what it yields, and not even that where they were ignored
    before, as SIGINT is in a shell's background job. Main thread only."""
    found = Interruption()
    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, found.note) for number in heeded}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
