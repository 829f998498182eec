import pytest
import torch

from src.common import device
from src.common.errors import UserError


@pytest.mark.parametrize(
    "capabilities, expected",
    [
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_takes_bfloat16_where_the_processor_is_known_to_be_faster_in_it(
    monkeypatch, capabilities, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert device.precision("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize("supported, expected", [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_on_gpus_that_compute_it(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert device.precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_by_name_is_taken(precision):
    assert device.precision(precision, torch.device("cpu")) == precision


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device.best() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="launcher: process 3 of this machine finds 2 GPUs"):
        device.best()
