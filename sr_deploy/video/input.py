"""What FFmpeg opens: a file, or a pipe of raw frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer

from sr_deploy.errors import VideoError
from sr_deploy.video.extent import LONGEST_START, y4m_rest
from sr_deploy.video.streams import PROBING


class Y4MPipe:
    """What FFmpeg reads from: only `read`, whatever else the file object says it could; it counts the bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = b""
        self._received = 0

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end."""
        data = self._file.read(size)
        self._received += len(data)
        if len(self._start) < LONGEST_START:
            self._start += data[:LONGEST_START]
        return data

    def rest(self, pixel: av.VideoFormat) -> int:
        """How many bytes came after the last whole frame; pixel: format and size of frames."""
        return y4m_rest(self._start, self._received, pixel)


@dataclass(frozen=True)
class Input:
    """What FFmpeg opens, and how errors call it; path: where it is one file; format, options: in FFmpeg's words."""

    file: str | Y4MPipe
    name: str
    path: Path | None = None
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_file(cls, path: Path) -> Input:
        """A file; its name is never taken for a protocol or a pattern."""
        return cls(f"file:{path}", str(path), path)

    @classmethod
    def of_pipe(cls, file: BinaryIO) -> Input:
        """Raw y4m from a file object that is only read forward."""
        return cls(Y4MPipe(file), "standard input", format="yuv4mpegpipe")

    def open(self) -> InputContainer:
        """The opened file.

        Raises: VideoError when it is no video or cannot be read.
        """
        if self.path is not None and self.path.is_dir():
            raise VideoError(f"{self.name} is a folder; expected a video file. Name its pictures by a pattern: frame_%06d.png.")
        try:
            return av.open(self.file, "r", format=self.format, options=PROBING | self.options, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise VideoError(f"{self.name} cannot be read as video: {reason}. {self._advice()}") from exc

    def _advice(self) -> str:
        if self.path is None or not self.path.is_file():
            return "Expected frames as yuv4mpegpipe." if self.path is None else "Check its name and permissions."
        if self.path.stat().st_size == 0:
            return "It is empty."
        with self.path.open("rb") as file:
            brand = file.read(8)[4:]
        if brand == b"ftyp":
            return "Its index is missing: the recording or the download was cut short. Fetch it again."
        return "Expected a video file that FFmpeg knows."


def input_of(what: Path | BinaryIO | Input) -> Input:
    if isinstance(what, Input):
        return what
    return Input.of_file(what) if isinstance(what, Path) else Input.of_pipe(what)
