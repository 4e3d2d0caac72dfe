"""Codes on a GPU -> packets of a segment, by NVENC; PyAV stays the owner of files and times.

Each segment has a session of its own. What the stream says of its colors and aspect, a filter of FFmpeg's writes into its
parameter sets: PyNvVideoCodec's encoder knows BT.601 and BT.709 alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from sr_deploy.arrays import Array
from sr_deploy.device.device import Device, DeviceArray
from sr_deploy.device.nvenc import CODECS, EncodedPicture, NvencSession, load_library, nvenc_settings
from sr_deploy.device.video_planes import PlaneFormat
from sr_deploy.errors import BackendUnavailableError, EngineError
from sr_deploy.video.colors import codes_from_frame, frame_from_rgb
from sr_deploy.video.encoding import Encoding, encoded_format, frame_clock
from sr_deploy.video.frame import VideoFormat
from sr_deploy.video.header import stream_template
from sr_deploy.video.streams import ERRORS, add_video

_SURFACES = {"yuv420p": "nv12", "p010le": "p010le", "yuv444p": "yuv444p"}
"""What the encoder takes, by the pixel format of an encoding."""


@dataclass(frozen=True)
class Nvenc:
    """NVENC of a device for one encoding. planes: what it takes; settings: those of its sessions."""

    device: Device
    planes: PlaneFormat
    settings: dict[str, str]

    @property
    def identity(self) -> str:
        """What encodes, and how: segments of two that differ cannot be joined."""
        return " ".join(("PyNvVideoCodec", load_library().__version__, *(f"{k}={v}" for k, v in self.settings.items())))

    def open(self, container: OutputContainer, out: VideoFormat, encoding: Encoding) -> NvencEncoder:
        """Raises: EngineError."""
        return NvencEncoder(self, container, out, encoding)


class NvencEncoder:
    """A `FrameEncoder` of frames that lie on a device, or as RGB in the host's memory; its methods raise EngineError."""

    def __init__(self, nvenc: Nvenc, container: OutputContainer, out: VideoFormat, encoding: Encoding) -> None:
        encoded, codec = encoded_format(out, encoding), CODECS[encoding.codec]
        self._on_host = replace(encoded, pixel_format=nvenc.planes.pixel_format)
        self._session = NvencSession(nvenc.device, nvenc.planes, nvenc.settings)
        self._count = 0
        with stream_template(codec, self._session.parameter_sets, encoded) as template:
            self._stream = add_video(container, template, encoded)
            self._filter = BitStreamFilterContext(_described(codec, encoded), template, self._stream)
        self._stream.time_base = encoded.time_base

    def encode(self, _: int, pixels: Array | DeviceArray) -> Iterator[Packet[VideoStream]]:
        is_rgb = isinstance(pixels, np.ndarray)
        codes = codes_from_frame(frame_from_rgb(pixels, self._on_host)) if is_rgb else pixels
        return self._packets(self._session.encode(codes))

    def finish(self) -> Iterator[Packet[VideoStream]]:
        return self._packets(self._session.finish())

    def _packets(self, pictures: list[EncodedPicture]) -> Iterator[Packet[VideoStream]]:
        for picture in pictures:
            packet = Packet(picture.data)
            packet.pts = packet.dts = self._count
            packet.is_keyframe = picture.is_key
            self._count += 1
            for described in self._filter.filter(packet):
                described.stream = self._stream
                yield described


def planar(encoded: VideoFormat) -> VideoFormat:
    """The stream with the planes apart that its pixel format has side by side."""
    return replace(encoded, pixel_format={"p010le": "yuv420p10le"}.get(encoded.pixel_format, encoded.pixel_format))


def nvenc_for(device: Device | None, planes: PlaneFormat | None, out: VideoFormat, encoding: Encoding) -> Nvenc:
    """NVENC of the device that upscales, proven by encoding one frame. planes: what the device could give to the host.

    Raises: BackendUnavailableError or EngineError with the reason when that cannot be.
    """
    if device is None:
        raise BackendUnavailableError("several GPUs take turns, or a mask is in play")
    if encoding.codec not in CODECS or encoding.pixel_format not in _SURFACES:
        taken = "PyNvVideoCodec's encoder is used for H.264 and HEVC in yuv420p, yuv444p and p010le"
        raise BackendUnavailableError(f"{taken}, not for {encoding.codec} in {encoding.pixel_format}")
    if planes is None:
        raise BackendUnavailableError("its frames are resized, or have sides that the GPU does not write")
    settings = nvenc_settings(encoding.codec, encoding.options, 1 / frame_clock(out))
    nvenc = Nvenc(device, replace(planes, pixel_format=_SURFACES[encoding.pixel_format], on_device=True), settings)
    _try(nvenc, out, encoding)
    return nvenc


def _try(nvenc: Nvenc, out: VideoFormat, encoding: Encoding) -> None:
    black = np.zeros((out.height, out.width, 3), np.uint8)
    with av.open(io.BytesIO(), "w", format="nut") as container:
        try:
            encoder = nvenc.open(container, out, encoding)
            _ = [*encoder.encode(0, black), *encoder.finish()]
        except ERRORS as exc:
            raise EngineError(f"what NVENC gave cannot be read ({exc})") from exc


def _described(codec: str, encoded: VideoFormat) -> str:
    """The filter that writes what is known of a stream into its parameter sets. H.264 counts fields."""
    tags = encoded.tags
    known: dict[str, int | Fraction] = {"tick_rate": (2 if codec == "h264" else 1) / frame_clock(encoded)}
    if (tags.matrix, tags.primaries, tags.transfer, tags.range) != (2, 2, 2, 0):
        known |= {"colour_primaries": tags.primaries, "transfer_characteristics": tags.transfer}
        known |= {"matrix_coefficients": tags.matrix, "video_full_range_flag": int(tags.range == 2)}
    if tags.chroma_location and "444" not in encoded.pixel_format:
        known["chroma_sample_loc_type"] = tags.chroma_location - 1
    if encoded.sample_aspect:
        known["sample_aspect_ratio"] = encoded.sample_aspect
    return f"{codec}_metadata=" + ":".join(f"{key}={value}" for key, value in known.items())
