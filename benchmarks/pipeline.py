"""What the pipeline costs beside the work itself: nothing to do, DVC's part of an experiment, a stage's start.

    python -m benchmarks.pipeline [--rounds 5]

In a clone of its own, with the embedded digits and the committed parameters, so with 10,000 generated images as on MNIST.
Times are of whole processes as a user types them. Writes benchmarks/results/pipeline.json.
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

import yaml

from benchmarks.machine import describe
from stages.__main__ import LOG, NAMES
from tools.soak import run


def seconds(folder: Path, *command: str) -> float:
    started = time.perf_counter()
    run(folder, *command)
    return time.perf_counter() - started


def experiment(folder: Path, steps: int) -> dict:
    """One `dvc exp run` with another number of sampling steps: what it took, and what its stages took of that."""
    (folder / LOG).unlink(missing_ok=True)
    whole = seconds(folder, "dvc", "exp", "run", "-S", f"sample.steps={steps}")
    stages = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return {"seconds": whole, "stages": len(stages), "stages_seconds": sum(stage["seconds"] for stage in stages)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
        run(folder, sys.executable, "-m", "tools.get_data", "digits")
        run(folder, "dvc", "repro")
        identity = ("-c", "user.name=Benchmark", "-c", "user.email=benchmark@example.org")
        run(folder, "git", *identity, "commit", "--quiet", "--all", "--message", "digits")

        nothing = [seconds(folder, "dvc", "repro") for _ in range(rounds)]
        starts = {
            stage: [seconds(folder, sys.executable, "-c", f"import stages.{stage}") for _ in range(rounds)] for stage in NAMES
        }
        steps = yaml.safe_load((folder / "params.yaml").read_text())["sample"]["steps"]
        experiments = [experiment(folder, steps + 1 + i) for i in range(2)]
    result = describe("dvc", "torch") | {
        "rounds": rounds, "repro_with_nothing_to_do_seconds": statistics.median(nothing),
        "stage_start_seconds": {stage: statistics.median(found) for stage, found in starts.items()},
        "experiments": experiments,
        "dvc_seconds_beside_the_stages": statistics.mean(found["seconds"] - found["stages_seconds"] for found in experiments),
    }
    path = Path("benchmarks/results/pipeline.json")
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
