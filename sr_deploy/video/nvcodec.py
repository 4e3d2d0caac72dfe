"""Packets -> frames on a GPU, by NVDEC through PyNvVideoCodec; PyAV stays the owner of packets, times and streams.

Each packet goes in with its pts, which its frame brings back. So times are those of the container, and a frame that is
missing, twice there or out of order is noticed at once: LostError, and another decoder goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream

from sr_deploy.arrays import Array
from sr_deploy.device.device import Device, DeviceArray
from sr_deploy.device.nvenc import load_library
from sr_deploy.device.video_planes import DevicePlanes, PlaneFormat
from sr_deploy.errors import BackendUnavailableError, EngineError, first_line
from sr_deploy.upscaling.upscaler import Upscaler
from sr_deploy.video.colors import SHORTEST, meaning_of
from sr_deploy.video.decoding import DoubtError
from sr_deploy.video.frame import FrameUpscaler, VideoFormat
from sr_deploy.video.images import FrameSource
from sr_deploy.video.packets import Packets, packets_of
from sr_deploy.video.source import VideoSource

_CODECS = {"h264": "H264", "hevc": "HEVC", "av1": "AV1", "vp9": "VP9"}
"""Members of `cudaVideoCodec` by FFmpeg's names."""

_EARLIEST = 1 << 40
"""Ticks added to each pts on its way: NVDEC's times are not negative."""

_FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}


@dataclass(frozen=True)
class _SurfaceFormat:
    """What NVDEC gives for a pixel format: members of `cudaVideoChromaFormat` and `Pixel_Format`, and FFmpeg's name of it."""

    chroma: str
    format: str
    pixel_format: str


_NV12 = _SurfaceFormat("420", "NV12", "nv12")
_SURFACES = {
    "yuv420p": _NV12,
    "yuvj420p": _NV12,
    "yuv420p10le": _SurfaceFormat("420", "P016", "p010le"),
    "yuv420p12le": _SurfaceFormat("420", "P016", "p012le"),
    "yuv444p": _SurfaceFormat("444", "YUV444", "yuv444p"),
    "yuv444p10le": _SurfaceFormat("444", "YUV444_16Bit", "yuv444p10msble"),
    "yuv444p12le": _SurfaceFormat("444", "YUV444_16Bit", "yuv444p12msble"),
}


class LostError(DoubtError):
    """NVDEC does not give what the container says; the reason is a sentence's end."""


@dataclass
class DeviceFrame:
    """A decoded frame on a GPU, with the attributes of PyAV's that times are made of.

    pixels: (1,H,W,3) RGB, uint8 for 8-bit streams, fp32 in [0,1] for deeper ones. pts, duration: in ticks of the stream.
    """

    pixels: DeviceArray
    width: int
    height: int
    pts: int | None
    duration: int
    dts: int | None = None
    is_corrupt: bool = False


class Nvdec:
    """Decodes a stream of one format on a device.

    Raises: BackendUnavailableError with the reason when it cannot.
    """

    def __init__(self, device: Device, codec: str, format: VideoFormat) -> None:
        self._device = device
        self._codec = codec
        self._known = format
        reason = refusal(codec, format)
        if reason:
            raise BackendUnavailableError(reason)
        self._library = load_library()
        self._surface = _SURFACES[format.pixel_format]
        self._require_capable()
        meaning = meaning_of(format.tags, format.pixel_format, format.height)
        size = (format.height, format.width)
        self._planes = DevicePlanes(device, PlaneFormat(size, self._surface.pixel_format, meaning, format.tags.chroma_location))

    def decode(self, container: Packets, stream: VideoStream, after: int | None) -> Iterator[DeviceFrame]:
        """Frames in presentation order; up to `after`, packets may give no frame, as they do after a seek.

        Raises: LostError.
        """
        pass_ = _Pass(self._planes, self._surface, self._device, self._decoder())
        yield from pass_.run(_packets(container, stream), after)

    def _decoder(self) -> Any:
        try:
            return self._library.CreateDecoder(
                gpuid=self._device.number,
                codec=getattr(self._library.cudaVideoCodec, _CODECS[self._codec]),
                cudacontext=self._device.context,
                usedevicememory=True,
            )
        except Exception as exc:
            raise LostError(f"NVDEC cannot be opened ({first_line(exc)})") from exc

    def _require_capable(self) -> None:
        library, format = self._library, self._known
        try:
            found = library.GetDecoderCaps(
                gpuid=self._device.number,
                codec=getattr(library.cudaVideoCodec, _CODECS[self._codec]),
                chromaformat=getattr(library.cudaVideoChromaFormat, self._surface.chroma),
                bitdepth=format.depth,
            )
        except Exception as exc:
            raise BackendUnavailableError(f"NVDEC cannot be asked ({first_line(exc)})") from exc
        if not found.get("num_decoder_engines"):
            raise BackendUnavailableError(f"this GPU has no NVDEC for {self._codec} {format.pixel_format}")


