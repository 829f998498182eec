"""Serve the demo for a browser of the benchmarks and tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def serving(folder: str | Path = ".") -> Iterator[str]:
    """Serve the demo of the repository in `folder` until the block ends. Yields its address.

    The server uses a free port and the CPU.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "tools.demo", "--server.port", str(port)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        end = time.monotonic() + 900
        while not answers(f"http://localhost:{port}/_stcore/health"):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the demo's server does not answer")
            time.sleep(0.1)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def answers(address: str) -> bool:
    """Whether a server on this machine answers. Ignores proxies, which are for other machines."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(address, timeout=30).close()
    except OSError:
        return False
    return True
