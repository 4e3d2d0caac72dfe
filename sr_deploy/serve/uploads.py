"""The files that a client sends, as they come: one as the body itself, or several as multipart/form-data."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.requests import ClientDisconnect

from sr_deploy.errors import CancelledError
from sr_deploy.serve.answers import RefusedError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # Mistakes of clients are told to clients.

SILENCE = 30.0
"""Seconds that a client may be silent in the middle of a request."""

MOST_FILES = 10_000
_LONGEST_NAME = 255
_LONGEST_LENGTH = 20


@dataclass(frozen=True)
class Piece:
    """Some bytes of a file. number: counts files, from 0; name: what the client calls it, which never becomes a path."""

    number: int
    name: str
    data: bytes


async def body(request: Request, most: int, seconds: float) -> bytearray:
    """The bytes of the one file of a request.

    most: bytes; seconds: for all of them.

    Raises: RefusedError for more bytes, more files or none, and a client that is too slow.
    """
    data = bytearray()
    files = 0
    try:
        async with asyncio.timeout(seconds):
            async for piece in pieces(request, most):
                files = piece.number + 1
                if files > 1:
                    raise RefusedError(422, "there are several files; send them as a job to /v1/jobs, or one by one")
                data += piece.data
    except TimeoutError as exc:
        raise RefusedError(408, f"its bytes did not come in {seconds:g} s", headers={"Connection": "close"}) from exc
    if not files:
        raise RefusedError(422, "there is no file; send one as the body, or as multipart/form-data")
    return data


async def pieces(request: Request, most: int) -> AsyncIterator[Piece]:
    """What comes, file by file; of each file at least one piece.

    most: bytes in all.

    Raises: RefusedError for more bytes, a body that is no multipart though it says so, and a client that is silent for long.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise RefusedError(415, f"content-encoding {encoding}: not read; send the file as it is")
    if declared_bytes(request) > most:
        raise too_many_bytes(most)
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        yield Piece(0, "", b"")
        async for chunk in _chunks(request, most):
            yield Piece(0, "", chunk)
        return
    form = _MultipartForm(kind)
    async for chunk in _chunks(request, most):
        for piece in form.feed(chunk):
            yield piece
    form.finish()


def declared_bytes(request: Request) -> int:
    """How long the body says that it is; 0 where it does not."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) <= _LONGEST_LENGTH else 0


def too_many_bytes(most: int) -> RefusedError:
    """For whoever sends more."""
    return RefusedError(413, f"more than {most} bytes, which is the most; send less", headers={"Connection": "close"})


async def _chunks(request: Request, most: int) -> AsyncIterator[bytes]:
    size = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(SILENCE):
                chunk = await anext(stream, None)
        except TimeoutError as exc:
            raise RefusedError(408, f"nothing came for {SILENCE:g} s", headers={"Connection": "close"}) from exc
        except ClientDisconnect as exc:
            raise CancelledError("the client left before its bytes were there") from exc
        if chunk is None:
            return
        size += len(chunk)
        if size > most:
            raise too_many_bytes(most)
        if chunk:
            yield chunk


class _MultipartForm:
    """A multipart/form-data, read piece by piece; fields that are no files are left out."""

    def __init__(self, content_type: str) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        self._parse_header = parse_options_header
        _, parameters = parse_options_header(content_type)
        self._found: list[Piece] = []
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._number = -1
        self._name: str | None = None
        self._ended = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_file,
            "on_part_data": self._add_data,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(parameters[b"boundary"], callbacks)
        except (KeyError, ValueError) as exc:
            raise RefusedError(422, "the multipart/form-data has no boundary; see RFC 7578") from exc

    def feed(self, chunk: bytes) -> list[Piece]:
        """What these bytes complete. Raises: RefusedError."""
        from python_multipart.exceptions import FormParserError

        try:
            self._parser.write(chunk)
        except FormParserError as exc:
            raise RefusedError(422, f"the multipart/form-data is damaged ({exc}); see RFC 7578") from exc
        found, self._found = self._found, []
        return found

    def finish(self) -> None:
        """Raises: RefusedError for one that is cut off."""
        if not self._ended:
            raise RefusedError(422, "the multipart/form-data is cut off; send it to its last boundary")

    def _begin_part(self) -> None:
        self._headers = {}
        self._name = None

    def _add_field(self, data: bytes, start: int, stop: int) -> None:
        self._field += data[start:stop]

    def _add_value(self, data: bytes, start: int, stop: int) -> None:
        self._value += data[start:stop]

    def _end_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _begin_file(self) -> None:
        _, parameters = self._parse_header(self._headers.get(b"content-disposition", b""))
        if b"filename" not in parameters:
            return
        self._number += 1
        if self._number >= MOST_FILES:
            raise RefusedError(413, f"more than {MOST_FILES} files, which is the most; send several jobs")
        self._name = shown_name(parameters[b"filename"].decode("utf-8", "replace"))
        self._found.append(Piece(self._number, self._name, b""))

    def _add_data(self, data: bytes, start: int, stop: int) -> None:
        if self._name is not None:
            self._found.append(Piece(self._number, self._name, data[start:stop]))

    def _end(self) -> None:
        self._ended = True


def shown_name(name: str) -> str:
    """A client's name as it is shown: its last part, printable, not too long."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter if letter.isprintable() else "_" for letter in last)[:_LONGEST_NAME].strip()
