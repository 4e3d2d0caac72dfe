"""What is answered: errors as one line of JSON under the status that fits, and what every answer says to browsers."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from sr_deploy.batch.jobs import NO_SPACE
from sr_deploy.errors import (
    BundleError,
    CancelledError,
    ImageError,
    MissingDependencyError,
    OutOfMemoryError,
    SrDeployError,
    UnhealthyOutputError,
    UsageError,
    VideoError,
    first_line,
)

_LOG = logging.getLogger(__name__)

_STATUS: dict[type[Exception], int] = {
    UsageError: 422,
    ImageError: 422,
    VideoError: 422,
    UnhealthyOutputError: 422,
    OutOfMemoryError: 503,
    MemoryError: 503,
    MissingDependencyError: 503,
    CancelledError: 503,
    BundleError: 503,
}
_RETRY_SECONDS, _FULL_SECONDS = 5.0, 60.0


class ErrorAnswer(BaseModel):
    """Why there is no result, in one line."""

    error: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": what}
    for status, what in {
        401: "The token is missing or wrong.",
        408: "The request did not come in time.",
        413: "Too many bytes or pixels.",
        415: "No picture or video of a kind that is read.",
        422: "A parameter or a file is wrong.",
        503: "The queue is full, or the service is about to end; Retry-After says when to try again.",
        504: "It took too long; a job has all the time.",
        507: "All jobs together, or the disk, have no room for more.",
    }.items()
}
"""For the description of the service."""


class RefusedError(Exception):
    """A request that is not served. after: seconds when another try makes sense."""

    def __init__(
        self, status: int, message: str, *, after: float | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {}) | ({} if after is None else {"Retry-After": str(max(1, math.ceil(after)))})


class JsonAnswer(Response):
    """JSON in ASCII, so that no text of a client's can fail to be encoded."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def refusal(error: Exception) -> RefusedError | None:
    """What an error means to a client; None where it is nobody's but the service's own."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return RefusedError(507, "the disk is full; try later", after=_FULL_SECONDS)
    for kind in type(error).__mro__:
        if kind in _STATUS:
            status = _STATUS[kind]
            return RefusedError(status, first_line(error), after=_RETRY_SECONDS if status == 503 else None)
    return RefusedError(500, first_line(error)) if isinstance(error, SrDeployError) else None


def add_error_answers(app: FastAPI) -> None:
    """Answer every error in one way."""

    async def refused(request: Request, error: Exception) -> Response:
        del request
        found = refusal(error)
        if found is None and isinstance(error, OSError):
            raise error
        if found is None:
            return _answer(500, "internal error; the log of the service has more")
        if found.status == 500:
            _LOG.error("%s", error)
        return _answer(found.status, str(found), found.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        del request
        assert isinstance(error, RequestValidationError)
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"][1:]) or "request"
        return _answer(422, f"{where}: {found['msg']}")

    async def unknown(request: Request, error: Exception) -> Response:
        del request
        assert isinstance(error, HTTPException)
        return _answer(error.status_code, str(error.detail), error.headers)

    for kind in (SrDeployError, RefusedError, MemoryError, OSError, Exception):
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unknown)


def _answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JsonAnswer({"error": message}, status, dict(headers or {}))
