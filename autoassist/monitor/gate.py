"""Who may look: methods, Host header, token; and the headers that keep a browser from doing anything else.

The page may stand beside a hostile one in the same browser. So a request must name this host, as no name that an
attacker's DNS points here does, and nothing is answered in a form that another origin could use.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocol.hosts import is_this_host

METHODS = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What a request must bring."""

    token: str = field(default="", repr=False)
    """Secret; "" where none is needed."""
    hosts: Collection[str] = ("localhost",)
    """Names that this host goes by; its addresses, as numbers, always do."""
    cookie: str = "autoassist"
    """Its name: cookies of one host are shared by all ports."""


class Gate:
    """Lets through what may look, and answers the rest."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else PlainTextResponse("", 404)
        await (self._app if refusal is None else refusal)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to whoever may not look, or must come again; None for the others."""
        if request.method not in METHODS:
            return PlainTextResponse("only GET is answered\n", 405, {"Allow": ", ".join(METHODS)})
        if not is_this_host(request.headers.get("host", ""), self._admission.hosts):
            return PlainTextResponse("no host of this name is here; --allow-host NAME adds one\n", 421)
        if not self._admission.token:
            return None
        given = parse_qs(request.url.query).get("token", [""])[0]
        if given and request.url.path == "/" and self._is_token(given):
            answer = RedirectResponse("/", 303)  # so that the token does not stay in the address bar
            answer.set_cookie(self._admission.cookie, given, httponly=True, samesite="strict")
            return answer
        if self._is_token(_bearer(request)) or self._is_token(_cookie(request, self._admission.cookie)):
            return None
        words = "a token is needed: open the address that autoassist monitor has printed, with its ?token=…\n"
        return PlainTextResponse(words, 401, {"WWW-Authenticate": "Bearer"})

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._admission.token.encode())


def _bearer(request: Request) -> str:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if kind.lower() == "bearer" else ""


def _cookie(request: Request, name: str) -> str:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""
