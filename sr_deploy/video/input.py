"""Where a video comes from: a file, a web server, a file object, or a pipe of raw frames; whoever reads it opens it here."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer

from sr_deploy.errors import UsageError, VideoError
from sr_deploy.files import Address
from sr_deploy.pictures.image import PIPE, names_stream
from sr_deploy.video.cursor import RemoteFile, SharedFile
from sr_deploy.video.extent import LONGEST_START, y4m_rest
from sr_deploy.video.fragments import most_samples

PROBING = {"probesize": "100000000", "analyzeduration": "60000000"}
"""How far FFmpeg looks for what a stream is, in bytes and microseconds: sound may begin after a silent minute."""


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
    """What a video is read from. place: a path may be a pattern of numbered pictures; only a pipe cannot be opened again."""

    place: Path | RemoteFile | SharedFile | Y4MPipe

    @property
    def path(self) -> Path | None:
        """Where it is on this machine's disk."""
        return self.place if isinstance(self.place, Path) else None

    @property
    def pipe(self) -> Y4MPipe | None:
        """Where it comes from when it can be read only once."""
        return self.place if isinstance(self.place, Y4MPipe) else None

    @property
    def name(self) -> str:
        """How messages call it."""
        if isinstance(self.place, Y4MPipe):
            return "standard input"
        if isinstance(self.place, RemoteFile):
            return str(self.place.address)
        return str(self.place) if isinstance(self.place, Path) else self.place.name

    @property
    def location(self) -> str:
        """What another process opens it by, as it was given: path or address."""
        return self.place.address.url if isinstance(self.place, RemoteFile) else self.name

    @property
    def suffix(self) -> str:
        """The ending of its name, in small letters."""
        name = self.place.address.name if isinstance(self.place, RemoteFile) else self.name
        return Path(name).suffix.lower()

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for numbered pictures."""
        return self.path is not None and names_stream(self.path)

    def read(self) -> io.BufferedReader:
        """Its bytes, from the first on. Raises: OSError for a path, VideoError for others."""
        assert not isinstance(self.place, Y4MPipe)
        return self.place.open("rb") if isinstance(self.place, Path) else self.place.open()

    def begins_as_webp(self) -> bool:
        """Whether it is a WebP, by its first bytes; False for what cannot be read."""
        if self.pipe or self.is_pattern:
            return False
        try:
            with self.read() as file:
                start = file.read(12)
        except OSError:
            return False
        return start[:4] == b"RIFF" and start[8:] == b"WEBP"

    @contextmanager
    def open(self) -> Iterator[InputContainer]:
        """As FFmpeg has it, at its beginning; closed with the block. A path is never taken for a protocol.

        Raises: VideoError when it is no video or cannot be read.
        """
        if self.path is not None and self.path.is_dir():
            raise VideoError(f"{self.name} is a folder; expected a video file. Name its pictures by a pattern: frame_%06d.png.")
        self._refuse_claims()
        file = f"file:{self.path}" if self.path else self.pipe or self.read()
        # What comes from elsewhere may not have FFmpeg open other files.
        options = PROBING if self.path else PROBING | {"protocol_whitelist": "none"}
        try:
            container = av.open(
                file, "r", format="yuv4mpegpipe" if self.pipe else None, options=options, metadata_errors="replace"
            )
        except (av.FFmpegError, OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise VideoError(f"{self.name} cannot be read as video: {reason}. {self._advice()}") from exc
        try:
            with container:
                yield container
        finally:
            if isinstance(file, io.BufferedReader):
                file.close()

    def _refuse_claims(self) -> None:
        """Raises: VideoError for a fragment of more samples than there are bytes; FFmpeg has memory for each of them."""
        if self.path is None or not self.path.is_file():
            return
        with contextlib.suppress(OSError):
            claimed = most_samples(self.path)
            if claimed > self.path.stat().st_size:
                raise VideoError(f"{self.name}: one of its fragments claims {claimed} samples; it is damaged. Fetch it again.")

    def _advice(self) -> str:
        if self.pipe:
            return "Expected frames as yuv4mpegpipe."
        try:
            with self.read() as file:
                start = file.read(8)
        except OSError:
            return "Check its name and permissions."
        if not start:
            return "It is empty."
        if start[4:] == b"ftyp":
            return "Its index is missing: the recording or the download was cut short. Fetch it again."
        return "Expected a video file that FFmpeg knows."


def input_of(what: str | Path | Address | BinaryIO | Input) -> Input:
    """The input that a caller names: a path, an address, a seekable file object, or one of raw y4m that is only read forward.

    Raises: UsageError for what is none of them.
    """
    if isinstance(what, Input):
        return what
    if isinstance(what, str):
        what = Address.of(what) or Path(what)
    if isinstance(what, Address):
        return Input(RemoteFile(what))
    if isinstance(what, Path):
        if what.parts[:1] in (("http:",), ("https:",)) and not what.exists():
            raise UsageError(f"{what}: a Path takes a slash from an address; give it as a str")
        return Input(what) if what != PIPE else Input(Y4MPipe(sys.stdin.buffer))
    if isinstance(what, io.TextIOBase) or not hasattr(what, "read"):
        raise UsageError(f"{type(what).__name__} is no video; expected a path, an address, or a file object of bytes")
    seekable = getattr(what, "seekable", None)
    return Input(SharedFile(what) if seekable is not None and seekable() else Y4MPipe(what))
