"""Archive in data/ to one file of arrays, with a held-out split."""

from __future__ import annotations

import sys

from src import archives, params
from src.common import dataset, reports


def main() -> None:
    p = params.load()
    data = archives.read("data", heldout=p.unpack.heldout, seed=p.unpack.seed, scratch="arrays")
    if data.fingerprint not in archives.KNOWN:
        print(f"data/ holds a data set that this project does not know: {data.name!r}, {data.fingerprint}", file=sys.stderr)

    dataset.save(data, "arrays/dataset.safetensors")
    counts, heldout_counts = data.class_counts(), data.class_counts(heldout=True)
    reports.write_json(
        "metrics/data.json",
        data.describe() | {
            "image_size": data.image_size, "channels": data.channels, "classes": data.classes,
            "train_images": len(data.images), "heldout_images": len(data.heldout_images),
            "train_per_class": dict(enumerate(counts)), "heldout_per_class": dict(enumerate(heldout_counts)),
        },
    )
    rows = [{"class": c, "train": a, "heldout": b} for c, (a, b) in enumerate(zip(counts, heldout_counts, strict=True))]
    unlabelled = [{"class": "none", "train": len(data.images), "heldout": len(data.heldout_images)}]
    reports.write_csv("plots/class_counts.csv", rows or unlabelled)
