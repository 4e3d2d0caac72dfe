"""Codes on a GPU -> pictures of H.264 and HEVC, by NVENC through PyNvVideoCodec."""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.device.device import Device, DeviceArray
from sr_deploy.device.video_planes import PlaneFormat
from sr_deploy.errors import BackendUnavailableError, EngineError, first_line

SURFACES = {"nv12": "NV12", "p010le": "P010", "yuv444p": "YUV444"}
"""What the encoder takes, in its own words, by FFmpeg's names."""

CODECS = {"h264_nvenc": "h264", "hevc_nvenc": "hevc"}
"""The same for codecs, by FFmpeg's names of their encoders."""

_EQUAL = {"rc": "vbr", "cq": r"\d+", "preset": "p[1-7]"}
_FIXED = {"tuning_info": "high_quality", "bf": "0", "gop": "250", "idrperiod": "250"}

_INSTALL = 'pip install "sr-deploy[nvcodec]"'
_IDR = 3
"""NV_ENC_PIC_TYPE_IDR."""


def nvenc_settings(codec: str, options: Iterable[tuple[str, str]], rate: Fraction) -> dict[str, str]:
    """Settings of a session, from those of one of FFmpeg's encoders, one of CODECS; rate: frames per second.

    Raises: BackendUnavailableError for options that have no equal.
    """
    chosen = dict(options)
    unequal = [f"{key}={value}" for key, value in chosen.items() if not re.fullmatch(_EQUAL.get(key, ""), value)]
    if unequal:
        raise BackendUnavailableError(f"PyNvVideoCodec's encoder has no equal of {' '.join(unequal)}")
    settings = {key: value.upper() if key == "preset" else value for key, value in chosen.items()}
    return settings | _FIXED | {"codec": CODECS[codec], "fps": f"{float(rate):.2f}"}


@dataclass(frozen=True)
class EncodedPicture:
    """One frame, encoded: with start codes, the first one with the parameter sets. is_key: whether decoding can begin there."""

    data: bytes
    is_key: bool


class NvencSession:
    """Encodes frames of one format, one of SURFACES, without B-frames: pictures come late, but in the order of their frames.

    settings: as `nvenc_settings` gives them.

    Raises: BackendUnavailableError without PyNvVideoCodec; EngineError, as all methods, when NVENC refuses.
    """

    def __init__(self, device: Device, planes: PlaneFormat, settings: dict[str, str]) -> None:
        self._device, self._format = device, planes
        self._under_way: deque[DeviceArray] = deque()
        self._count, self._time = 0, -1
        (height, width), surface = planes.size, SURFACES[planes.pixel_format]
        create = functools.partial(load_library().CreateEncoder, gpu_id=device.number, cudacontext=device.context, **settings)
        self._encoder = _told(lambda: create(width=width, height=height, fmt=surface, usecpuinputbuffer=False))
        if _told(self._encoder.GetNumBFrames):
            raise EngineError("NVENC would reorder frames; use another --codec")

    @property
    def parameter_sets(self) -> bytes:
        found: bytes = _told(self._encoder.GetSequenceParams)
        return found

    def encode(self, codes: DeviceArray | NDArray[Any]) -> list[EncodedPicture]:
        """The pictures that are ready. codes: flat, of the session's format, in an array that nobody changes any more; those of
        the host's memory are copied to the device first."""
        if isinstance(codes, np.ndarray):
            codes = self._copied(codes)
        self._under_way.append(codes)
        return self._pictures(_told(lambda: self._encoder.Encode(_Surface(codes, self._format))))

    def finish(self) -> list[EncodedPicture]:
        """The pictures of all frames that are left."""
        found = self._pictures(_told(self._encoder.EndEncode))
        if self._under_way:
            raise EngineError(f"NVENC gave no packets for the last {len(self._under_way)} frames; use another --codec")
        return found

    def _pictures(self, packets: list[dict[str, Any]]) -> list[EncodedPicture]:
        """A frame whose packet is there has been read; until then it is kept."""
        pictures = []
        for packet in packets:
            is_key, time = packet["picture_type"] == _IDR, packet["timestamp"]
            if not self._under_way or time <= self._time or not (self._count or is_key):
                raise EngineError(f"NVENC gave a packet out of order after {self._count} frames; use another --codec")
            self._under_way.popleft()
            self._count, self._time = self._count + 1, time
            pictures.append(EncodedPicture(packet["data"], is_key))
        return pictures

    def _copied(self, codes: NDArray[Any]) -> DeviceArray:
        staged, target = (make(codes.shape, codes.dtype) for make in (self._device.host, self._device.empty))
        staged.numpy()[:] = codes
        self._device.copy(target, staged)
        self._device.synchronize()
        return target


class _Surface:
    """A frame as the encoder takes it: planes (H,W,1), or chroma (h,w,2), one after the other in one allocation."""

    def __init__(self, codes: DeviceArray, format: PlaneFormat) -> None:
        paired, size = format.layout.paired, format.dtype.itemsize
        shapes = [(*format.size, 1), (*format.chroma_size, 2)] if paired else [(*format.size, 1)] * 3
        starts = [codes.ptr + size * sum(map(math.prod, shapes[:index])) for index in range(len(shapes))]
        self._planes = [_Plane(start, shape, f"|u{size}") for start, shape in zip(starts, shapes, strict=True)]

    def cuda(self) -> list[_Plane]:
        return self._planes


class _Plane:
    def __init__(self, pointer: int, shape: tuple[int, ...], typestr: str) -> None:
        known = {"shape": shape, "typestr": typestr, "data": (pointer, False), "strides": None, "version": 3}
        self.__cuda_array_interface__ = known


@functools.cache
def load_library() -> Any:
    """PyNvVideoCodec.

    Raises: BackendUnavailableError with the reason, and the line that installs it.
    """
    try:
        return importlib.import_module("PyNvVideoCodec")
    except ModuleNotFoundError as exc:
        raise BackendUnavailableError(f"PyNvVideoCodec is not installed; install it with `{_INSTALL}`") from exc
    except Exception as exc:  # it looks for the driver when it is imported
        raise BackendUnavailableError(f"PyNvVideoCodec cannot be loaded ({first_line(exc)})") from exc


def _told(call: Callable[[], Any]) -> Any:
    """What the library gives; its errors as ours."""
    try:
        return call()
    except Exception as exc:
        raise EngineError(f"NVENC fails ({first_line(exc)}); run it again, or with another --codec") from exc
