"""`python -m tools.same_results REVISION`: do two versions of the code give equal results?

It runs every stage on the embedded 8x8 digits, with the code of REVISION and with the working tree,
each in its own folder. If MNIST_MIRROR is set, both also take 100 training steps on MNIST. Then it
compares tensors, pixels, metrics, tables and figures, and exits with 1 if any differ. It ignores
times, and the report, because that names the commit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from stages.__main__ import NAMES
from tools.soak import SETTINGS

MNIST_SETTINGS = {
    "train": {"steps": 100, "evaluate_interval": 50, "sample_interval": 100, "warmup_steps": 10}
}
FOLDERS = (
    "arrays",
    "figures",
    "generated",
    "generated_images",
    "memorisation",
    "metrics",
    "models",
    "plots",
    "reference",
    "training_samples",
)
# All stages run in one process, because importing PyTorch takes longer than most of them.
RUN_STAGES = """
import importlib, pathlib, sys
for stage in sys.argv[1:]:
    if pathlib.Path(f"stages/{stage}.py").exists():  # another revision may have fewer
        importlib.import_module(f"stages.{stage}").main()
"""
GET_DIGITS = "from tools.get_data import *; write_digits(DATA / DIGITS)"
GET_MNIST = "from tools.get_data import from_mirrors; from_mirrors()"
TIMED = {"plots/quality_over_steps.csv": ["images_per_second"]}
SHOW_TIMES = {"figures/quality_over_steps.png"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("revision", help="git revision to compare the working tree with")
    parser.add_argument("--stages", nargs="*", choices=NAMES, default=NAMES[:-1], metavar="STAGE")
    arguments = parser.parse_args()
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        old, new = Path(scratch, "old"), Path(scratch, "new")
        check_out(arguments.revision, old)
        copy_working_tree(new)
        for folder in (old, new):
            run_on_digits(folder, arguments.stages)
        different += report("digits", old, new)
        if os.environ.get("MNIST_MIRROR"):
            for folder in (old, new):
                train_on_mnist(folder)
            different += report("MNIST, 100 steps", old, new)
        else:
            print("MNIST: left out. Set MNIST_MIRROR to a folder or URL that has the four files")
    return 1 if different else 0


def check_out(revision: str, folder: Path) -> None:
    """Write the files of a revision to `folder`, without history."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", revision], check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], check=True, input=archive.stdout)


def copy_working_tree(folder: Path) -> None:
    """Copy the files of the working tree, committed or not, except those that git ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, folder / name)


def run_on_digits(folder: Path, stages: tuple[str, ...]) -> None:
    """Run the stages on the embedded digits, with little training."""
    clear(folder)
    run(folder, GET_DIGITS)
    configure(folder, SETTINGS)
    run(folder, RUN_STAGES, *stages)


def train_on_mnist(folder: Path) -> None:
    clear(folder)
    run(folder, GET_MNIST)
    configure(folder, MNIST_SETTINGS)
    run(folder, RUN_STAGES, "unpack", "train")


def clear(folder: Path) -> None:
    for name in (*FOLDERS, "data"):
        shutil.rmtree(folder / name, ignore_errors=True)


def configure(folder: Path, settings: dict[str, dict]) -> None:
    """Change the folder's params.yaml by `settings`. The other values stay those of its code."""
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, changes in settings.items():
        values[section] |= changes
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def run(folder: Path, code: str, *arguments: str) -> None:
    """Run Python code in a folder. It imports the modules of that folder."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{folder}: {code} failed:\n{done.stdout}{done.stderr}")


def report(title: str, old: Path, new: Path) -> int:
    """Print the files that differ. Returns their number."""
    names = [
        sorted(
            path.relative_to(folder).as_posix()
            for top in FOLDERS
            for path in (folder / top).rglob("*")
            if path.is_file()
        )
        for folder in (old, new)
    ]
    different = 0
    for name in sorted(set(names[0]) ^ set(names[1])):
        print(f"{title}: {name}: only {'before' if name in names[0] else 'now'}")
        different += 1
    common = [name for name in names[0] if name in set(names[1]) and name not in SHOW_TIMES]
    for name in common:
        if (old / name).read_bytes() == (new / name).read_bytes():
            continue
        if difference := compare(name, old / name, new / name):
            print(f"{title}: {name}: {difference}")
            different += 1
    print(f"{title}: {len(common)} files compared, {different} differ")
    return different


def compare(name: str, old: Path, new: Path) -> str:
    """How the contents of two files differ, or "" if they are equal."""
    if old.suffix == ".safetensors":
        return compare_tensors(load_file(old), load_file(new))
    if old.suffix == ".npz":
        with np.load(old) as before, np.load(new) as after:
            pairs = [{key: torch.from_numpy(file[key]) for key in file} for file in (before, after)]
        return compare_tensors(*pairs)
    if old.suffix in (".png", ".gif"):
        with Image.open(old) as before, Image.open(new) as after:
            same = np.array_equal(np.array(before), np.array(after))
        return "" if same else "different pixels"
    if old.suffix == ".csv":
        tables = [pd.read_csv(path).drop(columns=TIMED.get(name, [])) for path in (old, new)]
        return "" if tables[0].equals(tables[1]) else "different numbers"
    if old.suffix == ".json":
        return compare_json(*(json.loads(path.read_text()) for path in (old, new)))
    return "different bytes"


def compare_tensors(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> str:
    if old.keys() != new.keys():
        return f"different names: {sorted(old.keys() ^ new.keys())}"
    names = [name for name in old if not torch.equal(old[name], new[name])]
    return f"{len(names)} of {len(old)} tensors differ, such as {names[0]}" if names else ""


def compare_json(old: dict, new: dict) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys)


if __name__ == "__main__":
    sys.exit(main())
