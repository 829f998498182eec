"""`python -m tools.experiments`: print what each experiment changed, and its results.

    python -m tools.experiments [--metrics FILE.KEY ...] [--csv FILE] [--into FILE]

--into writes the table between two marks in a Markdown file instead.
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
        "--metrics",
        nargs="+",
        default=METRICS,
        metavar="FILE.KEY",
        help="columns, such as fid.accuracy",
    )
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    parser.add_argument(
        "--into", type=Path, help=f"Markdown file with {MARKS[0].strip()} and {MARKS[1]}"
    )
    arguments = parser.parse_args()
    metrics = tuple(arguments.metrics)
    if metrics != METRICS and (missing := unknown(metrics)):
        names = ", ".join(missing)
        print(
            f"--metrics: the last commit has no {names}. `dvc metrics show` lists all metrics",
            file=sys.stderr,
        )
        return 1
    frame = table(metrics)
    if frame.empty:
        print(
            "this repository has no experiments. Make one with `dvc exp run -S schedule=linear`",
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
    """Write `text` between the marks in a Markdown file. Returns the exit code."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    before, mark, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        print(
            f"{path}: expected the two marks {MARKS[0].strip()} and {MARKS[1]}. "
            f"Put them where the table belongs",
            file=sys.stderr,
        )
        return 1
    with replacing(path) as temporary:
        temporary.write_text(before + mark + text + end + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
