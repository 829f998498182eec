import importlib

import pytest
import torch

from src.common.errors import LONGEST, UserError, printable
from stages.__main__ import run


def test_a_message_cannot_steer_a_terminal_or_fill_it():
    """Messages quote text from files."""
    assert printable("a\x1b[2Jb\r\u202ec\nd é") == "a\\x1b[2Jb\\r\\u202ec\nd é"
    error = str(UserError("x.zip: " + "\x07" * 10**5 + "; make it again"))
    assert len(error) < 5 * LONGEST
    assert error.startswith("x.zip: \\x07") and error.endswith("; make it again")


def raising(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "fail",
    [
        lambda: bytes(2**62),
        lambda: torch.empty(2**60),
        lambda: raising(torch.OutOfMemoryError("CUDA out of memory")),
    ],
    ids=["Python", "PyTorch", "GPU"],
)
def test_too_little_memory_is_one_message(monkeypatch, capsys, fail):
    monkeypatch.setattr(importlib.import_module("stages.unpack"), "main", fail)
    assert run("unpack") == 1
    assert "unpack: not enough memory" in capsys.readouterr().err
