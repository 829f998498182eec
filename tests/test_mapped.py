import errno
import json
import os
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from src import classifier, provenance
from src.common import dataset, mapped
from src.common.errors import UserError
from src.diffusion import denoiser


def written(path, **tensors):
    """A safetensors file with this header, (dtype, shape, offsets) by name, and eight bytes of data."""
    header = json.dumps({
        name: {"dtype": dtype, "shape": shape, "data_offsets": offsets} for name, (dtype, shape, offsets) in tensors.items()
    }).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(8)))
    return path


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.randn(4, 1), "c": torch.tensor([7, 9], dtype=torch.uint8)}
    save_file(tensors, tmp_path / "some", {"of": "tests"})
    metadata, found = mapped.mapped_tensors(tmp_path / "some")
    assert metadata == {"of": "tests"} and found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)


@pytest.mark.parametrize("tensors", [
    {"x": ("F16", [4], [0, 8])},  # a type that nothing of ours has
    {"x": ("U8", [0, 2**63], [0, 0]), "y": ("U8", [8], [0, 8])},  # no bytes, of a shape that no tensor can have
    {"x": ("U8", [4], [0, 8])},  # a shape that does not fit its bytes
    {"os error 12": ("U8", [4], [0, 8])},  # and a name that a message of the system has
])
def test_what_is_no_file_of_ours_is_refused(tmp_path, tensors):
    with pytest.raises(ValueError):
        mapped.mapped_tensors(written(tmp_path / "some", **tensors))
    with pytest.raises(UserError, match="some: damaged"):
        provenance.tensors(tmp_path / "some")


def test_what_the_system_refuses_is_not_called_damaged(tmp_path):
    path = written(tmp_path / "some", x=("U8", [8], [0, 8]))
    for read in (dataset.load, provenance.tensors, denoiser.load, classifier.load):
        with no_more_files(), pytest.raises(OSError, match="some") as caught:
            read(path)
        assert caught.value.errno == errno.EMFILE


@contextmanager
def no_more_files():
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
    assert not list((tmp_path / "new").iterdir())  # the file has no name, so nobody has to clear it away


def test_a_spool_without_a_place_names_it(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(mapped.SpoolError, match="taken"):
        mapped.Spool(tmp_path / "taken")
