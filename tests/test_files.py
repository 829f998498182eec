import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from src.common.files import leftovers, publish, replacing
from stages import unpack
from tests.helpers import ROOT, run
from tools import get_data


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("old")
    return path


def test_a_file_is_replaced_whole_and_nothing_else_stays(old):
    with replacing(old) as temporary:
        temporary.write_text("new")
        assert old.read_text() == "old" and temporary.parent == old.parent
    assert old.read_text() == "new" and [path.name for path in old.parent.iterdir()] == ["kept.txt"]


def test_folders_are_made(tmp_path):
    with replacing(tmp_path / "a" / "b.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a" / "b.txt").read_text() == "new"


def test_a_failed_write_leaves_the_old_file(old):
    with pytest.raises(RuntimeError), replacing(old) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert old.read_text() == "old" and [path.name for path in old.parent.iterdir()] == ["kept.txt"]


def test_a_disk_that_is_full_when_data_reach_it_leaves_the_old_file(old, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), replacing(old) as temporary:
        temporary.write_text("new")
    assert old.read_text() == "old" and [path.name for path in old.parent.iterdir()] == ["kept.txt"]


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(old):
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(old)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and old.read_text() == "old"


def test_what_killed_processes_left_goes_at_the_next_write(old):
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = old.with_name(f".{old.name}.{ended.pid}.tmp")
    others = [old.with_name(f".{old.name}.{os.getppid()}.tmp"), old.with_name(".kept.txt.x.tmp")]
    for path in (left, *others):
        path.write_text("half")
    assert leftovers(old.parent) == [left]
    with replacing(old) as temporary:
        temporary.write_text("new")
    assert not left.exists() and all(path.exists() for path in others)


KILLED_WHILE_WRITING = """
import os, signal, sys
from src.common.files import replacing
with replacing(sys.argv[1]) as temporary:
    file = temporary.open("w")
    file.write("half of the new")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """A folder in which the stage unpack has run, on the embedded digits."""
    (tmp_path / "data").mkdir()
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    get_data.write_digits(tmp_path / "data" / get_data.DIGITS)
    monkeypatch.chdir(tmp_path)
    unpack.main()
    return tmp_path


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_leaves_the_old_file_and_says_so(unpacked):
    """Root may write anywhere, so its process gives that right up first."""
    before = (unpacked / "arrays/dataset.safetensors").read_bytes()
    (unpacked / "arrays").chmod(0o500)
    command = [sys.executable, "-m", "stages", "unpack"]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = run(*command, cwd=unpacked, check=False, PYTHONPATH=str(ROOT))
    (unpacked / "arrays").chmod(0o700)
    assert done.returncode == 1 and "Permission denied" in done.stderr
    assert "make it readable and writable" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in (unpacked / "arrays").iterdir()] == ["dataset.safetensors"]
    assert (unpacked / "arrays/dataset.safetensors").read_bytes() == before


def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    publish(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "new.txt"]


def test_a_folder_may_be_on_another_file_system(tmp_path):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is a single file system")
    with tempfile.TemporaryDirectory(dir=memory) as elsewhere:
        folder = Path(elsewhere) / "new"
        folder.mkdir()
        (folder / "new.txt").write_text("new")
        publish(folder, tmp_path / "old")
        assert not folder.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "new.txt"]
