"""`python -m tools.get_data [digits]`: see that data/ holds something to train on, and say in a line what was done.

In this order: data/ as it is; DVC's cache or a configured remote; the mirror in MNIST_MIRROR, else torchvision's mirrors;
and where no MNIST can be had, the 1,797 real 8x8 digits that scikit-learn carries, loudly.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from src.errors import UserError

DATA = Path("data")
DIGITS = "sklearn-digits.zip"
TIMEOUT = 20  # seconds without an answer from a mirror
MAX_BYTES = 2**25  # of one file; the largest has 10 MB

HOW_TO_GET_MNIST = f"""
  ******************************************************************************************
  *  This is NOT MNIST. No MNIST could be had, so data/ holds the embedded stand-in:       *
  *  1,797 real handwritten digits of 8x8 pixels (scikit-learn's), in {DIGITS}.   *
  *  To get MNIST: MNIST_MIRROR=/folder/or/URL/with/the/four/files make run                *
  ******************************************************************************************
"""


def main() -> int:
    asked = sys.argv[1:]
    if asked not in ([], ["digits"], ["mnist"]):
        print(f"DATA: expected digits or mnist, found {' '.join(asked)!r}; `make help` explains", file=sys.stderr)
        return 2
    try:
        print(f"data: {get(asked[0] if asked else None)}")
    except UserError as error:
        print(f"data: {error}", file=sys.stderr)
        return 1
    # Into DVC's cache, so that experiments in other folders find it; for MNIST this leaves data.dvc as it is in git.
    dvc("commit", "--quiet", "--force", "data.dvc")
    return 0


def get(asked: str | None) -> str:
    """Fill data/ and return what was done. An archive of the user's own in data/ is never touched unasked."""
    present = sorted(path.name for path in DATA.iterdir() if not path.name.startswith(".")) if DATA.is_dir() else []
    if asked == "digits":
        if present == [DIGITS]:
            return f"scikit-learn's 8x8 digits are in data/ already ({DIGITS}), as asked for. This is not MNIST"
        set_aside(present)
        write_digits(DATA / DIGITS)
        return f"wrote scikit-learn's 1,797 8x8 digits to data/{DIGITS}, as asked for. This is not MNIST"
    if present and present != [DIGITS]:
        return f"data/ is there already ({', '.join(present)})"

    shutil.rmtree(DATA, ignore_errors=True)  # the stand-in of an earlier run gives way to MNIST as soon as there is one
    failures = []
    for attempt in (from_dvc, from_mirrors):
        try:
            return attempt()
        except UserError as error:
            failures.append(str(error))
    if os.environ.get("MNIST_MIRROR") or asked == "mnist":  # asked for by name: no stand-in
        raise UserError("; ".join(failures))
    print("\n".join(f"data: {failure}" for failure in failures) + HOW_TO_GET_MNIST, file=sys.stderr)
    write_digits(DATA / DIGITS)
    return f"NOT MNIST: wrote the embedded 8x8 digits to data/{DIGITS}"


def set_aside(present: list[str]) -> None:
    """Clear data/ for the digits. Canonical MNIST can be had again from DVC's cache; anything else is the user's."""
    if not present:
        return
    if set(present) != {name for name, _ in mnist_files()}:
        raise UserError(f"data/ holds {', '.join(present)}; move it elsewhere before asking for DATA=digits")
    dvc("commit", "--quiet", "--force", "data.dvc")
    shutil.rmtree(DATA)


def dvc(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)


def from_dvc() -> str:
    """What data.dvc pins in git, from the cache or a remote."""
    subprocess.run(["git", "checkout", "--quiet", "HEAD", "--", "data.dvc"], capture_output=True)  # undo a stand-in's pin
    if dvc("checkout", "data.dvc").returncode == 0:
        return "took data/ from DVC's cache"
    if dvc("pull", "data.dvc").returncode == 0:
        return "pulled data/ from a DVC remote"
    shutil.rmtree(DATA, ignore_errors=True)
    raise UserError("neither DVC's cache nor a remote has what data.dvc pins")


def mnist_files() -> list[tuple[str, str]]:
    """(file name, md5) of the four files, as torchvision pins them."""
    from src.torchvision_remedy import torchvision

    return torchvision.datasets.MNIST.resources


def from_mirrors() -> str:
    """The four files from MNIST_MIRROR, else from torchvision's mirrors, each checked against its md5."""
    from src.torchvision_remedy import torchvision

    mirror = os.environ.get("MNIST_MIRROR")
    failures = []
    for base in [mirror] if mirror else torchvision.datasets.MNIST.mirrors:
        try:
            files = {name: fetch(base, name, md5) for name, md5 in mnist_files()}
        except (OSError, ValueError, UserError) as error:
            failures.append(f"{base}: {error}")
            continue
        DATA.mkdir()
        for name, content in files.items():
            (DATA / name).write_bytes(content)
        return f"fetched MNIST from {base}, md5s checked"
    hint = "" if mirror else "; MNIST_MIRROR may name a folder or URL that has the four files"
    raise UserError("no mirror of MNIST could be used: " + "; ".join(failures) + hint)


def fetch(base: str, name: str, md5: str) -> bytes:
    """One file of a mirror, which is a folder or a URL. Raises UserError if it is not the canonical one."""
    if "://" not in base:
        content = (Path(base).expanduser() / name).read_bytes()
    else:
        with urllib.request.urlopen(f"{base.rstrip('/')}/{name}", timeout=TIMEOUT) as response:
            content = response.read(MAX_BYTES)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError(f"{name} has md5 {found}, expected {md5}: not the canonical file")
    return content


def write_digits(path: Path) -> None:
    """scikit-learn's digits (Alpaydin and Kaynak 1998) as a zip of 8x8 greyscale PNGs in class folders."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)).save(buffer, "PNG")
            entry = zipfile.ZipInfo(f"{label}/{number:05d}.png")  # its fixed date makes equal archives equal bytes
            archive.writestr(entry, buffer.getvalue())


if __name__ == "__main__":
    sys.exit(main())
