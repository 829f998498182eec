"""Settings and fixtures of the tests.

PyTorch is imported on use: the process that only starts the processes of tests needs none.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    # For this process and all that it starts: `dvc` and `python` of this environment; no GPU, where
    # equal runs need not be equal to the last bit; DVC's databases of the many clones within reach
    # of `make clean`.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("DVC_SITE_CACHE_DIR", str(ROOT / ".scratch" / "dvc"))
    if os.environ.get("PYTEST_XDIST_WORKER"):  # a core for each process of tests and its children
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before the fixtures of the test
def pytest_runtest_setup(item: pytest.Item) -> None:
    until = float(os.environ.get("SLOW_TESTS_UNTIL", "inf"))
    if item.get_closest_marker("slow") and time.time() > until:
        pytest.skip("no time left for slow tests: SLOW_TESTS_UNTIL has passed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    mirror = os.environ.get("MNIST_MIRROR", "")
    if mirror and "://" not in mirror:
        # Tests run commands in other folders.
        os.environ["MNIST_MIRROR"] = str(Path(mirror).expanduser().resolve())
    if not os.environ.get("MNIST_MIRROR"):
        reason = "wants MNIST: set MNIST_MIRROR to a folder or URL that has the four files"
        skip = pytest.mark.skip(reason=reason)
        for item in items:
            if item.get_closest_marker("mnist"):
                item.add_marker(skip)


@pytest.fixture
def params():
    from src.params import load

    return load(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def mnist(tmp_path_factory):
    """MNIST as the unpack stage reads it; for tests marked mnist."""
    from tests.helpers import fetch_mnist, read_archive

    return read_archive(fetch_mnist(tmp_path_factory.mktemp("mnist") / "data"))


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory):
    """A TORCH_HOME with stand-in weights."""
    from tools.stand_in import write_weights

    home = tmp_path_factory.mktemp("torch")
    write_weights(home)
    return home


@pytest.fixture
def weights(torch_home, monkeypatch):
    """The stand-in, taken for the real weights."""
    from src.measure import inception

    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    monkeypatch.setattr(inception, "SHA256", inception.weights_sha256())
    return inception.weights_path()
