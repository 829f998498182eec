"""`python -m tools.workflow [--keep VARIABLE ...]`: run the steps of the GitHub workflow here.

Runs the shell steps of the job `test`, as written, in a clone of the last commit. HOME is new. The
only other variables are PATH, CI and those of `--keep`, such as MNIST_MIRROR. Skips steps that want
a pull request. Exits with 1 if a step fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

WORKFLOW = Path(".github/workflows/test.yml")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", nargs="*", default=[], metavar="VARIABLE")
    arguments = parser.parse_args()
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["test"]["steps"]
    with tempfile.TemporaryDirectory() as temporary:
        home, clone = Path(temporary) / "home", Path(temporary) / "noisette"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", ".", clone], check=True)
        # Without this environment's own commands, which a new machine lacks.
        own = str(Path(sys.executable).parent)
        path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != own)
        environment = {"HOME": str(home), "PATH": path, "CI": "true"}
        environment |= {name: os.environ[name] for name in arguments.keep if name in os.environ}
        for step in steps:
            if "run" not in step or "pull_request" in step.get("if", ""):
                continue
            started = time.perf_counter()
            shell = ["bash", "-e", "-o", "pipefail", "-c", step["run"]]
            done = subprocess.run(shell, cwd=clone, env=environment)
            print(f"{step['run']}: {time.perf_counter() - started:.0f} s, exit {done.returncode}")
            if done.returncode:
                sys.exit(1)


if __name__ == "__main__":
    main()
