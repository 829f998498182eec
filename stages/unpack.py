"""Read the archive in data/ and write one file of arrays: training and held-out images."""

from __future__ import annotations

import sys

from src import archives, params
from src.common import dataset, reports
from src.common.errors import printable


def main() -> None:
    p = params.load()
    data, notes = archives.read("data", p.unpack, scratch="arrays")
    for note in notes:
        print(f"unpack: {printable(note)}", file=sys.stderr)
    dataset.save(data, "arrays/dataset.safetensors")

    counts, heldout_counts = data.class_counts(), data.class_counts(heldout=True)
    metrics = data.describe() | {
        "image_size": data.image_size,
        "channels": data.channels,
        "classes": data.classes,
        "train_images": len(data.images),
        "heldout_images": len(data.heldout_images),
        "train_per_class": dict(zip(data.names, counts, strict=True)),
        "heldout_per_class": dict(zip(data.names, heldout_counts, strict=True)),
    }
    reports.write_json("metrics/data.json", metrics)
    rows: list[dict] = [
        {"class": name, "train": train, "heldout": heldout}
        for name, train, heldout in zip(data.names, counts, heldout_counts, strict=True)
    ]
    if not rows:
        total, heldout = len(data.images), len(data.heldout_images)
        rows = [{"class": "none", "train": total, "heldout": heldout}]
    reports.write_csv("plots/class_counts.csv", rows)
