"""Read the archive in data/ and write one file of arrays: training and held-out images."""

from __future__ import annotations

import sys

from src import archives, params
from src.common import dataset, reports


def main() -> None:
    p = params.load()
    data = archives.read("data", p.unpack.heldout, p.unpack.seed, scratch="arrays")
    if data.fingerprint not in archives.KNOWN:
        print(
            f"data/ holds a data set that this project does not know: {data.name!r}, "
            f"{data.fingerprint}",
            file=sys.stderr,
        )
    dataset.save(data, "arrays/dataset.safetensors")

    counts, heldout_counts = data.class_counts(), data.class_counts(heldout=True)
    metrics = data.describe() | {
        "image_size": data.image_size,
        "channels": data.channels,
        "classes": data.classes,
        "train_images": len(data.images),
        "heldout_images": len(data.heldout_images),
        "train_per_class": dict(enumerate(counts)),
        "heldout_per_class": dict(enumerate(heldout_counts)),
    }
    reports.write_json("metrics/data.json", metrics)
    rows: list[dict] = [
        {"class": number, "train": train, "heldout": heldout}
        for number, (train, heldout) in enumerate(zip(counts, heldout_counts, strict=True))
    ]
    if not rows:
        total, heldout = len(data.images), len(data.heldout_images)
        rows = [{"class": "none", "train": total, "heldout": heldout}]
    reports.write_csv("plots/class_counts.csv", rows)
