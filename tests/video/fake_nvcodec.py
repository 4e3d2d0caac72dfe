"""PyNvVideoCodec without a GPU: the part of its interface that we use, over FFmpeg's codecs and the host's memory.

As with the real one, packets come as addresses, and the memory of a frame is the decoder's again at its next call. What is
encoded comes late, and without loss; a frame is read only then.
"""

from __future__ import annotations

import ctypes
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np

cudaVideoCodec = enum.Enum("cudaVideoCodec", {"H264": 4, "HEVC": 8, "VP9": 10, "AV1": 11})  # noqa: N816
cudaVideoChromaFormat = enum.Enum("cudaVideoChromaFormat", {"420": 1, "444": 3})  # noqa: N816
Pixel_Format = enum.Enum("Pixel_Format", ["NV12", "P016", "YUV444", "YUV444_16Bit"])

DECODERS = {"H264": "h264", "HEVC": "hevc", "VP9": "vp9", "AV1": "libdav1d"}
FORMATS = {
    "yuv420p": ("NV12", "nv12"),
    "yuvj420p": ("NV12", "nv12"),
    "yuv420p10le": ("P016", "p010le"),
    "yuv444p": ("YUV444", "yuv444p"),
    "yuv444p10le": ("YUV444_16Bit", "yuv444p16le"),
}


