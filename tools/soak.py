"""`python -m tools.soak [--kills 20] [--stages train sample ...] [--seed 0] [--jobs 2] [--report FILE]`: kill stages, compare.

In a copy of this repository with the embedded digits and little training. Every stage is run by DVC, killed at a random
moment (SIGKILL, SIGTERM or SIGINT, to DVC and the stage at once), run again, as often as asked; its outputs must have the
hashes that they had when nothing disturbed it. Prints kills, resumed runs and mismatches by stage, and writes them to the
report; exits with 1 if there are mismatches. Moments are within the life of the stage's own process; `after_stage` counts, apart
from the kills asked for, those that came when only DVC was left, to write down what the stage had made. Such a one can leave half
of dvc.lock, which DVC does not write atomically: `lock_restored` counts how often it had to be brought back, as by git checkout.
`slowest_end_s` is the longest time from SIGTERM or SIGINT until the last process, DVC's included, had ended.
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

from benchmarks.machine import describe
from src.common import reports
from stages.__main__ import NAMES
from tools.get_data import whole_lock

SETTINGS = {
    "train": {"steps": 150, "evaluate_interval": 50, "sample_interval": 50, "checkpoint_interval": 5, "warmup_steps": 5},
    "sample": {"count": 600, "batch_size": 50, "steps": 10},
    "classifier": {"epochs": 2},
    "spread": {"seeds": 2},
    "sweep": {"samplers": ["ddim trailing", "dpmsolver++ logsnr"], "steps": [2, 4], "count": 60},
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
begun: list[subprocess.Popen] = []  # with process groups of their own, which are to end with this process
TIMED = {"plots/quality_over_steps.csv", "figures/quality_over_steps.png"}  # hold images per second: never twice the same


def prepare(folder: Path) -> None:
    """A clone of this repository, as committed, in `folder`, with the embedded digits, and everything run once."""
    subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
    run(folder, sys.executable, "-m", "tools.get_data", "digits")
    values = yaml.safe_load((folder / "params.yaml").read_text())
    for section, changes in SETTINGS.items():
        values[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    run(folder, sys.executable, "-m", "dvc", "repro")


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def hashes(folder: Path, stage: str) -> dict[str, str]:
    """What dvc.lock says of the stage's outputs, but for those that hold times."""
    outs = yaml.safe_load((folder / "dvc.lock").read_text())["stages"][stage]["outs"]
    return {out["path"]: out["md5"] for out in outs if out["path"] not in TIMED}


def disturb(folder: Path, stage: str, kills: int, chance: random.Random) -> dict[str, float]:
    """Run `stage` and kill it, `kills` times, each time letting the next run finish; how that went."""
    again = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", "--no-run-cache", stage]
    process, started = begin(folder, again, stage)
    while computes(process.pid, stage):
        time.sleep(0.02)
    length = time.monotonic() - started
    process.wait()
    expected = hashes(folder, stage)
    found = {"kills": 0, "after_stage": 0, **{name.name: 0 for name in SIGNALS}, "resumed": 0, "mismatches": 0}
    found["lock_restored"], lock = 0, (folder / "dvc.lock").read_bytes()
    found["slowest_end_s"] = 0.0
    while found["kills"] < kills:
        process, _ = begin(folder, again, stage)
        try:
            process.wait(chance.uniform(0, length))
        except subprocess.TimeoutExpired:
            chosen = chance.choice(SIGNALS)
            found["kills" if computes(process.pid, stage) else "after_stage"] += 1
            sent = time.monotonic()
            os.killpg(process.pid, chosen)
            found[chosen.name] += 1
            process.wait()
            wait_for_group(process.pid)
            if chosen != signal.SIGKILL:
                found["slowest_end_s"] = max(found["slowest_end_s"], round(time.monotonic() - sent, 2))
            if not whole_lock(folder / "dvc.lock"):
                (folder / "dvc.lock").write_bytes(lock)
                found["lock_restored"] += 1
        found["resumed"] += bool(re.search("resuming (after step|with) [1-9]", run(folder, *again)))
        found["mismatches"] += hashes(folder, stage) != expected
    return found


def begin(folder: Path, command: list[str], stage: str) -> tuple[subprocess.Popen, float]:
    """DVC, in a process group of its own, at the moment when it has started the stage; and that moment."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    begun.append(process)
    while process.poll() is None and not computes(process.pid, stage):
        time.sleep(0.02)
    return process, time.monotonic()


def heed_interrupts() -> None:
    """For the processes that are started: where a shell ignores SIGINT in the background, DVC would, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def computes(group: int, stage: str) -> bool:
    """Whether a process of the group runs the stage."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if arguments[1:4] == [b"-m", b"stages", stage.encode()]:
                    return True
        except OSError:  # it has ended meanwhile
            continue
    return False


def wait_for_group(group: int, seconds: float = 120) -> None:
    """Until the last process of the group has ended: a stage that was asked to stop first finishes its step."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise RuntimeError(f"processes of group {group} still run {seconds:g} s after they were killed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--stages", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="stages at a time, each in its copy, on its cores")
    parser.add_argument("--report", type=Path, help="JSON file to write what was found to")
    asked = parser.parse_args()
    if not Path("/proc").is_dir():
        parser.error("it finds the processes of a stage by /proc, which Linux has")
    heed_interrupts()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // asked.jobs)))
    started, found = time.monotonic(), {}
    about = describe("dvc", "torch")
    with tempfile.TemporaryDirectory() as scratch, ThreadPool(asked.jobs) as pool:
        folder = Path(scratch) / "soak"
        prepare(folder)

        def one(stage: str) -> tuple[str, dict[str, float]]:
            copy = shutil.copytree(folder, Path(scratch) / stage, symlinks=True)
            return stage, disturb(copy, stage, asked.kills, random.Random(f"{asked.seed} {stage}"))

        try:
            for stage, counts in pool.imap(one, asked.stages):
                found[stage] = counts
                print(f"{stage}: {counts}", flush=True)
                if asked.report:
                    names = ("kills", "after_stage", "resumed", "mismatches", "lock_restored")
                    report = {"seed": asked.seed, "minutes": round((time.monotonic() - started) / 60, 1)}
                    report["total"] = {name: sum(counts[name] for counts in found.values()) for name in names}
                    reports.write_json(asked.report, report | {"stages": found} | about)
        finally:
            for process in begun:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
    table = Table("stage", *next(iter(found.values())))
    for stage, counts in found.items():
        table.add_row(stage, *map(str, counts.values()))
    Console().print(table)
    return 1 if any(counts["mismatches"] for counts in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
