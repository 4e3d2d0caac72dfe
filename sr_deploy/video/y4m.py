"""Frames -> raw video for a pipe, or one image file each. Both take frames in the order they are shown."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import IO

from sr_deploy.errors import UsageError, VideoError
from sr_deploy.pictures.image import NUMBER, WRITABLE_SUFFIXES, Picture, write_image
from sr_deploy.video.colors import frame_from_rgb, samples_of
from sr_deploy.video.encoding import encoded_format, raw_encoding
from sr_deploy.video.frame import Frame, VideoFormat

_NAMES = {
    "gray": "mono",
    "gray10le": "mono10",
    "gray12le": "mono12",
    "gray16le": "mono16",
    "yuv420p": "420jpeg",
    "yuv422p": "422",
    "yuv444p": "444",
    "yuv420p10le": "420p10",
    "yuv422p10le": "422p10",
    "yuv444p10le": "444p10",
    "yuv420p12le": "420p12",
    "yuv422p12le": "422p12",
    "yuv444p12le": "444p12",
    "yuv420p16le": "420p16",
    "yuv422p16le": "422p16",
    "yuv444p16le": "444p16",
}
_SITED = {1: "420mpeg2", 3: "420paldv"}


class Y4MWriter:
    """Frames as yuv4mpeg2, which most programs read from a pipe. It knows a rate and no times: a varying rate is lost.

    Pixel formats that y4m has no name for become the nearest that it has. PyAV's own muxer would lose the pixel aspect, which
    PyAV sets of no stream.
    """

    def __init__(self, file: IO[bytes], out: VideoFormat) -> None:
        """file: stays open, and belongs to the caller."""
        self._file = file
        self._encoded = encoded_format(out, raw_encoding(out, tuple(_NAMES)))
        self._begun = False

    def write(self, frame: Frame) -> None:
        """Write one more frame. Raises: VideoError when the file or the pipe refuses; BrokenPipeError when nobody reads on."""
        picture = frame_from_rgb(frame.pixels, self._encoded)
        try:
            if not self._begun:
                self._file.write(self._header())
                self._begun = True
            self._file.write(b"FRAME\n")
            for plane in picture.planes:
                self._file.write(samples_of(plane, self._encoded.depth).tobytes())
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise VideoError(f"raw video cannot be written ({exc.strerror or exc}); check where it goes") from exc

    def close(self) -> None:
        """Hand everything to the system; a stream without frames still has its header."""
        if not self._begun:
            self._file.write(self._header())
        self._file.flush()

    def abort(self) -> None:
        """Nothing to remove: what was written is read already."""

    def _header(self) -> bytes:
        encoded = self._encoded
        rate, aspect = encoded.rate or Fraction(25), encoded.sample_aspect or Fraction(0)
        name = _NAMES[encoded.pixel_format]
        if name == "420jpeg":
            name = _SITED.get(encoded.tags.chroma_location, name)
        colors = {1: " XCOLORRANGE=LIMITED", 2: " XCOLORRANGE=FULL"}.get(encoded.tags.range, "")
        pixel = f"{aspect.numerator}:{aspect.denominator if aspect else 0}"
        size = f"W{encoded.width} H{encoded.height} F{rate.numerator}:{rate.denominator}"
        return f"YUV4MPEG2 {size} Ip A{pixel} C{name}{colors}\n".encode("ascii")


class ImageSequence:
    """Frames as image files of consecutive numbers, such as frame_%06d.png; their times are lost."""

    def __init__(self, pattern: Path, *, first: int = 1, quality: int | None = None) -> None:
        """pattern: its name holds one %d or %06d; its folder is made. quality: of JPEG, WebP and AVIF, 1 to 100.

        Raises: UsageError for a name without a number, or a format that is not written.
        """
        if len(NUMBER.findall(pattern.name)) != 1 or "%" in NUMBER.sub("", pattern.name):
            raise UsageError(f"'{pattern.name}' names no sequence of images; expected one number in it, as in frame_%06d.png")
        if pattern.suffix.lower() not in WRITABLE_SUFFIXES:
            raise UsageError(
                f"cannot write images as '{pattern.suffix}'; expected one of {', '.join(sorted(WRITABLE_SUFFIXES))}"
            )
        self._pattern, self._number, self._quality = pattern, first, quality
        self.notes: tuple[str, ...] = ()

    def path(self, number: int) -> Path:
        """The file of that number."""
        zero, width = NUMBER.findall(self._pattern.name)[0]
        digits = f"{number:{zero}{width}d}"
        return self._pattern.with_name(NUMBER.sub(digits, self._pattern.name))

    def write(self, frame: Frame) -> None:
        """Write the next file, complete or not at all. Raises: ImageError when the disk refuses."""
        self._pattern.parent.mkdir(parents=True, exist_ok=True)
        self.notes = write_image(self.path(self._number), Picture(frame.pixels), quality=self._quality)
        self._number += 1

    def close(self) -> int:
        """The number that the next file would have."""
        return self._number

    def abort(self) -> None:
        """Nothing to remove: every file is complete."""