ENCODERS = {
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "qp": "0"}),
    "hevc": ("libx265", {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none:lossless=1"}),
}
SURFACES = {"NV12": ("nv12", "yuv420p", 1), "P010": ("p010le", "yuv420p10le", 2), "YUV444": ("yuv444p", "yuv444p", 1)}
"""FFmpeg's name, that of what the encoder takes, and bytes per code."""
LATE = 3


class PacketData:
    """bsl: bytes of the bitstream at the address `bsl_data`."""

    def __init__(self) -> None:
        self.bsl = 0
        self.bsl_data = 0
        self.pts = 0


class DecodedFrame:
    def __init__(self, frame: av.VideoFrame) -> None:
        name, layout = FORMATS[frame.format.name]
        self.format = Pixel_Format[name]
        self._pts = frame.pts
        planes = frame if layout == frame.format.name else frame.reformat(format=layout)
        self._samples = [
            _samples(plane, planes.format.components[0].bits > 8, index, layout) for index, plane in enumerate(planes.planes)
        ]
        self._memory = np.concatenate(self._samples)

    def getPTS(self) -> int:  # noqa: N802
        assert self._pts is not None
        return self._pts

    def framesize(self) -> int:
        return int(self._memory.nbytes)

    def GetPtrToPlane(self, arg0: int) -> int:  # noqa: N802
        return int(self._memory.ctypes.data + sum(plane.nbytes for plane in self._samples[:arg0]))

    def overwrite(self) -> None:
        self._memory[:] = 0x55


def _samples(plane: Any, deep: bool, index: int, layout: str) -> np.ndarray[Any, np.dtype[Any]]:
    dtype = np.dtype("<u2" if deep else np.uint8)
    paired = index == 1 and layout in ("nv12", "p010le")
    rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
    return rows[:, : plane.width * (2 if paired else 1)].ravel()


@dataclass
class Machine:
    """What the stand-in is like, and what it did. change: what becomes of the frames of a call, given its number."""

    engines: int = 1
    refuses: str = ""
    change: Callable[[int, list[DecodedFrame]], list[DecodedFrame]] = lambda _, frames: frames
    frames: int = 0
    calls: int = 0
    opened: list[str] = field(default_factory=list)
    b_frames: int = 0
    refuses_to_encode: str = ""
    encodes: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda packets: packets
    sessions: list[dict[str, str]] = field(default_factory=list)
    encoded: int = 0


class PyNvEncoder:
    """An encoder that holds back `LATE` frames."""

    def __init__(self, machine: Machine, size: tuple[int, int], surface: str, codec: str) -> None:
        self._machine = machine
        self._size = size
        self._surface = surface
        self._codec = codec
        self._context = self._opened()
        self._waiting: list[list[dict[str, Any]]] = []
        self._count = 0

    def GetNumBFrames(self) -> int:  # noqa: N802
        return self._machine.b_frames

    def GetSequenceParams(self) -> bytes:  # noqa: N802
        context = self._opened(av.codec.context.Flags.global_header)
        context.open()
        assert context.extradata
        return context.extradata

    def Encode(self, arg0: Any) -> list[dict[str, Any]]:  # noqa: N802
        self._waiting.append([plane.__cuda_array_interface__ for plane in arg0.cuda()])
        return self._machine.encodes(self._encoded(LATE))

    def EndEncode(self) -> list[dict[str, Any]]:  # noqa: N802
        return self._machine.encodes(self._encoded(0))

    def _opened(self, flags: int = 0) -> Any:
        name, options = ENCODERS[self._codec]
        context = cast(av.VideoCodecContext, av.CodecContext.create(name, "w"))
        context.width, context.height = self._size
        context.pix_fmt = SURFACES[self._surface][1]
        context.time_base = Fraction(1, 25)
        context.options = dict(options)
        context.flags |= flags
        return context

    def _encoded(self, late: int) -> list[dict[str, Any]]:
        found = []
        while len(self._waiting) > late:
            for packet in self._context.encode(self._frame(self._waiting.pop(0))):
                kind = 3 if packet.is_keyframe else 0
                found.append({"data": bytes(packet), "timestamp": self._count, "picture_type": kind})
                self._count += 1
                self._machine.encoded += 1
        return found

    def _frame(self, planes: list[dict[str, Any]]) -> av.VideoFrame:
        """Of planes that are exactly as the real one wants them."""
        (width, height), (layout, taken, itemsize) = self._size, SURFACES[self._surface]
        wide = [(height, width, 1)] * 3 if layout == "yuv444p" else [(height, width, 1), (height // 2, width // 2, 2)]
        assert [plane["shape"] for plane in planes] == wide
        assert all((plane["strides"], plane["typestr"], plane["version"]) == (None, f"|u{itemsize}", 3) for plane in planes)
        frame = av.VideoFrame(width, height, layout)
        after = planes[0]["data"][0]
        for plane, target in zip(planes, frame.planes, strict=True):
            assert plane["data"] == (after, False)
            size = math.prod(plane["shape"]) * itemsize
            rows = np.frombuffer(ctypes.string_at(after, size), np.uint8).reshape(plane["shape"][0], -1)
            np.frombuffer(target, np.uint8).reshape(target.height, -1)[:, : rows.shape[1]] = rows
            after += size
        frame = frame if layout == taken else frame.reformat(format=taken)
        frame.pts, frame.time_base = self._count + len(self._waiting), Fraction(1, 25)
        return frame


class PyNvDecoder:
    def __init__(self, machine: Machine, codec: Any) -> None:
        self._machine = machine
        self._context = av.CodecContext.create(DECODERS[codec.name], "r")
        self._lent: list[DecodedFrame] = []

    def Decode(self, arg0: PacketData) -> list[DecodedFrame]:  # noqa: N802
        machine = self._machine
        machine.calls += 1
        for frame in self._lent:
            frame.overwrite()
        packet = None
        if arg0.bsl:
            packet = av.Packet(ctypes.string_at(arg0.bsl_data, arg0.bsl))
            packet.pts = arg0.pts
        self._lent = machine.change(machine.calls, [DecodedFrame(frame) for frame in self._context.decode(packet)])
        machine.frames += len(self._lent)
        return self._lent

    def SyncOnCUStream(self) -> None:  # noqa: N802
        """Nothing: the host's memory is there when a call returns."""


class FakeLibrary:
    """The module."""

    cudaVideoCodec = cudaVideoCodec  # noqa: N815
    cudaVideoChromaFormat = cudaVideoChromaFormat  # noqa: N815
    PacketData = PacketData
    __version__ = "2.2.0"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def GetDecoderCaps(  # noqa: N802
        self, gpuid: int = 0, codec: Any = None, chromaformat: Any = None, bitdepth: int = 8
    ) -> dict[str, int]:
        assert gpuid == 0 and isinstance(codec, cudaVideoCodec) and isinstance(chromaformat, cudaVideoChromaFormat)
        assert bitdepth in (8, 10, 12)
        return {"num_decoder_engines": self._machine.engines}

    def CreateDecoder(  # noqa: N802
        self, gpuid: int = 0, codec: Any = None, cudacontext: int = 0, usedevicememory: bool = True
    ) -> PyNvDecoder:
        assert (gpuid, cudacontext, usedevicememory) == (0, 0, True)
        if self._machine.refuses:
            raise RuntimeError(self._machine.refuses)
        self._machine.opened.append(codec.name)
        return PyNvDecoder(self._machine, codec)

    def CreateEncoder(  # noqa: N802
        self, width: int, height: int, fmt: str, usecpuinputbuffer: bool, **kwargs: Any
    ) -> PyNvEncoder:
        assert (usecpuinputbuffer, kwargs.pop("gpu_id"), kwargs.pop("cudacontext")) == (False, 0, 0)
        if self._machine.refuses_to_encode:
            raise RuntimeError(self._machine.refuses_to_encode)
        self._machine.sessions.append({"fmt": fmt, **kwargs})
        return PyNvEncoder(self._machine, (width, height), fmt, kwargs["codec"])
