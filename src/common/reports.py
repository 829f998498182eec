"""Small files for people and git: metrics as JSON, tables as CSV. Equal values give equal bytes."""

from __future__ import annotations

import json
from pathlib import Path

from .files import replacing


def write_json(path: str | Path, values: dict) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_csv(path: str | Path, rows: list[dict]) -> None:
    """Write `rows` as CSV. Floats keep six significant digits."""
    import pandas as pd  # half of the stages write no table

    with replacing(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
