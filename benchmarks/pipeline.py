"""`python -m benchmarks.pipeline [--rounds 5]`: what DVC costs beside the stages' own work.

In a clone of this repository, as committed, with the embedded digits and little training: seconds of a `dvc repro` that has
nothing to do; of a `dvc exp run -S sample.steps=...` beyond those that its stages took; and from starting Python until each
stage has what it imports. Medians, to benchmarks/results/pipeline.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe
from stages.__main__ import LOG, NAMES
from tools.soak import prepare

RESULT = Path("benchmarks/results/pipeline.json")


def seconds(folder: Path, *command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def experiment(folder: Path, steps: int) -> tuple[float, float]:
    """(seconds of the command, seconds that its stages' processes ran) of an experiment with other sampling steps."""
    (folder / LOG).unlink(missing_ok=True)
    total = seconds(folder, "dvc", "exp", "run", "--force", "-S", f"sample.steps={steps}")
    lines = (folder / LOG).read_text().splitlines()
    return total, sum(json.loads(line)["seconds"] for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "clone"
        prepare(folder)
        for arguments in (("config", "user.name", "Benchmark"), ("config", "user.email", "b@example.org"),
                          ("commit", "--quiet", "--all", "--message", "small")):
            subprocess.run(["git", *arguments], cwd=folder, check=True)
        idle = [seconds(folder, "dvc", "repro") for _ in range(rounds)]
        experiments = [experiment(folder, steps) for steps in range(3, 3 + rounds)]
        starts = {
            name: [seconds(folder, sys.executable, "-c", f"import stages.__main__, stages.{name}") for _ in range(rounds)]
            for name in NAMES
        }
    found = {
        "rounds": rounds,
        "repro_with_nothing_to_do": statistics.median(idle),
        "experiment": statistics.median(total for total, _ in experiments),
        "experiment_beyond_its_stages": statistics.median(total - own for total, own in experiments),
        "stage_start": {name: statistics.median(times) for name, times in starts.items()},
    }
    rounded = json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 2))
    RESULT.write_text(json.dumps({"seconds": rounded} | describe("dvc", "torch"), indent=2) + "\n")
    print(json.dumps(rounded, indent=2))


if __name__ == "__main__":
    main()
