"""`python -m tools.demo [--server.port N ...]`: the demo's server.

It loads what the page imports before a visitor comes.
"""

from __future__ import annotations

import sys

from streamlit.web import cli

# Loaded here once, for all sessions.
from src import model_file, params  # noqa: F401
from src.demo import request, trajectory  # noqa: F401
from src.show import animation  # noqa: F401


def main() -> None:
    sys.argv = ["streamlit", "run", "app.py", *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
