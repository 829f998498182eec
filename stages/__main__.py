"""`python -m stages NAME`: run a stage, show the user's mistakes as one message, log its cost.

No stage declares this file: no result depends on it.
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
    "unpack",
    "classifier",
    "reference",
    "floors",
    "train",
    "sample",
    "fid",
    "quality",
    "spread",
    "sweep",
    "bound",
    "figures",
    "report",
)
MENDABLE = {
    errno.ENOENT: "`dvc repro` makes what is missing, or `git checkout` brings it back: do so",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "free some space, or lift the limit on files",
    errno.EEXIST: "move it elsewhere",
    errno.ENOTDIR: "move it elsewhere",
    errno.EISDIR: "move it elsewhere",
    errno.EIO: "the disk may be failing: look at it",
    errno.ENOMEM: "free some memory, or lift the limit on it",
    errno.EMFILE: "lift the limit on open files",
    errno.EACCES: "make it readable and writable",
    errno.EPERM: "make it readable and writable",
    errno.EROFS: "make it writable",
}
FOLDERS = (
    ".scratch",
    "arrays",
    "data",
    "data.dvc",
    "figures",
    "generated",
    "generated_images",
    "memorisation",
    "metrics",
    "models",
    "plots",
    "reference",
    "report",
    "statistics",
    "training_samples",
)
LOG = Path(".scratch/stages.jsonl")


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        names = ", ".join(NAMES)
        print(f"usage: python -m stages NAME, where NAME is one of {names}", file=sys.stderr)
        return 2
    stage = sys.argv[1]
    if not sys.stderr.isatty():  # a log file wants a line now and then, not a moving bar
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    started = time.monotonic()
    # Exit in an orderly way, so that temporary files are cleared away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    code = run(stage)
    if code:
        return code
    gc.freeze()  # else Python searches all of torch for cycles as it ends: most of a second
    if os.environ.get("RANK", "0") == "0":  # of several processes the first keeps the log
        log(stage, time.monotonic() - started)
    return 0


def run(stage: str) -> int:
    """Run the stage. Returns its exit code: 1 after a mistake of the user's, told on stderr."""
    from src.common.allocator import keep_freed_memory
    from src.common.errors import UserError

    keep_freed_memory()
    show_cautions(stage)
    try:
        importlib.import_module(f"stages.{stage}").main()
    except UserError as error:
        print(f"\n{stage}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # A missing file is the user's affair only if it belongs to the pipeline.
        top = Path(str(error.filename)).parts[:1]
        ours = error.errno != errno.ENOENT or top in {(name,) for name in FOLDERS}
        if error.errno not in MENDABLE or not ours:
            raise
        remedy = MENDABLE[error.errno]
        print(f"\n{stage}: {error}; {remedy}, then `dvc repro` again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{stage}: interrupted; `dvc repro` goes on", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def show_cautions(stage: str) -> None:
    """From now on, show each Caution as one line."""
    from src.common.errors import Caution

    default = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        if issubclass(category, Caution):
            print(f"\n{stage}: {message}", file=sys.stderr)
        else:
            default(message, category, *where)  # type: ignore[arg-type]

    warnings.showwarning = show  # type: ignore[assignment]


def log(stage: str, seconds: float) -> None:
    """Append the stage's time and peak memory to LOG."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    record = {"stage": stage, "seconds": round(seconds, 1), "peak_mib": round(peak)}
    try:
        LOG.parent.mkdir(exist_ok=True)
        with LOG.open("a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:  # the stage has done its work
        print(f"{stage}: its time could not be noted: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
