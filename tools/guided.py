"""`python -m tools.guided [--minutes 15] [--readers ...] [--report FILE]`: search for fatal files.

libFuzzer (atheris) damages a valid file, and keeps what reaches new branches of our code and of the
Python libraries that read for us. Each reader must keep to the rule of tools/fuzz.py. A file that
breaks it is left in .scratch/fuzz/, and the command fails. The files that were kept stay there too:
the next run goes on from them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import zlib
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # no bars
import atheris

LIBRARIES = ("PIL", "numpy.lib", "ruamel", "safetensors", "src", "tarfile", "zipfile")
with atheris.instrument_imports(include=list(LIBRARIES)):
    from src.common import reports
    from tools.fuzz import READERS, ROOT, give
    from tools.machine import describe

SCRATCH = ROOT / ".scratch" / "fuzz"
SECONDS_PER_FILE = 300  # more is a hang


def with_right_sums(png: bytes) -> bytes:
    """The same PNG with the right checksum in each chunk. Other files stay as they are.

    Without this, a checksum refuses nearly every damaged PNG before it is decoded.
    """
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        return png
    mended, at = bytearray(png[:8]), 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        if end + 4 > len(png):
            break
        mended += png[at:end] + zlib.crc32(png[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(mended) + png[at:]


def search(reader: str, folder: Path, minutes: float) -> None:
    """Run libFuzzer in this process, which ends with it. What it prints goes to `folder`/log."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    target = READERS[reader]
    path = folder / "file" / target.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(target.make())
    target.read(path)
    shutil.copy(path, corpus / "valid")
    log = os.open(folder / "log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())

    def attempt(content: bytes) -> None:
        give(target, path, content)

    def damaged(content: bytes, most: int, seed: int) -> bytes:
        return with_right_sums(atheris.Mutate(content, most))

    options = [
        f"-max_total_time={round(60 * minutes)}",
        f"-timeout={SECONDS_PER_FILE}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        "-rss_limit_mb=4096",
    ]
    mutator = {"custom_mutator": damaged} if reader == "png" else {}
    atheris.Setup([sys.argv[0], *options, str(corpus)], attempt, **mutator)
    atheris.Fuzz()


def results(log: str) -> dict[str, int]:
    """How many files were tried and branches reached, from what libFuzzer printed."""
    tried = re.findall(r"number_of_executed_units: (\d+)", log)
    reached = re.findall(r" cov: (\d+) ", log)
    return {"files": int((tried or [0])[-1]), "branches": int((reached or [0])[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15, help="per reader")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--report", type=Path, help="write the counts to this JSON file")
    arguments = parser.parse_args()
    about = describe() | {"minutes_per_reader": arguments.minutes}
    found, broken = {}, []
    for reader in arguments.readers:
        folder = SCRATCH / reader.replace(" ", "_")
        process = multiprocessing.get_context("fork").Process(
            target=search, args=(reader, folder, arguments.minutes)
        )
        process.start()
        process.join()
        log = (folder / "log").read_text(errors="replace")
        found[reader] = results(log)
        print(f"{reader}: {found[reader]}", flush=True)
        if process.exitcode:
            broken.append(reader)
            print(f"a file breaks {reader}; see {folder}/\n{log[-2000:]}", flush=True)
    if arguments.report:
        reports.write_json(arguments.report, about | {"readers": found, "broken": broken})
    if broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
