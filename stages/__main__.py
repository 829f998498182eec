"""`python -m stages NAME`: runs a stage, turns the user's mistakes into one clear message, notes time and memory.

Apart from the stage scripts, so that nothing here is among the things a stage's result depends on.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

NAMES = (
    "unpack", "classifier", "reference", "floors", "train", "sample", "fid", "quality", "spread", "sweep", "bound", "figures",
    "report",
)
MENDABLE = {
    errno.ENOENT: "`dvc repro` makes what is missing, or `git checkout` brings it back: do so",
    errno.ENOSPC: "free some space", errno.EDQUOT: "free some space", errno.EFBIG: "free some space, or lift the limit on files",
    errno.EEXIST: "move it elsewhere", errno.ENOTDIR: "move it elsewhere", errno.EISDIR: "move it elsewhere",
    errno.EIO: "the disk may be failing: look at it",
    errno.ENOMEM: "free some memory, or lift the limit on it", errno.EMFILE: "lift the limit on open files",
    errno.EACCES: "make it readable and writable", errno.EPERM: "make it readable and writable", errno.EROFS: "make it writable",
}
FOLDERS = (
    ".scratch", "arrays", "data", "data.dvc", "figures", "generated", "generated_images", "memorisation", "metrics", "models",
    "plots", "reference", "report", "statistics", "training_samples",
)
LOG = Path(".scratch/stages.jsonl")


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        print(f"usage: python -m stages NAME, where NAME is one of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if not sys.stderr.isatty():  # a log file wants a line now and then, not a moving bar
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary files are cleared away

    from src.allocator import keep_freed_memory
    from src.common.errors import Caution, UserError

    keep_freed_memory()

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        if issubclass(category, Caution):
            print(f"\n{sys.argv[1]}: {message}", file=sys.stderr)
        else:
            shown(message, category, *where)

    shown, warnings.showwarning = warnings.showwarning, show

    try:
        importlib.import_module(f"stages.{sys.argv[1]}").main()
    except UserError as error:
        print(f"\n{sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        missing = error.errno == errno.ENOENT  # the user's affair only where it is a file of the pipeline
        if error.errno not in MENDABLE or (missing and Path(str(error.filename)).parts[:1] not in {(name,) for name in FOLDERS}):
            raise
        print(f"\n{sys.argv[1]}: {error}; {MENDABLE[error.errno]}, then `dvc repro` again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{sys.argv[1]}: interrupted; `dvc repro` goes on", file=sys.stderr)
        return 128 + signal.SIGINT
    gc.freeze()  # Python would look through all of torch for cycles once more as it ends: most of a second
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one keeps the log
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    record = {"stage": sys.argv[1], "seconds": round(time.monotonic() - started, 1), "peak_mib": round(peak)}
    try:
        LOG.parent.mkdir(exist_ok=True)
        with LOG.open("a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:  # the stage has done its work
        print(f"{sys.argv[1]}: its time could not be noted: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
