"""Two machines, played by two network namespaces of Linux that share a folder.

Each has its own loopback device and address; a pair of virtual Ethernet devices joins them. Needs
root and the command `ip`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers import run, wait_for_checkpoint
from tests.test_pipeline import set_params
from tests.test_processes import TWO, begun, folder  # noqa: F401

pytestmark = pytest.mark.slow

NAMES, ADDRESSES, PORT = ("noisette-a", "noisette-b"), ("10.77.0.1", "10.77.0.2"), 29517
JOIN = f"--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint {ADDRESSES[0]}:{PORT}"
PATIENCE = 60  # seconds within which a machine must notice that the other is gone


def ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def machines():
    """The names of two connected namespaces. Skips where they cannot be had."""
    if not shutil.which("ip") or not all(ip("netns", "add", name) for name in NAMES):
        for name in NAMES:
            ip("netns", "delete", name)
        pytest.skip("wants Linux, root and the command ip, for network namespaces")
    try:
        pair = f"link add veth-a netns {NAMES[0]} type veth peer name veth-b netns {NAMES[1]}"
        assert ip(*pair.split())
        for name, device, address in zip(NAMES, ("veth-a", "veth-b"), ADDRESSES, strict=True):
            assert ip("-n", name, "address", "add", f"{address}/24", "dev", device)
            assert ip("-n", name, "link", "set", device, "up")
            assert ip("-n", name, "link", "set", "lo", "up")
        yield NAMES
    finally:
        for name in NAMES:
            ip("netns", "delete", name)


def start(machine: str, stage: str, cwd: Path) -> subprocess.Popen:
    """torchrun on one machine."""
    device, first = f"veth-{machine[-1]}", machine == NAMES[0]
    # Namespaces share a host name, by which torchrun would find out which machine is the first.
    own = f"--local-addr {ADDRESSES[not first]} --rdzv-conf is_host={int(first)}"
    command = ["ip", "netns", "exec", machine, "torchrun", *JOIN.split(), *own.split()]
    return subprocess.Popen(
        [*command, "-m", "stages", stage],
        cwd=cwd,
        env=os.environ | {"GLOO_SOCKET_IFNAME": device, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def together(stage: str, cwd: Path) -> list[str]:
    """Run a stage on both machines to its end; what each printed."""
    both = [start(machine, stage, cwd) for machine in NAMES]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    return outputs


def files(folder: Path) -> dict[str, bytes]:
    paths = [folder / "models/model.safetensors", *(folder / "generated_images").iterdir()]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture
def expected(machines, folder) -> dict[str, bytes]:
    """What two processes on one machine make."""
    for stage in ("train", "sample"):
        run(*TWO, "stages", stage, cwd=folder, OMP_NUM_THREADS="1")
    found = files(folder)
    for name in ("generated_images", ".scratch", "models"):
        shutil.rmtree(folder / name)
    return found


def test_two_machines_make_what_two_processes_make_and_outlive_a_death(folder, expected, machines):
    set_params(folder, {"train": {"checkpoint_interval": 5}})
    both = [start(machine, "train", folder) for machine in machines]
    wait_for_checkpoint(folder, both[0])
    for pid in run("ip", "netns", "pids", machines[1], cwd=folder).stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    killed = time.monotonic()
    output = both[0].communicate(timeout=PATIENCE)[0]
    both[1].wait()
    assert time.monotonic() - killed < PATIENCE and both[0].returncode != 0
    assert "another process of this run has ended or cannot be reached" in output
    first, _ = together("train", folder)
    assert "resuming after step" in first
    together("sample", folder)
    assert files(folder) == expected
