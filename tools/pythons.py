"""`python -m tools.pythons PYTHON ...`: install and run the fast tests with other Pythons.

Each gets a clone of this repository's last commit. `--lowest` installs the lowest versions that
pyproject.toml allows, instead of the pinned ones, with the first PYTHON. Rows of other Pythons stay
in benchmarks/results/pythons.json. Needs the package registry, and 2 GB of disk at a time.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from src.common import reports
from tools.machine import describe

RESULT = Path("benchmarks/results/pythons.json")


def attempt(python: str, lowest: bool) -> dict:
    """Install and test in a clone that is removed afterwards."""
    version = subprocess.check_output([python, "--version"], text=True).split()[1]
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "noisette"
        subprocess.run(["git", "clone", "--quiet", ".", clone], check=True)
        started = time.perf_counter()
        if lowest:
            install = (
                f"{python} -m venv .venv && .venv/bin/pip install --quiet uv==0.13.9 && "
                ".venv/bin/uv pip install --quiet --python .venv/bin/python "
                "--resolution lowest-direct --group test && touch .venv/.installed"
            )
        else:
            install = f"make PYTHON={python} install"
        done = _run(install, clone)
        seconds = time.perf_counter() - started
        outcome = "not installed" if done.returncode else _run("make test-fast", clone).stdout
        print(outcome[-3000:], done.stderr[-3000:], sep="\n", flush=True)
        packages = _run(".venv/bin/python -m pip freeze", clone).stdout if lowest else ""
    return {
        "python": version,
        "dependencies": "lowest" if lowest else "pinned",
        "install_seconds": round(seconds),
        "outcome": (re.findall(r"(\d+ (?:failed|passed).*?) in ", outcome) or [outcome])[-1],
        "packages": packages.split(),
    } | {key: value for key, value in describe().items() if key != "versions"}


def _run(command: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command, shell=True, cwd=cwd, capture_output=True, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="such as python3.12")
    parser.add_argument("--lowest", action="store_true")
    arguments = parser.parse_args()
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    failed = False
    for python in arguments.pythons[:1] if arguments.lowest else arguments.pythons:
        row = attempt(python, arguments.lowest)
        same = ("python", "dependencies")
        rows = [old for old in rows if any(old[key] != row[key] for key in same)] + [row]
        print({key: row[key] for key in (*same, "outcome")}, flush=True)
        reports.write_json(RESULT, {"rows": rows})
        failed |= "passed" not in row["outcome"] or "failed" in row["outcome"]
    sys.exit(failed)


if __name__ == "__main__":
    main()
