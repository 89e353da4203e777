"""What every request must satisfy before the page's application sees it, and the headers of every response."""

import ipaddress
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_REQUESTS = 4  # to compute something, at once: one is computed, the others wait

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Passes on the requests of the page itself, and a few at a time.

    A page elsewhere can make a browser send requests here. If it is open under its own name, which its server then
    resolves to this machine (DNS rebinding), the Host header has that name. If not, the Origin header has it.

    Args:
      app: the application.
      names: the names under which this server is known. Addresses are always accepted: they cannot be rebound.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)
        self._computing = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if refusal := self._refusal(scope):
            await refusal(scope, receive, send_with_headers)
            return
        computes = scope["method"] == "POST"
        self._computing += computes
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._computing -= computes

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_own(host):
            return PlainTextResponse("Host: expected: the address that `python -m pipeline draw` has printed", 400)
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            return PlainTextResponse("Origin: expected: the page of this server", 403)
        if scope["method"] == "POST" and self._computing >= MAX_REQUESTS:
            message = f"{MAX_REQUESTS} requests are being computed; try again in a moment"
            return PlainTextResponse(message, 503, {"retry-after": "1"})
        return None

    def _is_own(self, host: str) -> bool:
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
        if port and not (port.isascii() and port.isdigit()):
            return False
        if name.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
        except ValueError:
            return False
        return True


def names_of(host: str) -> set[str]:
    """The names of a server that listens on this host name or address."""
    return {"localhost", host} | (set() if is_loopback(host) else {socket.gethostname()})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on this host name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
