"""Two machines, played by two network namespaces of Linux that share the folders of this one.

Each has its own loopback device and address; a pair of virtual Ethernet devices joins them. Needs
root and the command `ip` (and `tc` for a slower link).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PORT = 29500
BUCKET = "burst 128kb latency 10ms"  # of the limited link: twice the largest packet of TCP here


@dataclass(frozen=True)
class Machine:
    """A namespace with one Ethernet device."""

    name: str
    device: str
    address: str

    def command(self, *command: str) -> list[str]:
        """`command`, to be run on this machine."""
        return ["ip", "netns", "exec", self.name, *command]

    def processes(self) -> list[int]:
        """Ids of the processes that run on it."""
        command = ["ip", "netns", "pids", self.name]
        return [int(pid) for pid in subprocess.check_output(command, text=True).split()]

    def sent(self) -> int:
        """Bytes that its Ethernet device has sent."""
        path = f"/sys/class/net/{self.device}/statistics/tx_bytes"
        return int(subprocess.check_output(self.command("cat", path)))


Machines = tuple[Machine, Machine]


@contextmanager
def connected(rate: str | None = None) -> Iterator[Machines | None]:
    """Two machines; None where they cannot be had.

    `rate`, such as "1gbit", limits each direction of the link (tc-tbf(8)).
    """
    own = os.getpid()
    first, second = machines = (
        Machine(f"noisette-{own}-a", "veth-a", "10.77.0.1"),
        Machine(f"noisette-{own}-b", "veth-b", "10.77.0.2"),
    )
    if not shutil.which("ip"):
        yield None
        return
    try:
        if not all(_done("ip", "netns", "add", machine.name) for machine in machines):
            yield None
            return
        pair = f"type veth peer name {second.device} netns {second.name}"
        _must("ip", "link", "add", first.device, "netns", first.name, *pair.split())
        for machine in machines:
            within = ["ip", "-n", machine.name]
            _must(*within, "address", "add", f"{machine.address}/24", "dev", machine.device)
            _must(*within, "link", "set", machine.device, "up")
            _must(*within, "link", "set", "lo", "up")
            if rate:
                slow = f"tc qdisc add dev {machine.device} root tbf rate {rate} {BUCKET}"
                _must(*machine.command(*slow.split()))
        yield machines
    finally:
        for machine in machines:
            _done("ip", "netns", "delete", machine.name)


def torchrun(machines: Machines, *module: str, cwd: Path) -> list[subprocess.Popen]:
    """`torchrun -m module` with a process of one thread on each machine."""
    join = f"--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-id {os.getpid()}"
    started = []
    for machine in machines:
        # Both have one host name, so torchrun cannot see which machine is the first.
        own = f"--local-addr {machine.address} --rdzv-conf is_host={int(machine is machines[0])}"
        meet = f"--rdzv-endpoint {machines[0].address}:{PORT}"
        process = subprocess.Popen(
            machine.command("torchrun", *f"{join} {meet} {own}".split(), "-m", *module),
            cwd=cwd,
            env=os.environ | {"GLOO_SOCKET_IFNAME": machine.device, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
    return started


def _done(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def _must(*command: str) -> None:
    subprocess.run(command, check=True)
