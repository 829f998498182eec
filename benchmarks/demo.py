"""`python -m benchmarks.demo [--rounds 5]`: seconds from opening the demo's page to its images.

Each round starts a new server. The first page opens the model and draws a hundred digits. The next
page draws them again. Needs models/model.safetensors and Chromium. Writes medians to
benchmarks/results/demo.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from src.common import reports
from tools.machine import describe

RESULT = Path("benchmarks/results/demo.json")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
IMAGE = '[data-testid="stImage"] img'


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


def first_images(browser: Browser) -> tuple[float, float]:
    """Seconds until the first visitor of a new server sees images, and until the second does."""
    with serving() as address:
        seconds = []
        for _ in range(2):
            page = browser.new_page()
            started = time.perf_counter()
            page.goto(address)
            page.wait_for_selector(IMAGE, timeout=900_000)
            seconds.append(time.perf_counter() - started)
            page.close()
    return seconds[0], seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds, about = parser.parse_args().rounds, describe("streamlit", "playwright", "torch")
    if not CHROMIUM:
        print("demo: not timed, because PATH has no Chromium. Install chromium and run this again")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        pairs = [first_images(browser) for _ in range(rounds)]
        browser.close()
    seconds = {
        "rounds": rounds,
        "first_visitor": round(statistics.median(first for first, _ in pairs), 2),
        "next_visitor": round(statistics.median(later for _, later in pairs), 2),
    }
    reports.write_json(RESULT, {"seconds": seconds} | about)
    print(json.dumps(seconds, indent=2))


if __name__ == "__main__":
    main()
