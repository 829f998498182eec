"""`python -m tools.demo [--server.port N ...]`: start the demo's server.

It imports the page's modules at the start, so that the first visitor need not wait for them.
"""

from __future__ import annotations

import sys

from streamlit.web import cli

# Imported here once, for all sessions.
from src import model_file, params  # noqa: F401
from src.demo import request, trajectory  # noqa: F401
from src.show import animation  # noqa: F401


def main() -> None:
    sys.argv = ["streamlit", "run", "app.py", *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
