"""`python -m tools.preset NAME`: write the values of presets/NAME.yaml into params.yaml.

Keeps all other values and the comments. `git checkout params.yaml` goes back.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from ruamel.yaml import YAML

from src import params
from src.common.errors import UserError
from src.common.files import replacing

FOLDER, PARAMS = Path("presets"), Path("params.yaml")


def apply(name: str) -> None:
    """Write the preset into params.yaml. Raises UserError if it is unknown or does not fit."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"PRESET: expected one of {names}, got {name!r}")
    reader = YAML()
    reader.preserve_quotes = True
    reader.width = 10_000
    reader.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    values, changes = reader.load(PARAMS.read_text()), reader.load(path.read_text())
    merge(values, changes)
    text = io.StringIO()
    reader.dump(values, text)
    with replacing(PARAMS) as temporary:
        temporary.write_text(text.getvalue())
        params.load(temporary)


def merge(values: dict, changes: dict) -> None:
    """Set the leaves of `changes` in `values`."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = value


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        apply(name)
    except UserError as error:
        sys.exit(f"preset: {error}")
    print(
        f"params.yaml has the values of {FOLDER / name}.yaml; `git checkout params.yaml` goes back"
    )


if __name__ == "__main__":
    main()
