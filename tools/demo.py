"""`python -m tools.demo [--server.port N ...]`: the demo's server; what its page imports is loaded before a visitor comes."""

from __future__ import annotations

import sys

from streamlit.web import cli

from src import drawing, params, pictures, request, trajectory  # noqa: F401 (loaded here once, for all sessions)


def main() -> None:
    sys.argv = ["streamlit", "run", "app.py", *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
