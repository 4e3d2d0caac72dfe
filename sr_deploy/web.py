"""How web servers are asked, and what goes wrong with them, in words."""

from __future__ import annotations

import http.client
import ssl
import urllib.error

TIMEOUT = 30.0
"""Seconds that a server may be silent."""
WAITS = (1.0, 2.0, 4.0)
"""Seconds before each new try, where a server had given something."""
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "sr-deploy"}

_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""What servers answer that may answer otherwise soon."""


def why_it_failed(exc: Exception) -> tuple[str, bool]:
    """Why a request failed, in words, and whether another would fail too."""
    if isinstance(exc, urllib.error.HTTPError):
        exc.close()
        return f"the server says {exc.code} {exc.reason}".rstrip(), exc.code not in _PASSING
    cause = exc.reason if isinstance(exc, urllib.error.URLError) and isinstance(exc.reason, Exception) else exc
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}", True
    lasting = isinstance(cause, ValueError | http.client.InvalidURL)
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__), lasting
