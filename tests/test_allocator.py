import os
import sys

import pytest

from src.common import allocator
from tests.helpers import ROOT, run

GLIBC = sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")


def result(**variables: str) -> str:
    """What `keep_freed_memory` returns in a new process. benchmarks/switches.py times its gain."""
    command = "from src.common.allocator import keep_freed_memory; print(keep_freed_memory())"
    return run(
        sys.executable, "-c", command, cwd=ROOT, PYTHONPATH=str(ROOT), **variables
    ).stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="of glibc")
def test_glibc_takes_all_settings_unless_the_user_has_made_some():
    assert result() == "True"
    assert result(MALLOC_ARENA_MAX="2") == "False"


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
