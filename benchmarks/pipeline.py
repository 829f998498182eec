"""`python -m benchmarks.pipeline [--rounds 5]`: the time that DVC adds to the stages' own time.

It works in a clone of the last commit, with the embedded digits and little training, after one run
of all stages. It writes medians to benchmarks/results/pipeline.json, with a row for processors with
fast bfloat16 and one for others:

nothing_to_do_s     `dvc repro` when nothing changed.
experiment_adds_s   `dvc exp run -S sample.steps=...`, minus the time that its stages measured. The
                    stages start their clocks before large imports.
stage_starts_s      For each stage, a process that only imports the modules of the stage.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.own import precision, write_rows
from stages.__main__ import NAMES
from tools.machine import describe
from tools.soak import prepare, run

RESULT = Path("benchmarks/results/pipeline.json")
DVC = (sys.executable, "-m", "dvc")
IMPORTS = "import gc, stages.{}; gc.freeze()"
NOBODY = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
COMMIT = ("git", *NOBODY, "commit", "--quiet", "--all", "--message", "digits")


def timed(folder: Path, *command: str) -> float:
    started = time.perf_counter()
    run(folder, *command)
    return time.perf_counter() - started


def experiment_adds(folder: Path, steps: int) -> float:
    """Seconds of an experiment with `steps` sampling steps, minus those of its stages."""
    log = folder / ".scratch/stages.jsonl"
    log.unlink(missing_ok=True)
    whole = timed(folder, *DVC, "exp", "run", "-S", f"sample.steps={steps}")
    return whole - sum(json.loads(line)["seconds"] for line in log.read_text().splitlines())


def stage_start(folder: Path, stage: str, rounds: Iterable[int]) -> float:
    """Median seconds of a process that only imports the modules of the stage."""
    command = (sys.executable, "-c", IMPORTS.format(stage))
    return statistics.median(timed(folder, *command) for _ in rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds, about = range(parser.parse_args().rounds), describe("dvc", "torch")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pipeline"
        prepare(folder)
        subprocess.run(COMMIT, cwd=folder, check=True)
        medians = {
            "nothing_to_do_s": statistics.median(timed(folder, *DVC, "repro") for _ in rounds),
            "experiment_adds_s": statistics.median(experiment_adds(folder, 20 + i) for i in rounds),
            "stage_starts_s": {name: stage_start(folder, name, rounds) for name in NAMES},
        }
    row = {"precision": precision(), "rounds": len(rounds)} | medians | about
    write_rows(RESULT, [row], "precision")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
