"""What stands before every route: pages of strangers are kept out, answers say how they may be used, and are counted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sr_deploy.serve.answers import JsonAnswer
from sr_deploy.serve.metrics import Metrics
from sr_deploy.serve.options import ServeOptions, is_loopback

_POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"),
        *("img-src 'self' blob: data:", "media-src 'self' blob:"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_MOST_UNREAD = 8 << 20
_UNREAD_SECONDS = 0.3


class Guard:
    """The outermost middleware.

    Without a token, a browser on this machine could be made to ask by pages of strangers; so requests that name another host,
    or come from a page of another, are refused.
    """

    def __init__(self, app: ASGIApp, options: ServeOptions, metrics: Metrics) -> None:
        self._app = app
        self._options = options
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        unread = "content-length" in headers or "transfer-encoding" in headers
        status = 0

        async def hear() -> Message:
            nonlocal unread
            message = await receive()
            unread = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def say(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
                if unread and "expect" not in headers:
                    await drain()
            await send(message)

        async def drain() -> None:
            """A client that is still sending may never read an answer: take what comes without a pause, up to a limit."""
            size = 0
            with contextlib.suppress(TimeoutError):
                while unread and size < _MOST_UNREAD:
                    async with asyncio.timeout(_UNREAD_SECONDS):
                        size += len((await hear()).get("body", b""))

        try:
            if self._options.token is None and self._is_foreign(headers):
                answer = JsonAnswer({"error": "asked from another host or its pages; set a token, or allow its origin"}, 403)
                await answer(scope, hear, say)
            else:
                await self._app(scope, hear, say)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.answered(route, status, time.perf_counter() - began)

    def _is_foreign(self, headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_loopback(_name_of(host)):
            return True
        return origin is not None and origin not in self._options.origins and origin.partition("://")[2] != host


def _name_of(host: str) -> str:
    """Without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
