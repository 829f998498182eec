"""Our `fid` against pytorch-fid, clean-fid and torch-fidelity: the same images, reference and weights, one after another.

    python -m benchmarks.fid [--images 2000] [--rounds 3] [folder of RGB PNGs, such as generated_images]

Every round starts each tool anew in a process of its own and times the whole of it; tools take turns, so that a slow
spell of the machine meets all. Peers run with their own defaults for batch size and worker processes. Without the real
weights in TORCH_HOME a seeded stand-in takes their place: the values then mean nothing, but must agree. torch-fidelity
resizes as TensorFlow 1 did, so its value differs by design. Writes benchmarks/results/fid_IMAGES.json after each round.
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

from benchmarks.machine import describe
from benchmarks.stand_in import write_weights
from src import frechet, images, inception, torchvision_remedy  # noqa: F401 (the peers import torchvision)
from src.common import reports

RESULTS = Path("benchmarks/results")
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pytorch-fid", "clean-fid", "torch-fidelity")


def ours(folder: str, count: int, reference: frechet.Moments) -> float:
    """What stages/fid.py does for `fid`."""
    network, sums, pixels = inception.load(), frechet.MomentSums(), images.PixelDigest()
    for batch in images.stream(folder, count):
        pixels.add(batch)
        inception.add(sums, network, batch, batch_size=50)
    return frechet.distance(sums.moments(), reference)


def pytorch_fid(folder: str, count: int, reference: frechet.Moments) -> float:
    from pytorch_fid import fid_score

    workers = min(len(os.sched_getaffinity(0)), 8)  # as its command has it
    model = fid_score.InceptionV3([fid_score.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    mu, sigma = fid_score.compute_statistics_of_path(folder, model, 50, 2048, "cpu", workers)
    return float(fid_score.calculate_frechet_distance(mu, sigma, reference.mu, reference.sigma))


def clean_fid(folder: str, count: int, reference: frechet.Moments) -> float:
    import numpy as np
    from cleanfid import features, fid

    model = features.build_feature_extractor("legacy_pytorch", torch.device("cpu"), use_dataparallel=False)
    found = fid.get_folder_features(
        folder, model, num_workers=12, batch_size=32, device=torch.device("cpu"), mode="legacy_pytorch"
    )
    return float(fid.frechet_distance(found.mean(axis=0), np.cov(found, rowvar=False), reference.mu, reference.sigma))


def torch_fidelity(folder: str, count: int, reference: frechet.Moments) -> float:
    from torch_fidelity import metric_fid, utils

    settings = {
        "cuda": False, "feature_extractor_weights_path": str(inception.weights_path()), "input1": folder, "cache": False
    }
    extractor = utils.create_feature_extractor("inception-v3-compat", ["2048"], **settings)
    found = metric_fid.fid_input_id_to_statistics(1, extractor, "2048", **settings)
    reference = {"mu": reference.mu.astype(found["mu"].dtype), "sigma": reference.sigma}
    return metric_fid.fid_statistics_to_metric(found, reference, False)["frechet_inception_distance"]


TOOLS = {"ours": ours, "pytorch-fid": pytorch_fid, "clean-fid": clean_fid, "torch-fidelity": torch_fidelity}


def measure(tool: str, folder: Path, count: int, reference: Path) -> dict:
    """Value, seconds and peak memory (GB, of the largest process) of one run of `tool` in a process of its own."""
    started = time.perf_counter()
    worker = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fid", "--worker", tool, "--images", str(count), "--reference", str(reference),
         str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    printed = worker.stdout.read()
    _, status, usage = os.wait4(worker.pid, 0)
    if status:
        raise SystemExit(f"{tool} failed; run it alone: python -m benchmarks.fid --worker {tool} ...")
    seconds = time.perf_counter() - started
    return {"value": float(printed.split("VALUE")[1]), "seconds": seconds, "peak_gb": usage.ru_maxrss * 1024 / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="generated_images")
    parser.add_argument("--images", type=int, default=2000, help="the first so many of the folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--reference", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        inception.SHA256_PREFIX = inception.weights_hash()[:8]
        value = TOOLS[asked.worker](asked.folder, asked.images, frechet.load(asked.reference, inception.DIMS))
        print("VALUE", value)
        return

    if not (Path(asked.folder) / images.file_name(asked.images)).exists():
        raise SystemExit(f"{asked.folder} has no {asked.images:,} images; make run or make samples draws 10,000")
    with tempfile.TemporaryDirectory() as scratch:
        real = inception.weights_path().exists()
        if not real:
            write_weights(Path(scratch) / "torch")
            os.environ["TORCH_HOME"] = str(Path(scratch) / "torch")
            inception.SHA256_PREFIX = inception.weights_hash()[:8]
        counts = {asked.images: Path(scratch) / "all", asked.images // 4: Path(scratch) / "quarter"}
        for count, folder in counts.items():
            folder.mkdir()
            for number in range(1, count + 1):
                (folder / images.file_name(number)).symlink_to((Path(asked.folder) / images.file_name(number)).resolve())
        some = images.read(counts[asked.images // 4], asked.images // 4)
        reference = Path(scratch) / "reference.npz"
        frechet.save(inception.moments(inception.load(), 255 - some, 50), reference)  # of other images: any would do

        quarter = measure("ours", counts[asked.images // 4], asked.images // 4, reference)
        about = describe(*PACKAGES) | {
            "images": asked.images, "weights": "real" if real else "stand-in",
            "ours_peak_gb_with_a_quarter_of_the_images": quarter["peak_gb"],
        }
        runs, order = {tool: [] for tool in TOOLS}, list(TOOLS)
        for done in range(1, asked.rounds + 1):
            order = order[1:] + order[:1]
            for tool in order:
                runs[tool].append(measure(tool, counts[asked.images], asked.images, reference))
                print(f"round {done}: {tool:15} {runs[tool][-1]}", flush=True)
            write(about | {"rounds": done}, runs)
    print((RESULTS / f"fid_{asked.images}.json").read_text())


def write(about: dict, runs: dict[str, list[dict]]) -> None:
    """The medians so far, so that a benchmark that is cut short leaves its whole rounds."""
    rows = {
        tool: {
            "value": found[0]["value"], "seconds": statistics.median(run["seconds"] for run in found),
            "peak_gb": statistics.median(run["peak_gb"] for run in found),
        }
        for tool, found in runs.items()
    }
    fastest = min(row["seconds"] for tool, row in rows.items() if tool != "ours")
    result = about | {"tools": rows, "fastest_peer_over_ours": fastest / rows["ours"]["seconds"]}
    reports.write_json(RESULTS / f"fid_{about['images']}.json", result)


if __name__ == "__main__":
    main()
