"""What an interrupted run left: taken up by the very same run only, and only whole."""

import os
import subprocess

import pytest
import torch

from src.common.errors import Caution
from src.training.checkpoint import Checkpoint

STATE = {"step": 3, "weights": torch.arange(1000.0), "curve": [{"loss": 0.5}]}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path / ".scratch" / "train"


def test_a_state_comes_back_as_it_was_and_is_gone_afterwards(scratch):
    assert Checkpoint("train", ["a"]).load() is None
    Checkpoint("train", ["a"]).save(STATE)
    state = Checkpoint("train", ["a"]).load()
    assert state["step"] == 3 and state["curve"] == STATE["curve"]
    assert torch.equal(state["weights"], STATE["weights"])
    (saved,) = scratch.iterdir()
    ended = subprocess.Popen(["true"])
    ended.wait()
    cut_short = saved.with_name(f".{saved.name}.{ended.pid}.tmp")
    cut_short.write_text("what a kill cut short")
    being_written = saved.with_name(f".{saved.name}.{os.getpid()}.tmp")
    being_written.write_text("what an equal run is writing")
    Checkpoint("train", ["a"]).remove()
    assert list(scratch.iterdir()) == [being_written]


def test_another_run_does_not_see_it(monkeypatch):
    Checkpoint("train", ["a"]).save(STATE)
    assert Checkpoint("train", ["b"]).load() is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)  # whose sums are in another order
    assert Checkpoint("train", ["a"]).load() is None


@pytest.mark.parametrize("path", ["src/show/page.py", "src/model_file.py", "stages/train.py"])
def test_other_code_does_not_see_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("pass\n")
    Checkpoint("train", ["a"]).save(STATE)
    assert Checkpoint("train", ["a"]).load() is not None
    (tmp_path / path).write_text("other\n")
    assert Checkpoint("train", ["a"]).load() is None


def test_another_number_of_processes_goes_on_and_says_what_that_means(scratch):
    Checkpoint("train", ["a"], processes=2).save(STATE)
    with pytest.warns(Caution, match="saved by 2 processes, resuming with 1. .* up to rounding"):
        assert Checkpoint("train", ["a"]).load()["step"] == 3
    Checkpoint("train", ["a"]).save(STATE | {"step": 4})
    assert Checkpoint("train", ["a"]).load()["step"] == 4  # its own first
    Checkpoint("train", ["a"]).remove()
    assert list(scratch.iterdir()) == []


def test_a_damaged_state_is_not_taken(scratch, capsys):
    """Wherever a bit is flipped: torch's own reader would not notice most."""
    Checkpoint("train", ["a"]).save(STATE)
    path = next(scratch.iterdir())
    whole = path.read_bytes()
    for position in range(0, len(whole), len(whole) // 50):
        flipped = bytes([whole[position] ^ 4])
        path.write_bytes(whole[:position] + flipped + whole[position + 1 :])
        assert Checkpoint("train", ["a"]).load() is None
    path.write_bytes(whole[: len(whole) // 2])
    assert Checkpoint("train", ["a"]).load() is None
    assert "ignoring this checkpoint" in capsys.readouterr().out
