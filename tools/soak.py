"""`python -m tools.soak [--kills 20] [--stages train ...] [--seed 0] [--jobs 2] [--report FILE]`

Kill every stage at random moments, run it again, and compare its outputs.

It works in a copy of this repository with the embedded digits and little training. DVC runs each
stage. A signal (SIGKILL, SIGTERM or SIGINT) goes to DVC and the stage at the same time. The next
run must end with the hashes of an undisturbed run. It exits with 1 if any run does not. It prints
these values for each stage, and writes them to the report:

kills          Signals while the stage's own process was running.
after_stage    Further signals, while only DVC was running, to record the stage's results.
resumed        Runs that continued from a checkpoint.
mismatches     Runs with different hashes.
lock_restored  How often a kill left half of dvc.lock. DVC does not write it atomically. The soak
               restores it, as `git checkout` would.
slowest_end_s  Longest time from SIGTERM or SIGINT until the last process, including DVC, ended.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from src.common import reports
from stages.__main__ import NAMES
from tools.get_data import whole_lock
from tools.machine import describe

SETTINGS = {
    "train": {
        "steps": 150,
        "evaluate_interval": 50,
        "sample_interval": 50,
        "checkpoint_interval": 5,
        "warmup_steps": 5,
    },
    "sample": {"count": 600, "batch_size": 50, "steps": 10},
    "classifier": {"epochs": 2},
    "spread": {"seeds": 2},
    "sweep": {"samplers": ["ddim trailing", "dpmsolver++ logsnr"], "steps": [2, 4], "count": 60},
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TOTALS = ("kills", "after_stage", "resumed", "mismatches", "lock_restored")
# These hold images per second, which differ from run to run.
TIMED = {"plots/quality_over_steps.csv", "figures/quality_over_steps.png"}
started: list[subprocess.Popen] = []  # each leads a process group; `soak` kills those left


def prepare(folder: Path) -> None:
    """Clone the last commit to `folder`, and run it there once on the embedded digits."""
    small(folder)
    run(folder, sys.executable, "-m", "dvc", "repro")


def small(folder: Path) -> None:
    """Clone the last commit to `folder`, with the embedded digits and little training."""
    subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
    run(folder, sys.executable, "-m", "tools.get_data", "digits")
    values = yaml.safe_load((folder / "params.yaml").read_text())
    for section, changes in SETTINGS.items():
        values[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def run(folder: Path, *command: str) -> str:
    """The command's output. Raises RuntimeError if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def hashes(folder: Path, stage: str) -> dict[str, str]:
    """The hashes in dvc.lock of the stage's outputs, except those that hold times."""
    outs = yaml.safe_load((folder / "dvc.lock").read_text())["stages"][stage]["outs"]
    return {out["path"]: out["md5"] for out in outs if out["path"] not in TIMED}


def disturb(folder: Path, stage: str, kills: int, chance: random.Random) -> dict[str, float]:
    """Run and kill `stage` `kills` times. After each kill, let the next run finish.

    Returns the counts that the docstring of this module explains.
    """
    repro = ["dvc", "repro", "--force", "--single-item", "--no-run-cache", stage]
    command = [sys.executable, "-m", *repro]
    length = undisturbed_seconds(folder, command, stage)
    expected = hashes(folder, stage)
    lock = (folder / "dvc.lock").read_bytes()
    counts = {
        "kills": 0,
        "after_stage": 0,
        **{chosen.name: 0 for chosen in SIGNALS},
        "resumed": 0,
        "mismatches": 0,
        "lock_restored": 0,
        "slowest_end_s": 0.0,
    }
    while counts["kills"] < kills:
        process, _ = begin(folder, command, stage)
        try:
            process.wait(chance.uniform(0, length))
        except subprocess.TimeoutExpired:
            chosen = chance.choice(SIGNALS)
            counts["kills" if computes(process.pid, stage) else "after_stage"] += 1
            counts[chosen.name] += 1
            seconds = kill(process, chosen)
            if chosen != signal.SIGKILL:
                counts["slowest_end_s"] = max(counts["slowest_end_s"], round(seconds, 2))
            if not whole_lock(folder / "dvc.lock"):
                (folder / "dvc.lock").write_bytes(lock)
                counts["lock_restored"] += 1
        output = run(folder, *command)
        counts["resumed"] += bool(re.search("resuming (after step|with) [1-9]", output))
        counts["mismatches"] += hashes(folder, stage) != expected
    return counts


