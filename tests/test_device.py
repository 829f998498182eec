import pytest
import torch

from src.common import device
from src.common.errors import UserError


@pytest.mark.parametrize("found, expected", [
    ({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": False}, "float32"), ({}, "float32"),
])
def test_auto_takes_bfloat16_where_the_processor_is_known_to_be_faster_in_it(monkeypatch, found, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert device.precision("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize("supported, expected", [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_on_gpus_that_compute_it(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert device.precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_what_is_asked_for_is_taken(asked):
    assert device.precision(asked, torch.device("cpu")) == asked


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device.best() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="launcher: process 3 of this machine finds 2 GPUs"):
        device.best()