class _Pass:
    """One way through a stream, by a decoder of its own."""

    def __init__(self, planes: DevicePlanes, surface: _SurfaceFormat, device: Device, decoder: Any) -> None:
        self._planes = planes
        self._surface = surface
        self._device = device
        self._decoder = decoder
        self._stream = device.stream()
        self._sent: dict[int, Packet[VideoStream]] = {}
        self._expected: set[int] = set()
        self._last: int | None = None

    def run(self, packets: Iterator[Packet[VideoStream] | None], after: int | None) -> Iterator[DeviceFrame]:
        """Raises: LostError."""
        for packet in packets:
            if packet is not None:
                self._expect(packet, after)
            for surface in self._decoded(packet):
                frame = self._frame(surface)
                if frame is not None:
                    yield frame
        if self._expected:
            raise LostError(f"{len(self._expected)} frames are missing at the end")

    def _expect(self, packet: Packet[VideoStream], after: int | None) -> None:
        if packet.pts is None or packet.pts in self._sent:
            raise LostError("a packet has no time of its own")
        self._sent[packet.pts] = packet
        if not packet.is_discard and (after is None or packet.pts > after):
            self._expected.add(packet.pts)

    def _decoded(self, packet: Packet[VideoStream] | None) -> list[Any]:
        """What comes out when this packet goes in; None flushes."""
        data = np.frombuffer(bytes(packet) if packet is not None else b"", np.uint8)
        sent = load_library().PacketData()
        sent.bsl, sent.bsl_data = data.size, data.ctypes.data if data.size else 0
        sent.pts = _EARLIEST + packet.pts if packet is not None and packet.pts is not None else 0
        try:
            surfaces = list(self._decoder.Decode(sent))
            if surfaces:
                self._decoder.SyncOnCUStream()
        except Exception as exc:
            raise LostError(f"it fails ({first_line(exc)})") from exc
        return surfaces

    def _frame(self, surface: Any) -> DeviceFrame | None:
        """The frame in memory of ours, since the decoder's is its own again soon; None for one that is not shown."""
        packet = self._sent.pop(int(surface.getPTS()) - _EARLIEST, None)
        if packet is None or packet.pts is None:
            raise LostError("a frame belongs to no packet")
        if packet.is_discard:
            return None
        if (self._last is not None and packet.pts <= self._last) or any(pts < packet.pts for pts in self._expected):
            raise LostError("frames are missing or out of order")
        self._last = packet.pts
        self._expected.discard(packet.pts)
        height, width = self._planes.format.size
        return DeviceFrame(self._pixels(surface), width, height, packet.pts, packet.duration or 0)

    def _pixels(self, surface: Any) -> DeviceArray:
        format = self._planes.format
        luma = surface.GetPtrToPlane(0)
        size, named = format.count * format.dtype.itemsize, surface.format.name
        chroma_after = surface.GetPtrToPlane(1) - luma
        if (surface.framesize(), named) != (size, self._surface.format):
            raise LostError(f"a frame is {named} of {surface.framesize()} bytes, not {self._surface.format} of {size}")
        if chroma_after != format.size[0] * format.size[1] * format.dtype.itemsize:
            raise LostError("a frame's planes do not follow each other")
        codes = self._device.memory(luma, (format.count,), format.dtype, keep=surface)
        pixels = self._planes.empty_frame()
        try:
            self._planes.to_rgb(codes, pixels, stream=self._stream)
            self._device.synchronize(self._stream)
        except EngineError as exc:
            raise LostError(f"its frames cannot be read ({exc})") from exc
        return pixels


def decode_on_gpu(source: FrameSource, upscaler: FrameUpscaler, planes: PlaneFormat | None) -> str:
    """Let NVDEC decode the frames of the source, for that upscaler and into these planes; else why not, in words."""
    if not isinstance(upscaler, Upscaler) or not upscaler._gives_planes:
        return "the network does not run on a GPU"
    if not isinstance(source, VideoSource):
        return "it is made of pictures"
    if planes is None:
        return "its frames are resized, or written in a form that is made on the CPU"
    if source.host_only:
        return source.host_only
    device = upscaler._frames_device()
    if device is None:
        return "several GPUs take turns, or a mask is in play"
    try:
        source.decode_on_device(Nvdec(device, source.codec, source.format).decode)
    except (BackendUnavailableError, EngineError) as exc:
        return str(exc)
    return ""


def refusal(codec: str, format: VideoFormat) -> str:
    """Why such a stream is not decoded by NVDEC, whatever the GPU; empty when it may be."""
    if codec not in _CODECS:
        return f"NVDEC is used for {', '.join(_CODECS)}, not for {codec}"
    if format.pixel_format not in _SURFACES:
        return f"NVDEC is used for 4:2:0 and 4:4:4 of 8 to 12 bits, not for {format.pixel_format}"
    if "420" in format.pixel_format and any(side % 2 or side < SHORTEST for side in (format.height, format.width)):
        return f"{format.width}x{format.height} has odd or very short sides"
    return ""


def host_pixels(pixels: DeviceArray) -> Array:
    """(H,W,3) uint8 or uint16 of a frame on a device, as frames of the host are."""
    found: Array = pixels.numpy()[0]
    if found.dtype == np.uint8:
        return np.ascontiguousarray(found)
    return np.ascontiguousarray(np.rint(found * np.float32(65535)).astype(np.uint16))


def _packets(container: Packets, stream: VideoStream) -> Iterator[Packet[VideoStream] | None]:
    """The packets as NVDEC takes them, with start codes and parameters in the stream; None at the end."""
    name = _FILTERS.get(stream.codec_context.name)
    filter = BitStreamFilterContext(name, stream) if name else None
    for packet in packets_of(container, stream):
        if not packet.size:
            continue
        if packet.is_corrupt:
            raise LostError("a packet is damaged")
        yield from filter.filter(packet) if filter else [packet]
    yield None
