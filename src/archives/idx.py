"""Read IDX files, MNIST's format: of MNIST, Fashion-MNIST, EMNIST and others."""

from __future__ import annotations

import gzip
import math
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.mapped import Spool, SpoolError
from ..params import Unpack
from .members import Member, check_bytes, inflated

# "train-images-idx3-ubyte.gz", "emnist-letters-test-labels-idx1-ubyte", "t10k-images.idx3-ubyte"
NAME = re.compile(r"(.*?)(train|test|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?", re.ASCII)
PARTS = (("train", "images"), ("train", "labels"), ("test", "images"), ("test", "labels"))


def is_idx(name: str) -> bool:
    return NAME.fullmatch(PurePosixPath(name).name) is not None


def choose(members: list[Member], where: str) -> tuple[str, list[Member]]:
    """The name of the data set ("" for MNIST's file names), and its files in the order of PARTS.

    Where a file is there both gzipped and not, the latter is taken. Raises UserError, starting with
    `where`, if there are files of several data sets, or not all four.
    """
    sets: dict[tuple[str, str], dict[tuple[str, str], Member]] = defaultdict(dict)
    for member in sorted(members, key=lambda member: not member.name.endswith(".gz")):
        path = PurePosixPath(member.name)
        match = NAME.fullmatch(path.name)
        assert match
        part = "train" if match[2] == "train" else "test"
        # Some archives have a folder for each file, with the file's name.
        folder = path.parent.parent if is_idx(path.parent.name) else path.parent
        sets[str(folder), match[1].strip("-_. ")][part, match[3]] = member
    if len(sets) > 1:
        found = ", ".join(sorted(f"{folder}/{name}" for folder, name in sets))
        raise UserError(f"{where}: IDX files of several data sets ({found}); leave one there")
    (((_, name), files),) = sets.items()
    missing = [" ".join(part) for part in PARTS if part not in files]
    if missing:
        raise UserError(
            f"{where}: IDX files, but none of the {missing[0]}; expected four, such as "
            f"train-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"
        )
    return name, [files[part] for part in PARTS]


def read(member: Member, dims: int, scratch: str | Path, settings: Unpack) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped or not, as uint8 with `dims` axes.

    The format is described at yann.lecun.com/exdb/mnist. The bytes go to an unnamed file in the
    folder `scratch`. Raises UserError for any other file, SpoolError if the unnamed file cannot
    be written.
    """
    label, spool = member.label, Spool(scratch)
    received = 0
    try:
        with member.open() as packed:
            zipped = member.name.endswith(".gz")
            file = gzip.GzipFile(fileobj=packed) if zipped else packed
            head = file.read(4 + 4 * dims)
            if len(head) < 4 + 4 * dims or head[:4] != bytes([0, 0, 8, dims]):
                raise UserError(
                    f"{label}: not an IDX file of unsigned bytes with {dims} axes; "
                    f"fetch the file again"
                )
            shape = tuple(int.from_bytes(head[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
            expected = math.prod(shape)
            if expected == 0:
                raise UserError(f"{label}: its header says {shape}, no bytes; fetch the file again")
            check_bytes(expected, f"{label}: its header says {shape},", settings)
            for chunk in inflated(file, expected, label, member.packed):
                spool.add(chunk)
                received += len(chunk)
            more = len(file.read(1))
    except (UserError, SpoolError, MemoryError):
        raise
    except Exception as error:  # damaged archives raise many types of errors
        raise UserError(f"{label}: cannot be read ({error}); fetch the file again") from None
    if received + more != expected:
        raise UserError(
            f"{label}: its header says {shape}, {expected} bytes; "
            f"found {'more' if more else received}; fetch the file again"
        )
    return spool.tensor(shape)


def transposed(images: Tensor, scratch: str | Path) -> Tensor:
    """Images (N, H, W) as (N, W, H): with rows and columns exchanged."""
    spool = Spool(scratch)
    for batch in images.split(1024):
        spool.add(batch.transpose(1, 2))
    return spool.tensor((len(images), images.shape[2], images.shape[1]))


def numbered(train: Tensor, test: Tensor, where: str) -> tuple[Tensor, Tensor, list[str]]:
    """Labels (N,) int64 counted from 0, and the values in the files, as names of the classes.

    Raises UserError, starting with `where`, if a class has no training images.
    """
    values = train.unique()
    if not bool(torch.isin(test, values).all()):
        raise UserError(
            f"{where}: the test images have classes that the training images lack; "
            f"fetch the files again"
        )
    names = [str(value) for value in values.tolist()]
    return torch.searchsorted(values, train), torch.searchsorted(values, test), names
