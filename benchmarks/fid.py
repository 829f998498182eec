"""Compare our `fid` with pytorch-fid, clean-fid and torch-fidelity.

    python -m benchmarks.fid [--images 2000] [--rounds 3] [folder of RGB PNGs]

All tools get the same images (default: generated_images), reference and weights. Each round runs
each tool in a new process and times the whole process. Tools take turns, so that a slow phase of
the machine affects all. Peers use their own defaults for batch size and worker processes. If
TORCH_HOME lacks the real weights, a seeded stand-in replaces them. The values then mean nothing,
but must agree. torch-fidelity resizes as TensorFlow 1 did, so its value differs by design. Writes
benchmarks/results/fid_IMAGES.json after each round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from src import images
from src.common import reports, torchvision_remedy  # noqa: F401 (the peers import torchvision)
from src.measure import frechet, inception
from src.measure.extractors import INCEPTION, LoadedExtractor
from tools.machine import describe
from tools.stand_in import write_weights

RESULTS = Path("benchmarks/results")
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pytorch-fid", "clean-fid", "torch-fidelity")


def ours(folder: str, count: int, reference: frechet.Moments) -> float:
    """The same computation as in stages/fid.py."""
    deep, sums, pixels = LoadedExtractor(INCEPTION), frechet.MomentSums(), images.PixelDigest()
    for batch in images.stream(folder, count):
        pixels.add(batch)
        deep.add(sums, batch)
    return frechet.distance(sums.moments(), reference)


def pytorch_fid(folder: str, count: int, reference: frechet.Moments) -> float:
    from pytorch_fid import fid_score

    workers = min(len(os.sched_getaffinity(0)), 8)  # the default of its command
    model = fid_score.InceptionV3([fid_score.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    mu, sigma = fid_score.compute_statistics_of_path(folder, model, 50, 2048, "cpu", workers)
    return float(fid_score.calculate_frechet_distance(mu, sigma, reference.mu, reference.sigma))


def clean_fid(folder: str, count: int, reference: frechet.Moments) -> float:
    import numpy as np
    from cleanfid import features, fid

    cpu = torch.device("cpu")
    model = features.build_feature_extractor("legacy_pytorch", cpu, use_dataparallel=False)
    values = fid.get_folder_features(
        folder, model, num_workers=12, batch_size=32, device=cpu, mode="legacy_pytorch"
    )
    mu, sigma = values.mean(axis=0), np.cov(values, rowvar=False)
    return float(fid.frechet_distance(mu, sigma, reference.mu, reference.sigma))


def torch_fidelity(folder: str, count: int, reference: frechet.Moments) -> float:
    from torch_fidelity import metric_fid, utils

    settings = {
        "cuda": False,
        "feature_extractor_weights_path": str(inception.weights_path()),
        "input1": folder,
        "cache": False,
    }
    extractor = utils.create_feature_extractor("inception-v3-compat", ["2048"], **settings)
    actual = metric_fid.fid_input_id_to_statistics(1, extractor, "2048", **settings)
    real = {"mu": reference.mu.astype(actual["mu"].dtype), "sigma": reference.sigma}
    distances = metric_fid.fid_statistics_to_metric(actual, real, False)
    return distances["frechet_inception_distance"]


TOOLS = {
    "ours": ours,
    "pytorch-fid": pytorch_fid,
    "clean-fid": clean_fid,
    "torch-fidelity": torch_fidelity,
}


def measure(tool: str, folder: Path, count: int, reference: Path) -> dict:
    """Value, seconds and peak memory (GB, of the largest process) of `tool` in its own process."""
    started = time.perf_counter()
    options = ["--worker", tool, "--images", str(count), "--reference", str(reference)]
    worker = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fid", *options, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    printed = worker.stdout.read()
    _, status, usage = os.wait4(worker.pid, 0)
    if status:
        command = f"python -m benchmarks.fid --worker {tool} ..."
        raise SystemExit(f"{tool}: failed. To see its error, run it alone: {command}")
    return {
        "value": float(printed.split("VALUE")[1]),
        "seconds": time.perf_counter() - started,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


def link_images(folder: Path, count: int, target: Path) -> None:
    """Fill the new folder `target` with links to the first `count` images of `folder`."""
    target.mkdir()
    for number in range(1, count + 1):
        name = images.file_name(number)
        (target / name).symlink_to((folder / name).resolve())


def compare(folder: Path, count: int, rounds: int, scratch: Path) -> None:
    """Time all tools on the first `count` images of `folder`. Write the result after each round."""
    real = inception.weights_path().exists()
    if not real:
        write_weights(scratch / "torch")
        os.environ["TORCH_HOME"] = str(scratch / "torch")
        inception.SHA256 = inception.weights_sha256()
    link_images(folder, count, scratch / "all")
    link_images(folder, count // 4, scratch / "quarter")
    quarter = images.read(scratch / "quarter", count // 4)
    reference = scratch / "reference.npz"
    # Any images can serve as the reference.
    frechet.save(LoadedExtractor(INCEPTION).moments(255 - quarter), reference)
    peak = measure("ours", scratch / "quarter", count // 4, reference)["peak_gb"]
    about = describe(*PACKAGES) | {
        "images": count,
        "weights": "real" if real else "stand-in",
        "ours_peak_gb_with_a_quarter_of_the_images": peak,
    }
    runs: dict[str, list[dict]] = {tool: [] for tool in TOOLS}
    order = list(TOOLS)
    for done in range(1, rounds + 1):
        order = order[1:] + order[:1]
        for tool in order:
            runs[tool].append(measure(tool, scratch / "all", count, reference))
            print(f"round {done}: {tool:15} {runs[tool][-1]}", flush=True)
        write(about | {"rounds": done}, runs)


def write(about: dict, runs: dict[str, list[dict]]) -> None:
    """Write the medians so far, so that an interrupted benchmark keeps its complete rounds."""
    rows = {
        tool: {
            "value": results[0]["value"],
            "seconds": statistics.median(result["seconds"] for result in results),
            "peak_gb": statistics.median(result["peak_gb"] for result in results),
        }
        for tool, results in runs.items()
    }
    fastest = min(row["seconds"] for tool, row in rows.items() if tool != "ours")
    ratio = fastest / rows["ours"]["seconds"]
    result = about | {"tools": rows, "fastest_peer_over_ours": ratio}
    reports.write_json(RESULTS / f"fid_{about['images']}.json", result)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default="generated_images")
    parser.add_argument("--images", type=int, default=2000, help="how many images of the folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--reference", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        inception.SHA256 = inception.weights_sha256()
        reference = frechet.load(arguments.reference, inception.DIMS)
        value = TOOLS[arguments.worker](arguments.folder, arguments.images, reference)
        print("VALUE", value)
        return
    folder = Path(arguments.folder)
    if not (folder / images.file_name(arguments.images)).exists():
        raise SystemExit(
            f"{arguments.folder}: expected at least {arguments.images:,} images. "
            f"Draw 10,000 with `make run` or `make samples`"
        )
    with tempfile.TemporaryDirectory() as scratch:
        compare(folder, arguments.images, arguments.rounds, Path(scratch))
    print((RESULTS / f"fid_{arguments.images}.json").read_text())


if __name__ == "__main__":
    main()
