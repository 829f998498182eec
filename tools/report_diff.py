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
from collections.abc import Callable
from pathlib import Path

from src import provenance
from src.common import yaml12
from src.common.errors import UserError
from src.common.files import replacing
from src.show.commits import Commit, flat, git
from src.show.page import MEASURES, floors

FOLDER = Path("report_diff")
# For each file of metrics, the key of the number of real images behind its floors.
FLOOR_COUNTS = {"fid": "fd_digits_floor_heldout_images", "quality": "images_floor_heldout"}
PICTURES = ("samples_by_class", "fidelity_by_noise_level", "quality_over_steps")


def parameters(old: Commit) -> list[str]:
    """A table of the parameters that differ."""
    before = flat(old.parameters)
    after = flat(_read("params.yaml", yaml12.load))
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
    files = Path("metrics").glob("*.json")
    present = {path.stem: _read(str(path), _object) for path in files}
    earlier = _metrics_of(old)
    for name, kind in MEASURES.items():
        file, _, key = name.partition(".")
        heldout, train = floors(name, present)
        floor = train if heldout is None else heldout
        before = earlier.get(file, {}).get(key)
        now = present.get(file, {}).get(key)
        if before is None and now is None:
            continue
        cells = [f"`{name}`", kind.what, kind.better, *map(kind.shown, (before, now, floor))]
        lines.append(f"| {' | '.join(cells)} |")
    about = (
        "The metrics are those of the files. `dvc status` tells whether parameters changed since."
    )
    return [*lines, "", about, "", *_data_sets(earlier, present), *_counts(earlier, present)]


def _data_sets(before: dict[str, dict], now: dict[str, dict]) -> list[str]:
    """A sentence if the metrics are of several data sets."""
    names: dict[str, str] = {}  # by fingerprint
    for when, found in (("before", before), ("now", now)):
        for file, values in sorted(found.items()):
            if fingerprint := values.get("dataset_fingerprint"):
                place = f"{values.get('dataset')} ({when}, metrics/{file}.json)"
                names.setdefault(str(fingerprint), place)
    if len(names) < 2:
        return []
    return [f"The metrics are of several data sets: {', '.join(names.values())}.", ""]


def _counts(before: dict[str, dict], now: dict[str, dict]) -> list[str]:
    """Sentences about scores that are of unequal numbers of images."""
    lines = []
    for file, floor in FLOOR_COUNTS.items():
        old, new = (found.get(file, {}).get("images") for found in (before, now))
        real = now.get(file, {}).get(floor)
        if isinstance(old, int) and isinstance(new, int) and old != new:
            lines.append(
                f"`{file}`: before, the scores are of {old:,} generated images, and now of "
                f"{new:,}. Fewer images have higher distances and a lower coverage."
            )
        if isinstance(new, int) and isinstance(real, int):
            sentence = provenance.unequal(new, real)
            lines += [f"`{file}`: {sentence}."] if sentence else []
    return [part for line in lines for part in (line, "")]


def _object(text: str) -> dict:
    """A JSON object. Raises ValueError for any other text."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    return values


def _metrics_of(old: Commit) -> dict[str, dict]:
    """The files in metrics/ of a commit, by their names without .json. Raises UserError."""
    found = {}
    for path in old.blobs:
        folder, _, name = path.rpartition("/")
        if folder == "metrics" and name.endswith(".json"):
            try:
                found[name.removesuffix(".json")] = _object(old.read(path))
            except ValueError as error:
                raise UserError(
                    f"{path} of commit {old.name[:12]}: cannot be read ({error}); compare with "
                    "another commit, as in make report-diff REV=HEAD~2"
                ) from None
    return found


def _read(path: str, parse: Callable[[str], dict]) -> dict:
    """The content of a file of the working tree. Raises UserError."""
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = f"`git checkout -- {path}` restores it"
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from None


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
    text = [f"# Changes since {revision} ({commit[:12]})", "", "## Parameters", ""]
    text += [*parameters(old), "## Metrics", "", *metrics(old)]
    shutil.rmtree(FOLDER, ignore_errors=True)  # after all that may fail
    FOLDER.mkdir()
    text += ["## Figures", "", *pictures(old)]
    with replacing(FOLDER / "index.md") as temporary:
        temporary.write_text("\n".join(text), encoding="utf-8")
    return FOLDER / "index.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rev", default="HEAD")
    try:
        print(write(parser.parse_args().rev))
    except (UserError, OSError) as error:
        print(f"report-diff: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
