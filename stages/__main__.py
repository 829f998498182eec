"""`python -m stages NAME`: run a stage, show a user error as one message, log time and memory.

No result depends on this file, so no stage declares it as a dependency.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import psutil

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
    "fidelity",
    "bound",
    "figures",
    "report",
)
STUDENT_NAMES = ("distill", "students")  # of student/dvc.yaml
MENDABLE = {
    errno.ENOENT: "if git tracks the file, bring it back with `git checkout`",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "free some space, or raise the limit on file sizes",
    errno.EEXIST: "move it elsewhere",
    errno.ENOTDIR: "move it elsewhere",
    errno.EISDIR: "move it elsewhere",
    errno.EIO: "check the disk, which may be failing",
    errno.ENOMEM: "free some memory, or raise the limit on it",
    errno.EMFILE: "raise the limit on open files",
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
    "students",
    "training_samples",
)
LOG = Path(".scratch/stages.jsonl")


def main() -> int:
    every = (*NAMES, *STUDENT_NAMES)
    if len(sys.argv) != 2 or sys.argv[1] not in every:
        names = ", ".join(every)
        print(f"usage: python -m stages NAME, where NAME is one of {names}", file=sys.stderr)
        return 2
    stage = sys.argv[1]
    if not sys.stderr.isatty():  # a log file needs only a line now and then, not a moving bar
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    started = time.monotonic()
    # Exit by an exception, so that temporary files are deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    code = run(stage)
    if code:
        return code
    gc.freeze()  # skips Python's last search for cycles, which takes most of a second with torch
    if os.environ.get("RANK", "0") == "0":  # if there are several processes, only the first logs
        log(stage, time.monotonic() - started)
    disconnect()
    return 0


def run(stage: str) -> int:
    """Run the stage. Returns its exit code: 1 after an error that the user can fix."""
    from src.common.allocator import keep_freed_memory
    from src.common.errors import UserError, printable

    keep_freed_memory()
    show_cautions(stage)
    try:
        importlib.import_module(f"stages.{stage}").main()
    except UserError as error:
        print(f"\n{stage}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # The user can fix a missing file only if it belongs to the pipeline.
        top = Path(str(error.filename)).parts[:1]
        ours = error.errno != errno.ENOENT or top in {(name,) for name in FOLDERS}
        if error.errno not in MENDABLE or not ours:
            raise
        remedy = MENDABLE[error.errno]
        print(
            f"\n{stage}: {printable(str(error))}; {remedy}, then `dvc repro` again",
            file=sys.stderr,
        )
        return 1
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        reason = str(error).partition("\n")[0] or "MemoryError"
        print(
            f"\n{stage}: not enough memory ({reason}); free some, or lower batch_size in "
            f"params.yaml if this stage has one, then `dvc repro` again",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"\n{stage}: interrupted; `dvc repro` continues", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def disconnect() -> None:
    """Close the connections to the other processes. Left open, their threads can abort the exit."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def lacks_memory(error: Exception) -> bool:
    """Whether a request for memory failed, by Python, NumPy, or PyTorch on a CPU or GPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


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


def _peak() -> int:
    """The most memory that this process had so far, in bytes."""
    if os.name == "nt":
        return psutil.Process().memory_info().peak_wset
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def log(stage: str, seconds: float) -> None:
    """Append the stage's time and peak memory to LOG."""
    record = {"stage": stage, "seconds": round(seconds, 1), "peak_mib": round(_peak() / 2**20)}
    try:
        LOG.parent.mkdir(exist_ok=True)
        with LOG.open("a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:  # not fatal, since the stage has finished
        print(f"{stage}: could not log its time: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
