"""`make queue JOBS=2`: run all queued experiments to their end, and say which failed.

`dvc exp run --run-all --jobs 2` reports success when one of its workers loses an experiment, and
can wait for ever (DVC's issues 10673 and 10398). This starts the same workers, watches them, and
starts them again if they end too early. It exits 1 with the names of experiments that failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator

import psutil
from dvc.repo import Repo
from dvc.repo.experiments.queue.celery import LocalCeleryQueue

WAITING, FAILED, LOST = ("Queued", "Running"), "Failed", "lost by DVC"
INTERVAL = 2.0  # seconds between two checks of the queue
PATIENCE = 60.0  # seconds without a worker, until workers start again; or without news of a task


def states(queue: LocalCeleryQueue) -> dict[str, tuple[str, str]]:
    """Each task's name and state: Queued, Running, Success or Failed."""
    return {
        task["rev"]: (task["name"] or task["rev"][:7], task["status"]) for task in queue.status()
    }


def computes(queue: LocalCeleryQueue, rev: str) -> bool:
    """Whether the process of this task lives. A busy worker can fail to answer DVC for minutes."""
    process = queue.proc.get(rev)
    return process is not None and process.returncode is None and psutil.pid_exists(process.pid)


def watch(queue: LocalCeleryQueue, jobs: int) -> Iterator[tuple[str, str]]:
    """Run what waits in the queue. Yields (name, state) whenever a state changes.

    The last state of each is Success, Failed, or LOST if DVC does not know it any more.
    """
    known = {rev: task for rev, task in states(queue).items() if task[1] in WAITING}
    yield from known.values()
    queue.start_workers(jobs)
    alone_since = None
    seen = dict.fromkeys(known, time.monotonic())  # when DVC last listed each task
    while any(state in WAITING for _, state in known.values()):
        time.sleep(INTERVAL)
        now = states(queue)
        seen |= dict.fromkeys(now, time.monotonic())
        for rev, task in now.items():
            if task[1] in WAITING and rev not in known:
                known[rev] = task
                yield task
        for rev, (name, before) in known.items():
            # A task that has just ended can be missing for a moment.
            missing = time.monotonic() - seen[rev] > PATIENCE and not computes(queue, rev)
            task = now.get(rev, (name, LOST if missing else before))
            if task[1] != before and before in WAITING:
                known[rev] = task
                yield task
        if queue.worker_status() or any(computes(queue, rev) for rev in known):
            alone_since = None
            continue
        alone_since = alone_since or time.monotonic()
        if time.monotonic() - alone_since > PATIENCE:
            for rev, (name, state) in known.items():
                if state == "Running":  # its worker is gone
                    known[rev] = name, LOST
                    yield name, LOST
            queue.start_workers(jobs)
            alone_since = None
    queue.celery.control.shutdown()  # DVC can forget to end one of several workers


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time")
    jobs = parser.parse_args().jobs
    if jobs < 1:
        parser.error(f"--jobs: expected 1 or more, got {jobs}")
    # Workers that each use all cores slow each other down.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    last = {}
    with Repo() as repo:
        try:
            for name, state in watch(repo.experiments.celery_queue, jobs):
                last[name] = state
                print(f"{name}: {state}", flush=True)
        except KeyboardInterrupt:
            print(
                "experiments go on in the background: `dvc queue status` shows them, "
                "`dvc queue stop --kill` ends them",
                file=sys.stderr,
            )
            return 130
    if not last:
        print("the queue is empty. `dvc exp run --queue -S schedule=linear,flow` fills it")
    failed = [name for name, state in last.items() if state in (FAILED, LOST)]
    for name in failed:
        print(f"{name} did not finish: `dvc queue logs {name}` says why", file=sys.stderr)
    if failed:
        print(
            "If there are no logs, DVC lost it: queue it again. "
            "`dvc queue remove --failed` forgets what failed",
            file=sys.stderr,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
