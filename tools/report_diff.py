"""`make report-diff REV=main`: what changed since a commit, as Markdown with pictures.

It compares the files in the working tree with those of the commit: parameters, metrics with their
floors, and figures side by side. Writes report_diff/index.md and its pictures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from src.common import yaml12
from src.common.errors import UserError
from src.common.files import replacing
from src.show.commits import Commit, flat, git
from src.show.page import MEASURES, OTHER_FLOORS

FOLDER = Path("report_diff")
PICTURES = ("samples_by_class", "fidelity_by_noise_level", "quality_over_steps")


def parameters(old: Commit) -> list[str]:
    """A table of the parameters that differ."""
    before = flat(old.parameters)
    after = flat(yaml12.load(Path("params.yaml").read_text(encoding="utf-8")))
    changed = [key for key in {**before, **after} if before.get(key, ...) != after.get(key, ...)]
    if not changed:
        return ["No parameter differs.", ""]
    lines = ["| parameter | before | now |", "| --- | --- | --- |"]
    for key in changed:
        cells = (f"`{values[key]}`" if key in values else "" for values in (before, after))
        lines.append(f"| `{key}` | {' | '.join(cells)} |")
    return [*lines, ""]


def metrics(old: Commit) -> list[str]:
    """A table of all measures, before and now, with the floor of now."""
    lines = ["| metric | what | better | before | now | real images |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, kind in MEASURES.items():
        file, _, key = name.partition(".")
        values = _values(file)
        floor = values.get(f"{key}_floor_heldout", values.get(f"{key}_floor_train"))
        if name in OTHER_FLOORS:
            other, _, floor_key = OTHER_FLOORS[name].partition(".")
            floor = _values(other).get(floor_key)
        before = json.loads(old.read(f"metrics/{file}.json") or "{}").get(key)
        now = values.get(key)
        if before is None and now is None:
            continue
        cells = [f"`{name}`", kind.what, kind.better, *map(kind.shown, (before, now, floor))]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _values(file: str) -> dict:
    """The content of a metrics file in the working tree; {} if there is none."""
    path = Path(f"metrics/{file}.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def pictures(old: Commit) -> list[str]:
    """Each figure before and now, next to each other."""
    lines = ["| | before | now |", "| --- | --- | --- |"]
    for name in PICTURES:
        path = f"figures/{name}.png"
        cells = []
        for side in ("before", "now"):
            target = FOLDER / f"{name}_{side}.png"
            content = _figure(old if side == "before" else None, path)
            if content is not None:
                target.write_bytes(content)
            cells.append(f"![{name}, {side}]({target.name})" if content is not None else "")
        if any(cells):
            lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return [*lines, ""]


def _figure(old: Commit | None, path: str) -> bytes | None:
    """The bytes of a figure of a commit, or of the working tree; None if there is none."""
    if old is None:
        return Path(path).read_bytes() if Path(path).exists() else None
    if path not in old.blobs:
        return None
    command = ["git", "cat-file", "blob", old.blobs[path]]
    return subprocess.run(command, capture_output=True, check=True).stdout


def write(revision: str) -> Path:
    """Write the report and return its path. Raises UserError for an unknown revision."""
    commit = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
    if not commit:
        raise UserError(f"REV: {revision!r} names no commit; `git log` lists some")
    old = Commit(commit)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    text = [f"# Changes since {revision} ({commit[:12]})", "", "## Parameters", ""]
    text += [*parameters(old), "## Metrics", "", *metrics(old), "## Figures", "", *pictures(old)]
    with replacing(FOLDER / "index.md") as temporary:
        temporary.write_text("\n".join(text), encoding="utf-8")
    return FOLDER / "index.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rev", default="HEAD")
    try:
        print(write(parser.parse_args().rev))
    except UserError as error:
        print(f"report-diff: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
