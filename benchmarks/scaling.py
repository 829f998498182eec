"""`python -m benchmarks.scaling [--rounds 3]`: training shared by machines, and a model for more.

Trains on one core; on two machines of one core each (network namespaces: tools/namespaces.py) with
the link that they have, and with a slower one. Values are medians over rounds of alternating
measurements. The model of more processes takes one core's time for a step. It adds a ring all-
reduce of the gradient (Patarasuk and Yuan 2009) with the link's measured latency and bandwidth.
Needs Linux and root. Writes benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.own import Shape, changed, on_noise, seconds_per_step
from src import params
from src.common import reports
from src.common.allocator import keep_freed_memory
from src.common.processes import Processes
from tools import namespaces
from tools.machine import describe

RESULT = Path("benchmarks/results/scaling.json")
# The limit of the link between the machines. "none" is one machine.
LINKS = {"none": None, "as it is": None, "1 Gbit/s": "1gbit"}
BATCHES = (32, 128)  # images of a process in each step
MORE = (2, 8, 64, 512)  # processes that the model describes
EXCHANGES = 20


def measure() -> dict:
    """What one process measures: of its training, and of averages over the processes."""
    keep_freed_memory()
    torch.set_num_threads(1)
    processes, found = Processes(), {}
    for batch in BATCHES:
        p = changed(params.load(), {"train": {"batch_size": batch * processes.count}})
        trainer = on_noise(p, Shape(), processes)
        found[f"step_{batch}"] = seconds_per_step(trainer)
    size = sum(weights.numel() for weights in trainer.denoiser.parameters())
    found["gradient_bytes"] = 4 * size
    for name, count in (("one_number", 1), ("gradient", size)):
        values, times, sent = torch.zeros(count), [], _sent()
        for _ in range(EXCHANGES):
            started = time.perf_counter()
            processes.average([values])
            times.append(time.perf_counter() - started)
        found[f"average_{name}"] = statistics.median(times)
        found[f"sent_{name}"] = (_sent() - sent) / EXCHANGES
    return found


def _sent() -> int:
    """Bytes that this machine has sent."""
    files = Path("/sys/class/net").glob("veth*/statistics/tx_bytes")
    return sum(int(file.read_text()) for file in files)


def run(link: str) -> dict:
    """Measure in processes of their own. Returns what the first says."""
    if link == "none":
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", __spec__.name, "--worker"]
        outputs = [subprocess.check_output(command, env=alone, text=True)]
    else:
        with namespaces.connected(LINKS[link]) as machines:
            if machines is None:
                sys.exit("this benchmark wants Linux, root and the command ip")
            both = namespaces.torchrun(machines, __spec__.name, "--worker", cwd=Path())
            outputs = [process.communicate()[0] for process in both]
            assert not any(process.returncode for process in both), outputs
    return json.loads(outputs[0].splitlines()[-1])


def all_reduce(processes: int, median: dict) -> float:
    """Seconds of a ring all-reduce, by what two processes took.

    There are 2 (n - 1) messages in a row. Each has 1/n of the gradient.
    """
    latency = median["average_one_number"] / 2
    seconds_per_byte = (median["average_gradient"] / 2 - latency) / (median["gradient_bytes"] / 2)
    return 2 * (processes - 1) * (latency + median["gradient_bytes"] / processes * seconds_per_byte)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure()), flush=True)
        return
    rounds: dict[str, list[dict]] = {link: [] for link in LINKS}
    for _ in range(arguments.rounds):
        for link in LINKS:
            rounds[link].append(run(link))
            print(link, rounds[link][-1], flush=True)
    medians = {
        link: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for link, found in rounds.items()
    }
    measured, predicted = [], []
    for link in [link for link in LINKS if link != "none"]:
        for batch in BATCHES:
            alone, shared = (medians[name][f"step_{batch}"] for name in ("none", link))
            row = {"link": link, "images_per_process": batch}
            measured.append(
                row
                | {
                    "alone_images_per_second": batch / alone,
                    "two_images_per_second": 2 * batch / shared,
                    "efficiency": alone / shared,
                }
            )
            for processes in MORE:
                exchange = all_reduce(processes, medians[link])
                efficiency = alone / (alone + exchange)
                predicted.append(row | {"processes": processes, "efficiency": efficiency})
    results = {"measured": measured, "predicted": predicted, "medians": medians, "rounds": rounds}
    reports.write_json(RESULT, results | describe("torch"))


if __name__ == "__main__":
    main()
