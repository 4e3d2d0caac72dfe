"""PyNvVideoCodec without a GPU: the part of its interface that we use, over FFmpeg's decoders and the host's memory.

As with the real one, packets come as addresses, and the memory of a frame is the decoder's again at its next call.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
