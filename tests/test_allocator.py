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


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="of glibc")
def test_memory_that_ended_threads_have_freed_goes_back():
    code = """
from multiprocessing.pool import ThreadPool
import torch
from psutil import Process
from src.common.allocator import keep_freed_memory, return_freed_memory
keep_freed_memory()
with ThreadPool(2) as pool:
    pool.map(lambda _: len([torch.ones(2**20) for _ in range(50)]), range(2))
kept = Process().memory_info().rss
return_freed_memory()
print((kept - Process().memory_info().rss) // 2**20)
"""
    freed = run(sys.executable, "-c", code, cwd=ROOT, PYTHONPATH=str(ROOT)).stdout
    assert int(freed) > 100


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
