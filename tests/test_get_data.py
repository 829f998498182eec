import contextlib
import gzip
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import threading
import time
from functools import partial

import pytest

from src.common.torchvision_remedy import torchvision
from tests.helpers import ROOT, clone_into, commit, read_archive, run
from tools import get_data

pytestmark = pytest.mark.slow  # copies of a repository, and runs of DVC

FAKE = {name: gzip.compress(name.encode(), mtime=0) for name in ("a.gz", "b.gz", "c.gz", "d.gz")}
FAKE_MD5S = [(name, hashlib.md5(content).hexdigest()) for name, content in FAKE.items()]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository of the files that DVC and git look at; not to be changed."""
    clone = clone_into(tmp_path_factory.mktemp("get_data") / "clone")
    for name in ("benchmarks", "docs", "figures", "src", "tests"):
        shutil.rmtree(clone / name)
    commit(clone)
    return clone


@pytest.fixture
def here(repository, tmp_path, monkeypatch):
    """The current folder: a repository without data, where four small files stand for MNIST's."""
    folder = shutil.copytree(repository, tmp_path / "clone", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.setattr(get_data, "mnist_files", lambda: FAKE_MD5S)
    unreachable = ["http://127.0.0.1:9/nothing-listens-here"]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", unreachable)
    return folder


@pytest.fixture
def nothing_in_dvc(monkeypatch):
    """DVC's cache and remotes have nothing, and are not asked: that takes seconds."""
    monkeypatch.setattr(get_data, "restored", lambda: None)


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name, content in FAKE.items():
        (folder / name).write_bytes(content)
    return folder


held = get_data.held


def test_what_is_in_data_already_is_left_alone(here, mirror, monkeypatch):
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    get_data.write_digits(get_data.DATA / "mine.zip")
    assert "there already (mine.zip)" in get_data.get(None)
    assert held() == ["mine.zip"]


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"schema",
        b"schema: '2.0'\nst",
        b"stages:\n",
        b"  unpack:\n",
        b"    deps:\n",
        b"    - pa",
        b"      md",
    ],
)
def test_half_a_lock_that_a_kill_of_dvc_left_is_brought_back(here, end, capsys):
    """Cut after the first `end`, where YAML can still read the rest and where it cannot."""
    whole = (here / "dvc.lock").read_bytes()
    (here / "dvc.lock").write_bytes(whole[: whole.index(end) + len(end)])
    get_data.mend_lock()
    assert (here / "dvc.lock").read_bytes() == whole and "not whole" in capsys.readouterr().out


def test_a_lock_nested_without_end_is_not_whole(tmp_path):
    (tmp_path / "dvc.lock").write_text("[" * 5000)
    assert not get_data.whole_lock(tmp_path / "dvc.lock")


def test_a_lock_that_dvc_can_read_is_left_alone(here):
    whole = (here / "dvc.lock").read_bytes()
    after_a_stage = whole[: whole.index(b"  classifier:\n")]  # of a kill between two stages
    (here / "dvc.lock").write_bytes(after_a_stage)
    get_data.mend_lock()
    assert (here / "dvc.lock").read_bytes() == after_a_stage
    (here / "dvc.lock").write_bytes(whole + b"\n# mine\n")
    get_data.mend_lock()
    assert (here / "dvc.lock").read_bytes() == whole + b"\n# mine\n"


def test_a_folder_as_mirror(here, mirror, nothing_in_dvc, monkeypatch):
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    assert f"fetched MNIST from {mirror}, md5s checked" in get_data.get(None)
    assert held() == sorted(FAKE)


