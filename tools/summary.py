"""`python -m tools.summary`: the metrics as a table, how long each stage took, and where the pictures lie."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stages.__main__ import LOG, NAMES

PICTURES = {
    "figures": "for the report", "generated_images": "the samples", "training_samples": "on the way",
    "memorisation": "generated beside the nearest training images",
}


def main() -> None:
    console = Console(highlight=False)
    console.print(metrics())
    console.print(timings())
    if pixels("quality") != pixels("fid"):
        console.print("quality and spread are of other images than fid: dvc repro, with the data, brings them up to date")
    there = [f"{folder}/ ({what})" for folder, what in PICTURES.items() if Path(folder).is_dir()]
    console.print(f"Pictures: {', '.join(there)}")
    experiment = "-S schedule=linear" if Path("data").is_dir() else "--allow-missing -S sample.steps=30 figures"
    console.print(f"Next: dvc exp run {experiment}, then dvc metrics diff; README.md has more")


def pixels(stage: str) -> str | None:
    """The fingerprint of the images that a file of metrics is of."""
    path = Path(f"metrics/{stage}.json")
    return json.loads(path.read_text()).get("pixels") if path.exists() else None


def metrics() -> Table:
    """Every leaf of metrics/*.json but the counts per class, which `dvc metrics show` has."""
    table = Table(title="Metrics", title_justify="left")
    table.add_column("file")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for path in sorted(Path("metrics").glob("*.json")):
        for key, value in json.loads(path.read_text()).items():
            if not isinstance(value, dict):
                shown = f"{value:.4f}" if isinstance(value, float) else "not measured" if value is None else str(value)
                table.add_row(path.stem, key, shown)
        table.add_section()
    return table


def timings() -> Table:
    table = Table(title="Stages", title_justify="left")
    for column in ("stage", "time", "peak memory"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    ran = {}
    for line in LOG.read_text().splitlines() if LOG.exists() else []:
        with contextlib.suppress(ValueError):  # a line that was cut short
            ran |= {(record := json.loads(line))["stage"]: record}
    for stage in NAMES:
        record = ran.get(stage)
        if record:
            minutes, seconds = divmod(round(record["seconds"]), 60)
            table.add_row(stage, f"{minutes} min {seconds:02d} s", f"{record['peak_mib']} MiB")
        else:
            table.add_row(stage, "not run", "")
    minutes, seconds = divmod(round(sum(record["seconds"] for record in ran.values())), 60)
    table.add_section()
    table.add_row("all", f"{minutes} min {seconds:02d} s", "")
    return table


if __name__ == "__main__":
    sys.exit(main())
