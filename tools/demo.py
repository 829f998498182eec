"""`python -m tools.demo [--server.port N ...]`: start the demo's server.

It imports the page's modules at the start, so that the first visitor need not wait for them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit import config
from streamlit.starlette import App
from streamlit.web import cli

# Imported here once, for all sessions.
from src import model_file, params  # noqa: F401
from src.demo import request, trajectory  # noqa: F401
from src.show import animation  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
THIS_MACHINE = {"localhost", "127.0.0.1", "::1"}
REFUSED = """This server answers for localhost alone.
To serve it under another name: python -m tools.demo --server.corsAllowedOrigins http://NAME
"""


class ThisMachineOnly:
    """ASGI middleware that refuses requests for other hosts and from other sites.

    Streamlit accepts any Host. A site could then point its own name at this machine (DNS
    rebinding) and use the demo from the visitor's browser.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or allowed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse(REFUSED, 403)(scope, receive, send)


def allowed(scope: Scope) -> bool:
    """Whether Host and Origin name this machine or an address that server.corsAllowedOrigins has.

    The server's statistics of itself are for nobody.
    """
    headers = Headers(scope=scope)
    addresses = [f"//{headers.get('host', '')}", headers.get("origin", "//localhost")]
    others = {
        urlsplit(origin).hostname for origin in config.get_option("server.corsAllowedOrigins")
    }
    try:
        names = {urlsplit(address).hostname for address in addresses}
    except ValueError:  # such as half an IPv6 address
        return False
    return names <= THIS_MACHINE | others and scope["path"] != "/_stcore/metrics"


app = App(ROOT / "app.py", middleware=[Middleware(ThisMachineOnly)])


def main() -> None:
    sys.argv = ["streamlit", "run", __file__, *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