def undisturbed_seconds(folder: Path, command: list[str], stage: str) -> float:
    """Let DVC run the stage to its end. Returns the seconds that the stage's own process ran."""
    process, start = begin(folder, command, stage)
    while computes(process.pid, stage):
        time.sleep(0.02)
    seconds = time.monotonic() - start
    process.wait()
    return seconds


def begin(folder: Path, command: list[str], stage: str) -> tuple[subprocess.Popen, float]:
    """Start DVC in its own process group, and wait until it has started the stage.

    Returns the process and the time at which the stage began.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    started.append(process)
    while process.poll() is None and not computes(process.pid, stage):
        time.sleep(0.02)
    return process, time.monotonic()


def keep_interrupts() -> None:
    """Make this process and its children react to SIGINT.

    Shells ignore SIGINT in background jobs, and DVC would inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def computes(group: int, stage: str) -> bool:
    """Whether a process of the group runs the stage."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if arguments[1:4] == [b"-m", b"stages", stage.encode()]:
                    return True
        except OSError:  # the process has ended meanwhile
            continue
    return False


def kill(process: subprocess.Popen, chosen: signal.Signals) -> float:
    """Send a signal to the whole group of `process`. Returns the seconds until all have ended."""
    start = time.monotonic()
    os.killpg(process.pid, chosen)
    process.wait()
    wait_for_group(process.pid)
    return time.monotonic() - start


def wait_for_group(group: int, seconds: float = 120) -> None:
    """Wait until the last process of the group has ended.

    After SIGTERM or SIGINT, a stage first finishes its step. Raises RuntimeError if a process still
    runs after `seconds`.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise RuntimeError(f"processes of group {group} still run {seconds:g} s after they were killed")


def soak(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Disturb each stage and return its counts. Writes the report, if any, after each stage."""
    start, results = time.monotonic(), {}
    about = describe("dvc", "torch")
    with tempfile.TemporaryDirectory() as scratch, ThreadPool(arguments.jobs) as pool:
        folder = Path(scratch) / "soak"
        prepare(folder)

        def disturb_copy(stage: str) -> tuple[str, dict[str, float]]:
            copy = shutil.copytree(folder, Path(scratch) / stage, symlinks=True)
            chance = random.Random(f"{arguments.seed} {stage}")
            return stage, disturb(copy, stage, arguments.kills, chance)

        try:
            for stage, counts in pool.imap(disturb_copy, arguments.stages):
                results[stage] = counts
                print(f"{stage}: {counts}", flush=True)
                if arguments.report:
                    minutes = round((time.monotonic() - start) / 60, 1)
                    head = {"seed": arguments.seed, "minutes": minutes, "total": totals(results)}
                    reports.write_json(arguments.report, head | {"stages": results} | about)
        finally:
            for process in started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
    return results


def totals(results: dict[str, dict[str, float]]) -> dict[str, float]:
    """The sums of some counts over all stages."""
    return {name: sum(counts[name] for counts in results.values()) for name in TOTALS}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="kills per stage")
    parser.add_argument("--stages", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random moments and signals"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="stages to run at a time, each in its own copy with its share of the cores",
    )
    parser.add_argument("--report", type=Path, help="write the counts to this JSON file")
    arguments = parser.parse_args()
    if not Path("/proc").is_dir():
        parser.error(
            "/proc: not found. Run this on Linux, where /proc lists the processes of a stage"
        )
    keep_interrupts()
    cores = max(1, (os.cpu_count() or 1) // arguments.jobs)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    results = soak(arguments)
    table = Table("stage", *next(iter(results.values())))
    for stage, counts in results.items():
        table.add_row(stage, *map(str, counts.values()))
    Console().print(table)
    return 1 if any(counts["mismatches"] for counts in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
