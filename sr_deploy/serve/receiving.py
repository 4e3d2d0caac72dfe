"""A job's files, from the network to the spool: written as they come, looked at when they are whole."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request

from sr_deploy.batch.naming import holds_video
from sr_deploy.errors import VideoError
from sr_deploy.files import read_regular
from sr_deploy.filetypes import begins_as_video
from sr_deploy.pictures.size import TargetSize
from sr_deploy.serve.answers import RefusedError
from sr_deploy.serve.asked import check_picture, check_pixels, check_result
from sr_deploy.serve.options import Limits
from sr_deploy.serve.spool import JobFolder, OrderedFile, Spool
from sr_deploy.serve.uploads import pieces
from sr_deploy.video.input import input_of

_SUFFIXES = {
    "png": ".png",
    "jpeg": ".jpg",
    "webp": ".webp",
    "tiff": ".tif",
    "avif": ".avif",
    "bmp": ".bmp",
    "gif": ".gif",
    "jp2": ".jp2",
    "pnm": ".pnm",
}
_VIDEOS = ((b"\x1aE\xdf\xa3", 0, ".mkv"), (b"ftyp", 4, ".mp4"), (b"AVI ", 8, ".avi"))
_HEAD = 16
_LOOK_BYTES = 64 << 20
"""Between two looks at what room the spool has."""


@dataclass(frozen=True)
class Checks:
    """What files are compared with before they are taken."""

    scale: int
    size: TargetSize | None
    limits: Limits


async def receive_files(request: Request, job: JobFolder, checks: Checks, spool: Spool) -> tuple[OrderedFile, ...]:
    """Write all files of a request into a job's folder, under names of our own.

    Raises: RefusedError for what is neither picture nor video, for too many bytes or pixels, and a full spool.
    """
    files: list[OrderedFile] = []
    open_file: _Incoming | None = None
    unseen = 0
    try:
        async for piece in pieces(request, checks.limits.most_job_bytes):
            if open_file is None or open_file.number != piece.number:
                if open_file is not None:
                    files.append(await asyncio.to_thread(open_file.settle, checks))
                open_file = _Incoming(piece.number, piece.name, job.inputs / f"{piece.number + 1:06d}")
            open_file.file.write(piece.data)
            unseen += len(piece.data)
            if unseen > _LOOK_BYTES:
                await asyncio.to_thread(spool.require, 0)
                unseen = 0
        if open_file is not None:
            files.append(await asyncio.to_thread(open_file.settle, checks))
    finally:
        if open_file is not None:
            open_file.file.close()
    await asyncio.to_thread(spool.require, 0)
    if not files:
        raise RefusedError(422, "there is no file; send one as the body, or several as multipart/form-data")
    return tuple(files)


class _Incoming:
    """A file that comes. name: what the client calls it."""

    def __init__(self, number: int, name: str, path: Path) -> None:
        self.number = number
        self._name = name
        self._path = path
        self.file = path.open("xb")

    def settle(self, checks: Checks) -> OrderedFile:
        """All of it is there: give it the ending of what it is. Raises: RefusedError, OSError."""
        self.file.close()
        try:
            suffix = self._check(checks)
        except RefusedError as exc:
            raise RefusedError(exc.status, f"{self._name or 'the file'}: {exc}", headers=exc.headers) from exc
        path = self._path.with_suffix(suffix)
        self._path.rename(path)
        return OrderedFile(path.name, self._name, holds_video(path))

    def _check(self, checks: Checks) -> str:
        """The ending that fits."""
        limits = checks.limits
        if begins_as_video(self._path):
            height, width = _frame_size(self._path)
            check_pixels(height, width, limits.most_pixels)
            suffix = _video_suffix(self._path)
        else:
            if self._path.stat().st_size > limits.most_bytes:
                raise RefusedError(413, f"more than {limits.most_bytes} bytes, which is the most for a picture; send less")
            header = check_picture(memoryview(read_regular(self._path)), limits)
            height, width, suffix = header.height, header.width, _SUFFIXES[header.format]
        check_result(height, width, checks.scale, checks.size, limits)
        return suffix


def _frame_size(path: Path) -> tuple[int, int]:
    """Height and width that a video claims; as a file object, of which FFmpeg opens no other file. Raises: RefusedError."""
    try:
        with path.open("rb") as file, input_of(file).open() as container:
            if not container.streams.video:
                raise RefusedError(415, "it has no picture; send a video")
            codec = container.streams.video[0].codec_context
            return codec.height, codec.width
    except VideoError as exc:
        raise RefusedError(422, str(exc).replace(str(path), "it")) from exc


def _video_suffix(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return next((suffix for magic, at, suffix in _VIDEOS if head.startswith(magic, at)), "")
