"""`python -m benchmarks.demo [--rounds 5]`: seconds from opening the demo's page until its first images are seen.

Each round starts a server of its own: the first page opens the model and draws a hundred digits, the next one draws them. Needs
models/model.safetensors and Chromium. Medians, to benchmarks/results/demo.json.
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

from playwright.sync_api import sync_playwright

from benchmarks.machine import describe
from src.common import reports

RESULT = Path("benchmarks/results/demo.json")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IMAGE = '[data-testid="stImage"] img'


@contextmanager
def serving(folder: str | Path = ".") -> Iterator[str]:
    """The address of the demo of the repository in `folder`, which runs on a free port, on the CPU, until the block ends."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "tools.demo", "--server.port", str(port)], cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        end = time.monotonic() + 60
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
    """Whether something on this machine does; proxies are for others."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=1).close()
    except OSError:
        return False
    return True


def first_images(browser) -> tuple[float, float]:
    """Seconds until the first visitor of a fresh server sees images, and until the second one does."""
    with serving() as address:
        found = []
        for _ in range(2):
            page = browser.new_page()
            started = time.perf_counter()
            page.goto(address)
            page.wait_for_selector(IMAGE, timeout=60_000)
            found.append(time.perf_counter() - started)
            page.close()
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds, about = parser.parse_args().rounds, describe("streamlit", "playwright", "torch")
    if not CHROMIUM:
        print("demo: not timed, there is no Chromium in the path")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        found = [first_images(browser) for _ in range(rounds)]
        browser.close()
    seconds = {
        "rounds": rounds, "first_visitor": round(statistics.median(first for first, _ in found), 2),
        "next_visitor": round(statistics.median(later for _, later in found), 2),
    }
    reports.write_json(RESULT, {"seconds": seconds} | about)
    print(json.dumps(seconds, indent=2))


if __name__ == "__main__":
    main()
