import errno
import json
import os
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from src import classifier, model_file, provenance
from src.common import dataset, mapped
from src.common.errors import UserError


def written(path, **tensors):
    """A safetensors file of eight bytes with this header: (dtype, shape, offsets) by name."""
    entries = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        for name, (dtype, shape, offsets) in tensors.items()
    }
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(8)))
    return path


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {
        "a": torch.arange(6).view(2, 3),
        "b": torch.randn(4, 1),
        "c": torch.tensor([7, 9], dtype=torch.uint8),
    }
    save_file(tensors, tmp_path / "arrays", {"made by": "tests"})
    metadata, loaded = mapped.mapped_tensors(tmp_path / "arrays")
    assert metadata == {"made by": "tests"} and loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].dtype == value.dtype and torch.equal(loaded[name], value)


@pytest.mark.parametrize(
    "tensors",
    [
        {"x": ("F16", [4], [0, 8])},  # a type that no file of ours has
        # No bytes, in a shape that no tensor can have.
        {"x": ("U8", [0, 2**63], [0, 0]), "y": ("U8", [8], [0, 8])},
        {"x": ("U8", [4], [0, 8])},  # a shape that does not fit its bytes
        {"os error 12": ("U8", [4], [0, 8])},  # and a name that looks like a system error
    ],
)
def test_what_is_no_file_of_ours_is_refused(tmp_path, tensors):
    path = written(tmp_path / "arrays", **tensors)
    with pytest.raises(ValueError):
        mapped.mapped_tensors(path)
    with pytest.raises(UserError, match="arrays: damaged"):
        provenance.tensors(path)


def test_what_the_system_refuses_is_not_called_damaged(tmp_path):
    path = written(tmp_path / "arrays", x=("U8", [8], [0, 8]))
    for read in (dataset.load, provenance.tensors, model_file.load, classifier.load):
        with no_more_files(), pytest.raises(OSError, match="arrays") as caught:
            read(path)
        assert caught.value.errno == errno.EMFILE


@contextmanager
def no_more_files():
    resource = pytest.importorskip("resource")  # Windows has none
    before, opened = resource.getrlimit(resource.RLIMIT_NOFILE), os.open("/", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        os.close(opened)


def test_a_spool_gives_back_what_came(tmp_path):
    spool = mapped.Spool(tmp_path / "new")
    spool.add(torch.arange(6, dtype=torch.uint8).view(2, 3))
    spool.add(bytes([6, 7, 8]))
    assert torch.equal(spool.tensor((3, 3)), torch.arange(9, dtype=torch.uint8).view(3, 3))
    assert not list((tmp_path / "new").iterdir())  # the file has no name, so it needs no cleaning


def test_a_spool_without_a_place_names_it(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(mapped.SpoolError, match="taken"):
        mapped.Spool(tmp_path / "taken")