def test_a_url_as_mirror(here, mirror, nothing_in_dvc, monkeypatch):
    plain = http.server.SimpleHTTPRequestHandler
    handler = partial(plain, directory=str(mirror))
    monkeypatch.setattr(plain, "log_message", lambda *args: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MNIST_MIRROR", f"http://127.0.0.1:{server.server_port}/")
        assert "fetched MNIST from http://127.0.0.1" in get_data.get(None)
        server.shutdown()
    assert held() == sorted(FAKE)


class TricklingBody(http.server.BaseHTTPRequestHandler):
    """Sends a byte of the file now and then, without end."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.trickle()

    def trickle(self):
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x")
                time.sleep(0.01)

    def log_message(self, *args):
        pass


class TricklingHeaders(TricklingBody):
    """Sends a byte of the headers now and then, without end."""

    def do_GET(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.trickle()


@pytest.mark.parametrize("handler", [TricklingBody, TricklingHeaders])
def test_a_mirror_that_trickles_is_given_up(here, nothing_in_dvc, monkeypatch, handler):
    monkeypatch.setattr(get_data, "DEADLINE", 0.1)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MNIST_MIRROR", f"http://127.0.0.1:{server.server_port}/")
        with pytest.raises(get_data.UserError, match=r"not there within 0\.1 seconds"):
            get_data.get(None)
        server.shutdown()


def test_a_pipe_in_data_is_named_and_not_read(here):
    get_data.DATA.mkdir()
    os.mkfifo(get_data.DATA / "a.zip")
    with pytest.raises(get_data.UserError, match=r"data/a\.zip: neither a file nor a folder"):
        get_data.get(None)
    with pytest.raises(get_data.UserError, match=r"data/a\.zip: a broken link, pipe or device"):
        read_archive(get_data.DATA)


def test_half_a_file_of_a_killed_run_is_not_pinned(here):
    ended = subprocess.Popen(["true"])
    ended.wait()
    get_data.DATA.mkdir()
    (get_data.DATA / f".{get_data.DIGITS}.{ended.pid}.tmp").write_bytes(b"half")
    get_data.get("digits")
    assert [path.name for path in get_data.DATA.iterdir()] == [get_data.DIGITS]


def test_wrong_bytes_in_a_mirror_are_refused_and_nothing_is_kept(
    here, mirror, nothing_in_dvc, monkeypatch
):
    (mirror / "d.gz").write_bytes(b"something else")
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    with pytest.raises(get_data.UserError, match=r"d\.gz has md5 .*, expected"):
        get_data.get(None)
    assert not get_data.DATA.exists()


def test_a_missing_mirror_is_an_error_not_a_stand_in(here, nothing_in_dvc, monkeypatch):
    monkeypatch.setenv("MNIST_MIRROR", "/absent")
    with pytest.raises(get_data.UserError, match="/absent"):
        get_data.get(None)


def test_without_any_mnist_the_stand_in_is_loud(here, nothing_in_dvc, capsys):
    assert "NOT MNIST" in get_data.get(None)
    assert held() == [get_data.DIGITS]
    message = capsys.readouterr().err
    assert "This is NOT MNIST" in message and "MNIST_MIRROR=" in message
    assert "DVC's cache and remotes do not have" in message


def test_the_stand_in_gives_way_to_mnist_as_soon_as_there_is_one(
    here, mirror, nothing_in_dvc, monkeypatch
):
    get_data.get(None)
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    assert "fetched MNIST" in get_data.get(None)
    assert held() == sorted(FAKE)


def test_digits_asked_for_outright_take_no_network(here, monkeypatch):
    monkeypatch.setattr(get_data, "from_mirrors", lambda: pytest.fail("looked for MNIST"))
    assert "as asked for" in get_data.get("digits") and held() == [get_data.DIGITS]
    assert "already" in get_data.get("digits")


def test_digits_never_replace_an_archive_of_the_users(here):
    get_data.DATA.mkdir()
    (get_data.DATA / "mine.zip").write_bytes(b"mine")
    with pytest.raises(get_data.UserError, match=r"data/ holds mine\.zip; move it elsewhere"):
        get_data.get("digits")
    assert held() == ["mine.zip"]


def test_from_mnist_to_digits_and_back_through_the_cache(here, mirror, monkeypatch):
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    get_data.get(None)
    get_data.dvc("commit", "--force", "data.dvc")
    run("git", "commit", "--quiet", "--all", "--message", "pin", cwd=here)
    get_data.get("digits")
    get_data.dvc(
        "commit", "--force", "data.dvc"
    )  # as a run on the digits does: data.dvc now pins them
    assert held() == [get_data.DIGITS]
    monkeypatch.delenv("MNIST_MIRROR")
    assert "from DVC's cache" in get_data.get(None)
    assert held() == sorted(FAKE)


def test_a_configured_remote_is_asked(here, mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    get_data.get(None)
    text = (here / "data.dvc").read_text()  # what those do who want their own archive shared
    (here / "data.dvc").write_text(text.replace("  push: false\n", ""))
    add_remote = ["remote", "add", "-d", "-f", "mine", str(tmp_path / "remote")]
    for command in (add_remote, ["commit", "-f", "data.dvc"], ["push", "data.dvc"]):
        assert get_data.dvc(*command).returncode == 0
    run("git", "commit", "--quiet", "--all", "--message", "pin", cwd=here)
    shutil.rmtree(get_data.DATA)
    shutil.rmtree(".dvc/cache")
    monkeypatch.delenv("MNIST_MIRROR")
    assert "pulled data/ from a DVC remote" in get_data.get(None)
    assert held() == sorted(FAKE)


@pytest.mark.mnist
def test_canonical_mnist_leaves_data_dvc_as_committed(tmp_path):
    folder = clone_into(tmp_path / "clone")
    process = run("python", "-m", "tools.get_data", cwd=folder)
    assert "fetched MNIST from" in process.stdout
    assert (folder / "data.dvc").read_text() == (ROOT / "data.dvc").read_text()
    assert run("git", "status", "--porcelain", cwd=folder).stdout == ""


def test_a_committed_stand_in_gives_way_to_mnist_too(here, mirror, monkeypatch):
    get_data.get("digits")
    get_data.dvc("commit", "--force", "data.dvc")
    run("git", "commit", "--quiet", "--all", "--message", "experiments on the digits", cwd=here)
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    monkeypatch.setattr(get_data, "STAND_IN_PINS", set())
    assert "fetched MNIST" in get_data.get(None)
    assert held() == sorted(FAKE)


def test_a_pin_of_the_users_own_archive_is_kept_and_never_replaced_by_mnist(
    here, mirror, monkeypatch
):
    pin = (here / "data.dvc").read_text().replace(get_data.MNIST_PIN, "0" * 32 + ".dir")
    (here / "data.dvc").write_text(pin)  # not even committed
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    with pytest.raises(get_data.UserError, match="data.dvc pins a data set of yours"):
        get_data.get(None)
    assert (here / "data.dvc").read_text() == pin and not get_data.DATA.exists()
    assert "fetched MNIST" in get_data.get("mnist")


def test_files_with_mnists_names_but_other_bytes_are_the_users(here):
    get_data.DATA.mkdir()
    for name in FAKE:
        (get_data.DATA / name).write_bytes(b"fashion")
    with pytest.raises(get_data.UserError, match="move it elsewhere"):
        get_data.get("digits")
    assert held() == sorted(FAKE)


def test_mnist_stays_where_it_is_if_dvc_cannot_keep_it(here, mirror, nothing_in_dvc, monkeypatch):
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    get_data.get(None)
    (here / "data.dvc").unlink()
    with pytest.raises(get_data.UserError, match="left as it is"):
        get_data.get("digits")
    assert held() == sorted(FAKE)


def test_mnist_stays_where_it_is_if_the_cache_could_not_take_a_file(
    here, mirror, nothing_in_dvc, monkeypatch
):
    monkeypatch.setenv("MNIST_MIRROR", str(mirror))
    get_data.get(None)
    said = subprocess.CompletedProcess([], 0, "", "ERROR: failed to transfer 'd4' - No space left")
    monkeypatch.setattr(get_data, "dvc", lambda *_: said)
    with pytest.raises(get_data.UserError, match="left as it is, .* failed to transfer"):
        get_data.get("digits")
    assert held() == sorted(FAKE)


def test_a_conflict_in_dvc_lock_is_left_to_the_user(here):
    lock = (here / "dvc.lock").read_text()
    for branch in ("ours", "theirs"):
        start = "HEAD" if branch == "ours" else "ours~"
        run("git", "checkout", "--quiet", "-B", branch, start, cwd=here)
        (here / "dvc.lock").write_text(f"# {branch}\n{lock}")
        commit(here)
    assert subprocess.run(["git", "merge", "ours"], capture_output=True).returncode
    with pytest.raises(get_data.UserError, match=r"dvc\.lock has a conflict"):
        get_data.mend_lock()


def test_a_malformed_mirror_and_a_file_named_data_are_named(here, nothing_in_dvc, monkeypatch):
    monkeypatch.setenv("MNIST_MIRROR", "http://127.0.0.1:1/a b")
    with pytest.raises(get_data.UserError, match="a b: URL can't contain control characters"):
        get_data.get(None)
    get_data.DATA.write_text("")
    with pytest.raises(get_data.UserError, match="expected a folder"):
        get_data.get(None)


def test_an_unknown_data_set_is_refused_by_name(here, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["get_data", "cifar"])
    assert get_data.main() == 2
    assert "expected digits or mnist, got 'cifar'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "outs: []", "outs: [", "outs: 3"])
def test_half_a_pin_is_named(here, text):
    (here / "data.dvc").write_text(text)
    with pytest.raises(get_data.UserError, match="data.dvc: not whole; `git checkout data.dvc`"):
        get_data.pin()


def test_an_own_archive_that_cannot_be_read_never_reaches_the_cache(here):
    get_data.DATA.mkdir()
    (get_data.DATA / "mine.zip").write_bytes(b"no zip")
    with pytest.raises(get_data.UserError, match="mine.zip: cannot be read as a zip"):
        get_data.get(None)


def test_half_a_list_of_locks_goes(here, capsys):
    locks = here / ".dvc/tmp/rwlock"
    locks.parent.mkdir(exist_ok=True)
    locks.write_text("")
    get_data.check_repository()
    assert not locks.exists() and "Removed it" in capsys.readouterr().out


def test_data_as_a_link_and_a_folder_without_git_are_named(here, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    get_data.DATA.symlink_to(tmp_path / "empty")
    with pytest.raises(get_data.UserError, match="data: a link to"):
        get_data.check_repository()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(get_data.UserError, match="no git repository.*git init"):
        get_data.check_repository()


def test_a_file_that_the_cache_could_not_take_is_an_error(here, monkeypatch, capsys):
    resource = pytest.importorskip("resource")  # Windows has none
    get_data.get("digits")
    monkeypatch.setattr("sys.argv", ["get_data", "digits"])
    size = (here / "data" / get_data.DIGITS).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))  # fails as a full disk does
    try:
        assert get_data.main() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "could not add data/ to its cache: ERROR: failed to transfer" in capsys.readouterr().err


def test_the_reason_of_dvc_is_shown(here, monkeypatch, capsys):
    get_data.get("digits")
    (here / ".dvc/config").write_text("[core")
    monkeypatch.setattr("sys.argv", ["get_data", "digits"])
    assert get_data.main() == 1
    assert re.search(r"could not add data/ to its cache: \w", capsys.readouterr().err)
