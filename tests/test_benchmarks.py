"""The instruments of the benchmarks: what they count, fit and draw, not what they time."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    ablations,
    arithmetic,
    formulations,
    gpu,
    minutes,
    peers,
    processors,
    replicas,
    sampling,
    scale,
    schedules,
)
from tests.helpers import ROOT, denoiser


def test_the_products_taken_for_the_ceiling_are_all_that_the_network_computes():
    unet = denoiser(attention_resolutions=(2, 4)).unet
    inputs = torch.randn(3, 1, 8, 8), torch.tensor([1, 500, 999]), torch.tensor([0, 4, 9])
    products = arithmetic.products(unet, *inputs)

    def alone() -> None:
        for function, values, _ in products:
            function(*values)

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        unet(*inputs)
    assert arithmetic.flops(alone) == counter.get_total_flops() > 0


def test_ablations_compare_with_the_default_of_the_same_seed():
    same = {
        "fd_imagenet": 20.0,
        "accuracy": 0.9,
        "broken": 0.1,
        "images_seen": 100,
        "train_seconds": 60.0,
    }
    distances = {ablations.DEFAULT: [4.0, 6.0, 8.0], "no average": [5.0, 7.5, 8.5]}
    rows = [
        {"variant": name, "seed": seed, "fd_digits": values[seed]} | same
        for seed in (2, 0, 1)
        for name, values in distances.items()
    ]
    default, other = ablations.summary(rows)
    assert (default["fd_digits"], default["fd_digits_sd"], default["seeds"]) == (
        6.0,
        2.0,
        3,
    ) and "t" not in default
    # Differences of 1, 1.5 and 0.5; none elsewhere.
    assert other["t"] == {"fd_digits": pytest.approx(1.0 / (0.5 / math.sqrt(3)))}


def test_the_table_of_ablations_is_the_committed_one():
    result = json.loads((ROOT / ablations.RESULT).read_text())
    table = ablations.markdown(result)
    assert table in (ROOT / "docs/results.md").read_text()
    assert ablations.markdown({"variants": ablations.summary(result["rows"])}) == table


def test_peers_draw_until_time_is_up_or_there_are_enough(monkeypatch):
    counts, clock = [], [0.0]
    monkeypatch.setattr(peers, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def draw(count: int) -> torch.Tensor:
        counts.append(count)
        clock[0] += 0.5 * count
        return torch.zeros(count, 1, 28, 28, dtype=torch.uint8)

    images, each, batch = peers.drawn(draw, 1e6)
    assert batch == peers.LARGEST_BATCH and each == 0.5
    assert len(images) == sum(counts) == peers.MOST
    assert max(counts) == peers.LARGEST_BATCH and counts[:3] == [8, 16, 32]
    counts.clear()
    images, each, batch = peers.drawn(draw, 3.0)
    assert counts == [8] and len(images) == batch == 8 and each == 0.5


def test_the_margin_that_peers_get_is_cut_off_again():
    pixels = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    images = peers.padded(peers.dataset.Dataset("noise", "0" * 12, pixels, None, pixels, None))
    assert images.shape == (3, 1, 32, 32) and images[:, :, :2].eq(-1).all()
    assert torch.equal(peers.cut(images), pixels)


def test_the_picture_of_peers_has_a_line_for_each(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "PICTURE", tmp_path / "peers.png")
    row = {"peer": "ours", "minutes": 5.0, "sampler": "ddim, 50 evaluations"}
    heights = []
    for count in (1, 3):
        peers.picture([row] * count, [torch.full((8, 28, 28), 255).tolist()] * count)
        heights.append(Image.open(tmp_path / "peers.png").height)
    assert heights[1] > 2 * heights[0]


def test_the_exponent_of_time_is_that_of_the_two_archives():
    def row(count: int, seconds: float) -> dict:
        return {
            "count": count,
            "stages": {key: {"seconds": seconds, "memory_mib": 1500} for key in scale.NAMES},
        }

    table = scale.markdown({"rows": [row(20_000, 3.0), row(200_000, 300.0)]})
    assert "| `unpack` | 3 s | 5 min | 1,500 MiB | 1,500 MiB | 2.0 |" in table


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_own_memory_counts_what_a_process_fills_and_not_what_it_maps(tmp_path):
    (tmp_path / "file").write_bytes(bytes(2**26))
    code = """
import mmap
input()
with open("file", "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
assert not any(mapped[i] for i in range(0, len(mapped), 4096))
input("mapped\\n")
filled = b"1" * 2**26
input("filled\\n")
"""
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    sizes = []
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as child:
        for _ in range(2):
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
            sizes.append(scale.own_memory(psutil.Process(child.pid)))
        child.kill()
    assert sizes[0] < 2**25 < 2**26 < sizes[1]


def test_the_tables_of_settings_are_the_committed_ones():
    page = (ROOT / "docs/results.md").read_text()
    for benchmark in (schedules, formulations, minutes, sampling, gpu, processors, replicas):
        assert benchmark.markdown(json.loads((ROOT / benchmark.RESULT).read_text())) in page
    assert schedules.full_markdown(json.loads((ROOT / schedules.RESULT).read_text())) in page
