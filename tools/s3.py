"""`python -m tools.s3`: a remote that speaks S3, tried with a server on this machine.

1. A clone pushes model and reference moments. Another clone, which has git's files alone, pulls
   them and draws with `make samples`.
2. Two clones share an experiment on the embedded digits: the second takes its model from the server
   instead of training.
3. The server dies in the middle of a push. The push fails with an error. The server comes back
   without its contents, the push is repeated, and a clone gets everything.

Exits with 1 and the reason if something fails. Needs `uv pip install --constraint constraints.txt
--group trials`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from subprocess import PIPE

import boto3
from botocore.config import Config

BUCKET, REMOTE = "noisette", "store"
OUTPUTS = ("models/model.safetensors", "models/classifier.safetensors", "reference/")
SMALL = ("-S", "train.steps=20", "-S", "train.warmup_steps=2")
FILES, SIZE = 300, 2**20  # what the server dies under
ENVIRONMENT = os.environ | {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "GIT_AUTHOR_NAME": "Trial",
    "GIT_AUTHOR_EMAIL": "trial@example.org",
    "GIT_COMMITTER_NAME": "Trial",
    "GIT_COMMITTER_EMAIL": "trial@example.org",
}
# The clones work as a user's would, in their own virtual environment: that of this process.
ENVIRONMENT["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


class Server:
    """moto's S3 server, which keeps its contents in memory."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [Path(sys.executable).with_name("moto_server"), "-p", str(self.port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 60
        while True:
            try:
                self._client().create_bucket(Bucket=BUCKET)
                return
            except Exception:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def objects(self) -> int:
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return sum(page.get("KeyCount", 0) for page in pages)

    def _client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
            config=Config(connect_timeout=2, retries={"max_attempts": 0}),
        )


def run(*command: str, cwd: Path) -> str:
    """Run a command to its end. Raises SystemExit with its output if it fails."""
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def clone(source: Path, folder: Path, url: str) -> Path:
    """A clone that takes DVC's files from the server alone."""
    run("git", "clone", "--quiet", str(source), str(folder), cwd=source)
    for command in (
        f"remote add --local --default {REMOTE} s3://{BUCKET}/dvc",
        f"remote modify --local {REMOTE} endpointurl {url}",
    ):
        run("dvc", *command.split(), cwd=folder)
    return folder


def expect(condition: bool, message: str) -> None:
    if not condition:
        sys.exit(message)


def main() -> None:
    server = Server()
    server.start()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            _try(server, Path(temporary))
    finally:
        server.stop()


def _try(server: Server, root: Path) -> None:
    hub = root / "hub.git"
    run("git", "clone", "--quiet", "--bare", str(Path.cwd()), str(hub), cwd=root)
    first = clone(hub, root / "first", server.url)
    run("dvc", "pull", "--remote", "in-git", *OUTPUTS, cwd=first)
    run("dvc", "push", *OUTPUTS, cwd=first)
    print(f"pushed: {server.objects()} objects", flush=True)

    second = clone(hub, root / "second", server.url)
    (second / ".venv").symlink_to(Path(sys.prefix), target_is_directory=True)
    run("rm", "-rf", "dvc-remote", cwd=second)
    run("dvc", "pull", *OUTPUTS, cwd=second)
    samples = ("make", "--old-file", ".venv/.installed", "samples")  # installs nothing
    run(*samples, cwd=second)
    drawn = len(list((second / "generated_images").glob("*.png")))
    print(f"a clone pulled, and drew {drawn} images with `make samples`", flush=True)
    run("git", "checkout", "--quiet", ".", cwd=second)

    run(sys.executable, "-m", "tools.get_data", "digits", cwd=first)
    run("dvc", "exp", "run", "--name", "small", *SMALL, "train", cwd=first)
    run("dvc", "exp", "push", "origin", "small", cwd=first)
    run("dvc", "exp", "pull", "origin", "small", cwd=second)
    # It reports an error for the outputs that nobody pushes (`push: false`), and applies the rest.
    subprocess.run(["dvc", "exp", "apply", "small"], cwd=second, env=ENVIRONMENT, stderr=PIPE)
    again = run("dvc", "repro", "--allow-missing", "train", cwd=second)
    expect("Running stage 'train'" not in again, f"the second clone trained again:\n{again}")
    models = [(folder / OUTPUTS[0]).read_bytes() for folder in (first, second)]
    expect(models[0] == models[1], "the models of the two clones differ")
    print("two clones share an experiment: the second had the model without training", flush=True)

    big = first / "big"
    big.mkdir()
    for i in range(FILES):
        (big / f"{i}.bin").write_bytes(os.urandom(SIZE))
    run("dvc", "add", "big", cwd=first)
    before = server.objects()
    command = ["dvc", "push", "big.dvc"]
    pushing = subprocess.Popen(
        command,
        cwd=first,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while server.objects() < before + FILES // 10:
        expect(pushing.poll() is None, "the push ended before the server died")
    server.stop()
    started = time.monotonic()
    error = pushing.communicate()[1]
    seconds = time.monotonic() - started
    expect(pushing.returncode != 0, "the push succeeded without a server")
    print(
        f"the server died: the push ended after {seconds:.0f} s: {error.strip()[-200:]}", flush=True
    )
    server.start()
    run(*command, cwd=first)
    run("git", "add", "big.dvc", ".gitignore", cwd=first)
    run("git", "commit", "--quiet", "--message", "Big", cwd=first)
    run("git", "push", "--quiet", "origin", "HEAD:refs/heads/big", cwd=first)
    run("git", "fetch", "--quiet", "origin", cwd=second)
    run("git", "checkout", "--quiet", "--force", "origin/big", cwd=second)
    run("dvc", "pull", "big.dvc", cwd=second)
    for file in big.iterdir():
        expect((second / "big" / file.name).read_bytes() == file.read_bytes(), f"{file} differs")
    print(f"the push was repeated, and a clone has all {FILES} files", flush=True)


if __name__ == "__main__":
    main()
