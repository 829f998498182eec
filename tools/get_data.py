"""`python -m tools.get_data [digits|mnist]`: fill data/ with something to train on.

It tries, in this order: the files in data/; DVC's cache or a configured remote; the mirror in
MNIST_MIRROR, else torchvision's mirrors. If it finds no MNIST, it writes scikit-learn's 1,797 real
8x8 digits and prints a warning. At the end it prints one line that says what it did.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path

import numpy as np
import voluptuous
import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from PIL import Image

from src.common.errors import UserError, printable
from src.common.files import leftovers, publish, replacing

DATA = Path("data")
SCRATCH = Path(".scratch")
DIGITS = "sklearn-digits.zip"
# DVC's md5 of a folder with exactly the four canonical files.
MNIST_PIN = "b6c29e96813679dd8c451c9b5ca86e2c.dir"
STAND_IN_PINS: set[str] = set()
TIMEOUT = 20  # seconds without an answer from a mirror
DEADLINE = 600  # seconds for a file
MAX_BYTES = 2**25  # limit for one file; the largest has 10 MB

HOW_TO_GET_MNIST = f"""
  ******************************************************************************************
  *  This is NOT MNIST. No source of MNIST was found, so data/ holds a stand-in:           *
  *  1,797 real handwritten digits of 8x8 pixels (scikit-learn's), in {DIGITS}.  *
  *  To get MNIST: MNIST_MIRROR=/folder/or/URL/with/the/four/files make run                *
  ******************************************************************************************
"""


def main() -> int:
    arguments = sys.argv[1:]
    if arguments not in ([], ["digits"], ["mnist"]):
        print(
            f"DATA: expected digits or mnist, got {' '.join(arguments)!r}. docs/guide.md explains",
            file=sys.stderr,
        )
        return 2
    try:
        check_repository()
        mend_lock()
        print(printable(f"data: {get(arguments[0] if arguments else None)}"))
    except UserError as error:
        print(f"data: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # such as a full disk
        print(f"data: {error}; new files go to .scratch/, then to data/", file=sys.stderr)
        return 1
    # Add data/ to DVC's cache, so that experiments in other folders find it. For MNIST, data.dvc
    # stays as it is in git.
    if failure := add_to_cache():
        print(f"data: DVC could not add data/ to its cache: {failure}", file=sys.stderr)
    return 1 if failure else 0


def check_repository() -> None:
    """Raises UserError where DVC cannot work, and removes its half-written list of locks.

    A kill can leave that list empty; then no command of DVC runs.
    """
    inside = subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True, text=True)
    if inside.returncode:
        raise UserError(
            f"this folder is no git repository, but DVC needs one ({inside.stderr.strip()}). "
            f"Clone the project with git instead of downloading it, or run "
            f"`git init && git add --all && git commit --message start`"
        )
    if DATA.is_symlink():
        raise UserError(f"data: a link to {DATA.readlink()}; move the files themselves into data/")
    pin()
    locks = Path(".dvc/tmp/rwlock")
    try:
        json.loads(locks.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError:
        locks.unlink()
        print(f"data: {locks} was not whole, as after a kill. Removed it")


def reason(process: subprocess.CompletedProcess) -> str:
    """Why a command failed, in its own words."""
    said = process.stderr.strip() or process.stdout.strip()
    return printable(said or f"it exited with {process.returncode}")


def mend_lock() -> None:
    """Restore the committed dvc.lock if a kill left only half of it.

    DVC does not run with half a dvc.lock. The results are still in DVC's cache.
    """
    path = Path("dvc.lock")
    if not path.exists() or whole_lock(path):
        return
    unmerged = subprocess.run(
        ["git", "ls-files", "--unmerged", str(path)], capture_output=True, text=True
    )
    if unmerged.stdout:
        raise UserError(
            "dvc.lock has a conflict of a merge; `git checkout --ours dvc.lock` or "
            "`--theirs` takes one side, and `dvc repro` completes it"
        )
    done = subprocess.run(
        ["git", "checkout", "--quiet", "HEAD", "--", str(path)], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(
            f"dvc.lock: not whole, and git cannot restore it ({done.stderr.strip()}). Delete it"
        )
    print(
        "data: dvc.lock was not whole. Restored the committed one; "
        "finished results come from DVC's run cache"
    )


def whole_lock(path: Path) -> bool:
    """Whether DVC can read this dvc.lock."""
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, voluptuous.Invalid, RecursionError):
        return False
    return True


def get(choice: str | None) -> str:
    """Fill data/ and return what was done. `choice` is "digits", "mnist" or None.

    An archive of the user's own in data/ stays as it is.
    """
    if DATA.exists() and not DATA.is_dir():
        raise UserError("data: expected a folder, got a file. Move it elsewhere")
    present = held()
    if choice == "digits":
        return get_digits(present)
    if present and present != [DIGITS]:
        if sorted(present) != sorted(name for name, _ in mnist_files()):
            look(DATA)
        return f"data/ is there already ({shown(present)})"

    # MNIST replaces the stand-in of an earlier run.
    shutil.rmtree(DATA, ignore_errors=True)
    failures = []
    for attempt in (
        lambda: from_dvc(stand_in=present == [DIGITS], otherwise_mnist=choice == "mnist"),
        from_mirrors,
    ):
        try:
            return attempt()
        except Unavailable as error:
            failures.append(str(error))
    if os.environ.get("MNIST_MIRROR") or choice == "mnist":  # MNIST was requested: no stand-in
        raise UserError("; ".join(failures))
    print("\n".join(f"data: {failure}" for failure in failures) + HOW_TO_GET_MNIST, file=sys.stderr)
    write_digits(DATA / DIGITS)
    return f"NOT MNIST: wrote the embedded 8x8 digits to data/{DIGITS}"


def get_digits(present: list[str]) -> str:
    """Fill data/ with scikit-learn's 8x8 digits and return what was done."""
    if present == [DIGITS]:
        return (
            f"scikit-learn's 8x8 digits are in data/ already ({DIGITS}), as asked for. "
            f"This is not MNIST"
        )
    set_aside(present)
    write_digits(DATA / DIGITS)
    return (
        f"wrote scikit-learn's 1,797 8x8 digits to data/{DIGITS}, as asked for. This is not MNIST"
    )


def look(folder: Path) -> None:
    """Raises UserError unless `folder` has a data set that the stage unpack can read.

    This comes before DVC copies it into its cache. The images are not decoded.
    """
    from src import archives, params

    archives.look(folder, params.load().unpack, SCRATCH)


class Unavailable(UserError):
    """This source does not have the data. `get` tries the next one."""


def held() -> list[str]:
    """Names of the files in data/, without hidden ones. Temporary files of killed runs go.

    Raises UserError for a device, pipe or broken link, which DVC could read without end.
    """
    if not DATA.is_dir():
        return []
    for left in leftovers(DATA):
        left.unlink(missing_ok=True)
    paths = sorted(path for path in DATA.iterdir() if not path.name.startswith("."))
    for path in paths:
        if not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: neither a file nor a folder; move it elsewhere")
    return [path.name for path in paths]


def shown(names: list[str]) -> str:
    """The first names of many."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def set_aside(present: list[str]) -> None:
    """Empty data/ for the digits if it holds canonical MNIST. DVC's cache keeps MNIST.

    Raises UserError for any other files: only the user should move those.
    """
    if not present:
        return
    canonical = sorted(present) == sorted(name for name, _ in mnist_files()) and all(
        hashlib.md5((DATA / name).read_bytes(), usedforsecurity=False).hexdigest() == md5
        for name, md5 in mnist_files()
    )
    if not canonical:
        raise UserError(
            f"data/ holds {shown(present)}; move it elsewhere before asking for DATA=digits"
        )
    if failure := add_to_cache():
        raise UserError(
            f"data/ was left as it is, because DVC could not add it to its cache: {failure}"
        )
    shutil.rmtree(DATA)


def add_to_cache() -> str:
    """Add data/ to DVC's cache. Returns why DVC could not, "" if it could."""
    committed = dvc("commit", "--force", "data.dvc")
    # DVC ends with 0 where its cache has no space for some files.
    failed = committed.returncode or "ERROR:" in committed.stderr
    return reason(committed) if failed else ""


def dvc(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)


def from_dvc(stand_in: bool, otherwise_mnist: bool) -> str:
    """Fill data/ from DVC's cache or a remote, with the files that data.dvc pins.

    If data.dvc pins the stand-in, restores the committed data.dvc first. Raises Unavailable if the
    next source may be tried. Raises UserError if data.dvc pins a data set of the user's own: MNIST
    replaces that only if the user chose MNIST (`otherwise_mnist`).
    """
    if not stand_in and (done := restored()):
        return done
    if stand_in or pin() == "the stand-in":
        subprocess.run(
            ["git", "checkout", "--quiet", "HEAD", "--", "data.dvc"], capture_output=True
        )
        if done := restored():
            return done
    if pin() not in (MNIST_PIN, "the stand-in") and not otherwise_mnist:
        raise UserError(
            f"data.dvc pins a data set of yours ({pin()}), but DVC's cache and remotes do not "
            f"have it. Put it into data/, or use MNIST instead with DATA=mnist"
        )
    raise Unavailable("DVC's cache and remotes do not have the files that data.dvc pins")


def restored() -> str | None:
    """Let DVC fill data/ from its cache, else from a remote, and return what was done.

    Returns None if DVC does not have the files, or if they are only the stand-in.
    """
    for command, done in (
        ("checkout", "took data/ from DVC's cache"),
        ("pull", "pulled data/ from a DVC remote"),
    ):
        if dvc(command, "data.dvc").returncode == 0 and held():
            if held() != [DIGITS]:
                return done
            STAND_IN_PINS.add(pin())
            break
    shutil.rmtree(DATA, ignore_errors=True)
    return None


def pin() -> str:
    """The md5 that data.dvc pins, or "the stand-in" if `restored` has found that it pins that."""
    if not Path("data.dvc").exists():
        raise UserError("data.dvc: not found; `git checkout data.dvc` brings it back")
    try:
        md5 = yaml.safe_load(Path("data.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError, RecursionError):
        raise UserError("data.dvc: not whole; `git checkout data.dvc` brings it back") from None
    return "the stand-in" if md5 in STAND_IN_PINS else md5


def mnist_files() -> list[tuple[str, str]]:
    """(file name, md5) of the four files of MNIST, from torchvision."""
    from src.common.torchvision_remedy import torchvision

    return torchvision.datasets.MNIST.resources


def from_mirrors(folder: Path = DATA) -> str:
    """Fetch MNIST's four files into `folder` from MNIST_MIRROR, else torchvision's mirrors.

    Checks their md5s. Raises Unavailable if no mirror works.
    """
    from src.common.torchvision_remedy import torchvision

    mirror = os.environ.get("MNIST_MIRROR")
    failures = []
    for base in [mirror] if mirror else torchvision.datasets.MNIST.mirrors:
        try:
            files = {name: fetch(base, name, md5) for name, md5 in mnist_files()}
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f"{base}: {error}")
            continue
        SCRATCH.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=SCRATCH) as temporary:  # others may fetch it, too
            unfinished = Path(temporary, "data")
            unfinished.mkdir()
            for name, content in files.items():
                (unfinished / name).write_bytes(content)
            publish(unfinished, folder)
        return f"fetched MNIST from {base}, md5s checked"
    hint = "" if mirror else ". Set MNIST_MIRROR to a folder or URL that has the four files"
    raise Unavailable("no mirror of MNIST works: " + "; ".join(failures) + hint)


def fetch(base: str, name: str, md5: str) -> bytes:
    """Read one file of a mirror (a folder or a URL). Raises UserError unless it has this md5."""
    if "://" not in base:
        content = (Path(base).expanduser() / name).read_bytes()
    else:
        content = download(f"{base.rstrip('/')}/{name}")
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise UserError(f"{name} has md5 {actual}, expected {md5}: not the canonical file")
    return content


def download(url: str) -> bytes:
    """At most MAX_BYTES of a URL. Raises OSError after DEADLINE, even if bytes trickle in."""
    outcome: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def receive() -> None:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                outcome.put(response.read(MAX_BYTES))
        except Exception as error:
            outcome.put(error)

    # A timeout of sockets ends no answer whose bytes trickle in, and the headers are read at once.
    threading.Thread(target=receive, daemon=True).start()
    try:
        got = outcome.get(timeout=DEADLINE)
    except queue.Empty:
        raise TimeoutError(f"not there within {DEADLINE} seconds") from None
    if isinstance(got, Exception):
        raise got
    return got


def write_digits(path: Path) -> None:
    """Write scikit-learn's digits (Alpaydin and Kaynak 1998) as a zip of grey 8x8 PNGs by class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
    labelled = enumerate(zip(pixels, digits.target, strict=True))
    write_zip(path, ((f"{label}/{i:05d}.png", Image.fromarray(x)) for i, (x, label) in labelled))


def write_zip(path: Path, images: Iterable[tuple[str, Image.Image]]) -> int:
    """Write named images as PNGs in a zip. Returns their number."""
    count = 0
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, image in images:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            # A ZipInfo has a fixed date, so equal images give equal bytes.
            archive.writestr(zipfile.ZipInfo(name), buffer.getvalue())
            count += 1
    return count


if __name__ == "__main__":
    sys.exit(main())
