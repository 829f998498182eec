"""`python -m tools.experiments`: what each experiment changed, and its results.

    python -m tools.experiments [--metrics FILE.KEY ...] [--csv FILE] [--into FILE]

--into puts the table between two marks in a Markdown file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.common.files import replacing
from src.show.experiments import METRICS, markdown, table, unknown

MARKS = "<!-- experiments -->\n", "<!-- end of experiments -->"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--metrics", nargs="+", default=METRICS, metavar="FILE.KEY", help="such as fid.accuracy"
    )
    parser.add_argument("--csv", type=Path, help="write the table to this file, too")
    parser.add_argument(
        "--into", type=Path, help=f"Markdown file with {MARKS[0].strip()} and {MARKS[1]}"
    )
    arguments = parser.parse_args()
    metrics = tuple(arguments.metrics)
    if metrics != METRICS and (missing := unknown(metrics)):
        names = ", ".join(missing)
        print(
            f"--metrics: the last commit has no {names}; `dvc metrics show` names all",
            file=sys.stderr,
        )
        return 1
    frame = table(metrics)
    if frame.empty:
        print(
            "no experiments in this repository; `dvc exp run -S schedule=linear` makes one",
            file=sys.stderr,
        )
        return 1
    if arguments.csv:
        frame.to_csv(arguments.csv, index=False, float_format="%.6g")
    if arguments.into:
        return insert(markdown(frame, metrics), arguments.into)
    print(markdown(frame, metrics), end="")
    return 0


def insert(text: str, path: Path) -> int:
    """Put `text` between the marks in a Markdown file. Returns the exit code."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    before, mark, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        print(f"{path}: expected the two marks {MARKS[0].strip()} and {MARKS[1]}", file=sys.stderr)
        return 1
    with replacing(path) as temporary:
        temporary.write_text(before + mark + text + end + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
