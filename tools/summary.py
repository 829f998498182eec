"""`python -m tools.summary`: print metrics, times of the stages, and folders of pictures."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stages.__main__ import LOG, NAMES

PICTURES = {
    "figures": "for the report",
    "generated_images": "generated images",
    "training_samples": "samples during training",
    "memorisation": "generated images next to their nearest training images",
}


def main() -> None:
    console = Console(highlight=False)
    console.print(metrics())
    console.print(timings())
    if pixels("quality") != pixels("fid"):
        console.print(
            "quality and spread were measured on other images than fid. "
            "Get the data, then update them with `dvc repro`"
        )
    folders = [f"{folder}/ ({what})" for folder, what in PICTURES.items() if Path(folder).is_dir()]
    console.print(f"Pictures: {', '.join(folders)}")
    experiment = "--allow-missing -S sample.steps=30 figures"
    if Path("data").is_dir():
        experiment = "-S schedule=linear"
    console.print(f"Next: dvc exp run {experiment}, then dvc metrics diff; README.md has more")


def pixels(stage: str) -> str | None:
    """The digest of the images that a stage measured, if its metrics file has one."""
    path = Path(f"metrics/{stage}.json")
    return json.loads(path.read_text()).get("pixels") if path.exists() else None


def metrics() -> Table:
    """All values of metrics/*.json except the counts per class, which `dvc metrics show` has."""
    table = Table(title="Metrics", title_justify="left")
    table.add_column("file")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for path in sorted(Path("metrics").glob("*.json")):
        for key, value in json.loads(path.read_text()).items():
            if not isinstance(value, dict):
                table.add_row(path.stem, key, shown(value))
        table.add_section()
    return table


def shown(value: object) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def timings() -> Table:
    """Time and peak memory of each stage in its last run."""
    table = Table(title="Stages", title_justify="left")
    for column in ("stage", "time", "peak memory"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    records = {}
    for line in LOG.read_text().splitlines() if LOG.exists() else []:
        with contextlib.suppress(ValueError):  # a line that was cut short
            record = json.loads(line)
            records[record["stage"]] = record
    for stage in NAMES:
        record = records.get(stage)
        if record:
            table.add_row(stage, minutes(record["seconds"]), f"{record['peak_mib']} MiB")
        else:
            table.add_row(stage, "not run", "")
    table.add_section()
    table.add_row("all", minutes(sum(record["seconds"] for record in records.values())), "")
    return table


def minutes(seconds: float) -> str:
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest:02d} s"


if __name__ == "__main__":
    main()
