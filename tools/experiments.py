"""`python -m tools.experiments [--csv FILE]`: print what experiments changed, and their results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.show.experiments import METRICS, markdown, table, unknown


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
    print(markdown(frame, metrics), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
