"""`python -m stages NAME`: runs a stage, turns the user's mistakes into one clear message, notes time and memory.

Apart from the stage scripts, so that nothing here is among the things a stage's result depends on.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path

NAMES = ("unpack", "classifier", "reference", "train", "sample", "fid", "figures")
LOG = Path(".scratch/stages.jsonl")


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        print(f"usage: python -m stages NAME, where NAME is one of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if not sys.stderr.isatty():  # a log file wants a line now and then, not a moving bar
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    started = time.monotonic()

    from src.errors import UserError

    try:
        importlib.import_module(f"stages.{sys.argv[1]}").main()
    except UserError as error:
        print(f"\n{sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a") as file:
        record = {"stage": sys.argv[1], "seconds": round(time.monotonic() - started, 1), "peak_mib": round(peak)}
        file.write(json.dumps(record) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
