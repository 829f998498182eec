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

RESULT = Path("benchmarks/results/demo.json")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
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
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(30)


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
    rounds = parser.parse_args().rounds
    with sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        found = [first_images(browser) for _ in range(rounds)]
        browser.close()
    seconds = {
        "rounds": rounds, "first_visitor": round(statistics.median(first for first, _ in found), 2),
        "next_visitor": round(statistics.median(later for _, later in found), 2),
    }
    RESULT.write_text(json.dumps({"seconds": seconds} | describe("streamlit", "playwright", "torch"), indent=2) + "\n")
    print(json.dumps(seconds, indent=2))


if __name__ == "__main__":
    main()
