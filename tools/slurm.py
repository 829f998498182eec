"""`python -m tools.slurm`: cluster/slurm.sh, tried with SLURM on this machine.

Starts SLURM's daemons with one node, and submits two jobs of the grid. The jobs train a little on
the embedded digits. Their `origin` is a bare repository, and a folder is the DVC remote. A new
clone then gets both experiments with `dvc exp pull`. Exits with 1 and the reason if something
fails. Needs Linux, root, and the Debian packages munge, slurmctld, slurmd and slurm-client.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.soak import run, small

SCRIPT = Path("cluster/slurm.sh")
JOBS = {"0": "cosine-1", "3": "flow-2"}
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} CPUs={cores} RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""
NOBODY = ("-c", "user.name=Trial", "-c", "user.email=trial@example.org")
PATIENCE = 1800  # seconds for both jobs, which install everything first


def daemons(folder: Path) -> list[subprocess.Popen]:
    """Start munge and SLURM; SLURM_CONF then names their configuration."""
    host = socket.gethostname()
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(host=host, folder=folder, cores=os.cpu_count() or 1)
    )
    os.environ["SLURM_CONF"] = str(configuration)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
    return [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (
            ["runuser", "-u", "munge", "--", "munged", "--foreground", "--force"],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        )
    ]


def wait_for_node() -> None:
    end = time.monotonic() + 60
    while "idle" not in run(Path(), "sh", "-c", "sinfo --noheader --format %t || true"):
        if time.monotonic() > end:
            sys.exit("SLURM's node did not come up")
        time.sleep(1)


def hub(folder: Path) -> Path:
    """A bare repository with little training, whose data are the embedded digits."""
    work, bare = folder / "work", folder / "hub.git"
    small(work)
    run(work, "git", *NOBODY, "commit", "--quiet", "--all", "--message", "Digits")
    run(folder, "git", "clone", "--quiet", "--bare", str(work), str(bare))
    return bare


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "slurm").mkdir()
        started = daemons(folder / "slurm")
        try:
            wait_for_node()
            _try(folder)
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait()


def _try(folder: Path) -> None:
    bare, store = hub(folder), folder / "store"
    home = folder / "home"
    run(folder, "git", "clone", "--quiet", str(bare), str(home))
    array = ",".join(JOBS)
    variables = f"ALL,REMOTE={store},DATA=digits,GIT_AUTHOR_NAME=Trial,GIT_COMMITTER_NAME=Trial"
    variables += ",GIT_AUTHOR_EMAIL=trial@example.org,GIT_COMMITTER_EMAIL=trial@example.org"
    command = ["sbatch", "--wait", f"--array={array}", f"--export={variables}", str(SCRIPT)]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=PATIENCE)
    logs = "\n".join(path.read_text()[-3000:] for path in sorted(home.glob("noisette-*.log")))
    if done.returncode:
        sys.exit(f"the jobs failed: {done.stdout}{done.stderr}\n{logs}")
    run(home, "dvc", "remote", "add", "--local", "--default", "shared", str(store))
    run(home, "dvc", "exp", "pull", "origin", *JOBS.values())
    print(run(home, sys.executable, "-m", "tools.experiments"), flush=True)
    found = run(home, "dvc", "exp", "list", "--all-commits", "--name-only").split()
    if set(JOBS.values()) - set(found):
        sys.exit(f"expected the experiments {set(JOBS.values())}, got {found}")
    print(f"SLURM ran two jobs of {SCRIPT}; a clone has both experiments")


if __name__ == "__main__":
    main()
